"""What quantizing changed, against the baseline: the one definition of every ``impact/`` formula but the paired ones. Pure functions."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slim import standins
from slim.metrics import Better, get

SOURCES: Mapping[str, tuple[str, ...]] = {
    "impact/speedup": standins.TABLE["Latency"].compared,
    "impact/energy_reduction_pct": standins.TABLE["Energy"].compared,
    "impact/size_reduction_pct": standins.TABLE["Size"].compared,
    "impact/memory_reduction_pct": standins.TABLE["Memory"].compared,
}
"""What each relative figure is taken from: the first that configuration and baseline both have."""


@dataclass(frozen=True)
class Relative:
    """A figure against the baseline.

    Attributes:
        value: in the unit of its key.
        source: key of the metric that it was taken from.
    """

    value: float
    source: str


def share(baseline: float | None, value: float | None) -> float | None:
    """Return ``value / baseline``; None where either is unknown or the baseline is not above zero, since then no share means anything."""
    return None if baseline is None or value is None or not baseline > 0 else value / baseline


def change_pct(baseline: float | None, value: float | None) -> float | None:
    """Return the relative change in percent, negative where the value fell: how SLiM-Eval prints an accuracy drop."""
    ratio = share(baseline, value)
    return None if ratio is None else 100 * (ratio - 1)


def reduction_pct(baseline: float | None, value: float | None) -> float | None:
    """Return by how many percent a value is below the baseline's; negative where it is above."""
    ratio = share(baseline, value)
    return None if ratio is None else 100 * (1 - ratio)


def gain(key: str, baseline: float | None, value: float | None) -> float | None:
    """Return how many times better a value is than the baseline's: a speed-up for a latency or a throughput.

    Args:
        key: of a metric with a direction, which says whether value or baseline is divided.
        baseline, value: in its unit; None is unknown.

    Returns:
        None where either is unknown or not above zero.
    """
    if baseline is None or value is None or not (baseline > 0 and value > 0):
        return None
    return baseline / value if get(key).better is Better.LOWER else value / baseline


def relative(baseline: Mapping[str, float], metrics: Mapping[str, float]) -> dict[str, Relative]:
    """Return the ``impact/`` figures of a configuration with what each was taken from; what either lacks is left out."""
    found: dict[str, tuple[float | None, str]] = {}
    for name, candidates in SOURCES.items():
        source = _common(candidates, baseline, metrics)
        if source is not None:
            before, after = baseline[source], metrics[source]
            speed = name == "impact/speedup"
            found[name] = gain(source, before, after) if speed else reduction_pct(before, after), source
    found["impact/energy_payback_tokens"] = _payback_tokens(baseline, metrics), "energy/net_j_per_output_token"
    for key in accuracies(metrics):
        found[f"impact/{key.removeprefix('accuracy/')}_drop_pct"] = change_pct(baseline.get(key), metrics[key]), key
    return {name: Relative(value, source) for name, (value, source) in found.items() if value is not None}


def impact(baseline: Mapping[str, float], metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the values of `relative`: the metrics that the store keeps."""
    return {name: figure.value for name, figure in relative(baseline, metrics).items()}


def is_difference(key: str) -> bool:
    """Return whether a metric is a difference of paired items, or an end of its interval: it goes with a verdict."""
    return key.startswith("impact/") and "_difference" in key


def accuracies(keys: Iterable[str]) -> list[str]:
    """Return the keys that are accuracies of tasks, groups or means: no standard errors, no ends of intervals."""
    return [key for key in keys if key.startswith("accuracy/") and not key.endswith(("_stderr", "_ci_low", "_ci_high"))]


def _common(candidates: Iterable[str], baseline: Mapping[str, float], metrics: Mapping[str, float]) -> str | None:
    """The first candidate that both have; of a family that with the largest number of requests."""
    for candidate in candidates:
        if "<n>" not in candidate:
            if candidate in baseline and candidate in metrics:
                return candidate
            continue
        pattern = re.compile(re.escape(candidate).replace(re.escape("<n>"), r"(\d+)"))
        numbers = [int(m.group(1)) for key in baseline if key in metrics and (m := pattern.fullmatch(key))]
        if numbers:
            return candidate.replace("<n>", str(max(numbers)))
    return None


def _payback_tokens(baseline: Mapping[str, float], metrics: Mapping[str, float]) -> float | None:
    """Tokens after which what each saves adds up to what quantizing took; None when a token saves nothing."""
    key = "energy/net_j_per_output_token"
    if "quantize/energy_j" not in metrics or key not in metrics or key not in baseline:
        return None
    saved_j = baseline[key] - metrics[key]
    return metrics["quantize/energy_j"] / saved_j if saved_j > 0 else None
