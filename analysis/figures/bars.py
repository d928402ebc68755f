"""Bars: speed-up, accuracy, degradation by task, throughput, energy, power."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import cells
from analysis.figures import style
from analysis.figures.records import Absent, BarPanel, Bars, Series
from analysis.figures.rows import GROUP_LIMIT, first_known, interval, known, tasks, unique, value
from analysis.labels import direction, label, number, words
from slim.metrics import get

_SPEED = ("latency/e2e_mean_ms", "latency/amortized_b8_ms")


def metric(frame: pd.DataFrame, name: str, title: str, keys: Sequence[str]) -> Bars | Absent:
    """Return one metric, grouped by model: the first of ``keys`` that is known."""
    key = first_known(frame, keys)
    if key is None:
        return Absent(name, title, f"no configuration has {' or '.join(keys)}")
    caption = f"{get(key).definition} {direction(key).capitalize()}." + _whiskers(frame, key)
    return _grouped(frame, name, title, caption.strip(), key)


def speedup(frame: pd.DataFrame) -> Bars | Absent:
    """Return speed-ups: as the store has them, else of the first latency that a configuration and its baseline have."""
    name, title = "speedup", "Speed-up over the baseline"
    if known(frame, "impact/speedup"):
        return _grouped(frame, name, title, get("impact/speedup").definition, "impact/speedup", reference=1.0)
    if "baseline" in frame.columns:
        for key in _SPEED:
            own = frame.reindex(columns=[key])[key].astype("float64")
            ratio = own.reindex(frame["baseline"]).to_numpy() / own.to_numpy()
            if np.isfinite(ratio).any():
                caption = f"Baseline's over the configuration's: {get(key).definition}"
                ratios = frame.assign(**{"impact/speedup": ratio})
                return _grouped(ratios, name, title, caption, "impact/speedup", reference=1.0)
    return Absent(name, title, f"no configuration has impact/speedup, nor with its baseline {' or '.join(_SPEED)}")


def accuracy(frame: pd.DataFrame) -> Bars | Absent:
    """Return accuracies: the tasks side by side for one model, a panel a task for several."""
    name, title = "accuracy", "Accuracy by task"
    shown = tasks(frame, parts=False)
    if not shown:
        return Absent(name, title, "no configuration has accuracy/<task>")
    caption = "Primary metric of each task; whiskers are one standard error where it is known."
    if frame["group"].nunique() == 1:
        return Bars(name, title, caption, "Accuracy", (_by_task(frame, shown),), digits=3)
    if frame["group"].nunique() > GROUP_LIMIT:
        return _crowded(name, title, frame)
    panels = tuple(_panel(frame, f"accuracy/{task}", words(task), stderr=True) for task in shown)
    return Bars(name, title, caption, "Accuracy", panels, digits=3)


def degradation(frame: pd.DataFrame) -> Bars | Absent:
    """Return each task's relative change, the mean over models, whiskers from the least to the greatest."""
    name, title = "degradation", "Change of accuracy by task"
    shown = [t for t in tasks(frame, parts=False) if known(frame, f"impact/{t}_drop_pct")]
    if not shown:
        return Absent(name, title, "no configuration has impact/<task>_drop_pct: nothing was compared with a baseline")
    series = []
    several = False
    for kind, rows in frame.groupby("series", sort=False):
        found = rows.reindex(columns=[f"impact/{t}_drop_pct" for t in shown]).astype("float64")
        if found.notna().any().any():
            several |= bool((found.notna().sum() > 1).any())
            spread = found.notna().sum() > 1
            series.append(
                Series(
                    str(kind),
                    rows["precision"].iloc[0],
                    int(rows["engine_number"].iloc[0]),
                    _plain(found.mean()),
                    _plain(found.min().where(spread)),
                    _plain(found.max().where(spread)),
                )
            )
    caption = "Relative change of accuracy against the baseline of the same engine; negative when accuracy fell."
    if several:
        caption += " Mean over models, whiskers from the least to the greatest."
    panel = BarPanel("", tuple(words(t) for t in shown), tuple(series))
    return Bars(name, title, caption, "Change of accuracy (%)", (panel,), reference=0.0, digits=1)


