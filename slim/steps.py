"""A configuration cut into workers' shares: what comes next, whether it can begin, and beginning it.

The order of the shares of one configuration is fixed. In which order configurations take turns, and whether several are under
way at once, is `slim.sweep`'s and `slim.overlapping`'s.
"""

from collections.abc import Callable
from dataclasses import dataclass

from slim.jobs import Spooled
from slim.ledger import Entry, Ledger
from slim.planned import PlannedStage
from slim.records import NOTHING, Failure
from slim.runner import Runner

Results = list[tuple[PlannedStage, Spooled]]


@dataclass(frozen=True)
class Step:
    """What one worker does for a configuration.

    Attributes:
        repeat: that it belongs to.
        stages: one ``quantize``, or what is measured while the engine is open.
    """

    repeat: int
    stages: tuple[PlannedStage, ...]

    @property
    def quantizes(self) -> bool:
        """Whether it makes the checkpoint, after which measuring is left to do."""
        return self.stages[0].stage == "quantize"

    @property
    def evaluates(self) -> bool:
        """Whether accuracy is among what it measures."""
        return any(s.stage == "evaluate" for s in self.stages)


def following(entry: Entry, repeat: int, *, apart: bool = False) -> Step | None:
    """Return the next step of a configuration in a repeat; None when the repeat is done.

    Args:
        entry: the configuration.
        repeat: number of the repeat, from 0.
        apart: profile and evaluate by a worker each, where only one of them has to have a machine for itself.
    """
    todo = [s for s in entry.left() if s.repeat == repeat]
    making = [s for s in todo if s.stage == "quantize"]
    stages = making[:1] or (todo[:1] if apart else todo)
    return Step(repeat, tuple(stages)) if stages else None


class Steps:
    """Begins steps: looks up in the store what a worker has to be given.

    Args:
        ledger: of the sweep.
        runner: starts workers.
    """

    def __init__(self, ledger: Ledger, runner: Runner) -> None:
        self._ledger = ledger
        self._runner = runner

    def is_ready(self, entry: Entry, step: Step) -> bool:
        """Whether nothing is awaited: an evaluation waits for that of its baseline, when that is part of the sweep."""
        wanted = entry.planned.reference
        if wanted is None or not step.evaluates:
            return True
        baseline = next((e for e in self._ledger.entries if e.planned.name == wanted.name), None)
        return (
            baseline is None
            or baseline.ended
            or baseline.failure is not None
            or all(s.stage != "evaluate" for s in baseline.left())
        )

    def begin(self, entry: Entry, step: Step) -> Callable[[], Results]:
        """Return the work of a step, which touches neither store nor ledger.

        Raises:
            StageError: the checkpoint is not what was written.
            StoreError: the checkpoint cannot be fetched.
        """
        planned, stages, runner = entry.planned, list(step.stages), self._runner
        if step.quantizes:

            def quantize() -> Results:
                runner.prepare(planned)
                return [(stages[0], runner.quantize(planned, stages[0]))]

            return quantize
        against = self._ledger.reference(entry) if step.evaluates else NOTHING
        checkpoint = self._ledger.checkpoint(entry)

        def measure() -> Results:
            runner.prepare(planned)
            return list(zip(stages, runner.measure(planned, stages, checkpoint, against), strict=True))

        return measure


def impossible(entry: Entry) -> Failure | None:
    """Return why a configuration cannot work, when that was found before any work."""
    found = entry.planned.failure
    return Failure(found.reason, found.message) if found is not None else None
