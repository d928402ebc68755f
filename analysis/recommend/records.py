"""The answer to "which configuration": frozen records, drawn by whoever shows them."""

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.recommend.deployments import Request


@dataclass(frozen=True)
class Slack:
    """How far a configuration is on the good side of a constraint.

    Attributes:
        constraint: as it is written.
        key: metric, or ``verdict/<task>``.
        value: of the metric in its unit; None for a verdict.
        bound: what the constraint comes to for this configuration, in the same unit; None for a verdict.
        slack: in the same unit, negative where the constraint is missed; None for a verdict.
        relative: slack over the bound's size; a missed verdict is -1, a met one 0.
        verdict: what the store says; None for a limit and for a baseline, which meets it.
    """

    constraint: str
    key: str
    value: float | None
    bound: float | None
    slack: float | None
    relative: float
    verdict: str | None

    @property
    def met(self) -> bool:
        """Whether the constraint is met."""
        return self.relative >= 0 if self.slack is None else self.slack >= 0


@dataclass(frozen=True)
class Option:
    """A configuration that was weighed.

    Attributes:
        run_id: of its run.
        configuration: its name.
        values: of the objectives, by metric key, in their units.
        slacks: one a constraint that counted.
        distance: from the ideal point when objectives are balanced (`analysis.recommend.balance`); None otherwise.
        shortfalls: by metric key, how much of the front's range it is behind the front's best: 0 is the best on the front, 1 the
            worst. Empty where objectives are not balanced.
        flagged: why its measurement did not pass every check; None when it did.
    """

    run_id: str
    configuration: str
    values: Mapping[str, float]
    slacks: tuple[Slack, ...]
    distance: float | None
    shortfalls: Mapping[str, float]
    flagged: str | None


@dataclass(frozen=True)
class RunnerUp:
    """The best of those that are neither chosen nor tied with the choice.

    Attributes:
        option: the configuration.
        behind: how much worse it is: in the objective's unit, or as a difference of distances when objectives are balanced.
        relative: that over the size of the choice's value; None when balanced or when that value is 0.
        differences: by metric key, its value less the choice's.
    """

    option: Option
    behind: float
    relative: float | None
    differences: Mapping[str, float]


@dataclass(frozen=True)
class WeightRange:
    """Within which weight of an objective the balanced choice stays, the others keeping their proportions.

    Attributes:
        key: metric of the objective.
        weight: given, as a share of all weights.
        low: least share with this choice.
        high: greatest share with this choice.
        below: configuration that is chosen under ``low``; None when ``low`` is 0.
        above: configuration that is chosen over ``high``; None when ``high`` is 1.
    """

    key: str
    weight: float
    low: float
    high: float
    below: str | None
    above: str | None


@dataclass(frozen=True)
class Nearest:
    """What comes nearest where nothing qualifies.

    Attributes:
        option: the configuration.
        distance: sum of the relative amounts by which it misses constraints (`Slack.relative`), so without a unit; a missed
            verdict counts 1.
        misses: the constraints that it misses.
    """

    option: Option
    distance: float
    misses: tuple[Slack, ...]


@dataclass(frozen=True)
class Excluded:
    """A configuration that was not chosen from.

    Attributes:
        run_id: of its run.
        configuration: its name.
        reasons: why: what failed or is missing, or the constraints that it misses.
    """

    run_id: str
    configuration: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Recommendation:
    """An answer.

    Attributes:
        request: what was asked for.
        objectives: metric keys that decided, after what was measured; empty when none was.
        choice: None when nothing qualifies.
        ties: names of the configurations that are as good as the choice; `Request.then` and then the name decided.
        runner_up: None when nothing else qualifies or, balanced, nothing else is on the front.
        weights: one an objective when objectives are balanced, else empty.
        nearest: when nothing qualifies, and something could be judged.
        unmet: configurations that miss a constraint.
        left_out: configurations that could not be judged: failed, unfinished, something missing.
        dropped: objectives and constraints that did not count, as they are written, with the reason.
        replaced: objectives by metric key that were not measured, with the metric that stood in.
        flagged: how many of the configurations that were chosen from did not pass every check of their measurement.
        qualified: how many configurations were chosen from.
    """

    request: Request
    objectives: tuple[str, ...]
    choice: Option | None
    ties: tuple[str, ...]
    runner_up: RunnerUp | None
    weights: tuple[WeightRange, ...]
    nearest: Nearest | None
    unmet: tuple[Excluded, ...]
    left_out: tuple[Excluded, ...]
    dropped: Mapping[str, str]
    replaced: Mapping[str, str]
    flagged: int
    qualified: int
