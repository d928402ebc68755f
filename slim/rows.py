"""Rows of chat and text data sets, from the Hub, a local mirror of it or a JSON Lines file, and the text that each is to a model."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from slim.errors import ConfigError, Reason, StageError

Row = Mapping[str, Any]

_TEXT_FILES = (".txt", ".md", ".jsonl")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class HubRows:
    """The first rows of a data set of the Hub.

    Attributes:
        name: Hub id.
        split: of the data set.
        count: rows at most.
        subset: configuration of the data set; None is its default.
        mirror: local directory that holds it; None loads from the Hub or its cache.
        cache_dir: where what is read of it is cached; None is the package's own place.
    """

    name: str
    split: str
    count: int
    subset: str | None = None
    mirror: Path | None = None
    cache_dir: str | None = None

    def load(self, what: str, hint: str) -> Any:
        """Return the rows as a ``datasets.Dataset``.

        Args:
            what: what the data set is for, in an error.
            hint: what to do without it, in an error.

        Raises:
            StageError: ``missing_package`` or ``data_unavailable``.
        """
        try:
            import datasets

            where: list[Any] = [str(self.mirror) if self.mirror else self.name]
            keywords: dict[str, Any] = {"split": f"{self.split}[:{self.count}]"}
            if self.subset is not None:
                where.append(self.subset)
            if self.cache_dir is not None:
                keywords["cache_dir"] = self.cache_dir
            return datasets.load_dataset(*where, **keywords)
        except ImportError as error:
            raise StageError(Reason.MISSING_PACKAGE, f"{what} {self.name!r} needs the package datasets: {error}") from error
        except Exception as error:
            # The library lets errors of every package below it through: HTTP, file systems, parsers, its own.
            subset = f", subset {self.subset!r}" if self.subset else ""
            raise StageError(
                Reason.DATA_UNAVAILABLE,
                f"{what} {self.name!r}{subset}, split {self.split!r}, cannot be loaded ({type(error).__name__}); {hint}",
            ) from error


def is_hub_id(name: str) -> bool:
    """Whether ``name`` can be a data set of the Hub, ``<organisation>/<name>``, rather than a path."""
    return _ID.fullmatch(name) is not None and not name.endswith(_TEXT_FILES)


def read_jsonl(path: Path, count: int) -> list[Row]:
    """Return the first rows of a JSON Lines file.

    Raises:
        ConfigError: the file cannot be read, or a line is no JSON object.
    """
    found: list[Row] = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(islice(lines, count), 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ConfigError(f"line {number} of {str(path)!r} is no JSON object")
                found.append(row)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"line {number} of {str(path)!r} is no JSON ({error.msg})") from None
    return found


def is_readable(row: Row) -> bool:
    """Whether a row holds a chat (``messages`` or ``conversations``) or a ``text``."""
    return _messages(row) is not None or isinstance(row.get("text"), str)


def written(row: Row, tokenizer: Any, what: str, hint: str) -> tuple[str, bool]:
    """Return what a model reads of a row, and whether its special tokens are written in it.

    A chat goes through the tokenizer's chat template; a tokenizer without one gets the turns as plain text.

    Args:
        row: of a data set.
        tokenizer: the model's, from transformers.
        what: the data set, in an error.
        hint: what to do without it, in an error.

    Raises:
        StageError: ``data_unavailable``: neither a chat nor a text, or a chat that the template refuses.
    """
    messages = _messages(row)
    if messages is None:
        if isinstance(row.get("text"), str):
            return row["text"], False
        raise StageError(
            Reason.DATA_UNAVAILABLE, f"{what} has neither chats ('messages') nor 'text', but: {', '.join(row)}; {hint}"
        )
    if not tokenizer.chat_template:
        return "\n\n".join(m["content"] for m in messages), False
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, tokenize=False), True
    except TemplateError as error:
        raise StageError(
            Reason.DATA_UNAVAILABLE, f"{what}: the model's chat template refuses a chat ({error}); {hint}"
        ) from error


def passage(rows: Iterable[Row], tokenizer: Any, what: str, hint: str) -> str:
    """Return all rows as one text: chats as their template has them, texts with an empty line between them."""
    parts: list[str] = []
    for row in rows:
        text, is_templated = written(row, tokenizer, what, hint)
        if text.strip():
            parts.append(text if is_templated else text.strip() + "\n\n")
    return "".join(parts)


def _messages(row: Row) -> Sequence[Mapping[str, str]] | None:
    messages = row.get("messages") or row.get("conversations")
    is_chat = isinstance(messages, list) and all(isinstance(m, dict) and "role" in m and "content" in m for m in messages)
    return messages if messages and is_chat else None
