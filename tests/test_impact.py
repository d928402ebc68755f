"""Figures against the baseline: formulas, where each is taken from, what is unknown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim import impact
from slim.metrics import find


def test_impact_against_the_baseline() -> None:
    baseline = {
        "latency/e2e_mean_ms": 30.0,
        "size/checkpoint_gb": 4.0,
        "accuracy/mmlu": 0.5,
        "accuracy/mmlu_stderr": 0.1,
        "accuracy/mean": 0.8,
    }
    quantized = {
        "latency/e2e_mean_ms": 20.0,
        "size/checkpoint_gb": 1.0,
        "accuracy/mmlu": 0.45,
        "accuracy/mmlu_stderr": 0.1,
        "accuracy/gsm8k": 0.3,
    }
    assert impact.impact(baseline, quantized) == pytest.approx(
        {"impact/speedup": 1.5, "impact/size_reduction_pct": 75.0, "impact/mmlu_drop_pct": -10.0}
    )


@given(
    st.dictionaries(
        st.sampled_from(["latency/e2e_mean_ms", "size/checkpoint_gb", "accuracy/a", "accuracy/mean"]), st.floats(0, 1e6)
    )
)
def test_a_configuration_has_no_impact_against_itself(metrics: dict[str, float]) -> None:
    found = impact.impact(metrics, metrics)
    assert all(value == pytest.approx(1.0 if key == "impact/speedup" else 0.0) for key, value in found.items())


@pytest.mark.parametrize(
    ("per_token", "tokens"),
    [({"energy/net_j_per_output_token": 0.5}, 4000.0), ({"energy/net_j_per_output_token": 1.0}, None), ({}, None)],
)
def test_quantizing_pays_for_itself_when_a_token_saves_energy(per_token: dict[str, float], tokens: float | None) -> None:
    baseline = {"energy/net_j_per_output_token": 0.75}
    found = impact.impact(baseline, {"quantize/energy_j": 1000.0, **per_token})
    assert found.get("impact/energy_payback_tokens") == tokens
    assert "impact/energy_payback_tokens" not in impact.impact(baseline, per_token)
    assert "impact/energy_payback_tokens" not in impact.impact({}, {"quantize/energy_j": 1000.0, **per_token})


def test_a_figure_is_taken_from_what_both_have_and_says_so() -> None:
    baseline = {"latency/amortized_b8_ms": 4.0, "latency/e2e_mean_ms": 30.0, "memory/peak_mib": 10.0, "memory/weights_mib": 8.0}
    own = {"latency/amortized_b8_ms": 2.0, "memory/peak_mib": 10.0, "memory/weights_mib": 2.0}
    assert impact.relative(baseline, own) == {
        "impact/speedup": impact.Relative(2.0, "latency/amortized_b8_ms"),
        "impact/memory_reduction_pct": impact.Relative(75.0, "memory/weights_mib"),
    }


def test_of_a_family_the_largest_number_of_requests_in_common_counts() -> None:
    baseline = {f"latency/b1_n{n}_mean_ms": float(n) for n in (200, 2000, 5000)}
    own = {f"latency/b1_n{n}_mean_ms": n / 4 for n in (200, 2000)}
    assert impact.relative(baseline, own)["impact/speedup"] == impact.Relative(4.0, "latency/b1_n2000_mean_ms")


@pytest.mark.parametrize("baseline", [0.0, -1.0, None])
def test_no_share_of_a_baseline_that_is_not_above_zero(baseline: float | None) -> None:
    assert impact.share(baseline, 1.0) is None
    assert impact.change_pct(baseline, 1.0) is None
    assert impact.reduction_pct(baseline, 1.0) is None
    assert impact.gain("throughput/requests_per_s", baseline, 1.0) is None
    assert impact.gain("latency/e2e_mean_ms", baseline, 1.0) is None


def test_a_gain_follows_the_metrics_direction() -> None:
    assert impact.gain("throughput/requests_per_s", 2.0, 6.0) == 3.0
    assert impact.gain("latency/e2e_mean_ms", 6.0, 2.0) == 3.0


def test_every_source_and_every_figure_is_in_the_metric_table() -> None:
    for name, sources in impact.SOURCES.items():
        assert find(name) is not None
        assert all(find(source.replace("<n>", "7")) is not None for source in sources)


positive = st.floats(1e-3, 1e6)


@given(positive, positive, positive)
def test_a_change_of_units_changes_no_figure(baseline: float, own: float, unit: float) -> None:
    keys = [sources[0] for sources in impact.SOURCES.values()] + ["accuracy/mmlu"]
    plain = impact.impact(dict.fromkeys(keys, baseline), dict.fromkeys(keys, own))
    scaled = impact.impact(dict.fromkeys(keys, baseline * unit), dict.fromkeys(keys, own * unit))
    assert len(plain) == len(keys)
    assert scaled == pytest.approx(plain, rel=1e-6, abs=1e-6)
