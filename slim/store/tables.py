"""Runs read out of MLflow's own tables, a query each, where MLflow builds objects run by run (`benchmarks/study_scale.py`).

Nothing is written. Everything that happens to a run is noticed, and only what changed is read again. Runs and tags are read whole. To
params and metrics MLflow only ever adds rows: in **SQLite** those after the last row seen are new, and where that row is no longer what
it was (``mlflow gc``, ``VACUUM``) all is read again; in **PostgreSQL** a run whose rows are no longer as many is read again. Of a SQLite
file its state tells beforehand whether anything happened at all.
"""

import math
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from slim.store.bulk import Snapshot, newest_first
from slim.store.contract import TAG, StoredRun

SETTLED_S = 2.0
"""A file changed more recently than this may change again without its time of change telling: clocks of file systems are coarse."""

_HEADER_BYTES = 100
_WAL_HEADER_BYTES = 32
_APPENDED = ("params", "metrics")
"""Tables to which rows are only added."""
_OF_CHOSEN = "run_uuid IN (SELECT run_uuid FROM chosen)"
_FEW = 0.25
"""Of the runs: when more are new, their rows are read together with all others."""


class UnreadableError(Exception):
    """The tables cannot be read; MLflow may know how."""


def file_state(path: Path) -> str | None:
    """Return what changes whenever a SQLite file does: identity, sizes, times of change, the header with SQLite's own counter.

    None while the file is being written or was just now, so that a change in the same tick of the clock is not missed.
    """
    wal, journal = (path.with_name(path.name + ending) for ending in ("-wal", "-journal"))
    parts: list[object] = []
    try:
        if journal.exists() and journal.stat().st_size:
            return None
        for file, length in ((path, _HEADER_BYTES), *([(wal, _WAL_HEADER_BYTES)] if wal.exists() else [])):
            status = file.stat()
            if time.time() - status.st_mtime < SETTLED_S:
                return None
            with file.open("rb") as opened:
                parts += [status.st_ino, status.st_size, status.st_mtime_ns, opened.read(length).hex()]
    except OSError:
        return None
    return ":".join(map(str, parts))


def read_sqlite(path: Path, experiment_id: str, kinds: Sequence[str], known: Snapshot | None = None) -> Snapshot:
    """Return the active runs of these kinds, newest first: what MLflow's search returns, as of one moment.

    Args:
        path: of the SQLite file.
        experiment_id: of the experiment.
        kinds: values of the tag ``slim.kind``.
        known: an earlier snapshot of the same kinds; None reads everything.

    Raises:
        UnreadableError: the file cannot be read, or its tables are not those that this module knows.
    """
    state = file_state(path)
    if known is not None and state is not None and known.state == state:
        return known
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30.0)) as connection:
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("BEGIN")  # the queries see one state of the store
            return _Sqlite(connection, int(experiment_id), kinds).snapshot(known, state)
    except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
        raise UnreadableError(f"the tables of {path} cannot be read: {error}") from error


def read_postgresql(address: str, experiment_id: str, kinds: Sequence[str], known: Snapshot | None = None) -> Snapshot:
    """Return the same out of a PostgreSQL database.

    Args:
        address: as MLflow takes it.
        experiment_id, kinds, known: as for `read_sqlite`.

    Raises:
        UnreadableError: the database cannot be read, or its tables are not those that this module knows.
    """
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool)
        driver: type[Exception] = engine.dialect.import_dbapi().Error
    except (SQLAlchemyError, ImportError) as error:
        raise UnreadableError("there is no driver for the database") from error
    try:
        # The queries see one state of the store.
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            return _PostgreSQL(connection.connection, int(experiment_id), kinds).snapshot(known)
    except (SQLAlchemyError, driver, KeyError, TypeError, ValueError) as error:
        raise UnreadableError("the tables of the database cannot be read") from error


