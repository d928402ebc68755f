"""List the tasks, groups and tags that `evaluate.tasks` may name: the built-in ones and those of lm-evaluation-harness.

Nothing is run and nothing is written to the store.
"""

import json
from typing import Any

import click

from entrypoints import _options as opt


@click.command(help=__doc__)
@click.option(
    "--pattern",
    type=opt.TEXT,
    default="",
    help="Names to list, such as `mmlu*`; without a wildcard, all that hold the text.  [default: all]",
)
@click.option("--json", "as_json", **opt.FLAG, help="Print the tasks as JSON.")
@opt.entry_point
def main(pattern: str | None, as_json: bool) -> None:
    """Parse, look, print."""
    from slim import evaluate

    rows = [_row(task, len(evaluate.leaves(task))) for task in evaluate.listed(pattern)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        widths = [max(len(str(row[key])) for row in rows) for key in rows[0]]
        for row in rows:
            click.echo("  ".join(str(value).ljust(width) for value, width in zip(row.values(), widths, strict=True)).rstrip())
    opt.explain_joined_run("A list of tasks; see its output.")


def _row(task: Any, leaves: int) -> dict[str, str]:
    """What one reads about a task: its name, what it is, the data set that it reads."""
    kind = task.kind if task.kind in ("group", "tag") else "task"
    return {
        "name": task.name,
        "kind": kind if kind == "task" else f"{kind} of {leaves}",
        "data_set": str(task.settings.get("dataset_path") or ""),
    }


if __name__ == "__main__":
    main()
