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


def ended_without_saying_so(store: Store, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> str:
    """Run a sweep whose store goes away at its very end; return its run."""

    def away(*_: object) -> None:
        raise StoreError("tracking store: away")

    with monkeypatch.context() as patch:
        patch.setattr("slim.own_run.finish", away)
        _, outcome = api.run(config(precisions=["bf16@vllm"], **fields), store.tracking_uri)
    assert (outcome.unlogged, outcome.end_is_logged, outcome.ok) == (0, False, False)
    assert outcome.run_id is not None
    return outcome.run_id


def plans(home: Path) -> list[Path]:
    return list((home / "home" / "spool").glob("plans/*.json"))


def test_the_next_sweep_writes_the_end_of_one_that_could_not(home: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = ended_without_saying_so(store, monkeypatch, seed=1)
    assert len(plans(home)) == 1
    assert api.run(config(seed=2, precisions=["bf16@vllm"]), store.tracking_uri)[1].ok
    assert (store.get(run_id).status, store.get(run_id).metrics["sweep/finished"]) == ("FINISHED", 1)
    assert plans(home) == []


def test_a_deleted_sweep_holds_up_no_later_one(home: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.client.delete_run(ended_without_saying_so(store, monkeypatch, seed=1))
    notes: list[str] = []
    _, outcome = api.run(
        config(seed=2, precisions=["bf16@vllm"]),
        store.tracking_uri,
        lambda event: notes.append(event.message) if event.kind == "note" else None,
    )
    assert outcome.ok
    assert any("of an earlier sweep is gone" in note for note in notes)
    assert plans(home) == []
    assert [run.status for run in store.search(f"tags.`{TAG.KIND}` = 'sweep'")] == ["FINISHED"]


def test_a_record_that_cannot_be_logged_holds_up_no_later_one(home: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ended_without_saying_so(store, monkeypatch, seed=1)
    (lost,) = plans(home)
    # A name of its own: the second sweep writes the ends of all that it can.
    lost.rename(home / "lost.json")
    second = ended_without_saying_so(store, monkeypatch, seed=2)
    lost.write_text((home / "lost.json").read_text())
    finish = Store.finish

    def finished(self: Store, run_id: str, **keywords: Any) -> None:
        if run_id == first:
            raise StoreError("tracking store: this one breaks")
        finish(self, run_id, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", finished)
        assert api.flush(store.tracking_uri).problems == ("tracking store: this one breaks",)
    assert store.get(second).status == "FINISHED"
    assert plans(home) == [lost]
    store.client.delete_run(first)
    assert api.flush(store.tracking_uri).problems == ()
    assert plans(home) == []


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
