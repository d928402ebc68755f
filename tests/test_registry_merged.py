"""Registering what a study took together from several runs: real studies of a real store."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from analysis import evidence, study
from slim import registry
from slim.errors import ConfigError
from slim.registry import VERSION, Question, choices
from slim.store import TAG, Store, StoredRun
from slim.store.checkpoints import local_directory
from tests import registrable
from tests.registrable import Made

BASE, QUANTIZED = "bf16@transformers", "bnb-nf4@transformers"
E2E, ACCURACY, DIFFERENCE = "latency/e2e_mean_ms", "accuracy/mean", "impact/slim_facts_difference"
INFERIOR = {f"{TAG.VERDICT}slim_facts": "inferior"}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def make(store: Store, home: Path, model: Path, **extra: Any) -> Made:
    """A baseline and a faster quantized configuration."""
    quantized = {**extra, "metrics": {E2E: 300.0, **extra.get("metrics", {})}}
    return registrable.make(store, home, model, "tiny", {BASE: {}, QUANTIZED: quantized})


def again(made: Made, metrics: dict[str, float], *stages: str, key: str | None = None, tags: dict[str, str] | None = None) -> str:
    """Log a newer run of the quantized configuration, whose checkpoint was found again."""
    old = made.store.get(made.runs[QUANTIZED])
    behind = {
        "quantize": json.loads(old.tags[TAG.STAGE_RUNS])["quantize"],
        **{stage: [stage_run(made, stage)] for stage in stages},
    }
    named = {TAG.CONFIG: old.tags[TAG.CONFIG], TAG.BASELINE: old.tags[TAG.BASELINE], TAG.KEY: key or uuid.uuid4().hex}
    params = {k: v for k, v in old.params.items() if "profile" in stages or not k.startswith("profile.")}
    run_id = made.store.begin(
        "configuration", old.name, params=params, tags={**named, TAG.STAGE_RUNS: json.dumps(behind), **(tags or {})}
    )
    made.store.log(run_id, metrics=metrics)
    made.store.finish(run_id)
    return run_id


def stage_run(made: Made, stage: Any) -> str:
    run_id = made.store.begin(stage, stage)
    made.store.finish(run_id)
    return run_id


def keep(made: Made) -> StoredRun:
    found = study.make(made.store, study.Question(deployments=("latency-critical",), draws=10))
    return evidence.keep(made.store, found)


def register(made: Made, run: StoredRun, **fields: Any) -> registry.Registration:
    return registry.register(Question(run.run_id, **fields), made.store.tracking_uri)


def registered(made: Made) -> tuple[dict[str, str], str]:
    """Tags of the recommended version, and the card."""
    version = made.store.client.get_model_version_by_alias("slim-tiny", "latency-critical")
    directory = local_directory(made.store.client.get_logged_model(version.tags[VERSION.CHECKPOINT]).artifact_location)
    assert directory is not None
    return dict(version.tags), (directory / registry.CARD).read_text(encoding="utf-8")


def test_a_verdict_of_an_older_run_behind_the_row_closes_the_gate(store: Store, tmp_path: Path, tiny_model: Path) -> None:
    made = make(store, tmp_path, tiny_model, tags=INFERIOR)
    newest = again(made, {E2E: 310.0}, "profile")
    run = keep(made)
    assert run.tags[f"{TAG.RECOMMENDED}latency-critical"] == newest
    (refused,) = register(made, run).refused
    assert refused.reasons == ("it is inferior to its baseline on slim_facts",)
    register(made, run, force=True)
    tags, card = registered(made)
    old = store.get(made.runs[QUANTIZED])
    assert tags[VERSION.CONFIGURATION_RUN] == newest
    assert tags[f"{VERSION.VERDICT}slim_facts"] == "inferior"
    assert tags["slim.metric.accuracy.mean"] == "0.75"
    assert tags["slim.metric.latency.e2e_mean_ms"] == "310"
    assert tags[VERSION.STAGE_RUNS["evaluate"]] == json.loads(old.tags[TAG.STAGE_RUNS])["evaluate"][0]
    assert "Accuracy was not measured" not in card
    assert "| slim_facts | -0.0100 | -0.0300 to 0.0100 | inferior |" in card
    assert f"configuration `{newest}`, configuration `{old.run_id}`" in card


def test_what_an_older_run_profiled_is_on_the_card(store: Store, tmp_path: Path, tiny_model: Path) -> None:
    made = make(store, tmp_path, tiny_model)
    old = store.get(made.runs[QUANTIZED])
    behind = {"quantize": json.loads(old.tags[TAG.STAGE_RUNS])["quantize"], "profile": [stage_run(made, "profile")]}
    store.log(old.run_id, tags={TAG.STAGE_RUNS: json.dumps(behind)})
    newest = again(made, {ACCURACY: 0.74}, "evaluate")
    done = register(made, keep(made))
    assert [(v.run_id, v.change) for v in done.versions] == [(newest, "registered")]
    tags, card = registered(made)
    assert (tags["slim.metric.accuracy.mean"], tags["slim.metric.latency.e2e_mean_ms"]) == ("0.74", "300")
    assert "Latencies: prompts of 8 tokens, 4 generated" in card
    assert f"profile `{behind['profile'][0]}`" in card


def test_repeats_are_registered_with_the_mean_that_was_recommended(store: Store, tmp_path: Path, tiny_model: Path) -> None:
    made = make(store, tmp_path, tiny_model)
    stages = json.loads(store.get(made.runs[QUANTIZED]).tags[TAG.STAGE_RUNS])
    profiled = {**stages, "profile": [stage_run(made, "profile")]}
    store.log(made.runs[QUANTIZED], tags={TAG.STAGE_RUNS: json.dumps(profiled)})
    key = store.get(made.runs[QUANTIZED]).tags[TAG.KEY]
    newest = again(made, {**registrable.METRICS, E2E: 310.0}, "evaluate", "profile", key=key)
    # A newer measurement of the baseline is what the study compares with.
    base = store.get(made.runs[BASE])
    newer = store.begin("configuration", base.name, params=base.params, tags={**base.tags, TAG.KEY: "another"})
    store.log(newer, metrics={**registrable.METRICS, E2E: 610.0})
    store.finish(newer)
    run = keep(made)
    register(made, run)
    tags, card = registered(made)
    assert tags["slim.metric.latency.e2e_mean_ms"] == "305"
    assert float(tags["slim.metric.impact.speedup"]) == pytest.approx(2.0)
    assert "| latency/e2e_mean_ms | 305.00 ms | 241.47 to 368.53 | 610.00 ms |" in card
    # The same again changes nothing, and a flag that was set since counts, on whatever run.
    assert [v.change for v in register(made, run).versions] == ["unchanged"]
    store.log(made.runs[QUANTIZED], tags={TAG.VALIDITY: "device_shared"})
    (refused,) = register(made, run).refused
    assert refused.reasons == ("its measurement did not pass every check (device_shared)",)
    assert store.get(newest).tags.get(TAG.VALIDITY) is None


def test_a_study_that_does_not_say_what_it_rests_on_is_refused(store: Store, tmp_path: Path, tiny_model: Path) -> None:
    made = make(store, tmp_path, tiny_model)
    (tmp_path / "old").mkdir()
    answers = [{"request": "balanced", "choice": {"run_id": made.runs[QUANTIZED]}, "sentences": [""]}]
    (tmp_path / "old" / choices.RECOMMENDATIONS).write_text(json.dumps({"recommendations": answers, "by_model": {}}))
    run = store.log_study(tmp_path / "old", name="old", params={}, recommended={"balanced": made.runs[QUANTIZED]})
    with pytest.raises(ConfigError, match="run the study again"):
        register(made, run)
