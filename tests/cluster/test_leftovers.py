"""What sweeps leave on a node goes with them, or by age; what is in use stays."""

import os
import time
from pathlib import Path

import pytest
from filelock import FileLock

from slim.cluster import leftovers, transfer


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "node"))
    return tmp_path / "node"


def aged(path: Path) -> Path:
    before = time.time() - leftovers.KEPT_S - 60
    os.utime(path, (before, before))
    return path


def made(sweep: str) -> tuple[Path, Path]:
    spool, cooling = leftovers.spool_of(sweep), leftovers.cooling_of(sweep, "0123-4567")
    (spool / "jobs").mkdir(parents=True)
    (spool / "jobs" / "worker.log").write_text("words")
    cooling.write_text("41")
    return spool, cooling


def test_a_sweep_takes_its_own_away() -> None:
    mine, others = made("mine"), made("other")
    leftovers.remove("mine")
    assert [path.exists() for path in (*mine, *others)] == [False, False, True, True]
    leftovers.remove("never there")


def test_what_killed_sweeps_left_goes_by_age() -> None:
    old, new, going_on = made("old"), made("new"), made("going-on")
    for path in (*old, going_on[0]):
        aged(path)
    leftovers.prune("going-on")
    assert [path.exists() for path in (*old, *new, *going_on)] == [False, False, True, True, True, True]


def test_fetched_files_go_when_nobody_has_used_them(tmp_path: Path) -> None:
    for name in ("used", "unused", "held"):
        (tmp_path / name).write_text(name)
    shelf = transfer.Shelf()
    listings = shelf.put([str(tmp_path / name) for name in ("used", "unused", "held")])
    for name in ("used", "unused", "held"):
        # As on a node with another disk.
        (tmp_path / name).rename(tmp_path / f"{name} there")

    def read(path: str, name: str, offset: int) -> bytes:
        return (tmp_path / f"{path} there").read_bytes()[offset:]

    used, unused, held = (transfer.fetch(wanted, read).parent for wanted in listings)
    for path in (used, unused, held):
        aged(path)
    assert transfer.fetch(listings[0], read).parent == used
    partial = leftovers.fetched(".digest.partial")
    partial.mkdir()
    aged(partial)
    with FileLock(leftovers.lock_of(held)):
        leftovers.prune("sweep")
    assert [path.exists() for path in (used, unused, held, partial)] == [True, False, True, False]
    leftovers.prune("sweep")
    assert not held.exists()
