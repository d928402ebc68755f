"""Writing to a run: every call is complete by itself."""

import getpass
import json
import os
import time
from collections.abc import Iterable, Mapping
from math import nan
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset as MlflowDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag

from slim import advice, provenance
from slim import metrics as metric_table
from slim.records import Dataset, Failure
from slim.redaction import redact, redacted, scrub
from slim.store import liveness
from slim.store.connection import translated
from slim.store.contract import SCHEMA, TAG, Kind
from slim.store.reading import Reader

_TEXTS = {".log", ".txt", ".json", ".jsonl", ".md", ".csv", ".html"}
_NOTE_CHARS = 4000


class Writer(Reader):
    """An experiment of a tracking store, to read and to write one thing after the other; arguments as `Reader`."""

    def __init__(self, tracking_uri: str, experiment: str, client: Any, experiment_id: str | None) -> None:
        super().__init__(tracking_uri, experiment, client, experiment_id)
        self._beating = False
        self._at_work: set[str] = set()
        """Runs that this process began or took over and did not end."""

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
                **liveness.tags(),
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
            self._at_work.add(run_id)
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

    def withdraw(self, run_id: str, metrics: Iterable[str]) -> None:
        """Mark metrics of a run as unknown from now on.

        MLflow deletes no metric, so NaN is logged after the last value, and `slim.store.contract.StoredRun` leaves out what is NaN. A
        LoggedModel keeps the last value: there MLflow has no NaN.
        """
        now = int(1000 * time.time())
        withdrawn = [Metric(key, nan, now, 0) for key in metrics]
        if withdrawn:
            with translated(f"withdrawing metrics of run {run_id}"):
                self.client.log_batch(run_id, metrics=withdrawn)

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

        One that ends well loses the reason that another machine wrote when it took the run for abandoned.

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
        else:
            known = self.get(run_id).tags
            self.untag(run_id, [tag for tag in (TAG.FAILURE, TAG.FAILURE_MESSAGE) if tag in known])
        status = "FINISHED" if not failure else "KILLED" if failure == "interrupted" else "FAILED"
        with translated(f"ending run {run_id}"):
            self.client.set_terminated(run_id, status, None if end_unix_s is None else int(1000 * end_unix_s))
        self._at_work.discard(run_id)

    def fail(self, run_id: str, failure: Failure, end_unix_s: float | None = None) -> None:
        """End a run with a failure: reason and message as tags; as description also what to do about it, and the log's end."""
        self.finish(
            run_id, failure=failure.reason.value, message=failure.message, note=advice.describe(failure), end_unix_s=end_unix_s
        )

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


def _context_tags() -> dict[str, str]:
    """What MLflow's UI shows about where a run came from."""
    commit = provenance.commit()
    return {
        "mlflow.user": _user(),
        "mlflow.source.type": "PROJECT",
        "mlflow.source.name": "slim",
        **({"mlflow.source.git.commit": commit.removesuffix("-dirty"), TAG.COMMIT: commit} if commit else {}),
    }


def _user() -> str:
    """The user's name; the number of one without an entry in the password database, as containers have."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _text(value: Any) -> str:
    """A param's value as text: what YAML would show, so that a person can copy it back."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(_text(v) for v in value)
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return str(value)
