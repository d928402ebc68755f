"""Configurations in a real store, without a sweep: what the ledger would have logged."""

import json
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from slim.store import TAG, Store

PARAMS = {
    "model": "m",
    "revision": "r1",
    "precision": "bf16",
    "method": "none",
    "engine": "vllm",
    "hardware": "1x GPU",
    "seed": 42,
    "engine_options.max_model_len": 4096,
    "engine_version": "0.26.0",
    "torch_version": "2.11.0",
    "driver_version": "580",
    "profile.input_tokens": 256,
    "profile.warmup_requests": 10,
}

Log = Callable[..., str]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The copies of stores are this test's own."""
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def log(store: Store) -> Log:
    """Log a configuration; return its run's id. Each has a profile run of its own."""
    return logging_to(store)


def logging_to(store: Store) -> Log:
    """Return what logs configurations to a store."""

    def one(
        metrics: Mapping[str, float] | None = None,
        *,
        key: str | None = None,
        sweep: str | None = None,
        stages: Mapping[str, list[str]] | None = None,
        tags: Mapping[str, str] | None = None,
        failure: str | None = None,
        ended: bool = True,
        end_unix_s: float | None = None,
        **params: Any,
    ) -> str:
        everything = {**PARAMS, **{name.replace("__", "."): value for name, value in params.items()}}
        name = f"{everything['model']}/{everything['precision']}@{everything['engine']}"
        behind = json.dumps({"profile": [uuid.uuid4().hex]} if stages is None else stages)
        named = {TAG.CONFIG: name, TAG.KEY: key or uuid.uuid4().hex, TAG.STAGE_RUNS: behind, **(tags or {})}
        run_id = store.begin("configuration", name, parent=sweep, params=everything, tags=named)
        store.log(run_id, metrics=metrics or {})
        if ended:
            store.finish(run_id, failure=failure, end_unix_s=end_unix_s)
        return run_id

    return one
