"""Reading a store that is not a file on this machine: an MLflow server over HTTP, a PostgreSQL database."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from analysis import cache
from analysis.selection import select
from slim.store import TAG, Store, StoredRun, bulk, tables
from tests.analysis.conftest import Log, logging_to
from tests.analysis.test_cache import searched
from tests.servers import mlflow_server, postgresql


@pytest.fixture(scope="module", params=["http", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp(request.param)
    with mlflow_server(directory) if request.param == "http" else postgresql() as address:
        yield address


@pytest.fixture
def store(address: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An experiment of its own for each test."""
    monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts of a database store
    opened = Store.open(address, request.node.name)
    assert opened is not None
    return opened


@pytest.fixture
def log(store: Store) -> Log:
    return logging_to(store)


def plain(runs: Iterable[StoredRun]) -> list[StoredRun]:
    """Runs that can be compared: not a number is not equal to itself."""
    return [replace(run, metrics={k: -1.0 if math.isnan(v) else v for k, v in run.metrics.items()}) for run in runs]


def test_what_happens_to_runs_is_noticed(store: Store, log: Log) -> None:
    is_database = store.tracking_uri.startswith("postgresql")
    sweep = store.begin("sweep", "one")
    runs = [log({"latency/e2e_mean_ms": 1 / 3 + i}, sweep=sweep, hardware=f"gpu {i}") for i in range(3)]
    running = log(precision="fp16", ended=False, tags={"note": "ü, 'quoted'\n%s line"})
    store.begin("profile", "not kept")
    store.client.log_metric(runs[0], "somebody", float("nan"))

    def as_found() -> bool:
        return plain(cache.runs(store)) == plain(searched(store))

    assert as_found() and len(cache.runs(store)) == 5
    known = cache.load(cache.place(store))
    assert known is not None and ("metrics" in known.snapshot.mark) == is_database
    new = log(precision="gptq-int4")
    store.log(running, metrics={"latency/e2e_mean_ms": 7.0}, params={"late": 1})
    assert as_found()
    store.log(running, metrics={"latency/e2e_mean_ms": 8.0}, tags={"a": "tag"})
    store.client.delete_run(runs[2])
    assert as_found() and runs[2] not in {run.run_id for run in cache.runs(store)}
    store.finish(running)
    store.client.restore_run(runs[2])
    assert as_found() and runs[2] in {run.run_id for run in cache.runs(store)}
    store.log(new, tags={TAG.VALIDITY: "by_hand"})
    store.untag(running, ["a"])
    assert as_found()
    again = cache.load(cache.place(store))
    assert again is not None and plain(again.snapshot.runs) == plain(cache.runs(store))


def test_a_selection_is_the_same_everywhere(store: Store, log: Log) -> None:
    sweep = store.begin("sweep", "one")
    kept = log({"latency/e2e_mean_ms": 2.0, "accuracy/mean": 0.5}, sweep=sweep)
    log(sweep=sweep, precision="fp16", failure="timeout")
    log(sweep=sweep, precision="gptq-int4", tags={TAG.VALIDITY: "throttled"})
    log(sweep=sweep, precision="gptq-int8", ended=False)
    found = select(store)
    assert list(found.frame.index) == [kept]
    assert found.frame.at[kept, "accuracy/mean"] == 0.5
    assert sorted(found.left_out["kind"]) == ["failed", "incomplete", "invalid"]


def test_postgresql_is_read_from_its_tables(store: Store, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    if not store.tracking_uri.startswith("postgresql"):
        pytest.skip("a server has no tables to read")
    runs = [log({"latency/e2e_mean_ms": 1.0}, hardware=f"gpu {i}") for i in range(8)]
    with monkeypatch.context() as patch:
        patch.setattr(store, "search", lambda *_, **__: pytest.fail("searched"))
        before = store.snapshot(cache.KINDS)
        store.log(runs[3], metrics={"latency/e2e_mean_ms": 2.0})
        store.log(runs[4], params={"late": 1})
        after = store.snapshot(cache.KINDS, before)
    assert list(before.runs) != list(after.runs) == searched(store)
    old = {run.run_id: run for run in before.runs}
    assert {run.run_id for run in after.runs if old[run.run_id] is run} == set(runs) - {runs[3], runs[4]}
    # Tables that are others than this project knows are left to MLflow.
    monkeypatch.setattr(tables, "_OF_CHOSEN", "another_column IN (SELECT run_uuid FROM chosen)")
    assert list(store.snapshot(cache.KINDS).runs) == searched(store)


def test_a_server_is_asked_for_young_runs_only(store: Store, log: Log) -> None:
    if not store.tracking_uri.startswith("http"):
        pytest.skip("a database tells everything")
    old = log(end_unix_s=1e9)
    known = bulk.read_searched(store.search, cache.KINDS, now_s=2e9)
    store.log(old, tags={"by": "hand"})
    young = log(precision="fp16", end_unix_s=2e9 + 5)
    after = bulk.read_searched(store.search, cache.KINDS, known, now_s=2e9 + 10)
    assert {run.run_id for run in after.runs} == {old, young}
    assert "by" not in next(run for run in after.runs if run.run_id == old).tags
    whole = bulk.read_searched(store.search, cache.KINDS, known, now_s=2e9 + bulk.WHOLE_S)
    assert list(whole.runs) == searched(store)
