"""Scoring many requests through an engine, in calls short enough to show progress."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from slim.engines import Engine, Score, ScoreRequest
from slim.engines.sharing import common_prefix
from slim.records import OnProgress, Progress, ignore_progress

# Tokens a call: a few seconds of work. Each call ends with a batch that runs empty, which a GPU notices.
_TOKENS_A_CALL = {"cpu": 4096, "cuda": 1_048_576}


def score_in_chunks(
    engine: Engine,
    requests: Sequence[ScoreRequest],
    batch_size: int,
    step: str,
    on_progress: OnProgress = ignore_progress,
) -> list[tuple[Score, ...]]:
    """Return the scores in the requests' order.

    Args:
        engine: what scores.
        requests: what to score.
        batch_size: sequences a forward pass, for an engine without continuous batching.
        step: name for the progress reports.
        on_progress: told before the first and after each call.
    """
    scores: list[tuple[Score, ...]] = []
    costs = _costs(requests)
    tokens, total = 0, sum(costs)
    on_progress(Progress(step, 0, len(requests), "requests", 0.0))
    for start, end in _chunks(costs, _TOKENS_A_CALL[engine.info.device], batch_size):
        scores += engine.score(requests[start:end], batch_size)
        tokens += sum(costs[start:end])
        # The longest come first, so that a count of requests would promise too long a wait.
        on_progress(Progress(step, len(scores), len(requests), "requests", tokens / total))
    return scores


def _costs(requests: Sequence[ScoreRequest]) -> list[int]:
    """Tokens of each request that it does not have in common with the one before it: those the engine computes once."""
    contexts = [request.context for request in requests]
    shared = [0, *(common_prefix(before, context) for before, context in pairwise(contexts))]
    return [len(r.context) - s + sum(map(len, r.continuations)) for r, s in zip(requests, shared, strict=False)]


def _chunks(costs: Sequence[int], tokens_a_call: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """Bounds of consecutive slices of at least one batch and about ``tokens_a_call`` tokens."""
    start = tokens = 0
    for place, cost in enumerate(costs):
        if tokens >= tokens_a_call and place - start >= batch_size:
            yield start, place
            start, tokens = place, 0
        tokens += cost
    if costs:
        yield start, len(costs)
