"""What a piece of work costs, on a device whose readings are known."""

import mmap

import pytest

from slim.device import MIB, CpuDevice
from slim.engines.fake import VirtualClock
from slim.meter import Meter
from tests.profile.profiled import FakeDevice


class Steady(FakeDevice):
    """Draws 100 W; its counter follows a clock of its own."""

    def total_energy_j(self) -> float | None:
        return next(self.readings)


@pytest.mark.parametrize(("readings", "by_counter"), [((5.0, 30.0), True), ((None, None), False), ((5.0, 5.0), False)])
def test_energy_is_the_counters_else_sampled(readings: tuple[float | None, ...], by_counter: bool) -> None:
    device = Steady(VirtualClock(), watts=100.0)
    device.readings = iter(readings)
    meter = Meter(device)
    with meter:
        sum(range(2_000_000))
    assert meter.energy_j == (25.0 if by_counter else pytest.approx(100 * meter.wall_s, rel=0.2, abs=1.0))
    assert meter.peak_mib == 8


def test_a_cpu_has_the_peak_of_its_memory_and_no_energy() -> None:
    device = CpuDevice()
    before = device.memory_used_bytes()
    with Meter(device) as meter:
        # Fresh pages: a heap that was used before has room without growing.
        ballast = mmap.mmap(-1, 64 * MIB)
        ballast.write(b"x" * (64 * MIB))
    ballast.close()
    assert meter.energy_j is None
    assert meter.peak_mib is not None
    assert meter.peak_mib > before / MIB + 48
    assert meter.wall_s > 0
