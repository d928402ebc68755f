"""Perplexity of a running text, token by token, in windows that do not overlap."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, fsum, isfinite
from typing import Any

from slim.engines import Engine, ScoreRequest
from slim.evaluate.passage import Passage, text_tokens
from slim.evaluate.scoring import score_in_chunks
from slim.records import OnProgress, ignore_progress


@dataclass(frozen=True)
class TextScores:
    """Log-probabilities of a text's tokens.

    Attributes:
        tokens: the text, beginning-of-sequence tokens left out.
        logprobs: natural, of each token but the first, given those before it in its window.
        window: tokens scored a window.
        has_bos: whether each window was preceded by a beginning-of-sequence token.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    window: int
    has_bos: bool

    @property
    def perplexity(self) -> float | None:
        """exp of the mean negative log-likelihood a token; None when a token had none that is finite."""
        if not all(map(isfinite, self.logprobs)):
            return None
        return exp(-fsum(self.logprobs) / len(self.logprobs))

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row a scored token: its place in the text, its id and its log-probability."""
        for place, logprob in enumerate(self.logprobs, start=1):
            yield {"position": place, "token": self.tokens[place], "logprob": logprob}


def window_requests(passage: Passage) -> list[ScoreRequest]:
    """Return requests that score every token of the passage but the first once, a request a window."""
    head = len(passage.prefix) + 1
    return [ScoreRequest(sequence[:head], (sequence[head:],), greedy=False) for sequence, _ in passage.windows()]


def score_text(
    engine: Engine, tokenizer: Any, text: str, count: int, *, batch_size: int, on_progress: OnProgress = ignore_progress
) -> TextScores:
    """Score the first ``count`` tokens of ``text``, all that it has when there are fewer.

    Raises:
        StageError: too short a text, or what the engine raises.
    """
    prefix, tokens = text_tokens(tokenizer, text, count)
    passage = Passage.of(tokens, prefix, engine.info.max_model_len)
    scores = score_in_chunks(engine, window_requests(passage), batch_size, "perplexity", on_progress)
    return TextScores(tokens, tuple(value for (score,) in scores for value in score.logprobs), passage.window, bool(prefix))
