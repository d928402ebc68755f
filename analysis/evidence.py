"""What a study found, as files: the report, its figures and tables, the front and the recommendations to read by program."""

import dataclasses
import json
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import figures, optuna_study, published, report, tables
from analysis.constraints import Constraint, Limit
from analysis.labels import label
from analysis.merging import Merged
from analysis.recommend import Recommendation, basis, beside, meaning, runner_up, sentences
from analysis.study import Study
from analysis.tables import Align, Table
from slim import files
from slim.errors import UserError
from slim.metrics import format_value
from slim.store import TAG, Store, StoredRun

REPORT = "report.html"
RECOMMENDATIONS = "recommendations.json"
OPTUNA = "optuna.log"
FORMATS = ("png", "svg")
ALL_FORMATS = (*FORMATS, "pdf")
_OWN = re.compile(
    r"figures/[\w-]+\.(?:png|svg|pdf)|tables/[\w-]+\.(?:csv|md|tex)"
    r"|report\.html|recommendations\.json|(?:configurations|left_out|front)\.csv|optuna\.log"
)
"""Names of the files that a report consists of: nothing else is removed, whatever a file says."""


def check(directory: Path, formats: Sequence[str]) -> None:
    """Make sure that files can be written there in these formats, before anything is computed.

    Raises:
        UserError: an unknown format, or a place that cannot be a directory.
    """
    unknown = next((form for form in formats if form not in ALL_FORMATS), None)
    if unknown is not None:
        raise UserError(f"--formats: {unknown!r} is no format of figures; allowed: {', '.join(ALL_FORMATS)}")
    try:
        nearest, is_writable = files.nearest(directory), files.writable(directory)
    except (OSError, ValueError) as error:
        raise UserError(f"--out: {str(directory)!r} is no directory ({error})") from None
    if not is_writable:
        raise UserError(f"--out: {str(directory)!r} cannot be a directory, since {str(nearest)!r} is none that can be written")


def write(study: Study, directory: Path, *, formats: Sequence[str] = FORMATS) -> Path:
    """Write a study's files and return the report's path.

    There are ``report.html``; ``recommendations.json``; ``configurations.csv`` (all columns, one row a configuration) and
    ``left_out.csv``; ``front.csv`` with ranks, contributions and probabilities; ``figures/``; ``tables/`` as CSV, Markdown and LaTeX; and
    ``optuna.log``, a journal that Optuna and optuna-dashboard open. They replace those of an earlier report in the directory, of whatever
    question, when all are written; other files in it stay.

    Args:
        study: what was found.
        directory: made when missing.
        formats: of the figures: ``png``, ``svg``, ``pdf``.

    Raises:
        UserError: an unknown format, or a directory where one of the files has to go; the directory is as it was then.
    """
    try:
        with files.replacing_files(directory, _earlier(directory)) as aside:
            _write(study, aside, formats)
    except FileExistsError as error:
        raise UserError(f"--out: {error}, and a report has to write there") from None
    return directory / REPORT


