"""Configurations compared with their baselines, in a real store."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from slim.errors import StoreError
from slim.jobs import Spool
from slim.store import TAG, Store
from tests.answers import answers
from tests.made import evaluated, ledger, run_sweep

RIGHT = [1.0] * 60 + [0.0] * 40
LOSING = [0.0] * 30 + [1.0] * 30 + [1.0] * 2 + [0.0] * 38
BF16, NF4 = "bf16@transformers", "bnb-nf4@transformers"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    return tmp_path


class Calls:
    """Counts what is written to a store."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: list[str] = []
        for name in ("log", "untag", "finish"):
            self._watch(store, name, monkeypatch)

    def _watch(self, store: Store, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        original = getattr(store, name)

        def watched(run_id: str, *arguments: Any, **keywords: Any) -> None:
            self.runs.append(run_id)
            original(run_id, *arguments, **keywords)

        monkeypatch.setattr(store, name, watched)


def test_a_configuration_says_what_it_lost(store: Store, home: Path) -> None:
    runs = run_sweep(store, home, {BF16: [answers(RIGHT)], NF4: [answers(LOSING)]})
    baseline, run = store.get(runs[BF16]), store.get(runs[NF4])
    assert run.status == "FINISHED"
    assert run.tags[TAG.BASELINE] == baseline.run_id
    assert json.loads(run.tags[TAG.COMPARISON]) == {
        "baseline": baseline.run_id,
        "margin": 0.02,
        "confidence": 0.95,
        "resamples": 10_000,
    }
    assert run.tags[f"{TAG.VERDICT}facts"] == "inferior"
    assert TAG.COMPARISON_REFUSED not in run.tags
    assert (run.metrics["fidelity/facts_lost_items"], run.metrics["fidelity/facts_gained_items"]) == (30, 2)
    assert run.metrics["impact/facts_difference"] == pytest.approx(-0.28)
    assert run.metrics["impact/mean_difference"] == pytest.approx(-0.28)
    assert run.metrics["impact/facts_drop_pct"] == pytest.approx(-100 * 28 / 60)
    assert run.metrics["impact/facts_difference_ci_low"] < -0.28 < run.metrics["impact/facts_difference_ci_high"]
    assert not any(key.startswith("impact/") for key in baseline.metrics)
    assert not any(tag.startswith((TAG.VERDICT, TAG.COMPARISON)) for tag in baseline.tags)


def test_the_same_sweep_again_writes_nothing(store: Store, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = {BF16: [answers(RIGHT)], NF4: [answers(LOSING)]}
    runs = run_sweep(store, home, sweep)
    before = {r: store.get(r) for r in runs.values()}
    calls = Calls(store, monkeypatch)
    assert run_sweep(store, home, sweep) == runs
    # The sweep's own run is begun; no configuration is touched.
    assert not set(calls.runs) & set(runs.values())
    assert {r: store.get(r) for r in runs.values()} == before


def test_a_configuration_that_was_there_before_its_baseline_is_compared(store: Store, home: Path) -> None:
    (alone,) = run_sweep(store, home, {NF4: [answers(LOSING)]}).values()
    assert TAG.BASELINE not in store.get(alone).tags
    runs = run_sweep(store, home, {BF16: [answers(RIGHT)], NF4: [answers(LOSING)]})
    assert runs[NF4] == alone
    run = store.get(alone)
    assert run.tags[TAG.BASELINE] == runs[BF16]
    assert run.tags[f"{TAG.VERDICT}facts"] == "inferior"
    assert run.metrics["impact/facts_drop_pct"] == pytest.approx(-100 * 28 / 60)


def test_a_configuration_that_ends_before_its_baseline_is_compared_after_it(store: Store, home: Path) -> None:
    runs = run_sweep(store, home, {NF4: [answers(LOSING)], BF16: [answers(RIGHT)]})
    assert store.get(runs[NF4]).tags[f"{TAG.VERDICT}facts"] == "inferior"


def test_another_margin_gives_another_verdict_and_runs_nothing(store: Store, home: Path) -> None:
    sweep = {BF16: [answers(RIGHT)], NF4: [answers(LOSING)]}
    runs = run_sweep(store, home, sweep)
    again = run_sweep(store, home, sweep, comparison={"margin": 0.5, "resamples": 500})
    assert again == runs
    run = store.get(runs[NF4])
    assert run.tags[f"{TAG.VERDICT}facts"] == "non-inferior"
    assert json.loads(run.tags[TAG.COMPARISON])["margin"] == 0.5


def test_what_cannot_be_compared_says_why(store: Store, home: Path) -> None:
    runs = run_sweep(store, home, {"fp16@transformers": [answers(LOSING)], NF4: [answers(LOSING)]})
    run = store.get(runs[NF4])
    assert run.tags[TAG.BASELINE] == runs["fp16@transformers"]
    assert f"{TAG.VERDICT}facts" in run.tags
    # Another baseline, which answered fewer items.
    other = run_sweep(store, home, {BF16: [answers(RIGHT[:50])], NF4: [answers(LOSING)]})
    run = store.get(runs[NF4])
    assert (other[NF4], run.tags[TAG.BASELINE]) == (runs[NF4], other[BF16])
    assert run.tags[TAG.COMPARISON_REFUSED] == "task 'facts', item 50 and 49 more: only in the configuration's samples"
    assert not any(tag.startswith(TAG.VERDICT) for tag in run.tags)
    assert json.loads(run.tags[TAG.COMPARISON])["baseline"] == other[BF16]
    # And back: the reason goes, the verdict comes.
    run_sweep(store, home, {"fp16@transformers": [answers(LOSING)], NF4: [answers(LOSING)]})
    run = store.get(runs[NF4])
    assert TAG.COMPARISON_REFUSED not in run.tags
    assert f"{TAG.VERDICT}facts" in run.tags


def test_what_the_comparison_before_knew_and_this_one_does_not_is_absent(store: Store, home: Path) -> None:
    runs = run_sweep(store, home, {"fp16@transformers": [answers(RIGHT)], NF4: [answers(LOSING)]})
    first = store.get(runs[NF4]).metrics
    interval = {f"impact/{name}_difference_ci_{end}" for name in ("facts", "mean") for end in ("low", "high")}
    assert interval <= first.keys()

    # A baseline that answered the same: no difference, so no interval of it.
    run_sweep(store, home, {BF16: [answers(LOSING)], NF4: [answers(LOSING)]})
    run = store.get(runs[NF4])
    assert run.metrics.keys() == first.keys() - interval
    assert run.metrics["impact/facts_difference"] == 0


def test_a_comparison_that_is_refused_leaves_no_figures_of_the_one_before(store: Store, home: Path) -> None:
    runs = run_sweep(store, home, {"fp16@transformers": [answers(LOSING)], NF4: [answers(LOSING)]})
    before = set(store.get(runs[NF4]).metrics)
    run_sweep(store, home, {BF16: [answers(RIGHT[:50])], NF4: [answers(LOSING)]})
    run = store.get(runs[NF4])
    assert TAG.COMPARISON_REFUSED in run.tags
    assert {key for key in run.metrics if key.startswith("impact/")} == {"impact/facts_drop_pct", "impact/mean_drop_pct"}
    assert not any("items" in key or "flip" in key or "mcnemar" in key for key in run.metrics)
    # And back.
    run_sweep(store, home, {"fp16@transformers": [answers(LOSING)], NF4: [answers(LOSING)]})
    assert set(store.get(runs[NF4]).metrics) == before


def test_a_figure_that_only_one_run_has_is_left_out_and_named(store: Store, home: Path) -> None:
    without = [{**row, "head": None, "weight": None} for row in answers(LOSING, "cola")]
    runs = run_sweep(store, home, {BF16: [answers(RIGHT), answers(RIGHT, "cola")], NF4: [answers(LOSING), without]})
    run = store.get(runs[NF4])
    assert run.tags[f"{TAG.VERDICT}facts"] == "inferior"
    assert run.metrics["fidelity/facts_lost_items"] == 30
    assert run.tags[TAG.COMPARISON_REFUSED] == "only one of the two runs has 'cola' over the same items"
    assert f"{TAG.VERDICT}cola" not in run.tags


def test_samples_that_are_gone_end_no_sweep(store: Store, home: Path) -> None:
    runs = run_sweep(store, home, {BF16: [], NF4: [answers(LOSING)]})
    run = store.get(runs[NF4])
    assert run.status == "FINISHED"
    assert "samples of tiny/bf16@transformers" in run.tags[TAG.COMPARISON_REFUSED]
    assert "has no artifact 'samples.parquet'" in run.tags[TAG.COMPARISON_REFUSED]


def test_a_stage_run_that_is_gone_ends_no_sweep(store: Store, home: Path) -> None:
    (baseline,) = run_sweep(store, home, {BF16: [answers(RIGHT)]}).values()
    store.log(baseline, tags={TAG.STAGE_RUNS: json.dumps({"evaluate": ["0" * 32]})})
    runs = run_sweep(store, home, {BF16: [answers(RIGHT)], NF4: [answers(LOSING)]})
    run = store.get(runs[NF4])
    assert run.status == "FINISHED"
    assert "there is no run" in run.tags[TAG.COMPARISON_REFUSED]


def test_without_a_mean_there_is_no_difference_of_means(store: Store, home: Path) -> None:
    evaluated(Spool(home / "spool"), NF4.replace("@", "-"), [answers(LOSING)], with_mean=False)
    spool = Spool(home / "spool")
    evaluated(spool, BF16.replace("@", "-"), [answers(RIGHT)])
    made = ledger(store, spool, [BF16, NF4])
    for entry in made.entries:
        entry.collect(spool)
        made.write(entry)
    run = store.get(made.entries[1].run_id or "")
    assert "impact/facts_difference" in run.metrics
    assert "impact/mean_difference" not in run.metrics


def test_a_store_that_breaks_in_between_is_caught_up_with(store: Store, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(home / "spool")
    for name, correct in ((BF16, RIGHT), (NF4, LOSING)):
        evaluated(spool, name.replace("@", "-"), [answers(correct)])
    made = ledger(store, spool, [BF16, NF4])
    first, second = made.entries
    first.collect(spool)
    made.write(first)
    second.collect(spool)
    original = store.log

    def breaking(run_id: str, **values: Any) -> None:
        if TAG.COMPARISON in (values.get("tags") or {}):
            raise StoreError("away")
        original(run_id, **values)

    with monkeypatch.context() as patch:
        patch.setattr(store, "log", breaking)
        with pytest.raises(StoreError, match="away"):
            made.write(second)
    assert not second.ended
    made.write(second)
    run = store.get(second.run_id or "")
    assert (run.status, run.tags[f"{TAG.VERDICT}facts"]) == ("FINISHED", "inferior")
    assert TAG.COMPARISON in run.tags


def test_an_interval_is_that_of_the_seed(store: Store, home: Path) -> None:
    sweep = {BF16: [answers(RIGHT)], NF4: [answers(LOSING)]}
    runs = run_sweep(store, home, sweep)
    first = store.get(runs[NF4]).metrics
    run_sweep(store, home, sweep, comparison={"margin": 0.3})
    history = MlflowClient(store.tracking_uri).get_metric_history(runs[NF4], "impact/facts_difference_ci_low")
    assert len(history) == 2
    assert store.get(runs[NF4]).metrics["impact/facts_difference_ci_low"] == first["impact/facts_difference_ci_low"]
