"""A stage in its own process: ``python -m slim.worker <job directory>``.

The directory holds ``job.json``; the worker writes ``progress.jsonl`` beside it and results into the spool. Its memory, CUDA
context and crashes go with it. The exit status is 0 when every stage has a result, whether it finished or failed.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import psutil

from slim import advice, files, metrics, models, precisions
from slim import checkpoint as checkpoints
from slim.device import open_device
from slim.engines import EngineSpec, open_engine
from slim.errors import ConfigError, ModelError, Reason, StageError, UserError
from slim.jobs import Draft, Job, Spool, StageOrder
from slim.records import Checkpoint, Failure, Progress, Stage, StageResult
from slim.redaction import redact
from slim.serving import answers
from slim.stages import RUNNERS, Work, keep_answers, prepare_evaluate

LOG_TAIL_LINES = 40
LOG_TAIL_BYTES = 1 << 16
FAILURE_FILE = "failure.json"
"""In the job's directory: why a worker ended, where it could not say so in the spool."""
NO_ROOM = 28
"""Exit status of a worker that could not even write that."""
_PROGRESS_INTERVAL_S = 0.2
_VAGUE = frozenset({Reason.ENGINE_START, Reason.ENGINE_CRASH, Reason.INTERNAL, Reason.EVALUATION, Reason.MODEL_UNAVAILABLE})


class ProgressFile:
    """Appends progress as JSON lines, a few a second at most.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_s = 0.0
        self._step = ""
        self.stage = ""

    def enter(self, stage: Stage | str) -> None:
        """The stage that is now worked on; its time limit starts here."""
        if (stage, self._step) == (self.stage, "start"):
            return
        self.stage, self._step = stage, "start"
        self._write(Progress("start", 0, None))

    def __call__(self, progress: Progress) -> None:
        """Report progress of the stage."""
        now = time.monotonic()
        if progress.step == self._step and progress.done != progress.total and now - self._last_s < _PROGRESS_INTERVAL_S:
            return
        self._last_s, self._step = now, progress.step
        self._write(progress)

    def _write(self, progress: Progress) -> None:
        line = {"stage": self.stage, **progress.__dict__}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def failure_of(error: BaseException, stage: Stage | None) -> Failure:
    """Translate what a stage raised into a typed failure."""
    message = " ".join(str(error).split()) or type(error).__name__
    shown = advice.of_error(error)
    match error:
        case StageError():
            # Engines cannot know every way in which memory, disk or driver give out.
            reason = shown if shown is not None and error.reason in _VAGUE else error.reason
        case ModelError():
            reason = Reason.MODEL_UNAVAILABLE
        case ConfigError() | UserError():
            reason = Reason.EVALUATION if stage == "evaluate" else Reason.UNSUPPORTED_SCHEME
        case _ if shown is not None:
            reason, message = shown, f"{type(error).__name__}: {message}"
        case ModuleNotFoundError():
            reason = Reason.MISSING_PACKAGE
        case _:
            reason, message = Reason.INTERNAL, f"{type(error).__name__}: {message}"
    return Failure(reason, redact(message)[:1000])


def run_job(job: Job, job_dir: Path) -> None:
    """Do all of a job's orders; each leaves a result in the spool, finished or failed."""
    progress = ProgressFile(job_dir / "progress.jsonl")
    spool = Spool(job.spool)
    progress.enter(job.orders[0].stage if job.orders else "prepare")
    pending = list(job.orders)
    opening: dict[str, float] = {}
    work: Work | None = None
    try:
        work = Work(job, models.materialize(job.source, progress), open_device(), progress)
        if job.engine is not None:
            work.served = (
                checkpoints.load(job.checkpoint, verify=False)
                if job.checkpoint
                else checkpoints.original(work.source, job.source.fingerprint)
            )
            if job.orders[0].stage == "evaluate":
                # Behind a profile the engine start is not wasted, and what the tasks hold would count in the memory measured.
                prepare_evaluate(work, job.orders[0])
            start = time.perf_counter()
            progress(Progress("engine start", 0, None))
            work.engine = open_engine(_spec(job, work.served))
            opening["timing/engine_start_s"] = time.perf_counter() - start
        while pending:
            order = pending[0]
            progress.enter(order.stage)
            result = _run_order(work, order, spool, job_dir, opening)
            pending.remove(order)
            opening = {}
            if result.failure is not None and result.failure.reason in (Reason.ENGINE_CRASH, Reason.DRIVER):
                raise StageError(result.failure.reason, result.failure.message)
    except Exception as error:
        if not job.orders:
            raise
        traceback.print_exc()
        for order in pending:
            now = time.time()
            failed = StageResult(
                order.stage, order.key, failure=failure_of(error, order.stage), started_unix_s=now, ended_unix_s=now
            )
            with spool.writing(order.key) as draft:
                _finish(draft, failed, job_dir)


