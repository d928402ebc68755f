"""Opening a store, and reading runs and what they wrote."""

import contextlib
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from slim import files
from slim.errors import NotStoredError, StoreAwayError, StoreConfigError
from slim.store import bulk, checkpoints, tables
from slim.store.bulk import Snapshot
from slim.store.connection import check_address, open_client, shown, sqlite_path, translated
from slim.store.contract import SCHEMA, TAG, Kind, StoredRun

_PAGE = 1000
_ASK_AGAIN_S = 30.0


class Reader:
    """An experiment of a tracking store.

    Args:
        tracking_uri: checked by `Store.open`.
        experiment: name.
        client: MLflow's; None opens it when it is first needed.
        experiment_id: of the experiment.
    """

    def __init__(self, tracking_uri: str, experiment: str, client: Any, experiment_id: str | None) -> None:
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self._client = client
        self._experiment_id = experiment_id
        self._away: StoreAwayError | None = None
        self._away_s = 0.0

    @property
    def client(self) -> Any:
        """MLflow's client; opened now where nobody answered before.

        Raises:
            StoreError: still nobody answers.
        """
        if self._client is None:
            if self._away is not None and time.monotonic() - self._away_s < _ASK_AGAIN_S:
                raise self._away
            try:
                opened = type(self).open(self.tracking_uri, self.experiment)
            except StoreAwayError as error:
                # Asking takes its time, and a sweep asks often.
                self._away, self._away_s = error, time.monotonic()
                raise
            assert opened is not None
            self._client, self._experiment_id = opened._client, opened._experiment_id
        return self._client

    @property
    def experiment_id(self) -> str | None:
        """MLflow's id of the experiment.

        Raises:
            StoreError: as `client`.
        """
        return self._experiment_id if self.client is not None else None

    @classmethod
    def later(cls, tracking_uri: str, experiment: str) -> Self:
        """Return a store that nobody answers for yet; it is opened, and made where it is not there, when it is first needed.

        Args:
            tracking_uri: address.
            experiment: name.
        """
        return cls(check_address(tracking_uri), experiment, None, None)

    @property
    def address(self) -> str:
        """The store's address as it may be shown: without user name and password."""
        return shown(self.tracking_uri)

    @property
    def ui_address(self) -> str:
        """Where MLflow's UI shows the store: at its server, else where ``mlflow ui`` listens unless told otherwise."""
        return self.address.rstrip("/") if self.address.startswith("http") else "http://127.0.0.1:5000"

    @classmethod
    def open(cls, tracking_uri: str, experiment: str, *, create: bool = True) -> Self | None:
        """Open the store.

        Args:
            tracking_uri: address.
            experiment: name.
            create: make database and experiment when absent; otherwise return None where there is nothing to read.

        Raises:
            StoreAwayError: nobody answers.
            StoreConfigError: it cannot be written, or the experiment was deleted.
        """
        address = check_address(tracking_uri)
        path = sqlite_path(address)
        if not create and path is not None and not path.exists():
            return None
        client = open_client(address)
        with translated("looking up the experiment"):
            found = client.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage != "active":
            raise StoreConfigError(
                f"experiment {experiment!r} is deleted; restore it with `mlflow experiments restore`, or name another"
            )
        if found is None and not create:
            return None
        if found is None:
            # MLflow's default is relative to the working directory of whoever reads it.
            location = (path.parent / "mlartifacts" / _folder(experiment)).as_uri() if path is not None else None
            _check_writable(location, experiment)
            with translated(f"making experiment {experiment!r}"):
                experiment_id = _made(client, experiment, location)
        else:
            if create:
                _check_writable(found.artifact_location, experiment)
            experiment_id = found.experiment_id
        return cls(address, experiment, client, experiment_id)

    def artifact_directory(self) -> Path | None:
        """Return where the experiment's artifacts lie on this machine; None where a server or another machine keeps them."""
        with translated("looking up the experiment"):
            experiment = self.client.get_experiment(self.experiment_id)
        return checkpoints.local_directory(experiment.artifact_location)

    def search(
        self, filter_string: str, limit: int | None = None, order_by: Sequence[str] = (), *, deleted: bool = False
    ) -> list[StoredRun]:
        """Return the runs of the experiment that an MLflow filter finds, newest first unless ordered otherwise.

        Args:
            filter_string: MLflow's.
            limit: at most so many; None is all.
            order_by: MLflow's.
            deleted: the deleted runs instead of the active ones.
        """
        view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        found: list[StoredRun] = []
        token = None
        with translated("searching runs"):
            while True:
                size = min(_PAGE, limit - len(found)) if limit else _PAGE
                page = self.client.search_runs(
                    [self.experiment_id], filter_string, view, max_results=size, order_by=list(order_by), page_token=token
                )
                found += [stored(run) for run in page]
                token = page.token
                if not token or (limit and len(found) >= limit):
                    return found

    def snapshot(self, kinds: Sequence[Kind], known: Snapshot | None = None) -> Snapshot:
        """Return all runs of these kinds; with an earlier snapshot of them only what changed is read (see `slim.store.bulk`).

        Raises:
            StoreError: the store is away.
        """
        path = sqlite_path(self.tracking_uri)
        if self.experiment_id is not None:
            # Tables of an MLflow that this project does not know are left to MLflow, as is a database that does not let them be read.
            with contextlib.suppress(tables.UnreadableError):
                if path is not None:
                    return tables.read_sqlite(path, self.experiment_id, kinds, known)
                if self.tracking_uri.startswith("postgresql"):
                    return tables.read_postgresql(self.tracking_uri, self.experiment_id, kinds, known)
        return bulk.read_searched(self.search, kinds, known)

    def get(self, run_id: str) -> StoredRun:
        """Return one run.

        Raises:
            NotStoredError: there is none, or it was deleted.
            StoreError: the store is away.
        """
        with translated(f"reading run {run_id}"):
            try:
                run = self.client.get_run(run_id)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    raise NotStoredError(f"tracking store: there is no run {run_id}") from error
                raise
            if run.info.lifecycle_stage != "active":
                # MLflow shows it until it is purged, and takes nothing for it.
                raise NotStoredError(f"tracking store: run {run_id} was deleted")
            return stored(run)

    def find_finished(self, kind: Kind, key: str) -> StoredRun | None:
        """Return the newest finished run of that kind and key whose checkpoint, if it made one, is still there.

        Raises:
            StoreError: the store is away, or whatever keeps the checkpoint.
        """
        query = f"tags.`{TAG.KIND}` = '{kind}' and tags.`{TAG.KEY}` = '{key}' and attributes.status = 'FINISHED'"
        query += f" and tags.`{TAG.SCHEMA}` = '{SCHEMA}'"
        for run in self.search(query, limit=5):
            if kind != "quantize" or self.has_checkpoint(run):
                return run
        return None

    def configurations(self, sweep_run: str | None = None) -> list[StoredRun]:
        """Return configuration runs, of one sweep or of the experiment."""
        query = f"tags.`{TAG.KIND}` = 'configuration'"
        return self.search(query + (f" and tags.`{TAG.PARENT}` = '{sweep_run}'" if sweep_run else ""))

    def has_checkpoint(self, run: StoredRun) -> bool:
        """Whether the checkpoint that a quantize run wrote is still there.

        Raises:
            StoreError: as `find_finished`.
        """
        return bool(run.model_ids) and checkpoints.exists(self.client, run.model_ids[0])

    def checkpoint_path(self, run: StoredRun, cache: Path) -> Path:
        """Return a local directory with the checkpoint of a quantize run; downloaded into ``cache`` from a remote artifact store."""
        with translated(f"fetching the checkpoint of run {run.run_id}"):
            return checkpoints.local_path(self.client, run.model_ids[0], cache)

    def artifact(self, run: StoredRun, path: str, cache: Path) -> Path:
        """Return a local copy of one file that a run wrote.

        Args:
            run: whose.
            path: of the file among its artifacts.
            cache: directory into which it is downloaded from a remote artifact store, once; a local store's own file is
                returned as it is.

        Raises:
            NotStoredError: the run has no such file.
            StoreError: it cannot be fetched.
        """
        missing = NotStoredError(f"run {run.run_id} has no artifact {path!r}")
        try:
            target = files.inside(cache, run.run_id, path)
        except ValueError:
            raise missing from None
        if (local := checkpoints.local_directory(run.artifact_uri)) is not None:
            if not (local / path).is_file():
                raise missing
            return local / path
        if not target.exists():
            from mlflow.artifacts import download_artifacts

            with translated(f"fetching {path} of run {run.run_id}"):
                folder = path.rpartition("/")[0]
                if all(file.path != path for file in self.client.list_artifacts(run.run_id, folder or None)):
                    raise missing
                target.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=target.parent) as aside:
                    fetched = download_artifacts(
                        run_id=run.run_id, artifact_path=path, dst_path=aside, tracking_uri=self.tracking_uri
                    )
                    Path(fetched).replace(target)
        return target


