"""A sweep's own run in the store, and the record in the spool that stands for it while the store is away."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace

from slim.errors import NotStoredError, StoreAwayError, StoreConfigError, StoreError
from slim.jobs import Spool
from slim.ledger import Ledger
from slim.outcomes import ConfigurationOutcome
from slim.planned import Plan
from slim.store import TAG, Store
from slim.waiting import End, Record, records, tidy


class OwnRun:
    """The run of one sweep.

    Args:
        plan: the sweep.
        store: where runs go.
        spool: where the record lies, and results wait.
        on_note: told what a person should know.
        join: run that becomes the sweep's run.
        looked_up: whether the plan knows what the store had finished.

    Attributes:
        ledger: of the sweep's configurations, which begins the run where it is needed first.
    """

    def __init__(
        self, plan: Plan, store: Store, spool: Spool, on_note: Callable[[str], None], join: str | None, *, looked_up: bool
    ) -> None:
        self._plan = plan
        self._store = store
        self._spool = spool
        self._note = on_note
        self._join = join
        self._looked_up = looked_up
        self._record = Record.of(spool, plan, store.tracking_uri, store.experiment, time.time())
        self.ledger = Ledger(plan, store, spool, self._begin, looked_up)

    def start(self) -> None:
        """Start it; a store that is away is no reason not to measure.

        Raises:
            StoreConfigError: the store cannot be used.
        """
        with suppress(OSError):
            # Without it the same command can still log what waits.
            self._record.write()
        if not self._looked_up:
            self._note("the store is away: what it holds cannot be looked up, so all of it is run; results wait in the spool")
            return
        try:
            self._begin()
        except StoreConfigError as error:
            if not isinstance(error, StoreAwayError):
                raise
            self._note(f"{error}; results wait in the spool")
        except StoreError as error:
            self._note(f"{error}; results wait in the spool")

    def end(self, outcomes: Sequence[ConfigurationOutcome], metrics: dict[str, float]) -> bool:
        """End it, and return whether that was logged; else the record keeps it for later.

        Args:
            outcomes: of the configurations.
            metrics: the sweep's totals.
        """
        entries = self.ledger.entries
        end = End(metrics, {o.name: o.failure for o in outcomes if o.failure is not None}, time.time())
        self._record = replace(self._record, end=end)
        try:
            self._log_end(outcomes, end)
            is_logged = True
        except StoreError as error:
            self._note(str(error))
            is_logged = False
        nothing_waits = not any(e.waiting for e in entries) and all(e.ended for e in entries if e.failure)
        with suppress(OSError):
            self._record.remove() if is_logged and nothing_waits else self._record.write()
            tidy(self._spool)
        return is_logged

    def cut_off(self, error: BaseException) -> None:
        """Say in the store that the sweep was cut off; what it finished stays, and the next one goes on from there."""
        message = " ".join(str(error).split()) or type(error).__name__
        with suppress(StoreError):
            for run in self._store.own_leftovers(()):
                self._store.give_up(run, message)

    def _begin(self) -> None:
        run_id = begin(self._store, self._plan, self._record.started_unix_s, self._join)
        self.ledger.sweep_run = run_id
        self._record = replace(self._record, sweep_run=run_id)
        with suppress(OSError):
            self._record.write()
        self._finish_earlier()
        planned = {c.key for c in self._plan.configurations if c.run is None}
        for run in self._store.abandoned():
            # Those of this plan are gone on with instead.
            if run.run_id != run_id and run.tags.get(TAG.KEY) not in planned:
                self._store.give_up(run, "whoever worked on it is gone")
        self._log_plan(run_id)

    def _finish_earlier(self) -> None:
        """Write the totals of earlier sweeps that ended while the store was away, once nothing of them waits any more."""
        for record in records(self._spool):
            if not record.ended_at(self._store) or record.waiting(self._spool):
                continue
            try:
                if record.sweep_run is not None and record.end is not None:
                    finish(self._store, record.sweep_run, record.end)
            except NotStoredError:
                self._note(f"run {record.sweep_run} of an earlier sweep is gone, so its end is not written")
            except StoreError as error:
                self._note(f"{error}; the next sweep writes the end of the earlier one")
                continue
            record.remove()

    def _log_plan(self, run_id: str) -> None:
        """Write what the sweep is made of, with the runs that stand for it, reused ones included."""
        rows = [
            {
                "configuration": e.planned.name,
                "key": e.planned.key,
                "run_id": e.run_id,
                "reused": e.planned.run is not None,
                "failure": asdict(e.failure) if e.failure else None,
                "left_out": e.planned.left_out,
                "stages": {f"{s.stage}{s.repeat or ''}": e.done[s.key].run_id for s in e.planned.stages if s.key in e.done},
            }
            for e in self.ledger.entries
        ]
        environments = {"measure": self._plan.measure.to_json(), "quantize": self._plan.quantize.to_json()}
        self._store.log_text(run_id, json.dumps({"configurations": rows, "environments": environments}, indent=2), "plan.json")

    def _log_end(self, outcomes: Sequence[ConfigurationOutcome], end: End) -> None:
        """Write how it ended, and end whatever else this process or a killed one left open."""
        if self.ledger.sweep_run is None:
            self._begin()
        run_id = self.ledger.sweep_run
        assert run_id is not None
        self._log_plan(run_id)
        reused = [o.name for o in outcomes if o.status == "reused"]
        if reused:
            self._store.log(run_id, tags={TAG.REUSED: ",".join(reused)})
        known = {run_id, *(e.run_id for e in self.ledger.entries if e.run_id)}
        for run in (*self._store.own_leftovers(known), *self._store.abandoned()):
            if run.run_id not in known:
                self._store.give_up(run, "whoever began it did not end it")
        finish(self._store, run_id, end)
        # What waited of them has been logged by this one.
        self._finish_earlier()


def begin(store: Store, plan: Plan, started_unix_s: float, join: str | None = None) -> str:
    """Start a sweep's run, with the sweep file, and return its id.

    Raises:
        StoreError: the store is away.
    """
    config = plan.config
    run_id = store.begin(
        "sweep",
        config.name,
        params={
            "models": list(dict.fromkeys(c.source.reference for c in plan.configurations)),
            "precisions": list(dict.fromkeys(f"{c.precision.name}@{c.engine}" for c in plan.configurations)),
            "repeats": config.repeats,
            "seed": config.seed,
            "hardware": plan.measure.hardware.label,
            "executor": config.executor.name,
        },
        start_unix_s=started_unix_s,
        join=join,
    )
    store.log_text(run_id, config.model_dump_json(indent=2), "sweep.json")
    return run_id


def finish(store: Store, run_id: str, end: End) -> None:
    """Write a sweep's totals on its run, and end it.

    Raises:
        NotStoredError: the run is gone.
        StoreError: the store is away.
    """
    # Nothing can be written to one that was deleted, which is told by reading it.
    store.get(run_id)
    store.log(run_id, metrics=end.metrics)
    message = "; ".join(f"{name}: {failure.reason}" for name, failure in end.failures.items())
    store.finish(run_id, failure="configurations_failed" if end.failures else None, message=message, end_unix_s=end.ended_unix_s)
