"""Rough time to the end of a sweep."""

import time

from slim.plan import Plan
from slim.records import Progress


class TimeLeft:
    """The plan's estimates, scaled by how they have turned out so far.

    Args:
        plan: what is to be done.
    """

    def __init__(self, plan: Plan) -> None:
        self._estimates: dict[tuple[str, str], float] = {(c.name, s.stage): 0.0 for c in plan.configurations for s in c.stages}
        for c in plan.configurations:
            for s in c.stages:
                if s.to_run and c.run is None and c.failure is None:
                    self._estimates[c.name, s.stage] += s.estimate_s
        self._spent: dict[tuple[str, str], float] = {}
        self._current: tuple[str, str] | None = None
        self._entered = time.monotonic()

    def progress(self, name: str, stage: str, _: Progress) -> None:
        """A stage reports."""
        if (name, stage) != self._current:
            self._leave()
            self._current, self._entered = (name, stage), time.monotonic()

    def ended(self, name: str) -> None:
        """A configuration has nothing left to do."""
        self._leave()
        for key in self._estimates:
            if key[0] == name and key not in self._spent:
                self._estimates[key] = 0.0

    def _leave(self) -> None:
        if self._current is not None:
            self._spent[self._current] = self._spent.get(self._current, 0.0) + time.monotonic() - self._entered
            self._current = None

    def left_s(self) -> float:
        """Wall seconds to the end."""
        left = sum(e * self._factor(k[1]) for k, e in self._estimates.items() if k not in self._spent and k != self._current)
        if self._current is not None and self._current in self._estimates:
            expected = self._estimates[self._current] * self._factor(self._current[1])
            left += max(0.0, expected - (time.monotonic() - self._entered))
        return left

    def _factor(self, stage: str) -> float:
        """How much longer such stages took than estimated; all stages together where none of the kind has ended yet."""
        ended = [(k, s) for k, s in self._spent.items() if self._estimates.get(k)]
        alike = [(k, s) for k, s in ended if k[1] == stage] or ended
        expected, actual = sum(self._estimates[k] for k, _ in alike), sum(s for _, s in alike)
        return min(10.0, max(0.1, actual / expected)) if expected > 0 else 1.0