def _made(client: Any, experiment: str, location: str | None) -> str:
    """Make an experiment, unless somebody else did a moment ago."""
    try:
        return str(client.create_experiment(experiment, artifact_location=location))
    except MlflowException:
        found = client.get_experiment_by_name(experiment)
        if found is None:
            raise
        return str(found.experiment_id)


def _check_writable(location: str | None, experiment: str) -> None:
    """Refuse a local artifact store that cannot be written, before hours of work are put into it."""
    local = checkpoints.local_directory(location) if location is not None else None
    if local is not None and not files.writable(local):
        raise StoreConfigError(
            f"artifacts of experiment {experiment!r} go to {str(local)!r}, which cannot be written; make it writable, or name another "
            "experiment"
        )


def _folder(experiment: str) -> str:
    """A folder's name that stays where it is put, whatever the experiment is called."""
    name = re.sub(r"[^\w .-]", "_", experiment)
    return name if name.strip(" .") else "_"


def stored(run: Any) -> StoredRun:
    """Return MLflow's run as a record."""
    outputs = getattr(run, "outputs", None)
    return StoredRun(
        run_id=run.info.run_id,
        kind=run.data.tags.get(TAG.KIND, ""),
        name=run.info.run_name or "",
        status=run.info.status,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
        start_unix_s=(run.info.start_time or 0) / 1000,
        end_unix_s=run.info.end_time / 1000 if run.info.end_time else None,
        model_ids=tuple(o.model_id for o in outputs.model_outputs) if outputs else (),
        artifact_uri=run.info.artifact_uri,
    )
