"""What a person sees while something runs."""

import errno
import io
import os

import pytest
from rich.console import Console

from entrypoints._console import Watcher
from slim.outcomes import Event
from slim.records import Progress

RUNNING = Event(
    "progress",
    "m/bf16@vllm",
    "evaluate",
    Progress("mmlu", 12000, 56168, "requests", 0.4, part=1, parts=3),
    done=1,
    total=6,
    left_s=2400.0,
    step_left_s=200.0,
)


@pytest.fixture(autouse=True)
def _able(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def shown(event: Event, terminal: bool = False) -> str:
    file = io.StringIO()
    with Watcher(Console(file=file, force_terminal=terminal, width=200, color_system=None)) as watcher:
        watcher._last_s = float("-inf")
        watcher(event)
        if terminal:
            watcher._bars.refresh()
    return file.getvalue()


def test_a_line_names_the_task_its_place_its_requests_and_both_times_left() -> None:
    assert "[1/6] m/bf16@vllm evaluate: mmlu (1 of 3) 12000/56168 requests, 3m20s left; sweep 40m00s left\n" in shown(RUNNING)


def test_a_bar_says_the_same() -> None:
    text = shown(RUNNING, terminal=True)
    for part in ("mmlu (1 of 3)", "12000/56168 requests, 3m20s left", "1/6 configurations, 40m00s left"):
        assert part in text


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (Progress("load tasks", 3, None, "tasks"), "evaluate: load tasks"),
        (Progress("warm-up", 3, 10), "evaluate: warm-up 3/10 steps"),
        (Progress("gsm8k", 0, None, "requests", part=2, parts=3), "evaluate: gsm8k (2 of 3)"),
    ],
)
def test_what_is_not_known_is_not_shown(progress: Progress, line: str) -> None:
    assert shown(Event("progress", "c", "evaluate", progress, total=1)).rstrip().endswith(line)


class Broken(io.StringIO):
    """A file that takes nothing any more, once told so."""

    error: Exception | None = None

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EIO, os.strerror(errno.EIO)),
        UnicodeEncodeError("ascii", "\N{EM DASH}", 0, 1, "ordinal not in range"),
    ],
    ids=["full", "gone", "encoding"],
)
@pytest.mark.parametrize("terminal", [False, True], ids=["lines", "bars"])
def test_a_sweep_goes_on_when_nothing_can_be_shown(error: Exception, terminal: bool) -> None:
    file = Broken()
    with Watcher(Console(file=file, force_terminal=terminal, width=200, color_system=None)) as watcher:
        watcher(Event("note", "", message="first"))
        file.error = error
        for _ in range(2):
            watcher(Event("configuration", "m/bf16@vllm", message="finished", done=1, total=6))
        watcher(RUNNING)
    assert "first" in file.getvalue()


def test_a_full_disk_is_told_of_by_lines_once_it_has_room() -> None:
    file = Broken()
    with Watcher(Console(file=file, width=200, color_system=None)) as watcher:
        file.error = OSError(errno.ENOSPC, "no space")
        watcher(Event("note", "", message="first"))
        file.error = None
        watcher(Event("note", "", message="second"))
    assert "second" in file.getvalue()


@pytest.mark.parametrize(("term", "encoding"), [("dumb", "utf-8"), ("xterm", "ascii"), ("xterm", "latin-1")])
def test_a_terminal_that_cannot_draw_bars_gets_lines(term: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    written = io.BytesIO()
    file = io.TextIOWrapper(written, encoding=encoding)
    with Watcher(Console(file=file, force_terminal=True, width=200, color_system=None)) as watcher:
        watcher._last_s = float("-inf")
        watcher(RUNNING)
        file.flush()
    assert "mmlu (1 of 3) 12000/56168 requests, 3m20s left" in written.getvalue().decode()
