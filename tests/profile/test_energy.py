"""The energy pass, what is derived from it, and whether a profile is to be trusted: every figure is exact."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from slim.config import EnergyConfig
from slim.device import DeviceState, Sample
from slim.engines.base import EngineSpec
from slim.engines.fake import FakeEngine, VirtualClock
from slim.errors import Reason, StageError
from slim.profile import Profile, energy, passes, summary, workload
from slim.profile.energy import EnergyPass
from slim.profile.passes import Warmup
from slim.profile.trace import Monitor, Trace
from slim.records import ignore_progress
from slim.sampling import Reading
from tests.profile.profiled import CONFIG, EXTRA_S, PREFILL_S, STEP_S, TEXT, FakeDevice, engine, measured


def test_a_device_without_power_has_no_energy(tmp_path: Path) -> None:
    fake = engine()
    config = CONFIG.model_copy(update={"energy": EnergyConfig()})
    found = measured(tmp_path, fake, FakeDevice(fake.clock, watts=None), config)
    assert not any(key.startswith("energy/") for key in found.metrics)
    assert found.tags["slim.profile_notes"] == "not measured by this device: power, temperature, clock"
    assert pq.read_table(tmp_path / "trace.parquet")["power_w"].null_count > 0


def test_energy_is_power_times_time_and_idle_is_subtracted() -> None:
    fake = engine()
    device = FakeDevice(fake.clock, watts=100.0)
    requests = workload.requests(workload.prompts(TEXT, 4, 20, 1), 5)

    waits = iter([(2.0, 100.0), (10.0, 400.0)])

    def sleep(seconds: float) -> None:
        expected, watts = next(waits)
        assert seconds == expected
        fake.clock.advance(seconds)
        device.watts = watts

    # The device draws 100 W until the idle measurement is over, by its counter 90 W; the counter follows the work, at 410 W.
    counter = itertools.chain([100.0, 1000.0], (1000.0 + 410.0 * (fake.clock.now() - 12.0) for _ in itertools.count()))
    device.total_energy_j = lambda: next(counter)  # type: ignore[method-assign]
    with Monitor(device, 1e6, fake.clock.now) as monitor:
        work = energy.measure(
            fake,
            device,
            monitor,
            requests,
            4,
            config=EnergyConfig(min_duration_s=40, idle_s=10),
            on_progress=ignore_progress,
            clock=fake.clock.now,
            sleep=sleep,
        )
    found = energy.join(work, monitor.trace)
    assert found is not None
    assert found.wall_s >= 40
    assert found.idle[0].value == 100.0
    assert found.requests * 5 == found.output_tokens
    assert found.gross_j == pytest.approx(410 * found.wall_s)
    assert found.sampled_j == pytest.approx(400 * found.wall_s)
    assert found.idle_w == 90
    assert found.net_j == pytest.approx(320 * found.wall_s)
    idle, *batches = work.spans
    assert (idle.phase, idle.end_s - idle.begin_s, idle.requests) == ("idle", pytest.approx(10), 0)
    assert sum(span.requests for span in batches) == found.requests
    assert all(b.begin_s == a.end_s and b.counter_begin_j == a.counter_end_j for a, b in itertools.pairwise(batches))


@pytest.mark.parametrize("counter", [lambda _: 5.0, lambda now_s: None if now_s < 10 else 100.0 * now_s, lambda now_s: -now_s])
def test_a_counter_that_does_not_count_is_none(tmp_path: Path, counter: Callable[[float], float | None]) -> None:
    """Neither 0 J nor work and idle by two instruments."""
    fake = engine()
    device = FakeDevice(fake.clock, watts=200.0)
    device.total_energy_j = lambda: counter(fake.clock.now())  # type: ignore[method-assign]
    config = CONFIG.model_copy(update={"energy": EnergyConfig(min_duration_s=2.0, idle_s=0.01, settle_s=0.0)})
    found = measured(tmp_path, fake, device, config)
    assert found.metrics["energy/mean_power_w"] == pytest.approx(200)
    assert found.metrics["energy/idle_w"] == 200
    assert "energy/counter_ratio" not in found.metrics
    assert "no energy counter: energy is sampled power alone" in found.tags["slim.profile_notes"]


class Scattered(FakeEngine):
    """Has room for more than ``beyond`` sequences at once so many times, then no more."""

    beyond, times = 0, 10**9

    def generate(self, requests, concurrency):  # type: ignore[no-untyped-def]
        self.times -= concurrency > self.beyond
        if self.times < 0 and concurrency > self.beyond:
            raise StageError(Reason.OUT_OF_MEMORY, "scattered")
        return super().generate(requests, concurrency)


@pytest.mark.parametrize(("beyond", "concurrency"), [(4, 4), (2, 2), (1, 1), (0, None)])
def test_energy_is_measured_where_it_fits(tmp_path: Path, beyond: int, concurrency: int | None) -> None:
    def run(times: int, spent: EnergyConfig | None) -> tuple[Scattered, Profile]:
        options = {"prefill_s_per_token": PREFILL_S, "decode_step_s": STEP_S, "extra_sequence_s": EXTRA_S}
        fake = Scattered(EngineSpec("fake", Path(), "bfloat16", options), VirtualClock())
        fake.beyond, fake.times = beyond, times
        return fake, measured(tmp_path, fake, config=CONFIG.model_copy(update={"energy": spent, "amortized_batch8": False}))

    # What all passes before it need is there, and no more.
    used = 10**9 - run(10**9, None)[0].times
    _, found = run(used, EnergyConfig(min_duration_s=1.0, idle_s=0.01, settle_s=0.0))
    assert found.metrics["throughput/best_concurrency"] == 4
    assert found.metrics.get("energy/concurrency") == concurrency
    notes = found.tags.get("slim.profile_notes", "")
    assert ("energy was measured at concurrency" in notes) == (concurrency in {1, 2})
    assert ("energy was not measured: out of memory" in notes) == (concurrency is None)
    assert "throughput/output_tokens_per_s_c4" in found.metrics


def test_the_concurrency_of_the_energy_pass_can_be_set(tmp_path: Path) -> None:
    spent = EnergyConfig(concurrency=3, min_duration_s=1.0, idle_s=0.01, settle_s=0.0)
    found = measured(tmp_path, engine(), config=CONFIG.model_copy(update={"energy": spent}))
    assert found.metrics["energy/concurrency"] == 3
    rows = pq.read_table(tmp_path / "energy.parquet").to_pylist()
    assert [row["phase"] for row in rows] == ["idle"] + ["energy"] * (len(rows) - 1)
    assert {row["requests"] for row in rows[1:]} == {3}
    seconds = sum(row["end_s"] - row["begin_s"] for row in rows[1:])
    tokens = sum(row["output_tokens"] for row in rows)
    assert found.metrics["throughput/sustained_output_tokens_per_s"] == pytest.approx(tokens / seconds)
    joules = rows[-1]["counter_end_j"] - rows[1]["counter_begin_j"]
    assert found.metrics["energy/mean_power_w"] == pytest.approx(joules / seconds)


def test_a_rate_that_does_not_last_is_told() -> None:
    curve = [passes.CurvePoint(4, 10.0, 10, 100, 1000, 0, ())]
    said = [summary.notes(CALM_TRACE, curve, made_energy(output_tokens=n, wall_s=10.0)) for n in (1090, 910, 1150, 850)]
    assert said[:2] == [[], []]
    assert said[2] == ["at concurrency 4 the energy pass ran at 115% of the throughput pass's rate"]
    assert said[3] == ["at concurrency 4 the energy pass ran at 85% of the throughput pass's rate"]


def made_energy(**fields: object) -> EnergyPass:
    power = (Sample(0.0, 200.0), Sample(40.0, 200.0))
    values = {"idle": (Sample(0.0, 50.0),), "power": power, "utilization": (), "counter_j": 8000.0, "wall_s": 40.0}
    values |= {"concurrency": 4, "spans": ()}
    return EnergyPass(**{**values, "idle_counter_w": None, "requests": 10, "output_tokens": 100, "throttle": (), **fields})  # type: ignore[arg-type]


def test_energy_metrics() -> None:
    found = summary.energy_metrics(made_energy())
    assert found["energy/gross_j_per_query"] == 800
    assert found["energy/net_j_per_query"] == 600
    assert found["energy/net_j_per_output_token"] == 60
    assert found["energy/net_kwh"] == pytest.approx(6000 / 3.6e6)
    assert found["energy/counter_ratio"] == 1.0
    assert "gpu/utilization_mean_pct" not in found
    assert "energy/counter_ratio" not in summary.energy_metrics(made_energy(counter_j=None))


CALM_TRACE = Trace((Reading(0.0, 1, 100.0, 50.0, 40, 1500),), (), 0.0, 1.0, None)
SETTLED, CALM = Warmup((1.0,) * 5, True), DeviceState(other_processes=0)


@pytest.mark.parametrize(
    ("reasons", "warmup", "spent", "after"),
    [
        ([], SETTLED, None, CALM),
        ([], SETTLED, made_energy(), CALM),
        (["warmup_unsettled"], Warmup((1.0,), False), None, CALM),
        (["energy_pass_short"], SETTLED, made_energy(wall_s=20.0, counter_j=4000.0), CALM),
        (["energy_counter_disagrees"], SETTLED, made_energy(counter_j=7000.0), CALM),
        (["clocks_throttled:hw_slowdown"], SETTLED, made_energy(throttle=("hw_slowdown",)), CALM),
        (["gpu_shared"], SETTLED, None, DeviceState(other_processes=1)),
        ([], SETTLED, None, DeviceState(other_processes=None)),
    ],
)
def test_validity(reasons: list[str], warmup: Warmup, spent: EnergyPass | None, after: DeviceState) -> None:
    assert summary.validity(warmup, spent, CALM, after) == reasons


def test_an_invalid_profile_says_why(tmp_path: Path) -> None:
    fake = engine()
    found = measured(tmp_path, fake, FakeDevice(fake.clock, throttle=["sw_power_cap", "hw_slowdown"], others=2))
    assert found.metrics["validity/ok"] == 0.0
    assert found.tags["slim.validity"] == "clocks_throttled:hw_slowdown,gpu_shared"
