"""How every figure looks: sizes for a paper, colours that people with any colour vision tell apart, files without dates."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any

SINGLE_IN = 3.5
"""Width of a paper's column, inches."""
DOUBLE_IN = 7.2
"""Width of a paper's page, inches."""
FONT_PT = 7.0
"""The smallest text in any figure, points."""
PNG_DPI = 300
FORMATS = ("png", "svg", "pdf")

# Okabe and Ito's palette with its grey; the baselines take the neutral ones. Markers and hatches tell the same in print;
# no hatch of dots, whose outlines make an SVG ten times as large.
_LOOKS: dict[str, tuple[str, str, str]] = {
    "bf16": ("#999999", "o", ""),
    "fp16": ("#333333", "s", "++++"),
    "gptq-int8": ("#0072B2", "D", "////"),
    "gptq-int4": ("#D55E00", "^", "\\\\\\\\"),
    "bnb-int8": ("#56B4E9", "v", "xxxx"),
    "bnb-nf4": ("#E69F00", "P", "----"),
    "bnb-fp4": ("#CC79A7", "X", "||||"),
}
_OTHERS = (("#009E73", "*", "//--"), ("#F0E442", "h", "\\\\||"))
_SETTINGS = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the same on every machine
    "font.size": FONT_PT,
    "axes.titlesize": 8.0,
    "axes.labelsize": 7.5,
    "xtick.labelsize": FONT_PT,
    "ytick.labelsize": FONT_PT,
    "legend.fontsize": FONT_PT,
    "figure.titlesize": 8.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "text.parse_math": False,  # a name may hold dollars
    "svg.fonttype": "path",
    "svg.hashsalt": "slim",  # else the names of clip paths differ from run to run
    "pdf.fonttype": 42,
}
_NO_DATE: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def look(precision: str) -> tuple[str, str, str]:
    """Return colour, marker and hatch of a precision; the same for the same name always."""
    if precision in _LOOKS:
        return _LOOKS[precision]
    return _OTHERS[sum(precision.encode()) % len(_OTHERS)]


@contextmanager
def settings() -> Iterator[None]:
    """The style while a figure is made and saved; matplotlib's own settings are put back afterwards."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        yield


def canvas(width_in: float, height_in: float) -> Any:
    """Return an empty figure on Agg. Not pyplot: no global list of figures, no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def encode(figure: Any, form: str) -> bytes:
    """Return the file's bytes: the same for the same figure, since they hold no date."""
    buffer = BytesIO()
    figure.savefig(buffer, format=form, dpi=PNG_DPI, metadata=_NO_DATE[form])
    return buffer.getvalue()


def wrapped(text: str, width: int) -> str:
    """Return a label broken at hyphens, spaces and commas so that lines are about ``width`` characters."""
    lines, line = [], ""
    for part in text.replace("-", "-\0").replace(" ", " \0").split("\0"):
        if line and len(line) + len(part) > width:
            lines.append(line.rstrip())
            line = ""
        line += part
    return "\n".join([*lines, line])


def finish(figure: Any, spare: Iterable[Any], title: str, entries: Mapping[str, Any] | None = None) -> Any:
    """Hide the axes of a grid that hold no panel, put title and legend on, and return the figure."""
    for axis in spare:
        axis.set_visible(False)
    figure.suptitle(title)
    if entries is not None:
        legend(figure, entries)
    return figure


def legend(figure: Any, entries: Mapping[str, Any]) -> None:
    """Put one legend for all panels below the figure, in as many columns as fit."""
    if entries:
        entry_in = 0.42 + 0.056 * max(len(text) for text in entries)
        columns = max(1, min(len(entries), int(figure.get_figwidth() / entry_in)))
        rows = -(-len(entries) // columns)
        figure.set_figheight(figure.get_figheight() + 0.15 * (rows - 1))  # not at the panels' cost
        figure.legend(
            list(entries.values()), list(entries), loc="outside lower center", ncols=columns, handlelength=1.6, columnspacing=1.2
        )
