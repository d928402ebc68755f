"""What runs on a node: a worker process, watched and stopped as on the sweep's own machine, and its results sent back.

A Ray task is a generator of messages, so that progress and files come while they are there, and so that what came is the driver's
when the node is lost.
"""

import contextlib
import json
import os
import queue
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slim import checkpoint as checkpoints
from slim.cluster import cores, leftovers, transfer
from slim.cluster.transfer import Chunk, Listing, ReadAt
from slim.cooling import Cooling
from slim.device import NvmlDevice
from slim.errors import Reason, StageError
from slim.executor import LocalExecutor
from slim.jobs import Job, Spool, Spooled
from slim.provenance import Hardware, cpu_name, gpu_hardware
from slim.records import Failure, Progress, StageResult
from slim.store.contract import TAG

_END = object()


@dataclass(frozen=True)
class Mark:
    """A file of the driver's by which a node finds out whether it sees the same disk.

    Attributes:
        path: of the file.
        text: what it holds.
        home: the driver's `slim.files.home`.
    """

    path: Path
    text: str
    home: Path

    def is_here(self) -> bool:
        """Whether this process sees it."""
        try:
            return self.path.read_text(encoding="utf-8") == self.text
        except (OSError, UnicodeDecodeError):
            return False


@dataclass(frozen=True)
class Order:
    """Work for a node.

    Attributes:
        job: for the worker, with the driver's paths.
        interpreter: of the worker.
        timeouts_s: by stage.
        mark: tells whether the disk is shared.
        files: the driver's files that the job names.
        pin: give the worker the cores of its GPUs.
        cooldown_s: at most this long until the GPUs are as cool as before the sweep's first measurement on them.
        sweep: names the sweep, for what is remembered between its workers.
        overlap: other measurements may run on the host at the same time.
        hardware: that the work was planned for; None takes any.
        environment: variables that the worker gets, None for those that it must not have.
    """

    job: Job
    interpreter: str | None
    timeouts_s: Mapping[str, float]
    mark: Mark
    files: tuple[Listing, ...] = ()
    pin: bool = True
    cooldown_s: float = 0.0
    sweep: str = ""
    overlap: bool = False
    hardware: Hardware | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Placed:
    """The work has begun.

    Attributes:
        node: host name.
        gpus: that the worker sees, as ``CUDA_VISIBLE_DEVICES`` has them.
        cores: that it is pinned to; empty when it is not.
    """

    node: str
    gpus: tuple[str, ...]
    cores: tuple[int, ...]


@dataclass(frozen=True)
class Reported:
    """Progress of a stage."""

    stage: str
    progress: Progress


@dataclass(frozen=True)
class Coming:
    """The files of a result follow: bytes by name."""

    key: str
    sizes: dict[str, int]


@dataclass(frozen=True)
class Arrived:
    """All files of a result have been sent."""

    key: str


@dataclass(frozen=True)
class Ended:
    """The work is over.

    Attributes:
        wall_s: life of the worker process.
        failure: of work that leaves no result, or that failed before there was a worker.
    """

    wall_s: float
    failure: Failure | None = None


Message = Placed | Reported | Coming | Chunk | Arrived | Ended


def work(order: Order, gpu_ids: list[str], gpus_of_host: int, read: ReadAt) -> Iterator[Message]:
    """Do an order on this node.

    Args:
        order: the work.
        gpu_ids: that Ray gave, as ``CUDA_VISIBLE_DEVICES`` has them.
        gpus_of_host: by Ray's count.
        read: fetches the driver's files.
    """
    for name, value in order.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    pinned = _share(gpu_ids, gpus_of_host) if order.pin and gpu_ids else ()
    placed = Placed(socket.gethostname(), tuple(gpu_ids), pinned)
    yield placed
    other = _differs(order.hardware) if order.hardware is not None else None
    if other is not None:
        # It may have joined the cluster after the sweep was planned.
        yield Ended(
            0.0, Failure(Reason.DEPENDENCY, f"node {placed.node} is no node that the sweep was planned for: it has {other}")
        )
        return
    shared = order.mark.is_here()
    if shared:
        os.environ["SLIM_HOME"] = str(order.mark.home)
    if not shared:
        leftovers.prune(order.sweep)
    spool = Spool(order.job.spool if shared else leftovers.spool_of(order.sweep))
    try:
        job = replace(order.job, spool=spool.root) if shared else _localized(order, spool, read)
    except (StageError, OSError, ValueError) as error:
        known = error if isinstance(error, StageError) else None
        reason = known.reason if known else Reason.INTERNAL
        yield Ended(0.0, Failure(reason, f"what the worker needs could not be brought to {placed.node}: {error}"))
        return
    if order.cooldown_s:
        _cool(order.sweep, gpu_ids, order.cooldown_s)
    ended: Ended | None = None
    results: tuple[Spooled, ...] = ()
    for message in _watched(job, order, spool, pinned):
        if isinstance(message, tuple):
            ended, results = message
        else:
            yield message
    assert ended is not None
    kept = [spooled for spooled in results if spool.find(spooled.result.key) is not None]
    yield from _handed_over(kept, spool, placed, order.overlap, shared=shared)
    # A disk without room kept not even the failure.
    failures = [spooled.result.failure for spooled in results if spooled not in kept]
    yield replace(ended, failure=next(filter(None, failures), ended.failure))


