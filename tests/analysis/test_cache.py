"""The copy of a store's runs on this machine, on real SQLite stores: what is read, what is noticed, what is not trusted."""

import os
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis import cache
from analysis.selection import select
from slim.store import TAG, Snapshot, Store, bulk, tables
from tests.analysis.conftest import Log


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as unchanging at once, as they do for somebody who comes back a little later."""
    monkeypatch.setattr(tables, "SETTLED_S", -1.0)


def searched(store: Store) -> list[Any]:
    """What MLflow's own search finds, newest first."""
    found = [run for kind in cache.KINDS for run in store.search(f"tags.`{TAG.KIND}` = '{kind}'")]
    return sorted(found, key=lambda run: (-run.start_unix_s, run.run_id))


def test_what_is_read_is_what_mlflow_finds(store: Store, log: Log) -> None:
    sweep = store.begin("sweep", "one")
    log({"latency/e2e_mean_ms": 1 / 3, "size/checkpoint_gb": 2.0}, sweep=sweep, tags={"note": "ü, 'quoted'\nline"})
    log(precision="fp16", failure="timeout", end_unix_s=1000.0)
    log(precision="gptq-int4", ended=False)
    store.begin("profile", "not kept")
    assert list(cache.runs(store)) == searched(store)
    assert list(cache.runs(store)) == searched(store)


@pytest.mark.parametrize("is_settled", [True, False])
def test_new_changed_and_deleted_runs_are_noticed(
    store: Store, log: Log, is_settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "SETTLED_S", -1.0 if is_settled else 2.0)
    runs = [log({"latency/e2e_mean_ms": 1.0 + i}, hardware=f"gpu {i}") for i in range(6)]

    def as_found() -> bool:
        return list(cache.runs(store)) == searched(store)

    assert as_found()
    log(precision="fp16")
    assert as_found()
    store.log(runs[0], tags={"a": "tag"})
    assert as_found()
    store.log(runs[0], tags={"a": "gat"})
    assert as_found()
    store.untag(runs[0], ["a"])
    assert as_found()
    store.log(runs[1], metrics={"latency/e2e_mean_ms": 7.0})
    assert as_found()
    store.log(runs[1], params={"late": 1})
    assert as_found()
    store.client.delete_run(runs[2])
    assert as_found() and runs[2] not in {run.run_id for run in cache.runs(store)}
    store.client.restore_run(runs[2])
    assert as_found()
    store.client.update_run(runs[3], status="RUNNING", name="again")
    assert as_found()


def test_a_store_that_did_not_change_is_not_read(store: Store, log: Log, settled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    log()
    first = cache.runs(store)
    monkeypatch.setattr(tables.sqlite3, "connect", lambda *_, **__: pytest.fail("read"))
    assert cache.runs(store) == first


def test_only_what_changed_is_read_again(store: Store, log: Log) -> None:
    runs = [log({"latency/e2e_mean_ms": 1.0}, hardware=f"gpu {i}") for i in range(8)]
    before = store.snapshot(cache.KINDS)
    store.log(runs[3], metrics={"latency/e2e_mean_ms": 2.0})
    after = store.snapshot(cache.KINDS, before)
    taken_over = {run.run_id for run in after.runs for old in before.runs if run.metrics is old.metrics}
    assert taken_over == set(runs) - {runs[3]}


def test_rows_that_are_gone_make_everything_be_read(store: Store, log: Log, tmp_path: Path) -> None:
    kept, gone = log({"latency/e2e_mean_ms": 1.0}), log({"latency/e2e_mean_ms": 2.0}, precision="fp16")
    assert len(cache.runs(store)) == 2
    # What `mlflow gc` does; rows logged later take the numbers of those that went.
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        for table in ("params", "tags", "metrics", "latest_metrics", "runs"):
            connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", [gone])
    connection.close()
    store.log(kept, metrics={"latency/e2e_mean_ms": 3.0})
    assert list(cache.runs(store)) == searched(store)
    assert cache.runs(store)[0].metrics == {"latency/e2e_mean_ms": 3.0}


def test_a_run_that_begins_is_seen_again_when_it_ends(store: Store, log: Log) -> None:
    run = log(ended=False)
    assert select(store).left_out["reason"].tolist() == ["incomplete: running"]
    store.finish(run)
    assert list(select(store).frame.index) == [run]


@pytest.mark.parametrize("damage", ["cut", "flipped", "other format", "no copy at all", "empty", "another table"])
def test_a_copy_that_is_damaged_or_of_another_version_is_written_anew(
    store: Store, log: Log, settled: None, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(20):
        log({"latency/e2e_mean_ms": float(index)}, hardware=f"gpu {index}")
    expected = cache.runs(store)
    path = cache.place(store)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-20])
    elif damage == "flipped":
        for at in range(100, 2000, 100):
            broken = bytearray(whole)
            broken[at] ^= 0xFF
            path.write_bytes(broken)
            assert cache.runs(store) == expected
        path.write_bytes(whole[:500])
    elif damage == "other format":
        with monkeypatch.context() as patch:
            patch.setattr(cache, "FORMAT", 0)
            cache.save(path, Snapshot((), "state", {}))
    elif damage == "another table":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"x": [1]}), path)
    else:
        path.write_bytes(b"" if damage == "empty" else b"not a parquet file")
    assert cache.load(path) is None
    assert cache.runs(store) == expected
    assert cache.load(path) is not None


