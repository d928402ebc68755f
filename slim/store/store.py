"""Writing runs. One process writes; every call is complete by itself."""

import contextlib
import getpass
import json
import os
import socket
import time
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil
from mlflow.entities import Dataset as MlflowDataset
from mlflow.entities import DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from slim import advice, provenance
from slim import metrics as metric_table
from slim.errors import StoreError
from slim.jobs import Spooled
from slim.records import Dataset, Failure
from slim.redaction import redact, redacted, scrub
from slim.store import checkpoints
from slim.store.connection import check_address, open_client, translated
from slim.store.contract import SCHEMA, STAGES, TAG, Kind, StoredRun
from slim.store.reading import Reader

STALE_S = 600.0
"""A run without a heartbeat for this long, on another host, counts as abandoned."""

_TEXTS = {".log", ".txt", ".json", ".jsonl", ".md", ".csv", ".html"}
RESUMED = "resumed."
"""Beginning of the params that say which sweeps went on with a configuration's run, in order."""

_NOTE_CHARS = 4000


class Store(Reader):
    """An experiment of a tracking store, to read and to write; `Store.open` makes one."""

    def begin(
        self,
        kind: Kind,
        name: str,
        *,
        parent: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        start_unix_s: float | None = None,
        join: str | None = None,
    ) -> str:
        """Start a run and return its id.

        Args:
            kind: what it is.
            name: shown in the UI.
            parent: run that it is nested in.
            params: identifying params.
            tags: further tags.
            start_unix_s: when the work began; None is now.
            join: id of a run that exists already (the one that ``mlflow run`` made) and becomes this one; when it lies in another
                experiment, it is only told where this one is.
        """
        with translated(f"starting the {kind} run {name!r}"):
            everything = {
                **_context_tags(),
                TAG.KIND: kind,
                TAG.SCHEMA: str(SCHEMA),
                **self.liveness(),
                **({TAG.PARENT: parent} if parent else {}),
                **(tags or {}),
                "mlflow.runName": name,
            }
            everything = redacted(everything)
            joined = self.client.get_run(join) if join is not None else None
            if joined is not None and joined.info.experiment_id == self.experiment_id:
                run_id = str(joined.info.run_id)
                # Who started it is already there and says more than this process knows; params cannot be changed.
                everything = {k: v for k, v in everything.items() if not k.startswith("mlflow.source") and k != "mlflow.user"}
                params = {k: v for k, v in (params or {}).items() if k not in joined.data.params}
                self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in everything.items()])
            else:
                started = None if start_unix_s is None else int(1000 * start_unix_s)
                run_id = str(
                    self.client.create_run(self.experiment_id, start_time=started, tags=everything, run_name=name).info.run_id
                )
            self.log(run_id, params=params)
            if joined is not None and run_id != joined.info.run_id:
                note = f"The {kind} is run {run_id} of experiment {self.experiment}."
                self.log(joined.info.run_id, tags={TAG.MOVED: run_id, TAG.NOTE: note})
            return run_id

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        model_id: str | None = None,
    ) -> None:
        """Add params, metrics and tags to a run; what is None is left out.

        Args:
            run_id: the run.
            params: new ones; a param that is there already keeps its value.
            metrics: by key of `slim.metrics`.
            tags: set or replaced.
            model_id: LoggedModel that the metrics belong to.
        """
        now = int(1000 * time.time())
        values = metric_table.check(metrics or {})
        params, tags = redacted(params or {}), redacted(tags or {})
        with translated(f"logging to run {run_id}"):
            self.client.log_batch(
                run_id,
                metrics=[Metric(k, v, now, 0, model_id=model_id, run_id=run_id if model_id else None) for k, v in values.items()],
                params=[Param(k, _text(v)) for k, v in params.items() if v is not None],
                tags=[RunTag(k, v) for k, v in tags.items()],
            )

    def untag(self, run_id: str, tags: Iterable[str]) -> None:
        """Remove tags that a run has."""
        with translated(f"removing tags of run {run_id}"):
            for tag in tags:
                self.client.delete_tag(run_id, tag)

    def log_artifacts(self, run_id: str, directory: Path, path: str | None = None) -> None:
        """Copy the files of a directory, if it is there, into the run's artifacts, secrets taken out of those that are text."""
        if not directory.is_dir():
            return
        for file in directory.rglob("*"):
            if file.suffix in _TEXTS:
                scrub(file)
        if any(directory.iterdir()):
            with translated(f"writing artifacts of run {run_id}"):
                self.client.log_artifacts(run_id, str(directory), path)

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Write one text artifact."""
        with translated(f"writing artifact {path} of run {run_id}"):
            self.client.log_text(run_id, redact(text), path)

    def finish(
        self, run_id: str, *, failure: str | None = None, message: str = "", note: str = "", end_unix_s: float | None = None
    ) -> None:
        """End a run: FINISHED, or FAILED with a typed reason; ``interrupted`` ends it as KILLED.

        Args:
            run_id: the run.
            failure: reason; None ends it well.
            message: one line about it.
            note: description of a run that failed, as Markdown.
            end_unix_s: when the work ended; None is now.
        """
        if failure:
            self.log(
                run_id,
                tags={
                    TAG.FAILURE: failure,
                    TAG.FAILURE_MESSAGE: message[:1000],
                    **({TAG.NOTE: note[:_NOTE_CHARS]} if note else {}),
                },
            )
        status = "FINISHED" if not failure else "KILLED" if failure == "interrupted" else "FAILED"
        with translated(f"ending run {run_id}"):
            self.client.set_terminated(run_id, status, None if end_unix_s is None else int(1000 * end_unix_s))

    def fail(self, run_id: str, failure: Failure, end_unix_s: float | None = None) -> None:
        """End a run with a failure: reason and message as tags; as description also what to do about it, and the log's end."""
        self.finish(
            run_id, failure=failure.reason.value, message=failure.message, note=advice.describe(failure), end_unix_s=end_unix_s
        )

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
        try:
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
        except BaseException:
            self._undo(run_id, keep=join is not None)
            raise
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
        try:
            self.log_artifacts(run_id, directory)
            self.finish(run_id)
        except Exception:
            self._undo(run_id, keep=join is not None)
            raise
        return self.get(run_id)

    def log_datasets(self, run_id: str, datasets: Iterable[Dataset]) -> None:
        """Log data sets as inputs of a run."""
        inputs = [
            DatasetInput(
                MlflowDataset(
                    name=d.name,
                    digest=d.digest[:36],
                    source_type="local",
                    source=json.dumps({"uri": redact(d.source)}),
                    profile=json.dumps({"num_rows": d.items}),
                ),
                [InputTag("mlflow.data.context", d.context)],
            )
            for d in datasets
        ]
        if inputs:
            with translated(f"logging data sets of run {run_id}"):
                self.client.log_inputs(run_id, inputs)

    def _undo(self, run_id: str, keep: bool) -> None:
        """Remove a run that could not be written whole, as far as the store still answers."""
        # The first error is the one to report, and the store may be away; then `own_leftovers` finds it later.
        with contextlib.suppress(Exception):
            self._remove_models(run_id)
            self.client.set_terminated(run_id, "FAILED")
            if not keep:
                self.client.delete_run(run_id)

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

    # Liveness

    def liveness(self) -> dict[str, str]:
        """Tags that say who works on a run."""
        process = psutil.Process()
        return {
            TAG.HOST: socket.gethostname(),
            TAG.PID: f"{process.pid}:{int(process.create_time())}",
            TAG.HEARTBEAT: str(int(time.time())),
        }

    def heartbeat(self, run_ids: Iterable[str]) -> None:
        """Say that this process still works on these runs; a store that is away is not an error here."""
        for run_id in run_ids:
            try:
                self.client.set_tag(run_id, TAG.HEARTBEAT, str(int(time.time())))
            except Exception:  # noqa: BLE001 - the work matters more, and the next beat may pass
                return

    def abandoned(self) -> list[StoredRun]:
        """Return runs that still say RUNNING although whoever worked on them is gone."""
        return [
            run for run in self.search(f"attributes.status = 'RUNNING' and tags.`{TAG.SCHEMA}` = '{SCHEMA}'") if not _alive(run)
        ]

    def own_leftovers(self, known: Container[str]) -> list[StoredRun]:
        """Return runs that this process began, that say RUNNING, and that it does not know of: their beginning came with an error.

        Args:
            known: ids of the runs that it works on.
        """
        own = self.liveness()[TAG.PID]
        query = f"attributes.status = 'RUNNING' and tags.`{TAG.PID}` = '{own}' and tags.`{TAG.HOST}` = '{socket.gethostname()}'"
        return [run for run in self.search(query) if run.run_id not in known]

    def find_interrupted(self, kind: Kind, key: str) -> StoredRun | None:
        """Return the newest run of that kind and key that was cut off: abandoned, or ended as interrupted."""
        query = f"tags.`{TAG.KIND}` = '{kind}' and tags.`{TAG.KEY}` = '{key}' and attributes.status != 'FINISHED'"
        for run in self.search(query):
            if run.tags.get(TAG.FAILURE) == "interrupted" or (run.status == "RUNNING" and not _alive(run)):
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
        missing = {k: v for k, v in (params or {}).items() if k not in run.params}
        self.log(run.run_id, params=missing, tags={**self.liveness(), TAG.PARENT: parent})
        return True


