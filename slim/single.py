"""One stage of one configuration, tracked alone: what ``quantize``, ``evaluate`` and ``profile`` do."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from slim import checkpoint as checkpoints
from slim import models, references
from slim.cluster import opening
from slim.errors import Reason, StageError
from slim.jobs import Spool, Spooled
from slim.ledger import flat, identity
from slim.outcomes import Event, EventKind, OnEvent
from slim.planned import Plan, PlannedConfiguration, PlannedStage
from slim.records import NOTHING, Failure, Progress, Stage
from slim.runner import Runner
from slim.store import Store, StoredRun
from slim.timeleft import StepLeft
from slim.waiting import alone


@dataclass(frozen=True)
class StageOutcome:
    """How a stage ended.

    Attributes:
        run: its run.
        reused: it had been finished before.
        failure: why it failed.
    """

    run: StoredRun
    reused: bool
    failure: Failure | None = None


def run_stage(
    stage: Stage, plan: Plan, store: Store, spool: Spool, on_event: OnEvent, *, join: str | None = None, rerun: bool = False
) -> StageOutcome:
    """Run one stage, after its quantize stage when that is not finished.

    Args:
        stage: which.
        plan: one configuration with this stage and, where the precision needs it, ``quantize``.
        store: where runs go.
        spool: where workers leave results.
        on_event: told what happens.
        join: run that becomes the stage's run.
        rerun: run it even when a finished run with the same key exists.

    Raises:
        StageError: the quantize stage that it needs failed, or the configuration cannot work.
        StoreError: the store is away; the result waits in the spool.
        UserError: another sweep is running.
    """
    planned = plan.configurations[0]
    if rerun:
        planned = replace(
            planned, stages=tuple(replace(s, run=None, spooled=False) if s.stage == stage else s for s in planned.stages)
        )
    wanted = next(s for s in planned.stages if s.stage == stage)
    if wanted.run is not None:
        return StageOutcome(wanted.run, reused=True)

    step_left = StepLeft()

    def on_progress(name: str, running: str, progress: Progress) -> None:
        step_left.progress(name, running, progress)
        kind: EventKind = "stage" if progress.step == "start" else "progress"
        on_event(Event(kind, name, running, progress, total=1, step_left_s=step_left.left_s()))

    def log(done: PlannedStage, spooled: Spooled, join: str | None) -> StoredRun:
        params = {**identity(planned, plan), "seed": plan.config.seed, **flat({done.stage: done.config})}
        if done.stage != "quantize":
            params |= flat({"engine_options": planned.options})
        run = store.log_stage(spooled, name=planned.name, parent=None, params=params, tags={}, join=join)
        spool.discard(done.key)
        return run

    def on_note(message: str) -> None:
        on_event(Event("note", "", message=message))

    with alone(spool), opening.opened(plan, spool, on_note) as executor:
        if rerun:
            spool.discard(wanted.key)
            spool.pieces(wanted.key).clear()
        if planned.failure is not None:
            raise StageError(planned.failure.reason, planned.failure.message)
        runner = Runner(plan.config, spool, on_progress, executor=executor, on_gpu=plan.measure.hardware.device == "cuda")
        waiting = spool.find(wanted.key) if wanted.spooled else None
        if waiting is None:
            runner.prepare(planned)
            if stage == "quantize":
                waiting = runner.quantize(planned, wanted)
            else:
                made = _quantized(planned, store, spool, runner, log)
                checkpoint = store.checkpoint_path(made, models.home() / "checkpoints") if made else None
                if checkpoint is not None:
                    checkpoints.load(checkpoint, verify=True)
                against = references.find(planned, store, spool) if stage == "evaluate" else NOTHING
                waiting = runner.measure(planned, [wanted], checkpoint, against)[0]
        run = log(wanted, waiting, join)
    return StageOutcome(run, reused=False, failure=waiting.result.failure)


def _quantized(
    planned: PlannedConfiguration,
    store: Store,
    spool: Spool,
    runner: Runner,
    log: Callable[[PlannedStage, Spooled, str | None], StoredRun],
) -> StoredRun | None:
    """The quantize run whose checkpoint is served; made when absent; None for original weights."""
    stage = next((s for s in planned.stages if s.stage == "quantize"), None)
    if stage is None or stage.run is not None:
        return stage.run if stage else None
    spooled = spool.find(stage.key) if stage.spooled else None
    spooled = spooled or runner.quantize(planned, stage)
    run = log(stage, spooled, None)
    if spooled.result.failure is not None:
        raise StageError(Reason.DEPENDENCY, f"its quantize stage failed: {spooled.result.failure.message}")
    return run
