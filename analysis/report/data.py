"""What a report says, all of it, before it is laid out."""

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.tables import Table


@dataclass(frozen=True)
class Cost:
    """What a chosen configuration gives or takes in one metric.

    Attributes:
        label: the metric's short title.
        value: with its unit.
        change: against the baseline, as text; empty when there is no baseline.
        good: whether that change is for the better; None when there is none, or it is neither.
    """

    label: str
    value: str
    change: str = ""
    good: bool | None = None


@dataclass(frozen=True)
class Recommendation:
    """An answer to one question.

    Attributes:
        objective: what was asked for: ``balanced``, ``lowest latency``, a user's own words.
        choice: the configuration's name; None when nothing qualifies.
        why: one sentence; when nothing qualifies, what is nearest and what it lacks.
        runner_up: the next best and by how much, one sentence; empty when there is none.
        confidence: how sure it is, one sentence; empty when nothing is known about that.
        costs: what the choice means in figures; `costs_of` makes them.
        beside: what else belongs to the answer, a sentence each: which weights would change it, what did not count.
    """

    objective: str
    choice: str | None
    why: str
    runner_up: str = ""
    confidence: str = ""
    costs: tuple[Cost, ...] = ()
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A metric of the table and the Pareto view.

    Attributes:
        key: of `slim.metrics`.
        label: with the unit.
        better: ``+`` for higher, ``-`` for lower, empty for neither.
        digits: decimals shown.
        definition: what the number means.
    """

    key: str
    label: str
    better: str
    digits: int
    definition: str


@dataclass(frozen=True)
class Configuration:
    """A row of the table, a point of the Pareto view. Unknown values are absent from ``values`` and ``intervals``."""

    run_id: str
    name: str
    model: str
    precision: str
    engine: str
    hardware: str
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    flagged: str = ""


@dataclass(frozen=True)
class View:
    """A pair of metrics that the Pareto view offers at a click, by key."""

    title: str
    x: str
    y: str


@dataclass(frozen=True)
class Image:
    """A figure.

    Attributes:
        title: for a person.
        caption: what it shows.
        svg: a whole SVG file; None when there is a PNG only.
        png: a whole PNG file; None when there is an SVG.
    """

    title: str
    caption: str
    svg: bytes | None = None
    png: bytes | None = None


@dataclass(frozen=True)
class Reason:
    """Something that is not shown, or shown with a caveat, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class ReportData:
    """A report.

    Attributes:
        title: what was studied.
        facts: label and value of what has to be known about it: models, hardware, versions, dates.
        recommendations: the first is the answer on the first screen.
        columns: metrics of the table and the Pareto view.
        configurations: all that finished.
        views: pairs of metrics; the first is shown at the beginning.
        tables: evidence.
        figures: evidence.
        left_out: configurations that are not in the comparison, with the reason.
        flagged: configurations whose measurement did not pass every check, and those that could not be compared.
        not_drawn: figures without their metrics.
        notes: whatever else a reader has to know, a sentence or two each.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    recommendations: tuple[Recommendation, ...]
    columns: tuple[Column, ...]
    configurations: tuple[Configuration, ...]
    views: tuple[View, ...]
    tables: tuple[Table, ...] = ()
    figures: tuple[Image, ...] = ()
    left_out: tuple[Reason, ...] = ()
    flagged: tuple[Reason, ...] = ()
    not_drawn: tuple[Reason, ...] = ()
    notes: tuple[str, ...] = ()
