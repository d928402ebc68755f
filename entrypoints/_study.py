"""Options and words that `study` and `report` share."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from entrypoints import _options as opt
from slim.errors import ConfigError
from slim.redaction import redact

if TYPE_CHECKING:
    from analysis.study import Study
    from slim.store import Store

question = opt.options(
    click.option(
        "--objectives",
        type=opt.Names(),
        default="",
        help="Metrics of the Pareto front, 2 to 6, or one to recommend by.  [default: accuracy, latency, energy and memory, as measured]",
    ),
    click.option(
        "--constraints",
        type=opt.TEXT,
        default="",
        help="What every recommendation must meet: `accuracy/mean >= 0.98 * baseline; latency/ttft_p95_ms <= 200; non-inferior gsm8k`.",
    ),
    click.option("--weights", type=opt.Names(), default="", help="Weights of the objectives, one each.  [default: equal]"),
    click.option(
        "--deployments",
        type=opt.Names(),
        default="",
        help="Deployments to recommend for.  [default: balanced, accuracy-critical, latency-critical, energy-constrained, memory-constrained]",
    ),
    click.option("--sweeps", type=opt.Names(), default="", help="Run ids of sweeps: only what they measured or found finished."),
    click.option("--models", type=opt.Names(), default="", help="Only these models, as in the sweep file or by short name."),
    click.option("--precisions", type=opt.Names(), default="", help="Only these precisions."),
    click.option("--engines", type=opt.Names(), default="", help="Only these engines."),
    click.option(
        "--hardware", type=opt.TEXT, default="", help="Only what was measured on this hardware, as the runs' param says."
    ),
    click.option(
        "--tags", type=opt.Assignments(), default="", help="Only runs with these tags, theirs or their sweep's: `team=search`."
    ),
    click.option("--since", type=opt.TEXT, default="", help="Only what ended then or later (UTC), such as 2026-11-01."),
    click.option(
        "--group", type=opt.COUNT, default="", help="Number of one group of comparable configurations, where there are several."
    ),
    click.option("--flagged", **opt.FLAG, help="Take measurements too that did not pass every check."),
    click.option(
        "--published",
        type=opt.TEXT,
        default="",
        help="Study the printed figures of `slim_eval` or `bnb_llama32_1b` instead, from the experiment slim-published; without --experiment.",
    ),
    click.option("--draws", type=opt.COUNT, default="", help="Redraws of the measurements.  [default: 2000]"),
    click.option("--seed", type=opt.WHOLE, default="", help="Seed of the redraws.  [default: 42]"),
    opt.where,
)


def make(
    *,
    writes: bool,
    objectives: list[str] | None,
    constraints: str | None,
    weights: list[str] | None,
    deployments: list[str] | None,
    sweeps: list[str] | None,
    models: list[str] | None,
    precisions: list[str] | None,
    engines: list[str] | None,
    hardware: str | None,
    tags: dict[str, Any] | None,
    since: str | None,
    group: int | None,
    flagged: bool,
    published: str | None,
    draws: int | None,
    seed: int | None,
    experiment: str | None,
    tracking_uri: str | None,
) -> "tuple[Store, Study]":
    """Compute the study that the options ask for.

    The store stays as it is, but for published figures, which are put into it where the study ``writes``.
    """
    from analysis import study
    from analysis.filters import Filters
    from slim.store import TAG, Store, default_tracking_uri, experiment_of

    given = {"objectives": objectives, "deployments": deployments, "draws": draws, "seed": seed}
    asked = study.Question(
        constraints=tuple(text.strip() for text in (constraints or "").split(";") if text.strip()),
        weights=_numbers(weights),
        **{name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None},
    )
    asked.check()
    filters = Filters(
        sweeps=tuple(sweeps or ()),
        models=tuple(models or ()),
        precisions=tuple(precisions or ()),
        engines=tuple(engines or ()),
        hardware=(hardware,) if hardware else (),
        tags={name: str(value) for name, value in (tags or {}).items()},
        since=_moment(since),
        flagged=flagged,
        group=group,
    )
    uri = tracking_uri or default_tracking_uri()
    if published:
        with _published(published, experiment, uri if writes else None) as store:
            filters = replace(filters, tags={**filters.tags, TAG.PUBLISHED: published})
            return store, study.make(store, asked, filters)
    name = experiment_of(uri, opt.joined_run(), experiment or "slim")
    store = Store.open(uri, name, create=False)
    if store is None:
        raise ConfigError(
            f"there is no experiment {name!r} in {redact(uri)}; run a sweep first, or name another with --experiment"
        )
    return store, study.make(store, asked, filters)


@contextlib.contextmanager
def _published(name: str, experiment: str | None, uri: str | None) -> "Iterator[Store]":
    """Give a store with the printed figures of a study: the one at an address, where they stay, or without one another, which is gone
    after the block."""
    from analysis import cache
    from analysis.published import EXPERIMENT, runs
    from slim.store import Store, keep

    printed = runs(name)
    if experiment is not None:
        raise ConfigError(
            f"--experiment: {experiment!r} cannot be with --published, whose figures are in {EXPERIMENT}; leave it empty"
        )
    with tempfile.TemporaryDirectory() as directory:
        store = Store.open(uri or f"sqlite:///{directory}/mlflow.db", EXPERIMENT)
        assert store is not None
        keep(store, printed)
        try:
            yield store
        finally:
            if uri is None:
                cache.forget(store)


def show(console: Console, found: "Study") -> None:
    """Print the answers, the front and what was left out."""
    from analysis import evidence
    from analysis.recommend import sentences

    say: Callable[[str], None] = lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)  # noqa: E731
    say(f"{_number(len(found.frame), 'configuration')} of {_number(len(found.models), 'model')} on {found.hardware}")
    for answer in found.recommendations:
        head, *rest = sentences(answer)
        console.print()
        say(head)
        for line in [*rest, *filter(None, [evidence.confidence(found, answer)])]:
            say(f"  {line}")
    console.print()
    for answered in evidence.answers(found).values():
        table = Table(*answered.headers, title=answered.title)
        for row in answered.rows:
            table.add_row(*(cell or "-" for cell in row))
        for column, align in zip(table.columns, answered.align, strict=True):
            column.justify, column.overflow = ("right" if align == "r" else "left"), "fold"
        console.print(table)
    for note in found.notes:
        say(note)
    left_out = found.selection.left_out
    if len(left_out):
        counts = left_out["kind"].value_counts()
        say("Left out: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()) + " (reasons in the report)")


def _numbers(words: list[str] | None) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in words or ())
    except ValueError:
        raise ConfigError(f"--weights: {','.join(words or ())!r} are not numbers separated by commas, such as 2,1,1") from None


def _moment(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text) if len(text) == len("2026-11-01") else datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--since: {text!r} is no date; give one such as 2026-11-01 or 2026-11-01T12:00") from None


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
