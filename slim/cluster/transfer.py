"""Files between the nodes of a cluster that share no disk: asked for and sent in chunks, complete or absent at the other end."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from slim.cluster import leftovers
from slim.errors import Reason, StageError
from slim.files import written_aside
from slim.jobs import Spool

CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Chunk:
    """A part of a file.

    Attributes:
        path: of the file, below the directory that is sent.
        offset: of the part in bytes.
        data: its bytes; empty for a file without any.
    """

    path: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class Listing:
    """What lies at a path.

    Attributes:
        path: a file or a directory.
        is_file: which of the two.
        files: (path below it, bytes, nanoseconds of its last change); of a file itself the name stands for the path.
    """

    path: str
    is_file: bool
    files: tuple[tuple[str, int, int], ...]

    @property
    def digest(self) -> str:
        """Tells it from any other, and from itself once it is changed."""
        return hashlib.sha256(json.dumps([self.path, self.files]).encode()).hexdigest()[:32]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by file."""
        return {name: size for name, size, _ in self.files}


def listing(path: Path) -> Listing:
    """Return what lies at a path.

    Raises:
        FileNotFoundError: nothing does.
    """
    if path.is_file():
        status = path.stat()
        return Listing(str(path), True, ((path.name, status.st_size, status.st_mtime_ns),))
    if not path.is_dir():
        raise FileNotFoundError(path)
    files = sorted(f for f in path.rglob("*") if f.is_file())
    stats = ((f.relative_to(path).as_posix(), f.stat()) for f in files)
    return Listing(str(path), False, tuple((name, s.st_size, s.st_mtime_ns) for name, s in stats))


def chunks(directory: Path) -> Iterator[Chunk]:
    """Yield the files of a directory."""
    for name, size, _ in listing(directory).files:
        with (directory / name).open("rb") as file:
            for offset in range(0, max(size, 1), CHUNK_BYTES):
                yield Chunk(name, offset, file.read(CHUNK_BYTES))


class Receiver:
    """Puts a directory together; nothing is seen of it before it is whole.

    Args:
        spool: where the result goes.
        key: of the result.
        sizes: bytes by file of all that will come.
    """

    def __init__(self, spool: Spool, key: str, sizes: dict[str, int]) -> None:
        self._spool, self._key, self._sizes = spool, key, sizes
        # Named as a draft, so that what a killed sweep leaves is cleared by the next.
        self._aside = Path(tempfile.mkdtemp(prefix=f".{key[:16]}-", dir=spool.root))
        # Part of every result, if nothing is in it too.
        (self._aside / "artifacts").mkdir()

    def take(self, chunk: Chunk) -> None:
        """Write a part; the parts of a file come in order.

        Raises:
            ValueError: it is not among what was announced.
        """
        if chunk.path not in self._sizes:
            raise ValueError(f"a file that was not announced: {chunk.path!r}")
        target = _below(self._aside, chunk.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab" if chunk.offset else "wb") as file:
            file.write(chunk.data)

    def finish(self) -> None:
        """Make it the result of its key.

        Raises:
            ValueError: something is missing.
        """
        have = {name: size for name, size, _ in listing(self._aside).files}
        if have != self._sizes:
            missing = sorted(name for name, size in self._sizes.items() if have.get(name) != size)
            raise ValueError(f"result {self._key} came without all of {', '.join(missing[:3])}")
        self._spool.discard(self._key)
        self._aside.rename(self._spool.root / self._key)

    def drop(self) -> None:
        """Remove what has come, when the rest will not."""
        shutil.rmtree(self._aside, ignore_errors=True)


ReadAt = Callable[[str, str, int], bytes]
"""Bytes of a file of the driver's: the path that was asked for, the file below it, the offset."""


def fetch(wanted: Listing, read: ReadAt) -> Path:
    """Return a path on this node with what lies at a path of the driver's; read once, then kept below `slim.files.home`.

    Args:
        wanted: what is there.
        read: at most `CHUNK_BYTES` of a file.

    Raises:
        StageError: ``interrupted``: a file came short, since it was changed meanwhile.
    """
    from filelock import FileLock

    own = Path(wanted.path)
    try:
        if listing(own).sizes == wanted.sizes:
            # The same disk, or a model that lies at the same place on every node.
            return own
    except OSError:
        pass
    target = leftovers.fetched(wanted.digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(leftovers.lock_of(target)):
        if target.is_dir():
            target.touch()
        else:
            with written_aside(target) as aside:
                for name, size, _ in wanted.files:
                    file = _below(aside, name)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    with file.open("wb") as out:
                        while out.tell() < size:
                            data = read(wanted.path, "" if wanted.is_file else name, out.tell())
                            if not data:
                                raise StageError(Reason.INTERRUPTED, f"{wanted.path}: {name} became shorter while it was sent")
                            out.write(data)
    return target / wanted.files[0][0] if wanted.is_file else target


class Shelf:
    """What the driver hands out to nodes; an actor where the driver is.

    Nothing is read but what was put on it.
    """

    def __init__(self) -> None:
        self._paths: set[str] = set()

    def put(self, paths: list[str]) -> list[Listing]:
        """Let these paths be read, and return what lies there."""
        found = [listing(Path(path)) for path in paths]
        self._paths |= set(paths)
        return found

    def read(self, path: str, name: str, offset: int) -> bytes:
        """Return a part of a file; see `ReadAt`.

        Raises:
            PermissionError: it is not on the shelf.
        """
        if path not in self._paths:
            raise PermissionError(path)
        with (_below(Path(path), name) if name else Path(path)).open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK_BYTES)


def _below(directory: Path, name: str) -> Path:
    """A file in a directory.

    Raises:
        ValueError: the name leads out of it.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise ValueError(f"a name that leads elsewhere: {name!r}")
    return directory / name
