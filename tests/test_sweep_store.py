"""What a sweep writes into its store while it works and when something is in its way, with made-up results."""

from pathlib import Path
from typing import Any

import pytest

from slim import api, sweep
from slim.ledger import Entry, Ledger
from slim.store import Store
from tests.test_store import is_beaten
from tests.unmeasured import Made, config


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sweep, "Runner", Made)
    monkeypatch.setattr(Made, "made", [])
    monkeypatch.setattr(Made, "broken", ())
    return tmp_path


def test_a_sweep_shows_signs_of_life_while_no_worker_runs(home: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slim.store.liveness.BEAT_S", 0.02)
    beaten = []

    def comparing(self: Any) -> None:
        beaten.append(is_beaten(store, self._ledger.sweep_run))

    monkeypatch.setattr(sweep.SweepRun, "_compare", comparing)
    assert api.run(config(seed=1, precisions=["bf16@vllm"]), store.tracking_uri)[1].ok
    assert beaten == [True]


def test_what_is_logged_later_shows_signs_of_life(home: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    api.run(config(seed=1, precisions=["bf16@vllm"]), "http://127.0.0.1:9")
    (record,) = (home / "home" / "spool" / "plans").iterdir()
    record.write_text(record.read_text().replace("http://127.0.0.1:9", store.tracking_uri))
    monkeypatch.setattr("slim.store.liveness.BEAT_S", 0.02)
    beaten = []

    def comparing(self: Ledger, entry: Entry, run: object) -> None:
        beaten.append(is_beaten(store, entry.run_id or ""))

    monkeypatch.setattr(Ledger, "_compare", comparing)
    assert api.flush(store.tracking_uri).logged == 1
    assert beaten[0]
