"""Keeps the store up to date with a sweep: each configuration's runs, metrics, params and tags.

Writing a configuration is idempotent: what a store that was away did not take is tried again at the next call.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slim import aggregate, comparison, models, references
from slim import checkpoint as checkpoints
from slim.evaluate import had_reference
from slim.jobs import Spool, Spooled
from slim.planned import Plan, PlannedConfiguration, PlannedStage
from slim.records import Against, Failure, StageResult
from slim.store import TAG, Store, StoredRun


@dataclass
class Entry:
    """A configuration while a sweep works on it; the store may lag behind.

    Attributes:
        planned: what is to be done.
        run_id: of its run; None until it has one.
        done: runs of finished stages by key.
        waiting: results that the store does not have yet.
        failure: why it failed.
        ended: its run is ended.
        checkpoint: local directory, once verified.
    """

    planned: PlannedConfiguration
    run_id: str | None = None
    done: dict[str, StoredRun] = field(default_factory=dict)
    waiting: list[tuple[PlannedStage, Spooled]] = field(default_factory=list)
    failure: Failure | None = None
    ended: bool = False
    checkpoint: Path | None = None

    def left(self) -> list[PlannedStage]:
        """Stages that have neither a run nor a result in the spool."""
        waiting = {stage.key for stage, _ in self.waiting}
        return [s for s in self.planned.stages if s.key not in self.done and s.key not in waiting]

    @property
    def over(self) -> bool:
        """Whether nothing of it is to be done any more, whatever the store has of it by now."""
        return self.ended or self.failure is not None or not self.left()

    def collect(self, spool: Spool) -> None:
        """Take over what was finished earlier, from the store and from the spool."""
        for stage in self.left():
            if stage.run is not None:
                self.done[stage.key] = stage.run
                # Whoever logged it may have been killed before it could tidy up.
                spool.done(stage.key)
            elif stage.spooled and (waiting := spool.find(stage.key)) is not None:
                self.waiting.append((stage, waiting))


class Ledger:
    """Writes the configurations of one sweep.

    Args:
        plan: the sweep.
        store: where runs go.
        spool: where results wait.
        begin_sweep: starts the sweep's run and sets `sweep_run`, where that is None.
        looked_up: whether the plan knows what the store had finished.

    Attributes:
        sweep_run: parent of the configurations' runs.
    """

    def __init__(
        self, plan: Plan, store: Store, spool: Spool, begin_sweep: Callable[[], None] = lambda: None, looked_up: bool = True
    ) -> None:
        self.plan = plan
        self.store = store
        self.spool = spool
        self.sweep_run: str | None = None
        self._begin_sweep = begin_sweep
        self._looked_up = looked_up
        self.entries = [Entry(p, run_id=p.run.run_id if p.run else None, ended=p.run is not None) for p in plan.configurations]

    def write(self, entry: Entry) -> None:
        """Bring the store up to date with a configuration.

        Raises:
            StoreError: the store is away; what it did not take waits.
        """
        planned = entry.planned
        if self.sweep_run is None:
            self._begin_sweep()
        if not self._looked_up and entry.run_id is None and self._finished_before(entry):
            return
        if entry.run_id is None:
            entry.run_id = self._begin(planned)
        params = identity(planned, self.plan)
        while entry.waiting:
            stage, spooled = entry.waiting[0]
            earlier = self._logged_before(spooled.result)
            run = earlier or self.store.log_stage(
                spooled,
                name=planned.name,
                parent=entry.run_id,
                params={**params, **flat({stage.stage: stage.config})},
                tags={TAG.REPEAT: str(stage.repeat)},
            )
            entry.waiting.pop(0)
            if spooled.result.failure is None:
                entry.done[stage.key] = run
                self.spool.done(stage.key)
            else:
                self.spool.discard(stage.key)
        self._summarize(entry)

    def _finished_before(self, entry: Entry) -> bool:
        """Whether the store turns out to have a configuration finished that was measured again while nobody could know."""
        run = self.store.find_finished("configuration", entry.planned.key)
        if run is None:
            return False
        for stage, _ in entry.waiting:
            self.spool.discard(stage.key)
        entry.waiting.clear()
        entry.run_id, entry.ended, entry.failure = run.run_id, True, None
        return True

    def _logged_before(self, result: StageResult) -> StoredRun | None:
        """The finished run of a result that was logged before: it is logged once, whoever was killed when, and the first one stays."""
        if result.failure is not None:
            return None
        run = self.store.find_finished(result.stage, result.key)
        # An evaluation that had its baseline to compare with replaces one that had not.
        return None if run is not None and had_reference(result.params) and not had_reference(run.params) else run

    def compare(self, entry: Entry) -> None:
        """Bring an ended configuration's comparison with its baseline up to date; nothing is written where it is.

        For those that ended before their baseline did, an earlier sweep's among them, and for changed settings.

        Raises:
            StoreError: the store is away.
        """
        if entry.ended and entry.run_id is not None and entry.failure is None:
            self._compare(entry, entry.planned.run or self.store.get(entry.run_id))

    def checkpoint(self, entry: Entry) -> Path | None:
        """Return the directory to serve; None for the original weights.

        Raises:
            StageError: its files are not those that were written.
            StoreError: it cannot be fetched.
        """
        key = next((s.key for s in entry.planned.stages if s.stage == "quantize"), None)
        if key is None:
            return None
        if entry.checkpoint is None:
            spooled = self.spool.find(key)
            if spooled is not None and spooled.checkpoint is not None:
                return spooled.checkpoint
            entry.checkpoint = self.store.checkpoint_path(entry.done[key], models.home() / "checkpoints")
            checkpoints.load(entry.checkpoint, verify=True)
        return entry.checkpoint

    def reference(self, entry: Entry) -> Against:
        """Return what the evaluation of a configuration is to do about its fidelity to the baseline."""
        wanted = entry.planned.reference
        failure = next((e.failure for e in self.entries if wanted is not None and e.planned.name == wanted.name), None)
        return references.find(entry.planned, self.store, self.spool, failure)

    def _begin(self, planned: PlannedConfiguration) -> str:
        assert self.sweep_run is not None
        params = {
            **identity(planned, self.plan),
            "seed": self.plan.config.seed,
            "torch_version": self.plan.measure.versions.get("torch"),
            "driver_version": self.plan.measure.hardware.driver,
            **flat({"engine_options": planned.options}),
        }
        earlier = self.store.find_interrupted("configuration", planned.key)
        if earlier is not None and self.store.adopt(earlier, self.sweep_run, params):
            return earlier.run_id
        return self.store.begin(
            "configuration",
            planned.name,
            parent=self.sweep_run,
            params=params,
            tags={TAG.KEY: planned.key, TAG.CONFIG: planned.name, TAG.SWEEP: self.plan.config.name},
        )

    def _summarize(self, entry: Entry) -> None:
        """Put the metrics of the finished stages on the configuration's run, and end it when nothing is left."""
        assert entry.run_id is not None
        by_stage: dict[str, list[StoredRun]] = {}
        for stage in entry.planned.stages:
            if stage.key in entry.done:
                by_stage.setdefault(stage.stage, []).append(entry.done[stage.key])
        metrics: dict[str, float] = {}
        reasons: list[str] = []
        for runs in by_stage.values():
            combined, spread = aggregate.combine_repeats([r.metrics for r in runs])
            reasons += [reason for r in runs for reason in r.tags.get(TAG.VALIDITY, "").split(",") if reason] + spread
            metrics |= {k: v for k, v in combined.items() if not k.startswith("timing/")}
        tags = {TAG.STAGE_RUNS: json.dumps({name: [r.run_id for r in runs] for name, runs in by_stage.items()})}
        if retried := list(
            dict.fromkeys(r.tags[TAG.RETRIED] for runs in by_stage.values() for r in runs if TAG.RETRIED in r.tags)
        ):
            tags[TAG.RETRIED] = "; ".join(retried)
        if reasons:
            tags[TAG.VALIDITY] = ",".join(dict.fromkeys(reasons))
        known = self.store.get(entry.run_id).params
        params = {k: v for runs in by_stage.values() for r in reversed(runs) for k, v in r.params.items() if k not in known}
        model_id = next((m for r in by_stage.get("quantize", []) for m in r.model_ids), None)
        self.store.log(entry.run_id, params=params, metrics=metrics, tags=tags, model_id=model_id)
        failure = entry.failure
        if failure is not None or not entry.left():
            self._compare(entry, self.store.get(entry.run_id))
            if failure is None:
                self.store.finish(entry.run_id)
            else:
                self.store.fail(entry.run_id, failure)
            entry.ended = True

    def _compare(self, entry: Entry, run: StoredRun) -> None:
        """Compare with the baseline, if that is finished."""
        baseline = next((e for e in self.entries if e.planned.name == entry.planned.baseline), None)
        if baseline is not None and baseline.run_id is not None and baseline.ended and not baseline.failure:
            comparison.update(self.store, run, baseline.run_id, self.plan.config)


def identity(planned: PlannedConfiguration, plan: Plan) -> dict[str, Any]:
    """Return the params that say which configuration it is; the same names on every run."""
    return {
        "model": planned.source.reference,
        "revision": planned.source.revision or planned.source.fingerprint,
        "precision": planned.precision.name,
        "method": planned.precision.method,
        "engine": planned.engine,
        "hardware": plan.measure.hardware.label,
    }


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names; None is left out, tasks become words such as ``gsm8k:5``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif value is not None:
            found[name] = [_task_text(v) for v in value] if isinstance(value, list | tuple) else value
    return found


def _task_text(value: Any) -> Any:
    """A task as one word of a param: ``mmlu:5`` for five examples in the prompt."""
    if isinstance(value, Mapping) and "name" in value:
        shots = value.get("num_fewshot")
        return value["name"] if shots is None else f"{value['name']}:{shots}"
    return value
