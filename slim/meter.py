"""What a piece of work costs: wall time, the device's energy, peak memory."""

import time
from types import TracebackType
from typing import Self

from slim.device import MIB, Device, energy_between
from slim.sampling import Source, Taken, open_source
from slim.stats import integrate

_INTERVAL_S = 0.1


class Meter:
    """Measures what is done in its ``with`` block, once.

    Args:
        device: what is read.

    Attributes:
        wall_s: of the block.
        energy_j: by the energy counter, else the integral of the sampled power; None where the device has neither.
        peak_mib: device memory in use, MiB; None where it could not be read.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._source: Source
        self.wall_s = 0.0
        self.energy_j: float | None = None
        self.peak_mib: float | None = None

    def __enter__(self) -> Self:
        # Before the clock: it takes a moment to start.
        self._source = open_source(self._device, _INTERVAL_S)
        self._counter_j, self._begin_s = self._device.total_energy_j(), time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.wall_s = time.perf_counter() - self._begin_s
        counted = energy_between(self._counter_j, self._device.total_energy_j())
        taken = self._source.stop()
        self.energy_j = _sampled_j(taken) if counted is None else counted
        self.peak_mib = max((r.memory_bytes / MIB for r in taken.readings if r.memory_bytes is not None), default=None)


def _sampled_j(taken: Taken) -> float | None:
    known = [(r.time_s, r.power_w) for r in taken.readings if r.power_w is not None]
    return integrate([time_s for time_s, _ in known], [power for _, power in known]) if len(known) > 1 else None
