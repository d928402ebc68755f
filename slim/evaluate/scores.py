"""From the harness's results to metrics: which of a task's figures is the one that is published."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slim.evaluate.loading import LoadedTask

# In this order, the first that a task reports: published tables use the length-normalised accuracy where a task has
# one (HellaSwag, ARC, PIQA, OpenBookQA), plain accuracy else (MMLU, BoolQ, WinoGrande), exact match for generated answers.
_PRIMARY = ("acc_norm", "acc", "exact_match")
# GSM8K and its kin report two extractions of the answer; the flexible one is what is compared.
_FLEXIBLE, _STRICT, _PLAIN = "flexible-extract", "strict-match", "none"
_PERPLEXITY = "word_perplexity"


@dataclass(frozen=True)
class Choice:
    """Which figure of a task counts.

    Attributes:
        metric: the harness's name of it.
        filter: its way of taking the answer from the output.
        beside: suffix, metric and filter of the figure that is shown beside it; None when there is none.
    """

    metric: str
    filter: str
    beside: tuple[str, str, str] | None = None


def primary(results: Mapping[str, Any], higher_is_better: Mapping[str, Any]) -> Choice | None:
    """Choose the figure of a task or group that counts.

    It is acc_norm, else acc, else exact_match, else the first that is better when higher; of several extractions
    ``flexible-extract``, else none, else the first. The choice does not look at values, so that it is the same for all
    configurations.

    Args:
        results: the harness's, with keys ``<metric>,<filter>``.
        higher_is_better: by metric.

    Returns:
        None when there is no such figure, or its value is not a fraction (perplexities, BLEU).
    """
    figures = [
        tuple(key.rsplit(",", 1))
        for key in results
        if "," in key and "_stderr," not in key and higher_is_better.get(key.rsplit(",", 1)[0], True)
    ]
    metrics = [metric for metric, _ in figures]
    metric = next((name for name in (*_PRIMARY, *metrics) if name in metrics), None)
    if metric is None:
        return None
    filters = [name for other, name in figures if other == metric]
    chosen = next(name for name in (_FLEXIBLE, _PLAIN, filters[0]) if name in filters)
    if not _fraction(results[f"{metric},{chosen}"]):
        return None
    if metric == "acc_norm" and ("acc", chosen) in figures:
        return Choice(metric, chosen, ("acc", "acc", chosen))
    if chosen == _FLEXIBLE and _STRICT in filters:
        return Choice(metric, chosen, ("strict", metric, _STRICT))
    return Choice(metric, chosen)


def metrics_of(task: "LoadedTask", results: Mapping[str, Any]) -> tuple[dict[str, float], list[float] | None]:
    """Return the metrics of an entry, and what of them enters the mean over tasks.

    A group counts as one task where the harness aggregates it, and its groups get a metric each; the tasks of a group
    do not. A tag, or a group that is not aggregated, counts as its tasks.

    Args:
        task: the entry.
        results: what ``lm_eval.evaluate`` returned for it.

    Returns:
        The second is None when a figure is missing that should be there, and empty for tasks that score running text.
    """
    figures, better = results["results"], results["higher_is_better"]
    metrics: dict[str, float] = {}
    heads: list[float] | None = []
    for name in _heads(task):
        choice = primary(figures[name], better.get(name, {}))
        if choice is None:
            word_perplexity = figures[name].get(f"{_PERPLEXITY},{_PLAIN}")
            if isinstance(word_perplexity, float) and isfinite(word_perplexity):
                metrics[f"fidelity/{metric_name(name)}_perplexity"] = word_perplexity
            else:
                heads = None
            continue
        metrics |= _figures(name, figures[name], choice)
        if heads is not None:
            heads.append(figures[name][f"{choice.metric},{choice.filter}"])
    for name in task.groups:
        choice = primary(figures[name], better.get(name, {})) if task.groups[name].has_aggregation else None
        if choice is not None:
            metrics |= _figures(name, figures[name], choice)
    return metrics, heads


def metric_name(task: str) -> str:
    """The task's name as it stands in a metric's key."""
    return "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in task)


def _heads(task: "LoadedTask") -> Iterator[str]:
    """The outermost groups that are aggregated, and the tasks in none."""

    def below(name: str) -> Iterator[str]:
        group = task.groups.get(name)
        if group is None or group.has_aggregation:
            yield name
        else:
            for child in group.child_names:
                yield from below(child)

    if task.entry.name in task.groups:
        yield from below(task.entry.name)
    else:
        yield from task.leaves


def _figures(name: str, results: Mapping[str, Any], choice: Choice) -> dict[str, float]:
    """The chosen figure, its standard error where there is one, and the figure beside it."""
    key = f"accuracy/{metric_name(name)}"
    found = {key: float(results[f"{choice.metric},{choice.filter}"])}
    stderr = results.get(f"{choice.metric}_stderr,{choice.filter}")
    if isinstance(stderr, float) and isfinite(stderr):
        found[f"{key}_stderr"] = float(stderr)
    if choice.beside is not None:
        suffix, metric, extraction = choice.beside
        found[f"{key}_{suffix}"] = float(results[f"{metric},{extraction}"])
    return found


def mean(heads: Sequence[list[float] | None]) -> float | None:
    """Unweighted mean over the tasks; None unless all have a figure and there is at least one."""
    values: list[float] = []
    for head in heads:
        if head is None:
            return None
        values += head
    return sum(values) / len(values) if values else None


def _fraction(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value) and 0 <= value <= 1
