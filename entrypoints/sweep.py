"""Run a sweep: quantize, profile and evaluate every model at every precision, and compare.

Finished stages are found in the store and reused, so an interrupted sweep goes on where it was.
"""

import sys
from typing import Any

import click

from entrypoints import _options as opt
from slim.errors import ConfigError, StoreError

PARAMETERS = opt.options(
    click.option("--models", type=opt.Names(), default="", help="Models instead of the file's, separated by commas."),
    click.option(
        "--precisions", type=opt.Names(), default="", help="Precisions instead of the file's, such as `bf16@vllm,gptq-int4`."
    ),
    click.option(
        "--tasks",
        type=opt.Names(),
        default="",
        help="Tasks instead of the file's, such as `mmlu:5,gsm8k:5` (few-shot count after the colon).",
    ),
    click.option("--limit", type=opt.COUNT, default="", help="Items a task at most."),
    click.option("--repeats", type=opt.COUNT, default="", help="Times each configuration is profiled."),
    click.option("--data-dir", type=opt.TEXT, default="", help="Local mirror of Hub data sets, laid out <organisation>/<name>."),
    opt.set_option("Any field of the sweep file: `profile.requests=5; seed=1`."),
    click.option(
        "--quantize-python", type=opt.TEXT, default="", help="Python interpreter of quantizing workers.  [default: this one]"
    ),
    click.option(
        "--measure-python", type=opt.TEXT, default="", help="Python interpreter of measuring workers.  [default: this one]"
    ),
    click.option(
        "--executor",
        type=opt.Optional(click.Choice(["local", "ray"])),
        default="",
        help="Where workers run: local, one after another, or ray, several at once on a Ray cluster.  [default: the file's]",
    ),
    opt.tracking,
    click.option("--flush", **opt.FLAG, help="Log what waits in the spool because the store was away; run nothing."),
)


@click.command(help=__doc__)
@click.option("--config", default="configs/demo.yaml", show_default=True, help="Sweep file (YAML).")
@PARAMETERS
@opt.entry_point
def main(config: str, **values: Any) -> None:
    """Parse, run, print."""
    run(config, **values)


def run(
    config: str,
    *,
    models: list[str] | None,
    precisions: list[str] | None,
    tasks: list[str] | None,
    limit: int | None,
    repeats: int | None,
    data_dir: str | None,
    assignments: dict[str, Any] | None,
    quantize_python: str | None,
    measure_python: str | None,
    executor: str | None,
    experiment: str | None,
    tracking_uri: str | None,
    dry_run: bool,
    flush: bool,
) -> None:
    """Run the sweep of a file with some fields replaced, and print what came of it."""
    if flush:
        if dry_run:
            raise ConfigError("--flush logs what waits and runs nothing, so there is no --dry-run of it; give one of the two")
        log_waiting(tracking_uri)
        return
    from slim.config import SweepConfig

    overrides = opt.given(
        models=models,
        precisions=precisions,
        evaluate__tasks=opt.parse_tasks(tasks),
        evaluate__limit=limit,
        evaluate__data_dir=data_dir,
        repeats=repeats,
        interpreters__quantize=quantize_python,
        interpreters__measure=measure_python,
        executor__name=executor,
        experiment=experiment,
    )
    parsed = SweepConfig.load(opt.check_file(config), {**overrides, **(assignments or {})})

    from rich.console import Console

    from analysis import frame, summary
    from entrypoints import _console
    from slim import api

    console = Console(width=None if sys.stdout.isatty() else 160)
    if dry_run:
        _console.print_plan(console, api.plan(parsed, tracking_uri))
        opt.explain_joined_run("A dry run: nothing was run.")
        return
    with _console.Watcher(console) as watcher:
        store, outcome = api.run(parsed, tracking_uri, on_event=watcher, join=opt.joined_run())
    run_ids = [c.run_id for c in outcome.configurations if c.run_id]
    try:
        shown = summary.summarize(frame.load(store, run_ids=run_ids))
    except StoreError as error:
        console.print(f"Nothing to show: {error}", highlight=False, markup=False, soft_wrap=True)
        _console.print_outcome(console, outcome)
    else:
        _console.print_summary(console, shown)
        _console.print_outcome(console, outcome)
        _console.print_address(console, store, run_ids)
    if not outcome.ok:
        sys.exit(1)


def log_waiting(tracking_uri: str | None) -> None:
    """Log what waits in the spool, and print what came of it."""
    from rich.console import Console

    from entrypoints import _console
    from slim import api

    flushed = api.flush(tracking_uri)
    _console.print_flushed(Console(width=None if sys.stdout.isatty() else 160), flushed)
    opt.explain_joined_run("Nothing was run: what waited in the spool was logged.")
    if flushed.elsewhere or flushed.unknown or flushed.problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
