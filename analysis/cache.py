"""A copy of a store's configurations and sweeps on this machine, so that 10,000 of them are there again within a second or so.

The copy only saves time: every reading asks the store what changed since (`slim.store.bulk` says what is noticed and what is not), and
a copy that is missing, damaged or of another version is left alone and written anew. Of the store's address only a hash is kept, since
addresses may hold passwords. Stage runs are not in it: they are many, and few of them are ever looked at.

A copy is one file with all runs, and a second, small one with what changed since, which alone is written again while little has. The
second bears the name of the first that it belongs to, and the two together are a snapshot as the first alone is. So whatever several
readers at once leave behind is a snapshot of some moment, and the next reading goes on from there.
"""

import contextlib
import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from slim import files
from slim.store import Kind, Reader, Snapshot, StoredRun
from slim.store.bulk import newest_first

FORMAT = 2
"""Raised when what a copy holds, or means, changes."""
KINDS: tuple[Kind, ...] = ("configuration", "sweep")
SHARE = 0.1
"""Of the runs, so many may be in the second file; when more changed, all is written."""

_HEADER = b"slim"


@dataclass(frozen=True, eq=False)
class Copy:
    """A copy as it was read.

    Attributes:
        snapshot: what it says.
        name: of its first file, another one each time that this is written.
        whole: the runs of its first file, by id.
    """

    snapshot: Snapshot
    name: str
    whole: Mapping[str, StoredRun]


def runs(store: Reader, *, whole: bool = False) -> tuple[StoredRun, ...]:
    """Return the active configuration and sweep runs of an experiment as they are now, newest first.

    Args:
        store: an experiment.
        whole: read everything again, whatever the copy says.

    Raises:
        StoreError: the store is away.
    """
    path = place(store)
    known = None if whole else load(path)
    snapshot = store.snapshot(KINDS, known.snapshot if known is not None else None)
    if known is None or snapshot != known.snapshot:
        # A full disk or a directory without write permission costs time at the next reading, nothing else.
        with contextlib.suppress(OSError):
            save(path, snapshot, known)
    return snapshot.runs


def place(store: Reader) -> Path:
    """Return the first file of a store's copy."""
    named = "\n".join((store.tracking_uri, store.experiment, str(store.experiment_id)))
    return files.home() / "runs" / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.parquet"


def forget(store: Reader) -> None:
    """Remove the copy of a store that is not to be read again."""
    for path in (place(store), second(place(store))):
        path.unlink(missing_ok=True)


def second(path: Path) -> Path:
    """Return the second file of a copy, given its first."""
    return path.with_suffix(".changes.parquet")


def save(path: Path, snapshot: Snapshot, known: Copy | None = None) -> None:
    """Write a copy, each file aside and then into its place.

    Args:
        path: its first file.
        snapshot: what it is to say.
        known: the copy that is there; None writes all.

    Raises:
        OSError: it cannot be written.
    """
    header = {"format": FORMAT, "state": snapshot.state, "mark": snapshot.mark}
    path.parent.mkdir(parents=True, exist_ok=True)
    if known is not None:
        ids = {run.run_id for run in snapshot.runs}
        gone = [run_id for run_id in known.whole if run_id not in ids]
        changed = [run for run in snapshot.runs if known.whole.get(run.run_id) != run]
        if len(gone) + len(changed) <= SHARE * len(known.whole):
            _write(second(path), changed, {**header, "of": known.name, "gone": gone})
            return
    _write(path, snapshot.runs, {**header, "name": uuid.uuid4().hex})
    second(path).unlink(missing_ok=True)


def load(path: Path) -> Copy | None:
    """Return a copy; None where there is none, or none that this version wrote whole."""
    first = _read(path)
    if first is None:
        return None
    found, header = first
    try:
        whole, name = {run.run_id: run for run in found}, str(header["name"])
        later = _read(second(path))
        if later is None or later[1]["of"] != name:
            return Copy(Snapshot(tuple(found), header["state"], header["mark"]), name, whole)
        changed, header = later
        left = set(header["gone"])
        together = {run_id: run for run_id, run in whole.items() if run_id not in left} | {run.run_id: run for run in changed}
        return Copy(Snapshot(newest_first(together.values()), header["state"], header["mark"]), name, whole)
    except (KeyError, TypeError):
        return None


def _write(path: Path, found: Sequence[StoredRun], header: Mapping[str, Any]) -> None:
    """Write runs aside and put the file into its place."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            **{
                name: pa.array([getattr(run, name) for run in found], pa.string())
                for name in ("run_id", "kind", "name", "status", "artifact_uri")
            },
            "start_unix_s": pa.array([run.start_unix_s for run in found], pa.float64()),
            "end_unix_s": pa.array([run.end_unix_s for run in found], pa.float64()),
            "model_ids": pa.array([list(run.model_ids) for run in found], pa.list_(pa.string())),
            "params": _packed((run.params for run in found), pa.string()),
            "tags": _packed((run.tags for run in found), pa.string()),
            "metrics": _packed((run.metrics for run in found), pa.float64()),
        }
    ).replace_schema_metadata({_HEADER: json.dumps(header).encode()})
    with files.replacing(path) as aside:
        # The checksums tell a damaged file from a whole one.
        pq.write_table(table, aside, compression="lz4", write_page_checksum=True)


def _read(path: Path) -> tuple[list[StoredRun], dict[str, Any]] | None:
    """The inverse of `_write`; None for what this version did not write whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, page_checksum_verification=True)
        header = json.loads(table.schema.metadata[_HEADER])
        if header["format"] != FORMAT:
            return None
        columns = [table[name].to_pylist() for name in ("run_id", "kind", "name", "status")]
        mappings = [_unpacked(table[name].combine_chunks()) for name in ("params", "metrics", "tags")]
        rest = [table[name].to_pylist() for name in ("start_unix_s", "end_unix_s", "model_ids", "artifact_uri")]
        rest[2] = [tuple(model_ids) for model_ids in rest[2]]
        return [StoredRun(*values) for values in zip(*columns, *mappings, *rest, strict=True)], header
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
        return None


def _packed(mappings: Iterable[Mapping[str, Any]], kind: Any) -> Any:
    """Mappings as one arrow array."""
    import pyarrow as pa

    listed = list(mappings)
    offsets = np.concatenate([[0], np.cumsum([len(mapping) for mapping in listed])]).astype("int32")
    keys = pa.array([key for mapping in listed for key in mapping], pa.string())
    values = pa.array([value for mapping in listed for value in mapping.values()], kind)
    return pa.MapArray.from_arrays(pa.array(offsets), keys, values)


def _unpacked(array: Any) -> list[dict[str, Any]]:
    """The inverse of `_packed`."""
    keys, values = _objects(array.keys), _objects(array.items)
    return [dict(zip(keys[start:end], values[start:end], strict=True)) for start, end in pairwise(array.offsets.to_pylist())]


def _objects(array: Any) -> list[Any]:
    """An arrow array as Python objects; equal strings are one object, which is several times faster."""
    import pyarrow as pa

    if not pa.types.is_string(array.type):
        return list(array.to_pylist()) if array.null_count else list(array.to_numpy(zero_copy_only=False).tolist())
    encoded = array.dictionary_encode()
    if encoded.null_count:
        return list(array.to_pylist())
    known = np.empty(len(encoded.dictionary), dtype=object)
    known[:] = encoded.dictionary.to_pylist()
    return list(known[encoded.indices.to_numpy()])
