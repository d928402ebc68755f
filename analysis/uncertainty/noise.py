"""What draws say: the probability of being on the front, who is tied within noise, epsilon-dominance, the hypervolume's interval."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from analysis.pareto import Epsilon, Objectives, cover, epsilon_front, hypervolume, non_dominated
from analysis.pareto.fronts import chosen_reference
from analysis.pareto.hypervolume import beyond, is_costly
from analysis.samples import Array
from analysis.uncertainty.draws import Draws, Spread
from slim.errors import UserError
from slim.stats import Interval

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Sureness:
    """How sure a configuration's place is.

    Attributes:
        run_id: of its run.
        on_front: as measured.
        probability: share of the draws in which no other configuration dominates it.
        probability_error: standard error of that share from the number of draws alone.
        within_epsilon: as measured, whether it is on the front or as good within epsilon; None without epsilons.
        epsilon_probability: share of the draws in which it is; None without epsilons.
        tied_with: run ids of those that cannot be told from it (`Uncertainty`), in the frame's order.
        spreads: by metric key, where its draws come from.
    """

    run_id: str
    on_front: bool
    probability: float
    probability_error: float
    within_epsilon: bool | None
    epsilon_probability: float | None
    tied_with: tuple[str, ...]
    spreads: Mapping[str, Spread]


@dataclass(frozen=True)
class Uncertainty:
    """How sure a front is.

    Two configurations are *tied within noise* when in no objective the draws tell them apart: in each the 95 % percentile interval
    of their difference, draw by draw, includes zero. An objective without uncertainty tells apart whatever is not equal in it.
    Being tied is not transitive, so a *group* is a set of which every two are tied: complete linkage over one minus the smallest
    two-sided bootstrap p-value of any objective. Only configurations that are on the front as measured or in some draw are looked
    at.

    Attributes:
        objectives: metric keys.
        configurations: those compared, in the frame's order.
        groups: run ids of configurations tied with one another, two or more a group, no configuration in two.
        cover: run ids of a few configurations that together are as good within epsilon as all; None without epsilons.
        hypervolume: of the measured front, a share of the box between ideal and reference; None when nothing was compared.
        hypervolume_interval: 95 % percentile interval of it over the draws, in the same box. A front of noisy points is better than
            the front of what is behind them, so the interval lies high; None when nothing was compared or it would take minutes.
        reference, ideal: corners of the box by metric key, in the metric's own unit. They are not those of the measured front,
            which can be smaller than the noise: the ideal is in each objective the 2.5 % quantile, from the better end, of the
            values of whatever is on the front of its draw; the reference lies beyond the 97.5 % quantile by a tenth of the way
            from the ideal, as that of `analysis.pareto.reference_point` does.
        constant: objectives without uncertainty in any configuration.
        draws: how many.
        left_out: by run id, why a configuration was not compared.
    """

    objectives: tuple[str, ...]
    configurations: tuple[Sureness, ...]
    groups: tuple[tuple[str, ...], ...]
    cover: tuple[str, ...] | None
    hypervolume: float | None
    hypervolume_interval: Interval | None
    reference: Mapping[str, float]
    ideal: Mapping[str, float]
    constant: tuple[str, ...]
    draws: int
    left_out: Mapping[str, str]

    @cached_property
    def by_run(self) -> Mapping[str, Sureness]:
        """The configurations by run id."""
        return {one.run_id: one for one in self.configurations}


def assess(
    draws: Draws, *, epsilons: Mapping[str, Epsilon] | None = None, reference: Mapping[str, float] | None = None
) -> Uncertainty:
    """Say how sure a front is.

    Args:
        draws: from `analysis.uncertainty.draw`.
        epsilons: tolerance by metric key, in the metric's own unit; none for objectives that are not named. None leaves out
            epsilon-dominance.
        reference: as `analysis.pareto.analyse` takes it.

    Raises:
        UserError: epsilons or reference name what is no objective.
    """
    points, values = draws.points, draws.values
    given = chosen_reference(points.keys, reference)
    tolerated = None if epsilons is None else _tolerated(points, epsilons)
    count = len(points.run_ids)
    if count == 0:
        cover_ids = None if tolerated is None else ()
        return Uncertainty(points.keys, (), (), cover_ids, None, None, {}, {}, draws.constant, len(values), points.left_out)
    fronts = np.array([non_dominated(one) for one in values])
    near = None if tolerated is None else np.array([epsilon_front(one, tolerated) for one in values])
    measured = non_dominated(points.values)
    ideal, worst = np.quantile(values[fronts], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    corner = beyond(ideal, worst)
    for key, value in given.items():
        corner[points.keys.index(key)] = points.signs[points.keys.index(key)] * value
    tied, groups = _ties(values, np.flatnonzero(fronts.any(axis=0) | measured), points)
    probability = fronts.mean(axis=0)
    within = None if tolerated is None else epsilon_front(points.values, tolerated)
    names = points.run_ids
    return Uncertainty(
        objectives=points.keys,
        configurations=tuple(
            Sureness(
                run_id=run_id,
                on_front=bool(measured[i]),
                probability=float(probability[i]),
                probability_error=float(np.sqrt(probability[i] * (1 - probability[i]) / len(values))),
                within_epsilon=None if within is None else bool(within[i]),
                epsilon_probability=None if near is None else float(near[:, i].mean()),
                tied_with=tuple(names[j] for j in np.flatnonzero(tied[i])),
                spreads=draws.spreads[run_id],
            )
            for i, run_id in enumerate(names)
        ),
        groups=groups,
        cover=None if tolerated is None else tuple(names[i] for i in np.flatnonzero(cover(points.values, tolerated))),
        hypervolume=hypervolume(points.values, corner, ideal),
        hypervolume_interval=_hypervolume_interval(values, fronts, corner, ideal),
        reference=points.own(corner),
        ideal=points.own(ideal),
        constant=draws.constant,
        draws=len(values),
        left_out=points.left_out,
    )


def _tolerated(points: Objectives, epsilons: Mapping[str, Epsilon]) -> tuple[Epsilon, ...]:
    for key in epsilons:
        if key not in points.keys:
            raise UserError(f"epsilon: {key!r} is not an objective; allowed: {', '.join(points.keys)}")
    return tuple(epsilons.get(key, Epsilon()) for key in points.keys)


def _hypervolume_interval(values: Array, fronts: npt.NDArray[np.bool_], corner: Array, ideal: Array) -> Interval | None:
    if is_costly(int(fronts.sum(axis=1).max()), values.shape[2]):
        return None
    volumes = [hypervolume(one[front], corner, ideal) for one, front in zip(values, fronts, strict=True)]
    low, high = np.quantile(volumes, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def _ties(
    values: Array, looked_at: npt.NDArray[np.int64], points: Objectives
) -> tuple[npt.NDArray[np.bool_], tuple[tuple[str, ...], ...]]:
    """Which pairs are tied, shape (configurations, configurations), and the groups, in the frame's order."""
    tied = np.zeros((len(points.run_ids),) * 2, dtype=bool)
    # Sorted by name, so that the frame's order does not decide between groupings that are equally good.
    chosen = np.array(sorted(looked_at, key=lambda i: points.run_ids[i]), dtype=np.int64)
    if len(chosen) < 2:
        return tied, ()
    distance = np.zeros((len(chosen), len(chosen)))
    for at in range(len(chosen) - 1):
        difference = values[:, chosen[at + 1 :]] - values[:, chosen[at], None]
        below, above = (difference <= 0).mean(axis=0), (difference >= 0).mean(axis=0)
        distance[at, at + 1 :] = distance[at + 1 :, at] = 1 - np.minimum(1, 2 * np.minimum(below, above)).min(axis=1)
    tied[np.ix_(chosen, chosen)] = (distance <= CONFIDENCE) & ~np.eye(len(chosen), dtype=bool)
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    label = fcluster(linkage(squareform(distance), "complete"), CONFIDENCE, "distance")
    members = [np.sort(chosen[label == one]) for one in np.unique(label)]
    groups = sorted((own for own in members if len(own) > 1), key=lambda own: int(own[0]))
    return tied, tuple(tuple(points.run_ids[i] for i in own) for own in groups)
