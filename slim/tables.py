"""Raw data as parquet: rows in, file out, complete or absent."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slim.files import replacing


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as one parquet file; an existing file is replaced whole.

    Raises:
        ValueError: no rows, so no schema.
    """
    import pyarrow as pa

    if not rows:
        raise ValueError(f"{path.name} would have no rows")
    write_table(path, pa.Table.from_pylist([dict(row) for row in rows]))


def write_table(path: Path, table: Any) -> None:
    """Write a `pyarrow.Table`; an existing file is replaced whole."""
    import pyarrow.parquet as pq

    with replacing(path) as aside:
        pq.write_table(table, aside, compression="zstd")
