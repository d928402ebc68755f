"""What a sweep was about, kept in the spool while results of it wait, so that they can be logged without the sweep file; and the lock
that has one sweep at a time work with a spool.

A record is one JSON file, ``plans/<id>.json``; it goes when nothing of its sweep waits any more.
"""

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from slim import precisions
from slim.config import SweepConfig
from slim.errors import UserError
from slim.files import replacing
from slim.jobs import Spool
from slim.planned import Plan, PlannedConfiguration, PlannedReference, PlannedStage
from slim.provenance import Environment
from slim.records import Failure, ModelSource
from slim.store import Store, shown

_PLACE = "plans"


@dataclass(frozen=True)
class End:
    """How a sweep ended that could not say so in the store.

    Attributes:
        metrics: of its run.
        failures: why configurations failed, by name.
        ended_unix_s: when.
    """

    metrics: Mapping[str, float]
    failures: Mapping[str, Failure]
    ended_unix_s: float


@dataclass(frozen=True)
class Record:
    """A sweep of which something may wait.

    Attributes:
        path: its file.
        address: of the store, without a password.
        experiment: of the store.
        plan: what was to be done; what was finished by then is left out.
        started_unix_s: when the sweep began.
        sweep_run: its run; None while the store has none.
        end: None while it runs, or when it was cut off.
    """

    path: Path
    address: str
    experiment: str
    plan: Plan = field(repr=False)
    started_unix_s: float
    sweep_run: str | None = None
    end: End | None = None

    @classmethod
    def of(cls, spool: Spool, plan: Plan, tracking_uri: str, experiment: str, started_unix_s: float) -> Self:
        """Return a record that is not written yet."""
        path = spool.root / _PLACE / f"{uuid.uuid4().hex}.json"
        return cls(path, shown(tracking_uri), experiment, plan, started_unix_s)

    def waiting(self, spool: Spool) -> set[str]:
        """Return the keys of the results that wait."""
        return {s.key for c in self.plan.configurations for s in c.stages} & set(spool.keys())

    def ended_at(self, store: Store) -> bool:
        """Whether it is of a sweep of this store that came to its end."""
        return (self.address, self.experiment) == (store.address, store.experiment) and self.end is not None

    def write(self) -> None:
        """Write it, whole or not at all."""
        self.path.parent.mkdir(exist_ok=True)
        values = {
            "address": self.address,
            "experiment": self.experiment,
            "started_unix_s": self.started_unix_s,
            "sweep_run": self.sweep_run,
            "end": asdict(self.end) if self.end else None,
            "config": self.plan.config.model_dump(mode="json"),
            "measure": self.plan.measure.to_json(),
            "quantize": self.plan.quantize.to_json(),
            "configurations": [_plain(c) for c in self.plan.configurations],
        }
        with replacing(self.path) as aside:
            aside.write_text(json.dumps(values, default=str), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The inverse of `write`.

        Raises:
            ValueError: it is damaged, or written by another version.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            end = values["end"]
            return cls(
                path,
                values["address"],
                values["experiment"],
                Plan(
                    SweepConfig.model_validate(values["config"], strict=False),
                    Environment.from_json(values["measure"]),
                    Environment.from_json(values["quantize"]),
                    tuple(map(_configuration, values["configurations"])),
                ),
                values["started_unix_s"],
                values["sweep_run"],
                End(end["metrics"], {k: Failure.from_json(v) for k, v in end["failures"].items()}, end["ended_unix_s"])
                if end
                else None,
            )
        except (OSError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error

    def remove(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)


def records(spool: Spool) -> list[Record]:
    """Return the records in the order in which their sweeps began; what cannot be read is left where it is."""
    found = []
    for path in (spool.root / _PLACE).glob("*.json"):
        try:
            found.append(Record.read(path))
        except ValueError:
            continue
    return sorted(found, key=lambda record: record.started_unix_s)


def tidy(spool: Spool) -> None:
    """Remove what killed writers left, and the records of sweeps of which nothing waits. Only safe while no sweep runs."""
    for path in (spool.root / _PLACE).glob("*.partial"):
        path.unlink(missing_ok=True)
    for record in records(spool):
        if record.end is None and not record.waiting(spool):
            record.remove()
    if (place := spool.root / _PLACE).is_dir() and not os.listdir(place):  # noqa: PTH208 - only whether there is any
        place.rmdir()


@contextmanager
def alone(spool: Spool) -> Iterator[None]:
    """Hold the spool's lock and clear what killed workers left; two sweeps at once would measure each other.

    Raises:
        UserError: somebody else holds it, or it cannot be opened.
    """
    lock = FileLock(spool.root / "sweep.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another sweep is running on this machine (lock {lock.lock_file}); wait for it, or set SLIM_HOME to another directory"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"lock {lock.lock_file} cannot be opened ({' '.join(str(error).split())}); remove it, or set SLIM_HOME to a directory of your own"
        ) from None
    try:
        spool.sweep_drafts()
        tidy(spool)
        yield
    finally:
        lock.release()


def _plain(planned: PlannedConfiguration) -> dict[str, Any]:
    stages = tuple(replace(s, run=None, spooled=False) for s in planned.stages)
    return {**asdict(replace(planned, run=None, stages=stages)), "precision": planned.precision.name}


def _configuration(values: Mapping[str, Any]) -> PlannedConfiguration:
    source, reference, failure = dict(values["source"]), values["reference"], values["failure"]
    source["path"] = Path(source["path"]) if source["path"] else None
    return PlannedConfiguration(
        **{
            **values,
            "source": ModelSource(**source),
            "precision": precisions.get(values["precision"]),
            "stages": tuple(PlannedStage(**stage) for stage in values["stages"]),
            "reference": PlannedReference(**reference) if reference else None,
            "failure": Failure.from_json(failure) if failure else None,
        }
    )
