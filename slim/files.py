"""Files and directories that are complete or absent, and hashes of large ones."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from slim.redaction import scrub


@contextlib.contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """Give an empty directory to write into; it becomes ``target`` when the block ends without an error.

    What an earlier, killed writer left aside is removed first. One writer at a time a target: lock if there may be more.

    Raises:
        FileExistsError: ``target`` is there already and not empty.
    """
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is there already")
    aside = target.with_name(f".{target.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        settle(aside)
        # Renaming replaces an empty directory.
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a name beside a file to write to; what was written becomes ``target`` when the block ends without an error.

    Whoever reads meanwhile gets the old file or the new one; of several writers at a time the last one's stays.
    """
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        yield aside
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_files(directory: Path, earlier: Iterable[str] = ()) -> Iterator[Path]:
    """Give an empty directory to write into; when the block ends without an error, its files go to their places below ``directory``.

    There they replace files of the same name, and others stay. When the block fails, everything is as it was.

    Args:
        directory: made when missing.
        earlier: names of files below it, which an earlier writer left: those that are not written anew are removed.

    Raises:
        FileExistsError: a directory is where a file has to go, or a file where a directory has to be; nothing is changed then.
    """
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    # Inside it, so that it is on the same disk and in a place that can be written.
    aside = Path(tempfile.mkdtemp(dir=directory, prefix=".", suffix=".partial"))
    try:
        yield aside
        written = sorted(file.relative_to(aside) for file in aside.rglob("*") if file.is_file())
        for name in written:
            if (directory / name).is_dir():
                raise FileExistsError(f"{str(directory / name)!r} is a directory")
            above = next((one for one in (directory / name).parents if one.exists()), directory)
            if not above.is_dir():
                raise FileExistsError(f"{str(above)!r} is a file")
        for name in written:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).replace(directory / name)
        for gone in set(earlier) - {name.as_posix() for name in written}:
            (directory / gone).unlink(missing_ok=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if is_new and not any(directory.iterdir()):
            directory.rmdir()


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or nested beyond measure.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path.name} is nested beyond measure") from None


def inside(directory: Path, *names: str) -> Path:
    """Return a path below a directory, made of names that come from elsewhere.

    Raises:
        ValueError: it would lie outside, by ``..``, an absolute name, or a link.
    """
    root = directory.resolve()
    path = root.joinpath(*names)
    if any(".." in Path(name).parts or Path(name).is_absolute() or "\0" in name for name in names) or not _is_below(path, root):
        raise ValueError(f"{'/'.join(names)!r} leads out of its directory")
    return path


def _is_below(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):
        # Links that lead in a circle.
        return False


def nearest(place: Path) -> Path:
    """Return the place itself or the nearest directory above it that exists."""
    return next((one for one in (place, *place.parents) if one.exists()), Path("/"))


def writable(place: Path) -> bool:
    """Whether a directory can be made or written there."""
    found = nearest(place)
    return found.is_dir() and os.access(found, os.W_OK | os.X_OK)


def settle(directory: Path) -> None:
    """Have the disk take everything in a directory: a name must never stand for bytes that a power cut can still take away."""
    for file in (*directory.rglob("*"), directory):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def copy_ends(source: Path, target: Path, limit: int = 2 << 20) -> None:
    """Copy a log without the secrets in it.

    Of one that is longer than ``limit`` bytes, its beginning and its end, with a line between that says so.
    """
    size = source.stat().st_size
    with source.open("rb") as log, target.open("wb") as copy:
        if size <= limit:
            shutil.copyfileobj(log, copy)
        else:
            copy.write(log.read(limit // 2))
            copy.write(f"\n[{size - 2 * (limit // 2):,} bytes left out]\n".encode())
            log.seek(size - limit // 2)
            # Whoever writes may go on meanwhile.
            copy.write(log.read(limit // 2))
    scrub(target)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HashCache:
    """SHA-256 of files, remembered by path, size and modification time, so that a large one is read once.

    Args:
        store: JSON file that holds the memory; a store that is damaged or cannot be written costs time, never an error.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        try:
            known = read_json(store)
        except (OSError, ValueError):
            known = {}
        self._known: dict[str, str] = known if isinstance(known, dict) else {}
        self._changed = False

    def sha256(self, path: Path) -> str:
        """Return the hash of ``path``."""
        status = path.stat()
        key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        if not isinstance(self._known.get(key), str):
            self._known[key] = sha256(path)
            self._changed = True
        return self._known[key]

    def save(self) -> None:
        """Write down what was learnt."""
        if not self._changed:
            return
        with contextlib.suppress(OSError):
            self._store.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._store) as aside:
                aside.write_text(json.dumps(self._known, indent=0, sort_keys=True), encoding="utf-8")


def home() -> Path:
    """Return where this program keeps what it converted and learnt: ``$SLIM_HOME``, else ``slim`` in the user's cache directory."""
    if own := os.environ.get("SLIM_HOME"):
        return Path(own).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache").absolute() / "slim"
