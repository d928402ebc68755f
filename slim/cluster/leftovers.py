"""What sweeps keep on a node below `slim.files.home`, and removing it: by the sweep at its end, else by age."""

import contextlib
import shutil
import time
from pathlib import Path

from filelock import FileLock, Timeout

from slim.files import home

KEPT_S = 14 * 24 * 3600.0
"""Seconds after which nobody comes back for what a killed sweep left, or for files that were fetched."""


def spool_of(sweep: str) -> Path:
    """Return where a sweep's results lie on a node that does not see the driver's disk."""
    return home() / "cluster" / sweep


def cooling_of(sweep: str, gpus: str) -> Path:
    """Return the file that remembers how warm GPUs were before a sweep's first measurement on them."""
    return home() / "cluster" / f"cooling-{sweep}-{gpus}.json"


def fetched(digest: str) -> Path:
    """Return where a copy of the driver's files lies, whose use is marked by its time of change."""
    return home() / "fetched" / digest


def remove(sweep: str) -> None:
    """Remove what a sweep that has ended left on this node; fetched files stay for the next one."""
    shutil.rmtree(spool_of(sweep), ignore_errors=True)
    for path in cooling_of(sweep, "").parent.glob(f"cooling-{sweep}-*.json"):
        path.unlink(missing_ok=True)


def prune(sweep: str) -> None:
    """Remove what sweeps left here that were killed, and copies of files that nobody has used for as long.

    Args:
        sweep: that goes on.
    """
    for path in spool_of(sweep).parent.glob("*"):
        if _is_old(path) and path != spool_of(sweep):
            _remove(path)
    for path in fetched("").glob("*"):
        if _is_old(path) and path.is_dir():
            with contextlib.suppress(Timeout, OSError), FileLock(lock_of(path), timeout=0):
                # Another worker may have used it meanwhile.
                if _is_old(path):
                    _remove(path)
        elif _is_old(path):
            _remove(path)


def lock_of(copy: Path) -> Path:
    """Return the lock of a copy, held while it is made or removed."""
    return copy.with_name(f"{copy.name}.lock")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > KEPT_S
    except OSError:
        return False
