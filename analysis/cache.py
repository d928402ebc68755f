"""A copy of a store's configurations and sweeps on this machine, so that 10,000 of them are there again within a second or so.

The copy only saves time: every reading asks the store what changed since (`slim.store.bulk` says what is noticed and what is not), and
a copy that is missing, damaged or of another version is left alone and written anew. Of the store's address only a hash is kept, since
addresses may hold passwords. Stage runs are not in it: they are many, and few of them are ever looked at.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from slim import files
from slim.store import Kind, Reader, Snapshot, StoredRun

FORMAT = 1
"""Raised when what a copy holds, or means, changes."""
KINDS: tuple[Kind, ...] = ("configuration", "sweep")

_HEADER = b"slim"


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
    snapshot = store.snapshot(KINDS, known)
    if known is None or snapshot != known:
        # A full disk or a directory without write permission costs time at the next reading, nothing else.
        with contextlib.suppress(OSError):
            save(path, snapshot)
    return snapshot.runs


def place(store: Reader) -> Path:
    """Return the file of a store's copy."""
    named = "\n".join((store.tracking_uri, store.experiment, str(store.experiment_id)))
    return files.home() / "runs" / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.parquet"


def save(path: Path, snapshot: Snapshot) -> None:
    """Write a copy aside and put it into its place.

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = snapshot.runs
    header = {"format": FORMAT, "state": snapshot.state, "mark": snapshot.mark}
    table = pa.table(
        {
            **{name: [getattr(run, name) for run in found] for name in ("run_id", "kind", "name", "status", "artifact_uri")},
            "start_unix_s": pa.array([run.start_unix_s for run in found], pa.float64()),
            "end_unix_s": pa.array([run.end_unix_s for run in found], pa.float64()),
            "model_ids": pa.array([list(run.model_ids) for run in found], pa.list_(pa.string())),
            "params": _packed((run.params for run in found), pa.string()),
            "tags": _packed((run.tags for run in found), pa.string()),
            "metrics": _packed((run.metrics for run in found), pa.float64()),
        }
    ).replace_schema_metadata({_HEADER: json.dumps(header).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # The checksums tell a damaged file from a whole one.
        pq.write_table(table, aside, compression="lz4", write_page_checksum=True)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def load(path: Path) -> Snapshot | None:
    """Return a copy; None where there is none, or none that this version wrote whole."""
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
        found = tuple(StoredRun(*values) for values in zip(*columns, *mappings, *rest, strict=True))
        return Snapshot(found, header["state"], header["mark"])
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
