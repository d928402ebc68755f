"""What a person sees while a sweep runs, and the table at its end."""

import contextlib
import json
import shlex
import sys
import time
from pathlib import Path
from urllib.parse import quote

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table

from analysis.summary import Summary
from slim.advice import ADVICE
from slim.flush import Flushed
from slim.metrics import format_value, get
from slim.outcomes import Event, SweepOutcome
from slim.planned import Plan
from slim.records import Progress
from slim.single import StageOutcome
from slim.store import TAG, Store

_LINE_INTERVAL_S = 10.0


class Watcher:
    """Shows events: bars on a terminal that can draw them, else a line now and then.

    What cannot be written, since the disk of a log is full or the terminal is gone, is passed over: the work goes on.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
            console=console,
            transient=True,
        )
        self._overall: TaskID | None = None
        self._current: dict[str, TaskID] = {}
        self._last_s = 0.0
        self._start_s = time.monotonic()

    def __enter__(self) -> "Watcher":
        console = self._console
        if console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf"):
            self._overall = self._bars.add_task("sweep", detail="")
            with contextlib.suppress(OSError, UnicodeError):
                self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, UnicodeError):
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        with contextlib.suppress(OSError, UnicodeError):
            self._show(event)

    def _show(self, event: Event) -> None:
        left = f", {duration(event.left_s)} left" if event.left_s else ""
        where = f"[{event.done}/{event.total}] {event.configuration}"
        if event.kind == "configuration":
            self._console.print(f"{self._elapsed()} {where}: {event.message}", highlight=False, markup=False)
        elif event.kind == "note":
            self._console.print(f"{self._elapsed()} note: {event.message}", highlight=False, markup=False)
        progress = event.progress
        if self._overall is not None:
            self._bars.update(
                self._overall,
                completed=event.done,
                total=event.total,
                detail=f"{event.done}/{event.total} configurations{left}",
            )
            if event.kind == "configuration":
                self._drop(event.configuration)
            if progress is not None:
                share = progress.share
                self._bars.update(
                    self._bar(event),
                    description=f"{event.configuration} {event.stage}: {step(progress)}",
                    completed=progress.done if share is None else share,
                    total=progress.total if share is None else 1.0,
                    detail=counted(progress) + step_left(event),
                )
        elif progress is not None and (event.kind == "stage" or time.monotonic() - self._last_s > _LINE_INTERVAL_S):
            self._last_s = time.monotonic()
            count = f" {counted(progress)}" if progress.total else ""
            whole = f"; sweep{left.removeprefix(',')}" if left else ""
            self._console.print(
                f"{self._elapsed()} {where} {event.stage}: {step(progress)}{count}{step_left(event)}{whole}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def _bar(self, event: Event) -> TaskID:
        """The bar of a configuration; those that have said nothing for longest make room for it."""
        bar = self._current.pop(event.configuration, None)
        while len(self._current) >= event.at_once:
            self._drop(next(iter(self._current)))
        self._current[event.configuration] = self._bars.add_task("", detail="") if bar is None else bar
        return self._current[event.configuration]

    def _drop(self, configuration: str) -> None:
        if configuration in self._current:
            self._bars.remove_task(self._current.pop(configuration))

    def _elapsed(self) -> str:
        return duration(time.monotonic() - self._start_s).rjust(6)


def step(progress: Progress) -> str:
    """Return the running step's name, and which of how many it is: ``mmlu (1 of 3)``."""
    return f"{progress.step} ({progress.part} of {progress.parts})" if progress.parts else progress.step


def counted(progress: Progress) -> str:
    """Return how far a step is, in its units."""
    if progress.total:
        return f"{progress.done}/{progress.total} {progress.unit}"
    return f"{progress.done} {progress.unit}" if progress.done else progress.unit


def step_left(event: Event) -> str:
    """Return the time left of the running step with a comma before it; empty while that cannot be told."""
    return f", {duration(event.step_left_s)} left" if event.step_left_s is not None else ""


