"""Sweeps end to end: real engines on a tiny model, a real store."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient

from analysis import frame, items, summary
from slim import api
from slim.config import SweepConfig
from slim.errors import NotStoredError, Reason, StageError
from slim.evaluate import REFERENCE_FILE
from slim.jobs import Spooled
from slim.outcomes import Event
from slim.planned import PlannedConfiguration
from slim.provenance import ROOT
from slim.runner import Runner
from slim.store import TAG, Store, StoredRun
from tests.made import SMALL
from tests.servers import free_port, serve, stop

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def config(model: Path, precisions: list[str], **fields: Any) -> SweepConfig:
    return SweepConfig.parse({"models": [str(model)], "precisions": precisions, **SMALL, **fields})


def address(home: Path) -> str:
    return f"sqlite:///{home / 'mlflow.db'}"


class Stages:
    """Remembers which stages ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def __call__(self, event: Event) -> None:
        if event.kind == "stage" and (not self.ran or self.ran[-1] != f"{event.configuration} {event.stage}"):
            self.ran.append(f"{event.configuration} {event.stage}")


def test_a_sweep_fills_the_store_and_is_reused(home: Path, tiny_model: Path) -> None:
    sweep = config(tiny_model, ["bf16@transformers", "bnb-nf4@transformers", "bf16@vllm", "gptq-int8@vllm"])
    store, outcome = api.run(sweep, address(home))
    assert [c.failure for c in outcome.configurations] == [None] * 4
    assert outcome.engine_starts == 4
    by_name = {r.tags[TAG.CONFIG].partition("/")[2]: r for r in store.configurations(outcome.run_id)}
    assert set(by_name) == {"bf16@transformers", "bnb-nf4@transformers", "bf16@vllm", "gptq-int8@vllm"}
    for name, run in by_name.items():
        assert run.status == "FINISHED"
        assert {"model", "revision", "precision", "method", "engine", "hardware", "profile.requests", "evaluate.tasks"} <= set(
            run.params
        )
        for key in (
            "accuracy/slim_facts",
            "accuracy/mean",
            "fidelity/perplexity",
            "latency/ttft_p95_ms",
            "latency/tpot_mean_ms",
            "latency/itl_p99_ms",
            "latency/e2e_mean_ms",
            "latency/amortized_b8_ms",
            "throughput/output_tokens_per_s",
            "memory/weights_mib",
            "memory/peak_mib",
            "size/checkpoint_gb",
            "size/bits_per_weight",
            "validity/ok",
        ):
            assert key in run.metrics, (name, key)
        assert "energy/net_j_per_query" not in run.metrics or store.get(outcome.run_id).params["hardware"].startswith("1x")
        stages = json.loads(run.tags[TAG.STAGE_RUNS])
        wanted = {"profile", "evaluate"} | ({"quantize"} if "bf16" not in name else set())
        assert set(stages) == wanted
        for kind, (stage_run,) in stages.items():
            stage = store.get(stage_run)
            assert (stage.kind, stage.tags[TAG.PARENT], stage.status) == (kind, run.run_id, "FINISHED")
            files = {f.path for f in MlflowClient(store.tracking_uri).list_artifacts(stage_run)}
            if kind == "evaluate":
                assert (REFERENCE_FILE in files) == ("bf16" in name)
                assert ("fidelity_tokens.parquet" in files) == ("bf16" not in name)
            assert "worker.log" in files
            assert any(f.endswith(".parquet") for f in files) == (kind != "quantize")
            assert bool(stage.model_ids) == (kind == "quantize")
        baseline = run.tags.get(TAG.BASELINE)
        assert (baseline is None) == (run.params["precision"] == "bf16")
        if baseline:
            assert store.get(baseline).tags[TAG.CONFIG].endswith(f"bf16@{run.params['engine']}")
            assert run.metrics["impact/size_reduction_pct"] > 0
            check_comparison(store, run)
        assert ("fidelity/kl_divergence_nats" in run.metrics) == (baseline is not None)
        assert (run.params["evaluate.fidelity_exact"], run.params["evaluate.fidelity_scored_tokens"]) == ("true", "99")
    for name in ("bnb-nf4@transformers", "gptq-int8@vllm"):
        check_fidelity(by_name[name])
    assert by_name["gptq-int8@vllm"].metrics["size/bits_per_weight"] < by_name["bf16@vllm"].metrics["size/bits_per_weight"]

    check_summary(store, outcome.run_id)

    stages_seen = Stages()
    plan = api.plan(sweep, address(home))
    assert all(c.run is not None for c in plan.configurations)
    assert plan.estimate_s == 0
    _, again = api.run(sweep, address(home), stages_seen)
    assert stages_seen.ran == []
    assert {c.status for c in again.configurations} == {"reused"}
    assert {c.run_id for c in again.configurations} == {r.run_id for r in by_name.values()}
    assert again.ok
    # Alone, it is compared with the same baseline, so it is the same evaluation.
    _, alone = api.stage("evaluate", config(tiny_model, ["bnb-nf4@transformers"]), address(home))
    assert alone.reused


