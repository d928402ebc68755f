"""What the model answered, item by item: what two configurations are compared by."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import fsum, isclose, isfinite
from typing import Any

import numpy as np

from slim.evaluate.primary import Choice
from slim.evaluate.scores import Head, metric_name

COLUMNS = {
    "task": "string",
    "head": "string",
    "doc_id": "int32",
    "doc_hash": "string",
    "prompt_hash": "string",
    "target_hash": "string",
    "target": "string",
    "choice": "int32",
    "logprobs": "list<double>",
    "greedy": "list<bool>",
    "correct": "double",
    "weight": "double",
    "beside": "double",
    "text": "string",
    "extracted": "string",
    "truncated": "bool",
    "unscored": "string",
}
"""Names and Arrow types of the columns; docs/evaluation.md says what they hold. Log-likelihoods are not rounded: single precision
would save a twentieth of the file and could make two choices equal."""

_NO_ANSWER = ("", "[invalid]")
"""What the harness's filters give for a text in which they find no answer, unless a task's file says otherwise."""

Row = dict[str, Any]


def rows(
    task: Any,
    samples: Sequence[Mapping[str, Any]],
    choice: Choice | None,
    unscored: Mapping[int, str],
    truncated: Collection[int] = (),
    *,
    greedy: bool = True,
) -> Iterator[Row]:
    """Yield one row an item, without ``head`` and ``weight``, which `weigh` adds.

    Args:
        task: the harness's task.
        samples: what the harness logged for it.
        choice: the figure that counts; None for tasks that score running text.
        unscored: by document id, why it could not be scored.
        truncated: document ids whose context was cut.
        greedy: whether the model was asked what is most likely.
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
        values = _likelihoods(sample)
        yield {
            "task": task.task_name,
            "doc_id": doc_id,
            "doc_hash": sample["doc_hash"],
            "prompt_hash": sample["prompt_hash"],
            "target_hash": sample["target_hash"],
            "target": _plain(sample["target"]),
            "choice": _chosen(task, sample, choice, values) if problem is None else None,
            "logprobs": [value if isfinite(value) else None for value in values],
            "greedy": _greedy(sample) if greedy else None,
            "correct": _number(sample.get(choice.metric)) if choice and problem is None else None,
            "beside": _number(beside.get(doc_id)) if problem is None else None,
            "text": _text(sample["resps"][0][0]),
            "extracted": _text(sample["filtered_resps"][0]),
            "truncated": doc_id in truncated,
            "unscored": problem,
        }


def weigh(head: Head | None, own: Sequence[Row]) -> None:
    """Set ``head`` and ``weight`` of the items that enter a figure.

    A figure that is no mean of its items' values, such as F1 over all of them, has a head and no weights.

    Args:
        head: the figure; None or one without a choice for items that enter none.
        own: rows of its tasks.
    """
    counts: dict[str, int] = {}
    for row in own:
        row["head"] = row["weight"] = None
        if row["correct"] is not None:
            counts[row["task"]] = counts.get(row["task"], 0) + 1
    if head is None or head.choice is None:
        return
    shares = head.weights(counts)
    total = fsum(shares[row["task"]] * row["correct"] for row in own if row["correct"] is not None)
    is_mean = head.value is not None and isclose(total, head.value, rel_tol=1e-6, abs_tol=1e-9)
    for row in own:
        row["head"] = metric_name(head.name)
        row["weight"] = shares[row["task"]] if is_mean and row["correct"] is not None else None


def without_answer(own: Sequence[Row]) -> int:
    """Count the generated texts in which no answer was found; the harness counts them as wrong."""
    return sum(not row["text"].strip() or row["extracted"] in _NO_ANSWER for row in own if row["text"] is not None)


def table(own: Sequence[Row]) -> Any:
    """Return the rows as a `pyarrow.Table` with the types of `COLUMNS`, whatever is missing in them."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int32": pa.int32(),
        "double": pa.float64(),
        "bool": pa.bool_(),
        "list<double>": pa.list_(pa.float64()),
        "list<bool>": pa.list_(pa.bool_()),
    }
    return pa.Table.from_pylist(list(own), schema=pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()]))


def without_gold(task: Any, samples: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Items whose right answer is not among the choices, of a task whose choices the harness compares; it counts them as wrong."""
    if task.multiple_input or task.multiple_target:
        return {}
    missing = {}
    for sample in samples:
        target, choices = sample["target"], task.doc_to_choice(sample["doc"])
        # A number, of whatever type, is compared with the choice's index.
        if target not in (choices if isinstance(target, str) else range(len(choices))):
            missing[sample["doc_id"]] = f"the right answer {target!r} is not among the choices"
    return missing


def _likelihoods(sample: Mapping[str, Any]) -> list[float]:
    """Log-likelihood of each choice, or of the text; empty for generated answers."""
    first = [answers[0] for answers in sample["resps"]]
    return [float(answer[0] if isinstance(answer, tuple) else answer) for answer in first if isinstance(answer, tuple | float)]


def _greedy(sample: Mapping[str, Any]) -> list[bool] | None:
    """Whether each choice is the most likely text; None where there are no choices."""
    return [bool(answers[0][1]) for answers in sample["resps"] if isinstance(answers[0], tuple)] or None


def _chosen(task: Any, sample: Mapping[str, Any], choice: Choice | None, values: list[float]) -> int | None:
    """Index of the likeliest choice, by the length-normalised likelihood where that is what counts."""
    if choice is None or task.OUTPUT_TYPE != "multiple_choice":
        return None
    if not task.multiple_input:
        # The second half, where there is one, holds the choices without their context.
        choices = task.doc_to_choice(sample["doc"])
        values = values[: len(choices)]
        if choice.metric == "acc_norm":
            # As in the harness, a choice without characters is infinitely unlikely.
            with np.errstate(divide="ignore", invalid="ignore"):
                return int(np.argmax(np.array(values) / np.array([float(len(text)) for text in choices])))
    return int(np.argmax(values))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
