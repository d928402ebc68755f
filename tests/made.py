"""Sweeps without engines: evaluations made up, written by the real ledger into a real store."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slim import precisions
from slim.config import SweepConfig
from slim.jobs import Spool
from slim.ledger import Ledger
from slim.planned import Plan, PlannedConfiguration, PlannedStage
from slim.provenance import Environment, Hardware
from slim.records import ModelSource, StageResult
from slim.store import Store
from tests.answers import write

Tasks = Sequence[list[dict[str, Any]]]
ENVIRONMENT = Environment("3.11", "Linux", Hardware("cpu", "AMD EPYC", 1, None, None, "AMD EPYC", 2))
SMALL: dict[str, Any] = {
    "quantize": {"calibration": "python-docs", "samples": 4, "max_tokens": 32, "group_size": 32},
    "evaluate": {"tasks": [{"name": "slim_facts", "limit": 6}], "perplexity_tokens": 64, "fidelity_tokens": 100},
    "profile": {
        "input_tokens": 8,
        "output_tokens": 4,
        "requests": 3,
        "warmup": {"min_requests": 5, "max_requests": 6, "tolerance": 0.9},
        "concurrency": [1, 2],
        "requests_per_concurrency": 1,
        "throughput_min_s": 0,
    },
    "repeats": 1,
    "engines": {
        "vllm": {"max_model_len": 256, "max_num_seqs": 8, "enforce_eager": True, "cpu_kv_cache_gib": 0.25},
        "transformers": {"max_model_len": 256},
    },
}
"""A sweep of the tiny model, in seconds a configuration."""
SOURCE = ModelSource("tiny", "local", None, "sha256:1", "tiny", None)


def evaluated(spool: Spool, key: str, tasks: Tasks, with_mean: bool = True) -> None:
    """Leave the result of an evaluation in the spool."""
    figures = {
        f"accuracy/{rows[0]['head']}": sum(row["weight"] * row["correct"] for row in rows if row["weight"]) for rows in tasks
    }
    mean = {"accuracy/mean": sum(figures.values()) / len(figures)} if figures and with_mean else {}
    with spool.writing(key) as draft:
        if tasks:
            write(draft.artifacts, *tasks)
        draft.finish(StageResult("evaluate", key, metrics={**figures, **mean}))


def ledger(store: Store, spool: Spool, names: Sequence[str], **fields: Any) -> Ledger:
    """Return the ledger of a sweep that only evaluates ``<precision>@<engine>``s, what the store has finished being reused.

    Evaluations have their configuration's name as key, with a dash for ``@``.
    """
    config = SweepConfig.parse({"models": ["tiny"], "precisions": list(names), "profile": None, **fields})
    made = Ledger(Plan(config, ENVIRONMENT, ENVIRONMENT, tuple(_planned(store, name, names) for name in names)), store, spool)
    made.sweep_run = store.begin("sweep", config.name)
    return made


def _planned(store: Store, name: str, names: Sequence[str]) -> PlannedConfiguration:
    precision, _, engine = name.partition("@")
    key = name.replace("@", "-")
    baseline = next((f"tiny/{b}@{engine}" for b in precisions.BASELINES if f"{b}@{engine}" in names and b != precision), None)
    run = store.find_finished("evaluate", key)
    stage = PlannedStage("evaluate", key, 0, {}, 0.0, run=run, spooled=run is None)
    planned = PlannedConfiguration(
        f"tiny/{name}",
        SOURCE,
        precisions.get(precision),
        engine,  # type: ignore[arg-type]
        {},
        f"configuration-{key}",
        (stage,),
        baseline=baseline if precision not in precisions.BASELINES else None,
    )
    return replace(planned, run=store.find_finished("configuration", planned.key))


def run_sweep(store: Store, home: Path, evaluations: Mapping[str, Tasks], **fields: Any) -> dict[str, str]:
    """Log a sweep of made-up evaluations, in the order given, and return the configurations' runs."""
    spool = Spool(home / "spool")
    for name, tasks in evaluations.items():
        if store.find_finished("evaluate", name.replace("@", "-")) is None:
            evaluated(spool, name.replace("@", "-"), tasks)
    made = ledger(store, spool, list(evaluations), **fields)
    for entry in made.entries:
        if not entry.ended:
            entry.collect(spool)
            made.write(entry)
    for entry in made.entries:
        made.compare(entry)
    return {entry.planned.name.partition("/")[2]: entry.run_id or "" for entry in made.entries}