def test_a_baseline_that_failed_is_made_up_for(home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = config(tiny_model, ["bf16@transformers", "fp16@transformers"], profile=None)
    baseline = f"{tiny_model.name}/bf16@transformers"
    measure = Runner.measure

    def fail(self: Runner, planned: PlannedConfiguration, *rest: Any) -> list[Spooled]:
        if planned.precision.name == "bf16":
            raise StageError(Reason.OUT_OF_MEMORY, "no room")
        return measure(self, planned, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "measure", fail)
        store, outcome = api.run(sweep, address(home))
    assert [c.status for c in outcome.configurations] == ["failed", "finished"]
    (first,) = store.search(f"tags.`{TAG.KIND}` = 'evaluate'")
    assert first.tags["slim.evaluate_notes"] == f"KL divergence left out: its baseline {baseline} failed: out_of_memory"
    assert "accuracy/slim_facts" in first.metrics
    assert "fidelity/kl_divergence_nats" not in first.metrics

    # The baseline's turn, and then once more that of the one that had nothing to be compared with.
    stages = Stages()
    _, outcome = api.run(sweep, address(home), stages)
    assert [c.status for c in outcome.configurations] == ["finished", "finished"]
    assert [s.rpartition("/")[2] for s in stages.ran] == ["bf16@transformers evaluate", "fp16@transformers evaluate"]
    (run,) = [r for r in store.configurations(outcome.run_id) if r.run_id == outcome.configurations[1].run_id]
    assert run.metrics["fidelity/kl_divergence_nats"] > 0
    _, outcome = api.run(sweep, address(home))
    assert {c.status for c in outcome.configurations} == {"reused"}


def check_summary(store: Store, sweep_run: str) -> None:
    """The table at the end shows all four configurations, and what the quantized ones lost."""
    shown = summary.summarize(frame.load(store, sweep_run))
    assert len(shown.rows) == 4
    assert "flips" in shown.headers
    assert shown.verdicts is not None
    assert shown.verdicts.headers == ("configuration", "slim_facts")
    assert {row[0] for row in shown.verdicts.rows} == {"bnb-nf4@transformers", "gptq-int8@vllm"}
    assert shown.refused == {}
    assert all(shown.fronts.values())


def check_fidelity(run: StoredRun) -> None:
    """A configuration with other weights than its baseline diverges from it."""
    divergence = run.metrics["fidelity/kl_divergence_nats"]
    assert divergence > 1e-4
    assert run.metrics["fidelity/kl_divergence_nats_ci_low"] <= divergence
    assert 0 < run.metrics["fidelity/top1_agreement"] <= 1
    assert run.params["evaluate.fidelity_reference"] == "true"


def check_comparison(store: Store, run: StoredRun) -> None:
    """Flips, differences and verdict of a configuration are those of the answers on the stage runs."""

    def correct(configuration: StoredRun) -> list[float]:
        (evaluate,) = json.loads(configuration.tags[TAG.STAGE_RUNS])["evaluate"]
        path = store.artifact(store.get(evaluate), "samples.parquet", Path("unused"))
        return [float(value) for value in pq.read_table(path).column("correct").to_pylist()]

    baseline = store.get(run.tags[TAG.BASELINE])
    before, after = correct(baseline), correct(run)
    assert run.metrics["fidelity/paired_items"] == len(before) == 6
    lost = sum(b > a for b, a in zip(before, after, strict=True))
    gained = sum(b < a for b, a in zip(before, after, strict=True))
    assert run.metrics["fidelity/slim_facts_lost_items"] == lost
    assert run.metrics["fidelity/slim_facts_gained_items"] == gained
    assert run.metrics["fidelity/flip_rate"] == pytest.approx((lost + gained) / 6)
    difference = run.metrics["accuracy/slim_facts"] - baseline.metrics["accuracy/slim_facts"]
    assert run.metrics["impact/slim_facts_difference"] == pytest.approx(difference)
    assert run.metrics["impact/mean_difference"] == pytest.approx(difference)
    assert run.tags[f"{TAG.VERDICT}slim_facts"] in ("non-inferior", "inferior", "undecided")
    assert json.loads(run.tags[TAG.COMPARISON])["baseline"] == baseline.run_id
    assert TAG.COMPARISON_REFUSED not in run.tags
    assert len(items.lost_items(store, run.run_id)) == lost
    assert len(items.gained_items(store, run.run_id)) == gained


def test_a_reused_configuration_is_compared_with_a_later_baseline(home: Path, tiny_model: Path) -> None:
    # Without a text: nothing that an evaluation itself compares with its baseline's.
    fields: dict[str, Any] = {"evaluate": {**SMALL["evaluate"], "perplexity_text": None}}
    store, first = api.run(config(tiny_model, ["bnb-nf4@transformers"], **fields), address(home))
    (alone,) = first.configurations
    assert alone.run_id is not None
    assert TAG.BASELINE not in store.get(alone.run_id).tags

    both = config(tiny_model, ["bf16@transformers", "bnb-nf4@transformers"], **fields)
    _, second = api.run(both, address(home))
    assert [c.status for c in second.configurations] == ["finished", "reused"]
    run = store.get(alone.run_id)
    assert run.tags[TAG.BASELINE] == second.configurations[0].run_id
    assert run.metrics["impact/size_reduction_pct"] > 0
    assert run.metrics["impact/speedup"] > 0
    check_comparison(store, run)

    _, third = api.run(both, address(home))
    assert store.get(alone.run_id) == run
    history = MlflowClient(store.tracking_uri).get_metric_history(alone.run_id, "fidelity/flip_rate")
    assert len(history) == 1

    # Another margin runs nothing again.
    stages = Stages()
    fields["comparison"] = {"margin": 0.99, "confidence": 0.51}
    wide = config(tiny_model, ["bf16@transformers", "bnb-nf4@transformers"], **fields)
    _, fourth = api.run(wide, address(home), stages)
    assert stages.ran == []
    assert {c.status for c in (*third.configurations, *fourth.configurations)} == {"reused"}
    assert store.get(alone.run_id).tags[f"{TAG.VERDICT}slim_facts"] == "non-inferior"


def test_repeats_are_interleaved_and_combined(home: Path, tiny_model: Path) -> None:
    stages = Stages()
    sweep = config(tiny_model, ["bf16@transformers", "fp16@transformers"], repeats=2, evaluate=None)
    store, outcome = api.run(sweep, address(home), stages)
    assert outcome.ok
    assert [s.partition("/")[2] for s in stages.ran] == [
        "bf16@transformers profile",
        "fp16@transformers profile",
        "bf16@transformers profile",
        "fp16@transformers profile",
    ]
    run = store.configurations(outcome.run_id)[0]
    runs = [store.get(r) for r in json.loads(run.tags[TAG.STAGE_RUNS])["profile"]]
    assert sorted(r.tags[TAG.REPEAT] for r in runs) == ["0", "1"]
    mean = sum(r.metrics["latency/e2e_mean_ms"] for r in runs) / 2
    assert run.metrics["latency/e2e_mean_ms"] == pytest.approx(mean)
    assert run.metrics["latency/e2e_mean_ms_ci_low"] < mean < run.metrics["latency/e2e_mean_ms_ci_high"]


def test_a_configuration_that_fails_is_typed_and_the_others_finish(home: Path, tiny_model: Path) -> None:
    sweep = config(tiny_model, ["gptq-int8@vllm", "bf16@transformers"], evaluate=None, timeouts={"quantize_s": 0.5})
    store, outcome = api.run(sweep, address(home))
    assert not outcome.ok
    status = {c.name.partition("/")[2]: c for c in outcome.configurations}
    assert status["bf16@transformers"].status == "finished"
    failed = status["gptq-int8@vllm"]
    assert failed.failure is not None
    assert failed.failure.reason == "timeout"
    assert failed.run_id is not None
    run = store.get(failed.run_id)
    assert (run.status, run.tags[TAG.FAILURE]) == ("FAILED", "timeout")
    assert store.get(outcome.run_id).status == "FAILED"
    # Tried again, not taken for finished.
    plan = api.plan(sweep, address(home))
    assert [c.run is not None for c in plan.configurations] == [c.precision.name == "bf16" for c in plan.configurations]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], limit_s: float = 180) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < end
        time.sleep(0.05)


