"""Figures of a study: each is computed into a record and then drawn; one whose metrics are absent says why."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures import bars, boxes, heat, lines, radar, scatter, style
from analysis.figures.boxes import Samples
from analysis.figures.records import Absent, Bars, Boxes, Drawn, HeatMap, Lines, Radar, Record, Scatter
from analysis.figures.rows import prepare
from slim import standins
from slim.errors import UserError
from slim.files import replacing

__all__ = ["Absent", "Drawn", "Record", "Samples", "compute_all", "draw_all", "encode"]

ACCURACY, LATENCY, THROUGHPUT, ENERGY, MEMORY, SIZE = (
    standins.TABLE[name].shown for name in ("Accuracy", "Latency", "Throughput", "Energy", "Memory", "Size")
)


def compute_all(frame: pd.DataFrame, samples: Samples | None = None) -> list[Record | Absent]:
    """Return every figure's record, or why there is none, in the order in which a report shows them.

    Args:
        frame: from `analysis.frame`; configurations that did not finish are left out.
        samples: raw latencies by run id and quantity, in milliseconds; None is none at hand.
    """
    shown = prepare(frame)
    computed: list[Record | Absent] = [
        bars.speedup(shown),
        scatter.plane(shown, "latency_accuracy", "Accuracy against latency", LATENCY, ACCURACY),
        scatter.plane(shown, "energy_accuracy", "Accuracy against energy", ENERGY, ACCURACY),
        scatter.plane(shown, "size_accuracy", "Accuracy against size", SIZE, ACCURACY),
        bars.accuracy(shown),
        heat.accuracy(shown),
        bars.degradation(shown),
        bars.metric(shown, "latency", "Latency", LATENCY),
        boxes.latency(shown, samples or {}),
        scatter.plane(shown, "latency_memory", "Latency against memory", MEMORY, LATENCY),
        bars.metric(shown, "throughput", "Throughput", THROUGHPUT),
        lines.throughput(shown),
        bars.metric(shown, "energy", "Energy", ENERGY),
        bars.power(shown),
        radar.performance(shown),
        heat.performance(shown),
    ]
    return [_readable(record) for record in computed]


def encode(record: Record, formats: Sequence[str] = ("png", "svg")) -> dict[str, bytes]:
    """Return a record drawn, by format; the same bytes for the same record.

    Raises:
        UserError: an unknown format.
    """
    for form in formats:
        if form not in style.FORMATS:
            raise UserError(f"unknown figure format {form!r}; allowed: {', '.join(style.FORMATS)}")
    with style.settings():
        figure = _draw(record)
        return {form: style.encode(figure, form) for form in formats}


def draw_all(frame: pd.DataFrame, samples: Samples | None, out_dir: Path, formats: Sequence[str] = ("png", "svg")) -> list[Drawn]:
    """Draw every figure of a study into a directory, one file a figure and format; an existing file is replaced whole.

    Args:
        frame: from `analysis.frame`.
        samples: as for `compute_all`.
        out_dir: made when missing.
        formats: of ``png`` (300 dots an inch), ``svg`` and ``pdf``.

    Returns:
        All figures, those that were not drawn with the reason.

    Raises:
        UserError: an unknown format; nothing is written.
    """
    done = []
    for record in compute_all(frame, samples):
        if isinstance(record, Absent):
            done.append(Drawn(record.name, record.title, "", {}, record.reason))
            continue
        files: Mapping[str, Path] = {
            form: _write(out_dir / f"{record.name}.{form}", content) for form, content in encode(record, formats).items()
        }
        done.append(Drawn(record.name, record.title, record.caption, files))
    return done


def _readable(record: Record | Absent) -> Record | Absent:
    """The record, or why nobody could read its figure."""
    match record:
        case Bars():
            marks, limit, what = max(len(p.groups) * len(p.series) for p in record.panels), 150, "bars"
        case Radar():
            marks, limit, what = max(len(p.series) for p in record.panels), 12, "configurations of a model"
        case Lines():
            marks, limit, what = max(len(p.lines) for p in record.panels), 12, "configurations of a model"
        case _:
            return record
    if marks <= limit:
        return record
    return Absent(record.name, record.title, f"{marks} {what} do not fit; at most {limit} can be read")


def _draw(record: Record) -> Any:
    match record:
        case Bars():
            return bars.draw(record)
        case Scatter():
            return scatter.draw(record)
        case HeatMap():
            return heat.draw(record)
        case Boxes():
            return boxes.draw(record)
        case Radar():
            return radar.draw(record)
        case Lines():
            return lines.draw(record)


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside:
        aside.write_bytes(content)
    return path
