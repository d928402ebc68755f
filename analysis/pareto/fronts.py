"""Configurations sorted into fronts: the record that tables, figures and recommendations are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.pareto import dominance, hypervolume
from analysis.pareto.dominance import Values
from analysis.pareto.objectives import Objectives, minimised
from slim.errors import UserError


@dataclass(frozen=True)
class Placed:
    """A configuration among the others.

    Attributes:
        run_id: of its run.
        values: by metric key, as measured.
        rank: of non-dominated sorting; 0 is the front.
        crowding: distance to its neighbours within its rank (`dominance.crowding`); infinite at the ends.
        contribution: share of the box up to the reference point that it alone dominates; 0 off the front; None where the front
            is too large to tell (`hypervolume.contributions`).
        dominated_by: run ids of the configurations on the front that dominate it, the frame's order; empty on the front.
        equal_to: run ids of those with the same value in every objective.
    """

    run_id: str
    values: Mapping[str, float]
    rank: int
    crowding: float
    contribution: float | None
    dominated_by: tuple[str, ...]
    equal_to: tuple[str, ...]


@dataclass(frozen=True)
class Front:
    """Configurations sorted by dominance.

    Attributes:
        objectives: metric keys.
        reference: the reference point, by metric key, in the metric's own unit; empty when nothing was compared.
        ideal: the best value of each objective, likewise.
        hypervolume: share of the box between ideal and reference that the front dominates; None when nothing was compared.
        configurations: those that were compared, in the frame's order.
        left_out: by run id, why a configuration was not compared.
    """

    objectives: tuple[str, ...]
    reference: Mapping[str, float]
    ideal: Mapping[str, float]
    hypervolume: float | None
    configurations: tuple[Placed, ...]
    left_out: Mapping[str, str]

    @cached_property
    def run_ids(self) -> tuple[str, ...]:
        """Of the configurations on the front, in the frame's order."""
        return tuple(placed.run_id for placed in self.configurations if placed.rank == 0)

    @cached_property
    def by_run(self) -> Mapping[str, Placed]:
        """The compared configurations by run id."""
        return {placed.run_id: placed for placed in self.configurations}

    def frame(self) -> pd.DataFrame:
        """Return a row a compared configuration, indexed by run id: the objectives, then the attributes of `Placed`."""
        columns = [*self.objectives, "rank", "crowding", "contribution", "dominated_by", "equal_to"]
        rows = [[*p.values.values(), p.rank, p.crowding, p.contribution, p.dominated_by, p.equal_to] for p in self.configurations]
        index = pd.Index([p.run_id for p in self.configurations], name="run_id", dtype=object)
        return pd.DataFrame(rows, columns=columns, index=index)


def front(frame: pd.DataFrame, objectives: Sequence[str]) -> pd.Series:
    """Return which configurations are on the Pareto front; False where an objective is missing.

    Args:
        frame: from `analysis.frame`.
        objectives: two to six metric keys with a direction.

    Raises:
        UserError: as `analysis.pareto.check`.
    """
    points = minimised(frame, objectives)
    on_front = {run_id for run_id, on in zip(points.run_ids, dominance.non_dominated(points.values), strict=True) if on}
    return pd.Series([str(run_id) in on_front for run_id in frame.index], index=frame.index, dtype=bool)


def analyse(frame: pd.DataFrame, objectives: Sequence[str], reference: Mapping[str, float] | None = None) -> Front:
    """Sort the configurations of a frame by dominance.

    Args:
        frame: from `analysis.frame`.
        objectives: two to six metric keys with a direction.
        reference: reference point of the hypervolume by metric key, in the metric's own unit; by default
            `hypervolume.reference_point`, which may be overridden for some objectives only.

    Raises:
        UserError: as `analysis.pareto.check`, or the reference names what is no objective or no number.
    """
    points = minimised(frame, objectives)
    given = chosen_reference(points.keys, reference)
    if not points.run_ids:
        return Front(points.keys, {}, {}, None, (), points.left_out)
    values = points.values
    corner = hypervolume.reference_point(values)
    for key, value in given.items():
        at = points.keys.index(key)
        corner[at] = points.signs[at] * value
    rank = dominance.ranks(values)
    alone = hypervolume.contributions(values, corner)
    return Front(
        objectives=points.keys,
        reference=points.own(corner),
        ideal=points.own(values.min(axis=0)),
        hypervolume=hypervolume.hypervolume(values, corner),
        configurations=_placed(points, rank, dominance.crowding(values, rank), alone),
        left_out=points.left_out,
    )


def chosen_reference(objectives: Sequence[str], reference: Mapping[str, float] | None) -> Mapping[str, float]:
    """Return the coordinates of the reference point that the user gave.

    Raises:
        UserError: a key that is no objective, or a value that is no finite number.
    """
    for key, value in (reference or {}).items():
        if key not in objectives:
            raise UserError(f"reference: {key!r} is not an objective; allowed: {', '.join(objectives)}")
        if not np.isfinite(value):
            raise UserError(f"reference: {key!r} is {value!r}; give a finite number")
    return reference or {}


def _placed(points: Objectives, rank: npt.NDArray[np.int64], crowding: Values, alone: Values | None) -> tuple[Placed, ...]:
    names = np.array(points.run_ids, dtype=object)
    on_front = np.flatnonzero(rank == 0)
    behind = np.flatnonzero(rank > 0)
    better = dominance.dominators(points.values[on_front], points.values[behind])
    dominated_by = {int(i): tuple(names[on_front[row]]) for i, row in zip(behind, better, strict=True)}
    _, group, size = np.unique(points.values, axis=0, return_inverse=True, return_counts=True)
    members: dict[int, list[int]] = {}
    for i in np.flatnonzero(size[group.ravel()] > 1):
        members.setdefault(int(group.ravel()[i]), []).append(int(i))
    equal_to = {i: tuple(names[j] for j in others if j != i) for others in members.values() for i in others}
    own = (points.values * points.signs + 0.0).tolist()
    return tuple(
        Placed(
            run_id=run_id,
            values=dict(zip(points.keys, own[i], strict=True)),
            rank=int(rank[i]),
            crowding=float(crowding[i]),
            contribution=None if alone is None else float(alone[i]),
            dominated_by=dominated_by.get(i, ()),
            equal_to=equal_to.get(i, ()),
        )
        for i, run_id in enumerate(points.run_ids)
    )
