"""Scoring many requests through an engine, in calls short enough to show progress."""

from collections.abc import Iterator, Sequence

from slim.engines import Engine, Score, ScoreRequest
from slim.records import OnProgress, Progress, ignore_progress

# Tokens a call: a few seconds of work. Each call ends with a batch that runs empty, which a GPU notices.
_TOKENS_A_CALL = {"cpu": 4096, "cuda": 1_048_576}


def score_in_chunks(
    engine: Engine,
    requests: Sequence[ScoreRequest],
    batch_size: int,
    step: str,
    on_progress: OnProgress = ignore_progress,
) -> list[Score]:
    """Return the scores in the requests' order; neighbours with the same context reach the engine in one call.

    Args:
        engine: what scores.
        requests: what to score.
        batch_size: sequences a forward pass, for an engine without continuous batching.
        step: name for the progress reports.
        on_progress: told before the first and after each call.
    """
    scores: list[Score] = []
    tokens, total = 0, sum(map(_tokens, requests))
    on_progress(Progress(step, 0, len(requests), "requests", 0.0))
    for some in _chunks(requests, _TOKENS_A_CALL[engine.info.device], batch_size):
        scores += engine.score(some, batch_size)
        tokens += sum(map(_tokens, some))
        # The longest come first, so that a count of requests would promise too long a wait.
        on_progress(Progress(step, len(scores), len(requests), "requests", tokens / total))
    return scores


def _chunks(requests: Sequence[ScoreRequest], tokens_a_call: int, batch_size: int) -> Iterator[list[ScoreRequest]]:
    """Consecutive slices of about ``tokens_a_call`` tokens and at least one batch that part no equal contexts."""
    some: list[ScoreRequest] = []
    tokens = 0
    for request in requests:
        if tokens >= tokens_a_call and len(some) >= batch_size and request.context != some[-1].context:
            yield some
            some, tokens = [], 0
        some.append(request)
        tokens += _tokens(request)
    if some:
        yield some


def _tokens(request: ScoreRequest) -> int:
    return len(request.context) + len(request.continuation)
