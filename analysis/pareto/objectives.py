"""From metric keys to arrays that are minimised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.pareto.dominance import Values
from slim.errors import UserError
from slim.metrics import Better, get

FEWEST, MOST = 2, 6
"""Objectives of an analysis."""


@dataclass(frozen=True)
class Objectives:
    """Configurations as points.

    Attributes:
        keys: metric keys.
        signs: shape (objectives,): 1 where lower is better, -1 where higher is.
        run_ids: of the configurations that have every objective, in the frame's order.
        values: shape (configurations, objectives), minimised.
        left_out: by run id, why the others are left out.
    """

    keys: tuple[str, ...]
    signs: npt.NDArray[np.float64]
    run_ids: tuple[str, ...]
    values: Values
    left_out: Mapping[str, str]

    def own(self, values: Values) -> dict[str, float]:
        """Return the coordinates of one point by metric key, in the metric's own direction."""
        # Zero stays zero when it is negated.
        return {key: float(value) for key, value in zip(self.keys, values * self.signs + 0.0, strict=True)}


def check(objectives: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return each objective's sign: 1 where lower is better, -1 where higher is.

    Raises:
        UserError: an unknown metric, one without a direction, one named twice, or not two to six of them.
    """
    signs = []
    for key in objectives:
        better = get(key).better
        if better is Better.NEITHER or key.endswith(("_ci_low", "_ci_high")):
            raise UserError(f"metric {key!r} has no better direction, so it cannot be an objective")
        signs.append(-1.0 if better is Better.HIGHER else 1.0)
    twice = [key for key in dict.fromkeys(objectives) if list(objectives).count(key) > 1]
    if twice:
        raise UserError(f"objectives: {twice[0]!r} is named more than once; name each metric once")
    if not FEWEST <= len(signs) <= MOST:
        raise UserError(f"objectives: {len(signs)} given ({', '.join(objectives)}); allowed: {FEWEST} to {MOST} metric keys")
    return np.array(signs)


def minimised(frame: pd.DataFrame, objectives: Sequence[str]) -> Objectives:
    """Return the configurations of a frame as points.

    A configuration that lacks an objective is left out, never taken for the worst.

    Args:
        frame: from `analysis.frame`.
        objectives: two to six metric keys with a direction.

    Raises:
        UserError: as `check`, or a run id stands in the frame twice.
    """
    signs = check(objectives)
    if frame.index.has_duplicates:
        raise UserError(f"frame: run {frame.index[frame.index.duplicated()][0]} stands there twice; give each run once")
    known = frame.reindex(columns=list(objectives)).astype("float64")
    known = known.where(np.isfinite(known))
    complete = known.notna().all(axis=1).to_numpy()
    left_out = {
        str(run_id): "no " + ", ".join(key for key, there in zip(objectives, row, strict=True) if not there)
        for run_id, row in zip(known.index[~complete], known[~complete].notna().to_numpy(), strict=True)
    }
    return Objectives(
        keys=tuple(objectives),
        signs=signs,
        run_ids=tuple(str(run_id) for run_id in known.index[complete]),
        values=known[complete].to_numpy() * signs + 0.0,
        left_out=left_out,
    )
