"""Where the prompts' text comes from: the text installed with Python, a file of text or chats, or a data set of the Hub."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slim import rows, text
from slim.config import PromptsConfig
from slim.errors import ConfigError, Reason, StageError
from slim.evaluate import mirror

_FIELD = "profile.prompts.source"
_WHAT = "data set of the prompts"
_HINT = f"use {_FIELD}: {text.BUILTIN} or a local file"


@dataclass(frozen=True)
class PromptText:
    """The text that prompts are cut from.

    Attributes:
        tokens: of the model's tokenizer, without special tokens of their own.
        origin: ``builtin:<name>``, a path, or a Hub id with its subset and split.
        digest: short hash of the text as it was found, the same for every model: before chat template and tokenizer.
    """

    tokens: tuple[int, ...]
    origin: str
    digest: str


def read(config: PromptsConfig, tokenizer: Any) -> PromptText:
    """Read the source with a model's tokenizer.

    Raises:
        ConfigError: a local file that cannot be read.
        StageError: ``data_unavailable``: a data set that cannot be had, or a source without text.
    """
    if _is_plain(config.source):
        passage = text.load(config.source)
        digest = text.digest(passage)
    else:
        found = [dict(row) for row in _rows(config)]
        passage = rows.passage(found, tokenizer, f"{_WHAT} {config.source!r}", _HINT)
        digest = text.digest(json.dumps(found, sort_keys=True, default=str))
    if not passage.strip():
        raise StageError(Reason.DATA_UNAVAILABLE, f"{_FIELD} {config.source!r} holds no text; {_HINT}")
    tokens = tokenizer(passage, add_special_tokens=False, verbose=False)["input_ids"]
    return PromptText(tuple(tokens), origin(config), digest)


def origin(config: PromptsConfig) -> str:
    """Return a name of the source for records: ``builtin:<name>``, a path, or a Hub id with its subset and split."""
    if config.source == text.BUILTIN:
        return f"builtin:{text.BUILTIN}"
    if text.is_local(config.source):
        return str(Path(config.source).resolve())
    return "/".join(part for part in (config.source, config.subset, config.split) if part)


def check(config: PromptsConfig) -> None:
    """Make sure that the source can be read, as far as that can be known without asking the Hub.

    Raises:
        ConfigError: one line that names the field, what was given and what is allowed.
    """
    name = config.source
    if text.is_local(name):
        for field in ("subset", "data_dir"):
            if (value := getattr(config, field)) is not None:
                raise ConfigError(f"profile.prompts.{field} {value!r} belongs to a Hub data set, and {_FIELD} is {name!r}")
        _check_file(config)
        return
    if not rows.is_hub_id(name):
        raise ConfigError(
            f"{_FIELD} {name!r} is no such file; allowed: {text.BUILTIN}, a text file, a .jsonl file of chats, or a Hub data set "
            "such as HuggingFaceH4/ultrachat_200k"
        )
    data_dir = _data_dir(config)
    if data_dir is not None and not data_dir.is_dir():
        raise ConfigError(f"profile.prompts.data_dir: {str(data_dir)!r} is not a directory")
    try:
        mirror.check({name: "profile"}, data_dir)
    except ConfigError:
        raise ConfigError(
            f"{_FIELD}: data set {name!r} is not on this machine, and HF_HUB_OFFLINE forbids asking the Hub; run where there is a "
            f"network: {mirror.command(name, data_dir)}"
            + ("" if data_dir else ", and name <data_dir> as profile.prompts.data_dir")
        ) from None


def fingerprint(config: PromptsConfig) -> str | None:
    """Return a digest of what lies on this machine: text, file or mirror; None for a data set that its name alone identifies."""
    if text.is_local(config.source):
        return text.digest(text.load(config.source))
    place = mirror.local_copy(config.source, _data_dir(config))
    return mirror.fingerprint({config.source: "profile"}, _data_dir(config)) if place is not None else None


def _check_file(config: PromptsConfig) -> None:
    try:
        if _is_plain(config.source):
            is_empty = not text.load(config.source).strip()
        else:
            found = rows.read_jsonl(Path(config.source), config.rows)
            unreadable = next((row for row in found if not rows.is_readable(row)), None)
            if unreadable is not None:
                raise ConfigError(f"a line has neither 'messages' nor 'text', but: {', '.join(unreadable)}")
            is_empty = not found
    except ConfigError as error:
        raise ConfigError(f"{_FIELD} {config.source!r}: {error}") from None
    if is_empty:
        raise ConfigError(f"{_FIELD} {config.source!r} holds no text")


def _rows(config: PromptsConfig) -> Any:
    if text.is_local(config.source):
        return rows.read_jsonl(Path(config.source), config.rows)
    data_dir = _data_dir(config)
    place = mirror.local_copy(config.source, data_dir)
    cache_dir = mirror.cache_dir(config.source, data_dir)
    return rows.HubRows(config.source, config.split, config.rows, config.subset, place, cache_dir).load(_WHAT, _HINT)


def _is_plain(name: str) -> bool:
    """Whether the source is a text, rather than rows."""
    return text.is_local(name) and not name.endswith(".jsonl")


def _data_dir(config: PromptsConfig) -> Path | None:
    return Path(config.data_dir) if config.data_dir is not None else None
