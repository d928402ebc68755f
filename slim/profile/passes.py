"""The passes over a loaded engine, one quantity each: warm-up, latency, throughput, batch of 8.

Each returns raw values; `slim.profile.summary` derives the metrics.
"""

import itertools
import math
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

AMORTIZED_RUNS = 3
"""Times that the batch of 8 is measured."""

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
        done: the answers.
    """

    concurrency: int
    wall_s: float
    requests: int
    prompt_tokens: int
    output_tokens: int
    preemptions: int
    done: tuple[Completion, ...]

    @property
    def output_tokens_per_s(self) -> float:
        """Generated tokens over wall time."""
        return self.output_tokens / self.wall_s

    def to_row(self) -> dict[str, int | float]:
        """The totals as a row of a table."""
        return {name: value for name, value in vars(self).items() if name != "done"}

    def request_rows(self) -> list[dict[str, int | float]]:
        """The answers as rows of a table."""
        return [
            {
                "concurrency": self.concurrency,
                "submitted_s": answer.submitted_s,
                "ttft_s": answer.ttft_s,
                "e2e_s": answer.e2e_s,
                "output_tokens": len(answer.tokens),
                "preemptions": answer.preemptions,
            }
            for answer in self.done
        ]


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
    """Return wall seconds of the batch over its size: what SLiM-Eval's code calls latency. None when it does not fit.

    The mean of `AMORTIZED_RUNS`: a single batch takes half a second on a GPU, and two of them were 12 % apart.
    """
    size, limit = len(requests), engine.info.max_concurrency
    if (limit is not None and limit < size) or attempt(lambda: _get_ready(engine, requests, size)) is None:
        return None
    start = clock()
    done = attempt(lambda: [engine.generate(requests, size) for _ in range(AMORTIZED_RUNS)])
    return None if done is None else (clock() - start) / (AMORTIZED_RUNS * size)


def best(curve: Sequence[CurvePoint]) -> CurvePoint:
    """Return the point of the lowest concurrency whose rate of output tokens is within `GROWTH_TO_GO_ON` of the highest.

    On a plateau the highest itself is where chance has put it, another time elsewhere.
    """
    highest = max(point.output_tokens_per_s for point in curve)
    return next(point for point in curve if GROWTH_TO_GO_ON * point.output_tokens_per_s >= highest)


def measure_point(
    engine: Engine, requests: Iterator[GenerationRequest], concurrency: int, count: int, min_s: float
) -> CurvePoint:
    """Get ready for one concurrency and measure it.

    Args:
        engine: a warm engine.
        requests: as many as are asked for.
        concurrency: requests in flight.
        count: requests that are run; when they took less than ``min_s``, so many more are run as fill that time at their rate.
        min_s: see there.
    """
    _get_ready(engine, list(itertools.islice(requests, concurrency)), concurrency)
    asked = list(itertools.islice(requests, count))
    done = engine.generate(asked, concurrency)
    wall_s = _wall_s(done)
    if wall_s < min_s:
        # Whole rounds: a last one with places left empty would count against the rate.
        rounds = math.ceil((min_s - wall_s) / wall_s * count / concurrency)
        more = list(itertools.islice(requests, rounds * concurrency))
        done_later = engine.generate(more, concurrency)
        asked, done, wall_s = asked + more, done + done_later, wall_s + _wall_s(done_later)
    return CurvePoint(
        concurrency=concurrency,
        wall_s=wall_s,
        requests=len(done),
        prompt_tokens=sum(len(r.prompt) for r in asked),
        output_tokens=sum(len(c.tokens) for c in done),
        preemptions=sum(c.preemptions for c in done),
        done=tuple(done),
    )


def _wall_s(done: Sequence[Completion]) -> float:
    return max(c.token_times_s[-1] for c in done) - min(c.submitted_s for c in done)


def _get_ready(engine: Engine, requests: Sequence[GenerationRequest], concurrency: int) -> list[Completion]:
    """Generate at a concurrency: what its shapes cost once would be a large part of a short measurement.

    A few tokens are enough for an engine that has its cache beforehand. One whose cache grows meets a new shape, and asks the
    device for memory, with each token up to the last.
    """
    grows = engine.info.kv_capacity_tokens is None
    some = [r if grows else replace(r, max_tokens=min(r.max_tokens, WARMUP_TOKENS)) for r in requests[:concurrency]]
    return engine.generate(some, concurrency)


def throughput(
    engine: Engine,
    requests: Sequence[GenerationRequest],
    concurrency: Sequence[int],
    per_concurrency: int,
    on_progress: OnProgress,
    *,
    min_s: float = 0.0,
) -> list[CurvePoint]:
    """Return the concurrency curve, ended when it stops growing, at what the engine takes or when memory no longer suffices.

    Args:
        engine: a warm engine.
        requests: at least ``max(concurrency) * per_concurrency`` different ones.
        concurrency: to try, increasing.
        per_concurrency: each point runs this many requests a place in flight.
        on_progress: called before each point.
        min_s: each point lasts at least this long.
    """
    limit = engine.info.max_concurrency
    levels = [n for n in concurrency if limit is None or n <= limit]
    curve: list[CurvePoint] = []
    fresh: Iterator[GenerationRequest] = itertools.cycle(requests)
    for index, level in enumerate(levels):
        on_progress(Progress("throughput", index, len(levels), "concurrencies"))
        run = partial(measure_point, engine, fresh, level, level * per_concurrency, min_s)
        point = attempt(run) if curve else run()
        if point is None:
            break
        curve.append(point)
        if len(curve) > 1 and curve[-1].output_tokens_per_s < GROWTH_TO_GO_ON * curve[-2].output_tokens_per_s:
            break
    on_progress(Progress("throughput", len(levels), len(levels), "concurrencies"))
    return curve
