"""Profiling on an engine whose times are known: every figure is exact."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim import metrics, stats
from slim.config import EnergyConfig, WarmupConfig
from slim.engines.base import Completion, EngineSpec
from slim.engines.fake import FakeEngine, VirtualClock
from slim.profile import bandwidth, passes, profile, summary, workload
from slim.records import ignore_progress
from tests.profile.profiled import CONFIG, EXTRA_S, PREFILL_S, SOURCE, STEP_S, TEXT, FakeDevice, engine, measured


def test_latency_is_what_the_engine_takes(tmp_path: Path) -> None:
    found = measured(tmp_path, engine()).metrics
    first, rest = 20 * PREFILL_S, 4 * STEP_S
    for statistic in ("mean", "p50", "p95", "p99"):
        assert found[f"latency/tpot_{statistic}_ms"] == pytest.approx(1e3 * STEP_S)
        assert found[f"latency/itl_{statistic}_ms"] == pytest.approx(1e3 * STEP_S)
        assert found[f"latency/e2e_{statistic}_ms"] == pytest.approx(found[f"latency/ttft_{statistic}_ms"] + 1e3 * rest)
        assert found[f"latency/ttft_{statistic}_ms"] >= 1e3 * first
    assert found["latency/e2e_mean_ms_ci_low"] == pytest.approx(found["latency/e2e_mean_ms"])
    assert found["validity/ok"] == 1.0
    assert metrics.check(found) == found


def test_throughput_is_the_best_of_the_curve(tmp_path: Path) -> None:
    found = measured(tmp_path, engine()).metrics
    curve = pq.read_table(tmp_path / "throughput.parquet").to_pylist()
    rates = {row["concurrency"]: row["output_tokens"] / row["wall_s"] for row in curve}
    assert set(rates) == {1, 2, 4}
    best = max(rates, key=lambda n: rates[n])
    assert found["throughput/best_concurrency"] == best
    assert found["throughput/output_tokens_per_s"] == pytest.approx(rates[best])
    assert found["throughput/total_tokens_per_s"] == pytest.approx(rates[best] * 25 / 5)
    assert found["throughput/requests_per_s"] == pytest.approx(rates[best] / 5)
    assert all(found[f"throughput/output_tokens_per_s_c{n}"] == pytest.approx(rate) for n, rate in rates.items())


def test_a_short_point_is_made_longer_by_whole_rounds(tmp_path: Path) -> None:
    fake = engine()
    found = measured(tmp_path, fake, config=CONFIG.model_copy(update={"throughput_min_s": 2.0}))
    short = measured(tmp_path / "..", engine()).metrics
    rows = {row["concurrency"]: row for row in pq.read_table(tmp_path / "throughput.parquet").to_pylist()}
    assert all(row["wall_s"] >= 2.0 and row["requests"] % row["concurrency"] == 0 for row in rows.values())
    # An engine of constant speed has the same rate over any time, but for the prompts of the first round.
    for level in (1, 2, 4):
        key = f"throughput/output_tokens_per_s_c{level}"
        assert found.metrics[key] == pytest.approx(short[key], rel=0.05)
    requests = pq.read_table(tmp_path / "throughput_requests.parquet").to_pylist()
    for level, row in rows.items():
        mine = [r for r in requests if r["concurrency"] == level]
        assert (len(mine), sum(r["output_tokens"] for r in mine)) == (row["requests"], row["output_tokens"])


@pytest.mark.parametrize(
    ("rates", "best"),
    [([100, 200, 300], 3), ([100, 299, 300], 2), ([300, 299, 200], 1), ([100, 290, 300], 3), ([100, 300, 305], 2)],
)
def test_the_best_point_is_the_lowest_on_the_plateau(rates: list[int], best: int) -> None:
    curve = [passes.CurvePoint(level, 1.0, 1, 1, rate, 0, ()) for level, rate in enumerate(rates, 1)]
    assert passes.best(curve).concurrency == best


@pytest.mark.parametrize(
    ("preempted", "limit", "capacity", "largest"),
    [
        ((), 256, 65536, 256),
        ((), 256, 2500, 100),
        # What ran, ran, whatever the count says.
        ((), 256, 100, 8),
        ((), None, 2500, 100),
        ((8,), 256, 65536, 4),
        # Once requests were thrown out, a calm point above is luck.
        ((4,), 256, 65536, 1),
        ((1, 4, 8), 256, 65536, None),
    ],
)
def test_the_largest_batch_without_preemption(
    preempted: tuple[int, ...], limit: int | None, capacity: int, largest: int | None
) -> None:
    curve = [passes.CurvePoint(level, 1.0, level, 20, 5, int(level in preempted), ()) for level in (1, 4, 8)]
    info = engine(max_concurrency=limit, kv_capacity_tokens=capacity).info
    assert summary.unpreempted(curve, info, 25).get("throughput/max_batch") == largest


def test_intervals_of_many_requests_are_over_blocks() -> None:
    """Times that wander, as a host's do: single requests look more alike than they are."""
    wander = [1.0 + 0.1 * (i // 10 % 2) for i in range(50)]
    done = [Completion((1, 2), "", "length", 0.0, (w, w + 0.5)) for w in wander]
    found = summary.latency_metrics(done)
    blocks = stats.mean_interval([1e3 * (1.0 + 0.1 * (i // 2 % 2)) for i in range(10)])
    assert blocks is not None
    assert found["latency/ttft_mean_ms_ci_high"] == pytest.approx(blocks.high)
    few = summary.latency_metrics(done[:24])
    each = stats.mean_interval([1e3 * w for w in wander[:24]])
    assert each is not None
    assert few["latency/ttft_mean_ms_ci_high"] == pytest.approx(each.high)


def test_the_curve_ends_when_it_stops_growing_or_at_what_the_engine_takes() -> None:
    requests = workload.requests(workload.prompts(TEXT, 16, 20, 1), 5)
    # A step takes as long for each sequence in it as for the first: nothing is gained.
    flat = passes.throughput(engine(extra_sequence_s=STEP_S), requests, (1, 2, 4, 8), 1, ignore_progress)
    assert [p.concurrency for p in flat] == [1, 2]
    limited = passes.throughput(engine(max_concurrency=4), requests, (1, 2, 4, 8), 1, ignore_progress)
    assert [p.concurrency for p in limited] == [1, 2, 4]


@pytest.mark.parametrize("capacity", [4096, None])
def test_what_a_new_shape_costs_once_is_not_measured(capacity: int | None) -> None:
    class Preparing(FakeEngine):
        """Takes 100 s more for the first batch of each size and, where its cache grows, of each length."""

        def generate(self, requests, concurrency):  # type: ignore[no-untyped-def]
            lengths = range(requests[0].max_tokens) if self.info.kv_capacity_tokens is None else [0]
            for shape in {(concurrency, length) for length in lengths} - seen:
                seen.add(shape)
                self.clock.advance(100.0)
            return super().generate(requests, concurrency)

    seen: set[tuple[int, int]] = set()
    requests = workload.requests(workload.prompts(TEXT, 16, 20, 1), 12)
    options = {"decode_step_s": STEP_S, "extra_sequence_s": EXTRA_S, "kv_capacity_tokens": capacity}
    spec = EngineSpec("fake", Path(), "bfloat16", options)
    plain, preparing = FakeEngine(spec, VirtualClock()), Preparing(spec, VirtualClock())
    curves = [passes.throughput(one, requests, (1, 2, 4), 1, ignore_progress) for one in (plain, preparing)]
    assert [p.wall_s for p in curves[0]] == pytest.approx([p.wall_s for p in curves[1]])
    seen.clear()
    of_eight = [passes.amortized_batch(one, requests[:8], one.clock.now) for one in (plain, preparing)]
    assert of_eight[0] == pytest.approx(of_eight[1])


def test_memory_is_split(tmp_path: Path) -> None:
    fake = engine(weights_bytes=100 << 20, kv_bytes_per_token=1 << 20, kv_capacity_tokens=64)
    found = measured(tmp_path, fake).metrics
    assert found["memory/weights_mib"] == 100
    assert found["memory/kv_capacity_tokens"] == 64
    assert found["memory/required_mib"] == 100 + 25
    assert found["memory/peak_mib"] == found["memory/mean_mib"] == 8
    growing = measured(tmp_path, engine(weights_bytes=100 << 20, kv_capacity_tokens=None)).metrics
    assert "memory/kv_capacity_tokens" not in growing
    assert growing["memory/required_mib"] == 100


def test_raw_times_are_kept(tmp_path: Path) -> None:
    found = measured(tmp_path, engine()).metrics
    rows = pq.read_table(tmp_path / "requests.parquet").to_pylist()
    assert len(rows) == 4
    assert all(len(row["token_times_s"]) == 5 and row["cached_tokens"] == 0 for row in rows)
    assert sum(1e3 * row["e2e_s"] for row in rows) / 4 == pytest.approx(found["latency/e2e_mean_ms"])
    assert len(json.loads((tmp_path / "device.json").read_text())["warmup_e2e_s"]) == 5


@pytest.mark.parametrize(
    ("gaps_s", "share"),
    [
        ([2.0, 2.0, 2.0, 2.0], 0.0),
        # Twice the median is no interruption yet.
        ([2.0, 2.0, 2.0, 4.0], 0.0),
        ([2.0, 2.0, 2.0, 10.0], 8 / 16),
        ([1.0, 2.0, 3.0, 12.0, 2.0], 10 / 20),
        ([0.0, 0.0], 0.0),
        ([5.0], 0.0),
    ],
)
def test_time_that_the_host_took(gaps_s: list[float], share: float) -> None:
    assert summary.stalled(gaps_s) == pytest.approx(share)


def test_warm_up_goes_on_until_times_agree() -> None:
    class Slow(FakeEngine):
        """Each request is faster than the one before, down to a floor."""

        def generate(self, requests, concurrency):  # type: ignore[no-untyped-def]
            done = super().generate(requests, concurrency)
            extra = next(delays)
            return [type(c)(**{**c.__dict__, "token_times_s": tuple(t + extra for t in c.token_times_s)}) for c in done]

    delays = iter([5.0, 3.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    slow = Slow(EngineSpec("fake", Path(), "bfloat16", {"decode_step_s": STEP_S}), VirtualClock())
    requests = workload.requests(workload.prompts(TEXT, 9, 20, 1), 5)
    warmup = passes.warm_up(slow, requests, WarmupConfig(min_requests=2, max_requests=9, tolerance=0.1), ignore_progress)
    assert warmup.settled
    assert len(warmup.e2e_s) == 8
    delays = iter([float(i) for i in range(9)])
    restless = passes.warm_up(slow, requests, WarmupConfig(min_requests=2, max_requests=6, tolerance=0.1), ignore_progress)
    assert not restless.settled
    assert len(restless.e2e_s) == 6


@pytest.mark.parametrize(
    ("times_s", "settled"),
    [
        ([1.0, 1.0, 1.0, 1.0], False),
        ([1.0, 1.0, 1.0, 1.0, 1.01], True),
        ([1.0, 1.0, 1.0, 1.0, 1.1], False),
        # Two bf16 profiles on an H100 whose host stalled single requests, ms a token.
        ([3.36, 3.74, 3.36, 3.36, 3.76, 3.54, 3.36, 3.36, 3.87, 3.36], True),
        ([3.37, 3.37, 3.69, 3.53, 3.36, 3.37, 4.01, 3.36, 3.36, 3.80], True),
        # Still getting faster, and a machine that is noisy throughout.
        ([2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1], False),
        ([3.54, 2.75, 3.34, 3.35, 3.01, 3.25, 3.15, 3.65, 3.04, 3.31], False),
    ],
)
def test_single_slow_requests_do_not_keep_a_warm_up_from_settling(times_s: list[float], settled: bool) -> None:
    assert passes.has_settled(times_s, 0.02) is settled


@given(st.lists(st.integers(0, 200), min_size=1, max_size=300), st.integers(1, 20), st.integers(1, 40), st.integers(0, 9))
def test_prompts_have_the_length_and_no_common_beginning(tokens: list[int], count: int, length: int, seed: int) -> None:
    try:
        windows = workload.prompts(tokens, count, length, seed)
    except ValueError as error:
        assert "different windows" in str(error)
        return
    assert len(windows) == count
    assert {len(w) for w in windows} == {length}
    assert len({w[:16] for w in windows}) == count
    assert workload.prompts(tokens, count, length, seed) == windows


def test_a_profile_says_how_near_it_is_to_the_devices_limit(tmp_path: Path, tiny_model: Path) -> None:
    fake = engine(kv_bytes_per_token=1000)
    config = CONFIG.model_copy(update={"peak_bandwidth_gb_s": 2.0})
    found = profile(
        fake, SOURCE, config, tmp_path, seed=1, device=FakeDevice(fake.clock), checkpoint=tiny_model, clock=fake.clock.now
    )
    weights = bandwidth.weight_bytes(tiny_model)
    assert weights is not None
    assert found.metrics["efficiency/mbu"] == pytest.approx((weights + 1000 * 22.5) / STEP_S / 2e9)
    assert found.params["profile.bandwidth_from"] == "sweep file"
    assert metrics.check(found.metrics) == found.metrics
    assert not any(key.startswith("efficiency/") for key in measured(tmp_path, engine()).metrics)


def test_the_trace_covers_all_phases(tmp_path: Path) -> None:
    fake = engine()
    config = CONFIG.model_copy(update={"energy": EnergyConfig(min_duration_s=2.0, idle_s=0.01)})
    found = measured(tmp_path, fake, config=config)
    phases = ["warm-up", "latency", "batch of 8", "throughput", "settle", "idle", "energy"]
    states = json.loads((tmp_path / "device.json").read_text())
    assert [phase["name"] for phase in states["phases"]] == phases
    assert {"before", "after", "sampling", "throttled_share"} <= states.keys()
    assert set(pq.read_table(tmp_path / "trace.parquet")["phase"].to_pylist()) >= {"warm-up", "latency", "throughput", "energy"}
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")
    assert found.metrics["energy/gross_j_per_query"] > 0
    assert found.metrics["gpu/utilization_mean_pct"] == 50.0
