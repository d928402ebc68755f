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
        # Of a configuration's stage, an estimate for each repeat that has not begun.
        self._ahead: dict[tuple[str, str], list[float]] = {}
        for c in plan.configurations:
            for s in c.stages:
                if s.to_run and c.run is None and c.failure is None:
                    self._ahead.setdefault((c.name, s.stage), []).append(s.estimate_s)
        self._done: list[tuple[str, float, float]] = []  # stage, estimate, what it took
        self._current: dict[str, tuple[str, float, float]] = {}  # by configuration: stage, when it began, estimate

    def progress(self, name: str, stage: str, _: Progress) -> None:
        """A stage reports."""
        if self._lanes == 1:
            for other in [n for n in self._current if n != name]:
                self.step_ended(other)
        if name not in self._current or self._current[name][0] != stage:
            self.step_ended(name)
            ahead = self._ahead.get((name, stage))
            self._current[name] = (stage, time.monotonic(), ahead.pop(0) if ahead else 0.0)

    def step_ended(self, name: str) -> None:
        """What was under way of a configuration has ended; what it does next, though the same stage, is another repeat."""
        if name in self._current:
            stage, entered_s, estimate = self._current.pop(name)
            self._done.append((stage, estimate, time.monotonic() - entered_s))

    def ended(self, name: str) -> None:
        """A configuration has nothing left to do."""
        for other in list(self._current) if self._lanes == 1 else [name]:
            self.step_ended(other)
        for key in [key for key in self._ahead if key[0] == name]:
            del self._ahead[key]

    def left_s(self) -> float:
        """Wall seconds to the end."""
        left: dict[str, float] = {}
        for (name, stage), estimates in self._ahead.items():
            left[name] = left.get(name, 0.0) + sum(estimates) * self._factor(stage)
        for name, (stage, entered_s, estimate) in self._current.items():
            expected = estimate * self._factor(stage) - (time.monotonic() - entered_s)
            left[name] = left.get(name, 0.0) + max(0.0, expected)
        # The steps of one configuration come one after another however many lanes there are.
        return max(sum(left.values()) / self._lanes, max(left.values(), default=0.0))

    def _factor(self, stage: str) -> float:
        """How much longer such stages took than estimated; all stages together where none of the kind has ended yet."""
        ended = [(kind, estimate, actual) for kind, estimate, actual in self._done if estimate]
        alike = [one for one in ended if one[0] == stage] or ended
        expected, actual = sum(one[1] for one in alike), sum(one[2] for one in alike)
        return min(10.0, max(0.1, actual / expected)) if expected > 0 else 1.0
