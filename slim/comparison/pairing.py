"""The items of two runs side by side, or why they are not answers to the same questions.

Items are rows of ``samples.parquet`` (`slim.evaluate.samples`). A *head* is a figure that they enter, the ``<task>`` of
``accuracy/<task>``; ``weight`` is an item's share in it, and a figure that is no mean of its items' values, such as F1, has none.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slim.errors import ComparisonError

if TYPE_CHECKING:
    import pandas as pd

BASELINE, CONFIGURATION = "_baseline", "_configuration"
"""Suffixes of the columns of paired items."""

KEYS = ("task", "doc_id")
_HASHES = {"doc_hash": "questions", "prompt_hash": "prompts", "target_hash": "right answers"}
_FIGURES = ("head", "weight", "correct", "unscored")
COLUMNS = (*KEYS, *_HASHES, *_FIGURES)
"""Columns of the samples that a comparison needs."""


def read(path: Path, whose: str, columns: Sequence[str] = COLUMNS) -> "pd.DataFrame":
    """Return columns of a run's samples.

    Args:
        path: the parquet file.
        whose: named in an error.
        columns: to read.

    Raises:
        ComparisonError: not such a file, or a column is missing.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        missing = [name for name in columns if name not in pq.read_schema(path).names]
        if not missing:
            return pd.read_parquet(path, columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise ComparisonError(f"samples of {whose} cannot be read: {' '.join(str(error).split())[:200]}") from error
    raise ComparisonError(f"samples of {whose} lack {', '.join(missing)}: an earlier version wrote them, so evaluate it again")


def pair(baseline: "pd.DataFrame", configuration: "pd.DataFrame") -> "pd.DataFrame":
    """Return the items of two runs side by side.

    Args:
        baseline, configuration: samples with at least `COLUMNS`.

    Returns:
        Columns ``task``, ``doc_id`` and ``head``, and all but the first two once more with each of the suffixes `BASELINE` and
        `CONFIGURATION`; in the baseline's order, unscored items included. ``head`` is missing for all items of a figure that
        an item enters in only one of the runs: `differing_heads`.

    Raises:
        ComparisonError: the two did not answer the same questions: an item is missing in one of them or stands there twice,
            or its hashes differ. One line that names the task.
    """
    for samples, whose in ((baseline, "baseline"), (configuration, "configuration")):
        _refuse(samples[samples.duplicated(list(KEYS))], f"more than once in the {whose}'s samples")
    both = baseline.merge(
        configuration, how="outer", on=list(KEYS), suffixes=(BASELINE, CONFIGURATION), indicator=True, sort=False
    )
    for side, whose in (("left_only", "baseline"), ("right_only", "configuration")):
        _refuse(both[both["_merge"] == side], f"only in the {whose}'s samples")
    for column, what in _HASHES.items():
        _refuse(both[both[column + BASELINE] != both[column + CONFIGURATION]], f"{what} differ ({column})")
    before, after = both["head" + BASELINE], both["head" + CONFIGURATION]
    differing = both[(before != after) & ~(before.isna() & after.isna())]
    apart = {*differing["head" + BASELINE].dropna(), *differing["head" + CONFIGURATION].dropna()}
    both["head"] = before.mask(before.isin(apart) | after.isin(apart), None)
    return baseline[list(KEYS)].merge(both.drop(columns="_merge"), on=list(KEYS), how="left")


def differing_heads(pairs: "pd.DataFrame") -> list[str]:
    """Return the figures that the same items enter in only one of two runs, given what `pair` returns."""
    apart = pairs[pairs["head"].isna()]
    names = [*apart["head" + BASELINE].dropna(), *apart["head" + CONFIGURATION].dropna()]
    return list(dict.fromkeys(map(str, names)))


def _refuse(items: "pd.DataFrame", problem: str) -> None:
    """Raise if there are such items, naming the first task that has one."""
    if len(items):
        task = items["task"].iloc[0]
        found = items.loc[items["task"] == task, "doc_id"]
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise ComparisonError(f"task {task!r}, item {found.iloc[0]}{more}: {problem}")
