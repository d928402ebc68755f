"""Throughput against the number of requests at once."""

import re
from typing import Any

import pandas as pd

from analysis.figures import style
from analysis.figures.records import Absent, Line, LinePanel, Lines
from analysis.figures.rows import value
from slim.metrics import get

_KEY = re.compile(r"throughput/output_tokens_per_s_c(\d+)")
PANEL_LIMIT = 12


def throughput(frame: pd.DataFrame) -> Lines | Absent:
    """Return output tokens per second by concurrency, a panel a model."""
    name, title = "throughput_concurrency", "Throughput by concurrency"
    steps = sorted((int(m[1]), str(column)) for column in frame.columns if (m := _KEY.fullmatch(str(column))))
    panels = []
    for group, rows in frame.groupby("group", sort=False):
        lines = []
        for _, row in rows.iterrows():
            known = [(float(n), v) for n, key in steps if (v := value(row, key)) is not None]
            if len(known) > 1:
                x, y = zip(*known, strict=True)
                lines.append(Line(row["series"], row["precision"], int(row["engine_number"]), x, y))
        if lines:
            panels.append(LinePanel(str(group), tuple(lines)))
    if not panels:
        return Absent(name, title, "no configuration has throughput/output_tokens_per_s_c<n> at two concurrencies")
    if len(panels) > PANEL_LIMIT:
        return Absent(name, title, f"{len(panels)} models do not fit; at most {PANEL_LIMIT} can be read")
    unit = get(steps[0][1]).unit
    caption = "Output tokens over wall time by the number of requests in flight."
    return Lines(name, title, caption, "Requests at once", f"Output ({unit})", tuple(panels))


def draw(record: Lines) -> Any:
    """Return the matplotlib figure; inside `style.settings`."""
    count = len(record.panels)
    columns = min(3 if count > 2 else 2, count)
    lines = -(-count // columns)
    figure = style.canvas(style.SINGLE_IN if count == 1 else style.DOUBLE_IN, 0.6 + 1.9 * lines)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    entries: dict[str, Any] = {}
    for axis, panel in zip(axes, record.panels, strict=False):
        for line in panel.lines:
            color, marker, _ = style.look(line.precision)
            dashes = "-" if line.variant == 0 else "--"
            (handle,) = axis.plot(line.x, line.y, dashes, color=color, marker=marker, markersize=4, linewidth=1.1)
            entries.setdefault(line.label, handle)
        ticks = sorted({x for line in panel.lines for x in line.x})
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.set_xlabel(record.x_label)
        axis.grid(True)
        if count > 1:
            axis.set_title(panel.title)
    axes[0].set_ylim(bottom=0)  # shared, so after all curves
    for axis in axes[:count:columns]:
        axis.set_ylabel(record.y_label)
    return style.finish(figure, axes[count:], record.title, entries)
