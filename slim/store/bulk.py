"""Many runs at once, and again only those that changed: a snapshot of an experiment that can be brought up to date.

Out of a SQLite store the tables are read, one query each, where MLflow builds objects run by run (many times slower, see
`benchmarks/study_scale.py`). Nothing is written. Other stores are searched through MLflow.

What a snapshot notices. **SQLite**: everything. The file's state tells whether anything happened at all; then runs and tags are read
again whole, and params and metrics, to which MLflow only ever adds rows, from the last row seen. Where that row is no longer what it
was (``mlflow gc``, ``VACUUM``) all is read again. **Others**: runs that are running or ended since the last reading (with `YOUNG_S` to
spare), runs that were deleted or restored, and, when a sweep ended that reused earlier configurations and so may have compared them
anew, everything. What is changed by hand on a run that ended long ago is seen after `WHOLE_S` at the latest, or when a whole
reading is asked for.
"""

import math
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slim.store.contract import TAG, StoredRun

SETTLED_S = 2.0
"""A file changed more recently than this may change again without its time of change telling: clocks of file systems are coarse."""
YOUNG_S = 3600.0
"""Runs that ended this long before the last reading are read again: other machines' clocks differ."""
WHOLE_S = 86400.0
"""A searched store is read whole again after this long."""

_HEADER_BYTES = 100
_WAL_HEADER_BYTES = 32
_APPENDED = ("params", "metrics")
"""Tables to which rows are only added."""


@dataclass(frozen=True)
class Snapshot:
    """The active runs of some kinds, as of one reading.

    Attributes:
        runs: newest first.
        state: of the SQLite file, `file_state`; None where that could not be told.
        mark: what the next reading starts from, as JSON values; its meaning is this module's.
    """

    runs: tuple[StoredRun, ...]
    state: str | None = None
    mark: Mapping[str, Any] = field(default_factory=dict)


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
        sqlite3.Error: the file cannot be read, or its tables are not those that this module knows.
    """
    state = file_state(path)
    if known is not None and state is not None and known.state == state:
        return known
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30.0)) as connection:
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("BEGIN")  # the queries below see one state of the store
        tables = _Tables(connection, int(experiment_id), tuple(kinds))
        mark = {table: tables.last_row(table) for table in _APPENDED}
        old = {run.run_id: run for run in known.runs} if known is not None and tables.holds(known.mark) else {}
        heads, tags, models = tables.heads(), tables.values("tags"), tables.models()
        new = {head[0] for head in heads if head[0] not in old}
        if old and known is not None:
            new |= {run_id for table in _APPENDED for run_id in tables.touched(table, known.mark)} & tags.keys()
        few = None if len(new) > len(heads) // 4 else new
        params, metrics = tables.values("params", few), tables.values("latest_metrics", few)
    runs = []
    for run_id, name, status, started, ended, artifact_uri in heads:
        fresh = run_id in new
        runs.append(
            StoredRun(
                run_id=run_id,
                kind=tags[run_id][TAG.KIND],
                name=name or "",
                status=status,
                params=params.get(run_id, {}) if fresh else old[run_id].params,
                metrics=metrics.get(run_id, {}) if fresh else old[run_id].metrics,
                tags=tags[run_id],
                start_unix_s=(started or 0) / 1000,
                end_unix_s=ended / 1000 if ended else None,
                model_ids=tuple(models.get(run_id, ())),
                artifact_uri=artifact_uri,
            )
        )
    return Snapshot(tuple(runs), state, mark)


class _Tables:
    """MLflow's tables in a SQLite file, within one transaction."""

    def __init__(self, connection: sqlite3.Connection, experiment: int, kinds: tuple[str, ...]) -> None:
        self._connection = connection
        connection.execute("CREATE TEMP TABLE chosen (run_uuid TEXT PRIMARY KEY) WITHOUT ROWID")
        connection.execute(
            "INSERT INTO chosen SELECT r.run_uuid FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid WHERE r.experiment_id = ?"
            f" AND r.lifecycle_stage = 'active' AND t.key = ? AND t.value IN ({','.join('?' * len(kinds))})",
            (experiment, TAG.KIND, *kinds),
        )

    def heads(self) -> list[tuple[Any, ...]]:
        """Rows of ``runs``, newest first."""
        columns = "run_uuid, name, status, start_time, end_time, artifact_uri"
        return self._connection.execute(
            f"SELECT {columns} FROM runs WHERE run_uuid IN chosen ORDER BY start_time DESC, run_uuid"
        ).fetchall()

    def values(self, table: str, run_ids: set[str] | None = None) -> dict[str, dict[str, Any]]:
        """Keys and values of a table by run; None for all chosen runs."""
        value = (
            "value"
            if table != "latest_metrics"
            else "CASE WHEN is_nan OR typeof(value) NOT IN ('real', 'integer') THEN NULL ELSE value END"
        )
        query = f"SELECT run_uuid, key, {value} FROM {table} WHERE run_uuid"
        if run_ids is None:
            rows = self._connection.execute(f"{query} IN chosen")
            return _grouped(rows, table == "latest_metrics")
        found: dict[str, dict[str, Any]] = {}
        for run_id in run_ids:
            found |= _grouped(self._connection.execute(f"{query} = ?", [run_id]), table == "latest_metrics")
        return found

    def models(self) -> dict[str, list[str]]:
        """LoggedModels that runs wrote."""
        found: dict[str, list[str]] = {}
        for run_id, model_id in self._connection.execute(
            "SELECT source_id, destination_id FROM inputs WHERE source_type = 'RUN_OUTPUT' AND destination_type = 'MODEL_OUTPUT'"
            " AND source_id IN chosen"
        ):
            found.setdefault(run_id, []).append(model_id)
        return found

    def last_row(self, table: str) -> list[Any] | None:
        """Number and identity of the last row of a table."""
        row = self._connection.execute(f"SELECT rowid, run_uuid, key FROM {table} ORDER BY rowid DESC LIMIT 1").fetchone()
        return None if row is None else list(row)

    def holds(self, mark: Mapping[str, Any]) -> bool:
        """Whether the rows of an earlier mark are still where they were, so that all later rows come after them."""
        for table in _APPENDED:
            row = mark.get(table)
            if row is None:
                return False
            found = self._connection.execute(f"SELECT rowid, run_uuid, key FROM {table} WHERE rowid = ?", [row[0]]).fetchone()
            if found is None or list(found) != list(row):
                return False
        return True

    def touched(self, table: str, mark: Mapping[str, Any]) -> list[str]:
        """Runs to which rows were added after a mark."""
        query = f"SELECT DISTINCT run_uuid FROM {table} WHERE rowid > ?"
        return [row[0] for row in self._connection.execute(query, [mark[table][0]])]


