"""Rough time to the end of a sweep, and to the end of the step that is running."""

import time
from collections import deque

from slim.planned import Plan
from slim.records import Progress

_SEEN_AT_LEAST_S = 2.0
_SEEN_AT_MOST = 64
"""Observations of a step that are kept, so that hours of progress take no more memory and time than minutes."""


class StepLeft:
    """Time to the end of a step from its own rate over the latter half of the time it has run.

    The former half is left out because it tells little: answers taken over from an earlier attempt come at once, a model's
    first batches are slow, and what is ordered by length gets faster.
    """

    def __init__(self) -> None:
        self._step: tuple[str, ...] = ()
        self._entered_s = 0.0
        self._seen: deque[tuple[float, float]] = deque()

    def progress(self, name: str, stage: str, progress: Progress) -> None:
        """A stage reports."""
        now_s, share = time.monotonic(), progress.share
        step = (name, stage, progress.step)
        if step != self._step or (share is not None and self._seen and share < self._seen[-1][1]):
            self._step, self._entered_s = step, now_s
            self._seen.clear()
        if share is None:
            return
        elapsed_s = now_s - self._entered_s
        if self._seen and now_s - self._seen[-1][0] < elapsed_s / _SEEN_AT_MOST:
            return
        self._seen.append((now_s, share))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - elapsed_s / 2:
            self._seen.popleft()

    def left_s(self) -> float | None:
        """Wall seconds to the end of the step; None while too little has been seen of it."""
        if len(self._seen) < 2:
            return None
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        if last <= first or last_s - self._entered_s < _SEEN_AT_LEAST_S:
            return None
        expected_s = (1 - last) * (last_s - first_s) / (last - first)
        return max(0.0, expected_s - (time.monotonic() - last_s))


class TimeLeft:
    """The plan's estimates, scaled by how they have turned out so far.

    Args:
        plan: what is to be done.
        lanes: how many configurations are worked on at once, when enough are left.
    """

    def __init__(self, plan: Plan, lanes: int = 1) -> None:
        self._lanes = lanes
        self._estimates: dict[tuple[str, str], float] = {(c.name, s.stage): 0.0 for c in plan.configurations for s in c.stages}
        for c in plan.configurations:
            for s in c.stages:
                if s.to_run and c.run is None and c.failure is None:
                    self._estimates[c.name, s.stage] += s.estimate_s
        self._spent: dict[tuple[str, str], float] = {}
        self._current: dict[str, tuple[str, float]] = {}

    def progress(self, name: str, stage: str, _: Progress) -> None:
        """A stage reports."""
        if self._lanes == 1:
            for other in [n for n in self._current if n != name]:
                self._leave(other)
        if name not in self._current or self._current[name][0] != stage:
            self._leave(name)
            self._current[name] = (stage, time.monotonic())

    def ended(self, name: str) -> None:
        """A configuration has nothing left to do."""
        if self._lanes == 1:
            for other in list(self._current):
                self._leave(other)
        self._leave(name)
        for key in self._estimates:
            if key[0] == name and key not in self._spent:
                self._estimates[key] = 0.0

    def _leave(self, name: str) -> None:
        if name in self._current:
            stage, entered_s = self._current.pop(name)
            self._spent[name, stage] = self._spent.get((name, stage), 0.0) + time.monotonic() - entered_s

    def left_s(self) -> float:
        """Wall seconds to the end."""
        running = {(name, stage): entered_s for name, (stage, entered_s) in self._current.items()}
        left = 0.0
        longest: dict[str, float] = {}
        for key, estimate in self._estimates.items():
            if key in self._spent and key not in running:
                continue
            expected = estimate * self._factor(key[1])
            if key in running:
                expected = max(0.0, expected - (time.monotonic() - running[key]))
            left += expected
            longest[key[0]] = longest.get(key[0], 0.0) + expected
        # The steps of one configuration come one after another however many lanes there are.
        return max(left / self._lanes, max(longest.values(), default=0.0))

    def _factor(self, stage: str) -> float:
        """How much longer such stages took than estimated; all stages together where none of the kind has ended yet."""
        ended = [(k, s) for k, s in self._spent.items() if self._estimates.get(k)]
        alike = [(k, s) for k, s in ended if k[1] == stage] or ended
        expected, actual = sum(self._estimates[k] for k, _ in alike), sum(s for _, s in alike)
        return min(10.0, max(0.1, actual / expected)) if expected > 0 else 1.0
