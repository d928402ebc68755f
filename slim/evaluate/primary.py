"""Which of a task's figures counts as its accuracy: decided by name, so that it is the same for every configuration."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# In this order, the first that a task reports: published tables use the length-normalised accuracy where a task has
# one (HellaSwag, ARC, PIQA, OpenBookQA), plain accuracy else (MMLU, BoolQ, WinoGrande), exact match for generated answers.
_PRIMARY = ("acc_norm", "acc", "exact_match")
# GSM8K and its kin report two extractions of the answer; the flexible one is what is compared.
_FLEXIBLE, _STRICT, _PLAIN = "flexible-extract", "strict-match", "none"

_PERCENT = "on a scale of 0 to 100"
_DIFFERENCE = "a difference of two scores"
_CORRELATION = "a correlation, from -1 to 1"
_SIMILARITY = "a similarity of embeddings"
_LIKELIHOOD = "a likelihood, in nats, bits or a power of them"
NO_FRACTION: Mapping[str, str] = {
    **dict.fromkeys(("bleu", "chrf", "chrf++", "ter", "bleu_max", "bleu_avg", "smoothed_bleu_4"), _PERCENT),
    **dict.fromkeys(("rouge1_max", "rouge2_max", "rougeL_max", "rougeL_avg", "eqbench", "percent_parseable"), _PERCENT),
    **dict.fromkeys(("bleu_diff", "rouge1_diff", "rouge2_diff", "rougeL_diff"), _DIFFERENCE),
    **dict.fromkeys(("mcc", "pearsonr"), _CORRELATION),
    **dict.fromkeys(("bert", "bert_score", "bleurt"), _SIMILARITY),
    **dict.fromkeys(("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "likelihood"), _LIKELIHOOD),
    "libra_score": "a figure for each length of context",
    "bypass": "a placeholder of the harness",
}
"""Metrics of the harness that are no fraction of anything, and why. ``bleu`` is one in a few tasks, but a name has one scale here."""

IN_PERCENT = frozenset(
    {"squadv2", "scrolls_govreport", "scrolls_narrativeqa", "scrolls_qasper", "scrolls_qmsum", "scrolls_summscreenfd"}
)
"""Tasks whose own code reports in percent what others report as a fraction under the same names (``exact``, ``f1``, ``rouge1``)."""


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


def primary(results: Mapping[str, Any], higher_is_better: Mapping[str, Any], tasks: Collection[str]) -> Choice | None:
    """Choose the figure of a task or group that counts.

    It is acc_norm, else acc, else exact_match, else the first that is better when higher; of several extractions
    ``flexible-extract``, else none, else the first. Values play no part in it.

    Args:
        results: the harness's, with keys ``<metric>,<filter>``.
        higher_is_better: by metric.
        tasks: names of the single tasks that the figures are of.

    Returns:
        None when there is no such figure, or it is no fraction; `why_none` says which.
    """
    figures = _figures(results, higher_is_better)
    metric = _leading(figures)
    if metric is None or not _is_fraction(metric, tasks):
        return None
    filters = [name for other, name in figures if other == metric]
    chosen = next(name for name in (_FLEXIBLE, _PLAIN, filters[0]) if name in filters)
    if metric == "acc_norm" and ("acc", chosen) in figures:
        return Choice(metric, chosen, ("acc", "acc", chosen))
    if chosen == _FLEXIBLE and _STRICT in filters:
        return Choice(metric, chosen, ("strict", metric, _STRICT))
    return Choice(metric, chosen)


def why_none(results: Mapping[str, Any], higher_is_better: Mapping[str, Any]) -> str:
    """Say why `primary` found no figure."""
    metric = _leading(_figures(results, higher_is_better))
    return "no figure that is better when higher" if metric is None else f"{metric} is {NO_FRACTION.get(metric, _PERCENT)}"


def _figures(results: Mapping[str, Any], higher_is_better: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Metric and filter of what is better when higher."""
    keys = (key.rpartition(",") for key in results if "," in key and "_stderr," not in key)
    return [(metric, extraction) for metric, _, extraction in keys if higher_is_better.get(metric, True)]


def _leading(figures: Sequence[tuple[str, str]]) -> str | None:
    metrics = [metric for metric, _ in figures]
    return next((name for name in (*_PRIMARY, *metrics) if name in metrics), None)


def _is_fraction(metric: str, tasks: Collection[str]) -> bool:
    return metric not in NO_FRACTION and IN_PERCENT.isdisjoint(tasks)
