"""The passes over a loaded engine, one quantity each: warm-up, latency, throughput, batch of 8.

Each returns raw values; `slim.profile.summary` derives the metrics.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from slim.config import WarmupConfig
from slim.engines.base import Completion, Engine, GenerationRequest
from slim.profile.batches import attempt
from slim.records import OnProgress, Progress
from slim.stats import relative_spread

STEADY_WINDOW = 5
"""Request times that are looked at together to tell whether a warm-up has settled."""

GROWTH_TO_GO_ON = 1.02
"""The throughput curve ends when a higher concurrency brings less than this factor."""

WARMUP_TOKENS = 8
"""Generated at each concurrency before it is measured."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Warmup:
    """Requests that were thrown away.

    Attributes:
        e2e_s: time of each.
        settled: whether the last ones agreed within the tolerance.
    """

    e2e_s: tuple[float, ...]
    settled: bool


@dataclass(frozen=True)
class CurvePoint:
    """Throughput at one concurrency.

    Attributes:
        concurrency: requests in flight at most.
        wall_s: from handing over the first request to the last token.
        requests, prompt_tokens, output_tokens: what was done in that time.
        preemptions: times the engine threw a request out of its cache.
    """

    concurrency: int
    wall_s: float
    requests: int
    prompt_tokens: int
    output_tokens: int
    preemptions: int

    @property
    def output_tokens_per_s(self) -> float:
        """Generated tokens over wall time."""
        return self.output_tokens / self.wall_s


def warm_up(engine: Engine, requests: Sequence[GenerationRequest], config: WarmupConfig, on_progress: OnProgress) -> Warmup:
    """Run requests one after another until their times have settled or the limit is reached."""
    times: list[float] = []
    for request in itertools.islice(itertools.cycle(requests), config.max_requests):
        times.append(engine.generate([request], 1)[0].e2e_s)
        on_progress(Progress("warm-up", len(times), None, "requests"))
        if len(times) >= config.min_requests and has_settled(times, config.tolerance):
            return Warmup(tuple(times), True)
    return Warmup(tuple(times), False)


def has_settled(times_s: Sequence[float], tolerance: float) -> bool:
    """Return whether request times have stopped changing.

    They have when the last `STEADY_WINDOW` spread by less than ``tolerance`` of their mean, or when the medians of these and of as
    many before them do. A host that interrupts single requests keeps their spread large for ever, but not the medians apart.
    """
    last, before = times_s[-STEADY_WINDOW:], times_s[-2 * STEADY_WINDOW : -STEADY_WINDOW]
    if len(last) < STEADY_WINDOW:
        return False
    return relative_spread(last) < tolerance or (
        len(before) == STEADY_WINDOW and relative_spread([median(before), median(last)]) < tolerance
    )


def latency(engine: Engine, requests: Sequence[GenerationRequest], on_progress: OnProgress) -> list[Completion]:
    """Run the requests one after another and return their answers with each token's time."""
    done: list[Completion] = []
    for request in requests:
        done += engine.generate([request], 1)
        on_progress(Progress("latency", len(done), len(requests), "requests"))
    return done


def amortized_batch(engine: Engine, requests: Sequence[GenerationRequest], clock: Clock) -> float | None:
    """Return wall seconds of the batch over its size: what SLiM-Eval's code calls latency. None when it does not fit."""
    size, limit = len(requests), engine.info.max_concurrency
    if (limit is not None and limit < size) or attempt(lambda: _get_ready(engine, requests, size)) is None:
        return None
    start = clock()
    done = attempt(lambda: engine.generate(requests, size))
    return None if done is None else (clock() - start) / size


def best(curve: Sequence[CurvePoint]) -> CurvePoint:
    """Return the point with the highest rate of output tokens."""
    return max(curve, key=lambda point: point.output_tokens_per_s)


def measure_point(engine: Engine, requests: Sequence[GenerationRequest], concurrency: int) -> CurvePoint:
    """Run the requests at one concurrency."""
    done = engine.generate(requests, concurrency)
    return CurvePoint(
        concurrency=concurrency,
        wall_s=max(c.token_times_s[-1] for c in done) - min(c.submitted_s for c in done),
        requests=len(done),
        prompt_tokens=sum(len(r.prompt) for r in requests),
        output_tokens=sum(len(c.tokens) for c in done),
        preemptions=sum(c.preemptions for c in done),
    )


def _get_ready(engine: Engine, requests: Sequence[GenerationRequest], concurrency: int) -> list[Completion]:
    """Generate at a concurrency: what its shapes cost once would be a large part of a short measurement.

    A few tokens are enough for an engine that has its cache beforehand. One whose cache grows meets a new shape, and asks the
    device for memory, with each token up to the last.
    """
    grows = engine.info.kv_capacity_tokens is None
    some = [r if grows else replace(r, max_tokens=min(r.max_tokens, WARMUP_TOKENS)) for r in requests[:concurrency]]
    return engine.generate(some, concurrency)


def _ready_point(engine: Engine, requests: Sequence[GenerationRequest], concurrency: int) -> CurvePoint:
    _get_ready(engine, requests, concurrency)
    return measure_point(engine, requests, concurrency)


def throughput(
    engine: Engine,
    requests: Sequence[GenerationRequest],
    concurrency: Sequence[int],
    per_concurrency: int,
    on_progress: OnProgress,
) -> list[CurvePoint]:
    """Return the concurrency curve, ended when it stops growing, at what the engine takes or when memory no longer suffices.

    Args:
        engine: a warm engine.
        requests: at least ``max(concurrency) * per_concurrency`` different ones.
        concurrency: to try, increasing.
        per_concurrency: each point runs this many requests a place in flight.
        on_progress: called before each point.
    """
    limit = engine.info.max_concurrency
    levels = [n for n in concurrency if limit is None or n <= limit]
    curve: list[CurvePoint] = []
    fresh: Iterator[GenerationRequest] = itertools.cycle(requests)
    for index, level in enumerate(levels):
        on_progress(Progress("throughput", index, len(levels), "concurrencies"))
        some = list(itertools.islice(fresh, level * per_concurrency))
        run = partial(_ready_point, engine, some, level)
        point = attempt(run) if curve else run()
        if point is None:
            break
        curve.append(point)
        if len(curve) > 1 and curve[-1].output_tokens_per_s < GROWTH_TO_GO_ON * curve[-2].output_tokens_per_s:
            break
    on_progress(Progress("throughput", len(levels), len(levels), "concurrencies"))
    return curve
