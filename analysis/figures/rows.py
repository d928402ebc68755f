"""A frame made ready for figures: which configurations are drawn, in which order, under which names."""

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from analysis import cells
from slim import metrics, precisions

GROUP_LIMIT = 24
"""More groups of bars than that cannot be read at paper width."""
ROW_LIMIT = 60
"""More rows of a heat map or of boxes than that cannot be read on a page."""
_MMLU_GROUPS = ("humanities", "other", "social_sciences", "stem")
"""Of which the harness gives figures beside the whole; other tasks whose names begin alike, as ``mmlu_pro``, are none of its parts."""
_SECTION = re.compile(r"\b(?:quantize|engine_options)\.")


def prepare(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the finished configurations in drawing order, with the columns that figures share.

    Added are ``short`` (the model's short name), ``group`` (that, with the hardware where there are several), ``series`` (the
    precision, with the engine where there are several and with what ``variant`` says where two bear one name; numbered where a group has
    it twice all the same), ``engine_number`` and ``label`` (group and series).
    """
    shown = frame[frame["status"] == "FINISHED"].copy()
    shown["short"] = [str(name).partition("/")[0] for name in shown["configuration"]]
    several = shown["hardware"].nunique() > 1
    shown["group"] = [f"{m}, {h}" if several else m for m, h in zip(shown["short"], shown["hardware"], strict=True)]
    found = {e for e in shown["engine"] if isinstance(e, str)}
    engines = [*(e for e in precisions.ENGINES if e in found), *sorted(found - set(precisions.ENGINES))]
    shown["engine_number"] = [engines.index(e) if e in engines else 0 for e in shown["engine"]]
    order = list(precisions.CATALOGUE)
    shown["precision"] = [p if isinstance(p, str) else "unknown" for p in shown["precision"]]
    shown["_order"] = [order.index(p) if p in order else len(order) for p in shown["precision"]]
    shown = shown.sort_values(["group", "_order", "precision", "engine_number"], kind="stable").drop(columns="_order")
    names = [f"{p}@{e}" if len(engines) > 1 else p for p, e in zip(shown["precision"], shown["engine"], strict=True)]
    if "variant" in shown:
        told = [_SECTION.sub("", text) if isinstance(text, str) else "" for text in shown["variant"]]
        names = [f"{name} ({text})" if text else name for name, text in zip(names, told, strict=True)]
    again = pd.Series(names, index=shown.index).groupby([shown["group"].to_numpy(), names]).cumcount()
    shown["series"] = [f"{name} ({n + 1})" if n else name for name, n in zip(names, again, strict=True)]
    alone = shown["group"].nunique() == 1
    shown["label"] = [s if alone else f"{g} {s}" for g, s in zip(shown["group"], shown["series"], strict=True)]
    return shown


def known(frame: pd.DataFrame, key: str) -> bool:
    """Whether any configuration has the metric."""
    return key in frame.columns and bool(frame[key].notna().any())


def first_known(frame: pd.DataFrame, keys: Sequence[str]) -> str | None:
    """Return the first metric that any configuration has, or None."""
    return next((key for key in keys if known(frame, key)), None)


def value(row: pd.Series, key: str) -> float | None:
    """Return a metric of a row; None where it is unknown."""
    return cells.number(row.get(key))


def interval(row: pd.Series, key: str) -> tuple[float, float] | None:
    """Return the confidence interval that the store has for a metric; None where it has none."""
    low, high = value(row, f"{key}_ci_low"), value(row, f"{key}_ci_high")
    return None if low is None or high is None else (low, high)


def tasks(frame: pd.DataFrame, *, parts: bool) -> list[str]:
    """Return the tasks with a known accuracy, in the frame's order.

    Args:
        frame: configurations.
        parts: with the groups of MMLU (``mmlu_stem`` beside ``mmlu``), or without.
    """
    found = [
        column.removeprefix("accuracy/")
        for column in frame.columns
        if isinstance(column, str) and _is_task(column) and known(frame, column)
    ]
    names = sorted(found)
    groups = {f"{name}_{group}" for name in names if "mmlu" in name for group in _MMLU_GROUPS}
    return [name for name in names if parts or name not in groups]


def _is_task(column: str) -> bool:
    entry = metrics.find(column)
    return entry is not None and entry.key == "accuracy/<task>" and not column.endswith(("_ci_low", "_ci_high"))


def unique(items: Iterable[str]) -> list[str]:
    """Return the items once each, in order."""
    return list(dict.fromkeys(items))