def duration(seconds: float) -> str:
    """Return seconds as a person says them: ``42s``, ``3m05s``, ``2h10m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def print_plan(console: Console, plan: Plan) -> None:
    """Show what a sweep would do."""
    table = Table(
        "configuration", "stage", "to do", "estimate", title=f"Sweep {plan.config.name} on {plan.measure.hardware.label}"
    )
    for planned in plan.configurations:
        for number, stage in enumerate(planned.stages):
            if planned.failure is not None:
                what, rough = f"cannot work: {planned.failure.reason}: {planned.failure.message}", ""
            elif stage.run is not None or planned.run is not None:
                run = stage.run or planned.run
                what, rough = f"reuse run {run.run_id if run else ''}", ""
            elif stage.spooled:
                what, rough = "log the result that waits in the spool", ""
            else:
                what, rough = "run", duration(stage.estimate_s)
            name = (
                f"{stage.stage} (repeat {stage.repeat})" if plan.config.repeats > 1 and stage.stage == "profile" else stage.stage
            )
            table.add_row(planned.name if number == 0 else "", name, what, rough)
    console.print(table)
    for message in dict.fromkeys(planned.left_out for planned in plan.configurations):
        if message is not None:
            console.print(f"Note: {message}.", highlight=False, markup=False, soft_wrap=True)
    disk = f", {plan.disk_bytes / 1e9:.2f} GB of disk" if plan.disk_bytes else ""
    console.print(f"Rough estimate of what is left: {duration(plan.estimate_s)}{disk}.", highlight=False)


def print_summary(console: Console, summary: Summary) -> None:
    """Show the configurations and the fronts."""
    table = Table(*summary.headers, title=summary.title)
    for row in summary.rows:
        table.add_row(*row)
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)
    if summary.verdicts is not None:
        verdicts = Table(*summary.verdicts.headers, title=summary.verdicts.title)
        for row in summary.verdicts.rows:
            verdicts.add_row(*row)
        console.print(verdicts)
    for name, reason in summary.refused.items():
        console.print(f"Not compared: {name}: {reason}", highlight=False, markup=False, soft_wrap=True)
    for title, names in summary.fronts.items():
        if names:
            console.print(f"Pareto front of {title}: {', '.join(names)}", highlight=False, soft_wrap=True)
    for name, reasons in summary.flagged.items():
        console.print(f"Flagged: {name}: {reasons}", highlight=False, soft_wrap=True)


def print_outcome(console: Console, outcome: SweepOutcome) -> None:
    """Show what went wrong, what to do about it, what waits, and how long it took."""
    for result in outcome.configurations:
        if result.failure is not None:
            for line in (
                f"Failed: {result.name}: {result.failure.reason}: {result.failure.message}",
                f"  {ADVICE[result.failure.reason]}",
            ):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
    if outcome.unlogged or not outcome.end_is_logged:
        what = f"{outcome.unlogged} results wait" if outcome.unlogged else "How the sweep ended waits"
        console.print(
            f"{what} in the spool, since the store was away: run the same command again, or `python -m entrypoints.sweep --flush`, to "
            "log it.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    console.print(
        f"Took {duration(outcome.wall_s)}: {duration(outcome.work_s + outcome.prepare_s)} of work, {duration(outcome.engine_start_s)} for "
        f"{outcome.engine_starts} engine starts.",
        highlight=False,
    )


def print_flushed(console: Console, flushed: Flushed) -> None:
    """Show what was logged from the spool, and what still waits."""
    lines = [f"{flushed.logged} results logged, of {len(flushed.run_ids)} configurations."]
    lines += [f"{n} results wait for the store {uri}: name it with --tracking-uri." for uri, n in flushed.elsewhere.items()]
    if flushed.unknown:
        lines.append(f"{flushed.unknown} results wait for the command that made them: run it again.")
    lines += [f"Not logged whole: {problem}" for problem in flushed.problems]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_stage(console: Console, store: Store, outcome: StageOutcome) -> None:
    """Show the metrics of one stage and where its run is."""
    run = outcome.run
    table = Table("metric", "value", "unit", title=run.name)
    for key, value in sorted(run.metrics.items()):
        table.add_row(key, format_value(key, value), get(key).unit)
    table.columns[1].justify = "right"
    if run.metrics:
        console.print(table)
    if outcome.failure is not None:
        console.print(
            f"Failed: {outcome.failure.reason}: {outcome.failure.message}", highlight=False, markup=False, soft_wrap=True
        )
    told = "was finished before and is reused (--rerun runs it again)" if outcome.reused else "is in the store"
    console.print(f"Run {run.run_id} {told}: experiment {store.experiment} of {store.address}", highlight=False, soft_wrap=True)


def print_address(console: Console, store: Store, run_ids: list[str]) -> None:
    """Show how to look at the configurations in the MLflow UI."""
    search = quote(f"tags.`{TAG.KIND}` = 'configuration'")
    # Sorted by a metric, MLflow lists the configurations themselves; sorted by time it hides them below their sweep.
    order = f"orderByKey={quote('metrics.`accuracy/mean`', safe='')}&orderByAsc=false"
    listed = f"/#/experiments/{store.experiment_id}/runs?searchFilter={search}&{order}"
    compared = (
        f"/#/compare-runs?runs={quote(json.dumps(run_ids, separators=(',', ':')))}&experiments=%5B%22{store.experiment_id}%22%5D"
    )
    address = store.ui_address
    lines = ["In the MLflow UI:"]
    if not store.address.startswith("http"):
        program = Path(sys.executable).parent / "mlflow"
        shown = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
        lines.append(f"  {shlex.quote(str(shown))} ui --backend-store-uri {shlex.quote(store.address)}")
    lines += [f"  all configurations: {address}{listed}", f"  these compared: {address}{compared}"]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
