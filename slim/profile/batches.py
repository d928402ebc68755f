"""The largest batch that fits, for engines that only memory bounds, and what it brings over one request at a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from slim import device as devices
from slim.config import BatchConfig
from slim.device import MIB
from slim.engines.base import Completion, Engine, GenerationRequest
from slim.errors import Reason, StageError
from slim.profile.trace import Monitor, Trace
from slim.records import OnProgress, Progress
from slim.tables import write_parquet

T = TypeVar("T")

SHRINK = 16
"""A batch that fitted once and then did not is made smaller by this part of it: memory is more scattered after many batches."""


@dataclass(frozen=True)
class Try:
    """One step of the search.

    Attributes:
        batch: sequences at once.
        fits: whether they fitted.
        wall_s: of the try.
    """

    batch: int
    fits: bool
    wall_s: float


@dataclass(frozen=True)
class BatchRun:
    """A fixed number of requests in batches of one size, one batch after another.

    Attributes:
        batch: sequences at once.
        done: answers in the requests' order.
        phase: name that the trace has for it.
        allocated_bytes: peak of torch's allocations; None on a CPU.
    """

    batch: int
    done: tuple[Completion, ...]
    phase: str
    allocated_bytes: int | None

    @property
    def wall_s(self) -> float:
        """From handing over the first request to the last token."""
        return max(c.token_times_s[-1] for c in self.done) - self.done[0].submitted_s

    @property
    def requests_per_s(self) -> float:
        """Requests over wall time."""
        return len(self.done) / self.wall_s

    @property
    def latency_mean_s(self) -> float:
        """Mean over requests of the time from the start of its batch to its last token."""
        return sum(c.e2e_s for c in self.done) / len(self.done)


@dataclass(frozen=True)
class Batches:
    """What was found.

    Attributes:
        largest: batch at which all requests ran.
        is_limited: whether it is the limit of the search; a larger one may fit.
        tries: in order.
        alone, batched: runs at batch 1 and at the largest batch, one for each number of requests.
    """

    largest: int
    is_limited: bool
    tries: tuple[Try, ...]
    alone: tuple[BatchRun, ...]
    batched: tuple[BatchRun, ...]

    def metrics(self, trace: Trace) -> dict[str, float]:
        """By key of `slim.metrics`; the device's memory, where torch does not say it, and its utilization are from the trace."""
        found: dict[str, float] = {"throughput/max_batch": self.largest}
        for name, runs in (("b1", self.alone), ("bmax", self.batched)):
            for run in runs:
                n = len(run.done)
                found[f"throughput/{name}_n{n}_requests_per_s"] = run.requests_per_s
                found[f"throughput/{name}_n{n}_total_s"] = run.wall_s
                found[f"latency/{name}_n{n}_mean_ms"] = 1e3 * run.latency_mean_s
                resident = [s.value for s in trace.samples("memory_bytes", run.phase)]
                peak = max(resident, default=None) if run.allocated_bytes is None else run.allocated_bytes
                if peak is not None:
                    found[f"memory/{name}_n{n}_peak_mib"] = peak / MIB
                busy = [s.value for s in trace.samples("utilization_pct", run.phase)]
                if busy:
                    found[f"gpu/{name}_n{n}_utilization_mean_pct"] = sum(busy) / len(busy)
        for one, many in zip(self.alone, self.batched, strict=True):
            found[f"throughput/bmax_n{len(one.done)}_speedup"] = many.requests_per_s / one.requests_per_s
        return found

    def write(self, out: Path) -> None:
        """Write ``batch_tries.parquet`` and ``batches.parquet``: a row a request, ``requests`` and ``batch`` saying in which run."""
        rows = [
            {
                "requests": len(run.done),
                "batch": run.batch,
                "request": index,
                "submitted_s": c.submitted_s,
                "ttft_s": c.ttft_s,
                "e2e_s": c.e2e_s,
                "output_tokens": len(c.tokens),
            }
            for run in (*self.alone, *self.batched)
            for index, c in enumerate(run.done)
        ]
        write_parquet(out / "batches.parquet", rows)
        write_parquet(out / "batch_tries.parquet", [asdict(one) for one in self.tries])


def largest(fits: Callable[[int], bool], limit: int) -> int:
    """Return the largest number up to ``limit`` that fits, 0 when 1 does not: doubled until one does not, then bisected.

    That takes at most 2 log2(n) + 2 tries for an answer of n.

    Args:
        fits: whether a number does; if one does, all smaller ones do.
        limit: at least 1.
    """
    good, size = 0, 1
    while fits(size):
        good = size
        if good == limit:
            return good
        size = min(2 * size, limit)
    bad = size
    while bad - good > 1:
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


def measure(
    engine: Engine,
    requests: Sequence[GenerationRequest],
    config: BatchConfig,
    *,
    monitor: Monitor,
    on_progress: OnProgress,
    clock: Callable[[], float] = time.perf_counter,
) -> Batches:
    """Find the largest batch and run the requests alone and in batches of it.

    Args:
        engine: a warm engine.
        requests: different ones, at least the limit and the largest number of requests.
        config: limit, numbers of requests.
        monitor: samples memory and utilization.
        on_progress: called before each try and batch.
        clock: monotonic seconds.

    Raises:
        StageError: from the engine; out of memory only when a single request does not fit.
    """

    def runs(batch: int) -> tuple[BatchRun, ...]:
        return tuple(_run(engine, requests[:n], batch, monitor=monitor, on_progress=on_progress) for n in config.requests)

    def fits(batch: int) -> bool:
        on_progress(Progress("largest batch", len(tries), None, "tries"))
        start = clock()
        answers = attempt(partial(engine.generate, requests[:batch], batch))
        tries.append(Try(batch, answers is not None, clock() - start))
        return answers is not None

    # Batch 1 before anything that fills the memory.
    alone = runs(1)
    tries: list[Try] = []
    with monitor.phase("largest batch"):
        batch = largest(fits, config.limit)
    while batch > 1:
        batched = attempt(partial(runs, batch))
        if batched is not None:
            return Batches(batch, batch == config.limit, tuple(tries), alone, batched)
        batch -= -(-batch // SHRINK)
    return Batches(1, config.limit == 1, tuple(tries), alone, alone)


def attempt(call: Callable[[], T]) -> T | None:
    """Return what the call returns, None when memory did not suffice; the engine has let go of what the call held by then.

    Raises:
        StageError: whatever else went wrong.
    """
    try:
        return call()
    except StageError as error:
        if error.reason is not Reason.OUT_OF_MEMORY:
            raise
        return None


def _run(
    engine: Engine,
    requests: Sequence[GenerationRequest],
    batch: int,
    *,
    monitor: Monitor,
    on_progress: OnProgress,
) -> BatchRun:
    done: list[Completion] = []
    phase = f"batches of {batch}, {len(requests)} requests"
    devices.reset_peak_allocation()
    with monitor.phase(phase):
        for start in range(0, len(requests), batch):
            on_progress(Progress(f"batches of {batch}", start, len(requests), "requests"))
            done += engine.generate(requests[start : start + batch], batch)
    held = devices.allocation()
    return BatchRun(batch, tuple(done), phase, None if held is None else held.peak)
