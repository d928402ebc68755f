"""The table at the end of a sweep: a computed record, drawn by whoever shows it."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from analysis import pareto
from slim.metrics import format_value

ACCURACY = "accuracy/mean"
FRONTS: Mapping[str, tuple[str, str]] = {
    "accuracy against latency": (ACCURACY, "latency/e2e_mean_ms"),
    "accuracy against size": (ACCURACY, "size/checkpoint_gb"),
}
COLUMNS: Mapping[str, str] = {
    ACCURACY: "accuracy",
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
class Summary:
    """A sweep's configurations, ready to be shown. Names are short where all configurations are of one model.

    Attributes:
        title: of the table: the model where there is one, and the hardware.
        headers: of the columns.
        rows: text cells, a row a configuration in the frame's order.
        fronts: by title, the names of the configurations on the front.
        flagged: names of configurations whose measurement did not pass every check, with the reasons.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    fronts: Mapping[str, tuple[str, ...]]
    flagged: Mapping[str, str]


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
    rows = tuple(
        (row["name"], *(format_value(key, None if pd.isna(row[key]) else float(row[key])) for key in shown))
        for _, row in frame.iterrows()
    )
    fronts = {title: tuple(finished.loc[pareto.front(finished, pair), "name"]) for title, pair in FRONTS.items()}
    return Summary(
        title=" on ".join(part for part in (models[0] if len(models) == 1 else "", ", ".join(hardware)) if part),
        headers=("configuration", *shown.values()),
        rows=rows,
        fronts=fronts if len(hardware) == 1 else {},
        flagged={r["name"]: r["validity"] for _, r in finished.iterrows() if isinstance(r["validity"], str)},
    )
