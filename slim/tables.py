"""Raw data as parquet: rows in, file out, complete or absent."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as one parquet file; an existing file is replaced whole.

    Raises:
        ValueError: no rows, so no schema.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not rows:
        raise ValueError(f"{path.name} would have no rows")
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), partial, compression="zstd")
    partial.replace(path)
