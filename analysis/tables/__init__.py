"""Tables as records, drawn as CSV, Markdown or LaTeX, and the tables of the two published studies from any frame."""

from analysis.tables.record import Align, Table, cell, header, make, text
from analysis.tables.studies import (
    accuracy,
    accuracy_drop,
    beside_published,
    bitsandbytes,
    by_precision,
    changes,
    dominated,
    efficiency,
    engine_effect,
    every,
    mmlu_groups,
    performance,
    relative_accuracy,
    slim_eval,
)

__all__ = [
    "Align",
    "Table",
    "accuracy",
    "accuracy_drop",
    "beside_published",
    "bitsandbytes",
    "by_precision",
    "cell",
    "changes",
    "dominated",
    "efficiency",
    "engine_effect",
    "every",
    "header",
    "make",
    "mmlu_groups",
    "performance",
    "relative_accuracy",
    "slim_eval",
    "text",
]
