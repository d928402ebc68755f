"""Stores that others wrote to: what cannot be read is left out and told, the rest is read; a store that cannot be read is one line."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis import published
from analysis.selection import select
from slim.errors import SlimError
from slim.store import TAG, Store, keep
from tests.bad_input.damage import ABSENT, DAMAGES, ERROR, KEPT, running
from tests.bad_input.told import everything_below, invoke, one_line

NAME = "llama-3.2-3b-instruct/gptq-int8@vllm"


@pytest.fixture(scope="module")
def printed(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the configurations of SLiM-Eval."""
    path = tmp_path_factory.mktemp("printed") / "mlflow.db"
    shutil.copy(empty_database, path)
    store = Store.open(f"sqlite:///{path}", "slim")
    assert store is not None
    keep(store, published.runs("slim_eval"))
    return path


@pytest.fixture
def file(printed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, and nothing remembered of another one."""
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    with sqlite3.connect(printed) as source, sqlite3.connect(tmp_path / "mlflow.db") as target:
        source.backup(target)
    return tmp_path / "mlflow.db"


def opened(file: Path) -> Store:
    store = Store.open(f"sqlite:///{file}", "slim")
    assert store is not None
    return store


def victim(store: Store) -> str:
    return next(run.run_id for run in store.configurations() if run.name == NAME)


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_run_is_left_out_and_the_others_are_not(file: Path, case: str) -> None:
    damage, expected = DAMAGES[case]
    store = opened(file)
    run_id = victim(store)
    damage(store, file, run_id)
    if expected == ERROR:
        code = 2 if case.startswith("a file") else 1
        told = one_line(invoke("study", ["--dry-run", "--tracking-uri", f"sqlite:///{file}"]), code)
        assert "tracking store" in told
        return
    found = select(store)
    assert len(found.frame) == 13 - (expected != KEPT)
    assert (run_id in found.frame.index) is (expected == KEPT)
    if expected not in (KEPT, ABSENT):
        (reason,) = found.left_out[found.left_out["run_id"] == run_id]["reason"]
        assert expected in reason
        assert len(reason) < 300


def test_a_study_of_a_store_full_of_damage_answers_from_what_is_left(file: Path, tmp_path: Path) -> None:
    store = opened(file)
    chosen = [damage for damage, expected in DAMAGES.values() if expected not in (KEPT, ABSENT, ERROR)]
    markup, *runs = sorted(run.run_id for run in store.configurations() if run.name != NAME)
    runs = runs[:8]
    for run_id, damage in zip(runs, chosen, strict=False):
        damage(store, file, run_id)
    store.client.set_tag(markup, TAG.CONFIG, "<script>alert(1)</script>/[red]x[/red]@vllm")
    before = everything_below(tmp_path)
    arguments = ["--tracking-uri", f"sqlite:///{file}", "--draws", "20", "--out", str(tmp_path / "report")]
    result = invoke("report", arguments)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert page.count("not a run as this version writes them") >= len(runs)
    new = everything_below(tmp_path) - before
    assert all(name.startswith(("report/", "home/")) for name in new)
    told = invoke("study", ["--dry-run", "--tracking-uri", f"sqlite:///{file}", "--draws", "20"])
    assert told.exit_code == 0, told.output
    assert f"{len(runs)} damaged" in told.output


def test_a_run_whose_worker_is_told_in_garbage_counts_as_abandoned(file: Path) -> None:
    store = opened(file)
    run_id = victim(store)
    running(store, file, run_id)
    assert [run.run_id for run in store.abandoned()] == [run_id]
    store.client.set_tag(run_id, TAG.HOST, "elsewhere")
    assert [run.run_id for run in store.abandoned()] == [run_id]


def test_what_another_version_finished_is_not_reused(file: Path) -> None:
    store = opened(file)
    run = store.get(victim(store))
    key = run.tags[TAG.KEY]
    assert store.find_finished("configuration", key) is not None
    store.client.set_tag(run.run_id, TAG.SCHEMA, "2")
    assert store.find_finished("configuration", key) is None


@pytest.mark.parametrize("experiment", ["..", ".", "a/../../b", "../up", "/etc", "a\\..\\b", " ", "\u2025"])
def test_artifacts_of_an_experiment_stay_beside_the_store(file: Path, experiment: str) -> None:
    try:
        store = Store.open(f"sqlite:///{file}", experiment)
    except SlimError:
        return
    assert store is not None
    location = store.client.get_experiment(store.experiment_id).artifact_location
    place = Path(location.removeprefix("file://")).resolve()
    assert place.parent == (file.parent / "mlartifacts").resolve()
