"""The tables of the two published studies, from any frame: II to VI of SLiM-Eval, 1 to 4 of the bitsandbytes study.

Which subject has which number in print is not known here for certain, so a table's title says what it holds and no number; the
names that `slim_eval` and `bitsandbytes` give them follow the order.
"""

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from analysis import impact, published
from analysis.cells import number
from analysis.tables.record import Align, Table, cell, header, make, text
from slim import precisions
from slim.impact import accuracies, gain
from slim.metrics import find

EFFICIENCY: dict[str, str] = {
    "size/checkpoint_gb": "size",
    "size/bits_per_weight": "bits per weight",
    "latency/ttft_mean_ms": "TTFT",
    "latency/tpot_mean_ms": "TPOT",
    "latency/e2e_mean_ms": "E2E",
    "latency/amortized_b8_ms": "latency of a batch of 8 / 8",
    "throughput/output_tokens_per_s": "throughput",
    "energy/net_j_per_query": "net energy per query",
    "energy/net_kwh": "net energy",
    "memory/weights_mib": "weights",
    "memory/required_mib": "memory required",
    "memory/peak_mib": "memory peak",
}
"""Columns of the efficiency table that a frame may fill, with the name shown."""

_CHANGES: dict[str, str] = {
    "impact/speedup": "speed-up",
    "impact/energy_reduction_pct": "energy reduction",
    "impact/size_reduction_pct": "size reduction",
    "impact/memory_reduction_pct": "memory reduction",
}
_GROUPS = tuple(f"accuracy/mmlu_{group}" for group in ("humanities", "other", "social_sciences", "stem"))
_BATCH = re.compile(r"(?:throughput|latency|memory|gpu)/(?P<batch>b1|bmax)_n(?P<n>\d+)_.*")
_WORKLOADS = {"b1": "batch 1", "bmax": "largest batch"}


def slim_eval(frame: pd.DataFrame) -> dict[str, Table]:
    """Return the subjects of SLiM-Eval's tables II to VI, by name; one that the frame has no figures for has no rows.

    Args:
        frame: as `analysis.frame.from_runs` gives it.
    """
    return {
        "efficiency": efficiency(frame),
        "accuracy": accuracy(frame),
        "impact": changes(frame),
        "by_precision": by_precision(frame),
        "accuracy_drop": accuracy_drop(frame),
    }


def bitsandbytes(frame: pd.DataFrame) -> dict[str, Table]:
    """Return the subjects of the bitsandbytes study's tables 1 to 4, by name, as `slim_eval` does."""
    return {
        "accuracy": accuracy(frame),
        "mmlu_groups": mmlu_groups(frame),
        "relative_accuracy": relative_accuracy(frame),
        "performance": performance(frame),
    }


def every(frame: pd.DataFrame) -> dict[str, Table]:
    """Return all tables that the frame has figures for, by name."""
    found = {**slim_eval(frame), **bitsandbytes(frame), "engine_effect": engine_effect(frame)}
    return {name: table for name, table in found.items() if table.rows}


def efficiency(frame: pd.DataFrame) -> Table:
    """Return size, latency, throughput, energy and memory, a row a configuration that has one of them."""
    return _absolute("Efficiency of each model and precision", frame, EFFICIENCY)


def accuracy(frame: pd.DataFrame) -> Table:
    """Return accuracies per task and their mean; MMLU's groups have their own table."""
    return _absolute("Accuracy per task", frame, {key: _task(key) for key in _tasks(frame)})


def mmlu_groups(frame: pd.DataFrame) -> Table:
    """Return MMLU and its four groups."""
    return _absolute(
        "Accuracy on MMLU and its groups", frame, {key: _task(key) for key in ("accuracy/mmlu", *_GROUPS)}, need=_GROUPS
    )


def changes(frame: pd.DataFrame) -> Table:
    """Return speed-up and reductions against the baseline and fidelity to it; a configuration without figures is there with the reason."""
    found = _ordered(impact.against_baselines(frame))
    found = found[~found["is_baseline"].astype(bool)]
    fidelity = {"fidelity/kl_divergence_nats": "KL", "fidelity/top1_agreement": "top-1 agreement", "fidelity/flip_rate": "flips"}
    keys = {key: name for key, name in {**_CHANGES, **fidelity}.items() if key in found and found[key].notna().any()}
    if "impact/mean_drop_pct" in found and found["impact/mean_drop_pct"].notna().any():
        keys["impact/mean_drop_pct"] = "mean accuracy change"
    columns = [*_identity(found, with_baseline=True), *_figures(found, keys)]
    return make("Impact of quantization against the baseline", columns, _note(found, [_taken_from(found), *_reasons(found)]))