def _earlier(directory: Path) -> list[str]:
    """Names of the files that an earlier report left in a directory."""
    try:
        names = files.read_json(directory / RECOMMENDATIONS)["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [name for name in names if isinstance(name, str) and _OWN.fullmatch(name)] if isinstance(names, list) else []


def _write(study: Study, directory: Path, formats: Sequence[str]) -> None:
    """Write the files into an empty directory."""
    arrays = {run_id: _latencies(found.arrays) for run_id, found in study.samples.items()}
    drawn = figures.draw_all(study.named, {k: v for k, v in arrays.items() if v}, directory / "figures", formats)
    shown = all_tables(study)
    (directory / "tables").mkdir(exist_ok=True)
    for name, table in shown.items():
        for ending, text in (("csv", table.csv()), ("md", table.markdown()), ("tex", table.latex())):
            (directory / "tables" / f"{name}.{ending}").write_text(text, encoding="utf-8")
    study.frame.to_csv(directory / "configurations.csv")
    study.selection.left_out.to_csv(directory / "left_out.csv", index=False)
    if study.front is not None:
        _front(study).to_csv(directory / "front.csv")
        optuna_study.update(
            study.named,
            study.objectives,
            study.question.constraints,
            references=study.selection.references,
            storage=directory / OPTUNA,
        )
    data = report.build(
        study.named,
        title(study),
        recommendations=[_answer(study, one) for one in study.recommendations if one.objectives],
        objectives=study.objectives,
        asked=[key for one in study.recommendations for key in (*_keys(one.request.constraints), *one.objectives)],
        tables=list(shown.values()),
        drawn=drawn,
        left_out=[report.Reason(str(row["configuration"]), str(row["reason"])) for _, row in study.selection.left_out.iterrows()],
        notes=[*study.notes, *_unanswered(study)],
    )
    report.write(data, directory / REPORT)
    names = sorted(file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file())
    said = {**to_json(study), "files": [*names, RECOMMENDATIONS]}
    (directory / RECOMMENDATIONS).write_text(json.dumps(_plain(said), indent=2, allow_nan=False), encoding="utf-8")


def keep(store: Store, study: Study, *, join: str | None = None) -> StoredRun:
    """Write a study with its files into the store it was read from, as a run of its own.

    Args:
        store: to write to.
        study: what was found.
        join: run that becomes the study's, such as the one that ``mlflow run`` made.

    Raises:
        StoreError: it could not be written whole; nothing is left of it then.
    """
    with tempfile.TemporaryDirectory() as directory:
        write(study, Path(directory))
        chosen = {answer.request.name.replace(" ", "-"): answer.choice for answer in study.recommendations}
        recommended = {name: choice.run_id for name, choice in chosen.items() if choice is not None}
        told = "\n".join(f"- {sentences(answer)[0]}" for answer in study.recommendations)
        asked = {f"study.{name}": value for name, value in vars(study.question).items() if value not in ((), None)}
        looked = {f"study.filters.{name}": value for name, value in vars(study.filters).items() if value}
        return store.log_study(
            Path(directory),
            name=f"study of {title(study)}",
            params={
                **asked,
                **looked,
                "study.front": list(study.objectives),
                "study.configurations": len(study.frame),
                "hardware": study.hardware,
            },
            recommended=recommended,
            note=told,
            join=join,
        )


def title(study: Study) -> str:
    """Return what a study is called: its models, as many as fit."""
    short = sorted({name.partition("/")[0] for name in study.names.values()})
    return ", ".join(short) if len(short) <= 3 else f"{len(short)} models"


def to_json(study: Study) -> dict[str, Any]:
    """Return the answers with what they rest on; run ids are those of configuration runs. ``rows`` are the recommended ones, and their
    baselines: the runs that were merged into each, newest first, and what that changed."""
    return {
        "experiment": study.experiment,
        "question": dataclasses.asdict(study.question),
        "filters": {k: v for k, v in vars(study.filters).items() if v},
        "configurations": {run_id: study.names[run_id] for run_id in map(str, study.frame.index)},
        "objectives": list(study.objectives),
        "front": [] if study.front is None else list(study.front.run_ids),
        "rows": {run_id: _row(study.selection.merged[run_id]) for run_id in _recommended(study)},
        "recommendations": [_record(one) for one in study.recommendations],
        "by_model": {model: [_record(one) for one in answers] for model, answers in study.by_model.items()},
        "notes": list(study.notes),
    }


def answers(study: Study) -> dict[str, Table]:
    """Return the tables that are about the question itself: recommendations for each model, and the front."""
    found = {}
    if study.by_model:
        found["by_model"] = _by_model(study)
    if study.front is not None:
        found["front"] = _places(study)
    return found


def all_tables(study: Study) -> dict[str, Table]:
    """Return the tables of a study by the name of their files, those with something in them."""
    found = answers(study) | tables.every(study.named)
    if printed := study.filters.tags.get(TAG.PUBLISHED):
        found["dominated"] = tables.dominated(published.dominated(printed))
    beside = {f"beside_{name}": tables.beside_published(study.named, name) for name in published.STUDIES}
    return {name: table for name, table in {**found, **beside}.items() if table.rows}


def confidence(study: Study, answer: Recommendation) -> str:
    """Return how sure a choice is, in a sentence or two; empty when nothing is known about that."""
    if answer.choice is None or study.sureness is None or answer.choice.run_id not in study.sureness.by_run:
        return ""
    if set(study.sureness.constant) == set(study.objectives):
        return "Nothing is known of the noise of these figures."
    sure = study.sureness.by_run[answer.choice.run_id]
    told = [
        f"On the Pareto front of {', '.join(study.objectives)} in {sure.probability:.0%} of "
        f"{study.sureness.draws:,} redraws of the measurements."
    ]
    if sure.tied_with:
        told.append(f"Within noise of {', '.join(study.names[run_id] for run_id in sure.tied_with)}.")
    return " ".join(told)


def _answer(study: Study, answer: Recommendation) -> report.Recommendation:
    choice = answer.choice
    if choice is None:
        why = " ".join([sentences(answer)[0], *basis(answer)]).partition(": ")[2]
        return report.Recommendation(answer.request.name, None, why[:1].upper() + why[1:], beside=beside(answer))
    return report.Recommendation(
        objective=answer.request.name,
        choice=study.names[choice.run_id],
        why=" ".join([meaning(answer), *basis(answer)]).strip(),
        runner_up=runner_up(answer),
        beside=beside(answer),
        confidence=confidence(study, answer),
        costs=report.costs_of(
            study.frame, choice.run_id, [*answer.objectives, *_keys(answer.request.constraints)], study.selection.references
        ),
    )


def _keys(constraints: Iterable[Constraint]) -> list[str]:
    """Metric keys that constraints are about; a verdict is about the task's accuracy."""
    return [each.key if isinstance(each, Limit) else f"accuracy/{each.task}" for each in constraints]


def _by_model(study: Study) -> Table:
    deployments = [answer.request.name for answer in study.recommendations if answer.objectives]
    rows = []
    for model, answers in study.by_model.items():
        chosen = {answer.request.name: _short(study, answer) for answer in answers}
        rows.append((model, *(chosen[name] for name in deployments)))
    align: list[Align] = ["l" for _ in range(1 + len(deployments))]
    return Table("Recommendation for each model", ("model", *deployments), tuple(rows), tuple(align))


def _short(study: Study, answer: Recommendation) -> str:
    if answer.choice is None:
        return "nothing qualifies" if answer.objectives else ""
    return study.names[answer.choice.run_id].partition("/")[2] or answer.choice.configuration


def _unanswered(study: Study) -> list[str]:
    return [sentences(answer)[0] for answer in study.recommendations if not answer.objectives]


def _places(study: Study) -> Table:
    """Who is on the front, how sure that is, and who dominates the others."""
    assert study.front is not None
    assert study.sureness is not None
    rows = []
    for place in sorted(study.front.configurations, key=lambda one: one.rank):
        sure = study.sureness.by_run[place.run_id]
        rows.append(
            (
                study.names[place.run_id],
                *(format_value(key, place.values[key]).replace(",", "") for key in study.objectives),
                str(place.rank),
                f"{sure.probability:.2f}",
                "" if place.contribution is None else f"{place.contribution:.3f}",
                ", ".join(study.names[run_id] for run_id in place.dominated_by),
                ", ".join(study.names[run_id] for run_id in sure.tied_with),
            )
        )
    headers = ("configuration", *map(label, study.objectives), "rank", "P(front)", "contribution", "dominated by", "tied with")
    note = (
        f"Rank 0 is the front. P(front) is the share of {study.sureness.draws:,} redraws of the measurements in which nothing dominates the "
        "configuration; tied are those that the redraws tell apart in no objective; contribution is the share of hypervolume that would "
        "be lost without it."
    )
    numbers: list[Align] = ["r" for _ in range(len(study.objectives) + 3)]
    return Table("The Pareto front", headers, tuple(rows), ("l", *numbers, "l", "l"), note)


def _front(study: Study) -> pd.DataFrame:
    assert study.front is not None
    assert study.sureness is not None
    found = study.front.frame()
    found.insert(0, "configuration", [study.names[run_id] for run_id in found.index])
    found["probability"] = [study.sureness.by_run[run_id].probability for run_id in found.index]
    for column in ("dominated_by", "equal_to"):
        found[column] = found[column].map(" ".join)
    return found


def _latencies(arrays: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Raw latencies of all repeats as the figures take them."""
    import numpy as np

    found = {}
    for quantity in ("ttft", "tpot", "itl", "e2e"):
        if repeats := arrays.get(f"latency/{quantity}_mean_ms"):
            found[f"{quantity}_ms"] = np.concatenate([np.ravel(values) for values in repeats])
    return found


def _record(answer: Recommendation) -> dict[str, Any]:
    return {**dataclasses.asdict(answer), "request": answer.request.name, "sentences": sentences(answer)}


def _recommended(study: Study) -> list[str]:
    """Run ids of the configurations that are recommended, and of their baselines."""
    every = [*study.recommendations, *(answer for answers in study.by_model.values() for answer in answers)]
    chosen = dict.fromkeys(answer.choice.run_id for answer in every if answer.choice is not None)
    baselines = dict.fromkeys(study.selection.merged[run_id].run.tags.get(TAG.BASELINE, "") for run_id in chosen)
    return [run_id for run_id in chosen | baselines if run_id in study.selection.merged]


def _row(one: Merged) -> dict[str, Any]:
    """What a row rests on, for `slim.registry`: which runs, and the metrics in which it differs from the newest of them."""
    alone = one.runs[0].metrics
    return {
        "runs": [run.run_id for run in one.runs],
        "stage_runs": one.run.stage_runs,
        "baseline": one.run.tags.get(TAG.BASELINE),
        "validity": one.run.tags.get(TAG.VALIDITY),
        "metrics": {
            **{key: None for key in alone if key not in one.run.metrics},
            **{key: value for key, value in one.run.metrics.items() if alone.get(key) != value},
        },
    }


def _plain(value: Any) -> Any:
    """As JSON has it: what is not a number is null, dates are text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
