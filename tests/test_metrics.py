"""The metric table: every key finds its entry, and nothing else does."""

import math
from pathlib import Path

import pytest

from slim import metrics
from slim.errors import UserError
from slim.metrics import Better


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("accuracy/mean", "accuracy/mean"),
        ("accuracy/mmlu", "accuracy/<task>"),
        ("accuracy/mmlu_social_sciences", "accuracy/<task>"),
        ("accuracy/gsm8k_stderr", "accuracy/<task>_stderr"),
        ("accuracy/gsm8k_strict", "accuracy/<task>_strict"),
        ("accuracy/hellaswag_acc", "accuracy/<task>_acc"),
        ("accuracy/hellaswag_acc_stderr", "accuracy/<task>_stderr"),
        ("fidelity/perplexity", "fidelity/perplexity"),
        ("fidelity/wikitext_perplexity", "fidelity/<task>_perplexity"),
        ("fidelity/flip_rate", "fidelity/flip_rate"),
        ("fidelity/mmlu_flip_rate", "fidelity/<task>_flip_rate"),
        ("fidelity/gsm8k_mcnemar_p", "fidelity/<task>_mcnemar_p"),
        ("fidelity/gsm8k_items_to_decide", "fidelity/<task>_items_to_decide"),
        ("fidelity/paired_items", "fidelity/paired_items"),
        ("latency/ttft_p95_ms", "latency/ttft_<s>_ms"),
        ("latency/e2e_mean_ms_ci_low", "latency/e2e_<s>_ms"),
        ("throughput/output_tokens_per_s_c64", "throughput/output_tokens_per_s_c<n>"),
        ("throughput/b1_n2000_requests_per_s", "throughput/<b>_n<n>_requests_per_s"),
        ("impact/arc_easy_difference_ci_low", "impact/<task>_difference"),
        ("impact/mean_drop_pct", "impact/<task>_drop_pct"),
        ("sweep/failed", "sweep/<task>"),
    ],
)
def test_a_key_finds_its_entry(key: str, entry: str) -> None:
    assert metrics.get(key).key == entry


@pytest.mark.parametrize("key", ["latency/ttft_p42_ms", "accuracy", "accuracy/", "memory/peak", "latency/ttft_mean_s", "x"])
def test_an_unlisted_key_is_refused(key: str) -> None:
    assert metrics.find(key) is None
    with pytest.raises(UserError, match="unknown metric"):
        metrics.get(key)
    with pytest.raises(ValueError, match="not in slim/metrics"):
        metrics.check({key: 1.0})


def test_near_keys_are_offered() -> None:
    with pytest.raises(UserError, match="latency/ttft_<s>_ms"):
        metrics.get("latency/ttft_ms")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_unknown_value_must_be_left_out(value: float) -> None:
    with pytest.raises(ValueError, match="leave an unknown value out"):
        metrics.check({"memory/peak_mib": value})


def test_every_entry_describes_its_own_key_and_is_documented() -> None:
    for metric in metrics.CATALOGUE:
        example = (
            metric.key.replace("<task>", "arc_easy")
            .replace("<s>", "p50")
            .replace("<n>", "8")
            .replace("<b>", "bmax")
            .replace("<r>", "2.5")
        )
        assert metrics.get(example) == metric
        assert metric.definition.endswith(".")
    assert len({m.key for m in metrics.CATALOGUE}) == len(metrics.CATALOGUE)


def test_units_stand_in_the_key() -> None:
    suffixes = {"ms": "_ms", "MiB": "_mib", "GB": "_gb", "%": "_pct", "kWh": "_kwh", "W": "_w"}
    for metric in metrics.CATALOGUE:
        if metric.unit in suffixes:
            assert metric.key.endswith(suffixes[metric.unit]), metric.key


def test_directions_of_the_contract() -> None:
    for key, better in {
        "accuracy/mmlu": Better.HIGHER,
        "latency/e2e_mean_ms": Better.LOWER,
        "size/checkpoint_gb": Better.LOWER,
        "energy/idle_w": Better.NEITHER,
        "efficiency/mbu": Better.HIGHER,
    }.items():
        assert metrics.get(key).better is better


def test_the_page_is_generated() -> None:
    page = Path(__file__).parent.parent / "docs" / "metrics.md"
    assert metrics.markdown_table() in page.read_text(encoding="utf-8")
