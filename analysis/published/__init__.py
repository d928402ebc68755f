"""What two studies printed, as configurations like any other, to compare own runs with.

The printed figures are the CSV files beside this one; ``columns.csv`` says for each column which metric it becomes, by which
factor and why. `slim.store.keep` writes `runs` into a store.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pandas as pd

from analysis import frame as frames
from analysis import pareto
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


_MEAN = "accuracy/mean"
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
                (_MEAN, "latency/amortized_b8_ms"),
                (_MEAN, "throughput/output_tokens_per_s"),
                (_MEAN, "energy/net_kwh"),
                (_MEAN, "size/checkpoint_gb"),
                (
                    _MEAN,
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
                (_MEAN, "throughput/b1_n200_requests_per_s", "memory/b1_n200_mean_mib"),
                (_MEAN, "throughput/bmax_n2000_requests_per_s", "memory/bmax_n2000_mean_mib"),
            ),
        ),
    )
}


@dataclass(frozen=True)
class Dominated:
    """A printed configuration that another printed one beats or equals in every objective and beats in one.

    Attributes:
        study: whose figures.
        objectives: metric keys.
        configuration: which is dominated.
        by: configurations that dominate it, in the order printed.
        hardware: on which the figures were measured, all that were compared.
    """

    study: str
    objectives: tuple[str, ...]
    configuration: str
    by: tuple[str, ...]
    hardware: str

    @property
    def sentence(self) -> str:
        """The finding in one sentence."""
        return f"{self.configuration} is dominated by {', '.join(self.by)} in {', '.join(self.objectives)} ({self.hardware})."


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
                metrics[_MEAN] = sum(metrics[task] for task in source.tasks) / len(source.tasks)
            identity = {"model": model, "precision": source.precisions[precision], "engine": engine, "hardware": hardware}
            made.append(_run(source, identity, metrics))
    return tuple(_against(run, made) for run in made)


def frame(name: str) -> pd.DataFrame:
    """Return a study's configurations as `analysis.frame.from_runs` does.

    Raises:
        UserError: no such study.
    """
    return frames.from_runs(runs(name))


def dominated(name: str) -> tuple[Dominated, ...]:
    """Return which printed configurations others dominate, for each of the study's sets of objectives: no conclusion for them follows.

    Where a study measured accuracy on other hardware than performance, accuracies are taken over by precision, and `hardware`
    names both: no such pair was measured together.

    Raises:
        UserError: no such study.
    """
    source = study(name)
    table = frame(name)
    found = []
    for objectives in source.objectives:
        compared, hardware = _joined(table, objectives)
        on_front = pareto.front(compared, objectives)
        complete = compared[list(objectives)].notna().all(axis=1)
        for run_id in compared.index[complete & ~on_front]:
            by = [
                other for other in compared.index[complete] if not pareto.front(compared.loc[[run_id, other]], objectives).iloc[0]
            ]
            names = compared["configuration"]
            found.append(Dominated(name, objectives, names[run_id], tuple(names[other] for other in by), hardware))
    return tuple(found)


def _joined(table: pd.DataFrame, objectives: tuple[str, ...]) -> tuple[pd.DataFrame, str]:
    """Rows that have the efficiency objectives, accuracy taken from another hardware's rows where they lack it; and the hardware."""
    rows = table[table[list(objectives[-1:])].notna().all(axis=1)]
    told = ", ".join(dict.fromkeys(rows["hardware"]))
    if _MEAN in objectives and rows[_MEAN].isna().all():
        evaluated = table[table[_MEAN].notna()].drop_duplicates("configuration").set_index("configuration")
        rows = rows.assign(**{_MEAN: rows["configuration"].map(evaluated[_MEAN])})
        told += f", accuracy {', '.join(dict.fromkeys(evaluated['hardware']))}"
    return rows, told


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
