"""The energy pass: idle power with the engine loaded, then steady work between two readings of the energy counter."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slim.config import EnergyConfig
from slim.device import Device, Sample, Sampler
from slim.engines.base import Engine, GenerationRequest
from slim.records import OnProgress, Progress
from slim.stats import integrate


@dataclass(frozen=True)
class EnergyPass:
    """Raw readings of an energy pass.

    Attributes:
        idle: power samples with the engine loaded and no work, W.
        power: power samples during the work, W.
        utilization: GPU utilization during the work, %.
        counter_j: difference of the device's energy counter over the work; None when it has none.
        wall_s: of the work.
        requests, output_tokens: done in that time.
        throttle: reasons seen just after the work.
    """

    idle: tuple[Sample, ...]
    power: tuple[Sample, ...]
    utilization: tuple[Sample, ...]
    counter_j: float | None
    wall_s: float
    requests: int
    output_tokens: int
    throttle: tuple[str, ...]

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
        """Mean idle power."""
        return sum(s.value for s in self.idle) / len(self.idle)

    @property
    def net_j(self) -> float:
        """Gross energy less idle power over the same time."""
        return self.gross_j - self.idle_w * self.wall_s


def measure(
    engine: Engine,
    device: Device,
    requests: Sequence[GenerationRequest],
    concurrency: int,
    config: EnergyConfig,
    *,
    on_progress: OnProgress,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> EnergyPass | None:
    """Run the energy pass; None on a device without a power reading.

    Args:
        engine: a warm engine.
        device: what is read.
        requests: one batch of work, repeated until the time is reached.
        concurrency: requests in flight.
        config: times and sampling interval.
        on_progress: called after each batch.
        clock: monotonic seconds.
        sleep: waits through the idle measurement.
    """
    if device.power_w() is None:
        return None
    with Sampler(device.power_w, config.interval_s, clock) as idle:
        on_progress(Progress("idle power", 0, None, "seconds"))
        sleep(config.idle_s)
    done = tokens = 0
    with (
        Sampler(device.power_w, config.interval_s, clock) as power,
        Sampler(device.utilization_pct, config.interval_s, clock) as busy,
    ):
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
    return EnergyPass(
        idle=tuple(idle.samples),
        power=tuple(power.samples),
        utilization=tuple(busy.samples),
        counter_j=None if counter is None or counter_end is None else counter_end - counter,
        wall_s=wall_s,
        requests=done,
        output_tokens=tokens,
        throttle=device.state().throttle,
    )