def by_precision(frame: pd.DataFrame) -> Table:
    """Return mean and sample standard deviation over models of each figure against the baseline, a row a precision and figure."""
    found = impact.by_precision(frame)
    found = found[found["key"].isin([*_CHANGES, *(key for key in found["key"] if key.endswith("_drop_pct"))])]
    names = [_CHANGES.get(key) or f"{_task(key)} accuracy change" for key in found["key"]]
    columns: list[tuple[str, Align, Iterable[str]]] = [("precision", "l", found["precision"].map(text))]
    columns += [(name, "l", found[name].map(text)) for name in ("engine", "hardware") if found[name].nunique() > 1]
    columns.append(("figure", "l", [header(key, name) for key, name in zip(found["key"], names, strict=True)]))
    for name, title in (("mean", "mean"), ("sd", "sd")):
        columns.append((title, "r", [cell(key, value) for key, value in zip(found["key"], found[name], strict=True)]))
    columns.append(("models", "r", found["n"].map(str)))
    note = "sd is the sample standard deviation over models; one model has none."
    return make("Impact by precision: mean and standard deviation over models", columns, _note(found, [note]))


def accuracy_drop(frame: pd.DataFrame) -> Table:
    """Return the relative change of each accuracy in percent, negative where it fell."""
    found = _ordered(impact.against_baselines(frame))
    found = found[~found["is_baseline"].astype(bool)]
    keys = {
        f"impact/{key.removeprefix('accuracy/')}_drop_pct": _task(key)
        for key in (*_tasks(frame), *(g for g in _GROUPS if g in frame))
    }
    found = found.reindex(columns=[*found.columns, *(key for key in keys if key not in found)])
    found = found[found[list(keys)].notna().any(axis=1)]
    columns = [*_identity(found, with_baseline=True), *_figures(found, keys)]
    return make("Relative change of accuracy against the baseline", columns, _note(found, ["Negative where accuracy fell."]))


def relative_accuracy(frame: pd.DataFrame) -> Table:
    """Return accuracies over the baseline's, MMLU's groups included; 1 where nothing was lost."""
    found = _ordered(impact.relative_accuracy(frame))
    keys = [*_tasks(frame), *(g for g in _GROUPS if g in frame)]
    found = found[found[keys].notna().any(axis=1)]
    columns = [*_identity(found, with_baseline=True), *((_task(key), "r", [cell(key, v) for v in found[key]]) for key in keys)]
    return make("Accuracy over the baseline's", columns, _note(found, ["1 where nothing was lost."]))


def performance(frame: pd.DataFrame) -> Table:
    """Return requests per second, time, latency, utilization and memory at batch 1 and at the largest batch, with the speed-up.

    The speed-up is the time for the same number of requests, the baseline's over the configuration's.
    """
    found = _ordered(impact.against_baselines(frame))
    workloads = sorted(
        {m.group("batch", "n") for key in frame.columns if (m := _BATCH.fullmatch(key))}, key=lambda w: (w[0], int(w[1]))
    )
    quantities = {
        "throughput/{}_requests_per_s": "rate",
        "throughput/{}_total_s": "time",
        "latency/{}_mean_ms": "mean latency",
        "gpu/{}_utilization_mean_pct": "GPU utilization",
        "memory/{}_mean_mib": "mean memory",
        "memory/{}_peak_mib": "peak memory",
    }
    parts, cells = [], []
    for batch, n in workloads:
        keys = {template: template.format(f"{batch}_n{n}") for template in quantities}
        figures = frame.reindex(index=found.index, columns=list(keys.values()))
        time = keys["throughput/{}_total_s"]
        for run_id in found.index[figures.notna().any(axis=1)]:
            baseline = found.at[run_id, "baseline"]
            times = (None if pd.isna(baseline) or time not in frame else frame.at[baseline, time], figures.at[run_id, time])
            before, after = map(number, times)
            parts.append(found.loc[[run_id]].assign(workload=_WORKLOADS[batch], requests=n))
            speedup = cell("impact/speedup", gain(time, before, after))
            cells.append((*(cell(key, figures.at[run_id, key]) for key in keys.values()), speedup))
    shown = pd.concat(parts) if parts else found.iloc[:0].assign(workload="", requests="")
    columns = [*_identity(shown, with_baseline=True), ("workload", "l", shown["workload"]), ("requests", "r", shown["requests"])]
    filled = list(zip(*cells, strict=True)) if cells else [()] * (len(quantities) + 1)
    headers = [header(template.format("b1_n1"), name) for template, name in quantities.items()]
    columns += [(h, "r", c) for h, c in zip([*headers, "speed-up"], filled, strict=True) if any(c)]
    return make("Performance at batch 1 and at the largest batch", columns, _note(shown, []))


def engine_effect(frame: pd.DataFrame) -> Table:
    """Return what the engine alone does: baselines of one model on two engines, the engine against the reference engine."""
    found = impact.engine_effect(frame)
    keys = {key: name for key, name in {**_CHANGES, "impact/mean_drop_pct": "mean accuracy change"}.items() if key in found}
    names = ("model", "hardware", "precision", "engine", "reference_engine")
    columns: list[tuple[str, Align, Iterable[str]]] = [(n.replace("_", " "), "l", found[n].map(text)) for n in names]
    reasons = [
        f"{model}: {reason}." for model, reason in zip(found["model"], found["reason"], strict=True) if isinstance(reason, str)
    ]
    return make("Effect of the engine, both at the baseline's precision", [*columns, *_figures(found, keys)], " ".join(reasons))


