"""The time left shrinks to nothing as work ends, and learns from stages that took longer than estimated."""

from types import SimpleNamespace
from typing import Any

import pytest

from slim import timeleft
from slim.records import Progress
from slim.timeleft import StepLeft, TimeLeft


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


def test_a_repeat_that_has_ended_leaves_the_others(clock: SimpleNamespace) -> None:
    each = [SimpleNamespace(stage="profile", to_run=True, estimate_s=10.0) for _ in range(3)]
    names = [SimpleNamespace(name=name, run=None, failure=None, stages=list(each)) for name in "ab"]
    left = TimeLeft(SimpleNamespace(configurations=names))  # type: ignore[arg-type]
    assert left.left_s() == 60
    for number in range(6):
        left.progress("ab"[number % 2], "profile", Progress("start", 0, None))
        left.progress("ab"[number % 2], "profile", Progress("latency", 1, 2))
        assert left.left_s() == 60 - 10 * number
        clock.s += 10
    left.ended("a")
    assert left.left_s() == 0


def test_repeats_of_one_configuration_that_follow_each_other(clock: SimpleNamespace) -> None:
    each = [SimpleNamespace(stage="profile", to_run=True, estimate_s=10.0) for _ in range(3)]
    left = TimeLeft(SimpleNamespace(configurations=[SimpleNamespace(name="a", run=None, failure=None, stages=each)]))  # type: ignore[arg-type]
    for number in range(3):
        left.progress("a", "profile", Progress("start", 0, None))
        assert left.left_s() == 20 * (3 - number) - 10 * (number == 0) * 3
        clock.s += 20
        left.step_ended("a")
    assert left.left_s() == 0


def test_lanes_share_what_is_left_but_not_one_configurations_stages(clock: SimpleNamespace) -> None:
    alike = plan(**{name: {"profile": 10.0} for name in "abcd"})
    left = TimeLeft(alike, lanes=2)
    assert left.left_s() == 20
    for name in "ab":
        left.progress(name, "profile", Progress("start", 0, None))
    clock.s = 5.0
    assert left.left_s() == (5 + 5 + 10 + 10) / 2
    clock.s = 10.0
    left.ended("a")
    left.ended("b")
    assert left.left_s() == 10
    assert TimeLeft(plan(a={"quantize": 30.0, "profile": 20.0}, b={"profile": 1.0}), lanes=4).left_s() == 50


def test_a_steps_own_rate_tells_when_it_ends(clock: SimpleNamespace) -> None:
    left = StepLeft()
    for second in range(11):
        clock.s = float(second)
        left.progress("a", "evaluate", Progress("mmlu", 10 * second, 1000, "requests"))
    assert left.left_s() == pytest.approx(90)
    clock.s = 14.0
    assert left.left_s() == pytest.approx(86)
    clock.s = 1000.0
    assert left.left_s() == 0


def test_a_new_step_is_timed_anew_and_nothing_is_said_at_first(clock: SimpleNamespace) -> None:
    left = StepLeft()
    for second in range(11):
        clock.s = float(second)
        left.progress("a", "evaluate", Progress("mmlu", second, 20))
    left.progress("a", "evaluate", Progress("gsm8k", 0, 10))
    assert left.left_s() is None
    clock.s = 11.0
    left.progress("a", "evaluate", Progress("gsm8k", 1, 10))
    assert left.left_s() is None
    clock.s = 14.0
    left.progress("a", "evaluate", Progress("gsm8k", 4, 10))
    assert left.left_s() == pytest.approx(6)
    left.progress("a", "evaluate", Progress("load", 4, None))
    assert left.left_s() is None


def test_what_is_ordered_by_length_is_told_by_its_tokens(clock: SimpleNamespace) -> None:
    # A hundred requests of falling length at 100 tokens a second: 5,050 tokens, 50.5 s.
    lengths = list(range(100, 0, -1))
    naive, robust = StepLeft(), StepLeft()
    for done in range(51):
        tokens = sum(lengths[:done])
        clock.s = tokens / 100
        naive.progress("a", "evaluate", Progress("mmlu", done, 100, "requests"))
        robust.progress("a", "evaluate", Progress("mmlu", done, 100, "requests", tokens / sum(lengths)))
    true = sum(lengths[50:]) / 100
    found, promised = robust.left_s(), naive.left_s()
    assert found == pytest.approx(true)
    assert promised is not None
    assert promised > 2 * true


def test_answers_taken_over_do_not_count_as_speed(clock: SimpleNamespace) -> None:
    left = StepLeft()
    left.progress("a", "evaluate", Progress("mmlu", 0, 1000))
    clock.s = 0.5
    left.progress("a", "evaluate", Progress("mmlu", 800, 1000))
    for second in range(1, 11):
        clock.s = float(second)
        left.progress("a", "evaluate", Progress("mmlu", 800 + second, 1000))
    assert left.left_s() == pytest.approx(190)


def test_hours_of_progress_take_little_memory(clock: SimpleNamespace) -> None:
    left = StepLeft()
    for done in range(50_000):
        clock.s = 0.2 * done
        left.progress("a", "evaluate", Progress("mmlu", done, 100_000))
    assert left.left_s() == pytest.approx(10_000, rel=0.05)
    assert len(left._seen) < 100
