"""Runs a job in a worker process, watches it, and says how it ended."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from slim import files, redaction
from slim.errors import Reason, StageError
from slim.jobs import Job, Spool, Spooled, new_job_dir
from slim.provenance import ROOT
from slim.records import Failure, Progress, StageResult
from slim.worker import tail

_POLL_S = 0.1
_GRACE_S = 5.0
_NOT_FOR_WORKERS = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_", "MLFLOW_REGISTRY_URI")


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
    """

    def __init__(self, spool: Spool) -> None:
        self.spool = spool

    def run(
        self,
        job: Job,
        interpreter: str | None,
        timeouts_s: Mapping[str, float],
        on_progress: Callable[[str, Progress], None],
        on_tick: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Run a job to its end.

        Args:
            job: what to do.
            interpreter: Python of the worker; None is this one.
            timeouts_s: wall seconds by stage; a stage without an entry has no limit.
            on_progress: called with the stage and its progress.
            on_tick: called several times a second.

        Raises:
            StageError: a job without stages failed.
            KeyboardInterrupt: passed on after the worker has been stopped.
        """
        job_dir = new_job_dir(self.spool)
        job.write(job_dir / "job.json")
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
                env=_environment(),
                start_new_session=True,
            )
            try:
                ended_by = self._watch(process, job_dir / "progress.jsonl", timeouts_s, on_progress, on_tick)
            finally:
                _stop(process)
                redaction.scrub(job_dir / "worker.log")
        wall_s = time.perf_counter() - start
        failure = self._failure(process.returncode, ended_by, job_dir, oom=_oom_kills() > killed_before)
        if not job.orders and process.returncode != 0:
            raise StageError(failure.reason, failure.message)
        results = []
        for order in job.orders:
            if self.spool.find(order.key) is None:
                now = time.time()
                with self.spool.writing(order.key) as draft:
                    files.copy_ends(job_dir / "worker.log", draft.artifacts / "worker.log")
                    draft.finish(
                        StageResult(order.stage, order.key, failure=failure, started_unix_s=now - wall_s, ended_unix_s=now)
                    )
            found = self.spool.find(order.key)
            assert found is not None
            results.append(found)
        return Outcome(tuple(results), wall_s)

    @staticmethod
    def _watch(
        process: subprocess.Popen[bytes],
        progress_file: Path,
        timeouts_s: Mapping[str, float],
        on_progress: Callable[[str, Progress], None],
        on_tick: Callable[[], None],
    ) -> Reason | None:
        """Follow the worker until it ends; `Reason.TIMEOUT` when its stage took too long, else None."""
        stage, entered = "", time.monotonic()
        offset = 0
        while True:
            running = process.poll() is None
            if progress_file.exists():
                with progress_file.open("rb") as file:
                    file.seek(offset)
                    chunk = file.read()
                complete = chunk[: chunk.rfind(b"\n") + 1]
                offset += len(complete)
                for line in complete.splitlines():
                    values = json.loads(line)
                    reported = values.pop("stage")
                    if reported != stage:
                        stage, entered = reported, time.monotonic()
                    on_progress(stage, Progress(**values))
            if not running:
                return None
            if time.monotonic() - entered > timeouts_s.get(stage, float("inf")):
                return Reason.TIMEOUT
            on_tick()
            time.sleep(_POLL_S)

    @staticmethod
    def _failure(returncode: int, ended_by: Reason | None, job_dir: Path, oom: bool) -> Failure:
        """Why a worker ended without a result."""
        log_tail = tail(job_dir / "worker.log")
        if ended_by is Reason.TIMEOUT:
            return Failure(Reason.TIMEOUT, "the worker was stopped at the stage's time limit", log_tail)
        if returncode == -signal.SIGKILL and oom:
            return Failure(Reason.OUT_OF_MEMORY, "the kernel killed the worker: the machine ran out of memory", log_tail)
        if returncode < 0:
            name = signal.Signals(-returncode).name
            reason = Reason.KILLED if -returncode in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT) else Reason.ENGINE_CRASH
            return Failure(reason, f"the worker was ended by {name}", log_tail)
        last = log_tail.splitlines()[-1][:300] if log_tail else "no output"
        return Failure(Reason.ENGINE_CRASH, f"the worker exited with status {returncode}: {last}", log_tail)


def _environment() -> dict[str, str]:
    """The worker's environment: ours, with the project importable and without MLflow's run, store and passwords.

    A worker runs packages and perhaps a model's own code; the store is not theirs to write.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_FOR_WORKERS)}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in (str(ROOT), environment.get("PYTHONPATH")) if p)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the worker and whatever it started."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            break
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _oom_kills() -> int:
    """Processes that the kernel has killed for memory since boot; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