def power(frame: pd.DataFrame) -> Bars | Absent:
    """Return mean power while working and idle power beside it."""
    keys = [key for key in ("energy/mean_power_w", "energy/idle_w") if known(frame, key)]
    if not keys:
        return Absent("power", "Power", "no configuration has energy/mean_power_w or energy/idle_w")
    if frame["group"].nunique() > GROUP_LIMIT:
        return _crowded("power", "Power", frame)
    panels = tuple(_panel(frame, key, {"energy/mean_power_w": "at work", "energy/idle_w": "idle"}[key]) for key in keys)
    caption = " ".join(get(key).definition for key in keys)
    return Bars("power", "Power", caption, "Power (W)", panels)


def _grouped(
    frame: pd.DataFrame, name: str, title: str, caption: str, key: str, *, reference: float | None = None
) -> Bars | Absent:
    kept = frame[frame[key].notna()]
    if kept["group"].nunique() > GROUP_LIMIT:
        return _crowded(name, title, kept)
    unit = get(key).unit
    axis = label(key) if reference is None else f"{title}{f' ({unit})' if unit else ''}"
    return Bars(name, title, caption, axis, (_panel(kept, key, ""),), reference)


def _panel(frame: pd.DataFrame, key: str, title: str, stderr: bool = False) -> BarPanel:
    groups = unique(frame["group"])
    series = []
    for kind, rows in frame.groupby("series", sort=False):
        by_group = {row["group"]: row for _, row in rows.iterrows()}
        values = tuple(value(by_group[g], key) if g in by_group else None for g in groups)
        bounds = [_bounds(by_group[g], key, stderr) if g in by_group else None for g in groups]
        if any(v is not None for v in values):
            low, high = tuple(b[0] if b else None for b in bounds), tuple(b[1] if b else None for b in bounds)
            series.append(Series(str(kind), rows["precision"].iloc[0], int(rows["engine_number"].iloc[0]), values, low, high))
    return BarPanel(title, tuple(groups), tuple(series))


def _by_task(frame: pd.DataFrame, shown: Sequence[str]) -> BarPanel:
    series = []
    for _, row in frame.iterrows():
        values = tuple(value(row, f"accuracy/{task}") for task in shown)
        bounds = [_bounds(row, f"accuracy/{task}", stderr=True) for task in shown]
        if any(v is not None for v in values):
            low, high = tuple(b[0] if b else None for b in bounds), tuple(b[1] if b else None for b in bounds)
            series.append(Series(row["series"], row["precision"], int(row["engine_number"]), values, low, high))
    return BarPanel("", tuple(words(task) for task in shown), tuple(series))


def _bounds(row: pd.Series, key: str, stderr: bool) -> tuple[float, float] | None:
    if not stderr:
        return interval(row, key)
    middle, error = value(row, key), value(row, f"{key}_stderr")
    return None if middle is None or error is None else (middle - error, middle + error)


def _whiskers(frame: pd.DataFrame, key: str) -> str:
    return " Whiskers are the stored confidence intervals." if known(frame, f"{key}_ci_low") else ""


def _plain(values: pd.Series) -> tuple[float | None, ...]:
    return tuple(map(cells.number, values))


def _crowded(name: str, title: str, frame: pd.DataFrame) -> Absent:
    return Absent(name, title, f"{frame['group'].nunique()} models do not fit; at most {GROUP_LIMIT} can be read")


