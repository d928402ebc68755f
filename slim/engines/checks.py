"""Checks that every engine makes before it runs anything.

A token id beyond the vocabulary reaches the kernels otherwise, where it is a device-side assert on CUDA that takes the
whole process with it and a read of foreign memory on a CPU.
"""

from collections.abc import Sequence
from itertools import pairwise

from slim.engines.base import EngineInfo, GenerationRequest, ScoreRequest


def check_generation(requests: Sequence[GenerationRequest], concurrency: int, info: EngineInfo) -> None:
    """Check what `Engine.generate` was given.

    Raises:
        ValueError: naming the request and what is wrong with it.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, got {concurrency}")
    if info.max_concurrency is not None and concurrency > info.max_concurrency:
        raise ValueError(f"concurrency {concurrency} is beyond the engine's {info.max_concurrency} sequences in flight")
    for index, request in enumerate(requests):
        place = f"request {index}"
        _check_tokens(request.prompt, f"{place}: prompt", info)
        if request.max_tokens < 1:
            raise ValueError(f"{place}: max_tokens must be at least 1, got {request.max_tokens}")
        if "" in request.stop:
            raise ValueError(f"{place}: an empty stop text")
        _check_length(len(request.prompt) + request.max_tokens, f"{place}: prompt and max_tokens", info)


def check_scores(requests: Sequence[ScoreRequest], batch_size: int, info: EngineInfo) -> None:
    """Check what `Engine.score` was given.

    Raises:
        ValueError: naming the request and what is wrong with it.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    for index, request in enumerate(requests):
        place = f"request {index}"
        _check_tokens(request.context, f"{place}: context", info)
        if not request.continuations:
            raise ValueError(f"{place}: no continuations")
        for continuation in request.continuations:
            _check_tokens(continuation, f"{place}: continuation", info)
        _check_length(len(request.context) + request.longest, f"{place}: context and continuation", info)


def check_sequence(tokens: tuple[int, ...], info: EngineInfo) -> None:
    """Check what `Engine.logits` was given.

    Raises:
        ValueError: saying what is wrong with it.
    """
    _check_tokens(tokens, "the sequence", info)
    if len(tokens) < 2:
        raise ValueError("the sequence has one token; logits are about the second and later ones")
    _check_length(len(tokens), "the sequence's tokens", info)


def _check_tokens(tokens: tuple[int, ...], what: str, info: EngineInfo) -> None:
    if not tokens:
        raise ValueError(f"{what} is empty")
    lowest, highest = min(tokens), max(tokens)
    if lowest < 0 or highest >= info.vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"{what} has token id {wrong}; the vocabulary has ids 0 to {info.vocab_size - 1}")


def _check_length(tokens: int, what: str, info: EngineInfo) -> None:
    if tokens > info.max_model_len:
        raise ValueError(f"{what} are {tokens} tokens, beyond the context of {info.max_model_len}")


def check_arrivals(requests: Sequence[GenerationRequest], arrivals_s: Sequence[float]) -> None:
    """Make sure that requests can arrive so.

    Raises:
        ValueError: saying what is wrong.
    """
    if len(arrivals_s) != len(requests):
        raise ValueError(f"{len(arrivals_s)} arrivals for {len(requests)} requests")
    if any(later < earlier for earlier, later in pairwise((0.0, *arrivals_s))):
        raise ValueError("arrivals must not decrease or be negative")
