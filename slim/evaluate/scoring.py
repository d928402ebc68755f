"""Scoring many requests through an engine, in calls short enough to show progress."""

from collections.abc import Iterator, Sequence

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
    on_progress(Progress(step, 0, len(requests), "requests"))
    for some in _chunks(requests, _TOKENS_A_CALL[engine.info.device], batch_size):
        scores += engine.score(some, batch_size)
        on_progress(Progress(step, len(scores), len(requests), "requests"))
    return scores


def _chunks(requests: Sequence[ScoreRequest], tokens_a_call: int, batch_size: int) -> Iterator[list[ScoreRequest]]:
    """Consecutive slices of at least one batch and about ``tokens_a_call`` tokens, not counting those that a request has in
    common with the one before it, which an engine computes once.
    """
    some: list[ScoreRequest] = []
    tokens = 0
    for request in requests:
        if tokens >= tokens_a_call and len(some) >= batch_size:
            yield some
            some, tokens = [], 0
        shared = common_prefix(some[-1].context, request.context) if some else 0
        some.append(request)
        tokens += len(request.context) - shared + sum(map(len, request.continuations))
    if some:
        yield some
