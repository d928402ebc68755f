"""Several metrics at once, relative to each model's baseline."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.figures import style
from analysis.figures.records import Absent, Radar, RadarPanel, Series
from analysis.figures.rows import first_known, value
from analysis.labels import title
from slim import standins
from slim.metrics import Better, get

PANEL_LIMIT = 9


def performance(frame: pd.DataFrame) -> Radar | Absent:
    """Return each configuration's metrics over its baseline's, turned where lower is better: outward is better, 1 the baseline."""
    name, heading = "radar", "Performance relative to the baseline"
    known = [
        (short, key) for short, quantity in standins.TABLE.items() if (key := first_known(frame, quantity.shown)) is not None
    ]
    keys = [key for _, key in known]
    panels = []
    for group, rows in frame.groupby("group", sort=False):
        series = []
        for index, row in rows.iterrows():
            baseline = row.get("baseline")
            if isinstance(baseline, str) and baseline in frame.index:
                values = tuple(_ratio(key, value(row, key), value(frame.loc[baseline], key)) for key in keys)
            elif (frame["baseline"] == index).any():
                values = tuple(None if value(row, key) is None else 1.0 for key in keys)
            else:
                continue
            series.append(Series(row["series"], row["precision"], int(row["engine_number"]), values))
        if len(series) > 1:
            panels.append(RadarPanel(str(group), tuple(series)))
    if not panels:
        return Absent(name, heading, "no configuration was compared with a baseline that is in the selection")
    # An axis that nobody has in full would leave a hole in a polygon.
    full = [i for i in range(len(keys)) if all(s.values[i] is not None for p in panels for s in p.series)]
    if len(full) < 3:
        return Absent(name, heading, "fewer than three metrics are known for every configuration and its baseline")
    if len(panels) > PANEL_LIMIT:
        return Absent(name, heading, f"{len(panels)} models do not fit; at most {PANEL_LIMIT} can be read")
    kept = tuple(
        RadarPanel(p.title, tuple(Series(s.label, s.precision, s.variant, tuple(s.values[i] for i in full)) for s in p.series))
        for p in panels
    )
    caption = (
        "Each metric over the baseline's, turned where lower is better: outward is better, and the ring at 1 is the baseline. Axes: "
        f"{'; '.join(title(keys[i]) for i in full)}."
    )
    return Radar(name, heading, caption, tuple(known[i][0] for i in full), kept)


def _ratio(key: str, own: float | None, baseline: float | None) -> float | None:
    if not own or not baseline:
        return None
    return own / baseline if get(key).better is Better.HIGHER else baseline / own


def draw(record: Radar) -> Any:
    """Return the matplotlib figure; inside `style.settings`."""
    count = len(record.panels)
    columns = min(2 if count in (2, 4) else 3, count)
    lines = -(-count // columns)
    figure = style.canvas(style.SINGLE_IN if count == 1 else style.DOUBLE_IN, 0.7 + (2.6 if columns < 3 else 2.1) * lines)
    axes = figure.subplots(lines, columns, squeeze=False, subplot_kw={"projection": "polar"}).ravel()
    angles = np.linspace(0, 2 * np.pi, len(record.axes), endpoint=False)
    around = np.append(angles, angles[0])
    entries: dict[str, Any] = {}
    most = max(v for p in record.panels for s in p.series for v in s.values if v is not None)
    step = max(1, round(most / 3))
    rings = [1, *range(1 + step, int(most) + 1, step)]
    for axis, panel in zip(axes, record.panels, strict=False):
        axis.set_theta_offset(np.pi / 2)
        axis.set_theta_direction(-1)
        for series in panel.series:
            color, marker, _ = style.look(series.precision)
            values = np.array([np.nan if v is None else v for v in series.values])
            dashes = "-" if series.variant == 0 else "--"
            (handle,) = axis.plot(
                around, np.append(values, values[0]), dashes, color=color, marker=marker, markersize=3.5, linewidth=1.1
            )
            axis.fill(around, np.append(values, values[0]), color=color, alpha=0.08)
            entries.setdefault(series.label, handle)
        axis.set_ylim(0, most * 1.05)
        axis.set_yticks(rings, [f"{ring:g}" for ring in rings])
        axis.set_xticks(angles, [style.wrapped(name, 11) for name in record.axes])
        for text, angle in zip(axis.get_xticklabels(), angles, strict=True):
            side = np.sin(angle)
            text.set_horizontalalignment("center" if abs(side) < 0.1 else ("left" if side > 0 else "right"))
        axis.tick_params(axis="x", pad=-1)
        axis.tick_params(axis="y", labelcolor="#555555")
        axis.grid(True, color="#DDDDDD", linewidth=0.5)
        axis.spines[:].set_visible(False)
        if count > 1:
            axis.set_title(panel.title, pad=12)
    return style.finish(figure, axes[count:], record.title, entries)