def _spec(job: Job, served: Checkpoint) -> EngineSpec:
    assert job.engine is not None
    return EngineSpec(
        job.engine, served.path, precisions.get(job.precision).dtype, job.options, job.seed, job.source.trust_remote_code
    )


def _run_order(work: Work, order: StageOrder, spool: Spool, job_dir: Path, opening: dict[str, float]) -> StageResult:
    """Run one stage and leave its result in the spool.

    Args:
        work: what it may use.
        order: which.
        spool: where the result goes.
        job_dir: holds the worker's log.
        opening: time of the engine start, counted to the first stage of the job.
    """
    started, start = time.time(), time.perf_counter()
    with spool.writing(order.key) as draft:
        try:
            result = RUNNERS[order.stage](work, order, draft)
        except Exception as error:  # noqa: BLE001 - as above
            traceback.print_exc()
            result = StageResult(order.stage, order.key, failure=failure_of(error, order.stage))
            shutil.rmtree(draft.checkpoint, ignore_errors=True)
        if work.engine is not None and result.failure is None:
            keep_answers(work, draft.artifacts / answers.FILE)
        own_s = time.perf_counter() - start + (work.prepared_s if order.stage == "evaluate" else 0.0)
        timing = {**opening, "timing/work_s": own_s + result.metrics.get("timing/resumed_s", 0.0)}
        params: dict[str, Any] = dict(result.params)
        if work.engine is not None and result.failure is None:
            params |= {"engine_version": work.engine.info.version, "dtype": precisions.get(work.job.precision).dtype}
        result = StageResult(
            **{
                **result.__dict__,
                "metrics": metrics.check({**result.metrics, **(timing if result.failure is None else {})}),
                "params": params,
                "started_unix_s": started,
                "ended_unix_s": time.time(),
            }
        )
        _finish(draft, result, job_dir)
    return result


def _finish(draft: Draft, result: StageResult, job_dir: Path) -> None:
    """Put the worker's log beside the artifacts, its tail into a failure, and close the draft."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = job_dir / "worker.log"
    if log.exists():
        files.copy_ends(log, draft.artifacts / "worker.log")
    if result.failure is not None:
        failure = Failure(result.failure.reason, result.failure.message, tail(log))
        result = StageResult(**{**result.__dict__, "failure": failure})
    draft.finish(result)


def tail(log: Path) -> str:
    """Return the last lines of a log, as much of them as can be shown; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    # Whatever a worker printed must be fit for a database and a page.
    lines = ("".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line[-500:]) for line in text.splitlines())
    return redact("\n".join(list(lines)[-LOG_TAIL_LINES:]))


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent goes, so that a killed sweep leaves no worker on the GPU."""
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)


def orphaned(job_dir: Path) -> bool:
    """Whether whoever started this worker is gone: it may have been killed before this process could ask to die with it."""
    started_by = job_dir.name.partition("-")[0]
    if not started_by.isdigit() or os.getppid() == int(started_by):
        return False
    try:
        # An interpreter may be a script that starts the real one, so that the parent is somebody else.
        return bool(psutil.Process(int(started_by)).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def main(arguments: list[str]) -> int:
    """Run the job of the directory that is named."""
    die_with_parent()
    job_dir = Path(arguments[0])
    if orphaned(job_dir):
        return 1
    # Said either way, since tokenizers warns at each fork otherwise; none of ours goes on to tokenize.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # NVML numbers GPUs by bus id; CUDA does so only when told.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    try:
        run_job(Job.read(job_dir / "job.json"), job_dir)
    except Exception as error:  # noqa: BLE001 - said in a way that the parent can read
        traceback.print_exc()
        failure = failure_of(error, None)
        try:
            (job_dir / FAILURE_FILE).write_text(json.dumps([failure.reason, failure.message]), encoding="utf-8")
        except OSError:
            return NO_ROOM
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything that matters is in the spool, and the end of the process frees the device: taking torch, vLLM and a CUDA context
    # down one object after another would add seconds to each configuration.
    os._exit(status)
