"""What a sweep writes into its store while it works and when something is in its way, with made-up results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slim import api, sweep
from slim.errors import StoreError
from slim.ledger import Entry, Ledger
from slim.outcomes import Event
from slim.store import TAG, Store
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


class Away:
    """A store that goes away and comes back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_away = False
        for name in ("begin", "log", "log_text", "search", "get", "finish"):
            monkeypatch.setattr(Store, name, self._guarded(getattr(Store, name)))

    def _guarded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **keywords: Any) -> Any:
            if self.is_away:
                raise StoreError("tracking store: away")
            return call(*arguments, **keywords)

        return guarded


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Away:
    return Away(monkeypatch)


def test_a_failure_that_was_logged_before_the_store_went_away_is_logged_once(
    home: Path, store: Store, away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Made, "broken", ("bf16@vllm",))
    ended: list[tuple[int, int]] = []

    def watch(event: Event) -> None:
        away.is_away = event.done >= 1
        if event.kind == "configuration":
            ended.append((event.done, event.total))

    _, outcome = api.run(config(seed=1), store.tracking_uri, watch)
    assert (outcome.unlogged, outcome.ok) == (3, False)
    # What waits has ended, too.
    assert ended == [(1, 4), (2, 4), (3, 4), (4, 4)]
    away.is_away = False
    flushed = api.flush(store.tracking_uri)
    assert (flushed.logged, len(flushed.run_ids)) == (3, 3)
    statuses = [run.status for run in store.configurations()]
    assert (statuses.count("FAILED"), statuses.count("FINISHED"), len(statuses)) == (1, 3, 4)
    (run,) = store.search(f"tags.`{TAG.KIND}` = 'sweep'")
    assert (run.status, run.metrics["sweep/failed"]) == ("FAILED", 1)


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
