"""Heat maps: accuracy by task, and every metric relative to the best configuration."""

from typing import Any

import numpy as np
import pandas as pd

from analysis import cells
from analysis.figures import style
from analysis.figures.records import Absent, HeatMap
from analysis.figures.rows import ROW_LIMIT, first_known, tasks, value
from analysis.labels import title, words
from slim import standins
from slim.metrics import Better, get


def accuracy(frame: pd.DataFrame) -> HeatMap | Absent:
    """Return accuracy by configuration and task, with the groups of a task."""
    name, heading = "accuracy_heatmap", "Accuracy by configuration and task"
    shown = tasks(frame, parts=True)
    if not shown:
        return Absent(name, heading, "no configuration has accuracy/<task>")
    keys = [f"accuracy/{task}" for task in shown]
    if "accuracy/mean" in frame.columns and frame["accuracy/mean"].notna().any():
        keys.append("accuracy/mean")
    rows = frame[frame[keys].notna().any(axis=1)]
    if len(rows) > ROW_LIMIT:
        return _crowded(name, heading, rows)
    values = tuple(tuple(value(row, key) for key in keys) for _, row in rows.iterrows())
    known = [v for line in values for v in line if v is not None]
    texts = tuple(tuple("" if v is None else f"{v:.3f}" for v in line) for line in values)
    columns = tuple(words(key.removeprefix("accuracy/")) for key in keys)
    caption = "Primary metric of each task; the mean is over tasks, not over a task's groups."
    return HeatMap(name, heading, caption, tuple(rows["label"]), columns, values, (min(known), max(known)), "Accuracy", texts)


def performance(frame: pd.DataFrame) -> HeatMap | Absent:
    """Return each metric relative to the best configuration on the same hardware, 1 for the best, so that more is better."""
    name, heading = "performance_heatmap", "Performance relative to the best"
    keys = [key for key in (first_known(frame, q.shown) for q in standins.TABLE.values()) if key is not None]
    if len(keys) < 2:
        return Absent(name, heading, f"fewer than two of {', '.join(q.shown[0] for q in standins.TABLE.values())} are known")
    if len(frame) > ROW_LIMIT:
        return _crowded(name, heading, frame)
    relative = pd.concat([_relative(frame, key) for key in keys], axis=1)
    relative = relative[relative.notna().any(axis=1)]
    values = tuple(tuple(map(cells.number, line)) for line in relative.to_numpy())
    texts = tuple(tuple("" if v is None else f"{v:.2f}" for v in line) for line in values)
    caption = (
        "1 is the best configuration on the same hardware; the others are their ratio to it, turned where lower is better, so that "
        "0.5 is half as good."
    )
    labels = tuple(frame.loc[relative.index, "label"])
    return HeatMap(
        name, heading, caption, labels, tuple(title(k) for k in keys), values, (0.0, 1.0), "Relative to the best", texts
    )


def _relative(frame: pd.DataFrame, key: str) -> pd.Series:
    values = frame[key].astype("float64")
    values = values.where(values > 0)
    by = values.groupby(frame["hardware"].fillna(""))
    ratio: pd.Series = values / by.transform("max") if get(key).better is Better.HIGHER else by.transform("min") / values
    return ratio


def _crowded(name: str, heading: str, frame: pd.DataFrame) -> Absent:
    return Absent(name, heading, f"{len(frame)} configurations do not fit; at most {ROW_LIMIT} can be read")


def draw(record: HeatMap) -> Any:
    """Return the matplotlib figure; inside `style.settings`."""
    longest = max(len(row) for row in record.rows)
    wide = len(record.columns) * 0.5 + longest * 0.06 > style.SINGLE_IN - 0.6
    figure = style.canvas(style.DOUBLE_IN if wide else style.SINGLE_IN, 1.1 + 0.23 * len(record.rows))
    axis = figure.subplots()
    values = np.array([[np.nan if v is None else v for v in row] for row in record.values], dtype=np.float64)
    low, high = record.limits
    image = axis.imshow(values, cmap="cividis", vmin=low, vmax=high if high > low else low + 1e-9, aspect="auto")
    for (row, column), number in np.ndenumerate(values):
        if np.isfinite(number):
            dark = number < low + 0.6 * (high - low)
            axis.text(column, row, record.texts[row][column], ha="center", va="center", color="white" if dark else "black")
    axis.set_xticks(range(len(record.columns)), [style.wrapped(c, 11) for c in record.columns])
    axis.set_yticks(range(len(record.rows)), record.rows)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    # White lines between the cells.
    axis.set_xticks(np.arange(len(record.columns) + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(record.rows) + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.0)
    axis.tick_params(which="minor", length=0)
    bar = figure.colorbar(image, ax=axis, fraction=0.03, pad=0.015)
    bar.set_label(record.scale_label)
    bar.outline.set_visible(False)
    figure.suptitle(record.title)
    return figure
