"""The store's contract, on a real SQLite store."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from slim import checkpoint as checkpoints
from slim.errors import NotStoredError, Reason, StoreConfigError, StoreError
from slim.jobs import Spool, Spooled
from slim.records import Dataset, Failure, Stage, StageResult
from slim.store import TAG, Store, bulk, experiment_of, explain_run

PARAMS = {
    "model": "embedded",
    "revision": "sha256:1",
    "precision": "gptq-int4",
    "method": "gptq",
    "engine": "vllm",
    "hardware": "CPU",
}
NAME = "tiny/gptq-int4@vllm"


def made_checkpoint(directory: Path, model: Path) -> Path:
    """A complete checkpoint of its own: the model's files and a manifest of key ``q1``."""
    checkpoint = shutil.copytree(model, directory / "made")
    checkpoints.write_manifest(checkpoint, key="q1", parameters=1000)
    return checkpoint


def spooled(spool: Spool, stage: Stage, key: str, failure: Failure | None = None, checkpoint: Path | None = None) -> Spooled:
    result = StageResult(
        stage,
        key,
        metrics={} if failure else {"size/checkpoint_gb": 0.1, "timing/work_s": 2.0},
        params={"quantize.group_size": 64},
        datasets=(Dataset("calibration", "builtin:python-docs", "0123", 16, "calibration"),),
        failure=failure,
        started_unix_s=1000.0,
        ended_unix_s=1010.0,
        has_checkpoint=checkpoint is not None,
    )
    with spool.writing(key) as draft:
        (draft.artifacts / "worker.log").write_text("said")
        pq.write_table(pa.table({"x": [1, 2]}), draft.artifacts / "requests.parquet")
        if checkpoint is not None:
            shutil.copytree(checkpoint, draft.checkpoint)
        draft.finish(result)
    found = spool.find(key)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("file:///tmp/mlruns", "not supported"),
        ("./mlruns", "not supported"),
        ("ftp://host", "not supported"),
        ("sqlite:///", "names no file"),
        ("sqlite:////no/such/directory/mlflow.db", "/no/such/directory"),
        ("sqlite:////proc/mlflow.db", "cannot be"),
        ("http://127.0.0.1:9", "cannot be opened"),
    ],
)
def test_a_wrong_store_is_one_line(address: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreConfigError) as caught:
        Store.open(address, "slim")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, just text that is long enough to be read as one" * 20)
    with pytest.raises(StoreConfigError, match="cannot be opened"):
        Store.open(f"sqlite:///{tmp_path / 'mlflow.db'}", "slim")


def test_reading_makes_nothing(tmp_path: Path) -> None:
    assert Store.open(f"sqlite:///{tmp_path / 'mlflow.db'}", "slim", create=False) is None
    assert list(tmp_path.iterdir()) == []


def test_a_stage_run_holds_all_of_a_result(store: Store, tmp_path: Path, tiny_model: Path) -> None:
    checkpoint = made_checkpoint(tmp_path, tiny_model)
    parent = store.begin("configuration", NAME, params=PARAMS, tags={TAG.KEY: "c1"})
    waiting = spooled(Spool(tmp_path / "spool"), "quantize", "q1", checkpoint=checkpoint)
    run = store.log_stage(waiting, name=NAME, parent=parent, params=PARAMS, tags={})

    assert (run.kind, run.status) == ("quantize", "FINISHED")
    assert run.params == {**PARAMS, "quantize.group_size": "64"}
    assert run.metrics == {"size/checkpoint_gb": 0.1, "timing/work_s": 2.0}
    assert run.tags[TAG.PARENT] == parent
    assert run.tags[TAG.KEY] == "q1"
    assert run.tags[TAG.CONFIG] == NAME
    assert (run.start_unix_s, run.duration_s) == (1000.0, 10.0)
    raw = MlflowClient(store.tracking_uri).get_run(run.run_id)
    assert [d.dataset.name for d in raw.inputs.dataset_inputs] == ["calibration"]
    assert {f.path for f in MlflowClient(store.tracking_uri).list_artifacts(run.run_id)} == {"worker.log", "requests.parquet"}

    assert store.find_finished("quantize", "q1") == run
    assert store.find_finished("profile", "q1") is None
    served = store.checkpoint_path(run, tmp_path / "cache")
    assert checkpoints.load(served, verify=True).parameters == 1000
    model = MlflowClient(store.tracking_uri).get_logged_model(run.model_ids[0])
    assert model.source_run_id == run.run_id
    assert {m.key: m.value for m in model.metrics} == run.metrics
    # Linked, not copied: the same bytes on the disk.
    name = next(f.name for f in served.iterdir() if f.suffix == ".safetensors")
    assert (served / name).stat().st_ino == ((waiting.checkpoint or Path()) / name).stat().st_ino


