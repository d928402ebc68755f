"""Perplexity of a running text, token by token, in windows that do not overlap."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, fsum, isfinite
from typing import Any

from slim.engines import Engine, ScoreRequest
from slim.evaluate.passage import Passage
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


def score_text(engine: Engine, passage: Passage, *, batch_size: int, on_progress: OnProgress = ignore_progress) -> TextScores:
    """Score all tokens of a passage but the first.

    Raises:
        StageError: what the engine raises.
    """
    scores = score_in_chunks(engine, window_requests(passage), batch_size, "perplexity", on_progress)
    logprobs = tuple(value for (score,) in scores for value in score.logprobs)
    return TextScores(passage.tokens, logprobs, passage.window, bool(passage.prefix))
