"""Which work is handed to Ray next: Ray itself starts what it has in the order in which it came, whatever waits for it."""

import itertools
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from slim.jobs import Job

_LOOK_S = 0.2


def rank(job: Job) -> int:
    """Return how urgent a job is, the lowest first.

    What others wait for goes first: models, then the evaluation of a baseline, with which all others are compared, then
    quantizing, after which measuring is left to do. Measurements, the longest and the last, then end together.
    """
    if not job.orders:
        return 0
    if job.against.keep:
        return 1
    return 2 if job.engine is None else 3


class Admission:
    """Lets callers through by rank, few of a kind at a time. Safe to call from several threads.

    Args:
        ahead: of each kind so many may wait with Ray at once, so that it always has one when room becomes free.
    """

    def __init__(self, ahead: int) -> None:
        self._ahead = max(1, ahead)
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._queues: defaultdict[Hashable, set[tuple[int, int]]] = defaultdict(set)
        self._waiting: Counter[Hashable] = Counter()

    @contextmanager
    def turn(self, kind: Hashable, rank: int, look: Callable[[], None]) -> Iterator[Callable[[], None]]:
        """Wait for a turn, and give what tells that the work has a place.

        Args:
            kind: of work that competes for the same room.
            rank: the lowest goes first; of equals, who came first.
            look: called several times a second while waiting; what it raises ends the wait.
        """
        with self._changed:
            ticket = (rank, next(self._numbers))
            self._queues[kind].add(ticket)
        try:
            while not self._admitted(kind, ticket):
                look()
        except BaseException:
            with self._changed:
                self._leave(kind, ticket)
            raise
        placed = False

        def place() -> None:
            nonlocal placed
            if not placed:
                placed = True
                with self._changed:
                    self._waiting[kind] -= 1
                    self._changed.notify_all()

        try:
            yield place
        finally:
            place()

    def _admitted(self, kind: Hashable, ticket: tuple[int, int]) -> bool:
        """Wait a moment for a turn, and take it."""
        with self._changed:

            def is_due() -> bool:
                return min(self._queues[kind]) == ticket and self._waiting[kind] < self._ahead

            if not self._changed.wait_for(is_due, _LOOK_S):
                return False
            self._waiting[kind] += 1
            self._leave(kind, ticket)
            return True

    def _leave(self, kind: Hashable, ticket: tuple[int, int]) -> None:
        """Stand in the way of nobody any more."""
        self._queues[kind].remove(ticket)
        self._changed.notify_all()