def test_a_checkpoint_that_is_gone_is_not_reused(store: Store, tmp_path: Path, tiny_model: Path) -> None:
    checkpoint = made_checkpoint(tmp_path, tiny_model)
    run = store.log_stage(
        spooled(Spool(tmp_path / "spool"), "quantize", "q1", checkpoint=checkpoint),
        name=NAME,
        parent=None,
        params=PARAMS,
        tags={},
    )
    shutil.rmtree(store.checkpoint_path(run, tmp_path))
    assert store.find_finished("quantize", "q1") is None
    store.client.delete_logged_model(run.model_ids[0])
    assert store.find_finished("quantize", "q1") is None


@pytest.mark.parametrize("error", [MlflowException("Max retries exceeded"), LookupError("Unable to locate credentials")])
def test_a_checkpoint_that_cannot_be_looked_up_is_not_taken_for_gone(
    store: Store, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    waiting = spooled(Spool(tmp_path / "spool"), "quantize", "q1", checkpoint=made_checkpoint(tmp_path, tiny_model))
    store.log_stage(waiting, name=NAME, parent=None, params=PARAMS, tags={})

    def away(_: str) -> None:
        raise error

    monkeypatch.setattr(store.client, "get_logged_model", away)
    with pytest.raises(StoreError, match=f"looking up checkpoint .* failed: {error}"):
        store.find_finished("quantize", "q1")


def test_a_failure_is_a_typed_result(store: Store, tmp_path: Path) -> None:
    failed = spooled(Spool(tmp_path / "spool"), "profile", "p1", Failure(Reason.OUT_OF_MEMORY, "no room", "tail"))
    run = store.log_stage(failed, name=NAME, parent=None, params=PARAMS, tags={})
    assert run.status == "FAILED"
    assert run.tags[TAG.FAILURE] == "out_of_memory"
    assert run.tags[TAG.FAILURE_MESSAGE] == "no room"
    assert run.metrics == {}
    assert store.find_finished("profile", "p1") is None


def test_what_could_not_be_written_whole_is_removed(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = spooled(Spool(tmp_path / "spool"), "profile", "p1")

    def broken(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(store.client, "log_artifacts", broken)
    with pytest.raises(StoreError, match="disk full"):
        store.log_stage(waiting, name=NAME, parent=None, params=PARAMS, tags={})
    assert store.search("") == []


def test_a_run_that_mlflow_made_becomes_the_sweep(store: Store) -> None:
    client = MlflowClient(store.tracking_uri)
    made = client.create_run(store.experiment_id, tags={"mlflow.source.name": "the project"})
    client.log_param(made.info.run_id, "models", "given")
    run_id = store.begin("sweep", "demo", params={"models": "embedded", "repeats": 1}, join=made.info.run_id)
    assert run_id == made.info.run_id
    run = store.get(run_id)
    assert run.params == {"models": "given", "repeats": "1"}
    assert run.tags["mlflow.source.name"] == "the project"
    assert run.tags[TAG.KIND] == "sweep"
    assert experiment_of(store.tracking_uri, run_id, "other") == "slim"


def test_a_run_in_the_default_experiment_only_points_to_the_sweep(store: Store) -> None:
    client = MlflowClient(store.tracking_uri)
    made = client.create_run("0")
    assert experiment_of(store.tracking_uri, made.info.run_id, "slim") == "slim"
    run_id = store.begin("sweep", "demo", join=made.info.run_id)
    assert run_id != made.info.run_id
    assert client.get_run(made.info.run_id).data.tags[TAG.MOVED] == run_id
    assert store.get(run_id).kind == "sweep"


def test_a_run_that_holds_nothing_says_why(store: Store) -> None:
    run_id = store.begin("sweep", "demo")
    explain_run(store.tracking_uri, run_id, "Finished before.", "other")
    tags = store.get(run_id).tags
    assert (tags[TAG.NOTE], tags[TAG.MOVED]) == ("Finished before.", "other")


def test_a_run_of_a_process_that_is_gone_is_abandoned(store: Store) -> None:
    alive, killed = store.begin("sweep", "alive"), store.begin("sweep", "killed")
    ended = subprocess.Popen(["true"])
    ended.wait()
    store.log(killed, tags={TAG.PID: f"{ended.pid}:1"})
    assert [r.run_id for r in store.abandoned()] == [killed]
    # The number of a process is given again.
    store.log(killed, tags={TAG.PID: f"{os.getppid()}:{int(psutil.Process(os.getppid()).create_time()) - 5}"})
    assert [r.run_id for r in store.abandoned()] == [killed]
    store.log(alive, tags={TAG.HOST: "elsewhere", TAG.HEARTBEAT: str(int(time.time()) - 3600)})
    assert {r.run_id for r in store.abandoned()} == {killed, alive}
    store.heartbeat([alive])
    assert [r.run_id for r in store.abandoned()] == [killed]


def test_a_start_that_is_read_a_moment_off_is_the_same_process(store: Store) -> None:
    run_id = store.begin("sweep", "alive")
    store.log(run_id, tags={TAG.PID: f"{os.getppid()}:{int(psutil.Process(os.getppid()).create_time()) - 1}"})
    assert store.abandoned() == []


@pytest.mark.parametrize("namespace", ["a-boot/pid:[1]", None], ids=["another container's", "of an earlier version"])
def test_the_pid_of_another_namespace_on_a_host_of_the_same_name_says_nothing(store: Store, namespace: str | None) -> None:
    fresh, stale = store.begin("sweep", "fresh"), store.begin("sweep", "stale")
    for run_id in (fresh, stale):
        # Of no process here, and of one that lives here.
        store.log(run_id, tags={TAG.PID: "4194304:1" if run_id == fresh else store.get(run_id).tags[TAG.PID]})
        if namespace is None:
            store.untag(run_id, [TAG.PID_NAMESPACE])
        else:
            store.log(run_id, tags={TAG.PID_NAMESPACE: namespace})
    store.log(stale, tags={TAG.HEARTBEAT: str(int(time.time()) - 3600)})
    assert [r.run_id for r in store.abandoned()] == [stale]
    assert store.own_leftovers(()) == []


def test_a_process_that_may_not_be_looked_at_is_told_by_its_heartbeat(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, stale = store.begin("sweep", "fresh"), store.begin("sweep", "stale")
    store.log(stale, tags={TAG.HEARTBEAT: str(int(time.time()) - 3600)})

    def hidden(_: int) -> psutil.Process:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "Process", hidden)
    assert [r.run_id for r in store.abandoned()] == [stale]
    assert {r.run_id for r in store.own_leftovers(())} == {fresh, stale}


def is_beaten(store: Store, run_id: str) -> bool:
    """Whether a run gets a heartbeat within some seconds."""
    store.log(run_id, tags={TAG.HEARTBEAT: "0"})
    until_s = time.monotonic() + 10.0
    while store.get(run_id).tags[TAG.HEARTBEAT] == "0" and time.monotonic() < until_s:
        time.sleep(0.02)
    return store.get(run_id).tags[TAG.HEARTBEAT] != "0"


def test_a_run_shows_signs_of_life_while_its_files_are_sent(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slim.store.liveness.BEAT_S", 0.02)
    beaten = []

    def sending(run_id: str, *_: object) -> None:
        beaten.append(is_beaten(store, run_id))

    monkeypatch.setattr(store, "log_artifacts", sending)
    run = store.log_stage(spooled(Spool(tmp_path / "spool"), "profile", "p1"), name=NAME, parent=None, params=PARAMS, tags={})
    assert beaten == [True]
    ended = store.get(run.run_id).tags[TAG.HEARTBEAT]
    time.sleep(1.2)
    assert store.get(run.run_id).tags[TAG.HEARTBEAT] == ended


def test_a_run_that_is_gone_keeps_no_other_from_its_heartbeat(store: Store) -> None:
    gone, there = store.begin("sweep", "gone"), store.begin("sweep", "there")
    store.client.delete_run(gone)
    store.log(there, tags={TAG.HEARTBEAT: "0"})
    store.heartbeat([gone, there])
    assert store.get(there).tags[TAG.HEARTBEAT] != "0"


def test_what_ends_well_has_no_failure_that_another_machine_wrote(store: Store) -> None:
    run_id = store.begin("configuration", NAME)
    run = store.get(run_id)
    store.give_up(run, "whoever worked on it is gone")
    assert store.get(run_id).tags[TAG.FAILURE] == "interrupted"
    store.finish(run_id)
    run = store.get(run_id)
    assert run.status == "FINISHED"
    assert not {TAG.FAILURE, TAG.FAILURE_MESSAGE} & set(run.tags)


def test_an_interrupted_configuration_is_gone_on_with(store: Store) -> None:
    first, second = store.begin("sweep", "first"), store.begin("sweep", "second")
    run_id = store.begin("configuration", NAME, parent=first, tags={TAG.KEY: "c1"})
    assert store.find_interrupted("configuration", "c1") is None
    store.finish(run_id, failure="interrupted", message="SIGTERM")
    assert store.get(run_id).status == "KILLED"
    found = store.find_interrupted("configuration", "c1")
    assert found is not None
    store.adopt(found, second)
    adopted = store.get(run_id)
    assert (adopted.status, adopted.tags[TAG.PARENT]) == ("RUNNING", second)
    assert TAG.FAILURE not in adopted.tags
    store.finish(run_id)
    assert store.find_interrupted("configuration", "c1") is None


def test_unknown_values_are_absent(store: Store) -> None:
    run_id = store.begin("configuration", NAME, params={**PARAMS, "revision": None})
    with pytest.raises(ValueError, match="not in slim/metrics"):
        store.log(run_id, metrics={"made_up": 1.0})
    with pytest.raises(ValueError, match="leave an unknown value out"):
        store.log(run_id, metrics={"memory/peak_mib": float("nan")})
    run = store.get(run_id)
    assert "revision" not in run.params
    assert run.metrics == {}


def test_a_metric_that_was_withdrawn_is_absent_for_every_reader(store: Store) -> None:
    run_id = store.begin("configuration", NAME, params=PARAMS)
    store.log(run_id, metrics={"memory/peak_mib": 5.0, "impact/speedup": 2.0})
    whole = store.snapshot(["configuration"])
    store.withdraw(run_id, ["impact/speedup"])

    def read() -> list[Mapping[str, float]]:
        searched = bulk.read_searched(store.search, ["configuration"]).runs
        snapshots = [store.snapshot(["configuration"]).runs, store.snapshot(["configuration"], whole).runs, searched]
        return [store.get(run_id).metrics, store.configurations()[0].metrics, *(runs[0].metrics for runs in snapshots)]

    assert read() == [{"memory/peak_mib": 5.0}] * 5
    store.log(run_id, metrics={"impact/speedup": 3.0})
    assert read() == [{"memory/peak_mib": 5.0, "impact/speedup": 3.0}] * 5


def test_a_file_of_a_run_is_read_where_it_lies(store: Store, tmp_path: Path) -> None:
    run = store.log_stage(spooled(Spool(tmp_path / "spool"), "profile", "p1"), name=NAME, parent=None, params=PARAMS, tags={})
    path = store.artifact(run, "requests.parquet", tmp_path / "cache")
    assert pq.read_table(path).column("x").to_pylist() == [1, 2]
    assert not (tmp_path / "cache").exists()
    with pytest.raises(NotStoredError, match=r"no artifact 'samples\.parquet'"):
        store.artifact(run, "samples.parquet", tmp_path / "cache")


def test_a_run_that_is_not_there_is_told_from_a_store_that_is_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotStoredError, match=f"there is no run {'0' * 32}"):
        store.get("0" * 32)
    deleted = store.begin("sweep", "deleted")
    store.client.delete_run(deleted)
    with pytest.raises(NotStoredError, match=f"run {deleted} was deleted"):
        store.get(deleted)

    def away(_: str) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(store.client, "get_run", away)
    with pytest.raises(StoreError, match="no route to host") as caught:
        store.get("0" * 32)
    assert not isinstance(caught.value, NotStoredError)


def test_a_user_without_a_name_begins_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert store.get(store.begin("sweep", "demo")).tags["mlflow.user"] == "54321"


def test_a_tag_is_removed(store: Store) -> None:
    run_id = store.begin("configuration", NAME, tags={TAG.BASELINE: "1", TAG.VALIDITY: "why"})
    store.untag(run_id, [TAG.VALIDITY])
    tags = store.get(run_id).tags
    assert TAG.VALIDITY not in tags
    assert tags[TAG.BASELINE] == "1"


def test_searching_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slim.store.reading._PAGE", 2)
    made = {store.begin("configuration", f"c{i}") for i in range(5)}
    assert {r.run_id for r in store.configurations()} == made
    assert len(store.search("", limit=3)) == 3


def test_data_sets_keep_source_and_count(store: Store, tmp_path: Path) -> None:
    run = store.log_stage(spooled(Spool(tmp_path), "profile", "p1"), name=NAME, parent=None, params=PARAMS, tags={})
    dataset = MlflowClient(store.tracking_uri).get_run(run.run_id).inputs.dataset_inputs[0]
    assert json.loads(dataset.dataset.profile) == {"num_rows": 16}
    assert json.loads(dataset.dataset.source) == {"uri": "builtin:python-docs"}
    assert [t.value for t in dataset.tags] == ["calibration"]