def test_a_copy_that_cannot_be_written_is_done_without(store: Store, log: Log, home: Path) -> None:
    log()
    home.mkdir()
    (home / "runs").write_text("a file where the directory should be")
    assert list(cache.runs(store)) == searched(store)


def test_nothing_is_left_beside_the_copy(store: Store, log: Log) -> None:
    log()
    cache.runs(store)
    assert os.listdir(cache.place(store).parent) == [cache.place(store).name]  # noqa: PTH208 - names, hidden ones too


def test_stores_and_experiments_have_copies_of_their_own(store: Store, log: Log) -> None:
    log()
    other = Store.open(store.tracking_uri, "other")
    assert other is not None
    assert len(cache.runs(store)) == 1 and cache.runs(other) == ()
    assert cache.place(store) != cache.place(other)


def test_an_address_is_not_written_down(store: Store) -> None:
    cache.runs(store)
    assert store.tracking_uri.encode() not in cache.place(store).read_bytes()


def test_tables_of_an_unknown_mlflow_are_left_to_mlflow(
    store: Store, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log({"latency/e2e_mean_ms": 1.0})

    monkeypatch.setattr(tables, "_OF_CHOSEN", "another_column IN (SELECT run_uuid FROM chosen)")
    with pytest.raises(tables.UnreadableError, match="another_column"):
        tables.read_sqlite(tmp_path / "mlflow.db", str(store.experiment_id), cache.KINDS)
    assert list(cache.runs(store)) == searched(store)


# Stores that can only be searched


def test_a_searched_store_notices_what_happens_to_young_runs(store: Store, log: Log) -> None:
    now = 2e9
    kept, deleted = log(end_unix_s=1e9), log(precision="fp16", end_unix_s=1e9)
    running = log(precision="gptq-int4", ended=False)
    known = bulk.read_searched(store.search, cache.KINDS, now_s=now)
    assert list(known.runs) == searched(store)
    store.finish(running, end_unix_s=now + 5)
    new = log(precision="gptq-int8", end_unix_s=now + 9)
    store.client.delete_run(deleted)
    after = bulk.read_searched(store.search, cache.KINDS, known, now_s=now + 10)
    assert list(after.runs) == searched(store)
    assert {run.run_id for run in after.runs} == {kept, running, new}
    store.client.restore_run(deleted)
    restored = bulk.read_searched(store.search, cache.KINDS, after, now_s=now + 20)
    assert list(restored.runs) == searched(store)


def test_a_searched_store_is_read_whole_once_a_day_and_after_a_sweep_that_reused(store: Store, log: Log) -> None:
    now = 2e9
    old = log(end_unix_s=1e9)
    known = bulk.read_searched(store.search, cache.KINDS, now_s=now)
    store.log(old, tags={"by": "hand"})
    assert bulk.read_searched(store.search, cache.KINDS, known, now_s=now + 10).runs == known.runs
    assert list(bulk.read_searched(store.search, cache.KINDS, known, now_s=now + bulk.WHOLE_S).runs) == searched(store)
    sweep = store.begin("sweep", "again")
    store.log(sweep, tags={TAG.REUSED: "m/bf16@vllm"})
    store.finish(sweep, end_unix_s=now + 11)
    assert list(bulk.read_searched(store.search, cache.KINDS, known, now_s=now + 12).runs) == searched(store)


def test_another_store_at_the_same_address_is_read_whole(store: Store, log: Log) -> None:
    log(ended=False)
    known = bulk.read_searched(store.search, cache.KINDS, now_s=2e9)
    ghost = replace(known.runs[0], run_id="0" * 32)
    after = bulk.read_searched(store.search, cache.KINDS, replace(known, runs=(ghost,)), now_s=2e9 + 1)
    assert list(after.runs) == searched(store)
