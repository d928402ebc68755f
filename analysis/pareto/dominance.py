"""Dominance between points. Arrays in, arrays out; every column is minimised.

A point dominates another when it is nowhere larger and somewhere smaller. Equal points do not dominate each other, so they share
front, rank and crowding.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Values: TypeAlias = npt.NDArray[np.float64]

# Comparisons that are held at once, whatever the number of points.
_HELD = 1 << 24


def non_dominated(values: Values) -> npt.NDArray[np.bool_]:
    """Return which rows no other row dominates, by moocore's divide and conquer.

    Args:
        values: shape (points, objectives), no NaN.

    Raises:
        ValueError: NaN, or not two-dimensional.
    """
    values = checked(values)
    if len(values) == 0:
        return np.zeros(0, dtype=bool)
    if values.shape[1] == 1:
        # moocore wants two objectives; one that is the same for all changes nothing.
        values = np.hstack([values, np.zeros_like(values)])
    from moocore import is_nondominated

    return np.asarray(is_nondominated(values, keep_weakly=True), dtype=bool)


def ranks(values: Values) -> npt.NDArray[np.int64]:
    """Return each row's rank of non-dominated sorting: 0 is the front, 1 the front of what is left without it, and so on.

    Source: Deb, Pratap, Agarwal and Meyarivan, IEEE Transactions on Evolutionary Computation 6 (2002), 182-197, who count from 1;
    from 0 as in moocore, which computes it, and Optuna.

    Args:
        values: shape (points, objectives), no NaN.

    Raises:
        ValueError: as `non_dominated`.
    """
    values = checked(values)
    if len(values) == 0:
        return np.zeros(0, dtype=np.int64)
    if values.shape[1] == 1:
        values = np.hstack([values, np.zeros_like(values)])
    from moocore import pareto_rank

    return np.asarray(pareto_rank(values), dtype=np.int64)


def crowding(values: Values, rank: npt.NDArray[np.int64]) -> Values:
    """Return each row's crowding distance among the rows of its rank: how far its neighbours are, summed over objectives.

    In each objective it is the distance between the next smaller and the next larger value over the range of that rank's values,
    and infinite for the smallest and the largest (NSGA-II: Deb et al. 2002, section III-B, as `ranks`). Rows with the same value
    share their neighbours, where the paper leaves the outcome to the order of the rows; an objective in which a rank has but one
    value is left out, and a rank whose points are all equal has infinite distances.

    Args:
        values: shape (points, objectives).
        rank: of each row.
    """
    values = checked(values)
    distance = np.zeros(len(values))
    for one in np.unique(rank):
        rows = np.flatnonzero(rank == one)
        known = False
        for column in values[rows].T:
            levels, place = np.unique(column, return_inverse=True)
            if len(levels) == 1:
                continue
            known = True
            gaps = np.full(len(levels), np.inf)
            gaps[1:-1] = (levels[2:] - levels[:-2]) / (levels[-1] - levels[0])
            distance[rows] += gaps[place]
        if not known:
            distance[rows] = np.inf
    return distance


def dominators(values: Values, of: Values) -> npt.NDArray[np.bool_]:
    """Return which of some points dominate which of others.

    Args:
        values: the points, shape (points, objectives).
        of: the others, shape (others, objectives).

    Returns:
        shape (others, points).
    """
    values, of = checked(values), checked(of)
    found = np.zeros((len(of), len(values)), dtype=bool)
    step = max(1, _HELD // max(1, len(values)))
    for start in range(0, len(of), step):
        some = of[start : start + step]
        smaller, not_larger = np.zeros_like(found[: len(some)]), np.ones_like(found[: len(some)])
        for own, other in zip(values.T, some.T, strict=True):
            smaller |= own < other[:, None]
            not_larger &= own <= other[:, None]
        found[start : start + step] = smaller & not_larger
    return found


def checked(values: Values) -> Values:
    """Return the values as an array of numbers.

    Raises:
        ValueError: NaN, or not two-dimensional.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or np.isnan(array).any():
        raise ValueError("objectives must be a two-dimensional array without NaN")
    return array
