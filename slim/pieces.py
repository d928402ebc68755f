"""Finished pieces of a stage that is not finished yet, so that a stage that was cut off goes on where it was."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slim.files import written_aside

_WORK = "work.json"
_SECTION = "~"


class Pieces:
    """The pieces of one stage: directories of any content, each complete or absent. One process at a time writes them.

    A piece that takes long is itself kept in sections while it is made; the finished piece replaces them. Each piece and
    section says how much work went into it, so that the work of attempts that were cut off can be added up.

    Args:
        root: made with the first piece. It belongs to the stage's key, which fixes everything that a piece depends on.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._mark_s = time.perf_counter()

    def count(self, work_s: float) -> None:
        """Count work that was done for the next piece before this object was made, in seconds."""
        self._mark_s -= work_s

    def find(self, name: str) -> Path | None:
        """Return the directory of a finished piece, None when there is none."""
        path = self.root / name
        return path if path.is_dir() else None

    def sections(self, name: str) -> list[Path]:
        """Return the sections of a piece that is not finished, in the order in which they were written."""
        return sorted(self.root.glob(f"{name}{_SECTION}*"), key=_number)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield an empty directory that becomes the piece when the block ends without an error; its sections go.

        Args:
            name: of the piece: letters, digits, ``_``, ``.`` and ``-``, not beginning with a dot.
        """
        sections = self.sections(name)
        with self._writing(self.root / name, sum(map(_work_s, sections))) as path:
            yield path
        for section in sections:
            shutil.rmtree(section, ignore_errors=True)

    @contextmanager
    def writing_section(self, name: str) -> Iterator[Path]:
        """Yield an empty directory that becomes the next section of a piece when the block ends without an error."""
        last = max(map(_number, self.sections(name)), default=0)
        with self._writing(self.root / f"{name}{_SECTION}{last + 1}", 0.0) as path:
            yield path

    @contextmanager
    def _writing(self, target: Path, before_s: float) -> Iterator[Path]:
        with written_aside(target) as path:
            yield path
            now_s = time.perf_counter()
            (path / _WORK).write_text(json.dumps(before_s + now_s - self._mark_s), encoding="utf-8")
        self._mark_s = now_s

    @property
    def work_s(self) -> float:
        """Seconds of work in what there is, by whatever attempt."""
        found = (path for path in self.root.glob("[!.]*") if path.is_dir())
        # A writer that was killed right after it finished a piece leaves sections whose work the piece has counted.
        return sum(
            _work_s(path) for path in found if _SECTION not in path.name or self.find(path.name.partition(_SECTION)[0]) is None
        )

    def discard(self, name: str) -> None:
        """Remove a finished piece."""
        shutil.rmtree(self.root / name, ignore_errors=True)

    def clear(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.root, ignore_errors=True)


def _number(section: Path) -> int:
    return int(section.name.rpartition(_SECTION)[2])


def _work_s(path: Path) -> float:
    return float(json.loads((path / _WORK).read_text(encoding="utf-8")))
