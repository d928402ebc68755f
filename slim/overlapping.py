"""Several configurations under way at once: each its own steps in order, in whatever order an executor has room for them."""

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol

from slim.ledger import Entry
from slim.runner import Executor
from slim.steps import Results, Step, Steps, following

_LOOK_S = 0.1


class Withdrawn(Exception):  # noqa: N818 - nothing went wrong
    """Work was taken back before it had begun, or because the sweep ends."""


class Overlapping(Executor, Protocol):
    """An executor that may be called from several threads at once."""

    @property
    def lanes(self) -> int:
        """How many configurations can be measured at once."""

    @property
    def apart(self) -> bool:
        """Whether profiling needs more room than evaluating, so that a worker each is better than one for both."""

    def withdraw(self) -> None:
        """Take back what has not begun; its callers get `Withdrawn`."""

    def stop(self) -> None:
        """Stop what runs, too."""


@dataclass(frozen=True)
class Turn:
    """A step under way.

    Attributes:
        entry: whose.
        step: which.
    """

    entry: Entry
    step: Step


class Desk(Protocol):
    """What `work_through` needs of a sweep. All of it is called from one thread, which alone talks to the store."""

    def take_up(self, entry: Entry) -> None:
        """Bring a configuration to where earlier sweeps had left it."""

    def guarded(self, entry: Entry, call: Callable[[], Any]) -> Any:
        """Call; what is raised becomes the configuration's failure, and None is returned."""

    def keep(self, entry: Entry, results: Results) -> None:
        """Take results over."""

    def close(self, entry: Entry) -> bool:
        """End a configuration of which nothing is left; False when the sweep is to stop because of it."""

    def waiting(self) -> None:
        """Called several times a second."""


def work_through(desk: Desk, steps: Steps, entries: Sequence[Entry], repeats: int, executor: Overlapping) -> None:
    """Do what is left of configurations, as many at once as the executor has room for.

    Everything that can begin is handed to the executor: the first repeat of all before the second of any, as far as nothing has to
    be waited for.
    """
    opened = [entry for entry in entries if not entry.ended and not entry.failure]
    for entry in opened:
        desk.take_up(entry)
        if entry.over and not desk.close(entry):
            return
    with ThreadPoolExecutor(max_workers=max(1, len(opened)), thread_name_prefix="slim-step") as pool:
        work = _Work(desk, steps, opened, repeats, executor=executor, pool=pool)
        try:
            while work.begin():
                work.wait()
        except BaseException:
            executor.stop()
            raise


class _Work:
    """The turns under way, and the next ones."""

    def __init__(
        self, desk: Desk, steps: Steps, entries: list[Entry], repeats: int, *, executor: Overlapping, pool: ThreadPoolExecutor
    ) -> None:
        self._desk, self._steps, self._executor, self._pool = desk, steps, executor, pool
        self._entries, self._repeats = entries, repeats
        self._turns: dict[Future[Results], Turn] = {}
        self._going_on = True

    def begin(self) -> bool:
        """Hand over what can begin; False when nothing is under way and nothing will be."""
        while self._going_on and (turns := list(self._ready())):
            for turn in turns:
                begun = self._desk.guarded(turn.entry, lambda turn=turn: self._steps.begin(turn.entry, turn.step))  # type: ignore[misc]
                if begun is not None:
                    self._turns[self._pool.submit(begun)] = turn
                else:
                    self._close(turn.entry)
        return bool(self._turns)

    def wait(self) -> None:
        """Take over what ends within a moment."""
        done, _ = wait(self._turns, timeout=_LOOK_S, return_when=FIRST_COMPLETED)
        self._desk.waiting()
        for future in done:
            turn = self._turns.pop(future)
            if isinstance(future.exception(), Withdrawn):
                continue
            results = self._desk.guarded(turn.entry, future.result)
            if results is not None:
                self._desk.keep(turn.entry, results)
            if turn.entry.over:
                self._close(turn.entry)

    def _close(self, entry: Entry) -> None:
        if not self._desk.close(entry) and self._going_on:
            self._going_on = False
            self._executor.withdraw()

    def _ready(self) -> Iterator[Turn]:
        """What can begin now: earlier repeats first, and quantizing before what is measured, so that the long ends meet."""
        under_way = {id(turn.entry) for turn in self._turns.values()}
        idle = [
            (entry, step)
            for entry in self._entries
            if id(entry) not in under_way and (step := _next(entry, self._repeats, self._executor.apart)) is not None
        ]
        for entry, step in sorted(idle, key=lambda pair: (pair[1].repeat, not pair[1].quantizes)):
            if self._steps.is_ready(entry, step):
                yield Turn(entry, step)


def _next(entry: Entry, repeats: int, apart: bool) -> Step | None:
    """The next step of a configuration, of whatever repeat."""
    if entry.over:
        return None
    found = (following(entry, repeat, apart=apart) for repeat in range(repeats))
    return next((step for step in found if step is not None), None)


class Told:
    """Calls from other threads, made by the one that asks for them."""

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call
        self._calls: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()

    def __call__(self, *arguments: Any) -> None:
        """Remember a call."""
        self._calls.put(arguments)

    def pass_on(self) -> None:
        """Make the calls that were remembered."""
        while True:
            try:
                arguments = self._calls.get_nowait()
            except queue.Empty:
                return
            self._call(*arguments)
