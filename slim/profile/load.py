"""Open-loop load: requests that arrive when they arrive, whether or not earlier ones are done.

Arrivals, throughput and goodput are those of ``vllm bench serve``: gaps of a Poisson process, scaled so that the last request of
n arrives n / rate after the start; rates over the time from the start to the last token; a request is good when its TTFT and its
TPOT are both within the targets. Latencies are counted from the arrival, so waiting is in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slim import stats
from slim.config import LoadConfig
from slim.engines.base import Completion, GenerationRequest, OpenLoopEngine
from slim.records import OnProgress, Progress


@dataclass(frozen=True)
class LoadPoint:
    """What came of one rate.

    Attributes:
        rate_per_s: requests a second that were to arrive.
        arrivals_s: when each arrived, after the start.
        done: answers, ``submitted_s`` being the arrival.
    """

    rate_per_s: float
    arrivals_s: tuple[float, ...]
    done: tuple[Completion, ...]

    @property
    def wall_s(self) -> float:
        """From the start to the last token."""
        return max(c.token_times_s[-1] for c in self.done) - (self.done[0].submitted_s - self.arrivals_s[0])

    def is_good(self, completion: Completion, config: LoadConfig) -> bool:
        """Whether a request met both targets."""
        return 1e3 * completion.ttft_s <= config.ttft_ms and 1e3 * (completion.tpot_s or 0.0) <= config.tpot_ms

    def metrics(self, config: LoadConfig) -> dict[str, float]:
        """By key of `slim.metrics`."""
        name = f"load/r{self.rate_per_s:g}"
        good = sum(self.is_good(c, config) for c in self.done)
        found = {
            f"{name}_requests_per_s": len(self.done) / self.wall_s,
            f"{name}_output_tokens_per_s": sum(len(c.tokens) for c in self.done) / self.wall_s,
            f"{name}_goodput_requests_per_s": good / self.wall_s,
            f"{name}_good_fraction": good / len(self.done),
        }
        samples = {
            "ttft": [c.ttft_s for c in self.done],
            "tpot": [c.tpot_s for c in self.done if c.tpot_s is not None],
            "e2e": [c.e2e_s for c in self.done],
        }
        for quantity, values in samples.items():
            summary = stats.summarize(values)
            for statistic in ("mean", "p50", "p95", "p99"):
                found[f"{name}_{quantity}_{statistic}_ms"] = 1e3 * getattr(summary, statistic)
        return found

    def rows(self, config: LoadConfig) -> list[dict[str, object]]:
        """Raw times, one row a request."""
        return [
            {
                "rate_per_s": self.rate_per_s,
                "request": index,
                "arrival_s": arrival_s,
                "submitted_s": c.submitted_s,
                "token_times_s": list(c.token_times_s),
                "ttft_s": c.ttft_s,
                "tpot_s": c.tpot_s,
                "e2e_s": c.e2e_s,
                "preemptions": c.preemptions,
                "is_good": self.is_good(c, config),
            }
            for index, (arrival_s, c) in enumerate(zip(self.arrivals_s, self.done, strict=True))
        ]


def arrivals(count: int, rate_per_s: float, seed: int) -> tuple[float, ...]:
    """Return arrival times of a Poisson process in seconds, the last at ``count / rate_per_s``.

    The same seed gives the same pattern at every rate, stretched.
    """
    times = np.cumsum(np.random.default_rng(seed).exponential(size=count))
    return tuple(float(t) for t in times * (count / rate_per_s / times[-1]))


def measure(
    engine: OpenLoopEngine, requests: Sequence[GenerationRequest], config: LoadConfig, *, seed: int, on_progress: OnProgress
) -> list[LoadPoint]:
    """Run the load at each rate, one after another.

    Args:
        engine: a warm engine.
        requests: at least as many different ones as the configuration asks for.
        config: rates, number of requests.
        seed: of the arrivals.
        on_progress: called before each rate.

    Raises:
        StageError: from the engine.
    """
    points = []
    for index, rate in enumerate(config.rates_per_s):
        on_progress(Progress("load", index, len(config.rates_per_s), "rates"))
        times = arrivals(config.requests, rate, seed)
        points.append(LoadPoint(rate, times, tuple(engine.serve(requests[: config.requests], times))))
    return points
