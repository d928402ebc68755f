"""Perplexity: windows cover the text once, and the figure is what a direct computation gives."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim.engines import ScoreRequest
from slim.errors import StageError
from slim.evaluate import scoring
from slim.evaluate.passage import Passage, text_tokens
from slim.evaluate.perplexity import TextScores, score_text, window_requests
from slim.records import Progress
from tests.evaluate.conftest import RecordingEngine


@given(
    tokens=st.lists(st.integers(0, 99), min_size=2, max_size=300),
    prefix=st.sampled_from([(), (7,)]),
    max_len=st.integers(4, 80),
)
def test_windows_score_every_token_but_the_first_once(tokens: list[int], prefix: tuple[int, ...], max_len: int) -> None:
    passage = Passage.of(tuple(tokens), prefix, max_len)
    requests, window = window_requests(passage), passage.window
    assert [token for request in requests for token in request.continuations[0]] == tokens[1:]
    place = 0
    for request in requests:
        assert request.context == (*prefix, tokens[place])
        assert len(request.context) + request.longest <= max_len
        assert len(request.continuations) == 1 and request.longest <= window
        place += request.longest


def test_perplexity_is_that_of_the_engines_probabilities(engine: RecordingEngine, tiny_model: Path) -> None:
    passage = Passage.of_text(tokenizer_of(tiny_model), "A sentence. " * 200, 300, engine.info.max_model_len)
    scores = score_text(engine, passage, batch_size=4)
    direct = []
    for request in list(engine.scored):
        so_far = request.context
        for token in request.continuations[0]:
            direct += engine.score([ScoreRequest(so_far, ((token,),))], 1)[0][0].logprobs
            so_far += (token,)
    assert len(scores.logprobs) == 299
    assert scores.perplexity == pytest.approx(math.exp(-sum(direct) / 299))
    rows = list(scores.rows())
    assert [row["position"] for row in rows] == list(range(1, 300))
    assert tuple(row["token"] for row in rows) == scores.tokens[1:]


def test_the_first_tokens_do_not_depend_on_what_is_left_out(tiny_model: Path) -> None:
    tokenizer = tokenizer_of(tiny_model)
    text = "The quick brown fox jumps over the lazy dog; nobody minds. " * 400
    _, some = text_tokens(tokenizer, text, 100)
    assert some == tuple(tokenizer.encode(text, add_special_tokens=False)[:100])


def test_a_token_without_probability_leaves_the_figure_unknown() -> None:
    assert TextScores((1, 2, 3), (-1.0, float("-inf")), 512, False).perplexity is None


def test_what_has_no_window_is_refused() -> None:
    with pytest.raises(StageError, match="the text has 1 tokens; at least 2 are needed"):
        Passage.of((5,), (), 64)
    with pytest.raises(StageError, match="the model reads 2 tokens; a text's window takes at least 3"):
        Passage.of((5, 6), (1,), 2)
    assert Passage.of((5, 6), (1,), 3).window == 1


def tokenizer_of(directory: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def test_progress_is_told_in_tokens_too(engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scoring._TOKENS_A_CALL, "cpu", 1)
    # What a request has in common with the one before it is computed once, so it does not count.
    requests = [ScoreRequest(context, ((2,),)) for context in ((1,) * 9, (1, 1, 3, 3, 3, 3, 3), (4, 4))]
    seen: list[Progress] = []
    scoring.score_in_chunks(engine, requests, 1, "step", seen.append)
    assert [(p.done, p.total) for p in seen] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [p.share for p in seen] == [0, 10 / 19, 16 / 19, 1]
    assert Progress("step", 1, 4).share == 0.25
    assert Progress("step", 1, None).share is None
