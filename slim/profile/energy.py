"""The energy pass: idle power with the engine loaded, then steady work between two readings of the energy counter."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slim.config import EnergyConfig
from slim.device import Device, Sample
from slim.engines.base import Engine, GenerationRequest
from slim.profile.trace import Monitor, Trace
from slim.records import OnProgress, Progress
from slim.stats import integrate


@dataclass(frozen=True)
class Work:
    """What was done in the energy pass.

    Attributes:
        counter_j: difference of the device's energy counter over the work; None when it has none.
        wall_s: of the work.
        idle_counter_w: mean power by the counter while the engine was loaded and idle; None when there is no counter.
        requests, output_tokens: done in that time.
        throttle: reasons seen just after the work.
    """

    counter_j: float | None
    wall_s: float
    idle_counter_w: float | None
    requests: int
    output_tokens: int
    throttle: tuple[str, ...]


@dataclass(frozen=True)
class EnergyPass(Work):
    """The work with what the trace says about it.

    Attributes:
        idle: power samples with the engine loaded and no work, W.
        power: power samples during the work, W.
        utilization: GPU utilization during the work, %.
        clock: SM clock of the slowest GPU during the work, MHz.
    """

    idle: tuple[Sample, ...]
    power: tuple[Sample, ...]
    utilization: tuple[Sample, ...]
    clock: tuple[Sample, ...] = ()

    @property
    def sampled_j(self) -> float:
        """Integral of the power samples, scaled from the time between the first and the last to the wall time."""
        span = self.power[-1].time_s - self.power[0].time_s
        return integrate([s.time_s for s in self.power], [s.value for s in self.power]) * self.wall_s / span

    @property
    def gross_j(self) -> float:
        """The counter where there is one, else the integral."""
        return self.sampled_j if self.counter_j is None else self.counter_j

    @property
    def idle_w(self) -> float:
        """Mean idle power, by the same instrument as the gross energy."""
        return sum(s.value for s in self.idle) / len(self.idle) if self.idle_counter_w is None else self.idle_counter_w

    @property
    def net_j(self) -> float:
        """Gross energy less idle power over the same time."""
        return self.gross_j - self.idle_w * self.wall_s


def join(work: Work, trace: Trace) -> EnergyPass | None:
    """Put the work together with what the trace says about it; None when the trace has too few power readings for an integral."""
    idle, power = trace.samples("power_w", "idle"), trace.samples("power_w", "energy")
    if not idle or len(power) < 2 or power[0].time_s == power[-1].time_s:
        return None
    utilization, clock = (trace.samples(quantity, "energy") for quantity in ("utilization_pct", "sm_clock_mhz"))
    return EnergyPass(**vars(work), idle=idle, power=power, utilization=utilization, clock=clock)


def measure(
    engine: Engine,
    device: Device,
    monitor: Monitor,
    requests: Sequence[GenerationRequest],
    concurrency: int,
    *,
    config: EnergyConfig,
    on_progress: OnProgress,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Work | None:
    """Run the energy pass as the phases ``settle``, ``idle`` and ``energy``; None on a device without a power reading.

    Args:
        engine: a warm engine.
        device: whose counter is read.
        monitor: samples the power.
        requests: one batch of work, repeated until the time is reached.
        concurrency: requests in flight.
        config: times.
        on_progress: called after each batch.
        clock: monotonic seconds.
        sleep: waits through the idle measurement.
    """
    if device.power_w() is None:
        return None
    with monitor.phase("settle"):
        on_progress(Progress("idle power", 0, None, "seconds"))
        sleep(config.settle_s)
    with monitor.phase("idle"):
        idle_start, idle_counter = clock(), device.total_energy_j()
        sleep(config.idle_s)
        idle_j, idle_s = _difference(idle_counter, device.total_energy_j()), clock() - idle_start
    done = tokens = 0
    with monitor.phase("energy"):
        counter = device.total_energy_j()
        start = clock()
        for batch in itertools.repeat(requests):
            answers = engine.generate(batch, concurrency)
            done += len(answers)
            tokens += sum(len(a.tokens) for a in answers)
            wall_s = clock() - start
            on_progress(Progress("energy", round(min(wall_s, config.min_duration_s)), round(config.min_duration_s), "seconds"))
            if wall_s >= config.min_duration_s:
                break
        counter_end = device.total_energy_j()
    return Work(
        counter_j=_difference(counter, counter_end),
        wall_s=wall_s,
        idle_counter_w=None if idle_j is None or idle_s == 0 else idle_j / idle_s,
        requests=done,
        output_tokens=tokens,
        throttle=device.state().throttle,
    )


def _difference(begin_j: float | None, end_j: float | None) -> float | None:
    return None if begin_j is None or end_j is None else end_j - begin_j
