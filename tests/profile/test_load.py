"""Open-loop load: arrivals that are a Poisson process, and figures that a queue's own arithmetic gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from slim import metrics
from slim.config import LoadConfig, SweepConfig
from slim.engines.base import Engine
from slim.errors import ConfigError
from slim.profile import load, profile, workload
from slim.records import ignore_progress
from tests.profile.profiled import CONFIG, PREFILL_S, SOURCE, STEP_S, TEXT, FakeDevice, engine, measured

REQUESTS = workload.requests(workload.prompts(TEXT, 60, 20, 1), 5)
TTFT_S, SERVICE_S = 20 * PREFILL_S, 20 * PREFILL_S + 4 * STEP_S


@given(count=st.integers(1, 300), rate=st.floats(0.01, 1000), seed=st.integers(0, 1000))
def test_arrivals_never_decrease_and_end_in_time(count: int, rate: float, seed: int) -> None:
    times = load.arrivals(count, rate, seed)
    assert len(times) == count
    assert times[0] > 0
    assert list(times) == sorted(times)
    assert times[-1] == pytest.approx(count / rate)
    assert times == load.arrivals(count, rate, seed)
    assert load.arrivals(count, 2 * rate, seed) == pytest.approx([t / 2 for t in times])


def test_gaps_are_exponential() -> None:
    gaps = np.diff((0.0, *load.arrivals(5000, 4.0, 42)))
    assert kstest(gaps, "expon", args=(0, 1 / 4)).pvalue > 0.01


def served(rate: float, **options: Any) -> load.LoadPoint:
    config = LoadConfig(rates_per_s=(rate,), requests=60)
    (point,) = load.measure(engine(**options), REQUESTS, config, seed=3, on_progress=ignore_progress)
    return point


@pytest.mark.parametrize("rate", [1.0, 12.0, 16.0, 100.0])
def test_one_place_is_a_queue_with_a_constant_service_time(rate: float) -> None:
    """Lindley's recursion: a request starts when it has arrived and the one before it has ended."""
    point = served(rate, max_concurrency=1)
    end, waits = 0.0, []
    for arrival in point.arrivals_s:
        begin = max(arrival, end)
        waits.append(begin - arrival)
        end = begin + SERVICE_S
    assert [c.ttft_s for c in point.done] == pytest.approx([wait + TTFT_S for wait in waits])
    assert [c.e2e_s for c in point.done] == pytest.approx([wait + SERVICE_S for wait in waits])
    assert point.wall_s == pytest.approx(end)
    config = LoadConfig(rates_per_s=(rate,), requests=60, ttft_ms=1e3 * (TTFT_S + 0.05), tpot_ms=1e3 * STEP_S + 1e-6)
    found = metrics.check(point.metrics(config))
    good = sum(wait <= 0.05 for wait in waits)
    name = f"load/r{rate:g}"
    assert found[f"{name}_good_fraction"] == pytest.approx(good / 60)
    assert found[f"{name}_goodput_requests_per_s"] == pytest.approx(good / end)
    assert found[f"{name}_requests_per_s"] == pytest.approx(60 / end)
    assert found[f"{name}_output_tokens_per_s"] == pytest.approx(300 / end)
    assert found[f"{name}_ttft_p95_ms"] == pytest.approx(1e3 * (np.percentile(waits, 95) + TTFT_S))
    assert found[f"{name}_e2e_mean_ms"] == pytest.approx(1e3 * (np.mean(waits) + SERVICE_S))
    assert found[f"{name}_tpot_p50_ms"] == pytest.approx(1e3 * STEP_S)


def test_a_target_on_either_side_makes_a_request_bad() -> None:
    point = served(1.0, max_concurrency=1)
    for ttft_ms, tpot_ms in ((1e3 * TTFT_S / 2, 1e3), (1e6, 1e3 * STEP_S / 2)):
        config = LoadConfig(rates_per_s=(1.0,), requests=60, ttft_ms=ttft_ms, tpot_ms=tpot_ms)
        assert point.metrics(config)["load/r1_good_fraction"] == 0


def test_more_places_take_what_one_makes_wait() -> None:
    assert served(16.0).wall_s < served(16.0, max_concurrency=1).wall_s
    assert max(c.ttft_s for c in served(16.0).done) < max(c.ttft_s for c in served(16.0, max_concurrency=1).done)


def test_a_profile_measures_load_where_it_is_asked_for(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"load": LoadConfig(rates_per_s=(2.0, 7.5), requests=10)})
    assert not any(key.startswith("load/") for key in measured(tmp_path, engine()).metrics)
    found = measured(tmp_path, engine(), config=config)
    assert metrics.check(found.metrics) == found.metrics
    assert {"load/r2_goodput_requests_per_s", "load/r7.5_ttft_p99_ms"} <= set(found.metrics)
    rows = pq.read_table(tmp_path / "load.parquet").to_pylist()
    assert [row["rate_per_s"] for row in rows] == [2.0] * 10 + [7.5] * 10
    assert all(len(row["token_times_s"]) == 5 for row in rows)
    assert "profile.load.skipped" not in found.params


class Closed(Engine):
    """An engine that only runs batches."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    @property
    def info(self) -> Any:
        return self.inner.info

    def generate(self, requests: Any, concurrency: int) -> Any:
        return self.inner.generate(requests, concurrency)


def test_an_engine_that_only_runs_batches_says_so(tmp_path: Path) -> None:
    fake = engine()
    config = CONFIG.model_copy(update={"load": LoadConfig(rates_per_s=(2.0,))})
    found = profile(Closed(fake), SOURCE, config, tmp_path, seed=1, device=FakeDevice(fake.clock), clock=fake.clock.now)
    assert found.params["profile.load.skipped"] == "no continuous batching"
    assert not any(key.startswith("load/") for key in found.metrics)
    assert not (tmp_path / "load.parquet").exists()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, ["rates_per_s", "missing"]),
        ({"rates_per_s": []}, ["rates_per_s is empty"]),
        ({"rates_per_s": [2.0, 1.0]}, ["increase", "[2.0, 1.0]"]),
        ({"rates_per_s": [0.0]}, ["rates_per_s", "0.0"]),
        ({"rates_per_s": [1.0, 1.00000001]}, ["seventh digit"]),
        ({"rates_per_s": [1.0], "ttft_ms": 0}, ["ttft_ms", "0"]),
    ],
)
def test_a_load_that_cannot_be_is_one_line(values: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        SweepConfig.parse({"models": ["embedded"], "precisions": ["bf16"], "profile": {"load": values}})
    assert "\n" not in str(caught.value)
    for part in ("profile.load", *named):
        assert part in str(caught.value)
