"""The table at the end of a sweep: a computed record, drawn by whoever shows it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from analysis import cells, pareto
from analysis.frame import VERDICT
from slim.metrics import format_value, get

ACCURACY = "accuracy/mean"
FRONTS: Mapping[str, tuple[str, str]] = {
    "accuracy against latency": (ACCURACY, "latency/e2e_mean_ms"),
    "accuracy against size": (ACCURACY, "size/checkpoint_gb"),
}
COLUMNS: Mapping[str, str] = {
    ACCURACY: "accuracy",
    "fidelity/flip_rate": "flips",
    "fidelity/kl_divergence_nats": "KL nats",
    "fidelity/perplexity": "perplexity",
    "latency/ttft_mean_ms": "TTFT ms",
    "latency/tpot_mean_ms": "TPOT ms",
    "latency/e2e_mean_ms": "E2E ms",
    "throughput/output_tokens_per_s": "tok/s",
    "memory/weights_mib": "weights MiB",
    "size/checkpoint_gb": "size GB",
    "energy/net_j_per_query": "net J/query",
    "impact/speedup": "speed-up",
}


@dataclass(frozen=True)
class Verdicts:
    """Whether configurations are as accurate as their baselines.

    Attributes:
        title: what was tested, where it is the same for all.
        headers: ``configuration`` and the tasks.
        rows: text cells, a row a configuration that was compared.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Summary:
    """A sweep's configurations, ready to be shown. Names are short where all configurations are of one model.

    Attributes:
        title: of the table: the model where there is one, and the hardware.
        headers: of the columns.
        rows: text cells, a row a configuration in the frame's order.
        fronts: by title, the names of the configurations on the front.
        flagged: names of configurations whose measurement did not pass every check, with the reasons.
        verdicts: None when nothing was compared.
        refused: names of configurations that could not, or not in every figure, be compared with their baseline, with the reason.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    fronts: Mapping[str, tuple[str, ...]]
    flagged: Mapping[str, str]
    verdicts: Verdicts | None
    refused: Mapping[str, str]


def summarize(frame: pd.DataFrame, columns: Mapping[str, str] = COLUMNS) -> Summary:
    """Return the summary of a frame.

    Configurations that failed are left out of the fronts; flagged ones are not but are named, since a demo on a shared machine is
    flagged more often than not. Fronts are taken within a hardware; several make no front.
    """
    models = sorted({name.partition("/")[0] for name in frame["configuration"]})
    hardware = sorted({h for h in frame["hardware"] if isinstance(h, str)})
    frame = frame.assign(name=[n.partition("/")[2] if len(models) == 1 else n for n in frame["configuration"]])
    shown = {key: title for key, title in columns.items() if key in frame.columns and frame[key].notna().any()}
    finished = frame[frame["status"] == "FINISHED"]
    rows = tuple((row["name"], *(format_value(key, cells.number(row[key])) for key in shown)) for _, row in frame.iterrows())
    fronts = {title: tuple(finished.loc[pareto.front(finished, pair), "name"]) for title, pair in FRONTS.items()}
    return Summary(
        title=" on ".join(part for part in (models[0] if len(models) == 1 else "", ", ".join(hardware)) if part),
        headers=("configuration", *shown.values()),
        rows=rows,
        fronts=fronts if len(hardware) == 1 else {},
        flagged=_told(finished, "validity"),
        verdicts=_verdicts(finished),
        refused=_told(finished, "comparison_refused"),
    )


def _told(frame: pd.DataFrame, column: str) -> dict[str, str]:
    """What a column of text says, by configuration."""
    return {row["name"]: row[column] for _, row in frame.iterrows() if isinstance(row[column], str)}


def _verdicts(frame: pd.DataFrame) -> Verdicts | None:
    tasks = [column.removeprefix(VERDICT) for column in frame.columns if column.startswith(VERDICT)]
    compared = frame[frame[[VERDICT + task for task in tasks]].notna().any(axis=1)]
    if compared.empty:
        return None
    settings = {(s["margin"], s["confidence"]) for s in map(json.loads, compared["comparison"].dropna())}
    title = "accuracy against the baseline"
    if len(settings) == 1:
        ((margin, confidence),) = settings
        title += f", margin {margin:g} at {confidence:.4g} confidence"
    rows = tuple((row["name"], *(_verdict(row, task) for task in tasks)) for _, row in compared.iterrows())
    return Verdicts(title, ("configuration", *tasks), rows)


def _verdict(row: pd.Series, task: str) -> str:
    """Difference and verdict, and how many items would decide where they did not."""
    verdict = row[VERDICT + task]
    if not isinstance(verdict, str):
        return "-"
    key, needed = f"impact/{task}_difference", row.get(f"fidelity/{task}_items_to_decide")
    difference = row.get(key)
    told = verdict if difference is None or pd.isna(difference) else f"{difference:+.{get(key).digits}f} {verdict}"
    return told if verdict != "undecided" or needed is None or pd.isna(needed) else f"{told}, needs {needed:,.0f} items"