def command(home: Path, tiny_model: Path) -> list[str]:
    path = home / "sweep.json"
    path.write_text(
        json.dumps({"models": [str(tiny_model)], "precisions": ["bf16@transformers", "bnb-int8@transformers"], **SMALL})
    )
    return [sys.executable, "-m", "entrypoints.sweep", "--config", str(path), "--tracking-uri", address(home)]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_that_was_cut_off_goes_on(home: Path, tiny_model: Path, sent: signal.Signals) -> None:
    arguments = command(home, tiny_model)
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    spool = home / "home" / "spool"

    def evaluating() -> bool:
        return any('"stage": "evaluate"' in p.read_text() for p in spool.glob("jobs/*/progress.jsonl"))

    wait_for(evaluating, process)
    workers = [
        int(line)
        for line in subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    ]
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if sent is signal.SIGKILL else 130)
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)

    store = Store.open(address(home), "slim")
    assert store is not None
    (first,) = store.search(f"tags.`{TAG.KIND}` = 'sweep'")
    (begun,) = [r for r in store.configurations() if r.tags[TAG.CONFIG].endswith("bf16@transformers")]
    stages = Stages()
    _, outcome = api.run(SweepConfig.load(home / "sweep.json"), address(home), stages)
    assert outcome.ok
    assert not any(s.endswith("bf16@transformers profile") for s in stages.ran)
    assert sum(s.endswith("bf16@transformers evaluate") for s in stages.ran) == 1
    # The same run, now under the new sweep; the old sweep says that it was cut off.
    assert {r.run_id for r in store.configurations(outcome.run_id)} >= {begun.run_id}
    assert store.get(begun.run_id).status == "FINISHED"
    assert (store.get(first.run_id).status, store.get(first.run_id).tags[TAG.FAILURE]) == ("KILLED", "interrupted")
    assert len(store.search(f"tags.`{TAG.KIND}` = 'profile'")) == 2
    assert store.abandoned() == []