def experiment_of(tracking_uri: str, join: str | None, named: str) -> str:
    """Return the name of the experiment to write to.

    Args:
        tracking_uri: of the store.
        join: run that ``mlflow run`` made; its experiment goes before ``named``, unless it is MLflow's Default, which is where
            runs go when nobody named one.
        named: the sweep file's.

    Raises:
        StoreConfigError: the store cannot be opened.
    """
    if join is None:
        return named
    client = open_client(check_address(tracking_uri))
    with translated(f"reading run {join}"):
        experiment = client.get_experiment(client.get_run(join).info.experiment_id)
    return named if experiment.experiment_id == "0" else str(experiment.name)


def explain_run(tracking_uri: str, run_id: str, note: str, moved_to: str | None = None) -> None:
    """Say on a run that ``mlflow run`` made why it holds nothing. It cannot be deleted: MLflow ends it after us, and fails if it is gone.

    Args:
        tracking_uri: of the store.
        run_id: the run.
        note: shown as its description.
        moved_to: run that holds the result instead.
    """
    client = open_client(check_address(tracking_uri))
    with translated(f"writing to run {run_id}"):
        client.set_tag(run_id, TAG.NOTE, redact(note))
        if moved_to is not None:
            client.set_tag(run_id, TAG.MOVED, moved_to)


def _alive(run: StoredRun) -> bool:
    """Whether the process that a run names still works on it."""
    heartbeat, (pid, _, created) = run.tags.get(TAG.HEARTBEAT, ""), run.tags.get(TAG.PID, "").partition(":")
    if run.tags.get(TAG.HOST) != socket.gethostname():
        return heartbeat.isdecimal() and time.time() - int(heartbeat) < STALE_S
    if not (pid.isdecimal() and created.isdecimal()):
        return False
    if int(pid) == os.getpid():
        return True
    try:
        # A pid is used again; the time at which the process started is not.
        return int(psutil.Process(int(pid)).create_time()) == int(created)
    except (psutil.NoSuchProcess, OverflowError):
        return False


def _context_tags() -> dict[str, str]:
    """What MLflow's UI shows about where a run came from."""
    commit = provenance.commit()
    return {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.type": "PROJECT",
        "mlflow.source.name": "slim",
        **({"mlflow.source.git.commit": commit.removesuffix("-dirty"), TAG.COMMIT: commit} if commit else {}),
    }


def _text(value: Any) -> str:
    """A param's value as text: what YAML would show, so that a person can copy it back."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(_text(v) for v in value)
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return str(value)


__all__ = ["Store", "experiment_of", "explain_run"]
