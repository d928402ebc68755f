"""A running text as tokens, cut into windows: what perplexity and fidelity to the baseline are measured over."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from slim.errors import Reason, StageError

WINDOW_TOKENS = 512


@dataclass(frozen=True)
class Passage:
    """The tokens of a text that are predicted, in windows that do not overlap.

    Attributes:
        tokens: of the text; all but the first are predicted.
        prefix: tokens in front of each window.
        window: tokens predicted a window.
    """

    tokens: tuple[int, ...]
    prefix: tuple[int, ...]
    window: int

    @classmethod
    def of(cls, tokens: tuple[int, ...], prefix: tuple[int, ...], max_len: int) -> Self:
        """Return the passage with windows that a model of ``max_len`` tokens can read.

        Raises:
            StageError: fewer than two tokens, so none that could be predicted, or a model that reads too few.
        """
        if len(tokens) < 2:
            raise StageError(Reason.DATA_UNAVAILABLE, f"the text has {len(tokens)} tokens; at least 2 are needed")
        window = min(WINDOW_TOKENS, max_len - 1 - len(prefix))
        if window < 1:
            raise StageError(
                Reason.EVALUATION, f"the model reads {max_len} tokens; a text's window takes at least {2 + len(prefix)}"
            )
        return cls(tokens, prefix, window)

    @classmethod
    def of_text(cls, tokenizer: Any, text: str, count: int, max_len: int) -> Self:
        """Return the passage of a text's first ``count`` tokens, all that it has when there are fewer.

        Raises:
            StageError: as `of`.
        """
        prefix, tokens = text_tokens(tokenizer, text, count)
        return cls.of(tokens, prefix, max_len)

    @property
    def positions(self) -> int:
        """Tokens that are predicted."""
        return len(self.tokens) - 1

    def windows(self) -> Iterator[tuple[tuple[int, ...], slice]]:
        """Each window's sequence, and which of the positions its last tokens have.

        A window reads the token before it, so that its first token has something to be predicted from.
        """
        for start in range(1, len(self.tokens), self.window):
            end = min(start + self.window, len(self.tokens))
            yield (*self.prefix, *self.tokens[start - 1 : end]), slice(start - 1, end - 1)


def text_tokens(tokenizer: Any, text: str, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what precedes a window and the text's first ``count`` tokens.

    What precedes is the beginning-of-sequence token where the tokenizer adds one by itself, else nothing: a model that
    was always trained with one does badly without it.
    """
    # A token covers at least one character of the text, most of them several: this much text is enough, and the end
    # of what is cut off cannot change the tokens that are kept.
    tokens = tuple(tokenizer.encode(text[: 16 * count + 1024], add_special_tokens=False)[:count])
    bos = tokenizer.bos_token_id
    with_special = tokenizer.encode("a")
    return ((bos,) if bos is not None and with_special[:1] == [bos] else ()), tokens