def test_an_evaluation_goes_on_at_the_task_it_was_in_and_a_rerun_begins_anew(home: Path, tiny_model: Path) -> None:
    arguments = command(home, tiny_model)
    tasks = [{"name": "slim_facts", "limit": 4}, {"name": "slim_completion", "limit": 60}]
    sweep = {**json.loads((home / "sweep.json").read_text()), "precisions": ["bf16@transformers"], "profile": None}
    sweep["evaluate"] = {**sweep["evaluate"], "tasks": tasks}
    (home / "sweep.json").write_text(json.dumps(sweep))
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    spool = home / "home" / "spool"
    wait_for(lambda: any(spool.glob("pieces/*/task0-slim_facts")), process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)

    parsed = SweepConfig.load(home / "sweep.json")
    store, outcome = api.run(parsed, address(home))
    assert outcome.ok
    assert list(spool.glob("pieces/*")) == []
    (run,) = store.configurations(outcome.run_id)
    stage = store.get(json.loads(run.tags[TAG.STAGE_RUNS])["evaluate"][0])
    assert int(stage.params["evaluate.resumed_parts"]) >= 1
    assert stage.metrics["timing/work_s"] > stage.metrics["timing/resumed_s"] > 0
    assert outcome.work_s < stage.metrics["timing/work_s"]

    stale = spool / "pieces" / stage.tags[TAG.KEY] / "task0-slim_facts"
    stale.mkdir(parents=True)
    (stale / "part.json").write_text("nothing that could be read")
    _, again = api.stage("evaluate", parsed, address(home), rerun=True)
    assert again.failure is None
    assert "evaluate.resumed_parts" not in again.run.params
    for key, value in stage.metrics.items():
        if not key.startswith("timing/"):
            assert again.run.metrics[key] == value


