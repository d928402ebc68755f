"""Workers that go wrong in every way, as real processes: each ends in a typed failure, with the log's end."""

import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from slim.errors import Reason, StageError
from slim.executor import LocalExecutor
from slim.jobs import Job, Spool, StageOrder
from slim.records import Failure, ModelSource, Progress, StageResult
from tests.fake_nvml import FakeNvml, Gpu

KEY = "k" * 32
SOURCE = ModelSource("m", "local", None, "f", "m", None)
TOLD = '{"stage": "profile", "step": "start", "done": 0, "total": null, "unit": "steps"}'
# What takes the place of the worker: the last argument is the job's directory, whose spool is two levels up.
PRELUDE = """
import json, os, resource, signal, sys, time
from pathlib import Path
job = Path(sys.argv[-1])
spool = job.parent.parent
key = json.loads((job / "job.json").read_text())["orders"][0]["key"] if json.loads((job / "job.json").read_text())["orders"] else ""
def leave(text, artifacts=True):
    (spool / key / "artifacts").mkdir(parents=True) if artifacts else (spool / key).mkdir()
    (spool / key / "result.json").write_text(text)
print("last words", flush=True)
"""


def run(
    tmp_path: Path,
    script: str,
    *,
    orders: bool = True,
    limit_s: float = 60.0,
    on_told: Callable[[], object] = lambda: None,
) -> tuple[Failure | None, list[Progress]]:
    """Run a job whose worker is a script; return how its one stage failed, and what was told on the way."""
    body, program = tmp_path / "worker.py", tmp_path / "python"
    body.write_text(PRELUDE + script)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {body} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    spool, told = Spool(tmp_path / "spool"), list[Progress]()
    job = Job(SOURCE, "bf16", 1, spool.root, (StageOrder("profile", KEY, {}),) if orders else (), "vllm")
    outcome = LocalExecutor(spool).run(
        job, str(program), {"profile": limit_s}, lambda _, progress: (told.append(progress), on_told())
    )
    return (outcome.results[0].result.failure if orders else None), told


@pytest.mark.parametrize(
    ("script", "reason", "said"),
    [
        ("", Reason.BROKEN_RESULT, "status 0"),
        ("sys.exit(3)", Reason.ENGINE_CRASH, "status 3: last words"),
        ("leave('{')", Reason.BROKEN_RESULT, "cannot be used"),
        ("leave('[]')", Reason.BROKEN_RESULT, "cannot be used"),
        ("leave(json.dumps({'stage': 'profile', 'key': key}))", Reason.BROKEN_RESULT, "failure"),
        ("os.kill(os.getpid(), signal.SIGKILL)", Reason.KILLED, "SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", Reason.ENGINE_CRASH, "SIGSEGV"),
        ("os.write(2, b'terminate called: std::bad_alloc\\n'); os.abort()", Reason.OUT_OF_MEMORY, "SIGABRT"),
        ("print('torch.OutOfMemoryError: CUDA out of memory.'); sys.exit(1)", Reason.OUT_OF_MEMORY, "status 1"),
        ("print('CUDA driver version is insufficient for CUDA runtime version'); sys.exit(1)", Reason.DRIVER, "status 1"),
        ("raise OSError(28, os.strerror(28))", Reason.DISK_FULL, "No space left"),
        # A limit on memory and one on the size of files, both of the kernel's.
        ("resource.setrlimit(resource.RLIMIT_AS, (1 << 28,) * 2); bytearray(1 << 30)", Reason.OUT_OF_MEMORY, "MemoryError"),
        (
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16,) * 2); (job / 'weights').write_bytes(bytes(1 << 20))",
            Reason.DISK_FULL,
            "File too large",
        ),
    ],
)
def test_a_worker_that_ends_badly_is_a_typed_failure(tmp_path: Path, script: str, reason: Reason, said: str) -> None:
    failure, _ = run(tmp_path, script)
    assert failure is not None
    assert failure.reason is reason
    assert said in failure.message
    assert "last words" in failure.log_tail


