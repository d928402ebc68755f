"""Hypervolume: how much of the objective space points dominate, up to a reference point. Every column is minimised.

Volumes are shares of the box between the ideal point (the best value in each objective) and the reference point, so between 0 and
1 and the same in any units. Source: Zitzler and Thiele, IEEE Transactions on Evolutionary Computation 3 (1999), 257-271; moocore
computes them.
"""

import numpy as np

from analysis.pareto.dominance import Values, checked, non_dominated

MARGIN = 0.1
"""Share of the front's range by which the default reference point lies beyond its worst values."""

# Points on a front above which contributions take moocore more than about a second, by the number of objectives; without an
# entry they are cheap.
_MOST = {4: 1000, 5: 400, 6: 150}


def reference_point(values: Values) -> Values:
    """Return the default reference point: beyond the front's worst value in each objective by `MARGIN` of the front's range.

    It comes from the front alone, so a dominated point, however bad, changes nothing (the nadir point, moved outwards: Ishibuchi,
    Imada, Setoguchi and Nojima, Evolutionary Computation 26 (2018), 411-440). Where the front has a single value in an objective
    it is beyond it by `MARGIN` of its size, or by 1 where that is 0; the shares do not depend on how far.

    Args:
        values: shape (points, objectives), at least one point.

    Raises:
        ValueError: as `non_dominated`, or no points.
    """
    values = checked(values)
    if len(values) == 0:
        raise ValueError("a reference point needs points")
    front = values[non_dominated(values)]
    return beyond(front.min(axis=0), front.max(axis=0))


def beyond(best: Values, worst: Values) -> Values:
    """Return the point beyond the worst values by `MARGIN` of the range; where that is 0, of the value's size, or 1 for a 0."""
    single = np.where(worst == 0, 1.0, MARGIN * np.abs(worst))
    return np.asarray(worst + np.where(worst > best, MARGIN * (worst - best), single))


def hypervolume(values: Values, reference: Values, ideal: Values | None = None) -> float:
    """Return the share of the box between ideal and reference point that the points dominate.

    Args:
        values: shape (points, objectives), at least two objectives.
        reference: shape (objectives,); what lies beyond it does not count.
        ideal: shape (objectives,); by default the points' best values. The share can exceed 1 where points are better than it.

    Returns:
        0 when there are no points or none is better than the reference in every objective.
    """
    unit = _in_box(values, reference, ideal)
    if unit is None:
        return 0.0
    from moocore import hypervolume as volume

    return float(volume(unit[non_dominated(unit)], np.ones(unit.shape[1])))


def contributions(values: Values, reference: Values, ideal: Values | None = None) -> Values | None:
    """Return what share of the box each point alone dominates: by how much the hypervolume would shrink without it.

    Dominated points and such as lie beyond the reference have 0, and so have points that stand there twice, since the other one
    stays. A point is not held responsible for what it dominates coming up in its place: dominated points are left out first.

    Args:
        values, reference, ideal: as for `hypervolume`.

    Returns:
        shape (points,); None where the front has so many points in four or more objectives that it would take minutes.
    """
    unit = _in_box(values, reference, ideal)
    if unit is None:
        return np.zeros(len(values))
    on_front = non_dominated(unit)
    if is_costly(int(on_front.sum()), unit.shape[1]):
        return None
    from moocore import hv_contributions

    alone = np.zeros(len(unit))
    alone[on_front] = hv_contributions(unit[on_front], np.ones(unit.shape[1]))
    # Differences of volumes: rounding can leave one just below zero.
    return np.maximum(alone, 0.0)


def is_costly(points: int, objectives: int) -> bool:
    """Return whether a front is so large that its contributions, or thousands of hypervolumes, would take minutes."""
    return points > _MOST.get(objectives, np.inf)


def _in_box(values: Values, reference: Values, ideal: Values | None) -> Values | None:
    """The points with the ideal at 0 and the reference at 1; None where there is no such box."""
    values = checked(values)
    if len(values) == 0:
        return None
    best = values.min(axis=0) if ideal is None else np.asarray(ideal, dtype=np.float64)
    width = np.asarray(reference, dtype=np.float64) - best
    return (values - best) / width if (width > 0).all() else None
