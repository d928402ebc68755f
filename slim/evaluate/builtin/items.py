"""The items of the built-in tasks, by task name: the one place the harness and the digests take them from."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from slim.evaluate.builtin.completion import completion

Item = Mapping[str, Any]


def _shipped(name: str) -> Callable[[], Sequence[Item]]:
    def load() -> Sequence[Item]:
        lines = (Path(__file__).parent / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    return load


_SOURCES: Mapping[str, Callable[[], Sequence[Item]]] = {
    "slim_arithmetic": _shipped("arithmetic"),
    "slim_facts": _shipped("facts"),
    "slim_completion": completion,
}


def load(task: str) -> Sequence[Item]:
    """Return the items of a built-in task in order; ``split`` of each says what it is for."""
    return _SOURCES[task]()


@cache
def digest(task: str) -> str:
    """Return a short hash of the task's items."""
    return hashlib.sha256(json.dumps(list(map(dict, load(task))), sort_keys=True).encode()).hexdigest()[:16]


def dataset(*, items: str, **_: Any) -> dict[str, Any]:
    """Return the items of the task called ``items`` by split, as the harness wants them (``custom_dataset``)."""
    from datasets import Dataset

    splits: dict[str, list[dict[str, Any]]] = {}
    for item in load(items):
        splits.setdefault(item["split"], []).append({key: value for key, value in item.items() if key != "split"})
    return {split: Dataset.from_list(rows) for split, rows in splits.items()}
