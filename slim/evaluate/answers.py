"""Answers of an engine, kept while a long task runs, so that a worker that was killed in it need not ask again."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slim.engines import Completion, Engine, EngineInfo, GenerationRequest, Score, ScoreRequest
from slim.pieces import Pieces
from slim.tables import write_parquet

KEPT_EVERY_S = 20.0
"""A worker that is killed has to do at most this much work again, and one call to the engine."""

_FILE = "answers.parquet"
_KINDS = {"Score": Score, "Completion": Completion}


class KeepingEngine:
    """An `Engine` that writes down what another one answers, and answers by itself what was written down before.

    Answers are kept in sections of a piece. A request is known by its tokens and settings; whatever else an answer
    depends on is fixed by the key of the stage that the pieces belong to.

    Args:
        engine: the one that is asked; stays open.
        pieces: of the stage.
        name: of the piece that the answers are for.

    Attributes:
        recalled: requests that were not put to the engine again.
    """

    def __init__(self, engine: Engine, pieces: Pieces, name: str) -> None:
        self._engine = engine
        self._pieces = pieces
        self._name = name
        self._known = {key: answer for section in pieces.sections(name) for key, answer in _read(section)}
        self._new: dict[str, Any] = {}
        self._kept_s = time.monotonic()
        self.recalled = 0

    @property
    def info(self) -> EngineInfo:
        """Of the engine."""
        return self._engine.info

    def generate(self, requests: Sequence[GenerationRequest], concurrency: int) -> list[Completion]:
        """See `slim.engines.base.Engine`."""
        return self._answers(requests, lambda some: self._engine.generate(some, concurrency))

    def score(self, requests: Sequence[ScoreRequest], batch_size: int) -> list[Any]:
        """See `slim.engines.base.Engine`."""
        return self._answers(requests, lambda some: self._engine.score(some, batch_size))

    def __getattr__(self, name: str) -> Any:
        """Whatever else the engine offers is not kept."""
        return getattr(self._engine, name)

    def _answers(self, requests: Sequence[Any], ask: Callable[[list[Any]], Sequence[Any]]) -> list[Any]:
        keys = [_key(request) for request in requests]
        left = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._known}
        self.recalled += sum(key in self._known for key in keys)
        if left:
            found = dict(zip(left, ask(list(left.values())), strict=True))
            self._new |= found
            if time.monotonic() - self._kept_s >= KEPT_EVERY_S:
                self._keep()
            return [found[key] if key in found else self._known[key] for key in keys]
        return [self._known[key] for key in keys]

    def _keep(self) -> None:
        with self._pieces.writing_section(self._name) as path:
            write_parquet(path / _FILE, [{"key": k, "answer": json.dumps(_plain(a))} for k, a in self._new.items()])
        self._new = {}
        self._kept_s = time.monotonic()


def _key(request: Any) -> str:
    return hashlib.blake2b(repr(request).encode(), digest_size=16).hexdigest()


def _read(section: Path) -> list[tuple[str, Any]]:
    """The answers of a section; none where another version of this program wrote them."""
    import pyarrow.parquet as pq

    columns = pq.read_table(section / _FILE).to_pydict()
    try:
        return [(key, _answer(json.loads(text))) for key, text in zip(columns["key"], columns["answer"], strict=True)]
    except (KeyError, TypeError):
        return []


def _plain(answer: Any) -> Any:
    """As JSON: floats come back as they were, infinities and NaN too."""
    if isinstance(answer, tuple):
        return [_plain(one) for one in answer]
    return {"kind": type(answer).__name__, **asdict(answer)}


def _answer(value: Any) -> Any:
    """The inverse of `_plain`."""
    if isinstance(value, list):
        return tuple(_answer(one) for one in value)
    fields = {name: tuple(one) if isinstance(one, list) else one for name, one in value.items() if name != "kind"}
    return _KINDS[value["kind"]](**fields)
