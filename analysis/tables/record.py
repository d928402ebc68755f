"""Tables as records: computed first, then written as CSV, Markdown or LaTeX."""

import csv
import io
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from slim.metrics import format_value, get

Align = Literal["l", "r"]
UNKNOWN = ""
"""A cell whose value is unknown; drawn as a dash."""

_HEADER_WIDTH = 14
"""Letters of a line of a header in LaTeX."""


@dataclass(frozen=True)
class Table:
    """A table, ready to be drawn.

    Attributes:
        title: one line.
        headers: of the columns, with units in brackets.
        rows: text cells, numbers with a decimal point and no thousands separator; `UNKNOWN` where nothing is known.
        align: ``l`` or ``r`` a column.
        note: what a reader has to know, empty without.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: tuple[Align, ...]
    note: str = ""

    def __post_init__(self) -> None:
        """Make sure that headers, rows and alignment have the same width.

        Raises:
            ValueError: they have not.
        """
        widths = {len(self.headers), len(self.align), *(len(row) for row in self.rows)}
        if len(widths) > 1:
            raise ValueError(f"table {self.title!r}: headers, alignment and rows have {sorted(widths)} columns")

    def csv(self) -> str:
        """Return the header line and the rows; unknown is empty. Title and note are not part of it."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.headers, *self.rows])
        return text.getvalue()

    def markdown(self) -> str:
        """Return title, table and note; unknown is a dash."""
        rule = ["---:" if align == "r" else "---" for align in self.align]
        lines = [[_markdown(h) for h in self.headers], rule, *([_markdown(c) or "-" for c in row] for row in self.rows)]
        parts = [f"**{_markdown(self.title)}**", "\n".join(f"| {' | '.join(line)} |" for line in lines), _markdown(self.note)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def latex(self) -> str:
        """Return a table environment that needs the packages booktabs and graphicx; unknown is an en dash.

        Headers are broken into short lines, and a table that is wider than the text all the same is scaled down to it.
        """
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(self.title)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{''.join(self.align)}}}",
            r"\toprule",
            " & ".join(_latex_header(h, align) for h, align in zip(self.headers, self.align, strict=True)) + r" \\",
            r"\midrule",
            *map(_latex_row, self.rows),
            r"\bottomrule",
            r"\end{tabular}}",
        ]
        if self.note:
            lines += ["", rf"\smallskip{{\footnotesize {_latex(self.note)}\par}}"]
        return "\n".join([*lines, r"\end{table}"]) + "\n"


def header(key: str, name: str | None = None) -> str:
    """Return a column's header: the name, by default the key's own, and the metric's unit in brackets."""
    unit = get(key).unit
    shown = key if name is None else name
    return f"{shown} ({unit})" if unit else shown


def cell(key: str, value: object) -> str:
    """Return a value with the metric's digits and no thousands separator; `UNKNOWN` when it is missing."""
    return UNKNOWN if pd.isna(value) else format_value(key, float(value)).replace(",", "")  # type: ignore[arg-type]


def text(value: object) -> str:
    """Return an identifying value; `UNKNOWN` when it is missing."""
    return UNKNOWN if pd.isna(value) else str(value)


def make(title: str, columns: Sequence[tuple[str, Align, Iterable[str]]], note: str = "") -> Table:
    """Return a table of columns, each a header, an alignment and its cells."""
    cells = [tuple(values) for _, _, values in columns]
    return Table(title, tuple(h for h, _, _ in columns), tuple(zip(*cells, strict=True)), tuple(a for _, a, _ in columns), note)


def _markdown(value: str) -> str:
    return re.sub(r"([\\|*_`<>])", r"\\\1", " ".join(value.split()))


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"\textpm{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def _latex(value: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(value.split()))


def _latex_header(value: str, align: Align) -> str:
    lines = textwrap.wrap(value, _HEADER_WIDTH, break_long_words=False, break_on_hyphens=False)
    if len(lines) < 2:
        return _latex(value)
    stacked = r" \\ ".join(map(_latex, lines))
    return rf"\shortstack[{align}]{{{stacked}}}"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(_latex(c) if c else "--" for c in cells) + r" \\"
