"""From the harness's results to metrics: the figures that count, of tasks and groups, and what enters the mean over them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from slim.evaluate.primary import Choice, primary, why_none

if TYPE_CHECKING:
    from slim.evaluate.loading import LoadedTask

_PLAIN, _PERPLEXITY = "none", "word_perplexity"


@dataclass(frozen=True)
class Head:
    """A figure that stands for itself in the mean: that of a group that the harness aggregates, or of a task in none.

    Attributes:
        name: of the group or task.
        choice: which of its figures counts; None when there is none that is a fraction.
        value: that figure; None without one, and where what should be a fraction is none.
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
    return [_head(task, results, name) for name in _outermost(task)]


def _head(task: "LoadedTask", results: Mapping[str, Any], name: str) -> Head:
    """The figure of a task or group, wherever it stands."""
    own = results["results"].get(name, {})
    group = task.groups.get(name)
    leaves = (name,) if group is None else tuple(leaf.task_name for leaf in group.get_all_tasks())
    choice = primary(own, results["higher_is_better"].get(name, {}), leaves)
    value = None if choice is None else _fraction(own[f"{choice.metric},{choice.filter}"])
    rules = [] if group is None or choice is None else group.aggregate_metric_list
    by_size = all(rule.weight_by_size for rule in rules if choice is not None and rule.metric == choice.metric)
    return Head(name, choice, value, leaves, by_size)


def metrics_of(task: "LoadedTask", results: Mapping[str, Any]) -> tuple[dict[str, float], list[float] | None, list[str]]:
    """Return the metrics of an entry, what of them enters the mean over tasks, and why something does not.

    A group counts as one task where the harness aggregates it, and its groups get a metric each; the tasks of a group
    do not. A tag, or a group that is not aggregated, counts as its tasks.

    Args:
        task: the entry.
        results: as for `heads`.

    Returns:
        The second is None when a figure is missing that should be there, and empty for tasks that score running text; the
        third has a line for each that is missing.
    """
    metrics: dict[str, float] = {}
    counting: list[float] = []
    missing: list[str] = []
    for head in heads(task, results):
        own = results["results"].get(head.name, {})
        if head.choice is None or head.value is None:
            word_perplexity = own.get(f"{_PERPLEXITY},{_PLAIN}")
            if isinstance(word_perplexity, float) and isfinite(word_perplexity):
                metrics[f"fidelity/{metric_name(head.name)}_perplexity"] = word_perplexity
            else:
                missing.append(f"{head.name} has no accuracy, so there is no mean: {_problem(head, results)}")
            continue
        metrics |= _figures(head.name, own, head.choice)
        counting.append(head.value)
    for name in task.groups:
        head = _head(task, results, name)
        if task.groups[name].has_aggregation and head.choice is not None and head.value is not None:
            metrics |= _figures(name, results["results"][name], head.choice)
    return metrics, None if missing else counting, missing


def _problem(head: Head, results: Mapping[str, Any]) -> str:
    """Why a figure is missing."""
    own = results["results"].get(head.name)
    if own is None:
        return "none of its items could be scored"
    if head.choice is None:
        return why_none(own, results["higher_is_better"].get(head.name, {}))
    return f"{head.choice.metric} is {own[f'{head.choice.metric},{head.choice.filter}']}, which is no fraction"


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


def _fraction(value: Any) -> float | None:
    """The value as a number; None for what cannot be a fraction: a mean over nothing, or a metric that `primary` does not know well."""
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None
