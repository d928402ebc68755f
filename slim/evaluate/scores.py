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


@dataclass(frozen=True)
class Head:
    """A figure that stands for itself in the mean: that of a group that the harness aggregates, or of a task in none.

    Attributes:
        name: of the group or task.
        choice: which of its figures counts; None when there is none that is a fraction.
        value: that figure; None likewise.
        leaves: names of the single tasks in it.
        by_size: whether a group's tasks weigh as much as they have items, else all the same.
    """

    name: str
    choice: Choice | None
    value: float | None
    leaves: tuple[str, ...]
    by_size: bool = True

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Return the share of one item in the figure, by task, as `lm_eval.api.group.Group.aggregate` has it.

        A group's figure is made of its single tasks' figures, whatever groups lie between.

        Args:
            counts: items that enter the figure, by task.
        """
        there = {name: counts[name] for name in self.leaves if counts.get(name)}
        if self.by_size:
            return {name: 1 / sum(there.values()) for name in there}
        return {name: 1 / (len(there) * count) for name, count in there.items()}


def heads(task: "LoadedTask", results: Mapping[str, Any]) -> list[Head]:
    """Return the outermost groups that are aggregated and the tasks in none.

    Args:
        task: the entry.
        results: what ``lm_eval.evaluate`` returned for it; a task of which nothing could be scored may be missing.
    """
    figures, better = results["results"], results["higher_is_better"]
    found = []
    for name in _outermost(task):
        own = figures.get(name, {})
        choice = primary(own, better.get(name, {}))
        value = float(own[f"{choice.metric},{choice.filter}"]) if choice else None
        group = task.groups.get(name)
        if group is None:
            found.append(Head(name, choice, value, (name,)))
            continue
        rules = [rule for rule in group.aggregate_metric_list if choice and rule.metric == choice.metric]
        leaves = tuple(leaf.task_name for leaf in group.get_all_tasks())
        found.append(Head(name, choice, value, leaves, all(rule.weight_by_size for rule in rules)))
    return found


def metrics_of(task: "LoadedTask", results: Mapping[str, Any]) -> tuple[dict[str, float], list[float] | None]:
    """Return the metrics of an entry, and what of them enters the mean over tasks.

    A group counts as one task where the harness aggregates it, and its groups get a metric each; the tasks of a group
    do not. A tag, or a group that is not aggregated, counts as its tasks.

    Args:
        task: the entry.
        results: as for `heads`.

    Returns:
        The second is None when a figure is missing that should be there, and empty for tasks that score running text.
    """
    figures, better = results["results"], results["higher_is_better"]
    metrics: dict[str, float] = {}
    counting: list[float] | None = []
    for head in heads(task, results):
        if head.choice is None or head.value is None:
            word_perplexity = figures.get(head.name, {}).get(f"{_PERPLEXITY},{_PLAIN}")
            if isinstance(word_perplexity, float) and isfinite(word_perplexity):
                metrics[f"fidelity/{metric_name(head.name)}_perplexity"] = word_perplexity
            else:
                counting = None
            continue
        metrics |= _figures(head.name, figures[head.name], head.choice)
        if counting is not None:
            counting.append(head.value)
    for name in task.groups:
        choice = primary(figures[name], better.get(name, {})) if task.groups[name].has_aggregation else None
        if choice is not None:
            metrics |= _figures(name, figures[name], choice)
    return metrics, counting


def metric_name(task: str) -> str:
    """The task's name as it stands in a metric's key."""
    return "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in task)


def _outermost(task: "LoadedTask") -> Iterator[str]:
    """Names of the outermost groups that are aggregated, and of the tasks in none."""

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


def mean(values_of_tasks: Sequence[Sequence[float] | None]) -> float | None:
    """Unweighted mean over the tasks; None unless all have a figure and there is at least one."""
    values: list[float] = []
    for some in values_of_tasks:
        if some is None:
            return None
        values += some
    return sum(values) / len(values) if values else None


def _fraction(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value) and 0 <= value <= 1
