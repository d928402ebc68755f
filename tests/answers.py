"""Samples as an evaluation writes them, made up: what a run answered, item by item."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from slim.tables import write_parquet


def answers(
    correct: Sequence[float | None], task: str = "facts", head: str | None = None, weights: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """Return the rows of a task with two choices an item, the first of which is right; None is an unscored item."""
    scored = sum(value is not None for value in correct)
    return [
        {
            "task": task,
            "doc_id": item,
            "doc_hash": f"{task}-{item}",
            "prompt_hash": f"prompt-{task}-{item}",
            "target_hash": f"target-{task}-{item}",
            "target": "0",
            "choice": None if value is None else int(value != 1),
            "logprobs": [-1.0 - item, -2.0] if value == 1 else [-2.5, -1.0 - item / 4],
            "greedy": [False, False],
            "correct": value,
            "beside": None,
            "text": None,
            "extracted": None,
            "unscored": "too long" if value is None else None,
            "head": head or task,
            "weight": None if value is None else 1 / scored if weights is None else weights[item],
        }
        for item, value in enumerate(correct)
    ]


def frame(*tasks: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows of some tasks as a frame."""
    return pd.DataFrame([row for rows in tasks for row in rows])


def write(directory: Path, *tasks: list[dict[str, Any]]) -> Path:
    """Write the rows of some tasks as an evaluation does and return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    write_parquet(directory / "samples.parquet", [row for rows in tasks for row in rows])
    return directory
