"""Runs as wholes: written from a result, given up, taken over. One process writes a run."""

import contextlib
import threading
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException

from slim.errors import StoreError
from slim.jobs import Spooled
from slim.store import checkpoints, liveness
from slim.store.connection import translated
from slim.store.contract import SCHEMA, STAGES, TAG, Kind, StoredRun
from slim.store.writing import Writer

RESUMED = "resumed."
"""Beginning of the params that say which sweeps went on with a configuration's run, in order."""


class Store(Writer):
    """An experiment of a tracking store, to read and to write; `Store.open` makes one."""

    def log_stage(
        self,
        spooled: Spooled,
        *,
        name: str,
        parent: str | None,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        join: str | None = None,
    ) -> StoredRun:
        """Write a stage's run from the spool, whole: params, metrics, data sets, artifacts, checkpoint.

        A run that could not be written whole is removed again, so that nothing half-written is left to be found.

        Args:
            spooled: the result.
            name: of the configuration.
            parent: configuration run.
            params: identifying params of the configuration.
            tags: further tags.
            join: as `begin`.
        """
        result = spooled.result
        everything = {TAG.KEY: result.key, TAG.CONFIG: name, **tags, **result.tags}
        run_id = self.begin(
            result.stage,
            f"{result.stage} {name}",
            parent=parent,
            params={**params, **result.params},
            tags=everything,
            start_unix_s=result.started_unix_s,
            join=join,
        )
        with self._whole(run_id, keep=join is not None):
            model_id = None
            if spooled.checkpoint is not None:
                with translated("writing the checkpoint"):
                    model_id = checkpoints.write(
                        self.client,
                        str(self.experiment_id),
                        run_id,
                        spooled.checkpoint,
                        name=name,
                        params=params,
                        key=result.key,
                    )
                    self.client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
            self.log(run_id, metrics=result.metrics, model_id=model_id)
            self.log_datasets(run_id, result.datasets)
            self.log_artifacts(run_id, spooled.artifacts)
            failure = result.failure
            if failure is None:
                self.finish(run_id, end_unix_s=result.ended_unix_s)
            else:
                self.fail(run_id, failure, end_unix_s=result.ended_unix_s)
        return self.get(run_id)

    def log_study(
        self,
        directory: Path,
        *,
        name: str,
        params: Mapping[str, Any],
        recommended: Mapping[str, str],
        note: str = "",
        join: str | None = None,
    ) -> StoredRun:
        """Write a study's run, whole: params, files, and the recommended configurations' runs as tags.

        A run that could not be written whole is removed again.

        Args:
            directory: its files.
            name: of the run.
            params: what was asked of what.
            recommended: configuration runs by deployment.
            note: description of the run.
            join: as `begin`.
        """
        tags = {f"{TAG.RECOMMENDED}{deployment}": run_id for deployment, run_id in recommended.items()}
        run_id = self.begin("study", name, params=params, tags={**tags, **({TAG.NOTE: note} if note else {})}, join=join)
        with self._whole(run_id, keep=join is not None):
            self.log_artifacts(run_id, directory)
            self.finish(run_id)
        return self.get(run_id)

    @contextlib.contextmanager
    def _whole(self, run_id: str, keep: bool) -> Iterator[None]:
        """Remove a run that could not be written whole, as far as the store still answers, so that nothing half-written is left."""
        try:
            with self.beating():
                yield
        except BaseException:
            self._at_work.discard(run_id)
            # The first error is the one to report, and the store may be away; then `own_leftovers` finds it later.
            with contextlib.suppress(Exception):
                self._remove_models(run_id)
                self.client.set_terminated(run_id, "FAILED")
                if not keep:
                    self.client.delete_run(run_id)
            raise

    def _remove_models(self, run_id: str) -> None:
        """Remove the LoggedModels that a run began to write."""
        assert self.experiment_id is not None
        for model in self.client.search_logged_models([self.experiment_id], filter_string=f"source_run_id = '{run_id}'"):
            self.client.delete_logged_model(model.model_id)

    def give_up(self, run: StoredRun, message: str) -> None:
        """End a run that nobody writes any more; a stage's, which is written in one go, is removed with what it left half-written.

        Raises:
            StoreError: the store is away.
        """
        self.finish(run.run_id, failure="interrupted", message=message)
        if run.kind in STAGES:
            with translated(f"removing run {run.run_id}"):
                self._remove_models(run.run_id)
                if TAG.PARENT in run.tags:
                    self.client.delete_run(run.run_id)

    # Who works on what

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Say all through the block that this process works on the runs that it began or took over and did not end.

        A thread of its own does: a file may take longer to send or to fetch than a run without a sign of life counts as alive, and a
        store that is slow or away keeps nobody from the work. A block inside another adds nothing.
        """
        if self._beating:
            yield
            return
        over = threading.Event()

        def beat() -> None:
            while not over.wait(liveness.BEAT_S):
                self.heartbeat(tuple(self._at_work))

        self._beating = True
        threading.Thread(target=beat, name="slim-heartbeat", daemon=True).start()
        try:
            yield
        finally:
            self._beating = False
            over.set()

    def heartbeat(self, run_ids: Iterable[str]) -> None:
        """Say that this process still works on these runs; one that is gone and a store that is away are no errors here."""
        for run_id in run_ids:
            # The work matters more, and the next beat may pass.
            with contextlib.suppress(Exception):
                self.client.set_tag(run_id, TAG.HEARTBEAT, liveness.beat())

    def abandoned(self) -> list[StoredRun]:
        """Return runs that still say RUNNING although whoever worked on them is gone."""
        return [
            run
            for run in self.search(f"attributes.status = 'RUNNING' and tags.`{TAG.SCHEMA}` = '{SCHEMA}'")
            if not liveness.alive(run)
        ]

    def own_leftovers(self, known: Container[str]) -> list[StoredRun]:
        """Return runs that this process began, that say RUNNING, and that it does not know of: their beginning came with an error.

        Args:
            known: ids of the runs that it works on.
        """
        query = f"attributes.status = 'RUNNING' and tags.`{TAG.PID}` = '{liveness.tags()[TAG.PID]}'"
        return [run for run in self.search(query) if liveness.is_own(run) and run.run_id not in known]

    def find_interrupted(self, kind: Kind, key: str) -> StoredRun | None:
        """Return the newest run of that kind and key that was cut off: abandoned, or ended as interrupted."""
        query = f"tags.`{TAG.KIND}` = '{kind}' and tags.`{TAG.KEY}` = '{key}' and attributes.status != 'FINISHED'"
        for run in self.search(query):
            if run.tags.get(TAG.FAILURE) == "interrupted" or (run.status == "RUNNING" and not liveness.alive(run)):
                return run
        return None

    def adopt(self, run: StoredRun, parent: str, params: Mapping[str, Any] | None = None) -> bool:
        """Go on with an interrupted run, under another parent; False when somebody else does so already.

        Args:
            run: as `find_interrupted` returns it.
            parent: the run's new one.
            params: those that it should have; whoever began it may not have come to write them.
        """
        # A param cannot be changed, so of two that take the run at the same time one gets an error.
        count = sum(key.startswith(RESUMED) for key in run.params) + 1
        try:
            self.client.log_param(run.run_id, f"{RESUMED}{count}", parent)
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                return False
            raise StoreError(f"tracking store: going on with run {run.run_id} failed: {error}") from error
        with translated(f"going on with run {run.run_id}"):
            self.client.update_run(run.run_id, status="RUNNING")
            for tag in (TAG.FAILURE, TAG.FAILURE_MESSAGE, TAG.NOTE):
                if tag in run.tags:
                    self.client.delete_tag(run.run_id, tag)
        self._at_work.add(run.run_id)
        missing = {k: v for k, v in (params or {}).items() if k not in run.params}
        self.log(run.run_id, params=missing, tags={**liveness.tags(), TAG.PARENT: parent})
        return True
