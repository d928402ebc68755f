"""Two metrics against each other, the Pareto front drawn, a panel a machine."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis import pareto
from analysis.figures import style
from analysis.figures.records import Absent, Point, Scatter, ScatterPanel
from analysis.figures.rows import first_known, interval
from analysis.labels import direction, label, title
from slim.metrics import Better, get


def plane(frame: pd.DataFrame, name: str, heading: str, x_keys: Sequence[str], y_keys: Sequence[str]) -> Scatter | Absent:
    """Return the configurations that have both metrics, of each list the first that is known."""
    missing = [" or ".join(keys) for keys in (x_keys, y_keys) if first_known(frame, keys) is None]
    if missing:
        return Absent(name, heading, f"no configuration has {', nor '.join(missing)}")
    pairs = [(x, y) for y in y_keys for x in x_keys if _both(frame, x, y).any()]
    if not pairs:
        return Absent(name, heading, f"no configuration has both {' or '.join(x_keys)} and {' or '.join(y_keys)}")
    x_key, y_key = pairs[0]
    kept = frame[_both(frame, x_key, y_key)]
    panels = []
    for hardware, rows in kept.groupby(kept["hardware"].fillna("unknown hardware"), sort=True):
        front = pareto.front(rows, [x_key, y_key])
        points = tuple(_point(row, x_key, y_key, bool(front[index])) for index, row in rows.iterrows())
        panels.append(ScatterPanel(str(hardware), points))
    caption = (
        f"{title(y_key)}, {direction(y_key)}; {title(x_key)}, {direction(x_key)}. Filled and joined: configurations that no other "
        "is at least as good as in both and better in one."
    )
    signs = (_sign(x_key), _sign(y_key))
    return Scatter(name, heading, caption, label(x_key), label(y_key), signs, tuple(panels))


def _sign(key: str) -> int:
    return 1 if get(key).better is Better.HIGHER else -1


def _both(frame: pd.DataFrame, x: str, y: str) -> pd.Series:
    known: pd.Series = frame.reindex(columns=[x, y]).notna().all(axis=1)
    return known


def _point(row: pd.Series, x: str, y: str, on_front: bool) -> Point:
    return Point(
        label=row["label"],
        model=row["short"],
        precision=row["precision"],
        series=row["series"],
        variant=int(row["engine_number"]),
        x=float(row[x]),
        y=float(row[y]),
        on_front=on_front,
        x_interval=interval(row, x),
        y_interval=interval(row, y),
    )


def draw(record: Scatter) -> Any:
    """Return the matplotlib figure; inside `style.settings`."""
    count = len(record.panels)
    models = {p.model for panel in record.panels for p in panel.points}
    wide = count > 1 or len(models) > 3
    columns = min(2, count)
    lines = -(-count // columns)
    figure = style.canvas(style.DOUBLE_IN if wide else style.SINGLE_IN, 0.6 + (2.9 if wide and count == 1 else 2.3) * lines)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    entries: dict[str, Any] = {}
    for axis, panel in zip(axes, record.panels, strict=False):
        _draw_panel(axis, panel, record, entries, name_models=1 < len(models) <= 12 and len(panel.points) <= 60)
        axis.set_xlabel(record.x_label)
        axis.set_ylabel(record.y_label)
    return style.finish(figure, axes[count:], record.title, entries)


def _draw_panel(axis: Any, panel: ScatterPanel, record: Scatter, entries: dict[str, Any], *, name_models: bool) -> None:
    order = dict.fromkeys((p.series, p.precision, p.variant) for p in panel.points)
    # What quantization does to a model on an engine; a line from one engine to the other would say nothing.
    for served in dict.fromkeys((p.model, p.series.partition("@")[2]) for p in panel.points):
        own = [p for p in panel.points if (p.model, p.series.partition("@")[2]) == served]
        axis.plot([p.x for p in own], [p.y for p in own], color="#CCCCCC", linewidth=0.7, zorder=1)
    line = sorted((p.x, p.y) for p in panel.points if p.on_front)
    if line:
        (entries["Pareto front"],) = axis.plot(
            [x for x, _ in line],
            [y for _, y in line],
            color="#222222",
            linewidth=1.0,
            linestyle="--",
            zorder=2,
            # A step keeps what was reached until the next point; a slope would promise what nobody measured.
            drawstyle="steps-post" if record.better[0] < 0 else "steps-pre",
        )
    for series, precision, variant in order:
        color, marker, _ = style.look(precision)
        own = [p for p in panel.points if p.series == series]
        across = [(p.y, *p.x_interval) for p in own if p.x_interval is not None]
        upright = [(p.x, *p.y_interval) for p in own if p.y_interval is not None]
        for whiskers, lines in ((across, axis.hlines), (upright, axis.vlines)):
            if whiskers:
                lines(*zip(*whiskers, strict=True), color=color, linewidth=0.7, alpha=0.7, zorder=2.5)
        alpha = 1.0 if variant == 0 else 0.65
        for on_front in (False, True):
            shown = [(p.x, p.y) for p in own if p.on_front is on_front]
            if shown:
                xs, ys = zip(*shown, strict=True)
                face = color if on_front else "white"
                axis.scatter(xs, ys, s=34, marker=marker, facecolor=face, edgecolor=color, linewidth=1.1, zorder=3, alpha=alpha)
        if series not in entries:
            entries[series] = axis.scatter([], [], s=34, marker=marker, facecolor=color, edgecolor=color,
                                           alpha=1.0 if variant == 0 else 0.65)  # fmt: skip
    axis.margins(0.14)
    if name_models:
        _name_models(axis, panel)
    axis.grid(True)
    axis.set_title(panel.title, fontsize=style.FONT_PT)
    right, up = record.better
    axis.annotate("better", (0.98 if right > 0 else 0.02, 0.98 if up > 0 else 0.02), xycoords="axes fraction", color="#555555",
                  style="italic", ha="right" if right > 0 else "left", va="top" if up > 0 else "bottom")  # fmt: skip


def _name_models(axis: Any, panel: ScatterPanel) -> None:
    """A model's name beside the point of it that has the most room."""
    from matplotlib.patheffects import withStroke

    low_x, high_x = axis.get_xlim()
    low_y, high_y = axis.get_ylim()
    spots = [((p.x - low_x) / (high_x - low_x), (p.y - low_y) / (high_y - low_y)) for p in panel.points]
    taken = list(spots)
    for model in dict.fromkeys(p.model for p in panel.points):
        own = [i for i, p in enumerate(panel.points) if p.model == model]

        def room(index: int, down: bool, taken: list[tuple[float, float]] = taken) -> float:
            x, y = spots[index][0], spots[index][1] + (-0.07 if down else 0.07)
            if not 0.02 < y < 0.98:
                return 0.0
            others = [*(t for t in taken if t != spots[index]), (-0.1, y), (1.1, y)]
            return min(float(((x - a) / 2.5) ** 2 + (y - b) ** 2) for a, b in others)

        index, down = max(((i, d) for i in own for d in (False, True)), key=lambda choice: room(*choice))
        x, y = spots[index]
        taken.append((x, y + (-0.07 if down else 0.07)))
        side = "left" if x < 0.2 else ("right" if x > 0.8 else "center")
        name = axis.annotate(model, (panel.points[index].x, panel.points[index].y), (0, -6 if down else 6),
                             textcoords="offset points", ha=side, va="top" if down else "bottom", color="#333333", zorder=4)  # fmt: skip
        name.set_path_effects([withStroke(linewidth=2.0, foreground="white")])