def _grouped(rows: sqlite3.Cursor, is_metric: bool) -> dict[str, dict[str, Any]]:
    """Rows of run, key and value as a mapping for each run."""
    found: dict[str, dict[str, Any]] = {}
    for run_id, key, value in rows:
        known = found.get(run_id)
        if known is None:
            known = found[run_id] = {}
        known[key] = math.nan if is_metric and value is None else value
    return found


def read_searched(
    search: Callable[..., list[StoredRun]], kinds: Sequence[str], known: Snapshot | None = None, *, now_s: float | None = None
) -> Snapshot:
    """Return the active runs of these kinds, newest first, from a store that can only be searched.

    Args:
        search: `Reader.search`.
        kinds: values of the tag ``slim.kind``.
        known: an earlier snapshot of the same kinds; None reads everything.
        now_s: Unix time; None asks the clock.

    Raises:
        StoreError: the store is away.
    """
    now_s = time.time() if now_s is None else now_s

    def of_kinds(condition: str = "", **options: Any) -> list[StoredRun]:
        tag = f"tags.`{TAG.KIND}` = "
        return [run for kind in kinds for run in search(f"{tag}'{kind}'{condition}", **options)]

    deleted = sorted(run.run_id for run in of_kinds(deleted=True))
    changed = None if known is None else _changed(known, of_kinds, deleted, now_s)
    if known is None or changed is None:
        mark = {"read_s": now_s, "whole_s": now_s, "deleted": deleted}
        return Snapshot(_newest_first({run.run_id: run for run in of_kinds()}), None, mark)
    runs = {run.run_id: run for run in known.runs if run.run_id not in deleted} | changed
    return Snapshot(_newest_first(runs), None, {**known.mark, "read_s": now_s, "deleted": deleted})


def _changed(
    known: Snapshot, of_kinds: Callable[..., list[StoredRun]], deleted: Sequence[str], now_s: float
) -> dict[str, StoredRun] | None:
    """Runs that are not as they were, by id; None where all has to be read again."""
    mark = known.mark
    if not known.runs or {"read_s", "whole_s", "deleted"} - mark.keys():
        return None
    # One that was deleted and no longer is was restored, or the store is another one.
    if not 0 <= now_s - mark["whole_s"] < WHOLE_S or set(mark["deleted"]) - set(deleted):
        return None
    since_ms = int(1000 * (mark["read_s"] - YOUNG_S))
    found = of_kinds(" and attributes.status = 'RUNNING'") + of_kinds(f" and attributes.end_time >= {since_ms}")
    before = {run.run_id: run for run in known.runs}
    # Those that were running are running or ended since; one that is neither, nor deleted, is gone with its store.
    seen = {run.run_id for run in found} | set(deleted)
    if any(run.end_unix_s is None and run.run_id not in seen for run in known.runs):
        return None
    if any(TAG.REUSED in run.tags and before.get(run.run_id) != run for run in found):
        return None
    return {run.run_id: run for run in found}


def _newest_first(runs: Mapping[str, StoredRun]) -> tuple[StoredRun, ...]:
    return tuple(sorted(runs.values(), key=lambda run: (-run.start_unix_s, run.run_id)))
