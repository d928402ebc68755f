"""One trace of a profile: readings of the device from the first request to the last, and when each phase began and ended."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from slim.device import Device, Sample, own_pids, strangers
from slim.sampling import Reading, Source, open_source
from slim.tables import write_table

LATE = 1.5
"""A reading is late when it came after this many intervals."""
MAX_MISSING = 0.05
"""A trace with a larger share of missing readings was starved."""
MAX_THROTTLED = 0.01
"""Share of the readings under work with a clock held down beyond which the measurement is flagged."""
POWER_CAP = "sw_power_cap"
"""The device is at its power limit: how it runs under much work, when deployed too, so no reason to distrust what was measured."""

UNMEASURED = ("warm-up", "largest batch", "settle", "idle")
"""Phases whose times enter no metric; in all others the device's clocks must be free."""
SERVING = ("warm-up", "latency", "throughput")
"""Phases that the memory metrics are about."""


@dataclass(frozen=True)
class Phase:
    """A part of the profile, with its begin and end in `time.perf_counter` seconds."""

    name: str
    begin_s: float
    end_s: float


@dataclass(frozen=True)
class Trace:
    """What the device did while it was profiled.

    Attributes:
        readings: in the order of time.
        phases: in the order of time; there may be time between them.
        begin_s, end_s: from the first request to the last.
        interval_s: between readings as asked for; None where they did not follow the clock, so none can be late.
        sampled_by: ``process`` or ``thread``.
        other_processes: that computed on the GPUs at any time; None where it cannot be told.
        sampling_cpu_s: processor time that the readings cost; None where it is not known.
    """

    readings: tuple[Reading, ...]
    phases: tuple[Phase, ...]
    begin_s: float
    end_s: float
    interval_s: float | None
    sampled_by: str = "process"
    other_processes: int | None = None
    sampling_cpu_s: float | None = None

    def during(self, *names: str) -> list[Reading]:
        """The readings in these phases, those at an end included."""
        spans = [(p.begin_s, p.end_s) for p in self.phases if p.name in names]
        return [r for r in self.readings if any(begin_s <= r.time_s <= end_s for begin_s, end_s in spans)]

    def phase_of(self, reading: Reading) -> str | None:
        """Name of the first phase that a reading falls into."""
        return next((p.name for p in self.phases if p.begin_s <= reading.time_s <= p.end_s), None)

    def samples(self, quantity: str, *names: str) -> tuple[Sample, ...]:
        """One quantity of the readings in these phases, where it is known.

        Args:
            quantity: an attribute of `Reading`.
            names: of phases.
        """
        found = [(r.time_s, getattr(r, quantity)) for r in self.during(*names)]
        return tuple(Sample(time_s, float(value)) for time_s, value in found if value is not None)

    @property
    def late(self) -> int:
        """Readings that came after more than `LATE` intervals; 0 where none can be."""
        return sum(gap > LATE * self.interval_s for gap in self._gaps()) if self.interval_s else 0

    @property
    def missing(self) -> float:
        """Share of the readings due that did not come; 0 where none can be."""
        if not self.interval_s:
            return 0.0
        due = max(1.0, (self.end_s - self.begin_s) / self.interval_s)
        return min(1.0, sum(max(0, round(gap / self.interval_s) - 1) for gap in self._gaps()) / due)

    @property
    def is_starved(self) -> bool:
        """Whether too many readings are missing, over the whole or over the energy pass, for means and integrals to be trusted."""
        energy = [p for p in self.phases if p.name == "energy"]
        parts = [Trace(self.readings, (), p.begin_s, p.end_s, self.interval_s) for p in energy]
        return not self.readings or any(part.missing > MAX_MISSING for part in (self, *parts))

    def _gaps(self) -> list[float]:
        """Time from the begin over the readings to the end."""
        inside = [r.time_s for r in self.readings if self.begin_s <= r.time_s <= self.end_s]
        times = [self.begin_s, *inside, self.end_s]
        return [b - a for a, b in itertools.pairwise(times)]

    @property
    def throttled(self) -> dict[str, float]:
        """Share of the readings under work at which each reason held a clock down; only reasons that were seen."""
        work = self.during(*(phase.name for phase in self.phases if phase.name not in UNMEASURED))
        reasons = sorted({reason for r in work for reason in r.throttle})
        return {reason: sum(reason in r.throttle for r in work) / len(work) for reason in reasons}

    def to_json(self) -> dict[str, Any]:
        """Phases and how the sampling went, as plain JSON values."""
        return {
            "phases": [{"name": p.name, "begin_s": p.begin_s, "end_s": p.end_s} for p in self.phases],
            "sampling": {
                "by": self.sampled_by,
                "interval_s": self.interval_s,
                "readings": len(self.readings),
                "late": self.late,
                "missing_share": self.missing,
                "cpu_s": self.sampling_cpu_s,
            },
            "throttled_share": self.throttled,
            "other_processes": self.other_processes,
        }

    def write(self, path: Path) -> None:
        """Write one row a reading; what is unknown is null.

        Args:
            path: a parquet file.
        """
        import pyarrow as pa

        columns = {
            "time_s": pa.float64(),
            "memory_bytes": pa.int64(),
            "power_w": pa.float64(),
            "utilization_pct": pa.float64(),
            "temperature_c": pa.int64(),
            "sm_clock_mhz": pa.int64(),
        }
        arrays = {name: pa.array([getattr(r, name) for r in self.readings], kind) for name, kind in columns.items()}
        arrays["throttle"] = pa.array([list(r.throttle) for r in self.readings], pa.list_(pa.string()))
        arrays["phase"] = pa.array([self.phase_of(r) for r in self.readings], pa.string())
        write_table(path, pa.table(arrays))


class Monitor:
    """Watches the device while its ``with`` block runs.

    Args:
        device: what is read.
        interval_s: between readings.
        clock: monotonic seconds, the engine's own clock.

    Attributes:
        trace: what was seen; there when the block has ended.
    """

    def __init__(self, device: Device, interval_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._interval_s = interval_s
        self._clock = clock
        self._phases: list[Phase] = []
        self._own: frozenset[int] = frozenset()
        self._source: Source
        self.trace: Trace

    def __enter__(self) -> Self:
        self._own = own_pids()
        self._source = open_source(self._device, self._interval_s, self._clock)
        self._begin_s = self._clock()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        end_s = self._clock()
        taken = self._source.stop()
        self.trace = Trace(
            readings=taken.readings,
            phases=tuple(self._phases),
            begin_s=self._begin_s,
            end_s=end_s,
            interval_s=self._interval_s if self._clock is time.perf_counter else None,
            sampled_by=self._source.kind,
            other_processes=_others(taken.readings, self._own | own_pids()),
            sampling_cpu_s=taken.cpu_s,
        )

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Mark what runs in the block as a phase, with a reading at its begin and at its end."""
        begin_s = self._clock()
        self._source.mark()
        yield
        self._source.mark()
        self._phases.append(Phase(name, begin_s, self._clock()))


def _others(readings: Sequence[Reading], own: frozenset[int]) -> int | None:
    return strangers([r.pids for r in readings if r.pids is not None], own)