class _Tables(ABC):
    """MLflow's tables, within one transaction.

    Args:
        connection: of the database's driver.
        experiment: number.
        kinds: of the runs that are read.
    """

    parameter = "?"
    """How the driver marks a parameter of a query."""

    def __init__(self, connection: Any, experiment: int, kinds: Sequence[str]) -> None:
        self._connection = connection
        sign = self.parameter
        self.rows("CREATE TEMP TABLE chosen (run_uuid VARCHAR(32) PRIMARY KEY)")
        self.rows(
            "INSERT INTO chosen SELECT r.run_uuid FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid"
            f" WHERE r.experiment_id = {sign} AND r.lifecycle_stage = 'active' AND t.key = {sign}"
            f" AND t.value IN ({','.join([sign] * len(kinds))})",
            (experiment, TAG.KIND, *kinds),
        )

    @abstractmethod
    def mark(self) -> dict[str, Any]:
        """What tells the next reading which params and metrics came later."""

    @abstractmethod
    def touched(self, known: Snapshot, now: Mapping[str, Any]) -> set[str] | None:
        """Runs with params or metrics that came after a snapshot, given the present mark; None where that cannot be told."""

    def snapshot(self, known: Snapshot | None, state: str | None = None) -> Snapshot:
        """Return the runs as they are; those that are as they were are the known snapshot's own objects."""
        heads, tags, models, mark = self._heads(), self._values("tags"), self._models(), self.mark()
        touched = self.touched(known, mark) if known is not None else None
        old = {run.run_id: run for run in known.runs} if known is not None and touched is not None else {}
        new = {head[0] for head in heads if head[0] not in old} | (touched or set()) & tags.keys()
        few = None if len(new) > _FEW * len(heads) else new
        params, metrics = self._values("params", few), self._values("latest_metrics", few)
        runs = []
        for run_id, name, status, started, ended, artifact_uri in heads:
            of_run: dict[str, Any] = {
                "kind": tags[run_id][TAG.KIND],
                "name": name or "",
                "status": status,
                "tags": tags[run_id],
                "start_unix_s": (started or 0) / 1000,
                "end_unix_s": ended / 1000 if ended else None,
                "model_ids": tuple(models.get(run_id, ())),
                "artifact_uri": artifact_uri,
            }
            if run_id in new:
                run = StoredRun(run_id=run_id, params=params.get(run_id, {}), metrics=metrics.get(run_id, {}), **of_run)
            elif any(getattr(old[run_id], field) != value for field, value in of_run.items()):
                run = replace(old[run_id], **of_run)
            else:
                run = old[run_id]
            runs.append(run)
        return Snapshot(newest_first(runs), state, mark)

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> Any:
        """Run a query; return its rows."""
        cursor = self._connection.cursor()
        cursor.execute(query, tuple(parameters))
        return cursor

    def _heads(self) -> list[tuple[Any, ...]]:
        """Rows of ``runs``."""
        columns = "run_uuid, name, status, start_time, end_time, artifact_uri"
        return list(self.rows(f"SELECT {columns} FROM runs WHERE {_OF_CHOSEN}"))

    def _values(self, table: str, run_ids: set[str] | None = None) -> dict[str, dict[str, Any]]:
        """Keys and values of a table by run; None for all chosen runs."""
        is_metric = table == "latest_metrics"
        value = "CASE WHEN is_nan THEN NULL ELSE value END" if is_metric else "value"
        query = f"SELECT run_uuid, key, {value} FROM {table} WHERE"
        if run_ids is None:
            return _grouped(self.rows(f"{query} {_OF_CHOSEN}"), is_metric)
        found: dict[str, dict[str, Any]] = {}
        for run_id in run_ids:
            found |= _grouped(self.rows(f"{query} run_uuid = {self.parameter}", [run_id]), is_metric)
        return found

    def _models(self) -> dict[str, list[str]]:
        """LoggedModels that runs wrote."""
        found: dict[str, list[str]] = {}
        for run_id, model_id in self.rows(
            "SELECT source_id, destination_id FROM inputs WHERE source_type = 'RUN_OUTPUT' AND destination_type = 'MODEL_OUTPUT'"
            " AND source_id IN (SELECT run_uuid FROM chosen)"
        ):
            found.setdefault(run_id, []).append(model_id)
        return found


class _Sqlite(_Tables):
    """Marks are the last rows of the tables that only grow: number and identity."""

    def mark(self) -> dict[str, Any]:
        return {table: self._row(table, "ORDER BY rowid DESC LIMIT 1") for table in _APPENDED}

    def touched(self, known: Snapshot, now: Mapping[str, Any]) -> set[str] | None:
        found: set[str] = set()
        for table in _APPENDED:
            last = known.mark.get(table)
            # Where the row is no longer what it was, later ones need not come after it.
            if last is None or self._row(table, "WHERE rowid = ?", [last[0]]) != list(last):
                return None
            if last != now[table]:
                found |= {row[0] for row in self.rows(f"SELECT run_uuid FROM {table} WHERE rowid > ?", [last[0]])}
        return found

    def _row(self, table: str, which: str, parameters: Sequence[Any] = ()) -> list[Any] | None:
        row = self.rows(f"SELECT rowid, run_uuid, key FROM {table} {which}", parameters).fetchone()
        return None if row is None else list(row)


class _PostgreSQL(_Tables):
    """The mark is how many values were ever logged for a run's metrics; params are as many as the run has."""

    parameter = "%s"

    def mark(self) -> dict[str, Any]:
        return {"metrics": self._counts("metrics")}

    def touched(self, known: Snapshot, now: Mapping[str, Any]) -> set[str] | None:
        if "metrics" not in known.mark:
            return None
        before, params = known.mark["metrics"], self._counts("params")
        return {
            run.run_id
            for run in known.runs
            if params.get(run.run_id, 0) != len(run.params) or now["metrics"].get(run.run_id) != before.get(run.run_id)
        }

    def _counts(self, table: str) -> dict[str, int]:
        return dict(self.rows(f"SELECT run_uuid, count(*) FROM {table} WHERE {_OF_CHOSEN} GROUP BY run_uuid"))


def _grouped(rows: Iterable[tuple[Any, ...]], is_metric: bool) -> dict[str, dict[str, Any]]:
    """Rows of run, key and value as a mapping for each run."""
    found: dict[str, dict[str, Any]] = {}
    for run_id, key, value in rows:
        known = found.get(run_id)
        if known is None:
            known = found[run_id] = {}
        known[key] = math.nan if is_metric and not isinstance(value, float | int) else value
    return found
