"""The balanced choice: the least distance from the ideal point. Arrays in, arrays out; everything is minimised.

Compromise programming (P. L. Yu, Management Science 19, 1973; M. Zeleny, "Compromise programming", 1973), with the Euclidean
distance. The ideal point has the best value of every objective on the Pareto front, the nadir point the worst on the front, and
each objective is measured as a share of the way between the two. So a change of units (a positive factor, a shift) changes
nothing, nor do dominated points and copies of a point, since neither moves the front's ends. With weights above 0 the nearest
point is on the front (K. Miettinen, Nonlinear Multiobjective Optimization, 1999, section 3.4), dents of the front included,
which a weighted sum never reaches. A knee was not chosen: a front of three to ten points, the usual case here, often has none.
"""

import numpy as np
import numpy.typing as npt

from analysis import pareto

Array = npt.NDArray[np.float64]

TOLERANCE = 1e-9
"""Distances (0 to 1) that differ by less are equal: normalising rounds."""


def shortfalls(values: Array) -> Array:
    """Return the share of the front's range that each point is behind the front's best, objective by objective.

    Args:
        values: shape (points, objectives), one or more points, no NaN.

    Returns:
        Same shape: 0 is the front's best, 1 the front's worst; more than 1 is possible off the front. An objective that is the
        same all over the front is 0, and so has no say.
    """
    best = values[pareto.non_dominated(values)]
    ideal, span = best.min(axis=0), np.ptp(best, axis=0)
    shares: Array = np.divide(values - ideal, span, out=np.zeros_like(values), where=span > 0)
    return shares


def distances(behind: Array, weights: Array) -> Array:
    """Return the weighted Euclidean distance from the ideal point, 0 there and 1 at the nadir point.

    Args:
        behind: from `shortfalls`, shape (points, objectives).
        weights: shape (objectives,), above 0.
    """
    lengths: Array = np.sqrt(((weights * behind) ** 2).sum(axis=1) / (weights**2).sum())
    return lengths


def ranges(behind: Array, weights: Array, chosen: int) -> list[tuple[float, float, int | None, int | None]]:
    """Return within which weight of each objective the chosen point stays the nearest.

    A weight t of objective i leaves 1 - t to the others, in their proportions. With x the shortfall in i and R the weighted sum
    of squares of the others, the choice c is no farther than r when (x_c² - x_r²) t² + (R_c - R_r) (1 - t)² <= 0, which is
    linear in (t / (1 - t))²; the interval is where this holds against every other point.

    Args:
        behind: from `shortfalls`, of points on the front.
        weights: shape (objectives,), above 0, sum 1.
        chosen: index of the nearest point.

    Returns:
        For each objective: least and greatest weight, and the points that take over below and above (None at 0 and 1).
    """
    found: list[tuple[float, float, int | None, int | None]] = []
    for index, weight in enumerate(weights):
        if len(weights) == 1:
            found.append((0.0, 1.0, None, None))
            continue
        rest = np.delete(behind, index, axis=1) * (np.delete(weights, index) / (1 - weight))
        gain = behind[chosen, index] ** 2 - behind[:, index] ** 2
        cost = (rest[chosen] ** 2).sum() - (rest**2).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.sqrt(np.maximum(-cost / gain, 0.0))
            share = np.where(np.isinf(root), 1.0, root / (1 + root))
        upper = np.where(gain > 0, share, np.inf)
        lower = np.where((gain < 0) & (cost > 0), share, -np.inf)
        above, below = int(upper.argmin()), int(lower.argmax())
        high, low = float(min(upper[above], 1.0)), float(max(lower[below], 0.0))
        found.append(
            (
                min(low, float(weight)),
                max(high, float(weight)),
                below if low > 0 else None,
                above if high < 1 else None,
            )
        )
    return found
