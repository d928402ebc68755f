"""The table at the end of a sweep: a computed record, drawn by whoever shows it."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import pareto
from slim.metrics import format_value, get

ACCURACY = "accuracy/mean"
FRONTS = ((ACCURACY, "latency/e2e_mean_ms"), (ACCURACY, "size/checkpoint_gb"))
COLUMNS = (
    ACCURACY,
    "latency/ttft_mean_ms",
    "latency/tpot_mean_ms",
    "latency/e2e_mean_ms",
    "throughput/output_tokens_per_s",
    "memory/weights_mib",
    "memory/peak_mib",
    "size/checkpoint_gb",
    "energy/net_j_per_query",
    "fidelity/perplexity",
    "impact/speedup",
)


@dataclass(frozen=True)
class Summary:
    """A sweep's configurations, ready to be shown.

    Attributes:
        headers: of the columns, units included.
        rows: text cells, a row a configuration in the frame's order.
        fronts: for each pair of objectives the names of the configurations on the front.
        flagged: names of configurations whose measurement did not pass every check, with the reasons.
        failed: names of failed configurations, with the reason.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    fronts: dict[tuple[str, str], tuple[str, ...]]
    flagged: dict[str, str]
    failed: dict[str, str]


def summarize(frame: pd.DataFrame, columns: Sequence[str] = COLUMNS) -> Summary:
    """Return the summary of a frame.

    Configurations that failed are left out of the fronts; flagged ones are not but are named, since a demo on a
    shared machine is flagged more often than not.
    """
    shown = [key for key in columns if key in frame.columns and frame[key].notna().any()]
    finished = frame[frame["status"] == "FINISHED"]
    rows = tuple(
        (row["configuration"], *(format_value(key, None if pd.isna(row[key]) else float(row[key])) for key in shown))
        for _, row in frame.iterrows()
    )
    fronts = {pair: tuple(finished.loc[pareto.front(finished, pair), "configuration"]) for pair in FRONTS}
    return Summary(
        headers=("configuration", *(_header(key) for key in shown)),
        rows=rows,
        fronts=fronts,
        flagged={r["configuration"]: r["validity"] for _, r in finished.iterrows() if isinstance(r["validity"], str)},
        failed={r["configuration"]: r["failure"] for _, r in frame.iterrows() if isinstance(r["failure"], str)},
    )


def _header(key: str) -> str:
    unit = get(key).unit
    name = key.partition("/")[2].removesuffix("_ms").removesuffix("_gb").removesuffix("_mib").replace("_", " ")
    name = f"accuracy {name}" if key == ACCURACY else name
    return name if unit in ("", "fraction") else f"{name} [{unit}]"
