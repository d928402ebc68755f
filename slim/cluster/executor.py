"""Runs jobs as Ray tasks. What a task does on its node is `slim.cluster.task`; here it is asked for, listened to and, when its
node is lost, asked for again."""

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from slim.cluster import connection, leftovers
from slim.cluster.admission import Admission, rank
from slim.cluster.nodes import HOST, Needs, Room, needs
from slim.cluster.taking import LostError, Taking, ended_by
from slim.cluster.task import Ended, Mark, Message, Order, Placed, work
from slim.cluster.transfer import Shelf
from slim.config import SweepConfig
from slim.errors import Reason, StageError
from slim.executor import Outcome, result_of
from slim.files import home
from slim.jobs import Job, Spool
from slim.overlapping import Withdrawn
from slim.provenance import Hardware
from slim.records import Failure, Progress

_LOOK_S = 0.2
_CLEAR_S = 10.0
"""That nodes may take to remove what a sweep left on them."""
_AHEAD = 8
"""Messages that a node may be ahead of what was read: so many chunks lie in memory at most."""


class _UnplaceableError(Exception):
    """No node is left that could do the work."""


class RayExecutor:
    """Workers on the nodes of the cluster that this process is connected to. Safe to call from several threads.

    Args:
        config: of the sweep.
        spool: where results go, whatever node they were made on.
        rooms: of the cluster's nodes.
        hardware: that measuring was planned for.
        on_note: told what a person should know.

    Attributes:
        lanes: configurations that can be measured at once.
        apart: see `slim.overlapping.Overlapping`.
    """

    def __init__(
        self, config: SweepConfig, spool: Spool, rooms: Sequence[Room], hardware: Hardware, on_note: Callable[[str], None]
    ) -> None:
        self._config = config
        self._spool = spool
        self._on_note = on_note
        self._hardware = hardware
        self._needs: Needs = needs(config, [room.gpus for room in rooms])
        self._cpus = min((room.cpus // room.gpus for room in rooms if room.gpus), default=0)
        asked = self._needs.measure_gpus
        hosts = sum(room.resources.get(HOST, 0) > 0 for room in rooms)
        self.lanes = max(1, sum(room.gpus // asked for room in rooms) if asked else hosts)
        self.apart = self._needs.alone and not self._needs.whole
        self._admission = Admission(self.lanes)
        self._withdrawing, self._stopping = threading.Event(), threading.Event()
        self._sweep = secrets.token_hex(8)
        self._mark = Mark(spool.root / f"shared-{self._sweep}", self._sweep, home())
        self._mark.path.write_text(self._mark.text, encoding="utf-8")
        self._shelf: Any = None
        self._shelving = threading.Lock()
        self._options = connection.shipped()

    def close(self) -> None:
        """Leave nothing behind, neither here nor on the nodes."""
        self.stop()
        self._mark.path.unlink(missing_ok=True)
        leftovers.remove(self._sweep)
        # A node that is lost or busy removes it by age.
        with contextlib.suppress(Exception):
            self._clear_nodes()

    def _clear_nodes(self) -> None:
        """Remove what lies on the other nodes."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        own = ray.get_runtime_context().get_node_id()
        others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != own]
        remove = ray.remote(num_cpus=0, max_retries=0)(leftovers.remove)
        asked = []
        for node in others:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            asked.append(remove.options(scheduling_strategy=there, **self._options).remote(self._sweep))
        if asked:
            ray.wait(asked, num_returns=len(asked), timeout=_CLEAR_S)

    def withdraw(self) -> None:
        """See `slim.overlapping.Overlapping`."""
        self._withdrawing.set()

    def stop(self) -> None:
        """See `slim.overlapping.Overlapping`."""
        self._stopping.set()

    def run(
        self,
        job: Job,
        interpreter: str | None,
        timeouts_s: Mapping[str, float],
        on_progress: Callable[[str, Progress], None],
    ) -> Outcome:
        """See `slim.executor.LocalExecutor`.

        Raises:
            StageError: a job without stages failed.
            Withdrawn: the sweep ends.
        """
        profile = self._config.profile
        measures_speed = any(o.stage == "profile" for o in job.orders)
        order = Order(
            job=job,
            interpreter=interpreter,
            timeouts_s=dict(timeouts_s),
            mark=self._mark,
            files=self._put_out(job),
            pin=self._config.executor.pin,
            cooldown_s=profile.cooldown_s if profile is not None and measures_speed else 0.0,
            sweep=self._sweep,
            overlap=self._config.executor.overlap,
            hardware=self._hardware if job.engine is not None else None,
            # Ray sets it to the number of CPUs that were asked for, and torch would use no more threads.
            environment={"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")},
        )
        for ordered in job.orders:
            # What an earlier attempt left must not be taken for this one's.
            self._spool.discard(ordered.key)
        lost = 0
        while True:
            try:
                ended = self._attempt(order, on_progress)
                break
            except LostError as error:
                lost += 1
                what = job.orders[0].stage if job.orders else "prepare"
                if lost > self._config.executor.retries:
                    message = f"its node was lost {lost} times, the last time as: {error}"
                    ended = Ended(0.0, Failure(Reason.KILLED, message))
                    break
                left = tuple(o for o in job.orders if self._spool.find(o.key) is None)
                if job.orders and not left:
                    ended = Ended(0.0)
                    break
                order = replace(order, job=replace(job, orders=left))
                self._on_note(
                    f"{what} of {job.source.short_name}/{job.precision}: a node was lost; its work is begun again elsewhere"
                )
        return self._outcome(job, ended)

    def _outcome(self, job: Job, ended: Ended) -> Outcome:
        """The results as the spool has them; those that did not come are failures."""
        if not job.orders and ended.failure is not None:
            raise StageError(ended.failure.reason, ended.failure.message, ended.failure.log_tail)
        failure = ended.failure or Failure(Reason.INTERNAL, "the node ended the work without a result")
        return Outcome(tuple(result_of(self._spool, order, failure, ended.wall_s) for order in job.orders), ended.wall_s)

    def _attempt(self, order: Order, on_progress: Callable[[str, Progress], None]) -> Ended:
        """Have the order done once.

        Raises:
            LostError: the node went away.
            Withdrawn: the sweep ends.
        """
        import ray

        taking = Taking(self._spool, on_progress)
        look = self._unplaced(order.job)
        kind = tuple(sorted(self._asked(order.job).items()))
        try:
            with self._admission.turn(kind, rank(order.job), look) as placed:
                generator = self._remote(order)
                try:
                    for message in self._messages(generator, look):
                        if isinstance(message, Placed):
                            placed()
                        taking.take(message)
                except (ray.exceptions.RayError, ValueError) as error:
                    taking.ended = ended_by(error)
                finally:
                    if taking.ended is None:
                        ray.cancel(generator, force=True)
                    taking.drop()
        except _UnplaceableError as error:
            return Ended(0.0, Failure(Reason.KILLED, str(error)))
        if taking.ended is None:
            raise LostError("its messages ended early")
        return taking.ended

    def _messages(self, generator: Any, look: Callable[[], None]) -> Iterator[Message]:
        """What the node says, until it has said all.

        Args:
            generator: Ray's.
            look: called several times a second until the work has a place.
        """
        import ray

        placed = False
        while True:
            if self._stopping.is_set():
                raise Withdrawn
            if not placed:
                look()
            ready, _ = ray.wait([generator], timeout=_LOOK_S, fetch_local=False)
            if not ready:
                continue
            try:
                reference = next(generator)
            except StopIteration:
                return
            message = ray.get(reference)
            placed = placed or isinstance(message, Placed)
            yield message

    def _unplaced(self, job: Job) -> Callable[[], None]:
        """What is to be called again and again while a job has no place: it raises when it will get none.

        That is `Withdrawn`, or `_UnplaceableError` when for too long no node was there that could do it.
        """
        unplaceable_s, looked_s = 0.0, time.monotonic()

        def look() -> None:
            nonlocal unplaceable_s, looked_s
            if self._stopping.is_set() or self._withdrawing.is_set():
                raise Withdrawn
            passed_s = time.monotonic() - looked_s
            if passed_s <= 1.0:
                return
            looked_s += passed_s
            unplaceable_s = 0.0 if self._fits(job) else unplaceable_s + passed_s
            if unplaceable_s > self._config.executor.timeout_s:
                asked = ", ".join(f"{amount:g} {name}" for name, amount in self._asked(job).items() if amount)
                raise _UnplaceableError(f"no node is left that has {asked or 'room'}")

        return look

    def _asked(self, job: Job) -> dict[str, float]:
        """Ray's resources for a job, by Ray's names."""
        asked, measures = self._needs, job.engine is not None
        gpus = 0 if not job.orders else asked.measure_gpus if measures else asked.quantize_gpus
        alone = asked.alone and (not job.orders or asked.whole or any(o.stage == "profile" for o in job.orders))
        others = dict(asked.resources) if job.orders else {}
        return {"CPU": self._cpus * gpus, "GPU": gpus, **({HOST: 1} if alone else {}), **others}

    def _fits(self, job: Job) -> bool:
        """Whether a node is there that could do a job, if nothing else ran on it."""
        import ray

        asked = self._asked(job)
        return any(
            all(node["Resources"].get(name, 0) >= amount for name, amount in asked.items())
            for node in ray.nodes()
            if node["Alive"]
        )

    def _remote(self, order: Order) -> Any:
        """Hand an order to Ray."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = self._asked(order.job)
        cpus, gpus = asked.pop("CPU"), asked.pop("GPU")
        options = dict(self._options)
        if not order.job.orders:
            # Models are fetched where the sweep runs, whose disk is looked at next; nodes without that disk fetch their own.
            own = ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(own, soft=False)
            here = next(n for n in ray.nodes() if n["NodeID"] == own)["Resources"]
            asked = {name: amount for name, amount in asked.items() if here.get(name, 0) >= amount}
        return self._task.options(num_cpus=cpus, num_gpus=gpus, resources=asked or None, **options).remote(order, self._shelf)

    @cached_property
    def _task(self) -> Any:
        """What Ray runs: one function for all work, which it then starts in order and without looking for a process anew."""
        import ray

        # Ray's processes are used again: they hold nothing of the device, and to start one takes seconds.
        return ray.remote(num_returns="streaming", max_calls=0, max_retries=0, _generator_backpressure_num_objects=_AHEAD)(_task)

    def _put_out(self, job: Job) -> tuple[Any, ...]:
        """The files that a job names, for nodes that do not see this disk; none where all nodes are this machine."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if not self._is_apart():
            return ()
        with self._shelving:
            if self._shelf is None:
                own = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
                self._shelf = (
                    ray.remote(num_cpus=0, max_concurrency=4)(Shelf).options(scheduling_strategy=own, **self._options).remote()
                )
        paths = [str(p) for p in (job.checkpoint, job.against.path, job.source.path) if p is not None and Path(p).exists()]
        return tuple(ray.get(self._shelf.put.remote(paths))) if job.orders else ()

    def _is_apart(self) -> bool:
        """Whether a node may have another disk than this process."""
        import ray

        return any(n["NodeManagerHostname"] != socket.gethostname() for n in ray.nodes())


def _task(order: Order, shelf: Any) -> Iterator[Message]:
    """Run on a node."""
    import ray

    gpu_ids = [str(name) for name in ray.get_gpu_ids()]
    if gpu_ids:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu_ids)
    own = ray.get_runtime_context().get_node_id()
    gpus_of_host = next((int(n["Resources"].get("GPU", 0)) for n in ray.nodes() if n["NodeID"] == own), len(gpu_ids))

    def read(path: str, name: str, offset: int) -> bytes:
        return bytes(ray.get(shelf.read.remote(path, name, offset)))

    yield from work(order, gpu_ids, gpus_of_host, read)
