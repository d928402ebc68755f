"""Runs a plan: workers one after another, their results into the store, what is finished left alone."""

import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from slim import advice
from slim.cluster import opening
from slim.errors import Reason, StageError, StoreError
from slim.jobs import Spool
from slim.ledger import Entry
from slim.outcomes import ConfigurationOutcome, Event, EventKind, OnEvent, Status, SweepOutcome
from slim.overlapping import Overlapping, Told, work_through
from slim.own_run import OwnRun
from slim.planned import Plan
from slim.records import Failure, Progress
from slim.runner import Runner
from slim.steps import Results, Steps, following, impossible
from slim.store import Store
from slim.timeleft import StepLeft, TimeLeft
from slim.waiting import alone

T = TypeVar("T")


class SweepRun:
    """One execution of a plan.

    Args:
        plan: from `slim.plan.make`.
        store: where runs go.
        spool: where workers leave results.
        on_event: told what happens.
        join: run that becomes the sweep's run.
        looked_up: whether the plan knows what the store had finished; not when the store was away.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        spool: Spool,
        on_event: OnEvent,
        join: str | None = None,
        *,
        looked_up: bool = True,
    ) -> None:
        self.plan = plan
        self.store = store
        self.spool = spool
        self._on_event = on_event
        self._own = OwnRun(plan, store, spool, self._note, join, looked_up=looked_up)
        self._ledger = self._own.ledger
        self._told, self._notes = Told(self._progress), Told(self._note)
        self._executor: Overlapping | None = None
        self._on_gpu = plan.measure.hardware.device == "cuda"
        self._runner = Runner(plan.config, spool, self._progress, on_gpu=self._on_gpu)
        self._steps = Steps(self._ledger, self._runner)
        self._time_left = TimeLeft(plan)
        self._step_left: defaultdict[str, StepLeft] = defaultdict(StepLeft)

    def execute(self) -> SweepOutcome:
        """Do what is left of the plan.

        Raises:
            StoreError: the sweep's own run could not be started.
            UserError: another sweep works with the same spool.
        """
        start = time.perf_counter()
        with alone(self.spool), opening.opened(self.plan, self.spool, self._notes) as executor, self.store.beating():
            if executor is not None:
                self._use(executor)
            try:
                self._own.start()
                self._work()
                self._compare()
            except BaseException as error:
                self._own.cut_off(error)
                raise
            return self._end(time.perf_counter() - start)

    def _use(self, executor: Overlapping) -> None:
        """Have steps done by an executor that may do several at once; what it says is passed on in this thread."""
        self._executor = executor
        self._runner = Runner(self.plan.config, self.spool, self._told, executor=executor, on_gpu=self._on_gpu)
        self._steps = Steps(self._ledger, self._runner)
        self._time_left = TimeLeft(self.plan, executor.lanes)

    def _end(self, wall_s: float) -> SweepOutcome:
        entries, runner = self._ledger.entries, self._runner
        outcomes = tuple(_outcome(e) for e in entries if e.ended or e.failure or e.waiting)
        counts = {
            "sweep/configurations": len(entries),
            "sweep/finished": sum(o.status == "finished" for o in outcomes),
            "sweep/reused": sum(o.status == "reused" for o in outcomes),
            "sweep/failed": sum(o.status == "failed" for o in outcomes),
            "sweep/wall_s": wall_s,
            "sweep/prepare_s": runner.prepare_s,
            "sweep/work_s": runner.work_s,
            "sweep/engine_start_s": runner.engine_start_s,
            "sweep/engine_starts": runner.engine_starts,
        }
        end_is_logged = self._own.end(outcomes, counts)
        return SweepOutcome(
            self._ledger.sweep_run,
            outcomes,
            sum(len(e.waiting) for e in entries),
            end_is_logged=end_is_logged,
            wall_s=wall_s,
            prepare_s=runner.prepare_s,
            work_s=runner.work_s,
            engine_start_s=runner.engine_start_s,
            engine_starts=runner.engine_starts,
        )

    # The work

    def _work(self) -> None:
        entries = self._ledger.entries
        for message in dict.fromkeys(e.planned.left_out for e in entries):
            if message is not None:
                self._note(message)
        for entry in entries:
            if entry.ended:
                self._ended(entry)
        if self._executor is not None:
            work_through(self, self._steps, entries, self.plan.config.repeats, self._executor)
        else:
            self._in_order()
        self._leave_out([e for e in entries if not e.over])
        for entry in entries:
            # What a store that was away did not take.
            if entry.over and not entry.ended:
                self._sync(entry)

    def _compare(self) -> None:
        """Compare what ended before its baseline did, or was finished by an earlier sweep."""
        for entry in self._ledger.entries:
            try:
                self._ledger.compare(entry)
            except StoreError as error:
                self._note(f"{error}; the same command compares {entry.planned.name} again")

    def _leave_out(self, entries: list[Entry]) -> None:
        """Say of configurations whose turn did not come that they are not worked on any more."""
        for entry in entries:
            with suppress(StoreError):
                if entry.run_id is not None:
                    self.store.finish(
                        entry.run_id, failure=Reason.INTERRUPTED.value, message="another failed, and on_failure is stop"
                    )

    def _in_order(self) -> None:
        """One step after another, until a failure stops the sweep."""
        for repeat in range(self.plan.config.repeats):
            for entry in self._ledger.entries:
                if not entry.ended and not entry.failure and not self._advance(entry, repeat):
                    return

    def _advance(self, entry: Entry, repeat: int) -> bool:
        """Bring one configuration to the end of a repeat; False when its failure stops the sweep."""
        self.take_up(entry)
        while not entry.over and (step := following(entry, repeat)) is not None:
            results = self.guarded(entry, lambda step=step: self._steps.begin(entry, step)())  # type: ignore[misc]
            if results is not None:
                self.keep(entry, results)
        return self.close(entry)

    def take_up(self, entry: Entry) -> None:
        """Bring a configuration to where earlier sweeps had left it, or fail what cannot work."""
        entry.collect(self.spool)
        self._sync(entry)
        if not entry.ended:
            entry.failure = impossible(entry)

    def close(self, entry: Entry) -> bool:
        """End a configuration of which nothing is left; False when the sweep is to stop because it failed."""
        if entry.over:
            if not entry.ended:
                self._sync(entry)
            self._ended(entry)
        if entry.failure and self.plan.config.on_failure == "stop":
            self._note(f"{entry.planned.name} failed, and on_failure is stop")
            return False
        return True

    def waiting(self) -> None:
        """Nothing to do but to tell."""
        self._told.pass_on()
        self._notes.pass_on()

    def guarded(self, entry: Entry, call: Callable[[], T]) -> T | None:
        """Call; what is raised becomes the configuration's failure, and None is returned."""
        try:
            return call()
        except StageError as error:
            entry.failure = Failure(error.reason, error.message, error.log_tail)
        except StoreError as error:
            entry.failure = Failure(Reason.DEPENDENCY, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other configurations go on
            reason = advice.of_error(error) or Reason.INTERNAL
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            entry.failure = Failure(reason, message[:1000], traceback.format_exc())
        return None

    def keep(self, entry: Entry, results: Results) -> None:
        self._time_left.step_ended(entry.planned.name)
        for stage, spooled in results:
            entry.waiting.append((stage, spooled))
            entry.failure = entry.failure or spooled.result.failure
        self._sync(entry)

    def _sync(self, entry: Entry) -> None:
        """Bring the store up to date; what it does not take stays in the spool and is tried again later."""
        try:
            self._ledger.write(entry)
        except StoreError as error:
            self._note(f"{error}; results wait in the spool")
        except Exception as error:  # noqa: BLE001 - one configuration's result is no reason to lose the others'
            line = " ".join(str(error).split())[:300]
            self._note(f"{entry.planned.name} cannot be logged: {type(error).__name__}: {line}; results wait in the spool")

    # Telling

    def _progress(self, name: str, stage: str, progress: Progress) -> None:
        self._time_left.progress(name, stage, progress)
        self._step_left[name].progress(name, stage, progress)
        kind: EventKind = "stage" if progress.step == "start" else "progress"
        self._emit(kind, name, stage=stage, progress=progress, step_left_s=self._step_left[name].left_s())

    def _ended(self, entry: Entry) -> None:
        self._time_left.ended(entry.planned.name)
        outcome = _outcome(entry)
        message = f"{outcome.status}" + (f": {entry.failure.reason}: {entry.failure.message}" if entry.failure else "")
        self._emit("configuration", entry.planned.name, message=message)

    def _note(self, message: str) -> None:
        self._emit("note", "", message=message)

    def _emit(self, kind: EventKind, configuration: str, **values: Any) -> None:
        entries = self._ledger.entries
        done = sum(e.over for e in entries)
        self._on_event(
            Event(
                kind,
                configuration,
                done=done,
                total=len(entries),
                left_s=self._time_left.left_s(),
                at_once=self._executor.lanes if self._executor is not None else 1,
                **values,
            )
        )


def _outcome(entry: Entry) -> ConfigurationOutcome:
    status: Status = "failed" if entry.failure else "reused" if entry.planned.run else "finished"
    return ConfigurationOutcome(entry.planned.name, status, entry.run_id, entry.failure)
