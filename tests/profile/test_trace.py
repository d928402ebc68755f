"""The trace of a profile: what it says, what it is worth, how it is stored and drawn."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from slim.device import CpuDevice, DeviceState
from slim.profile import energy, plot, summary
from slim.profile.energy import Work
from slim.profile.passes import Warmup
from slim.profile.trace import Monitor, Phase, Trace
from slim.sampling import Reading

PHASES = (Phase("latency", 0.0, 4.0), Phase("idle", 4.5, 6.0), Phase("energy", 6.5, 10.0))
CALM = DeviceState(other_processes=0)
SETTLED = Warmup((1.0,) * 5, True)


def trace(times: list[float], interval_s: float | None = 0.5, throttled: int = 0, **fields: object) -> Trace:
    """Power is 100 W until 6 s, then 300 W; the first readings are throttled."""
    readings = [
        Reading(t, 1 << 20, 300.0 if t >= 6 else 100.0, throttle=("hw_slowdown",) if i < throttled else ())
        for i, t in enumerate(times)
    ]
    return Trace(tuple(readings), PHASES, 0.0, 10.0, interval_s, **fields)  # type: ignore[arg-type]


REGULAR = [i / 2 for i in range(21)]


def test_readings_belong_to_the_phase_that_they_fall_into() -> None:
    found = trace(REGULAR)
    assert [s.time_s for s in found.samples("power_w", "idle")] == [4.5, 5.0, 5.5, 6.0]
    assert [found.phase_of(r) for r in found.readings if 6 <= r.time_s <= 6.5] == ["idle", "energy"]
    assert found.phase_of(Reading(4.2, 0)) is None
    assert found.samples("utilization_pct", "idle") == ()


def test_a_regular_trace_is_whole() -> None:
    found = trace(REGULAR)
    assert (found.late, found.missing, found.is_starved) == (0, 0.0, False)
    # Readings between the regular ones take nothing away.
    assert trace(sorted([*REGULAR, 4.5, 4.6, 6.4])).late == 0


def test_late_and_missing_readings_are_counted() -> None:
    found = trace([t for t in REGULAR if not 2.0 <= t <= 3.0])
    assert found.late == 1
    assert found.missing == pytest.approx(3 / 20)
    assert found.is_starved
    assert trace(REGULAR[:-5]).late == 1  # it died before the end
    assert trace([]).is_starved
    # Readings that do not follow the clock cannot be late.
    assert not trace([0.0, 9.0], interval_s=None).is_starved


def test_a_hole_in_the_energy_pass_counts_by_itself() -> None:
    fine = [i / 10 for i in range(1001)]
    phases = (Phase("energy", 90.0, 95.0),)
    holed = [Reading(t, 0, 1.0) for t in fine if not 91 < t < 91.6]
    found = Trace(tuple(holed), phases, 0.0, 100.0, 0.1)
    assert found.missing < 0.01
    assert found.is_starved
    assert summary.validity(SETTLED, None, CALM, CALM, found) == ["trace_starved"]


def test_throttling_counts_when_it_lasts() -> None:
    many = [i / 100 for i in range(1001)]
    brief = trace(many, 0.01, throttled=5)
    assert 0 < brief.throttled["hw_slowdown"] <= 0.01
    assert summary.validity(SETTLED, None, CALM, CALM, brief) == []
    lasting = trace(many, 0.01, throttled=50)
    assert lasting.throttled == {"hw_slowdown": pytest.approx(50 / len(lasting.during("latency", "energy")))}
    assert summary.validity(SETTLED, None, CALM, CALM, lasting) == ["clocks_throttled:hw_slowdown"]


def test_a_power_limit_is_told_but_no_reason_for_distrust() -> None:
    readings = [Reading(t / 10, 0, 700.0, throttle=("sw_power_cap",), sm_clock_mhz=1600 + t) for t in range(101)]
    capped = Trace(tuple(readings), PHASES, 0.0, 10.0, 0.1)
    after = DeviceState(throttle=("sw_power_cap",))
    assert summary.validity(SETTLED, None, CALM, after, capped) == []
    assert summary.notes(capped, (), None)[-1] == "the power limit held the clock down in 100% of the readings under work"
    found = energy.join(Work(2, None, 3.5, None, 2, 20, (), ()), capped)
    assert found is not None
    assert summary.energy_metrics(found)["gpu/sm_clock_mean_mhz"] == pytest.approx(1600 + (65 + 100) / 2)
    hot = [Reading(r.time_s, 0, throttle=("sw_power_cap", "sw_thermal_slowdown")) for r in readings]
    said = summary.validity(SETTLED, None, CALM, CALM, Trace(tuple(hot), PHASES, 0.0, 10.0, 0.1))
    assert said == ["clocks_throttled:sw_thermal_slowdown"]


@pytest.mark.parametrize(("others", "reasons"), [(0, []), (None, []), (1, ["gpu_shared"])])
def test_another_process_at_any_time_is_a_reason(others: int | None, reasons: list[str]) -> None:
    assert summary.validity(SETTLED, None, CALM, CALM, trace(REGULAR, other_processes=others)) == reasons


def test_energy_is_what_the_trace_says_about_the_pass() -> None:
    found = energy.join(Work(2, None, 4.0, None, 2, 20, (), ()), trace(REGULAR))
    assert found is not None
    assert [s.value for s in found.power] == [300.0] * 8
    # 300 W over the 3.5 s between the first and the last reading, scaled to the 4 s of work.
    assert found.sampled_j == pytest.approx(300 * 4.0)
    assert found.idle_w == pytest.approx((3 * 100 + 300) / 4)
    counted = energy.join(Work(2, 1200.0, 4.0, 90.0, 2, 20, (), ()), trace(REGULAR))
    assert counted is not None
    assert (counted.idle_w, counted.net_j) == (90.0, 1200.0 - 4 * 90.0)
    assert energy.join(Work(2, 5.0, 4.0, None, 2, 20, (), ()), trace([0.0, 5.0, 7.0])) is None


def test_it_is_stored_with_phases_and_nulls(tmp_path: Path) -> None:
    trace(REGULAR, throttled=1).write(tmp_path / "trace.parquet")
    table = pq.read_table(tmp_path / "trace.parquet")
    assert table.num_rows == 21
    assert table["utilization_pct"].null_count == 21
    assert str(table.schema.field("utilization_pct").type) == "double"
    rows = table.to_pylist()
    assert rows[0]["throttle"] == ["hw_slowdown"]
    assert [row["phase"] for row in rows[8:10]] == ["latency", "idle"]


def test_panels_are_the_quantities_that_the_device_has() -> None:
    assert [p.label for p in plot.panels(trace(REGULAR))] == ["Power (W)", "Memory (MiB)"]
    (memory,) = plot.panels(Trace((Reading(0.0, 3 << 20), Reading(1.0, 5 << 20)), (), 0.0, 1.0, None))
    assert memory.values == (3.0, 5.0)
    assert plot.panels(Trace((), (), 0.0, 1.0, None)) == []


def test_the_drawing_is_a_picture_and_names_short_phases_too(tmp_path: Path) -> None:
    phases = (*PHASES, Phase("batch of 8", 6.2, 6.3))
    plot.draw(plot.panels(trace(REGULAR)), phases, tmp_path / "trace.png", title="a GPU")
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")
    assert [f.name for f in tmp_path.iterdir()] == ["trace.png"]
    plot.draw([], phases, tmp_path / "none.png", title="")
    assert not (tmp_path / "none.png").exists()


def test_the_monitor_marks_phases_in_the_real_clock() -> None:
    with Monitor(CpuDevice(), 0.01) as monitor:
        with monitor.phase("latency"):
            sum(range(10**6))
        with monitor.phase("throughput"):
            sum(range(10**6))
    found = monitor.trace
    assert found.sampled_by == "process"
    assert [p.name for p in found.phases] == ["latency", "throughput"]
    assert found.begin_s <= found.phases[0].begin_s < found.phases[0].end_s <= found.phases[1].begin_s <= found.end_s
    assert found.during("latency") and found.during("throughput")
    assert found.other_processes is None
