"""The prompts that every configuration of a model gets: fixed length, all different, from real text."""

import random
from collections.abc import Sequence

from slim.engines.base import GenerationRequest
from slim.errors import Reason, StageError
from slim.profile.sources import PromptText


def prompts(tokens: Sequence[int], count: int, length: int, seed: int) -> list[tuple[int, ...]]:
    """Return ``count`` windows of ``length`` tokens, no two with the same beginning.

    A prefix cache works on blocks from the start of a prompt, so windows that start at different places share nothing with
    it even when they overlap further on.

    Args:
        tokens: a text as token ids; repeated when it is shorter than what is asked.
        count: windows.
        length: tokens of each.
        seed: of the order.

    Raises:
        ValueError: the text has too few different windows.
    """
    if not tokens:
        raise ValueError("the workload's text has no tokens")
    text = list(tokens)
    while len(text) < length + count:
        text += tokens
    starts = list(range(len(text) - length + 1))
    random.Random(seed).shuffle(starts)
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for start in starts:
        window = tuple(text[start : start + length])
        found.setdefault(window[: min(16, length)], window)
        if len(found) == count:
            return list(found.values())
    raise ValueError(f"the workload's text has {len(found)} different windows of {length} tokens, {count} are needed")


def cut(source: PromptText, count: int, length: int, seed: int) -> list[tuple[int, ...]]:
    """Return `prompts` of a source.

    Raises:
        StageError: ``data_unavailable``: the source is too short for so many.
    """
    try:
        return prompts(source.tokens, count, length, seed)
    except ValueError as error:
        raise StageError(Reason.DATA_UNAVAILABLE, f"prompts from {source.origin}: {error}") from error


def requests(windows: Sequence[tuple[int, ...]], output_tokens: int) -> list[GenerationRequest]:
    """Return one measured request a prompt: fixed output length, the prefix cache not read."""
    return [GenerationRequest(prompt, output_tokens, ignore_eos=True, read_prefix_cache=False) for prompt in windows]
