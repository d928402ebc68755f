"""Sweeps on a Ray cluster of three nodes on this machine: GPUs are Ray's invention, workers sleep, the store is real."""

import json
import os
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from benchmarks import stand_in
from slim import api, provenance
from slim.cluster import connection
from slim.cluster.executor import RayExecutor
from slim.config import SweepConfig
from slim.jobs import Spool
from slim.outcomes import Event

pytestmark = pytest.mark.slow
SLEEPS = {"quantize": 0.6, "profile": 0.8, "evaluate": 0.6}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A node without GPUs, where the sweep runs, and two with two; the nodes have a place of their own for what they keep."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "SLIM_HOME": str(tmp_path_factory.mktemp("nodes")),
        }.items():
            patched.setenv(name, value)
        import ray
        from ray.cluster_utils import Cluster

        made = patiently(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}))
        made.nodes = [patiently(lambda: made.add_node(num_cpus=4, num_gpus=2, resources={"slim_host": 1})) for _ in range(2)]
        ray.init(address=made.address, log_to_driver=False, configure_logging=False, logging_level="ERROR")
        made.home = Path(os.environ["SLIM_HOME"])
        yield made
        ray.shutdown()
        made.shutdown()


def patiently(start: Callable[[], Any]) -> Any:
    """Start a node; Ray gives up after 30 s, which a busy machine may need."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    pytest.skip("this machine is too busy to start a node of Ray's")


class Sweep:
    """A sweep of sleeping workers in a directory of its own."""

    def __init__(self, directory: Path, models: int, precisions: list[str], sleeps: dict[str, float], **fields: Any) -> None:
        program = str(stand_in.install(directory, sleeps))
        self.log = directory / "work.jsonl"
        self.uri = f"sqlite:///{directory / 'mlflow.db'}"
        executor = {"name": "ray", **fields.pop("executor", {})}
        self.config = SweepConfig.parse(
            {
                "models": [str(stand_in.make_model(directory / "models", f"m{n}")) for n in range(models)],
                "precisions": precisions,
                "evaluate": {"tasks": [{"name": "slim_facts", "limit": 2}]},
                "profile": {"input_tokens": 8, "output_tokens": 4, "cooldown_s": 0.0},
                "engines": {"transformers": {"max_model_len": 256}, "vllm": {"max_model_len": 256}},
                "interpreters": {"measure": program, "quantize": program},
                "executor": executor,
                "repeats": 1,
                **fields,
            }
        )

    def spans(self) -> list[dict[str, Any]]:
        """What ran: begin and end of each stage, in order of the beginning."""
        lines = stand_in.work(self.log)
        ends = {(line["pid"], line["key"]): line["unix_s"] for line in lines if line["what"] == "end"}
        begun = [line for line in lines if line["what"] == "begin"]
        return [{**line, "end_s": ends.get((line["pid"], line["key"]))} for line in begun]


def together(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return bool(a["unix_s"] < b["end_s"] and b["unix_s"] < a["end_s"])


@pytest.fixture(scope="module")
def ran(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, Any, Any]:
    """A sweep with all stages, one profile at a time on a host."""
    directory = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SLIM_HOME", str(directory / "home"))
        # As if the nodes had other disks: everything has to be sent.
        patched.setattr("slim.cluster.task.Mark.is_here", lambda _: False)
        sweep = Sweep(directory, 2, ["bf16@transformers", "bnb-nf4@transformers"], SLEEPS, repeats=2)
        store, outcome = api.run(sweep.config, sweep.uri)
    return sweep, store, outcome


def test_everything_is_done_once_and_is_in_the_store(ran: tuple[Sweep, Any, Any]) -> None:
    sweep, store, outcome = ran
    assert outcome.ok, outcome
    spans = sweep.spans()
    keys = [span["key"] for span in spans]
    assert len(keys) == len(set(keys)) == 2 * (2 + 1) + 2 * (1 + 2 + 1)
    for run in store.configurations(outcome.run_id):
        stages = json.loads(run.tags["slim.stage_runs"])
        assert len(stages["profile"]) == 2
        for stage_run in (r for runs in stages.values() for r in runs):
            stage = store.get(stage_run)
            assert stage.status == "FINISHED"
            assert len(json.loads(stage.tags["slim.placement"])["gpus"]) == 1
    assert store.get(outcome.run_id).params["executor"] == "ray"


def test_no_gpu_is_shared_and_no_two_profiles_share_a_host(ran: tuple[Sweep, Any, Any]) -> None:
    spans = ran[0].spans()
    assert {span["node"] for span in spans if span["stage"] == "profile"} <= {span["node"] for span in spans}
    for a, b in combinations(spans, 2):
        if a["node"] == b["node"] and together(a, b):
            assert not set(a["gpus"]) & set(b["gpus"]), (a, b)
            assert not (a["stage"] == b["stage"] == "profile"), (a, b)


def test_baselines_are_evaluated_first_and_stages_keep_their_order(ran: tuple[Sweep, Any, Any]) -> None:
    spans = ran[0].spans()
    for model in ("m0", "m1"):
        of = {
            (s["configuration"].rpartition("/")[2].partition("@")[0], s["stage"]): s
            for s in spans
            if s["configuration"].startswith(model)
        }
        assert of["bf16", "evaluate"]["end_s"] <= of["bnb-nf4", "evaluate"]["unix_s"]
        assert of["bnb-nf4", "quantize"]["end_s"] <= of["bnb-nf4", "profile"]["unix_s"]


def test_a_node_that_dies_has_its_work_done_elsewhere(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    sweep = Sweep(
        tmp_path,
        4,
        ["bf16@transformers"],
        {**SLEEPS, "profile": 4.0},
        evaluate=None,
        executor={"overlap": True, "timeout_s": 60.0},
    )
    notes: list[str] = []
    killed: list[str] = []

    def watch(event: Event) -> None:
        if event.kind == "note":
            notes.append(event.message)
        running = [s for s in sweep.spans() if s["end_s"] is None]
        nodes = {s["node"] for s in running}
        if not killed and len(nodes) == 2:
            # Both nodes measure; one of them goes.
            node = cluster.nodes[0]
            pid = str(node.all_processes["raylet"][0].process.pid)
            killed.append(pid)
            cluster.remove_node(node, allow_graceful=False)

    store, outcome = api.run(sweep.config, sweep.uri, watch)
    assert killed
    assert outcome.ok, outcome
    spans = sweep.spans()
    lost = {s["key"] for s in spans if s["node"] == killed[0] and s["end_s"] is None}
    assert lost
    for key in lost:
        again = [s for s in spans if s["key"] == key]
        assert [s["end_s"] is None for s in again] == [True, False]
        assert again[-1]["node"] != killed[0]
    assert sum("begun again elsewhere" in note for note in notes) >= len(lost)
    # The workers of the node went with it.
    assert not any(Path(f"/proc/{s['pid']}").exists() for s in spans)
    assert all(r.status == "FINISHED" for r in store.configurations(outcome.run_id))
    # Several at once.
    assert any(together(a, b) for a, b in combinations([s for s in spans if s["end_s"]], 2))


def test_what_no_node_can_do_any_more_fails_with_a_reason(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    sweep = Sweep(
        tmp_path, 1, ["bf16@transformers"], SLEEPS, evaluate=None, executor={"timeout_s": 1.0, "overlap": True, "gpus": 2}
    )
    # Planned while there was such a node.
    plan = api.plan(sweep.config, sweep.uri)
    monkeypatch.setattr("slim.plan.make", lambda *_: plan)
    monkeypatch.setattr("slim.cluster.executor.RayExecutor._asked", lambda *_: {"CPU": 0, "GPU": 64})
    _, outcome = api.run(sweep.config, sweep.uri)
    (failed,) = outcome.configurations
    assert failed.failure is not None
    assert (failed.failure.reason, failed.failure.message) == ("killed", "no node is left that has 64 GPU")


def test_a_sweep_leaves_nothing_on_the_nodes(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    config = Sweep(tmp_path, 1, ["bf16@transformers"], SLEEPS).config
    spool = Spool(tmp_path / "home" / "spool")
    executor = RayExecutor(config, spool, connection.rooms(), provenance.cpu_hardware(), print)
    kept = cluster.home / "cluster" / "another sweep" / "jobs"
    for directory in (cluster.home / "cluster" / executor._sweep / "jobs", kept):
        directory.mkdir(parents=True)
        (directory / "worker.log").write_text("words")
    executor.close()
    assert [path.name for path in (cluster.home / "cluster").iterdir()] == ["another sweep"]
    assert list(spool.root.iterdir()) == []


def test_the_clusters_own_address_is_looked_at_from_outside(cluster: Any, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, 1, ["bf16@transformers"], SLEEPS, executor={"address": cluster.address, "gpus": 64})
    with pytest.raises(Exception, match=r"executor\.gpus: a configuration asks for 64 GPUs, and no node has more than 2"):
        connection_look_outside(sweep.config)


def connection_look_outside(config: SweepConfig) -> None:
    """As by a process that is not connected."""
    from slim.cluster import nodes

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(connection, "is_connected", lambda: False)
        nodes.environments(config)
