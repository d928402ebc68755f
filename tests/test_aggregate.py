"""Repeats combined."""

import pytest

from slim import aggregate


def test_one_repeat_is_kept_as_it_is() -> None:
    metrics = {"latency/e2e_mean_ms": 10.0, "latency/e2e_mean_ms_ci_low": 9.0, "validity/ok": 1.0}
    assert aggregate.combine_repeats([metrics]) == (metrics, [])


def test_repeats_give_mean_and_students_interval() -> None:
    repeats = [
        {"latency/ttft_mean_ms": v, "latency/ttft_mean_ms_ci_low": 0.0, "memory/weights_mib": 7.0} for v in (9.0, 10.0, 11.0)
    ]
    combined, reasons = aggregate.combine_repeats(repeats)
    assert combined["latency/ttft_mean_ms"] == pytest.approx(10)
    # t(0.975, 2) * 1 / sqrt(3)
    assert combined["latency/ttft_mean_ms_ci_high"] == pytest.approx(10 + 4.302653 / 3**0.5)
    assert combined["memory/weights_mib"] == 7.0
    assert "memory/weights_mib_ci_low" not in combined
    assert reasons == []


def test_a_metric_that_a_repeat_lacks_is_left_out() -> None:
    combined, _ = aggregate.combine_repeats([{"memory/peak_mib": 1.0, "energy/net_j_per_query": 2.0}, {"memory/peak_mib": 3.0}])
    assert combined.keys() == {"memory/peak_mib", "memory/peak_mib_ci_low", "memory/peak_mib_ci_high"}


def test_repeats_that_spread_too_far_are_flagged() -> None:
    repeats = [{"latency/e2e_mean_ms": v, "validity/ok": 1.0} for v in (10.0, 12.0)]
    combined, reasons = aggregate.combine_repeats(repeats)
    assert reasons == ["repeats_spread:latency/e2e_mean_ms"]
    assert combined["validity/ok"] == 0.0


def test_repeats_whose_best_concurrency_differs_are_flagged() -> None:
    """Their energy and throughput are those of different loads; the mean of 8 and 32 would be a concurrency that nobody tried."""
    repeats = [{"throughput/best_concurrency": v, "energy/net_j_per_query": 1.0, "validity/ok": 1.0} for v in (8.0, 32.0)]
    combined, reasons = aggregate.combine_repeats(repeats)
    assert reasons == ["repeats_differ:throughput/best_concurrency"]
    assert combined == {"energy/net_j_per_query": 1.0, "validity/ok": 0.0}
    assert aggregate.combine_repeats([repeats[0]] * 2)[0]["throughput/best_concurrency"] == 8.0


def test_energy_of_different_loads_is_flagged() -> None:
    repeats = [{"energy/concurrency": v, "throughput/best_concurrency": 8.0} for v in (8.0, 4.0)]
    combined, reasons = aggregate.combine_repeats(repeats)
    assert reasons == ["repeats_differ:energy/concurrency"]
    assert combined == {"throughput/best_concurrency": 8.0, "validity/ok": 0.0}


@pytest.mark.parametrize(("values", "flagged"), [((31.0, 30.0), False), ((30.0, 17.0), True)])
def test_of_the_largest_batch_the_least_counts(values: tuple[float, ...], flagged: bool) -> None:
    combined, reasons = aggregate.combine_repeats([{"throughput/max_batch": v, "validity/ok": 1.0} for v in values])
    assert combined == {"throughput/max_batch": min(values), "validity/ok": float(not flagged)}
    assert reasons == (["repeats_spread:throughput/max_batch"] if flagged else [])


def test_one_invalid_repeat_makes_the_configuration_invalid() -> None:
    combined, _ = aggregate.combine_repeats([{"validity/ok": 1.0}, {"validity/ok": 0.0}])
    assert combined["validity/ok"] == 0.0


@pytest.mark.parametrize(
    ("values", "flagged"), [((10.0, 10.9), False), ((10.0, 12.0), True), ((0.1, -0.1), True), ((1.0, 0.0), True)]
)
def test_energy_that_spreads_or_is_not_positive_is_flagged(values: tuple[float, ...], flagged: bool) -> None:
    combined, reasons = aggregate.combine_repeats([{"energy/net_j_per_query": v, "validity/ok": 1.0} for v in values])
    assert reasons == (["repeats_spread:energy/net_j_per_query"] if flagged else [])
    assert combined["validity/ok"] == float(not flagged)
