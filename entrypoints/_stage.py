"""What the entry points of the single stages have in common."""

import sys
from typing import Any

from entrypoints import _options as opt
from slim.records import Stage


def run(
    stage: Stage,
    *,
    model: str,
    revision: str | None,
    trust_remote_code: bool,
    precision: str,
    engine: str | None,
    fields: dict[str, Any],
    config: str | None,
    assignments: dict[str, Any] | None,
    seed: int | None,
    interpreter: str | None,
    rerun: bool,
    experiment: str | None,
    tracking_uri: str | None,
    dry_run: bool,
) -> None:
    """Run one stage and print what came of it.

    Args:
        stage: which.
        fields: fields of the sweep file that the stage's own options replace.
        engine: None for the precision's preferred one.
        interpreter: Python of the workers.
    """
    from slim.config import SweepConfig

    entry = {"precision": precision, "engine": engine} if engine else {"precision": precision}
    only = {"models": [{"id": model, "revision": revision, "trust_remote_code": trust_remote_code}], "precisions": [entry]}
    overrides = {
        **only,
        **fields,
        **opt.given(experiment=experiment, seed=seed, interpreters__measure=interpreter, interpreters__quantize=interpreter),
        **(assignments or {}),
    }
    parsed = SweepConfig.load(opt.check_file(config), overrides) if config else SweepConfig.build(overrides)

    from rich.console import Console

    from entrypoints import _console
    from slim import api
    from slim import plan as planning

    console = Console(width=None if sys.stdout.isatty() else 160)
    if dry_run:
        _console.print_plan(console, api.plan(planning.only(parsed, stage), tracking_uri))
        opt.explain_joined_run("A dry run: nothing was run.")
        return
    with _console.Watcher(console) as watcher:
        store, outcome = api.stage(stage, parsed, tracking_uri, watcher, join=opt.joined_run(), rerun=rerun)
    if outcome.reused:
        opt.explain_joined_run(f"Finished before, as run {outcome.run.run_id}.", outcome.run.run_id)
    _console.print_stage(console, store, outcome)
    if outcome.failure is not None:
        sys.exit(1)
