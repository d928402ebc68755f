"""What one part of an evaluation gave, a task entry or the text: kept when it is finished, put together at the end."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from slim import metrics as catalogue
from slim.evaluate import scores
from slim.records import Dataset
from slim.tables import write_table

SAMPLES_FILE = "samples.parquet"
TOKENS_FILE = "perplexity_tokens.parquet"
RESULTS_FILE = "harness.json"
UNSCORED_TAG = "slim.unscored"
NOTES_TAG = "slim.evaluate_notes"
VALIDITY_TAG = "slim.validity"
UNSCORED_FLAG = "unscored_items"

_PART_FILE, _TABLE_FILE = "part.json", "table.parquet"
_FORMAT = 1
"""Raised when a part that an earlier version of this module wrote cannot be read any more."""
_NAMED_AT_MOST = 20

Value = str | int | float | bool


@dataclass(frozen=True)
class Part:
    """What one part gave.

    Attributes:
        file: name of the parquet file that its table belongs in.
        table: a `pyarrow.Table`, rows an item or a token.
        metrics: by key of `slim.metrics`; only what is known.
        figures: what enters the mean over tasks; None when a figure is missing that should, empty for what enters none.
        params: counts and settings.
        datasets: what was read.
        notes: what was done otherwise than asked.
        unscored: items that could not be scored: task, document id, why.
        harness: what goes into ``harness.json``, by entry.
    """

    file: str
    table: Any
    metrics: Mapping[str, float] = field(default_factory=dict)
    figures: tuple[float, ...] | None = ()
    params: Mapping[str, Value] = field(default_factory=dict)
    datasets: tuple[Dataset, ...] = ()
    notes: tuple[str, ...] = ()
    unscored: tuple[tuple[str, int, str], ...] = ()
    harness: Mapping[str, Any] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Write it into a directory."""
        values = {**asdict(replace(self, table=None)), "format": _FORMAT}
        (directory / _PART_FILE).write_text(json.dumps(values, default=str), encoding="utf-8")
        write_table(directory / _TABLE_FILE, self.table)

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """The inverse of `write`; None for what another version of this program wrote."""
        import pyarrow.parquet as pq

        values = json.loads((directory / _PART_FILE).read_text(encoding="utf-8"))
        if values.pop("format") != _FORMAT:
            return None
        return cls(
            **{
                **values,
                "table": pq.read_table(directory / _TABLE_FILE),
                "figures": None if values["figures"] is None else tuple(values["figures"]),
                "datasets": tuple(Dataset(**dataset) for dataset in values["datasets"]),
                "notes": tuple(values["notes"]),
                "unscored": tuple((task, doc_id, why) for task, doc_id, why in values["unscored"]),
            }
        )


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: by key of `slim.metrics`; only what is known.
        params: counts and settings that the tasks determine.
        datasets: what was read.
        tags: items that could not be scored, and what was done otherwise than a task asks.
    """

    metrics: dict[str, float]
    params: dict[str, Value]
    datasets: tuple[Dataset, ...]
    tags: dict[str, str]


def combine(parts: Sequence[Part], out: Path, more_notes: Sequence[str] = ()) -> Evaluation:
    """Put the parts together and write their files into ``out``; ``more_notes`` are of what has no part.

    Raises:
        ValueError: a metric that is not in the catalogue or not finite.
    """
    import pyarrow as pa

    metrics: dict[str, float] = {}
    params: dict[str, Value] = {}
    harness: dict[str, Any] = {}
    for part in parts:
        metrics |= part.metrics
        params |= part.params
        harness |= part.harness
    mean = scores.mean([part.figures for part in parts])
    if mean is not None:
        metrics["accuracy/mean"] = mean
    tags: dict[str, str] = {}
    unscored = [f"{task}[{doc_id}]: {why}" for part in parts for task, doc_id, why in part.unscored]
    params["evaluate.unscored_items"] = len(unscored)
    if unscored:
        more = f" (and {len(unscored) - _NAMED_AT_MOST} more)" if len(unscored) > _NAMED_AT_MOST else ""
        tags[UNSCORED_TAG] = "; ".join(unscored[:_NAMED_AT_MOST]) + more
        # The figures are over fewer items than those of a configuration that could score them all.
        tags[VALIDITY_TAG] = UNSCORED_FLAG
        metrics["validity/ok"] = 0.0
    notes = dict.fromkeys([*(note for part in parts for note in part.notes), *more_notes])
    if notes:
        tags[NOTES_TAG] = "; ".join(notes)
    for file in dict.fromkeys(part.file for part in parts):
        write_table(out / file, pa.concat_tables([part.table for part in parts if part.file == file]))
    text = json.dumps(harness, indent=1, default=str, sort_keys=True)
    (out / RESULTS_FILE).write_text(text + "\n", encoding="utf-8")
    return Evaluation(catalogue.check(metrics), params, tuple(dataset for part in parts for dataset in part.datasets), tags)
