"""Who is handed to Ray next."""

import threading
import time
from pathlib import Path

import pytest

from slim.cluster.admission import Admission, rank
from slim.jobs import Job, StageOrder
from slim.records import Against, ModelSource, Stage


def nothing() -> None:
    pass


class Caller(threading.Thread):
    """Asks for a turn, and keeps it without a place until told."""

    def __init__(self, admission: Admission, kind: str, rank: int, log: list[str], name: str) -> None:
        super().__init__(daemon=True)
        self._admission, self._kind, self._rank, self._log, self.caller = admission, kind, rank, log, name
        self.place, self.end = threading.Event(), threading.Event()
        self.placed = threading.Event()

    def run(self) -> None:
        with self._admission.turn(self._kind, self._rank, nothing) as placed:
            self._log.append(self.caller)
            self.place.wait(20)
            placed()
            placed()
            self.placed.set()
            self.end.wait(20)


def until(log: list[str], count: int) -> None:
    deadline_s = time.monotonic() + 10
    while len(log) < count and time.monotonic() < deadline_s:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(log) == count, log


def test_the_most_urgent_goes_next_and_few_wait_with_ray() -> None:
    log: list[str] = []
    admission = Admission(2)
    asked = [("first", 3), ("second", 3), ("late", 3), ("urgent", 1), ("later", 3)]
    callers = []
    for name, number in asked:
        callers.append(Caller(admission, "gpu", number, log, name))
        callers[-1].start()
        time.sleep(0.05)
    until(log, 2)
    assert log == ["first", "second"]
    for count, name in enumerate(["first", "second", "urgent", "late", "later"], start=3):
        caller = next(c for c in callers if c.caller == name)
        caller.place.set()
        # Told twice that it has a place, one goes on and not two, and again none when it has ended.
        assert caller.placed.wait(10)
        caller.end.set()
        until(log, min(count, 5))
    assert log == ["first", "second", "urgent", "late", "later"]


def test_what_asks_for_other_room_is_not_held_up() -> None:
    log: list[str] = []
    admission = Admission(1)
    for kind in ("host", "gpu", "gpu"):
        Caller(admission, kind, 0, log, kind).start()
        time.sleep(0.05)
    until(log, 2)
    assert log == ["host", "gpu"]


def test_what_ends_without_a_place_makes_room() -> None:
    admission = Admission(1)
    with pytest.raises(RuntimeError, match="failed"), admission.turn("gpu", 0, nothing):
        raise RuntimeError("failed")
    with admission.turn("gpu", 0, nothing):
        pass


def test_a_wait_that_is_given_up_stands_in_nobodys_way() -> None:
    admission = Admission(1)
    looked = 0

    def give_up() -> None:
        nonlocal looked
        looked += 1
        if looked == 2:
            raise TimeoutError

    with admission.turn("gpu", 5, nothing) as placed:
        with pytest.raises(TimeoutError), admission.turn("gpu", 0, give_up):
            pass
        placed()
        with admission.turn("gpu", 9, nothing):
            pass
    assert looked == 2


def test_what_others_wait_for_is_urgent() -> None:
    source = ModelSource("model", "local", None, "sha256:0", "model", Path("model"))

    def job(stage: Stage | None = None, engine: str | None = None, against: Against | None = None) -> Job:
        orders = (StageOrder(stage, "key", {}),) if stage else ()
        return Job(source, "bf16", 42, Path("spool"), orders, engine=engine, against=against or Against())

    jobs = [
        job(),
        job("evaluate", "vllm", Against(keep=True)),
        job("quantize"),
        job("profile", "vllm"),
    ]
    assert [rank(each) for each in jobs] == [0, 1, 2, 3]
