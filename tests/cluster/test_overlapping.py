"""Which steps are under way at once, and in which order, with an executor that runs what it is told to."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slim import overlapping
from slim.errors import Reason, StageError
from slim.jobs import Spooled
from slim.ledger import Entry
from slim.overlapping import Told, Withdrawn
from slim.records import Failure, StageResult
from slim.steps import Results, Step, Steps, following

LIMIT_S = 30.0


class Executor:
    """Begins steps in the order in which they were asked for, as many at once as there are lanes.

    A step that fails keeps its lane, so that nothing begins before the failure has been seen. With ``meet`` the first steps wait until
    all lanes are taken.
    """

    def __init__(self, lanes: int, apart: bool = False, meet: bool = False) -> None:
        self.lanes, self.apart, self.meet = lanes, apart, meet
        self.asked: list[str] = []
        self.begun: list[str] = []
        self.most = self.now = 0
        self.changed = threading.Condition()
        self.withdrawn, self.stopped = threading.Event(), threading.Event()

    def withdraw(self) -> None:
        with self.changed:
            self.withdrawn.set()
            self.changed.notify_all()

    def stop(self) -> None:
        with self.changed:
            self.stopped.set()
            self.changed.notify_all()

    def ask(self, name: str) -> None:
        with self.changed:
            self.asked.append(name)

    def work(self, name: str, fail: bool) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self._ending() or (self.asked[0] == name and self.now < self.lanes), LIMIT_S)
            self.asked.remove(name)
            self.changed.notify_all()
            if self._ending():
                raise Withdrawn
            self.begun.append(name)
            self.now += 1
            self.most = max(self.most, self.now)
            if self.meet:
                self.changed.wait_for(lambda: self._ending() or self.most == self.lanes, LIMIT_S)
            if fail:
                raise StageError(Reason.OUT_OF_MEMORY, "no room")
            self.now -= 1
            self.changed.notify_all()

    def _ending(self) -> bool:
        return self.withdrawn.is_set() or self.stopped.is_set()

    def run(self, *_: Any) -> Any:
        raise AssertionError


class Desk:
    """A sweep without a store; says in which thread it was called."""

    def __init__(self, stops: bool = False) -> None:
        self.stops = stops
        self.threads: set[int] = set()
        self.closed: list[str] = []

    def take_up(self, entry: Entry) -> None:
        self.threads.add(threading.get_ident())

    def guarded(self, entry: Entry, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except StageError as error:
            entry.failure = Failure(error.reason, error.message)
        return None

    def keep(self, entry: Entry, results: Results) -> None:
        self.threads.add(threading.get_ident())
        entry.waiting += results

    def close(self, entry: Entry) -> bool:
        self.threads.add(threading.get_ident())
        if entry.failure or not entry.left():
            entry.ended = entry.failure is None
            self.closed.append(entry.planned.name)
        return not (self.stops and entry.failure)

    def waiting(self) -> None:
        self.threads.add(threading.get_ident())


class Made(Steps):
    """Steps whose work is the executor's."""

    def __init__(self, entries: list[Entry], executor: Executor, failing: tuple[str, ...] = ()) -> None:
        super().__init__(SimpleNamespace(entries=entries), SimpleNamespace())  # type: ignore[arg-type]
        self.executor, self.failing = executor, failing

    def begin(self, entry: Entry, step: Step) -> Callable[[], Results]:
        name = f"{entry.planned.name} {'+'.join(s.stage for s in step.stages)}{step.repeat or ''}"
        self.executor.ask(name)

        def work() -> Results:
            self.executor.work(name, name in self.failing)
            return [(s, Spooled(Path(s.key), StageResult(s.stage, s.key))) for s in step.stages]

        return work


def entry(name: str, stages: str, reference: str | None = None, repeats: int = 1) -> Entry:
    """A configuration with the stages that begin with these letters; only profile is repeated."""
    kinds = {"q": "quantize", "p": "profile", "e": "evaluate"}
    made = [
        SimpleNamespace(stage=kinds[letter], key=f"{name}-{letter}{repeat}", repeat=repeat, run=None, spooled=False)
        for repeat in range(repeats)
        for letter in stages
        if repeat == 0 or letter == "p"
    ]
    wanted = SimpleNamespace(name=reference, key=f"{reference}-e0") if reference else None
    return Entry(SimpleNamespace(name=name, stages=tuple(made), reference=wanted, failure=None))  # type: ignore[arg-type]


