"""Answer from the tracking store which configuration to deploy, what it costs and how sure that is.

Nothing is run again. The answer, its figures, tables and an HTML report become a run of their own.
"""

import sys
from typing import Any

import click

from entrypoints import _options as opt
from entrypoints import _study


@click.command(help=__doc__)
@_study.question
@click.option("--dry-run", **opt.FLAG, help="Print the answer; write nothing to the store.")
@opt.entry_point
def main(dry_run: bool, **values: Any) -> None:
    """Parse, compute, keep, print."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 160)
    store, found = _study.make(writes=not dry_run, **values)
    _study.show(console, found)
    if dry_run:
        opt.explain_joined_run("A dry run: nothing was written.")
        return
    from analysis import evidence

    run = evidence.keep(store, found, join=opt.joined_run())
    console.print(
        f"Study {run.run_id} is in experiment {store.experiment} of {store.address}; its report in the MLflow UI: "
        f"{store.ui_address}/#/experiments/{store.experiment_id}/runs/{run.run_id}/artifacts/{evidence.REPORT}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
