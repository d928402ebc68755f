"""The energy pass: idle power with the engine loaded, then steady work between two readings of the energy counter."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slim.config import EnergyConfig
from slim.device import Device, Sample, energy_between
from slim.engines.base import Engine, GenerationRequest
from slim.profile.trace import Monitor, Trace
from slim.records import OnProgress, Progress
from slim.stats import integrate


@dataclass(frozen=True)
class Span:
    """Part of the energy pass between two readings of the energy counter.

    Attributes:
        phase: ``idle`` or ``energy``, one of the latter a batch.
        begin_s, end_s: by the clock.
        counter_begin_j, counter_end_j: the counter; None where the device has none.
        requests, output_tokens: done in that time.
    """

    phase: str
    begin_s: float
    end_s: float
    counter_begin_j: float | None
    counter_end_j: float | None
    requests: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class Work:
    """What was done in the energy pass.

    Attributes:
        concurrency: requests in flight.
        counter_j: difference of the device's energy counter over the work; None when it has none that counts.
        wall_s: of the work.
        idle_counter_w: mean power by the counter while the engine was loaded and idle; there when ``counter_j`` is.
        requests, output_tokens: done in that time.
        throttle: reasons seen just after the work.
        spans: all of it, in the order of time.
    """

    concurrency: int
    counter_j: float | None
    wall_s: float
    idle_counter_w: float | None
    requests: int
    output_tokens: int
    throttle: tuple[str, ...]
    spans: tuple[Span, ...]

    @property
    def output_tokens_per_s(self) -> float:
        """Generated tokens over wall time."""
        return self.output_tokens / self.wall_s


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
) -> Work:
    """Run the energy pass as the phases ``settle``, ``idle`` and ``energy``.

    Args:
        engine: a warm engine.
        device: whose counter is read; it has a power reading.
        monitor: samples the power.
        requests: one batch of work, repeated until the time is reached.
        concurrency: requests in flight.
        config: times.
        on_progress: called after each batch.
        clock: monotonic seconds.
        sleep: waits through the idle measurement.

    Raises:
        StageError: from the engine, such as ``out_of_memory``.
    """
    with monitor.phase("settle"):
        on_progress(Progress("idle power", 0, None, "seconds"))
        sleep(config.settle_s)
    with monitor.phase("idle"):
        begin_s, counter = clock(), device.total_energy_j()
        sleep(config.idle_s)
        idle = Span("idle", begin_s, clock(), counter, device.total_energy_j())
    spans = []
    with monitor.phase("energy"):
        begin_s, counter = clock(), device.total_energy_j()
        for batch in itertools.repeat(requests):
            answers = engine.generate(batch, concurrency)
            tokens = sum(len(a.tokens) for a in answers)
            spans.append(Span("energy", begin_s, clock(), counter, device.total_energy_j(), len(answers), tokens))
            begin_s, counter = spans[-1].end_s, spans[-1].counter_end_j
            wall_s = begin_s - spans[0].begin_s
            on_progress(Progress("energy", round(min(wall_s, config.min_duration_s)), round(config.min_duration_s), "seconds"))
            if wall_s >= config.min_duration_s:
                break
    idle_s = idle.end_s - idle.begin_s
    idle_j = energy_between(idle.counter_begin_j, idle.counter_end_j)
    idle_w = None if idle_j is None or idle_s == 0 else idle_j / idle_s
    counter_j = energy_between(spans[0].counter_begin_j, spans[-1].counter_end_j)
    if idle_w is None or counter_j is None:
        # Both by the same instrument, so that one can be subtracted from the other.
        idle_w = counter_j = None
    return Work(
        concurrency=concurrency,
        counter_j=counter_j,
        wall_s=wall_s,
        idle_counter_w=idle_w,
        requests=sum(span.requests for span in spans),
        output_tokens=sum(span.output_tokens for span in spans),
        throttle=device.state().throttle,
        spans=(idle, *spans),
    )
