"""A report as one HTML file that needs nothing else: no network, no other file, no storage of the browser."""

import base64
import json
import re
from math import isfinite
from pathlib import Path
from typing import Any

from analysis.figures import style
from analysis.report.data import Image, ReportData
from slim.files import replacing
from slim.metrics import format_value
from slim.precisions import CATALOGUE

_HERE = Path(__file__).parent


def render(data: ReportData) -> str:
    """Return the page. The same data gives the same text.

    Raises:
        ValueError: a value is NaN or infinite; an unknown one must be absent.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        data=data,
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((_HERE / "page.js").read_text(encoding="utf-8")),
        embedded=Markup(embedded(data)),
        rows=_rows(data),
        images=[(image, _uri(image), _wide(image)) for image in data.figures if image.svg or image.png],
        flags={reason.name: reason.reason for reason in data.flagged},
    )


def write(data: ReportData, path: Path) -> Path:
    """Write the page; an existing file is replaced whole."""
    text = render(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return path


def embedded(data: ReportData) -> str:
    """Return what the page's script reads, as JSON that cannot end the element it stands in.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    for configuration in data.configurations:
        bounds = [bound for pair in configuration.intervals.values() for bound in pair]
        if not all(isfinite(number) for number in (*configuration.values.values(), *bounds)):
            raise ValueError(f"configuration {configuration.name} has a value that is not finite; leave an unknown value out")
    content: dict[str, Any] = {
        "columns": [{"key": c.key, "label": c.label, "better": c.better, "digits": c.digits} for c in data.columns],
        "views": [{"title": v.title, "x": v.x, "y": v.y} for v in data.views],
        "configurations": [
            {
                "id": c.run_id,
                "name": c.name,
                "model": c.model,
                "precision": c.precision,
                "engine": c.engine,
                "hardware": c.hardware,
                "values": dict(c.values),
                "intervals": {key: list(pair) for key, pair in c.intervals.items()},
                "flagged": c.flagged,
            }
            for c in data.configurations
        ],
        "looks": [[name, *style.look(name)[:2]] for name in _precisions(data)],
    }
    text = json.dumps(content, allow_nan=False, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _precisions(data: ReportData) -> list[str]:
    found = {c.precision for c in data.configurations}
    return [*(name for name in CATALOGUE if name in found), *sorted(found - set(CATALOGUE))]


def _rows(data: ReportData) -> list[tuple[Any, list[tuple[str, str]]]]:
    """Each configuration with its cells: what is shown, and the number to sort by."""
    return [
        (
            configuration,
            [
                (format_value(c.key, configuration.values.get(c.key)), repr(configuration.values.get(c.key, "")).strip("'"))
                for c in data.columns
            ],
        )
        for configuration in data.configurations
    ]


def _wide(image: Image) -> bool:
    """Whether a figure is wider than a paper's column, so that it cannot be read on a phone at the phone's width."""
    if image.svg:
        found = re.search(rb'<svg[^>]*? width="([\d.]+)pt"', image.svg)
        return found is not None and float(found[1]) > 72 * (style.SINGLE_IN + 1)
    return int.from_bytes((image.png or b"")[16:20], "big") > style.PNG_DPI * (style.SINGLE_IN + 1)


def _uri(image: Image) -> str:
    kind, content = ("svg+xml", image.svg) if image.svg else ("png", image.png or b"")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
