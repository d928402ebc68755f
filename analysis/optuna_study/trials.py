"""A row of a frame as a trial."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.judging import Checked
from analysis.recommend.choose import FINISHED
from slim.precisions import CATALOGUE

if TYPE_CHECKING:
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import FrozenTrial

PARAMS = ("model", "precision", "engine")
"""Columns that are always parameters; dotted ones (``quantize.group_size``) are where they differ between rows."""
NONE = "none"
"""Choice of a setting that a configuration does not have, as original weights have no group size. Without a choice its trial would
not count for the importance of any parameter."""


def trials(frame: pd.DataFrame, keys: Sequence[str], checked: Sequence[Checked]) -> "dict[str, FrozenTrial]":
    """Return one trial a row, by run id: its objectives, and how much it misses each constraint by."""
    from optuna.trial import TrialState, create_trial

    spaces = _spaces(frame)
    values = frame.reindex(columns=list(keys)).to_numpy(dtype=np.float64)
    texts = [each.constraint.text for each in checked]
    slacks = np.array([each.slack[frame.index] for each in checked]).reshape(len(checked), len(frame)).T
    told = frame[["configuration", "status", "failure", "validity"]].itertuples(name=None)
    chosen = frame[list(spaces)].to_dict("records")
    made = {}
    for (run, configuration, status, failure, validity), row, slack, choices in zip(told, values, slacks, chosen, strict=True):
        finished, lacking = status == FINISHED, ~np.isfinite(row)
        complete = finished and not lacking.any()
        attributes = {
            "run_id": run,
            "configuration": configuration,
            "failure": "" if finished else failure if isinstance(failure, str) else status,
            "missing": ", ".join(np.array(keys)[lacking]) if finished else "",
            "validity": validity if isinstance(validity, str) else "",
            "unjudged": ", ".join(text for text, size in zip(texts, slack, strict=True) if np.isnan(size)) if complete else "",
        }
        params = {
            column: NONE if pd.isna(choice) else str(choice)
            for column, choice in choices.items()
            if pd.notna(choice) or column not in PARAMS
        }
        made[str(run)] = create_trial(
            state=TrialState.COMPLETE if complete else TrialState.FAIL,
            values=row.tolist() if complete else None,
            params=params,
            distributions={column: spaces[column] for column in params},
            user_attrs={name: value for name, value in attributes.items() if value},
            constraints=dict(zip(texts, map(_violation, slack), strict=True)) if complete else None,
        )
    return made


def _violation(slack: float) -> float:
    return 1.0 if np.isnan(slack) else 0.0 - float(slack)


def _spaces(frame: pd.DataFrame) -> "dict[str, CategoricalDistribution]":
    """Parameters with their choices: those of the catalogue in its order, numbers by size, others by the alphabet."""
    from optuna.distributions import CategoricalDistribution

    catalogue = {name: position for position, name in enumerate(CATALOGUE)}

    def rank(choice: str) -> tuple[float, float, str]:
        number = float(choice) if choice.replace(".", "", 1).isdigit() else math.inf
        return catalogue.get(choice, len(catalogue)), number, choice

    dotted = [column for column in frame.columns if "." in column and "/" not in column and frame[column].nunique() > 1]
    spaces = {}
    for column in (*PARAMS, *sorted(dotted)):
        choices = sorted({str(value) for value in frame[column].dropna()}, key=rank)
        if column not in PARAMS and frame[column].isna().any():
            choices.insert(0, NONE)
        if choices:
            spaces[column] = CategoricalDistribution(choices)
    return spaces
