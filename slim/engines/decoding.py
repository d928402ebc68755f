"""Text of generated tokens, the same in every engine, so that a difference between engines is one of tokens."""

from collections.abc import Sequence
from typing import Any

_PREFIX_TOKENS = 6


def continuation_text(tokenizer: Any, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """Return the text that ``tokens`` add after ``prompt``, special tokens skipped.

    Tokenizers in SentencePiece's manner drop the space before the first token that they decode, so a few tokens of the
    prompt are decoded along and their text is taken off again.
    """
    prefix = list(prompt[-_PREFIX_TOKENS:])
    before: str = tokenizer.decode(prefix, skip_special_tokens=True)
    whole: str = tokenizer.decode([*prefix, *tokens], skip_special_tokens=True)
    if whole.startswith(before):
        return whole[len(before) :]
    # The prompt ended in the middle of a character, which the new tokens completed.
    alone: str = tokenizer.decode(list(tokens), skip_special_tokens=True)
    return alone


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Return ``text`` up to the first of the stop texts, and whether there was one."""
    places = [place for place in (text.find(s) for s in stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def tail_length(stop: Sequence[str]) -> int:
    """Tokens at the end of a generation that are enough to see a stop text that has just been completed.

    A character takes at most four tokens, those of a tokenizer that falls back to UTF-8 bytes.
    """
    return 4 * max(map(len, stop)) + _PREFIX_TOKENS if stop else 0
