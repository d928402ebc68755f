"""A report's data from a frame and what other parts of the analysis found."""

from collections.abc import Iterable, Sequence

import pandas as pd

from analysis.figures.records import Drawn
from analysis.figures.rows import first_known, interval, known, tasks, unique, value
from analysis.labels import label, number, title
from analysis.report.data import Column, Configuration, Cost, Image, Reason, Recommendation, ReportData, View
from analysis.tables import Table
from slim import metrics, standins
from slim.metrics import Better

_COLUMNS = (
    "accuracy/mean",
    "latency/ttft_mean_ms",
    "latency/ttft_p95_ms",
    "latency/tpot_mean_ms",
    "latency/e2e_mean_ms",
    "latency/amortized_b8_ms",
    "throughput/output_tokens_per_s",
    "energy/net_j_per_query",
    "energy/net_j_per_output_token",
    "energy/net_kwh",
    "memory/required_mib",
    "memory/weights_mib",
    "memory/peak_mib",
    "size/checkpoint_gb",
    "efficiency/mbu",
    "fidelity/kl_divergence_nats",
    "fidelity/flip_rate",
    "fidelity/perplexity",
    "impact/speedup",
    "impact/energy_reduction_pct",
    "impact/size_reduction_pct",
)
_VIEWS = (
    ("Accuracy against latency", "Latency", "Accuracy"),
    ("Accuracy against energy", "Energy", "Accuracy"),
    ("Accuracy against size", "Size", "Accuracy"),
    ("Accuracy against throughput", "Throughput", "Accuracy"),
    ("Latency against energy", "Energy", "Latency"),
    ("Latency against memory", "Memory", "Latency"),
    ("Throughput against memory", "Memory", "Throughput"),
)


def build(
    frame: pd.DataFrame,
    heading: str,
    *,
    recommendations: Sequence[Recommendation] = (),
    facts: Sequence[tuple[str, str]] = (),
    objectives: Sequence[str] = (),
    asked: Sequence[str] = (),
    tables: Sequence[Table] = (),
    drawn: Iterable[Drawn] = (),
    left_out: Sequence[Reason] = (),
    notes: Sequence[str] = (),
) -> ReportData:
    """Return a report's data.

    Args:
        frame: from `analysis.frame`; configurations that did not finish are named among those left out.
        heading: what was studied.
        recommendations: the most important first.
        facts: put before models, engines, hardware and the number of configurations, which come from the frame.
        objectives: metric keys that the study is about, the most important first; the first two are what the Pareto view shows first.
        asked: metric keys of what else was asked. Columns are both, before the usual ones, as far as they are known.
        tables: evidence.
        drawn: figures on disk, from `analysis.figures.draw_all`; the SVG is taken, else the PNG.
        left_out: what was left out before the frame was made.
        notes: a sentence or two each.

    Raises:
        UserError: something asked is no metric.
    """
    finished = frame[frame["status"] == "FINISHED"]
    keys = [key for key in unique([*objectives, *asked, *_usual(finished)]) if known(finished, key)]
    drawn = list(drawn)
    unfinished = frame[frame["status"] != "FINISHED"]
    return ReportData(
        title=heading,
        facts=(*facts, *_facts(finished)),
        recommendations=tuple(recommendations),
        columns=tuple(column(key) for key in keys),
        configurations=tuple(_configuration(str(index), row, keys) for index, row in finished.iterrows()),
        views=_views(finished, keys, objectives),
        tables=tuple(tables),
        figures=tuple(_image(figure) for figure in drawn if figure.absent is None),
        left_out=(*left_out, *(Reason(str(row["configuration"]), _unfinished(row)) for _, row in unfinished.iterrows())),
        flagged=_flagged(finished),
        not_drawn=tuple(Reason(figure.title, figure.absent) for figure in drawn if figure.absent is not None),
        notes=tuple(notes),
    )


def column(key: str) -> Column:
    """Return how a metric is shown.

    Raises:
        UserError: unknown metric.
    """
    entry = metrics.get(key)
    return Column(key, label(key), entry.better.value, entry.digits, entry.definition)


