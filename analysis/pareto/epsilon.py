"""Epsilon-dominance: dominance that overlooks differences up to a tolerance. Every column is minimised.

a epsilon-dominates b when in every objective ``a <= b + additive + relative * |b|``: the additive and the relative form of
Laumanns, Thiele, Deb and Zitzler, Evolutionary Computation 10 (2002), 263-282, and Zitzler, Thiele, Laumanns, Fonseca and Grunert
da Fonseca, IEEE Transactions on Evolutionary Computation 7 (2003), 117-132. For an objective that is maximised, and negated
here, a relative 0.02 therefore reads "at least 98 % of b".
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.pareto.dominance import Values, checked, non_dominated

_HELD = 1 << 24


@dataclass(frozen=True)
class Epsilon:
    """A tolerance in one objective; by default none.

    Attributes:
        additive: in the objective's unit.
        relative: share of the value that is compared with, at most 1, up to which a better value never has a larger limit.

    Raises:
        ValueError: negative, not finite, or a relative one above 1.
    """

    additive: float = 0.0
    relative: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.additive < np.inf and 0 <= self.relative <= 1):
            raise ValueError(f"{self}: additive must be 0 or more and finite, relative 0 to 1")


def tolerances(values: Values, epsilons: tuple[Epsilon, ...]) -> Values:
    """Return how much worse than each value another may be; shape as ``values``."""
    additive = np.array([e.additive for e in epsilons])
    relative = np.array([e.relative for e in epsilons])
    return np.asarray(additive + relative * np.abs(values))


def epsilon_front(values: Values, epsilons: tuple[Epsilon, ...]) -> npt.NDArray[np.bool_]:
    """Return the front and what is as good within epsilon: rows that epsilon-dominate some row of the front.

    Such a row is in no objective worse than one and the same row of the front by more than the tolerance. With epsilons of zero
    it is the front.

    Args:
        values: shape (points, objectives).
        epsilons: one an objective.
    """
    values = checked(values)
    front = np.unique(values[non_dominated(values)], axis=0)
    limit = front + tolerances(front, epsilons)
    near = np.zeros(len(values), dtype=bool)
    step = max(1, _HELD // max(1, front.size))
    for start in range(0, len(values), step):
        near[start : start + step] = np.any(np.all(values[start : start + step, None, :] <= limit, axis=2), axis=1)
    return near


def cover(values: Values, epsilons: tuple[Epsilon, ...]) -> npt.NDArray[np.bool_]:
    """Return a few rows of the front that together epsilon-dominate every row: an epsilon-Pareto set of Laumanns et al.

    The row that epsilon-dominates most of what is still uncovered comes first, and so on; of several the one with the smallest
    values, compared objective by objective. Greedy, so not always the fewest.

    Args:
        values: shape (points, objectives).
        epsilons: one an objective.
    """
    values = checked(values)
    front = np.unique(values[non_dominated(values)], axis=0)
    # What epsilon-dominates all of the front epsilon-dominates all.
    covers = np.all(front[:, None, :] <= front + tolerances(front, epsilons), axis=2)
    chosen: list[int] = []
    left = np.ones(len(front), dtype=bool)
    while left.any():
        chosen.append(int(np.argmax(np.sum(covers[:, left], axis=1))))
        left &= ~covers[chosen[-1]]
    same = np.all(values[:, None, :] == front[chosen], axis=2)
    # Of equal rows the first will do.
    found = np.zeros(len(values), dtype=bool)
    if len(values):
        found[same.argmax(axis=0)] = True
    return found
