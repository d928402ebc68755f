"""Constraints held against the configurations of a frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import pandas as pd

from analysis.constraints import NON_INFERIOR, Constraint, NonInferior
from slim.precisions import BASELINES


@dataclass(frozen=True, eq=False)
class Checked:
    """A constraint held against a frame; every series has the frame's index.

    Attributes:
        constraint: that was checked.
        value: of the metric; NaN where unknown and for verdicts.
        bound: the limit that holds for the row, in the metric's unit; NaN where unknown and for verdicts.
        slack: how much the value is on the good side of the bound, in the metric's unit, negative where it is missed; NaN where
            unknown. A verdict has no size: 0 where met, -1 where not.
        relative: the slack over the bound's size, so without a unit; over the frame's greatest absolute value where the bound
            is 0. For a verdict the slack.
        verdict: what the store says; None where it says nothing and for limits.
        unknown: why a row cannot be judged, or None.
    """

    constraint: Constraint
    value: pd.Series
    bound: pd.Series
    slack: pd.Series
    relative: pd.Series
    verdict: pd.Series
    unknown: pd.Series

    @property
    def met(self) -> pd.Series:
        """Which rows are known to meet the constraint."""
        return self.slack >= 0


def baselines(frame: pd.DataFrame) -> pd.Series:
    """Return the run id of each row's baseline: its own where it is one, None where none is known.

    A row is a baseline when it has none and its precision is one that others are compared with, or when another row names it.
    """
    named = frame["baseline"].where(frame["baseline"].notna(), None).astype(object)
    own = frame["precision"].isin(BASELINES) | frame.index.isin(named.dropna())
    return named.where(named.notna() | ~own, pd.Series(frame.index, index=frame.index, dtype=object))


def check(frame: pd.DataFrame, constraint: Constraint, references: pd.DataFrame | None = None) -> Checked:
    """Hold a constraint against every row of a frame, whatever the row's status: a baseline's value counts also where the row
    itself cannot be chosen.

    Args:
        frame: configurations.
        constraint: to hold against them.
        references: baselines that are not among them (`analysis.selection.Selection`); None is none.
    """
    if isinstance(constraint, NonInferior):
        return _check_verdict(frame, constraint)
    value = _column(frame, constraint.key)
    everywhere = value if references is None else pd.concat([value, _column(references, constraint.key)])
    unknown = pd.Series(None, index=frame.index, dtype=object)
    if constraint.factor is None:
        bound = pd.Series(constraint.offset, index=frame.index)
    else:
        reference = baselines(frame)
        bound = constraint.factor * pd.Series(everywhere.reindex(reference).to_numpy(), index=frame.index) + constraint.offset
        unknown[bound.isna()] = f"its baseline has no {constraint.key}"
        unknown[reference.isna()] = "it has no baseline"
        unknown[reference.notna() & ~reference.isin(everywhere.index)] = "its baseline is not among these runs"
    unknown[value.isna()] = f"no {constraint.key}" + _near(constraint.key, frame, value)
    slack = value - bound if constraint.at_least else bound - value
    size = bound.abs().where(bound != 0, value.abs().max())
    relative = (slack / size).where(size != 0, 0.0).where(slack.notna())
    return Checked(constraint, value, bound, slack, relative, pd.Series(None, index=frame.index, dtype=object), unknown)


def applicable(checked: Sequence[Checked], rows: pd.Series) -> tuple[list[Checked], list[str]]:
    """Separate the constraints that count from those marked ``if measured`` whose metric no candidate has.

    Where it was measured the constraint counts: a row that cannot be judged by it, as it has no baseline, is not taken for one that
    meets it.

    Args:
        checked: constraints held against a frame.
        rows: which of its rows are candidates.

    Returns:
        The constraints that count, and the texts of the others.
    """
    counts = [bool((c.value.notna() | c.verdict.notna())[rows].any()) or not c.constraint.if_measured for c in checked]
    return (
        [c for c, count in zip(checked, counts, strict=True) if count],
        [c.constraint.text for c, count in zip(checked, counts, strict=True) if not count],
    )


def _check_verdict(frame: pd.DataFrame, constraint: NonInferior) -> Checked:
    nothing = pd.Series(np.nan, index=frame.index)
    missing = pd.Series(None, index=frame.index, dtype=object)
    said = frame[constraint.key].astype(object) if constraint.key in frame else missing
    verdict = said.where(said.notna(), None)
    own = (baselines(frame) == frame.index) & verdict.isna() & (constraint.key in frame)
    slack = nothing.mask(verdict.notna(), -1.0).mask((verdict == NON_INFERIOR) | own, 0.0)
    unknown = missing.mask(slack.isna(), f"no {constraint.key}" + _near(constraint.key, frame, said))
    return Checked(constraint, nothing, nothing, slack, slack, verdict, unknown)


def _column(frame: pd.DataFrame, key: str) -> pd.Series:
    return frame[key].astype("float64") if key in frame else pd.Series(np.nan, index=frame.index)


def _near(key: str, frame: pd.DataFrame, column: pd.Series) -> str:
    """What may have been meant where no row has anything under a key: a task's name is free, so a slip in it parses."""
    if column.notna().any():
        return ""
    near = get_close_matches(key, [name for name in frame.columns if "/" in name and name != key], n=3)
    return f" (near: {', '.join(near)})" if near else ""
