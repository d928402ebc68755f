"""What the parent asks of a worker, and the spool in which results wait for the store.

A result lies in the spool as ``<key>/`` with ``result.json``, ``artifacts/`` and, for a quantize stage, ``checkpoint/``. It is
written aside and renamed, so it is complete or absent, and it stays until the store has it. Beside the results lies ``pieces/``:
what stages that were cut off had finished, by the stage's key (`slim.pieces`).
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from slim import files, metrics, redaction
from slim.pieces import Pieces
from slim.records import NOTHING, Against, ModelSource, Stage, StageResult

_RESULT = "result.json"
_PIECES = "pieces"
_JOBS = "jobs"
_CLEAN = "clean"
_KEPT_S = 14 * 24 * 3600.0


@dataclass(frozen=True)
class StageOrder:
    """One stage of a job.

    Attributes:
        stage: which.
        key: the result's name in the spool.
        config: the stage's section of the sweep file, as plain values.
    """

    stage: Stage
    key: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """Work for one worker process: fetch or convert a model, quantize it, or open an engine once and measure.

    Attributes:
        source: the original model.
        precision: name of the precision.
        seed: of everything random.
        orders: ``()`` only makes the source available locally; else one ``quantize``, or any of ``profile`` and ``evaluate``.
        engine: engine of a measuring job.
        options: its options, as plain values.
        checkpoint: directory to serve; None serves the original weights.
        spool: where results go.
        against: what ``evaluate`` does about fidelity to the baseline.
    """

    source: ModelSource
    precision: str
    seed: int
    spool: Path
    orders: tuple[StageOrder, ...] = ()
    engine: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    against: Against = NOTHING

    def write(self, path: Path) -> None:
        """Write the job as JSON."""
        path.write_text(json.dumps(asdict(self), default=str, indent=2), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The inverse of `write`."""
        values = json.loads(path.read_text(encoding="utf-8"))
        source = values.pop("source")
        source["path"] = Path(source["path"]) if source["path"] else None
        checkpoint, against = values.pop("checkpoint"), values.pop("against")
        against["path"] = Path(against["path"]) if against["path"] else None
        return cls(
            **{
                **values,
                "source": ModelSource(**source),
                "spool": Path(values["spool"]),
                "orders": tuple(StageOrder(**order) for order in values["orders"]),
                "checkpoint": Path(checkpoint) if checkpoint else None,
                "against": Against(**against),
            }
        )


@dataclass(frozen=True)
class Spooled:
    """A result that waits to be logged.

    Attributes:
        path: its directory.
        result: what it says.
    """

    path: Path
    result: StageResult

    @property
    def artifacts(self) -> Path:
        """Files to log."""
        return self.path / "artifacts"

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that came of it."""
        return self.path / "checkpoint" if self.result.has_checkpoint else None


class Spool:
    """The directory of results.

    Args:
        root: made when absent.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def find(self, key: str) -> Spooled | None:
        """Return the result of that key, None when there is none, or only one that cannot be used."""
        try:
            return self._read(key)
        except ValueError:
            return None

    def broken(self, key: str) -> str:
        """Return what is wrong with the result of that key; empty when nothing is, or when there is none."""
        try:
            self._read(key)
        except ValueError as error:
            return " ".join(str(error).split())[:200]
        return ""

    def _read(self, key: str) -> Spooled | None:
        """Read a result, and refuse what no store could take.

        Raises:
            ValueError: it is broken.
        """
        path = self.root / key
        try:
            found = Spooled(path, StageResult.from_json(json.loads((path / _RESULT).read_text(encoding="utf-8"))))
            if found.result.key != key:
                raise ValueError(f"it says that it is the result of {found.result.key!r}")
            metrics.check(found.result.metrics)
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            raise ValueError(f"{_RESULT}: {type(error).__name__}: {error}") from error
        if not found.artifacts.is_dir() or (found.checkpoint is not None and not found.checkpoint.is_dir()):
            raise ValueError("files that it speaks of are missing")
        return found

    def amend(self, result: StageResult) -> None:
        """Replace what the result of that key says; its files stay."""
        with contextlib.suppress(FileNotFoundError), files.replacing(self.root / result.key / _RESULT) as aside:
            aside.write_text(json.dumps(result.to_json()), encoding="utf-8")

    def keys(self) -> list[str]:
        """Return the keys of the results that wait, broken ones included."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{_RESULT}"))

    def discard(self, key: str) -> None:
        """Remove a result, once the store has it; complete or not at all, even when cut off."""
        gone = self.root / f".{key[:16]}-gone-{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            (self.root / key).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def done(self, key: str) -> None:
        """Remove a finished result that the store has, and pieces that a worker left that was killed just after it had finished."""
        self.discard(key)
        self.pieces(key).clear()

    def pieces(self, key: str) -> Pieces:
        """Return what earlier attempts at the stage of that key finished; it is removed when the stage has a result."""
        return Pieces(self.root / _PIECES / key)

    @contextmanager
    def writing(self, key: str) -> Iterator["Draft"]:
        """Yield a draft that becomes the result of ``key`` when the block ends with `Draft.finish` called; else it vanishes."""
        path = Path(tempfile.mkdtemp(prefix=f".{key[:16]}-", dir=self.root))
        draft = Draft(path)
        draft.artifacts.mkdir()
        try:
            yield draft
            if draft.result is not None:
                (path / _RESULT).write_text(json.dumps(draft.result.to_json()), encoding="utf-8")
                files.settle(path)
                self.discard(key)
                path.rename(self.root / key)
                if draft.result.failure is None:
                    self.pieces(key).clear()
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def sweep_drafts(self) -> None:
        """Remove drafts of workers that were killed, and pieces and logs that nobody came back for in two weeks.

        Secrets are taken out of the logs that a killed driver left as they were, and the marks by which nodes see its disk go. Only safe
        while no worker runs.
        """
        for path in self.root.glob("shared-*"):
            path.unlink(missing_ok=True)
        for path in self.root.glob(".*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in (*self.root.glob(f"{_PIECES}/*"), *self.root.glob(f"{_JOBS}/*")):
            # Each piece that is written touches the directory.
            if time.time() - path.stat().st_mtime > _KEPT_S:
                shutil.rmtree(path, ignore_errors=True)
        for path in self.root.glob(f"{_JOBS}/*"):
            if not (path / _CLEAN).exists():
                clean(path)


@dataclass
class Draft:
    """A result in the making.

    Attributes:
        path: its temporary directory.
        result: set by `finish`.
    """

    path: Path
    result: StageResult | None = None

    @property
    def artifacts(self) -> Path:
        """For files to log."""
        return self.path / "artifacts"

    @property
    def checkpoint(self) -> Path:
        """For the checkpoint; made by whoever writes it."""
        return self.path / "checkpoint"

    def finish(self, result: StageResult) -> None:
        """Say what came of it."""
        self.result = result


def new_job_dir(spool: Spool) -> Path:
    """Return a fresh directory for a worker's job file, log and progress; its name begins with the pid of whoever starts the worker."""
    jobs = spool.root / _JOBS
    jobs.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=jobs))


def clean(job_dir: Path) -> None:
    """Take secrets out of the log of a worker that has ended, and leave a mark that it was done."""
    redaction.scrub(job_dir / "worker.log")
    with contextlib.suppress(OSError):
        (job_dir / _CLEAN).touch()
