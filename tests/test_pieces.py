"""Pieces are complete or absent, stay until the stage has a result, and know how much work is in them."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from slim import pieces as module
from slim.errors import Reason
from slim.jobs import Spool
from slim.pieces import Pieces
from slim.records import Failure, StageResult

KEY = "k" * 32


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: now.s)
    return now


def write(pieces: Pieces, name: str, text: str = "x") -> None:
    with pieces.writing(name) as path:
        (path / "part").write_text(text)


def section(pieces: Pieces, name: str) -> None:
    with pieces.writing_section(name) as path:
        (path / "answers").write_text("x")


def test_a_finished_piece_is_found_and_replaces_its_sections(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path / KEY)
    for _ in range(11):
        section(pieces, "task")
    section(pieces, "task2")
    assert [path.name for path in pieces.sections("task")] == [f"task~{n}" for n in range(1, 12)]
    assert pieces.find("task") is None
    write(pieces, "task", "done")
    found = Pieces(tmp_path / KEY).find("task")
    assert found is not None
    assert (found / "part").read_text() == "done"
    assert pieces.sections("task") == []
    assert len(pieces.sections("task2")) == 1


def test_what_fails_while_it_is_written_leaves_nothing_but_what_was_there(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path / KEY)
    section(pieces, "task")
    with pytest.raises(RuntimeError), pieces.writing("task"):
        raise RuntimeError
    assert pieces.find("task") is None
    assert [path.name for path in (tmp_path / KEY).iterdir()] == ["task~1"]


def test_work_is_added_up_over_attempts(tmp_path: Path, clock: SimpleNamespace) -> None:
    first = Pieces(tmp_path / KEY)
    first.count(5.0)
    clock.s += 10
    section(first, "a")
    clock.s += 1
    write(first, "a")
    clock.s += 2
    section(first, "b")
    assert first.work_s == 5 + 10 + 1 + 2
    clock.s += 100  # lost with the worker
    second = Pieces(tmp_path / KEY)
    assert second.work_s == 18
    clock.s += 4
    write(second, "b")
    assert second.work_s == 18 + 4


def test_sections_that_a_killed_writer_left_beside_their_piece_are_not_counted_twice(
    tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = Pieces(tmp_path / KEY)
    clock.s += 3
    section(pieces, "a")
    monkeypatch.setattr(module.shutil, "rmtree", lambda *_, **__: None)
    clock.s += 4
    write(pieces, "a")
    assert len(pieces.sections("a")) == 1
    assert pieces.work_s == 7


@pytest.mark.parametrize("failure", [None, Failure(Reason.KILLED, "killed")])
def test_pieces_go_when_the_stage_has_finished_and_stay_when_it_failed(tmp_path: Path, failure: Failure | None) -> None:
    spool = Spool(tmp_path)
    write(spool.pieces(KEY), "a")
    spool.sweep_drafts()
    with spool.writing(KEY) as draft:
        draft.finish(StageResult("evaluate", KEY, failure=failure))
    spool.discard(KEY)
    assert (spool.pieces(KEY).find("a") is None) == (failure is None)


def test_pieces_that_nobody_came_back_for_are_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for name, days in (("old", 15), ("new", 13)):
        write(spool.pieces(name), "a")
        then = time.time() - days * 24 * 3600
        os.utime(spool.pieces(name).root, (then, then))
    spool.sweep_drafts()
    assert [path.name for path in (tmp_path / "pieces").iterdir()] == ["new"]
