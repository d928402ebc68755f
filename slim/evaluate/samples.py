"""What the model answered, item by item: what two configurations are compared by."""

import json
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from slim.evaluate.scores import Choice

COLUMNS = (
    "task",
    "doc_id",
    "doc_hash",
    "prompt_hash",
    "target_hash",
    "target",
    "choice",
    "logprobs",
    "greedy",
    "correct",
    "beside",
    "text",
    "extracted",
    "unscored",
    "head",
    "weight",
)


def rows(
    task: Any, samples: list[Mapping[str, Any]], choice: Choice | None, unscored: Mapping[int, str]
) -> Iterator[dict[str, Any]]:
    """Yield one row an item.

    ``target`` is the right choice's index or the right text, ``choice`` the index of the answer by the figure that
    counts (None for generated answers), ``logprobs`` and ``greedy`` one value a choice, ``correct`` the item's value
    of the figure that counts and ``beside`` of the one beside it, ``text`` what was generated and ``extracted`` the
    answer taken from it, ``unscored`` why the item has no ``correct``.

    Args:
        task: the harness's task.
        samples: what the harness logged for it.
        choice: the figure that counts; None for tasks that score running text.
        unscored: by document id, why it could not be scored.
    """
    wanted = choice.filter if choice else samples[0]["filter"]
    beside = {}
    if choice and choice.beside:
        _, metric, extraction = choice.beside
        beside = {s["doc_id"]: s.get(metric) for s in samples if s["filter"] == extraction}
    for sample in samples:
        if sample["filter"] != wanted:
            continue
        doc_id = sample["doc_id"]
        problem = unscored.get(doc_id)
        pairs = _pairs(sample)
        yield {
            "task": task.task_name,
            "doc_id": doc_id,
            "doc_hash": sample["doc_hash"],
            "prompt_hash": sample["prompt_hash"],
            "target_hash": sample["target_hash"],
            "target": _plain(sample["target"]),
            "choice": _chosen(task, sample, choice, pairs) if problem is None else None,
            "logprobs": [value if isfinite(value) else None for value, _ in pairs],
            "greedy": [greedy for _, greedy in pairs],
            "correct": _number(sample.get(choice.metric)) if choice and problem is None else None,
            "beside": _number(beside.get(doc_id)) if problem is None else None,
            "text": _text(sample["resps"][0][0]),
            "extracted": _text(sample["filtered_resps"][0]),
            "unscored": problem,
        }


def enter(task: Any, rows: list[dict[str, Any]], metrics: Mapping[str, float]) -> None:
    """Say of each item of an entry which figure it enters, and its share in it (all items alike)."""
    from slim.evaluate.scores import _heads, metric_name

    def leaves(name: str) -> Iterator[str]:
        if name in task.groups:
            for child in task.groups[name].child_names:
                yield from leaves(child)
        else:
            yield name

    heads = {leaf: metric_name(head) for head in _heads(task) for leaf in leaves(head)}
    for row in rows:
        head = heads[row["task"]]
        row["head"] = head if f"accuracy/{head}" in metrics else None
    for row in rows:
        scored = sum(r["head"] == row["head"] and r["correct"] is not None for r in rows)
        row["weight"] = 1 / scored if row["head"] is not None and row["correct"] is not None else None


def without_gold(task: Any, samples: list[Mapping[str, Any]]) -> dict[int, str]:
    """Items of a multiple-choice task whose right answer is not among the choices; the harness counts them as wrong."""
    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input or task.multiple_target:
        return {}
    missing = {}
    for sample in samples:
        target, choices = sample["target"], task.doc_to_choice(sample["doc"])
        inside = target in choices if isinstance(target, str) else isinstance(target, int) and 0 <= target < len(choices)
        if not inside:
            missing[sample["doc_id"]] = f"the right answer {target!r} is not among the choices"
    return missing


def _pairs(sample: Mapping[str, Any]) -> list[tuple[float, bool]]:
    """Log-likelihood and greediness of each choice; empty for generated answers."""
    first = [answers[0] for answers in sample["resps"]]
    if all(isinstance(answer, tuple) for answer in first):
        return [(float(value), bool(greedy)) for value, greedy in first]
    return [(float(answer), False) for answer in first if isinstance(answer, float)]


def _chosen(task: Any, sample: Mapping[str, Any], choice: Choice | None, pairs: list[tuple[float, bool]]) -> int | None:
    """Index of the likeliest choice, by the length-normalised likelihood where that is what counts."""
    if choice is None or task.OUTPUT_TYPE != "multiple_choice":
        return None
    values = [value for value, _ in pairs]
    if not task.multiple_input:
        # The second half, where there is one, holds the choices without their context.
        choices = task.doc_to_choice(sample["doc"])
        values = values[: len(choices)]
        if choice.metric == "acc_norm":
            values = [value / len(text) for value, text in zip(values, choices, strict=True)]
    return values.index(max(values))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
