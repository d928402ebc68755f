"""Configurations with checkpoints and a study that recommends them, logged by the real store, without engines."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slim import checkpoint as checkpoints
from slim import models
from slim.config import ModelEntry
from slim.jobs import Spool, Spooled
from slim.records import Stage, StageResult
from slim.store import TAG, Store, StoredRun

METRICS = {
    "accuracy/mean": 0.75,
    "accuracy/slim_facts": 0.75,
    "accuracy/slim_facts_stderr": 0.05,
    "latency/e2e_mean_ms": 600.0,
    "latency/e2e_mean_ms_ci_low": 550.0,
    "latency/e2e_mean_ms_ci_high": 650.0,
    "fidelity/kl_divergence_nats": 0.02,
    "impact/slim_facts_difference": -0.01,
    "impact/slim_facts_difference_ci_low": -0.03,
    "impact/slim_facts_difference_ci_high": 0.01,
}


@dataclass(frozen=True)
class Made:
    """What was logged.

    Attributes:
        store: where.
        source: directory with the original weights, a copy of its own.
        runs: configuration runs by ``<precision>@<engine>``.
        spool: where more can be logged from.
    """

    store: Store
    source: Path
    runs: Mapping[str, str]
    spool: Spool


def make(store: Store, home: Path, model: Path, short: str, configurations: Mapping[str, Mapping[str, Any]]) -> Made:
    """Log finished configurations of a model called ``short``, the first as baseline of the others.

    Args:
        store: where to.
        home: directory for the model and the spool.
        model: in Hugging Face layout.
        short: short name of the model.
        configurations: by ``<precision>@<engine>``, metrics and tags beyond the usual.
    """
    source = shutil.copytree(model, home / short)
    # Weights of its own: those of one model are found by what they are, wherever they lie.
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "told_apart_by": short}))
    (source / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    revision = models.resolve(ModelEntry(id=str(source))).fingerprint
    spool = Spool(home / "spool")
    sweep = store.begin("sweep", "a sweep")
    runs: dict[str, str] = {}
    for name, extra in configurations.items():
        precision, _, engine = name.partition("@")
        params = {
            "model": str(source),
            "revision": revision,
            "precision": precision,
            "method": "none" if precision == "bf16" else "bitsandbytes",
            "engine": engine,
            "hardware": "AMD EPYC (2 cores)",
            "engine_version": "1.2.3",
            "profile.input_tokens": 8,
            "profile.output_tokens": 4,
        }
        config = f"{short}/{name}"
        key = f"{short}-{precision}-{engine}"
        tags = {TAG.KEY: f"c-{key}", TAG.CONFIG: config, **({TAG.BASELINE: next(iter(runs.values()))} if runs else {})}
        run_id = store.begin("configuration", config, parent=sweep, params=params, tags={**tags, **extra.get("tags", {})})
        stages: dict[str, list[str]] = {}
        for stage in ("quantize", "evaluate") if precision != "bf16" else ("evaluate",):
            made = store.log_stage(
                _spooled(spool, stage, f"{stage}-{key}", source), name=config, parent=run_id, params=params, tags={}
            )
            stages[stage] = [made.run_id]
        store.log(run_id, metrics={**METRICS, **extra.get("metrics", {})}, tags={TAG.STAGE_RUNS: json.dumps(stages)})
        store.finish(run_id)
        runs[name] = run_id
    return Made(store, source, runs, spool)


def study(
    made: Made,
    home: Path,
    recommended: Mapping[str, str | None],
    by_model: Mapping[str, Mapping[str, str | None]] | None = None,
    rows: Mapping[str, Mapping[str, Any]] | None = None,
) -> StoredRun:
    """Log a study that recommends configurations, named as in `Made.runs`, by deployment; each run is a row by itself but for ``rows``."""

    def answers(chosen: Mapping[str, str | None]) -> list[dict[str, Any]]:
        return [
            {
                "request": deployment,
                "choice": None if name is None else {"run_id": made.runs[name]},
                "sentences": [f"{deployment}: {name or 'nothing qualifies'}."],
            }
            for deployment, name in chosen.items()
        ]

    directory = home / f"study-{len(list(home.glob('study-*')))}"
    directory.mkdir()
    said = {
        "rows": {run_id: _row(made.store.get(run_id)) for run_id in made.runs.values()} | dict(rows or {}),
        "recommendations": answers(recommended),
        "by_model": {k: answers(v) for k, v in (by_model or {}).items()},
    }
    (directory / "recommendations.json").write_text(json.dumps(said))
    chosen = {deployment: made.runs[name] for deployment, name in recommended.items() if name is not None}
    return made.store.log_study(directory, name="a study", params={}, recommended=chosen)


def _row(run: StoredRun) -> dict[str, Any]:
    stage_runs = json.loads(run.tags[TAG.STAGE_RUNS])
    return {
        "runs": [run.run_id],
        "stage_runs": stage_runs,
        "baseline": run.tags.get(TAG.BASELINE),
        "validity": None,
        "metrics": {},
    }


def _spooled(spool: Spool, stage: Stage, key: str, source: Path) -> Spooled:
    with spool.writing(key) as draft:
        if stage == "quantize":
            shutil.copytree(source, draft.checkpoint, ignore=shutil.ignore_patterns("README.md"))
            checkpoints.write_manifest(draft.checkpoint, key, parameters=1000)
        draft.finish(StageResult(stage, key, has_checkpoint=stage == "quantize"))
    found = spool.find(key)
    assert found is not None
    return found