def test_garbage_is_passed_over_and_fit_for_a_database(tmp_path: Path) -> None:
    garbage = "os.write(1, bytes(range(256)) * 1000 + b'\\n'); p = job / 'progress.jsonl'; "
    lines = ["not json", "[1]", '{"stage": 1}', '{"stage": "profile", "step": 3, "done": "x", "total": null}', TOLD]
    failure, told = run(tmp_path, f"{garbage}p.write_text({chr(10).join(lines)!r} + chr(10)); time.sleep(0.5); sys.exit(1)")
    assert failure is not None
    assert [progress.step for progress in told] == ["start"]
    assert "\x00" not in failure.log_tail
    assert len(failure.log_tail) < 100_000


def test_a_worker_that_hangs_before_it_says_anything_is_stopped(tmp_path: Path) -> None:
    start = time.monotonic()
    failure, _ = run(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_DFL); time.sleep(600)", limit_s=0.5)
    assert failure is not None
    assert failure.reason is Reason.TIMEOUT
    assert time.monotonic() - start < 300


def test_an_interrupt_while_a_worker_is_stopped_leaves_neither_processes_nor_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_PASSWORD", "hunter2hunter2")
    children = tmp_path / "children"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    stubborn = f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("password is", os.environ["APP_PASSWORD"], flush=True)
child = os.fork()
if child == 0:
    time.sleep(60)
Path({str(children)!r}).write_text(f"{{os.getpid()}} {{child}}")
(job / "progress.jsonl").write_text({TOLD!r} + chr(10))
time.sleep(60)
"""
    before = signal.signal(signal.SIGALRM, interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            # The first one comes with the worker's first words, the second while it does not end.
            run(tmp_path, stubborn, on_told=lambda: (signal.setitimer(signal.ITIMER_REAL, 0.5), interrupted()))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    until_s = time.monotonic() + 10.0
    pids = [int(pid) for pid in children.read_text().split()]
    while any(map(_runs, pids)) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert not any(map(_runs, pids))
    (log,) = (tmp_path / "spool").glob("jobs/*/worker.log")
    assert "password is ***" in log.read_text()


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_an_earlier_attempt_left_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    with spool.writing(KEY) as draft:
        draft.finish(StageResult("profile", KEY, failure=Failure(Reason.TIMEOUT, "yesterday's")))
    failure, _ = run(tmp_path, "sys.exit(1)")
    assert failure is not None
    assert failure.reason is Reason.ENGINE_CRASH


def test_a_model_that_cannot_be_fetched_says_why(tmp_path: Path) -> None:
    said = "(job / 'failure.json').write_text(json.dumps(['model_unavailable', 'no such repository'])); sys.exit(1)"
    with pytest.raises(StageError, match="no such repository") as caught:
        run(tmp_path, said, orders=False)
    assert caught.value.reason is Reason.MODEL_UNAVAILABLE
    assert "last words" in caught.value.log_tail


def test_a_worker_whose_driver_is_gone_does_nothing(tmp_path: Path) -> None:
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    from slim import worker

    job_dir = tmp_path / f"{gone}-x"
    job_dir.mkdir()
    assert worker.orphaned(job_dir)
    mine = tmp_path / f"{os.getppid()}-x"
    assert not worker.orphaned(mine)


def test_a_result_with_a_value_that_no_store_takes_is_broken(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.writing(KEY) as draft:
        draft.finish(StageResult("profile", KEY, metrics={"latency/e2e_mean_ms": float("nan")}))
    assert spool.find(KEY) is None
    assert "leave an unknown value out" in spool.broken(KEY)
    assert json.loads((tmp_path / KEY / "result.json").read_text())["key"] == KEY


@pytest.mark.parametrize(
    ("gpus", "seen"), [({"measure_gpus": 1}, "0"), ({"measure_gpus": 3}, None), ({"quantize_gpus": 1}, None), ({}, None)]
)
def test_a_worker_sees_the_gpus_that_it_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: dict[str, int], seen: str | None
) -> None:
    """Of a host's three; those that idle beside it would be measured with it."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([Gpu("GPU-a"), Gpu("GPU-b"), Gpu("GPU-c")]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program, told = tmp_path / "python", tmp_path / "seen"
    program.write_text(f'#!/bin/sh\necho "${{CUDA_VISIBLE_DEVICES-unset}}" > {told}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    spool = Spool(tmp_path / "spool")
    job = Job(SOURCE, "bf16", 1, spool.root, (StageOrder("profile", KEY, {}),), "vllm")
    LocalExecutor(spool, **gpus).run(job, str(program), {}, lambda *_: None)
    assert told.read_text().strip() == (seen or "unset")
