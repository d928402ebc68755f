"""What a deployment asks for: the five that have a name, in one table, and whatever a user writes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite

from analysis.constraints import Constraint, Objective, parse_constraint, parse_objectives
from slim import standins
from slim.errors import UserError

ACCURACY, LATENCY, ENERGY, MEMORY = (
    " or ".join(standins.TABLE[name].decided) for name in ("Accuracy", "Latency", "Energy", "Memory")
)

AS_ACCURATE = "accuracy/mean >= 0.98 * baseline if measured"
"""Nearly as accurate as the original weights. MLPerf Inference asks for 99 % or 99.9 % of a reference's accuracy; a sweep that is
evaluated on some hundreds of items a task cannot tell 99 % from 98 %."""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        name: for a person.
        meaning: one sentence for a person; empty where the objectives say it all.
        objectives: one, which is to be as good as possible, or several, which are balanced.
        constraints: that a configuration must meet.
        weights: of the objectives when balanced, above 0; empty is equal.
        then: metrics that decide between equals, the first that differs.
    """

    name: str
    meaning: str
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()
    weights: tuple[float, ...] = ()
    then: tuple[Objective, ...] = ()

    def demanding(self, constraints: Iterable[str]) -> "Request":
        """Return the request with more constraints.

        Raises:
            UserError: one that cannot be read.
        """
        return replace(self, constraints=(*self.constraints, *map(parse_constraint, constraints)))


def request(
    objectives: Iterable[str],
    constraints: Iterable[str] = (),
    *,
    name: str = "as asked",
    meaning: str = "",
    weights: Iterable[float] = (),
    then: Iterable[str] = (ACCURACY, LATENCY, ENERGY, MEMORY),
) -> Request:
    """Return what a user wrote as a request; `analysis.constraints` has the forms.

    Raises:
        UserError: an objective or constraint that cannot be read, or weights that are not one above 0 an objective.
    """
    wanted, weighed = parse_objectives(objectives), tuple(float(weight) for weight in weights)
    if weighed and (len(weighed) != len(wanted) or not all(isfinite(weight) and weight > 0 for weight in weighed)):
        raise UserError(f"weights {weighed} are not one a objective; allowed: {len(wanted)} numbers above 0")
    stated = tuple(parse_constraint(text) for text in constraints)
    return Request(name, meaning, wanted, stated, weighed, parse_objectives(then))


DEPLOYMENTS: Mapping[str, Request] = {
    made.name: made
    for made in (
        request(
            [ACCURACY],
            name="accuracy-critical",
            meaning="The most accurate; of equally accurate ones the fastest.",
            then=(LATENCY, ENERGY, MEMORY),
        ),
        request(
            [LATENCY],
            [AS_ACCURATE],
            name="latency-critical",
            meaning="The least time to the last token that keeps 98 % of the baseline's accuracy.",
        ),
        request(
            [ENERGY],
            [AS_ACCURATE],
            name="energy-constrained",
            meaning="The least energy a query that keeps 98 % of the baseline's accuracy.",
        ),
        request(
            [MEMORY],
            [AS_ACCURATE],
            name="memory-constrained",
            meaning="The least memory that keeps 98 % of the baseline's accuracy.",
        ),
        request(
            [ACCURACY, LATENCY, ENERGY, MEMORY],
            name="balanced",
            meaning="The nearest to the best of everything: accuracy, latency, energy and memory weigh the same.",
        ),
    )
}
"""Deployments by name. A device with a given memory asks for something else than the least of it: ``request(["accuracy/mean"],
["memory/required_mib <= 8000"])``."""


def named(name: str) -> Request:
    """Return a deployment of the table.

    Raises:
        UserError: there is none of that name.
    """
    if name not in DEPLOYMENTS:
        raise UserError(f"unknown deployment {name!r}; allowed: {', '.join(DEPLOYMENTS)}")
    return DEPLOYMENTS[name]
