"""All passes over a loaded engine, one after another, each a phase of the trace; raw records come of it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from slim import device as devices
from slim.config import ProfileConfig
from slim.device import Allocation, Device
from slim.engines.base import Completion, Engine, GenerationRequest, OpenLoopEngine
from slim.profile import batches, energy, load, passes
from slim.profile.batches import Batches, attempt
from slim.profile.energy import Work
from slim.profile.load import LoadPoint
from slim.profile.passes import CurvePoint, Warmup
from slim.profile.trace import Monitor
from slim.records import OnProgress
from slim.tables import write_parquet


@dataclass(frozen=True)
class Raw:
    """What the passes gave.

    Attributes:
        warmup: requests that were thrown away.
        done: the latency pass's answers.
        allocation: torch's memory after it; None on a CPU.
        amortized_s: of the batch of 8; None where it was not asked for or does not fit.
        curve: throughput by concurrency.
        batches: the largest batch; None where the engine itself bounds the concurrency, or it was not asked for.
        load: a point a rate; None where open-loop load was not asked for or the engine cannot take it.
        work: of the energy pass; None without one, or where no concurrency fitted.
    """

    warmup: Warmup
    done: tuple[Completion, ...]
    allocation: Allocation | None
    amortized_s: float | None
    curve: tuple[CurvePoint, ...]
    batches: Batches | None
    load: tuple[LoadPoint, ...] | None
    work: Work | None

    @property
    def best(self) -> CurvePoint:
        """The point of the curve with the highest rate of output tokens."""
        return passes.best(self.curve)

    def write(self, out: Path, config: ProfileConfig) -> None:
        """Write the tables of the passes that ran."""
        write_parquet(out / "requests.parquet", [_row(index, c) for index, c in enumerate(self.done)])
        write_parquet(out / "throughput.parquet", [point.to_row() for point in self.curve])
        write_parquet(out / "throughput_requests.parquet", [row for point in self.curve for row in point.request_rows()])
        if self.work is not None:
            write_parquet(out / "energy.parquet", [asdict(span) for span in self.work.spans])
        if self.batches is not None:
            self.batches.write(out)
        if self.load is not None and config.load is not None:
            write_parquet(out / "load.parquet", [row for point in self.load for row in point.rows(config.load)])


def requests_needed(engine: Engine, config: ProfileConfig) -> int:
    """Return the most different requests that a pass asks for."""
    energy_at = (config.energy and config.energy.concurrency) or 1
    needed = [config.requests, max(*config.concurrency, energy_at, 8) * config.requests_per_concurrency]
    if engine.info.max_concurrency is None and config.batch is not None:
        needed += config.batch.requests
    if config.load is not None:
        needed.append(config.load.requests)
    return max(needed)


def measure(
    engine: Engine,
    device: Device,
    requests: Sequence[GenerationRequest],
    config: ProfileConfig,
    *,
    monitor: Monitor,
    seed: int,
    on_progress: OnProgress,
    clock: Callable[[], float],
) -> Raw:
    """Run the passes.

    Args:
        engine: as opened.
        device: whose energy counter is read.
        requests: different ones, as many as `requests_needed` says.
        config: lengths and counts.
        monitor: watches the device meanwhile.
        seed: of the open-loop load's arrivals.
        on_progress: called after each request or point.
        clock: monotonic seconds, the engine's own clock.

    Raises:
        StageError: from the engine.
    """
    with monitor.phase("warm-up"):
        warmup = passes.warm_up(engine, requests, config.warmup, on_progress)
    with monitor.phase("latency"):
        done = passes.latency(engine, requests[: config.requests], on_progress)
    allocation = devices.allocation()
    amortized_s = None
    if config.amortized_batch8:
        with monitor.phase("batch of 8"):
            amortized_s = passes.amortized_batch(engine, requests[:8], clock)
    with monitor.phase("throughput"):
        curve = passes.throughput(
            engine, requests, config.concurrency, config.requests_per_concurrency, on_progress, min_s=config.throughput_min_s
        )
    found = None
    if engine.info.max_concurrency is None and config.batch is not None:
        found = batches.measure(engine, requests, config.batch, monitor=monitor, on_progress=on_progress, clock=clock)
    points = None
    if config.load is not None and isinstance(engine, OpenLoopEngine):
        with monitor.phase("load"):
            points = tuple(load.measure(engine, requests, config.load, seed=seed, on_progress=on_progress))
    work = None
    if config.energy is not None and device.power_w() is not None:
        best = config.energy.concurrency or passes.best(curve).concurrency
        run = partial(energy.measure, engine, device, monitor, config=config.energy, on_progress=on_progress, clock=clock)
        # What fitted once may not fit again and again, when memory is more scattered; then what is below it.
        levels = (best, *(point.concurrency for point in reversed(curve) if point.concurrency < best))
        tries = (attempt(partial(run, requests[: n * config.requests_per_concurrency], n)) for n in levels)
        work = next((done for done in tries if done is not None), None)
    return Raw(warmup, tuple(done), allocation, amortized_s, tuple(curve), found, points, work)


def _row(index: int, answer: Completion) -> dict[str, object]:
    return {
        "request": index,
        "submitted_s": answer.submitted_s,
        "token_times_s": list(answer.token_times_s),
        "ttft_s": answer.ttft_s,
        "e2e_s": answer.e2e_s,
        "output_tokens": len(answer.tokens),
        "cached_tokens": answer.cached_tokens,
    }
