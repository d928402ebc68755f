"""Calibration data: token sequences that a model sees while its weights are rounded."""

import hashlib
from pathlib import Path
from typing import Any

from slim import rows, text
from slim.config import QuantizeConfig
from slim.errors import ConfigError, Reason, StageError
from slim.records import Dataset

_HINT = f"use calibration: {text.BUILTIN} or a local text file"


def samples(config: QuantizeConfig, tokenizer: Any, seed: int) -> tuple[list[list[int]], Dataset]:
    """Return calibration samples and the record of where they come from.

    A text is cut into windows of ``max_tokens`` that are spread evenly over it and do not overlap; a data set of chats
    is cut to its first ``samples`` conversations, shuffled, each through the tokenizer's chat template and cut to
    ``max_tokens``. Where there is less than was asked for, what is there is used and the record says how many.

    Args:
        config: which data and how much of it.
        tokenizer: the model's, from transformers.
        seed: of shuffling; windows of a text do not depend on it.

    Raises:
        ConfigError: a local text that cannot be read or holds nothing.
        StageError: ``data_unavailable``: the data set cannot be had.
    """
    if text.is_local(config.calibration):
        found = _windows(text.load(config.calibration), config, tokenizer)
        source = f"builtin:{text.BUILTIN}" if config.calibration == text.BUILTIN else str(Path(config.calibration).resolve())
        if not found:
            raise ConfigError(f"quantize.calibration {config.calibration!r} holds no text")
    else:
        found = _chats(config, tokenizer, seed)
        source = config.calibration
        if not found:
            raise StageError(Reason.DATA_UNAVAILABLE, f"calibration data set {source!r} holds no text; {_HINT}")
    digest = hashlib.sha256(repr(found).encode()).hexdigest()[:16]
    return found, Dataset(Path(config.calibration).name, source, digest, len(found), "calibration")


def _windows(passage: str, config: QuantizeConfig, tokenizer: Any) -> list[list[int]]:
    start = _start(tokenizer)
    tokens = tokenizer(passage, add_special_tokens=False, verbose=False)["input_ids"] if passage.strip() else []
    length = min(config.max_tokens - len(start), len(tokens))
    if length < 1:
        return []
    count = min(config.samples, len(tokens) // length)
    # The last window ends where the text does, so that all of it is drawn from.
    begins = [i * (len(tokens) - length) // max(count - 1, 1) for i in range(count)]
    return [start + tokens[begin : begin + length] for begin in begins]


def _start(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before any text; models that know it give its position an activation like no other."""
    first = tokenizer("", add_special_tokens=True)["input_ids"][:1]
    return list(first) if first and first[0] == tokenizer.bos_token_id else []


def _chats(config: QuantizeConfig, tokenizer: Any, seed: int) -> list[list[int]]:
    name = config.calibration
    loaded = rows.HubRows(name, config.calibration_split, config.samples).load("calibration data set", _HINT).shuffle(seed=seed)
    found = []
    for row in loaded:
        tokens = _tokens(row, tokenizer, name)[: config.max_tokens]
        if tokens:
            found.append(tokens)
    return found


def _tokens(row: rows.Row, tokenizer: Any, name: str) -> list[int]:
    """One sample's tokens."""
    passage, is_templated = rows.written(row, tokenizer, f"calibration data set {name!r}", _HINT)
    return list(tokenizer(passage, add_special_tokens=not is_templated)["input_ids"])