def _handed_over(
    results: list[Spooled], spool: Spool, placed: Placed, overlap: bool, *, shared: bool
) -> Iterator[Coming | Chunk | Arrived]:
    """Say in the results where they were made, and send them unless the driver sees them."""
    for spooled in results:
        spool.amend(_told(spooled.result, placed, overlap))
        if not shared:
            yield Coming(spooled.result.key, transfer.listing(spooled.path).sizes)
            yield from transfer.chunks(spooled.path)
            yield Arrived(spooled.result.key)
            spool.discard(spooled.result.key)


def _watched(
    job: Job, order: Order, spool: Spool, pinned: tuple[int, ...]
) -> Iterator[Reported | tuple[Ended, tuple[Spooled, ...]]]:
    """Run the worker in a thread, so that its progress can be sent meanwhile; the end and the results come last."""
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            if pinned:
                # Of this thread, from which the worker inherits it. The thread stays while the worker does, which dies with it.
                os.sched_setaffinity(0, pinned)
            with contextlib.suppress(PermissionError):
                # Ray's processes stand back behind all others; the worker must not. A node's owner may forbid it.
                os.setpriority(os.PRIO_PROCESS, 0, 0)
            outcome = LocalExecutor(spool).run(
                job, order.interpreter, order.timeouts_s, lambda stage, p: told.put(Reported(stage, p))
            )
            told.put((Ended(outcome.wall_s), outcome.results))
        except StageError as error:
            told.put((Ended(0.0, Failure(error.reason, error.message, error.log_tail)), ()))
        except Exception as error:  # noqa: BLE001 - whatever it was has to be told where somebody sees it
            told.put((Ended(0.0, Failure(Reason.INTERNAL, f"{type(error).__name__}: {error}")), ()))
        finally:
            told.put(_END)

    threading.Thread(target=run, name="slim-worker", daemon=True).start()
    while (message := told.get()) is not _END:
        yield message


def _differs(planned: Hardware) -> str | None:
    """What this node has instead of what was planned for; None when it is alike."""
    if cpu_name() != planned.cpu_name:
        return cpu_name()
    if planned.device == "cpu":
        return None
    here = gpu_hardware()
    if here is not None and (here.name, here.driver) == (planned.name, planned.driver):
        return None
    return f"{here.label} with driver {here.driver}" if here is not None else "no GPU"


def _share(gpu_ids: list[str], gpus_of_host: int) -> tuple[int, ...]:
    """The cores that go with these GPUs."""
    shares = cores.of_this_host(gpus_of_host)
    everything = NvmlDevice.open(",".join(map(str, range(len(shares)))))
    uuids = everything.uuids if everything is not None else ()
    own = NvmlDevice.open(",".join(gpu_ids))
    if own is not None and uuids:
        numbers = [uuids.index(uuid) for uuid in own.uuids if uuid in uuids]
    else:
        numbers = [int(name) % len(shares) for name in gpu_ids if name.isdecimal()]
    return tuple(sorted(frozenset().union(*(shares[number] for number in numbers))))


def _localized(order: Order, spool: Spool, read: ReadAt) -> Job:
    """The job with this node's paths for the driver's."""
    job = order.job
    at = {listed.path: transfer.fetch(listed, read) for listed in order.files}

    def local(path: Path | None) -> Path | None:
        return at.get(str(path), path) if path is not None else None

    checkpoint = local(job.checkpoint)
    if checkpoint is not None and checkpoint != job.checkpoint:
        checkpoints.load(checkpoint, verify=True)
    return replace(
        job,
        spool=spool.root,
        source=replace(job.source, path=local(job.source.path)),
        checkpoint=checkpoint,
        against=replace(job.against, path=local(job.against.path)),
    )


def _cool(sweep: str, gpu_ids: list[str], limit_s: float) -> None:
    """Wait until these GPUs are as cool as before the sweep's first measurement on them, which is remembered in a file."""
    device = NvmlDevice.open(",".join(gpu_ids)) if gpu_ids else None
    if device is None:
        return
    target = leftovers.cooling_of(sweep, "-".join(uuid[-8:] for uuid in device.uuids))
    try:
        first = int(json.loads(target.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        first = None
    cooling = Cooling(lambda: device.state().temperature_c, first=first)
    cooling.wait(limit_s)
    if first is None and cooling.first is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(cooling.first), encoding="utf-8")


def _told(result: StageResult, placed: Placed, overlap: bool) -> StageResult:
    """The result with a tag that says where it was made."""
    where = {"node": placed.node, "gpus": placed.gpus, "cores": _ranges(placed.cores), "overlap": overlap}
    return replace(result, tags={**result.tags, TAG.PLACEMENT: json.dumps(where)})


def _ranges(numbers: tuple[int, ...]) -> str:
    """Numbers as the kernel lists them: ``0-3,8``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
