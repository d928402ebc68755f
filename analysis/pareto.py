"""Pareto fronts. Arrays in, masks out; everything is minimised, directions come from the metric table."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from slim.errors import UserError
from slim.metrics import Better, get


def non_dominated(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which rows no other row dominates, every column minimised.

    A row dominates another when it is nowhere larger and somewhere smaller; equal rows do not dominate each other, so
    duplicates of a point on the front are all on it.

    Args:
        values: shape (points, objectives), no NaN.

    Raises:
        ValueError: NaN, or not two-dimensional.
    """
    if values.ndim != 2 or np.isnan(values).any():
        raise ValueError("objectives must be a two-dimensional array without NaN")
    keep = np.ones(len(values), dtype=bool)
    for index, point in enumerate(values):
        if keep[index]:
            dominated = (values >= point).all(axis=1) & (values > point).any(axis=1)
            keep &= ~dominated
    return keep


def front(frame: pd.DataFrame, objectives: Sequence[str]) -> pd.Series:
    """Return which configurations are on the Pareto front; False where an objective is missing.

    Args:
        frame: from `analysis.frame`.
        objectives: two or more metric keys with a direction.

    Raises:
        UserError: an unknown metric, or one without a direction.
    """
    signs = []
    for key in objectives:
        better = get(key).better
        if better is Better.NEITHER:
            raise UserError(f"metric {key!r} has no better direction, so it cannot be an objective")
        signs.append(-1.0 if better is Better.HIGHER else 1.0)
    known = frame.reindex(columns=list(objectives)).astype("float64")
    complete = known.notna().all(axis=1)
    mask = pd.Series(False, index=frame.index)
    if complete.any():
        mask[complete] = non_dominated(known[complete].to_numpy() * np.array(signs))
    return mask
