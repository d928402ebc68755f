"""The trace of a profile as a picture: power, utilization and memory over time, the phases shaded and named."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slim.device import MIB
from slim.files import replacing
from slim.profile.trace import Phase, Trace

# Okabe and Ito's palette, which people with any colour vision tell apart; panels are also told apart by their labels.
_QUANTITIES = (
    ("power_w", "Power (W)", "#D55E00", 1.0),
    ("utilization_pct", "Utilization (%)", "#0072B2", 1.0),
    ("memory_bytes", "Memory (MiB)", "#009E73", 1.0 / MIB),
)
_SHADES = ("#E8E8E8", "#FFFFFF")
_NAMED_SHARE = 0.04


@dataclass(frozen=True)
class Panel:
    """One quantity over time.

    Attributes:
        label: with its unit.
        color: as matplotlib takes it.
        times_s: `time.perf_counter` seconds.
        values: in the label's unit, of the same length.
    """

    label: str
    color: str
    times_s: tuple[float, ...]
    values: tuple[float, ...]


def panels(trace: Trace) -> list[Panel]:
    """Return the quantities that the device has, in the order in which they are drawn."""
    found = []
    for quantity, label, color, factor in _QUANTITIES:
        known = [(r.time_s, factor * getattr(r, quantity)) for r in trace.readings if getattr(r, quantity) is not None]
        if known:
            times_s, values = zip(*known, strict=True)
            found.append(Panel(label, color, times_s, values))
    return found


def draw(shown: Sequence[Panel], phases: Sequence[Phase], path: Path, *, title: str) -> None:
    """Draw panels above each other over one time axis that begins at 0; nothing is written without a panel.

    Args:
        shown: as `panels` gives them.
        phases: shaded in turns; those too short for their name are numbered on the axis above and named in the caption.
        path: a PNG file; an existing one is replaced whole.
        title: the device's name.
    """
    if not shown:
        return
    # Not pyplot: no global state, no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    start_s = min([panel.times_s[0] for panel in shown] + [p.begin_s for p in phases])
    end_s = max([panel.times_s[-1] for panel in shown] + [p.end_s for p in phases])
    figure = Figure(figsize=(10, 1.1 + 1.9 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axis, panel in zip(axes, shown, strict=True):
        for index, phase in enumerate(phases):
            axis.axvspan(phase.begin_s - start_s, phase.end_s - start_s, color=_SHADES[index % 2], lw=0, zorder=0)
            axis.axvline(phase.begin_s - start_s, color="#888888", lw=0.6, zorder=1)
        axis.plot([t - start_s for t in panel.times_s], panel.values, color=panel.color, lw=1.2, zorder=2)
        axis.set_ylabel(panel.label)
        axis.set_ylim(0, 1.08 * max(panel.values) or 1)
        axis.margins(x=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("Time (s)")
    short = []
    for phase in phases:
        name = phase.name
        if phase.end_s - phase.begin_s < _NAMED_SHARE * (end_s - start_s) * max(1, len(name) / 4):
            short.append(name)
            name = str(len(short))
        middle = (phase.begin_s + phase.end_s) / 2 - start_s
        axes[0].annotate(name, (middle, 1.0), (0, 3), ("data", "axes fraction"), "offset points", ha="center", fontsize=9)
    caption = ", ".join(f"{number}: {name}" for number, name in enumerate(short, 1))
    figure.suptitle(f"{title}    {caption}" if caption else title, fontsize=10)
    with replacing(path) as aside:
        figure.savefig(aside, format="png", dpi=130)
