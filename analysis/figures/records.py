"""What a figure shows, computed before anything is drawn: small frozen records that tests compare."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Series:
    """Values of one precision (on one engine), one a group, axis or column.

    Attributes:
        label: precision, with the engine where there are several.
        precision: decides colour, marker and hatch.
        variant: 0 for the first engine, 1 for the second, and so on.
        values: None where unknown.
        low: lower ends of the whiskers, of the same length; None is no whisker.
        high: upper ends.
    """

    label: str
    precision: str
    variant: int
    values: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class BarPanel:
    """Bars side by side.

    Attributes:
        title: empty where the figure has one panel.
        groups: names on the axis.
        series: each with a value a group.
    """

    title: str
    groups: tuple[str, ...]
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Bars:
    """Bars, one panel or several.

    Attributes:
        name: of the file, without its ending.
        title: for a person.
        caption: what the figure shows and how it was computed.
        value_label: of the value axis, with the unit.
        panels: at least one.
        reference: a line across, such as 1 for the baseline of a ratio; None is none.
        digits: decimals printed on a bar; None is three significant digits.
    """

    name: str
    title: str
    caption: str
    value_label: str
    panels: tuple[BarPanel, ...]
    reference: float | None = None
    digits: int | None = None


@dataclass(frozen=True)
class Point:
    """A configuration in a plane; the bounds are those of a confidence interval or None."""

    label: str
    model: str
    precision: str
    series: str
    variant: int
    x: float
    y: float
    on_front: bool
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class ScatterPanel:
    """The configurations of one machine, between which a front is fair."""

    title: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Scatter:
    """Two metrics against each other; names and captions as in `Bars`.

    Attributes:
        better: where the good corner is, as signs of (x, y): +1 is higher.
    """

    name: str
    title: str
    caption: str
    x_label: str
    y_label: str
    better: tuple[int, int]
    panels: tuple[ScatterPanel, ...]


@dataclass(frozen=True)
class HeatMap:
    """A value a row and column; names and captions as in `Bars`.

    Attributes:
        rows: labels.
        columns: labels.
        values: by row, None where unknown.
        limits: values at the ends of the colour scale.
        scale_label: of the colour bar.
        texts: what the cells say, by row.
    """

    name: str
    title: str
    caption: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    limits: tuple[float, float]
    scale_label: str
    texts: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Box:
    """A sample's percentiles, in the sample's unit."""

    label: str
    precision: str
    variant: int
    count: int
    p5: float
    p25: float
    p50: float
    p75: float
    p95: float
    p99: float


@dataclass(frozen=True)
class BoxPanel:
    """Samples of one quantity."""

    label: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Boxes:
    """Distributions; names and captions as in `Bars`."""

    name: str
    title: str
    caption: str
    panels: tuple[BoxPanel, ...]


@dataclass(frozen=True)
class RadarPanel:
    """One model's configurations."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Radar:
    """Several metrics at once, outward is better; names and captions as in `Bars`."""

    name: str
    title: str
    caption: str
    axes: tuple[str, ...]
    panels: tuple[RadarPanel, ...]


@dataclass(frozen=True)
class Line:
    """A curve through (x, y), drawn as its precision is."""

    label: str
    precision: str
    variant: int
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class LinePanel:
    """Curves of one model."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Lines:
    """Curves, the x axis logarithmic; names and captions as in `Bars`."""

    name: str
    title: str
    caption: str
    x_label: str
    y_label: str
    panels: tuple[LinePanel, ...]


Record = Bars | Scatter | HeatMap | Boxes | Radar | Lines


@dataclass(frozen=True)
class Absent:
    """A figure that cannot be drawn.

    Attributes:
        name: as the record's would be.
        title: likewise.
        reason: which metrics are missing, or what else is in the way.
    """

    name: str
    title: str
    reason: str


@dataclass(frozen=True)
class Drawn:
    """A figure on disk, or why there is none.

    Attributes:
        name: of the file, without its ending.
        title: for a person.
        caption: what it shows; empty when absent.
        files: by ending (``png``, ``svg``, ``pdf``); empty when absent.
        absent: why it was not drawn; None when it was.
    """

    name: str
    title: str
    caption: str
    files: Mapping[str, Path]
    absent: str | None = None
