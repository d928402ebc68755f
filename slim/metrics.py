"""The one list of metrics: key, unit, direction, definition.

Everything that logs, reads, formats or plots a metric takes it from here; ``docs/metrics.md`` is generated from it.
A key may hold a placeholder (``<task>``, ``<s>``, ``<any>``, ``<n>``, ``<b>``, ``<r>``): such an entry describes a family.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from math import isfinite

from slim.errors import UserError


class Better(Enum):
    """Which way is better; ``NEITHER`` for a quantity that only describes."""

    HIGHER = "+"
    LOWER = "-"
    NEITHER = ""


@dataclass(frozen=True)
class Metric:
    """One metric or family of metrics.

    Attributes:
        key: name in the store, placeholders in angle brackets.
        unit: SI or field unit, empty for a pure number.
        better: direction.
        definition: what the number means, one sentence.
        digits: decimals when shown to a person.
    """

    key: str
    unit: str
    better: Better
    definition: str
    digits: int = 2


_PLACEHOLDERS = {
    "<task>": r"[A-Za-z0-9_.\-]+?",
    "<s>": r"(?:mean|p50|p95|p99)",
    "<n>": r"\d+",
    "<b>": r"(?:b1|bmax)",
    "<r>": r"\d+(?:\.\d+)?(?:e[+\-]\d+)?",
}
_UP, _DOWN, _NONE = Better.HIGHER, Better.LOWER, Better.NEITHER

CATALOGUE: tuple[Metric, ...] = (
    # Accuracy. The narrower families stand before `accuracy/<task>`: the first match wins.
    Metric(
        "accuracy/mean",
        "fraction",
        _UP,
        "Unweighted mean of the accuracies of the sweep's tasks; absent unless all are there.",
        4,
    ),
    Metric("accuracy/<task>_stderr", "fraction", _NONE, "Standard error of accuracy/<task>.", 4),
    Metric(
        "accuracy/<task>_strict",
        "fraction",
        _UP,
        "Exact match with the strict extraction, for tasks whose primary metric is the flexible one.",
        4,
    ),
    Metric(
        "accuracy/<task>_acc",
        "fraction",
        _UP,
        "Accuracy without length normalisation, for tasks whose primary metric is acc_norm.",
        4,
    ),
    Metric(
        "accuracy/<task>",
        "fraction",
        _UP,
        "The task's primary metric as published: exact match for GSM8K (flexible extraction), acc for MMLU, acc_norm for HellaSwag and ARC.",
        4,
    ),
    Metric(
        "fidelity/kl_divergence_nats",
        "nats/token",
        _DOWN,
        "Mean KL(baseline || configuration) of the next-token distributions over the same text; a lower bound where evaluate.fidelity_exact is false.",
        5,
    ),
    Metric("fidelity/kl_divergence_p99_nats", "nats/token", _DOWN, "99th percentile over tokens of the same.", 5),
    Metric(
        "fidelity/kl_divergence_upper_bound_nats",
        "nats/token",
        _NONE,
        "Upper bound of that mean, where the baseline kept only its most likely tokens.",
        5,
    ),
    Metric(
        "fidelity/top1_agreement",
        "fraction",
        _UP,
        "Positions at which baseline and configuration prefer the same token, ties counting where the most likely tokens intersect.",
        4,
    ),
    Metric(
        "fidelity/flip_rate", "fraction", _DOWN, "Items whose answer turned from right to wrong or back, against the baseline.", 4
    ),
    Metric("fidelity/mcnemar_p", "", _NONE, "Two-sided p-value of McNemar's exact test over those items.", 4),
    Metric("fidelity/paired_items", "items", _NONE, "Items that were scored in the configuration and in the baseline.", 0),
    Metric("fidelity/unpaired_items", "items", _NONE, "Items left out of the comparison, unscored in one of the two.", 0),
    Metric("fidelity/<task>_flip_rate", "fraction", _DOWN, "fidelity/flip_rate over the task's items.", 4),
    Metric("fidelity/<task>_lost_items", "items", _DOWN, "The task's items that turned from right to wrong.", 0),
    Metric("fidelity/<task>_gained_items", "items", _NONE, "The task's items that turned from wrong to right.", 0),
    Metric("fidelity/<task>_mcnemar_p", "", _NONE, "Two-sided p-value of McNemar's exact test over the task's items.", 4),
    Metric(
        "fidelity/<task>_items_to_decide",
        "items",
        _NONE,
        "Items at which the rates observed would decide whether the task is non-inferior; absent when no number would.",
        0,
    ),
    Metric(
        "fidelity/perplexity", "", _DOWN, "exp of the mean negative log-likelihood per token of the built-in or named text.", 3
    ),
    Metric(
        "fidelity/<task>_perplexity",
        "",
        _DOWN,
        "Word perplexity of a harness task that scores running text, such as wikitext.",
        3,
    ),
    Metric(
        "latency/amortized_b8_ms",
        "ms",
        _DOWN,
        "Wall time of a batch of 8 divided by 8, mean of three: what SLiM-Eval calls latency.",
    ),
    Metric("latency/ttft_<s>_ms", "ms", _DOWN, "Time to first token: request handed over to first token, concurrency 1."),
    Metric(
        "latency/tpot_<s>_ms",
        "ms",
        _DOWN,
        "Time per output token: (E2E - TTFT) / (output tokens - 1) per request, concurrency 1.",
    ),
    Metric(
        "latency/itl_<s>_ms",
        "ms",
        _DOWN,
        "Inter-token latency: gaps between consecutive tokens, pooled over requests, concurrency 1.",
    ),
    Metric("latency/e2e_<s>_ms", "ms", _DOWN, "Request handed over to last token, concurrency 1."),
    Metric(
        "latency/stalled_pct",
        "%",
        _NONE,
        "Share of the time between tokens that gaps of more than twice the median take beyond it: interruptions by the host.",
        2,
    ),
    Metric(
        "throughput/output_tokens_per_s",
        "tok/s",
        _UP,
        "Output tokens over wall time at the best concurrency tried: the lowest whose rate is within 2 % of the highest.",
        1,
    ),
    Metric("throughput/total_tokens_per_s", "tok/s", _UP, "Prompt and output tokens over wall time at that concurrency.", 1),
    Metric("throughput/requests_per_s", "req/s", _UP, "Requests over wall time at that concurrency.", 3),
    Metric(
        "throughput/best_concurrency", "requests", _NONE, "The concurrency at which output tokens per second were highest.", 0
    ),
    Metric("throughput/output_tokens_per_s_c<n>", "tok/s", _UP, "Output tokens over wall time at concurrency n: the curve.", 1),
    Metric(
        "throughput/sustained_output_tokens_per_s",
        "tok/s",
        _UP,
        "Output tokens over wall time in the energy pass, at its concurrency: a check of the curve over a longer time.",
        1,
    ),
    Metric(
        "throughput/max_batch",
        "requests",
        _UP,
        "Largest batch that fits (transformers) or runs without preemption (vLLM: by its limits and its cache, unless seen to preempt); "
        "of repeats the least.",
        0,
    ),
    Metric(
        "throughput/<b>_n<n>_requests_per_s",
        "req/s",
        _UP,
        "n requests over their wall time, in batches of 1 (b1) or of throughput/max_batch (bmax), for transformers.",
        3,
    ),
    Metric("throughput/<b>_n<n>_total_s", "s", _DOWN, "Wall time of the same: first request handed over to last token.", 2),
    Metric("throughput/bmax_n<n>_speedup", "", _UP, "Requests per second at throughput/max_batch over those at batch 1.", 3),
    Metric("latency/<b>_n<n>_mean_ms", "ms", _DOWN, "Mean over the n requests from the start of its batch to its last token."),
    Metric(
        "memory/<b>_n<n>_peak_mib",
        "MiB",
        _DOWN,
        "Peak over that run of what torch has allocated (the worker's resident set on a CPU).",
        1,
    ),
    Metric("memory/<b>_n<n>_mean_mib", "MiB", _DOWN, "Mean GPU memory over that run, as the bitsandbytes study prints it.", 1),
    Metric("gpu/<b>_n<n>_utilization_mean_pct", "%", _NONE, "Mean GPU utilization that NVML reports over that run.", 1),
    Metric(
        "load/r<r>_goodput_requests_per_s",
        "req/s",
        _UP,
        "Requests that met both targets (profile.load.ttft_ms, tpot_ms) over wall time, at r Poisson arrivals a second.",
        3,
    ),
    Metric("load/r<r>_good_fraction", "fraction", _UP, "Share of those requests that met both targets.", 4),
    Metric("load/r<r>_requests_per_s", "req/s", _UP, "Requests over wall time, from the start to the last token.", 3),
    Metric("load/r<r>_output_tokens_per_s", "tok/s", _UP, "Output tokens over that time.", 1),
    Metric("load/r<r>_ttft_<s>_ms", "ms", _DOWN, "Arrival to first token, waiting included."),
    Metric("load/r<r>_tpot_<s>_ms", "ms", _DOWN, "(E2E - TTFT) / (output tokens - 1) per request under that load."),
    Metric("load/r<r>_e2e_<s>_ms", "ms", _DOWN, "Arrival to last token, waiting included."),
    Metric("memory/weights_mib", "MiB", _DOWN, "Weights as loaded on the device.", 1),
    Metric("memory/kv_capacity_tokens", "tokens", _UP, "Tokens that the KV cache holds.", 0),
    Metric(
        "memory/peak_mib",
        "MiB",
        _DOWN,
        "Peak device memory in use while measuring (NVML; the worker's resident set on a CPU).",
        1,
    ),
    Metric("memory/mean_mib", "MiB", _DOWN, "Mean of the same.", 1),
    Metric(
        "memory/required_mib",
        "MiB",
        _DOWN,
        "Weights, peak activations and cache for the workload's tokens: what it needs, whatever was reserved.",
        1,
    ),
    Metric("energy/gross_j_per_query", "J", _DOWN, "Device energy over the energy pass, per request."),
    Metric("energy/net_j_per_query", "J", _DOWN, "The same with idle power subtracted."),
    Metric("energy/net_j_per_output_token", "J/token", _DOWN, "Net energy per generated token.", 4),
    Metric("energy/net_kwh", "kWh", _DOWN, "Net energy of the energy pass as a whole.", 6),
    Metric("energy/idle_w", "W", _NONE, "Power with the engine loaded and no work, measured just before.", 1),
    Metric("energy/mean_power_w", "W", _NONE, "Mean power over the energy pass.", 1),
    Metric("energy/concurrency", "requests", _NONE, "Concurrency of the energy pass: where throughput is best, unless set.", 0),
    Metric("energy/counter_ratio", "", _NONE, "Integrated power samples over the device's total-energy counter.", 4),
    Metric("gpu/utilization_mean_pct", "%", _NONE, "Mean GPU utilization that NVML reports over the energy pass.", 1),
    Metric(
        "gpu/sm_clock_mean_mhz",
        "MHz",
        _NONE,
        "Mean SM clock over the energy pass, of the slowest GPU: lower where power limits it.",
        0,
    ),
    Metric("size/checkpoint_gb", "GB", _DOWN, "Weight files, in 1e9 bytes.", 3),
    Metric("size/parameters", "", _NONE, "Parameters of the original model, tied weights once.", 0),
    Metric("size/bits_per_weight", "bit", _DOWN, "Bits in the weight files over the original's parameters."),
    Metric(
        "quantize/duration_s",
        "s",
        _DOWN,
        "Wall time of making the checkpoint, from loading the weights to the written ones; without reading calibration data and checks.",
        1,
    ),
    Metric("quantize/peak_mib", "MiB", _DOWN, "Peak memory while quantizing (NVML; the worker's resident set on a CPU).", 1),
    Metric(
        "quantize/energy_j",
        "J",
        _DOWN,
        "Device energy of quantizing, idle power included: without it the device would not have run.",
        1,
    ),
    Metric(
        "efficiency/mbu",
        "fraction",
        _UP,
        "Model bandwidth utilisation: bytes a decode step must read / step time / peak bandwidth; weights as stored and the cache at the mean context, median step at concurrency 1 (docs/protocol.md).",
        4,
    ),
    Metric("efficiency/step_read_mb", "MB", _DOWN, "Bytes that a decode step must read at concurrency 1, in 1e6 bytes.", 1),
    Metric(
        "efficiency/peak_bandwidth_gb_s",
        "GB/s",
        _NONE,
        "Peak memory bandwidth that efficiency/mbu is a share of: read and written bytes of a copy test, or as the sweep file names it.",
        1,
    ),
    Metric(
        "impact/speedup",
        "",
        _NONE,
        "Baseline's latency over the configuration's: mean E2E, or where one lacks it the first that both have of latency/amortized_b8_ms, latency/b1_n<n>_mean_ms.",
        3,
    ),
    Metric("impact/energy_reduction_pct", "%", _NONE, "Reduction of net energy per query against the baseline."),
    Metric("impact/size_reduction_pct", "%", _NONE, "Reduction of checkpoint size against the baseline."),
    Metric(
        "impact/memory_reduction_pct",
        "%",
        _NONE,
        "Reduction of memory/required_mib against the baseline, or where one lacks it of the first that both have of weights, peak, and memory at batch 1.",
    ),
    Metric(
        "impact/energy_payback_tokens",
        "tokens",
        _NONE,
        "Output tokens after which quantizing has paid for its energy: quantize/energy_j over what a token saves net; absent when none does.",
        0,
    ),
    Metric(
        "impact/<task>_drop_pct",
        "%",
        _NONE,
        "Relative change of the task's accuracy against the baseline; negative when accuracy fell.",
    ),
    Metric(
        "impact/<task>_difference",
        "fraction",
        _NONE,
        "Accuracy less the baseline's, over the items scored in both; mean_difference is of the mean over tasks.",
        4,
    ),
    Metric("validity/ok", "0/1", _UP, "1 when every check of the protocol held; reasons in the tag slim.validity.", 0),
    Metric("timing/engine_start_s", "s", _NONE, "Opening the engine, from the first import to ready.", 2),
    Metric(
        "timing/work_s",
        "s",
        _NONE,
        "The stage's own work, the recorded answers included, without the engine start; with what attempts that were cut off had done and this one took over.",
        2,
    ),
    Metric("timing/resumed_s", "s", _NONE, "The part of timing/work_s that was taken over from attempts that were cut off.", 2),
    Metric("sweep/<task>", "", _NONE, "Progress of a sweep: configurations total, finished, reused, failed; wall seconds.", 0),
)

_CI = re.compile(r"_ci_(?:low|high)$")


def _pattern(key: str) -> re.Pattern[str]:
    text = re.escape(key)
    for placeholder, expression in _PLACEHOLDERS.items():
        text = text.replace(re.escape(placeholder), expression)
    return re.compile(text)


_PATTERNS = tuple((_pattern(metric.key), metric) for metric in CATALOGUE)


@lru_cache(maxsize=4096)
def find(key: str) -> Metric | None:
    """Return the entry that describes ``key`` (``_ci_low`` and ``_ci_high`` belong to the metric they bound), or None."""
    base = _CI.sub("", key)
    return next((metric for pattern, metric in _PATTERNS if pattern.fullmatch(base)), None)


def get(key: str) -> Metric:
    """Return the entry that describes ``key``.

    Raises:
        UserError: no entry describes it; the message lists keys that look alike.
    """
    metric = find(key)
    if metric is None:
        from difflib import get_close_matches

        near = get_close_matches(key, [m.key for m in CATALOGUE], n=3, cutoff=0.4)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise UserError(f"unknown metric {key!r}{hint} (docs/metrics.md lists all)")
    return metric


def check(values: Mapping[str, float]) -> dict[str, float]:
    """Return ``values`` as floats after making sure that each is in the catalogue and finite.

    Raises:
        ValueError: an unlisted key or a NaN or infinite value; an unknown value must be left out instead.
    """
    for key, value in values.items():
        if find(key) is None:
            raise ValueError(f"metric {key!r} is not in slim/metrics.py")
        if not isfinite(value):
            raise ValueError(f"metric {key!r} is {value!r}; leave an unknown value out")
    return {key: float(value) for key, value in values.items()}


def format_value(key: str, value: float | None) -> str:
    """Return ``value`` as a person reads it, without its unit; ``-`` when unknown."""
    if value is None:
        return "-"
    return f"{value:,.{get(key).digits}f}"


def markdown_table(metrics: Iterable[Metric] = CATALOGUE) -> str:
    """Return the catalogue as a Markdown table, the body of ``docs/metrics.md``."""
    rows = ["| key | unit | better | definition |", "|---|---|---|---|"]
    for m in metrics:
        definition = m.definition.replace("|", r"\|")
        rows.append(f"| `{m.key}` | {m.unit} | {m.better.value} | {definition} |")
    return "\n".join(rows) + "\n"
