"""What a user asks of a configuration: objectives and constraints, read from text. `analysis.judging` holds them against a frame.

An objective is a metric key, its direction that of `slim.metrics`; keys that stand in for it where it was not measured
follow after ``or``. A constraint is one of::

    latency/ttft_p95_ms <= 200
    accuracy/mean >= 0.98 * baseline
    accuracy/gsm8k >= baseline - 0.01
    verdict/gsm8k = non-inferior        (or: non-inferior gsm8k)

each with ``if measured`` after it where it should count only if some configuration has the metric (the verdict). ``baseline`` is the
value of the configuration's own baseline; a baseline is its own.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import pandas as pd

from analysis.frame import VERDICT
from slim.errors import UserError
from slim.metrics import CATALOGUE, Better, find, get

NON_INFERIOR = "non-inferior"
ALLOWED = (
    f"<metric> <= or >= <number> or [<number> *] baseline [+ or - <number>], {NON_INFERIOR} <task>, either with 'if measured'"
)

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_IF_MEASURED = re.compile(r"\s+if\s+measured$")
_LIMIT = re.compile(r"(?P<key>[^\s<>=!]+)\s*(?P<sign><=|>=)\s*(?P<bound>[^<>=!]+)")
_CONSTANT = re.compile(_NUMBER)
_RELATIVE = re.compile(
    rf"(?:(?P<before>{_NUMBER})\s*\*\s*)?baseline(?:\s*\*\s*(?P<after>{_NUMBER}))?(?:\s*(?P<sign>[+-])\s*(?P<offset>{_NUMBER}))?"
)
_VERDICT = re.compile(rf"(?:{VERDICT}(?P<column>[^\s=]+)\s*==?\s*{NON_INFERIOR}|{NON_INFERIOR}\s+(?:on\s+)?(?P<named>[^\s=]+))")


@dataclass(frozen=True)
class Objective:
    """What is to be as good as possible.

    Attributes:
        key: metric with a direction.
        instead: metrics that stand in for it, in this order, where no configuration has it.
    """

    key: str
    instead: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The objective as it is written."""
        return " or ".join((self.key, *self.instead))

    def measured(self, frame: pd.DataFrame) -> str | None:
        """Return the first of its metrics that some row of the frame has; None where none has any."""
        return next((key for key in (self.key, *self.instead) if key in frame and frame[key].notna().any()), None)


@dataclass(frozen=True)
class Limit:
    """A metric's least or greatest value.

    Attributes:
        key: the metric.
        at_least: whether the limit is a least value; otherwise a greatest.
        factor: of the baseline's value; None where the limit is a constant.
        offset: added to that, or the constant, in the metric's unit.
        if_measured: whether it is dropped where no configuration has the metric.
    """

    key: str
    at_least: bool
    factor: float | None
    offset: float
    if_measured: bool = False

    @property
    def text(self) -> str:
        """The constraint as it is written."""
        if self.factor is None:
            bound = f"{self.offset:.15g}"
        else:
            bound = ("" if self.factor == 1 else f"{self.factor:.15g} * ") + "baseline"
            bound += f" {'-' if self.offset < 0 else '+'} {abs(self.offset):.15g}" if self.offset else ""
        return f"{self.key} {'>=' if self.at_least else '<='} {bound}" + (" if measured" if self.if_measured else "")


@dataclass(frozen=True)
class NonInferior:
    """The stored verdict that a task's accuracy is not inferior to the baseline's. A baseline meets it."""

    task: str
    if_measured: bool = False

    @property
    def key(self) -> str:
        """The frame's column."""
        return VERDICT + self.task

    @property
    def text(self) -> str:
        """The constraint as it is written."""
        return f"{NON_INFERIOR} {self.task}" + (" if measured" if self.if_measured else "")


Constraint = Limit | NonInferior


def parse_objective(text: str) -> Objective:
    """Return the objective that ``text`` names.

    Raises:
        UserError: an unknown metric, one without a direction, or stand-ins of the other direction.
    """
    what = f"objective {text!r}"
    keys = tuple(part.strip() for part in re.split(r"\s+or\s+", text.strip()))
    for key in keys:
        _known(key, what, "a metric, or several with 'or' between them")
    better = {key: get(key).better for key in keys}
    if Better.NEITHER in better.values():
        key = next(key for key in keys if better[key] is Better.NEITHER)
        raise UserError(f"{what}: metric {key!r} has no better direction, so it can only be a constraint")
    if len(set(better.values())) > 1:
        raise UserError(f"{what}: of some of these metrics more is better, of others less; allowed: one direction")
    return Objective(keys[0], keys[1:])


def parse_objectives(texts: Iterable[str]) -> tuple[Objective, ...]:
    """Return several objectives.

    Raises:
        UserError: none, one that is not an objective, or a metric twice, which would give it double weight.
    """
    objectives = tuple(parse_objective(text) for text in texts)
    keys = [key for objective in objectives for key in (objective.key, *objective.instead)]
    if not keys:
        raise UserError("no objective given; allowed: one or more metrics such as accuracy/mean")
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise UserError(f"objective {twice!r} is given twice; allowed: each metric once")
    return objectives


def parse_constraint(text: str) -> Constraint:
    """Return the constraint that ``text`` states; the module's docstring has the forms.

    Raises:
        UserError: not one of the forms, or an unknown metric.
    """
    what = f"constraint {text!r}"
    stated, marks = _IF_MEASURED.subn("", text.strip())
    if match := _VERDICT.fullmatch(stated):
        return NonInferior(match["column"] or match["named"], bool(marks))
    match = _LIMIT.fullmatch(stated)
    if match is None:
        raise UserError(f"{what} cannot be read; allowed: {ALLOWED}")
    _known(match["key"], what, ALLOWED)
    factor, offset = _bound(match["bound"].strip(), what)
    return Limit(match["key"], match["sign"] == ">=", factor, offset, bool(marks))


def _known(key: str, what: str, allowed: str) -> None:
    if find(key) is None:
        near = _similar(key, [metric.key for metric in CATALOGUE])
        raise UserError(f"{what}: unknown metric {key!r}{near}; allowed: {allowed}; docs/metrics.md lists the metrics")


def _similar(key: str, keys: Collection[str]) -> str:
    near = get_close_matches(key, keys, n=3, cutoff=0.4)
    return f", near: {', '.join(near)}" if near else ""


def _bound(text: str, what: str) -> tuple[float | None, float]:
    """Factor of the baseline (None for a constant) and offset."""
    if _CONSTANT.fullmatch(text):
        factor, offset = None, float(text)
    else:
        match = _RELATIVE.fullmatch(text)
        if match is None or (match["before"] and match["after"]):
            raise UserError(f"{what}: {text!r} is not a limit; allowed: {ALLOWED}")
        factor = float(match["before"] or match["after"] or 1)
        offset = float(match["offset"] or 0) * (-1 if match["sign"] == "-" else 1)
    if not np.isfinite([factor or 0.0, offset]).all():
        raise UserError(f"{what}: {text!r} is beyond any number; allowed: finite numbers")
    return factor, offset