def draw(record: Bars) -> Any:
    """Return the matplotlib figure; inside `style.settings`."""
    bars = max(len(p.groups) * len(p.series) for p in record.panels)
    wide = bars > 10 or len(record.panels) > 1
    columns = 1 if len(record.panels) == 1 else (2 if bars > 6 else min(3, len(record.panels)))
    lines = -(-len(record.panels) // columns)
    figure = style.canvas(style.DOUBLE_IN if wide else style.SINGLE_IN, 0.7 + 1.75 * lines)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    entries: dict[str, Any] = {}
    room = (style.DOUBLE_IN if wide else style.SINGLE_IN) / columns
    for axis, panel in zip(axes, record.panels, strict=False):
        for text, handle in _draw_panel(axis, panel, record, room).items():
            entries.setdefault(text, handle)
    for axis in axes[: len(record.panels) : columns]:
        axis.set_ylabel(record.value_label)
    return style.finish(figure, axes[len(record.panels) :], record.title, entries)


def _draw_panel(axis: Any, panel: BarPanel, record: Bars, room_in: float) -> dict[str, Any]:
    # A group has room for the series that it has, so that a model measured on one engine leaves no gap for another's.
    present = [[s.values[g] is not None for s in panel.series] for g in range(len(panel.groups))]
    most = max(1, *(sum(group) for group in present))
    width = 0.82 / most
    bar_in = room_in * 0.85 / max(1, len(panel.groups)) * width
    handles: dict[str, Any] = {}
    for index, series in enumerate(panel.series):
        color, _, hatch = style.look(series.precision)
        alpha = 1.0 if series.variant == 0 else 0.5
        for group, height in enumerate(series.values):
            if height is None:
                continue
            place = group + (sum(present[group][:index]) - (sum(present[group]) - 1) / 2) * width
            handles[series.label] = axis.bar(
                place, height, width * 0.94, color=color, hatch=hatch, edgecolor="white", linewidth=0.4, alpha=alpha
            )
            low, high = (bounds[group] if bounds else None for bounds in (series.low, series.high))
            top = height
            if low is not None and high is not None:
                axis.plot([place, place], [low, high], color="#222222", linewidth=0.8, solid_capstyle="butt")
                top = high if height >= 0 else low
            if bar_in > 0.1:
                _print_value(axis, place, top, _text(height, record.digits), down=height < 0, turned=bar_in < 0.27)
    heights = [v for s in panel.series for v in s.values if v is not None]
    if record.reference is not None:
        axis.axhline(record.reference, color="#222222", linewidth=0.8, linestyle="--" if record.reference else "-")
    axis.margins(y=0.4 if 0.1 < bar_in < 0.27 else 0.18)
    low, high = axis.get_ylim()
    axis.set_ylim(low if min(heights, default=0.0) < 0 else 0.0, high if max(heights, default=0.0) > 0 else 0.0)
    _name_groups(axis, panel.groups, int(room_in * 72 / max(1, len(panel.groups)) / 4.6))
    axis.yaxis.set_major_formatter(_tick)
    axis.grid(axis="y")
    axis.set_title(panel.title)
    return handles


def _tick(value: float, _: object) -> str:
    return f"{value:,.6g}" if abs(value) < 1000 else f"{value:,.0f}"


def _text(height: float, digits: int | None) -> str:
    return number(height) if digits is None else f"{height:.{digits}f}"


def _print_value(axis: Any, place: float, top: float, text: str, *, down: bool, turned: bool) -> None:
    from matplotlib.patheffects import withStroke

    axis.annotate(
        text,
        (place, top),
        (0, -2 if down else 2),
        textcoords="offset points",
        ha="center",
        va="top" if down else "bottom",
        rotation=90 if turned else 0,
        # The line of the baseline may lie behind it.
        path_effects=[withStroke(linewidth=2.0, foreground="white")],
        zorder=5,
    )


def _name_groups(axis: Any, groups: Sequence[str], letters: int) -> None:
    """Names in as many lines as it takes; leaning where a word of them is wider than its bars."""
    lines = [style.wrapped(group, max(8, letters)) for group in groups]
    if any(len(line) > letters for text in lines for line in text.split("\n")):
        axis.set_xticks(range(len(groups)), groups, rotation=30, ha="right", rotation_mode="anchor")
    else:
        axis.set_xticks(range(len(groups)), lines)
    axis.tick_params(axis="x", length=0)
