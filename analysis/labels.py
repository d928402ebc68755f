"""Names of metrics as a figure or a page prints them, made from the keys and units of `slim.metrics`."""

import re

from slim.metrics import Better, get

_ACRONYMS = {
    name: name.upper()
    for name in ("ttft", "tpot", "itl", "e2e", "mmlu", "gsm8k", "kl", "kv", "mbu", "gpu", "arc", "stem", "p50", "p95", "p99")
} | {"hellaswag": "HellaSwag", "b8": "batch of 8"}
# What the unit says already; a rate "per query" or "per output token" stays, since its unit alone does not tell.
_UNITS = re.compile(r"_(?:tokens_per_s|requests_per_s|gb_per_s|gb_s|nats|ms|mib|mb|gb|kwh|pct|s|w)(?=$|_c\d)|_j(?=$|_per_)")
_CONCURRENCY = re.compile(r"_c(\d+)$")


def words(name: str) -> str:
    """Return a task's or a key's part as a person writes it: ``mmlu_stem`` is ``MMLU STEM``."""
    return " ".join(_ACRONYMS.get(word, word) for word in name.split("_"))


def title(key: str) -> str:
    """Return a metric's short title without its unit: ``latency/e2e_mean_ms`` is ``Latency, E2E mean``.

    Raises:
        UserError: unknown metric.
    """
    get(key)
    group, _, rest = key.partition("/")
    rest = _UNITS.sub("", rest)
    rest = _CONCURRENCY.sub(r" at concurrency \1", rest)
    return f"{'GPU' if group == 'gpu' else group.capitalize()}, {words(rest)}"


def label(key: str) -> str:
    """Return the title with the unit: ``Latency, E2E mean (ms)``; a fraction and a ratio have none.

    Raises:
        UserError: unknown metric.
    """
    unit = get(key).unit
    return f"{title(key)} ({unit})" if unit and unit != "fraction" else title(key)


def direction(key: str) -> str:
    """Return which way is better, in words; empty where neither is."""
    return {Better.HIGHER: "higher is better", Better.LOWER: "lower is better", Better.NEITHER: ""}[get(key).better]


def number(value: float) -> str:
    """Return a value to three significant digits, without an exponent."""
    digits = max(0, 2 - int(f"{value:e}".partition("e")[2])) if value else 0
    return f"{value:,.{min(digits, 6)}f}"