def run(
    entries: list[Entry], executor: Executor, desk: Desk | None = None, failing: tuple[str, ...] = (), repeats: int = 1
) -> Desk:
    desk = desk or Desk()
    overlapping.work_through(desk, Made(entries, executor, failing), entries, repeats, executor)
    return desk


def test_everything_is_done_once_and_as_much_at_once_as_there_is_room() -> None:
    entries = [entry(f"c{n}", "qpe") for n in range(6)]
    executor = Executor(lanes=3, meet=True)
    desk = run(entries, executor)
    assert sorted(executor.begun) == sorted(f"c{n} {what}" for n in range(6) for what in ("quantize", "profile+evaluate"))
    assert executor.most == 3
    assert sorted(desk.closed) == [f"c{n}" for n in range(6)]
    # The store is the business of one thread.
    assert desk.threads == {threading.get_ident()}


def test_one_is_quantized_while_another_is_measured() -> None:
    executor = Executor(lanes=2)
    run([entry("base", "p"), entry("other", "qp")], executor)
    assert set(executor.begun[:2]) == {"base profile", "other quantize"}


def test_quantizing_goes_before_what_can_be_measured_already() -> None:
    executor = Executor(lanes=1)
    run([entry("base", "p", repeats=2), entry("other", "qp", repeats=2), entry("third", "qp", repeats=2)], executor, repeats=2)
    assert executor.begun[:2] == ["other quantize", "third quantize"]


def test_an_evaluation_waits_for_its_baseline_and_profiling_apart_does_not() -> None:
    executor = Executor(lanes=4, apart=True)
    run([entry("base", "pe"), entry("other", "pe", reference="base")], executor)
    assert executor.begun.index("other evaluate") > executor.begun.index("base evaluate")
    assert executor.begun.index("other profile") < executor.begun.index("base evaluate")


def test_a_baseline_that_fails_holds_nothing_up() -> None:
    executor = Executor(lanes=4)
    desk = run([entry("base", "e"), entry("other", "e", reference="base")], executor, failing=("base evaluate",))
    assert executor.begun == ["base evaluate", "other evaluate"]
    assert desk.closed == ["base", "other"]


def test_repeats_are_interleaved_where_there_is_one_lane() -> None:
    executor = Executor(lanes=1)
    run([entry("a", "p", repeats=2), entry("b", "p", repeats=2)], executor, repeats=2)
    assert sorted(executor.begun[:2]) == ["a profile", "b profile"]
    assert sorted(executor.begun[2:]) == ["a profile1", "b profile1"]


def test_a_failure_may_stop_what_has_not_begun() -> None:
    entries = [entry("a", "p"), *(entry(f"c{n}", "p") for n in range(8))]
    executor = Executor(lanes=1)
    failing = tuple(f"{e.planned.name} profile" for e in entries)
    desk = run(entries, executor, Desk(stops=True), failing)
    assert executor.withdrawn.is_set()
    assert executor.begun == ["a profile"]
    assert desk.closed == ["a"]


def test_what_is_raised_in_between_stops_everything() -> None:
    class Interrupted(Desk):
        def waiting(self) -> None:
            raise KeyboardInterrupt

    executor = Executor(lanes=1)
    with pytest.raises(KeyboardInterrupt):
        run([entry("a", "p"), entry("b", "p")], executor, Interrupted())
    assert executor.stopped.is_set()


def test_steps_in_order_are_quantizing_then_one_engine_for_both() -> None:
    made = entry("a", "qpe", repeats=2)
    names = []
    for repeat in range(2):
        while (step := following(made, repeat)) is not None:
            names.append((repeat, [s.stage for s in step.stages]))
            made.waiting += [(s, Spooled(Path(s.key), StageResult(s.stage, s.key))) for s in step.stages]
    assert names == [(0, ["quantize"]), (0, ["profile", "evaluate"]), (1, ["profile"])]


def test_calls_are_passed_on_in_the_order_in_which_they_came() -> None:
    calls: list[tuple[Any, ...]] = []
    told = Told(lambda *arguments: calls.append(arguments))
    threads = [threading.Thread(target=told, args=(n, "x")) for n in range(3)]
    for thread in threads:
        thread.start()
        thread.join(LIMIT_S)
    assert calls == []
    told.pass_on()
    assert calls == [(0, "x"), (1, "x"), (2, "x")]
