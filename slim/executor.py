"""Runs a job in a worker process, watches it, and says how it ended."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from slim import advice, files, visible
from slim.errors import Reason, StageError
from slim.jobs import Job, Spool, Spooled, StageOrder, clean, new_job_dir
from slim.provenance import ROOT
from slim.records import Failure, Progress, StageResult
from slim.worker import FAILURE_FILE, NO_ROOM, tail

_POLL_S = 0.1
_GRACE_S = 5.0
_NOT_FOR_WORKERS = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_", "MLFLOW_REGISTRY_URI")
_LAST_LINES = 8
"""Of a crashed worker's log; further up it may speak of what it got over."""


@dataclass(frozen=True)
class Outcome:
    """What a worker left.

    Attributes:
        results: one a stage order, in order; a stage that the worker could not finish or fail itself has a failure made here.
        wall_s: life of the process.
    """

    results: tuple[Spooled, ...]
    wall_s: float


class LocalExecutor:
    """Workers on this machine, one at a time.

    Args:
        spool: where workers leave results.
        measure_gpus, quantize_gpus: that a worker sees of those that this process does, the first ones: what it does not use must not
            be measured with it. None leaves it all.
    """

    def __init__(self, spool: Spool, measure_gpus: int | None = None, quantize_gpus: int | None = None) -> None:
        self.spool = spool
        self._measure_gpus, self._quantize_gpus = measure_gpus, quantize_gpus

    def run(
        self,
        job: Job,
        interpreter: str | None,
        timeouts_s: Mapping[str, float],
        on_progress: Callable[[str, Progress], None],
    ) -> Outcome:
        """Run a job to its end.

        Args:
            job: what to do.
            interpreter: Python of the worker; None is this one.
            timeouts_s: wall seconds by stage; a stage without an entry has no limit.
            on_progress: called with the stage and its progress.

        Raises:
            StageError: a job without stages failed.
            KeyboardInterrupt: passed on after the worker has been stopped.
        """
        for order in job.orders:
            # What an earlier attempt left there must not be taken for this one's.
            self.spool.discard(order.key)
        try:
            job_dir = new_job_dir(self.spool)
            job.write(job_dir / "job.json")
        except OSError as error:
            raise StageError(advice.of_error(error) or Reason.INTERNAL, f"no job can be written to the spool: {error}") from error
        start = time.perf_counter()
        killed_before = _oom_kills()
        ended_by: Reason | None = None
        with (job_dir / "worker.log").open("wb") as log:
            process = subprocess.Popen(
                [interpreter or sys.executable, "-m", "slim.worker", str(job_dir)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=_environment(self._measure_gpus if job.engine else self._quantize_gpus),
                start_new_session=True,
            )
            try:
                first = job.orders[0].stage if job.orders else ""
                ended_by = self._watch(process, job_dir / "progress.jsonl", timeouts_s, on_progress, stage=first)
            finally:
                try:
                    _stop(process)
                finally:
                    clean(job_dir)
        wall_s = time.perf_counter() - start
        failure = self._failure(process.returncode, ended_by, job_dir, oom=_oom_kills() > killed_before)
        if not job.orders and process.returncode != 0:
            raise StageError(failure.reason, failure.message, failure.log_tail)
        return Outcome(
            tuple(result_of(self.spool, order, failure, wall_s, job_dir / "worker.log") for order in job.orders), wall_s
        )

    @staticmethod
    def _watch(
        process: subprocess.Popen[bytes],
        progress_file: Path,
        timeouts_s: Mapping[str, float],
        on_progress: Callable[[str, Progress], None],
        *,
        stage: str,
    ) -> Reason | None:
        """Follow the worker until it ends; `Reason.TIMEOUT` when its stage took too long, else None."""
        entered = time.monotonic()
        offset = 0
        while True:
            running = process.poll() is None
            if progress_file.exists():
                with progress_file.open("rb") as file:
                    file.seek(offset)
                    chunk = file.read()
                complete = chunk[: chunk.rfind(b"\n") + 1]
                offset += len(complete)
                for reported, progress in filter(None, map(_progress, complete.splitlines())):
                    if reported != stage:
                        stage, entered = reported, time.monotonic()
                    on_progress(stage, progress)
            if not running:
                return None
            if time.monotonic() - entered > timeouts_s.get(stage, float("inf")):
                return Reason.TIMEOUT
            time.sleep(_POLL_S)

    @staticmethod
    def _failure(returncode: int, ended_by: Reason | None, job_dir: Path, oom: bool) -> Failure:
        """Why a worker ended without a result."""
        log_tail = tail(job_dir / "worker.log")
        if ended_by is Reason.TIMEOUT:
            reason, message = Reason.TIMEOUT, "the worker was stopped at the stage's time limit"
        elif returncode == -signal.SIGKILL and oom:
            reason, message = Reason.OUT_OF_MEMORY, "the kernel killed the worker: the machine ran out of memory"
        elif returncode < 0:
            reason, message = (
                _said(log_tail) or Reason.ENGINE_CRASH,
                f"the worker was ended by {signal.Signals(-returncode).name}",
            )
            if -returncode in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
                reason = Reason.KILLED
        elif returncode == NO_ROOM:
            reason, message = Reason.DISK_FULL, "the worker could not write: no space left on the spool's disk"
        else:
            last = log_tail.splitlines()[-1][:300] if log_tail else "no output"
            reason = Reason.BROKEN_RESULT if returncode == 0 else _said(log_tail) or Reason.ENGINE_CRASH
            message = f"the worker exited with status {returncode}: {last}"
            with contextlib.suppress(OSError, ValueError, TypeError):
                why, said = json.loads((job_dir / FAILURE_FILE).read_text(encoding="utf-8"))
                reason, message = Reason(why), str(said)
        return Failure(reason, message, log_tail)


def result_of(spool: Spool, order: StageOrder, failure: Failure, wall_s: float, log: Path | None = None) -> Spooled:
    """Return what a worker left for an order, else its failure, which is put into the spool.

    Args:
        spool: where the worker left results.
        order: the stage.
        failure: of a worker that left none.
        wall_s: that it worked.
        log: its log, where it is at hand.
    """
    found = spool.find(order.key)
    if found is not None:
        return found
    if wrong := spool.broken(order.key):
        message = f"the worker left a result that cannot be used: {wrong}"
        failure = Failure(Reason.BROKEN_RESULT, message, failure.log_tail)
    now = time.time()
    failed = StageResult(order.stage, order.key, failure=failure, started_unix_s=now - wall_s, ended_unix_s=now)
    try:
        with spool.writing(order.key) as draft:
            if log is not None:
                files.copy_ends(log, draft.artifacts / "worker.log")
            draft.finish(failed)
    except OSError:
        # The disk that is full is the spool's; the store's may be another one.
        return Spooled(spool.root / order.key, failed)
    return spool.find(order.key) or Spooled(spool.root / order.key, failed)


def _progress(line: bytes) -> tuple[str, Progress] | None:
    """A line of progress with its stage; None when it is none."""
    try:
        values = json.loads(line)
        stage, progress = values.pop("stage"), Progress(**values)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    numbers = (progress.done, progress.total, progress.fraction, progress.part, progress.parts)
    fits = all(n is None or isinstance(n, int | float) for n in numbers) and progress.done is not None
    return (stage, progress) if fits and all(isinstance(t, str) for t in (stage, progress.step, progress.unit)) else None


def _said(log_tail: str) -> Reason | None:
    """What the last lines of a crashed worker's log give away."""
    return advice.symptom("\n".join(log_tail.splitlines()[-_LAST_LINES:]))


def _environment(gpus: int | None) -> dict[str, str]:
    """The worker's environment: ours, with the project importable, so many GPUs and without MLflow's run, store and passwords.

    A worker runs packages and perhaps a model's own code; the store is not theirs to write.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_FOR_WORKERS)}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in (str(ROOT), environment.get("PYTHONPATH")) if p)
    environment["PYTHONUNBUFFERED"] = "1"
    if gpus is not None and (seen := visible.first(gpus)) is not None:
        environment[visible.VISIBLE] = seen
    return environment


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the worker and whatever it started; at once when interrupted while they are given time to end by themselves."""
    try:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(_GRACE_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _oom_kills() -> int:
    """Processes that the kernel has killed for memory since boot; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
