"""From the metrics of stages to those of a configuration: repeats combined. Pure functions."""

from collections.abc import Mapping, Sequence

from slim.metrics import Better, find
from slim.stats import mean_interval, relative_spread

MAX_SPREAD = 0.10
"""Repeats that spread further than this are flagged."""

_SAME_KEYS = ("throughput/best_concurrency", "energy/concurrency")
"""Where throughput and energy were measured: repeats that were measured elsewhere are not repeats of one measurement."""

_LEAST_KEYS = ("validity/ok", "throughput/max_batch")
"""What holds of all repeats is the least of them."""

_SPREAD_KEYS = ("latency/e2e_mean_ms", "throughput/output_tokens_per_s", "energy/net_j_per_query", "throughput/max_batch")


def combine_repeats(repeats: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], list[str]]:
    """Return the mean over repeats with its 95 % interval, and why the repeats are not to be trusted.

    Args:
        repeats: metrics of each profile run; a single one is returned as it is, its own intervals included.

    Returns:
        metrics, of which a key is there when every repeat has it; and validity reasons.
    """
    if len(repeats) == 1:
        return dict(repeats[0]), []
    combined: dict[str, float] = {}
    for key in repeats[0]:
        if key.endswith(("_ci_low", "_ci_high")) or not all(key in metrics for metrics in repeats):
            continue
        values = [metrics[key] for metrics in repeats]
        if key in _SAME_KEYS and min(values) < max(values):
            continue
        if key in _LEAST_KEYS:
            combined[key] = min(values)
            continue
        combined[key] = sum(values) / len(values)
        metric = find(key)
        interval = mean_interval(values)
        if interval is not None and metric is not None and metric.better is not Better.NEITHER and min(values) < max(values):
            combined[f"{key}_ci_low"], combined[f"{key}_ci_high"] = interval.low, interval.high
    reasons = [f"repeats_spread:{key}" for key in _SPREAD_KEYS if key in combined and _spread(repeats, key) > MAX_SPREAD]
    reasons += [f"repeats_differ:{key}" for key in _SAME_KEYS if len({metrics.get(key) for metrics in repeats}) > 1]
    if reasons:
        combined["validity/ok"] = 0.0
    return combined, reasons


def _spread(repeats: Sequence[Mapping[str, float]], key: str) -> float:
    values = [metrics[key] for metrics in repeats]
    # Net energy can be 0 or less when idle power was measured wrongly, and then no share of its mean says anything.
    return relative_spread(values) if min(values) > 0 else float("inf")
