"""Cells of a frame as what they are."""

import math

import pandas as pd


def number(cell: object) -> float | None:
    """Return a cell as a number; None where it is unknown."""
    return None if cell is None or pd.isna(cell) else float(cell)  # type: ignore[arg-type]


def number_or_nan(cell: object) -> float:
    """Return a cell as a number for arithmetic on arrays; NaN where it is unknown."""
    found = number(cell)
    return math.nan if found is None else found
