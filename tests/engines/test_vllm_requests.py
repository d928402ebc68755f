"""How scoring becomes requests to vLLM, without an engine."""

import pytest

from slim.engines import ScoreRequest

requests = pytest.importorskip("slim.engines.vllm_requests")

BLOCK = 16


def reading(context: int, *continuations: tuple[int, ...]) -> list[bool]:
    """Whether each continuation's job may read the cache, for a context of so many tokens."""
    request = ScoreRequest((1,) * context, continuations, greedy=False)
    return [job.read_cache for job in requests.scoring_jobs(0, request, 4096, BLOCK)]


@pytest.mark.parametrize(
    ("context", "continuations", "expected"),
    [
        # Two tokens are missing to a full block.
        (14, ((5, 6, 7), (5, 8, 9), (5, 6, 9), (5, 6)), [True, True, False, True]),
        # The context ends with a block, which then is in the cache for all that follow.
        (16, ((5, 6), (7, 8), (9, 9)), [True, False, False]),
        # No continuation reaches the end of the block.
        (17, ((5, 6), (5, 6), (5, 7)), [True, True, True]),
        # Candidates for one place have no rows in the prompt that the cache could swallow.
        (16, ((5,), (6,)), [True]),
    ],
)
def test_what_an_earlier_answer_leaves_in_the_cache_is_not_asked_in_vain(
    context: int, continuations: tuple[tuple[int, ...], ...], expected: list[bool]
) -> None:
    assert reading(context, *continuations) == expected


def test_all_single_tokens_of_a_context_are_one_request() -> None:
    request = ScoreRequest((1, 2, 3), ((5,), (6, 7), (4,)))
    jobs = list(requests.scoring_jobs(3, request, 4096, BLOCK))
    assert [(job.owner, job.places, job.prompt) for job in jobs] == [(3, (0, 2), (1, 2, 3)), (3, (1,), (1, 2, 3, 6, 7))]
    assert jobs[0].params.logprob_token_ids == [4, 5]
    assert jobs[0].params.prompt_logprobs is None
    assert [job.params.prompt_logprobs for job in jobs[1:]] == [1]