def dominated(findings: Iterable[published.Dominated]) -> Table:
    """Return which printed configurations others dominate, as `analysis.published.dominated` finds them."""
    rows = [(d.configuration, ", ".join(d.by), ", ".join(d.objectives), d.hardware) for d in findings]
    headers = ("configuration", "dominated by", "in", "hardware")
    note = "Nowhere better and somewhere worse: by these figures there is no reason to choose a dominated configuration."
    return Table("Printed configurations that others dominate", headers, tuple(rows), ("l", "l", "l", "l"), note)


def beside_published(frame: pd.DataFrame, name: str) -> Table:
    """Return own figures beside those that a study printed of the same model, precision and engine."""
    found = published.beside(frame, name)
    shown = ("model", "precision", "engine", "hardware", "published_hardware")
    columns: list[tuple[str, Align, Iterable[str]]] = [(n.replace("_", " "), "l", found[n].map(text)) for n in shown]
    columns.append(("figure", "l", [header(key) for key in found["key"]]))
    for side in ("own", "published"):
        columns.append((side, "r", [cell(key, value) for key, value in zip(found["key"], found[side], strict=True)]))
    return make(f"Own figures beside those of {published.study(name).title}", columns)


def _absolute(title: str, frame: pd.DataFrame, names: dict[str, str], need: Sequence[str] = ()) -> Table:
    """A table of metrics as they are: the columns that are known somewhere, the rows that have one of ``need`` (all by default)."""
    keys = {key: name for key, name in names.items() if key in frame and frame[key].notna().any()}
    wanted = [key for key in keys if not need or key in need]
    shown = _ordered(frame)
    shown = shown[shown[wanted].notna().any(axis=1)] if wanted else shown.iloc[:0]
    unit = ["Accuracies are fractions."] if any(key.startswith("accuracy/") for key in keys) else []
    return make(title, [*_identity(shown), *_figures(shown, keys)], _note(shown, unit))


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by model as they come first, then hardware and engine, then precision in the catalogue's order."""
    rank = {name: place for place, name in enumerate(precisions.CATALOGUE)}
    first = {model: place for place, model in enumerate(dict.fromkeys(frame["model"]))}
    order = pd.DataFrame(
        {
            "model": frame["model"].map(first),
            "hardware": frame["hardware"].astype(str),
            "engine": frame["engine"].astype(str),
            "precision": frame["precision"].map(rank),
        }
    )
    return frame.loc[order.sort_values(list(order.columns), kind="stable").index]


def _identity(frame: pd.DataFrame, with_baseline: bool = False) -> list[tuple[str, Align, Iterable[str]]]:
    """Columns that say which configuration it is; what is the same for all rows is left to the note."""
    columns: list[tuple[str, Align, Iterable[str]]] = [
        ("model", "l", frame["model"].map(text)),
        ("precision", "l", frame["precision"].map(text)),
    ]
    columns += [(name, "l", frame[name].map(text)) for name in ("engine", "hardware") if frame[name].nunique() > 1]
    if with_baseline:
        names = frame["baseline_configuration"].map(text)
        columns.append(("baseline", "l", [name.partition("/")[2].partition("@")[0] for name in names]))
    return columns


def _figures(frame: pd.DataFrame, keys: dict[str, str]) -> list[tuple[str, Align, Iterable[str]]]:
    # Accuracies are many to a table and all fractions: the note says so once.
    titles = {key: name if key.startswith("accuracy/") else header(key, name) for key, name in keys.items()}
    return [(titles[key], "r", [cell(key, value) for value in frame[key]]) for key in keys]


def _note(frame: pd.DataFrame, sentences: Sequence[str]) -> str:
    """What is the same for all rows, and further sentences."""
    same = [str(frame[name].dropna().iloc[0]) for name in ("engine", "hardware") if frame[name].nunique() == 1]
    return " ".join(part for part in (f"Measured with {' on '.join(same)}." if same else "", *sentences) if part)


def _taken_from(found: pd.DataFrame) -> str:
    """Which metrics the relative figures were taken from."""
    told = []
    for key, name in _CHANGES.items():
        column = impact.SOURCE + key.removeprefix("impact/")
        sources = list(dict.fromkeys(found[column].dropna())) if column in found else []
        told += [f"{name} from {' or '.join(sources)}"] if sources else []
    return f"{'; '.join(told).capitalize()}." if told else ""


def _reasons(found: pd.DataFrame) -> list[str]:
    known = found[found["reason"].notna()]
    return [f"{name}: {reason}." for name, reason in zip(known["configuration"], known["reason"], strict=True)]


def _tasks(frame: pd.DataFrame) -> list[str]:
    """Accuracies that are known somewhere: tasks, the mean last, no groups of MMLU."""
    keys = [k for k in accuracies(frame.columns) if find(k) is not None and k not in _GROUPS and frame[k].notna().any()]
    return sorted(keys, key=lambda key: (key == "accuracy/mean", key))


def _task(key: str) -> str:
    name = key.partition("/")[2].removesuffix("_drop_pct")
    return name.removeprefix("mmlu_").replace("_", " ") if key in _GROUPS else name
