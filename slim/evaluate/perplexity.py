"""Perplexity of a running text, token by token, in windows that do not overlap."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, fsum, isfinite
from typing import Any

from slim.engines import Engine, ScoreRequest
from slim.errors import Reason, StageError
from slim.evaluate.scoring import score_in_chunks
from slim.records import OnProgress, ignore_progress

WINDOW_TOKENS = 512


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


def text_tokens(tokenizer: Any, text: str, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what precedes a window and the text's first ``count`` tokens.

    What precedes is the beginning-of-sequence token where the tokenizer adds one by itself, else nothing: a model that
    was always trained with one does badly without it.

    Raises:
        StageError: fewer than two tokens, so none that could be scored.
    """
    # A token covers at least one character of the text, most of them several: this much text is enough, and the end
    # of what is cut off cannot change the tokens that are kept.
    tokens = tuple(tokenizer.encode(text[: 16 * count + 1024], add_special_tokens=False)[:count])
    if len(tokens) < 2:
        raise StageError(Reason.DATA_UNAVAILABLE, f"the text for perplexity has {len(tokens)} tokens; at least 2 are needed")
    bos = tokenizer.bos_token_id
    with_special = tokenizer.encode("a")
    return ((bos,) if bos is not None and with_special[:1] == [bos] else ()), tokens


def window_requests(tokens: Sequence[int], prefix: Sequence[int], max_len: int) -> tuple[list[ScoreRequest], int]:
    """Cut a text into requests that score every token but the first once; also return the window's length.

    Each window reads the token before it, so that its first token has something to be predicted from.

    Args:
        tokens: the text.
        prefix: tokens in front of each window.
        max_len: tokens a sequence may have.
    """
    window = min(WINDOW_TOKENS, max_len - 1 - len(prefix))
    requests = []
    for start in range(1, len(tokens), window):
        requests.append(ScoreRequest((*prefix, tokens[start - 1]), (tuple(tokens[start : start + window]),)))
    return requests, window


def score_text(
    engine: Engine, tokenizer: Any, text: str, count: int, *, batch_size: int, on_progress: OnProgress = ignore_progress
) -> TextScores:
    """Score the first ``count`` tokens of ``text``, all that it has when there are fewer.

    Raises:
        StageError: too short a text, or what the engine raises.
    """
    prefix, tokens = text_tokens(tokenizer, text, count)
    requests, window = window_requests(tokens, prefix, engine.info.max_model_len)
    scores = score_in_chunks(engine, requests, batch_size, "perplexity", on_progress)
    return TextScores(tokens, tuple(value for (score,) in scores for value in score.logprobs), window, bool(prefix))
