"""The time left shrinks to nothing as work ends, and learns from stages that took longer than estimated."""

from types import SimpleNamespace
from typing import Any

import pytest

from slim import timeleft
from slim.records import Progress
from slim.timeleft import TimeLeft


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(timeleft.time, "monotonic", lambda: now.s)
    return now


def plan(**estimates: dict[str, float]) -> Any:
    return SimpleNamespace(
        configurations=[
            SimpleNamespace(
                name=name,
                run=None,
                failure=None,
                stages=[SimpleNamespace(stage=stage, to_run=True, estimate_s=seconds) for stage, seconds in stages.items()],
            )
            for name, stages in estimates.items()
        ]
    )


def test_nothing_done_is_the_sum_of_the_estimates(clock: SimpleNamespace) -> None:
    assert TimeLeft(plan(a={"quantize": 30.0, "profile": 20.0}, b={"profile": 10.0})).left_s() == 60


def test_time_passes(clock: SimpleNamespace) -> None:
    left = TimeLeft(plan(a={"profile": 20.0}, b={"profile": 10.0}))
    left.progress("a", "profile", Progress("start", 0, None))
    clock.s = 5.0
    assert left.left_s() == 25
    clock.s = 50.0
    assert left.left_s() == 10


def test_a_stage_that_took_twice_as_long_doubles_the_others_of_its_kind(clock: SimpleNamespace) -> None:
    left = TimeLeft(plan(a={"quantize": 10.0, "profile": 20.0}, b={"quantize": 10.0, "profile": 20.0}))
    left.progress("a", "quantize", Progress("start", 0, None))
    clock.s = 20.0
    left.progress("a", "profile", Progress("start", 0, None))
    # No profile stage has ended, so what is known of quantizing is all there is: 2 x (20 + 10 + 20).
    assert left.left_s() == 100
    clock.s = 30.0
    left.ended("a")
    assert left.left_s() == 2 * 10 + 0.5 * 20
    left.ended("b")
    assert left.left_s() == 0
