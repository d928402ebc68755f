"""The printed figures, from the CSV files beside this one to runs and a frame."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pandas as pd

from analysis import frame as frames
from slim import precisions
from slim.errors import UserError
from slim.impact import impact
from slim.layout import short
from slim.store import TAG, StoredRun

EXPERIMENT = "slim-published"
"""Where published figures are kept unless another experiment is named: apart from own runs."""


@dataclass(frozen=True)
class Study:
    """A published study.

    Attributes:
        name: key of `STUDIES`.
        title: for a person.
        files: the CSV files with its figures, without ending.
        precisions: this project's name of each precision, by the printed one.
        tasks: accuracies of which `accuracy/mean` is the mean; the studies print none.
        objectives: what its configurations are compared on by `dominated`.
    """

    name: str
    title: str
    files: tuple[str, ...]
    precisions: Mapping[str, str]
    tasks: tuple[str, ...]
    objectives: tuple[tuple[str, ...], ...]


MEAN = "accuracy/mean"
STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (
        Study(
            "slim_eval",
            "SLiM-Eval: instruction-tuned models of 3 to 7 billion parameters on vLLM, GPTQ, one A100 with 80 GB",
            ("slim_eval",),
            {"fp16": "fp16", "int8": "gptq-int8", "int4": "gptq-int4"},
            ("accuracy/mmlu", "accuracy/gsm8k", "accuracy/hellaswag_acc"),
            (
                (MEAN, "latency/amortized_b8_ms"),
                (MEAN, "throughput/output_tokens_per_s"),
                (MEAN, "energy/net_kwh"),
                (MEAN, "size/checkpoint_gb"),
                (
                    MEAN,
                    "latency/amortized_b8_ms",
                    "throughput/output_tokens_per_s",
                    "energy/net_kwh",
                    "size/checkpoint_gb",
                ),
            ),
        ),
        Study(
            "bnb_llama32_1b",
            "The bitsandbytes study of LLaMA 3.2 1B on transformers, accuracy on a T1000, performance on a T4",
            ("bnb_accuracy", "bnb_performance"),
            {"bf16": "bf16", "fp16": "fp16", "int8": "bnb-int8", "int4": "bnb-nf4"},
            (
                "accuracy/arc_challenge_acc",
                "accuracy/arc_easy_acc",
                "accuracy/gsm8k",
                "accuracy/hellaswag_acc",
                "accuracy/mmlu",
            ),
            (
                ("throughput/b1_n200_requests_per_s", "memory/b1_n200_mean_mib"),
                ("throughput/bmax_n2000_requests_per_s", "memory/bmax_n2000_mean_mib"),
                (MEAN, "throughput/b1_n200_requests_per_s", "memory/b1_n200_mean_mib"),
                (MEAN, "throughput/bmax_n2000_requests_per_s", "memory/bmax_n2000_mean_mib"),
            ),
        ),
    )
}


def study(name: str) -> Study:
    """Return the study of that name.

    Raises:
        UserError: there is none.
    """
    if name not in STUDIES:
        raise UserError(f"unknown published study {name!r}; allowed: {', '.join(STUDIES)}")
    return STUDIES[name]


def printed(file: str) -> pd.DataFrame:
    """Return a file of figures as printed, a row a line; `columns` says what each column is."""
    return pd.read_csv(_path(file), comment="#")


@cache
def _columns() -> pd.DataFrame:
    # A reason may hold any sign, so only whole lines are comments.
    return pd.read_csv(_path("columns"), skiprows=2, keep_default_na=False)


def columns() -> pd.DataFrame:
    """Return what each printed column becomes: ``file``, ``column``, ``workload``, ``printed_unit``, ``key``, ``factor``, ``reason``.

    Key and factor are empty for a column that is not loaded.
    """
    return _columns().copy()


def runs(name: str) -> tuple[StoredRun, ...]:
    """Return a study's configurations as the store would give them: one a model, precision and hardware, with their baselines.

    The run ids are made up and the same every time. `accuracy/mean` and the ``impact/`` figures are computed from what is printed.

    Raises:
        UserError: no such study.
    """
    source = study(name)
    made: list[StoredRun] = []
    for file in source.files:
        rows = printed(file)
        for (model, precision, engine, hardware), group in rows.groupby(["model", "precision", "engine", "hardware"], sort=False):
            metrics: dict[str, float] = {}
            for _, row in group.iterrows():
                metrics |= _metrics(file, row)
            if all(task in metrics for task in source.tasks):
                metrics[MEAN] = sum(metrics[task] for task in source.tasks) / len(source.tasks)
            identity = {"model": model, "precision": source.precisions[precision], "engine": engine, "hardware": hardware}
            made.append(_run(source, identity, metrics))
    return tuple(_against(run, made) for run in made)


def frame(name: str) -> pd.DataFrame:
    """Return a study's configurations as `analysis.frame.from_runs` does.

    Raises:
        UserError: no such study.
    """
    return frames.from_runs(runs(name))


def _metrics(file: str, row: pd.Series) -> dict[str, float]:
    found = {}
    for _, column in _columns().query("file == @file").iterrows():
        elsewhere = column["workload"] and column["workload"] != row.get("workload")
        if column["key"] and not elsewhere and pd.notna(row[column["column"]]):
            found[column["key"].format(n=row.get("requests"))] = float(row[column["column"]]) * float(column["factor"])
    return found


def _run(source: Study, identity: Mapping[str, str], metrics: Mapping[str, float]) -> StoredRun:
    name = f"{short(identity['model'].rpartition('/')[2])}/{identity['precision']}@{identity['engine']}"
    run_id = f"published/{source.name}/{identity['hardware']}/{name}"
    params = {**identity, "method": precisions.get(identity["precision"]).method}
    tags = {
        TAG.KIND: "configuration",
        TAG.KEY: run_id,
        TAG.CONFIG: name,
        TAG.PUBLISHED: source.name,
        TAG.NOTE: f"Not measured here. Figures printed in {source.title}.",
    }
    return StoredRun(run_id, "configuration", name, "FINISHED", params, dict(metrics), tags, 0.0, 0.0, (), "")


def _against(run: StoredRun, others: list[StoredRun]) -> StoredRun:
    """The run with its baseline and its impact; a baseline as it is."""
    same = [o for o in others if all(o.params[k] == run.params[k] for k in ("model", "engine", "hardware"))]
    baseline = next(o for p in precisions.BASELINES for o in same if o.params["precision"] == p)
    if baseline is run:
        return run
    metrics = {**run.metrics, **impact(baseline.metrics, run.metrics)}
    return replace(run, metrics=metrics, tags={**run.tags, TAG.BASELINE: baseline.run_id})


def _path(file: str) -> Path:
    return Path(__file__).parent / f"{file}.csv"
