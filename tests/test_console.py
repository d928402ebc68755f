"""What a person sees while something runs."""

import io

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
