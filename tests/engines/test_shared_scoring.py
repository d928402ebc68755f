"""Computing once what requests share gives the same scores; in float32, so that rounding hides no mistake."""

import random
from pathlib import Path

import pytest

from slim.engines import EngineSpec, ScoreRequest, open_engine

pytestmark = pytest.mark.slow


def test_sharing_changes_nothing_but_rounding(tiny_model: Path) -> None:
    engine = open_engine(EngineSpec("transformers", tiny_model, "bfloat16", {"max_model_len": 512}))
    engine._scorer.model.float()
    source = random.Random(0)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(source.randrange(3, 500) for _ in range(source.randint(low, high)))

    heads = [tokens(100, 100), tokens(60, 60)]
    requests = [
        ScoreRequest(
            heads[place % 2] + tokens(1, 40), (*(tokens(1, 1) for _ in range(3)), *(tokens(2, 20) for _ in range(place % 3)))
        )
        for place in range(14)
    ] + [ScoreRequest(tokens(5, 300), (tokens(1, 9), tokens(1, 9))) for _ in range(5)]
    for batch_size in (1, 4, 64):
        for request, together in zip(requests, engine.score(requests, batch_size), strict=True):
            for continuation, shared in zip(request.continuations, together, strict=True):
                ((alone,),) = engine.score([ScoreRequest(request.context, (continuation,))], 1)
                assert shared.logprobs == pytest.approx(alone.logprobs, abs=1e-3)
                assert shared.greedy == alone.greedy
    engine.close()


def test_of_equally_likely_tokens_the_first_is_greedy(tiny_model: Path) -> None:
    engine = open_engine(EngineSpec("transformers", tiny_model, "bfloat16", {"max_model_len": 64}))
    for weights in engine._scorer.model.parameters():
        weights.data.zero_()
    ((first, second, several),) = engine.score([ScoreRequest((5, 6), ((0,), (1,), (0, 1, 0)))], 4)
    assert (first.greedy, second.greedy, several.greedy) == ((True,), (False,), (True, False, True))
    assert first.logprobs == second.logprobs
    engine.close()