def costs_of(
    frame: pd.DataFrame, run_id: str, first: Sequence[str] = (), references: pd.DataFrame | None = None
) -> tuple[Cost, ...]:
    """Return what a configuration means in figures, each against its baseline where that is known.

    Args:
        frame: from `analysis.frame`.
        run_id: of the configuration.
        first: metric keys put before the usual ones.
        references: baselines that are not in the frame (`analysis.selection.Selection`); None is none.
    """
    row = frame.loc[run_id]
    base = next(
        (found.loc[row["baseline"]] for found in (frame, references) if found is not None and row.get("baseline") in found.index),
        None,
    )
    usual = {key: short for short, quantity in standins.TABLE.items() if (key := first_known(frame, quantity.shown)) is not None}
    found = []
    for key in unique([*first, *usual]):
        own = value(row, key)
        if own is None:
            continue
        entry = metrics.get(key)
        short = usual.get(key) or title(key)
        unit = "" if entry.unit in ("", "fraction") else f" {entry.unit}"
        text = f"{metrics.format_value(key, own) if not unit else number(own)}{unit}"
        before = None if base is None else value(base, key)
        if not before:
            found.append(Cost(short, text))
            continue
        change = 100 * (own / before - 1)
        same = abs(change) < 0.05
        good = None if same or entry.better is Better.NEITHER else (change > 0) == (entry.better is Better.HIGHER)
        found.append(Cost(short, text, "as the baseline" if same else f"{change:+.1f} %".replace("-", "\N{MINUS SIGN}"), good))
    return tuple(found)


def _usual(frame: pd.DataFrame) -> list[str]:
    by_task = [f"accuracy/{task}" for task in tasks(frame, parts=False)]
    return [_COLUMNS[0], *by_task, *_COLUMNS[1:]]


def _configuration(run_id: str, row: pd.Series, keys: Sequence[str]) -> Configuration:
    values = {key: v for key in keys if (v := value(row, key)) is not None}
    bounds = {key: b for key in keys if (b := interval(row, key)) is not None}
    model = str(row["configuration"]).partition("/")[0]
    precision, engine, hardware = (_text(row.get(name)) or "unknown" for name in ("precision", "engine", "hardware"))
    return Configuration(
        run_id, str(row["configuration"]), model, precision, engine, hardware, values, bounds, _text(row.get("validity"))
    )


def _text(found: object) -> str:
    return found if isinstance(found, str) else ""


def _views(frame: pd.DataFrame, keys: Sequence[str], objectives: Sequence[str]) -> tuple[View, ...]:
    usable = frame[[key for key in keys if metrics.get(key).better is not Better.NEITHER]]
    pairs = []
    if len(objectives) > 1 and usable.reindex(columns=objectives[:2]).notna().all(axis=1).any():
        up, across, *_ = objectives
        pairs.append(View(f"{title(up)} against {title(across)}", across, up))
    for heading, x, y in _VIEWS:
        x_key, y_key = (first_known(usable, standins.TABLE[name].shown) for name in (x, y))
        if x_key is not None and y_key is not None and usable[[x_key, y_key]].notna().all(axis=1).any():
            pairs.append(View(heading, x_key, y_key))
    # A pair that has a name of its own is called by that.
    named = {(pair.x, pair.y): pair for pair in pairs}
    return tuple(named.values())


def _facts(frame: pd.DataFrame) -> list[tuple[str, str]]:
    models = list(dict.fromkeys(str(name).partition("/")[0] for name in frame["configuration"]))
    facts = [("Configurations", str(len(frame)))]
    for name, found in (("Models", models), ("Engines", _distinct(frame, "engine")), ("Hardware", _distinct(frame, "hardware"))):
        if found:
            facts.append((name, ", ".join(found) if len(found) <= 6 else f"{', '.join(found[:5])} and {len(found) - 5} more"))
    return facts


def _distinct(frame: pd.DataFrame, name: str) -> list[str]:
    return sorted({v for v in frame[name] if isinstance(v, str)})


def _flagged(frame: pd.DataFrame) -> tuple[Reason, ...]:
    found = []
    for _, row in frame.iterrows():
        parts = [_text(row.get("validity")).replace(",", ", ").replace("_", " "), _text(row.get("comparison_refused"))]
        if any(parts):
            found.append(Reason(str(row["configuration"]), "; ".join(part for part in parts if part)))
    return tuple(found)


def _unfinished(row: pd.Series) -> str:
    return _text(row.get("failure")).replace("_", " ") or f"not finished ({str(row['status']).lower()})"


def _image(figure: Drawn) -> Image:
    svg, png = figure.files.get("svg"), figure.files.get("png")
    if svg is not None:
        return Image(figure.title, figure.caption, svg=svg.read_bytes())
    return Image(figure.title, figure.caption, png=None if png is None else png.read_bytes())