def test_results_wait_while_the_server_is_away(home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    server = serve(home, port)
    stages = Stages()

    def watch(event: Event) -> None:
        stages(event)
        if event.kind == "stage" and event.stage == "profile" and server.poll() is None:
            stop(server)

    sweep = config(tiny_model, ["bnb-int8@transformers"])
    _, outcome = api.run(sweep, uri, watch)
    assert [c.failure for c in outcome.configurations] == [None]
    assert not outcome.ok
    assert outcome.unlogged == 2
    assert len(stages.ran) == 3

    server = serve(home, port)
    try:
        seen = Stages()
        store, again = api.run(sweep, uri, seen)
        assert seen.ran == []
        assert again.ok
        (run,) = store.configurations(again.run_id)
        assert run.status == "FINISHED"
        assert "accuracy/slim_facts" in run.metrics
        # A remote artifact store: files are fetched, once.
        (evaluate,) = json.loads(run.tags[TAG.STAGE_RUNS])["evaluate"]
        fetched = store.artifact(store.get(evaluate), "samples.parquet", home / "fetched")
        assert fetched.is_relative_to(home / "fetched")
        assert pq.read_table(fetched).num_rows == 6
        written = fetched.stat().st_mtime_ns
        assert store.artifact(store.get(evaluate), "samples.parquet", home / "fetched").stat().st_mtime_ns == written
        assert [p for p in (home / "fetched").rglob("*") if p.is_file()] == [fetched]
        with pytest.raises(NotStoredError, match=r"no artifact 'other\.parquet'"):
            store.artifact(store.get(evaluate), "other.parquet", home / "fetched")
        # And the checkpoint, when a new stage needs it.
        tasks = {"tasks": [{"name": "slim_facts", "limit": 3}], "fidelity_tokens": 100}
        more = config(tiny_model, ["bf16@transformers", "bnb-int8@transformers"], profile=None, evaluate=tasks)
        _, third = api.run(more, uri, seen)
        assert third.ok
        assert [s.rpartition(" ")[2] for s in seen.ran] == ["evaluate", "evaluate"]
        # And so is what the baseline kept.
        compared = next(r for r in store.configurations(third.run_id) if r.params["precision"] == "bnb-int8")
        assert compared.metrics["fidelity/kl_divergence_nats"] > 0
        assert len(list((home / "home" / "references").glob(f"*/{REFERENCE_FILE}"))) == 1
    finally:
        stop(server)
