"""Runs stages of a planned configuration in workers. Knows nothing of the store."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from slim import checkpoint as checkpoints
from slim import models, quantize, retry
from slim.config import SweepConfig
from slim.cooling import Cooling
from slim.errors import Reason, StageError, UserError
from slim.executor import LocalExecutor, Outcome
from slim.jobs import Job, Spool, Spooled, StageOrder
from slim.planned import PlannedConfiguration, PlannedStage
from slim.records import Against, Progress

OnStageProgress = Callable[[str, str, Progress], None]


class Executor(Protocol):
    """Runs jobs in worker processes somewhere; see `slim.executor.LocalExecutor` for the arguments."""

    def run(
        self,
        job: Job,
        interpreter: str | None,
        timeouts_s: Mapping[str, float],
        on_progress: Callable[[str, Progress], None],
    ) -> Outcome:
        """Run a job to its end; its results are in the sweep's spool then."""


class Runner:
    """Starts workers one after another and adds up their time.

    Args:
        config: the sweep: seed, interpreters, time limits.
        spool: where workers leave results.
        on_progress: told configuration, stage and progress.
        executor: runs the workers; None runs them on this machine, which is let cool down between measurements.
        on_gpu: engines run on a GPU.

    Methods may be called from several threads where the executor allows it.

    Attributes:
        prepare_s: of fetching and converting models.
        work_s: of the stages that finished, by their own account; without what earlier attempts had done.
        engine_start_s: of the engines that were opened.
        engine_starts: how many.
    """

    def __init__(
        self,
        config: SweepConfig,
        spool: Spool,
        on_progress: OnStageProgress,
        executor: Executor | None = None,
        *,
        on_gpu: bool = False,
    ) -> None:
        self._config = config
        self._spool = spool
        self._executor: Executor = executor or LocalExecutor(spool, config.spread, config.executor.quantize_gpus)
        self._on_progress = on_progress
        self._on_gpu = on_gpu
        # Another executor's workers may run on other machines, where it waits itself.
        self._cooling = Cooling() if executor is None else None
        self._adding = threading.Lock()
        self._preparing: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self.prepare_s = self.work_s = self.engine_start_s = 0.0
        self.engine_starts = 0

    def prepare(self, planned: PlannedConfiguration) -> None:
        """Fetch or convert the model and find out whether the scheme fits it, before work is spent on it.

        Raises:
            StageError: the model cannot be had, or the scheme does not fit.
        """
        source, precision = planned.source, planned.precision
        with self._adding:
            preparing = self._preparing[source.fingerprint]
        with preparing:
            if models.materialized(source) is None:
                job = Job(source, precision.name, self._config.seed, self._spool.root)
                wall_s = self._launch(planned, job, self._config.interpreters.measure).wall_s
                with self._adding:
                    self.prepare_s += wall_s
        path = models.materialized(source)
        if path is None:
            raise StageError(Reason.MODEL_UNAVAILABLE, f"model {source.reference!r} is not there after it was fetched")
        try:
            quantize.preflight(checkpoints.describe(path), precision, self._config.quantize)
        except UserError as error:
            raise StageError(Reason.UNSUPPORTED_SCHEME, str(error)) from error

    def quantize(self, planned: PlannedConfiguration, stage: PlannedStage) -> Spooled:
        """Make the checkpoint."""
        job = Job(planned.source, planned.precision.name, self._config.seed, self._spool.root, (_order(stage),))
        return self._finished(self._launch(planned, job, self._config.interpreters.quantize))[0]

    def measure(
        self, planned: PlannedConfiguration, stages: list[PlannedStage], checkpoint: Path | None, against: Against
    ) -> list[Spooled]:
        """Open the engine once and run the measuring stages.

        Args:
            planned: the configuration.
            stages: profile, evaluate or both.
            checkpoint: to serve; None serves the original weights.
            against: distributions of the baseline, for an evaluate stage.
        """
        if self._cooling is not None and any(s.stage == "profile" for s in stages) and self._config.profile is not None:
            self._cooling.wait(self._config.profile.cooldown_s)
        job = Job(
            source=planned.source,
            precision=planned.precision.name,
            seed=self._config.seed,
            spool=self._spool.root,
            orders=tuple(_order(s) for s in stages),
            engine=planned.engine,
            options=dict(planned.options),
            checkpoint=checkpoint,
            against=against,
        )
        results = self._finished(self._launch(planned, job, self._config.interpreters.measure))
        smaller = retry.smaller(job, results, on_gpu=self._on_gpu)
        if smaller is None:
            return results
        again = self._finished(self._launch(planned, smaller.job, self._config.interpreters.measure))
        by_key = {spooled.result.key: smaller.told(self._spool, spooled) for spooled in again}
        return [by_key.get(spooled.result.key, spooled) for spooled in results]

    def _launch(self, planned: PlannedConfiguration, job: Job, interpreter: str | None) -> Outcome:
        timeouts = self._config.timeouts
        limits: Mapping[str, float] = {
            "quantize": timeouts.quantize_s,
            "profile": timeouts.profile_s,
            "evaluate": timeouts.evaluate_s,
        }
        return self._executor.run(job, interpreter, limits, lambda stage, p: self._on_progress(planned.name, stage, p))

    def _finished(self, outcome: Outcome) -> list[Spooled]:
        for spooled in outcome.results:
            metrics = spooled.result.metrics
            with self._adding:
                self.work_s += metrics.get("timing/work_s", 0.0) - metrics.get("timing/resumed_s", 0.0)
                if "timing/engine_start_s" in metrics:
                    self.engine_start_s += metrics["timing/engine_start_s"]
                    self.engine_starts += 1
        return list(outcome.results)


def _order(stage: PlannedStage) -> StageOrder:
    return StageOrder(stage.stage, stage.key, dict(stage.config))
