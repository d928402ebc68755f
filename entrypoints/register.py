"""Register the checkpoints that a study recommends as versions in MLflow's model registry, with an alias for each objective.

Nothing is copied: a version points to the checkpoint that was measured. Its files' hashes are checked first.
"""

import sys
from typing import TYPE_CHECKING, Any

import click

from entrypoints import _options as opt

if TYPE_CHECKING:
    from slim import registry


@click.command(help=__doc__)
@click.option("--study", required=True, help="Run id of the study, as `study` prints it.")
@click.option(
    "--objective",
    type=opt.Names(),
    default="",
    help="Deployments whose recommendation is registered, such as balanced.  [default: all that the study answers]",
)
@click.option("--name", type=opt.TEXT, default="", help="Name of the registered model.  [default: slim-<model>]")
@click.option("--each-model", **opt.FLAG, help="What the study recommends for each model alone, not over all of them.")
@click.option("--force", **opt.FLAG, help="Register in spite of a gate, and record why it was closed.")
@click.option(
    "--push-to-hub",
    type=opt.TEXT,
    default="",
    help="Upload to the Hugging Face Hub: an owner, or <owner>/<name> for a single checkpoint.  [default: nothing is uploaded]",
)
@click.option("--hub-public", **opt.FLAG, help="Make new repositories on the Hub public.")
@click.option(
    "--tracking-uri", type=opt.TEXT, default="", help="MLflow tracking store.  [default: MLFLOW_TRACKING_URI, else ./mlflow.db]"
)
@click.option("--dry-run", **opt.FLAG, help="Check everything and print what would be registered; write nothing.")
@opt.entry_point
def main(study: str, objective: list[str] | None, tracking_uri: str | None, dry_run: bool, **how: Any) -> None:
    """Parse, register, print."""
    from slim import registry

    asked = registry.Question(
        study=study.strip(),
        objectives=tuple(dict.fromkeys(objective or ())),
        dry_run=dry_run,
        **how,
    )
    done = registry.register(asked, tracking_uri)
    lines = told(done, dry_run)
    for line in lines:
        click.echo(line)
    opt.explain_joined_run("\n".join(["A dry run: nothing was written."] if dry_run else lines))
    if done.refused:
        sys.exit(1)


def told(done: "registry.Registration", dry_run: bool) -> list[str]:
    """Return what was done, a line each."""
    lines = []
    for each in done.versions:
        change = f"would be {each.change}" if dry_run and each.change == "registered" else each.change
        number = f"version {each.version}" if each.version is not None else "a new version"
        lines.append(f"{each.name} {number} is {each.configuration}: {change}")
        for alias in each.deployments:
            old = each.moved.get(alias)
            where = "new" if alias in each.moved and old is None else f"was version {old}" if alias in each.moved else "as before"
            lines.append(f"  models:/{each.name}@{alias} ({where})")
        lines += [f"  by force, although {reason}" for reason in each.forced]
        if each.hub is not None:
            lines.append(f"  on the Hub: {each.hub}")
    for refused in done.refused:
        how = "" if refused.final else " (--force registers it all the same)"
        lines.append(f"Refused: {refused.configuration} for {', '.join(refused.deployments)}: {'; '.join(refused.reasons)}{how}")
    lines += [f"Nothing to register: {sentence}" for sentence in done.unanswered.values()]
    return lines


if __name__ == "__main__":
    main()
