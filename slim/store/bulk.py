"""Many runs at once, and again only those that changed: a snapshot of an experiment that can be brought up to date.

Out of a SQLite or PostgreSQL database the tables are read (`slim.store.tables`), which notices everything. Other stores, such as a
tracking server, are searched through MLflow. Nothing is written.

What a searched snapshot notices: runs that are running or ended since the last reading (with `YOUNG_S` to spare), runs that were deleted
or restored, and, when a sweep ended that reused earlier configurations and so may have compared them anew, everything. What is changed
by hand on a run that ended long ago is seen after `WHOLE_S` at the latest, or when a whole reading is asked for.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slim.store.contract import TAG, StoredRun

YOUNG_S = 3600.0
"""Runs that ended this long before the last reading are read again: other machines' clocks differ."""
WHOLE_S = 86400.0
"""A searched store is read whole again after this long."""


@dataclass(frozen=True)
class Snapshot:
    """The active runs of some kinds, as of one reading.

    Attributes:
        runs: newest first.
        state: of the SQLite file, `file_state`; None where that could not be told.
        mark: what the next reading starts from, as JSON values; its meaning is the reader's.
    """

    runs: tuple[StoredRun, ...]
    state: str | None = None
    mark: Mapping[str, Any] = field(default_factory=dict)


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
        return Snapshot(newest_first(of_kinds()), None, mark)
    runs = {run.run_id: run for run in known.runs if run.run_id not in deleted} | changed
    return Snapshot(newest_first(runs.values()), None, {**known.mark, "read_s": now_s, "deleted": deleted})


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


def newest_first(runs: Iterable[StoredRun]) -> tuple[StoredRun, ...]:
    """Return runs in the order of a snapshot."""
    return tuple(sorted(runs, key=lambda run: (-run.start_unix_s, run.run_id)))
