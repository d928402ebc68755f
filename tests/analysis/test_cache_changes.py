"""The second file of a copy: what changed since the first was written, and nothing that belongs to another one."""

import shutil
from pathlib import Path

import pytest

from analysis import cache
from slim.store import Snapshot, Store
from tests.analysis.conftest import Log
from tests.analysis.test_cache import searched


@pytest.fixture
def many(store: Store, log: Log) -> list[str]:
    """A store of forty configurations, with a copy of it."""
    runs = [log({"latency/e2e_mean_ms": 1.0 + i}, hardware=f"gpu {i}") for i in range(40)]
    cache.runs(store)
    return runs


def read(store: Store) -> list[str]:
    """Bring the copy up to date; it says what the store says."""
    path = cache.place(store)
    assert list(cache.runs(store)) == searched(store)
    known = cache.load(path)
    assert known is not None and list(known.snapshot.runs) == searched(store)
    return [run.run_id for run in known.snapshot.runs]


def test_a_little_change_leaves_the_first_file_as_it_is(store: Store, log: Log, many: list[str]) -> None:
    path = cache.place(store)
    before = path.read_bytes()
    new = log(precision="fp16")
    store.log(many[0], tags={"a": "tag"}, metrics={"latency/e2e_mean_ms": 9.0}, params={"late": 1})
    store.client.delete_run(many[1])
    assert {new, many[0]} < set(read(store)) and many[1] not in read(store)
    store.client.restore_run(many[1])
    store.client.update_run(many[2], status="FAILED")
    assert many[1] in read(store)
    assert path.read_bytes() == before
    assert cache.second(path).stat().st_size < len(before)


def test_much_change_is_written_whole(store: Store, log: Log, many: list[str]) -> None:
    path = cache.place(store)
    before = path.read_bytes()
    store.client.delete_run(many[0])
    read(store)
    assert path.read_bytes() == before and cache.second(path).exists()
    for index in range(10):
        log(precision="fp16", hardware=f"gpu {index}")
    read(store)
    assert path.read_bytes() != before and not cache.second(path).exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "of another copy", "gone"])
def test_without_the_second_file_the_first_is_a_snapshot(store: Store, many: list[str], damage: str, tmp_path: Path) -> None:
    path = cache.place(store)
    store.client.delete_run(many[0])
    read(store)
    changes = cache.second(path)
    if damage == "cut":
        changes.write_bytes(changes.read_bytes()[:-20])
    elif damage == "empty":
        changes.write_bytes(b"")
    elif damage == "of another copy":
        cache.save(tmp_path / "other.parquet", Snapshot(()))
        other = cache.load(tmp_path / "other.parquet")
        assert other is not None
        cache.save(tmp_path / "other.parquet", Snapshot((), "state", {}), other)
        shutil.copyfile(cache.second(tmp_path / "other.parquet"), changes)
    else:
        changes.unlink()
    known = cache.load(path)
    assert known is not None and len(known.snapshot.runs) == len(many)
    assert len(read(store)) == len(many) - 1


def test_readers_at_once_leave_a_snapshot(store: Store, log: Log, many: list[str]) -> None:
    path = cache.place(store)
    slow = cache.load(path)
    assert slow is not None
    store.client.delete_run(many[0])
    seen_by_slow = store.snapshot(cache.KINDS, slow.snapshot)
    # Another one reads later, and writes all anew in the meantime.
    store.client.delete_run(many[1])
    cache.runs(store, whole=True)
    cache.save(path, seen_by_slow, slow)
    known = cache.load(path)
    assert known is not None and list(known.snapshot.runs) == searched(store)
    # Or only what changed: then the slow one's older snapshot stays, from which the next reading goes on.
    store.client.delete_run(many[2])
    older = store.snapshot(cache.KINDS, known.snapshot)
    log(precision="fp16")
    read(store)
    cache.save(path, older, known)
    behind = cache.load(path)
    assert behind is not None and behind.snapshot == older
    read(store)
