"""How scoring becomes requests to vLLM, without an engine."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim.engines import Score, ScoreRequest

requests = pytest.importorskip("slim.engines.vllm_requests")

BLOCK = 16


def jobs_of(context: int, *continuations: tuple[int, ...]) -> list[tuple[int, tuple[tuple[int, ...], ...]]]:
    """Tokens of each job's context and the continuations it scores, for a context of so many tokens."""
    request = ScoreRequest((1,) * context, continuations, greedy=False)
    return [(len(job.context), job.continuations) for job in requests.scoring_jobs(0, request, BLOCK)]


@pytest.mark.parametrize(
    ("context", "continuations", "expected"),
    [
        # Two tokens are missing to a full block: what two begin with is scored once, the rest of each after it.
        (
            14,
            ((5, 6, 7, 8), (5, 8, 9), (5, 6, 9), (5, 6)),
            [(14, ((5, 6),)), (14, ((5, 6, 7), (5, 6, 9))), (17, ((8,),)), (14, ((5, 8, 9),))],
        ),
        # The context ends with a block, which then is in the cache for all that follow.
        (16, ((5, 6), (7, 8, 9)), [(16, ((5,), (7,))), (17, ((6,),)), (17, ((8, 9),))]),
        (16, ((5,), (7, 8)), [(16, ((5,),)), (16, ((7,),)), (17, ((8,),))]),
        (16, ((7, 8),), [(16, ((7, 8),))]),
        # No continuation reaches the end of the block.
        (17, ((5, 6), (5, 6), (5, 7)), [(17, ((5, 6),)), (17, ((5, 6),)), (17, ((5, 7),))]),
        # Candidates for one place have no rows in the prompt that the cache could swallow.
        (16, ((5,), (6,)), [(16, ((5,), (6,)))]),
    ],
)
def test_what_continuations_begin_with_is_scored_once(
    context: int, continuations: tuple[tuple[int, ...], ...], expected: list[tuple[int, tuple[tuple[int, ...], ...]]]
) -> None:
    assert jobs_of(context, *continuations) == expected


@given(st.integers(1, 40), st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=BLOCK).map(tuple), min_size=1, max_size=6))
def test_nothing_is_asked_of_the_cache_in_vain(context: int, continuations: list[tuple[int, ...]]) -> None:
    """With a cache of blocks as vLLM's: each row that a job reads is computed by it, and every token is scored once."""
    request = ScoreRequest((1,) * context, tuple(continuations), greedy=False)
    cache: set[tuple[int, ...]] = set()
    scored: dict[int, dict[int, tuple[int, ...]]] = {}
    for job in requests.scoring_jobs(0, request, BLOCK):
        ends = range(BLOCK, len(job.prompt) + 1, BLOCK)
        cached = max((end for end in ends if end < len(job.prompt) and job.prompt[:end] in cache), default=0)
        if len(job.continuations[0]) > 1:
            assert cached < len(job.context)
        cache.update(job.prompt[:end] for end in ends)
        for place, continuation in zip(job.places, job.continuations, strict=True):
            assert job.context + continuation == (request.context + continuations[place])[: len(job.context) + len(continuation)]
            assert job.part not in scored.setdefault(place, {})
            scored[place][job.part] = continuation
    assert [scored[p][0] + scored[p].get(1, ()) for p in range(len(continuations))] == continuations


def test_all_single_tokens_of_a_context_are_one_request() -> None:
    request = ScoreRequest((1, 2, 3), ((5,), (6, 7), (4,)))
    jobs = list(requests.scoring_jobs(3, request, BLOCK))
    assert [(job.owner, job.places, job.prompt) for job in jobs] == [(3, (0, 2), (1, 2, 3)), (3, (1,), (1, 2, 3, 6))]
    assert jobs[0].params.logprob_token_ids == [4, 5]
    assert jobs[0].params.prompt_logprobs is None
    assert [job.params.prompt_logprobs for job in jobs[1:]] == [1]


def rows(*rows: tuple[list[int], list[float]]) -> SimpleNamespace:
    """vLLM's table of tokens and their log-probabilities."""
    return SimpleNamespace(logprob_token_ids=np.array([r[0] for r in rows]), logprobs=np.array([r[1] for r in rows]))


@pytest.mark.parametrize(
    ("best_in_prompt", "generated", "expected"),
    [(5, 6, (True, True)), (9, 6, (False, True)), (3, 6, (False, True)), (5, 8, (True, False)), (5, 2, (True, False))],
)
def test_of_equally_likely_tokens_one_is_greedy(best_in_prompt: int, generated: int, expected: tuple[bool, bool]) -> None:
    (job,) = requests.scoring_jobs(0, ScoreRequest((1, 2), ((5, 6),)), BLOCK)
    tie = -0.5
    found = requests.Found(
        prompt=[rows(([2, 7], [-3.0, -0.1]), ([5, best_in_prompt], [tie, tie]))], generated=rows(([generated, 6], [tie, tie]))
    )
    assert job.answers(found) == [Score((tie, tie), expected)]
