"""The distribution of latencies, from raw samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.figures import style
from analysis.figures.records import Absent, Box, Boxes, BoxPanel
from analysis.figures.rows import ROW_LIMIT

QUANTITIES: Mapping[str, str] = {
    "ttft_ms": "Time to first token (ms)",
    "tpot_ms": "Time per output token (ms)",
    "itl_ms": "Inter-token latency (ms)",
    "e2e_ms": "End to end (ms)",
}
"""Samples that are drawn, with their axes' labels."""
Samples = Mapping[str, Mapping[str, Sequence[float] | npt.NDArray[np.float64]]]
"""Raw samples: by run id, then by quantity (a key of `QUANTITIES`), in milliseconds."""


def latency(frame: pd.DataFrame, samples: Samples) -> Boxes | Absent:
    """Return the percentiles of the latencies of the configurations that have samples; NaN among them are left out."""
    name, title = "latency_distribution", "Distribution of latency"
    with_samples = frame[[index in samples for index in frame.index]]
    if len(with_samples) > ROW_LIMIT:
        return Absent(name, title, f"{len(with_samples)} configurations do not fit; at most {ROW_LIMIT} can be read")
    panels = []
    for quantity, label in QUANTITIES.items():
        boxes = tuple(
            box
            for index, row in with_samples.iterrows()
            if (box := _box(row, np.asarray(samples[str(index)].get(quantity, ()), dtype=np.float64))) is not None
        )
        if boxes:
            panels.append(BoxPanel(label, boxes))
    if not panels:
        return Absent(name, title, f"no raw samples of {', '.join(QUANTITIES)}")
    caption = (
        "Median, quartiles (box), 5th to 95th percentile (line) and 99th percentile (mark) of the requests at concurrency 1."
    )
    return Boxes(name, title, caption, tuple(panels))


def _box(row: pd.Series, values: npt.NDArray[np.float64]) -> Box | None:
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    p5, p25, p50, p75, p95, p99 = (float(v) for v in np.percentile(values, [5, 25, 50, 75, 95, 99]))
    return Box(row["label"], row["precision"], int(row["engine_number"]), len(values), p5, p25, p50, p75, p95, p99)


def draw(record: Boxes) -> Any:
    """Return the matplotlib figure; inside `style.settings`."""
    labels = list(dict.fromkeys(box.label for panel in record.panels for box in panel.boxes))
    wide = len(record.panels) > 1
    columns = min(2, len(record.panels))
    lines = -(-len(record.panels) // columns)
    figure = style.canvas(style.DOUBLE_IN if wide else style.SINGLE_IN, 0.5 + lines * (0.55 + 0.22 * len(labels)))
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axis, panel in zip(axes, record.panels, strict=False):
        for box in panel.boxes:
            color, marker, _ = style.look(box.precision)
            place = labels.index(box.label)
            axis.plot([box.p5, box.p95], [place, place], color=color, linewidth=1.2, zorder=2)
            axis.barh(place, box.p75 - box.p25, 0.5, left=box.p25, color=color, edgecolor=color, linewidth=0.8, zorder=3,
                      alpha=1.0 if box.variant == 0 else 0.6)  # fmt: skip
            axis.plot([box.p50, box.p50], [place - 0.32, place + 0.32], color="#222222", linewidth=1.4, zorder=4)
            axis.plot([box.p99], [place], marker=marker, color=color, markersize=4, markerfacecolor="white", zorder=4)
        axis.set_yticks(range(len(labels)), labels)
        axis.set_ylim(len(labels) - 0.5, -0.5)
        axis.set_xlabel(panel.label)
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
    return style.finish(figure, axes[len(record.panels) :], record.title)
