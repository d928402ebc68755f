"""Processes that are forked from one that has imported everything, so that a benchmark of many starts need not import for hours.

What runs in them is the program itself; only ``exec`` and the imports are spared. This process must not have computed anything with
torch before it forks: its threads would not be in the children.
"""

import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

HEAVY = (
    "mlflow.tracking",
    "mlflow.store.tracking.sqlalchemy_store",
    "transformers",
    "transformers.models.llama.modeling_llama",
    "bitsandbytes",
    "slim.api",
    "slim.worker",
    "slim.quantize.bnb",
    "slim.engines.transformers",
    "slim.engines.transformers_scoring",
    "slim.profile",
    "slim.evaluate.running",
    "slim.evaluate.harness",
    "slim.evaluate.loading",
    "entrypoints.sweep",
    "entrypoints._console",
    "analysis.summary",
    "analysis.frame",
)


LIGHT = tuple(name for name in HEAVY if not name.startswith(("transformers", "bitsandbytes", "slim.")))


def up(stand_in: bool = False) -> None:
    """Import what drivers and workers import; with stand-ins for the stages, no engine."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Of so small a model threads make nothing faster.
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in (*LIGHT, "slim.api", "slim.worker", "benchmarks.stand_in_stages") if stand_in else HEAVY:
        importlib.import_module(name)


class Forked:
    """A forked process, with as much of `subprocess.Popen` as is used here."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end."""
        end = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode


def start(function: Callable[[], int | None], log: int, environment: dict[str, str]) -> Forked:
    """Run a function in a process of its own session, its output in ``log``."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Forked(pid)
    _become(function, log, environment)


def _become(function: Callable[[], int | None], log: int, environment: dict[str, str]) -> NoReturn:
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(environment)
        status = function() or 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:  # noqa: BLE001 - as an interpreter ends on what nobody caught
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def fork_workers(stand_in: bool = False) -> None:
    """From now on this process forks its workers instead of starting interpreters; with stand-ins, their stages compute nothing."""
    from slim import executor, worker

    if stand_in:
        from benchmarks import stand_in_stages

        stand_in_stages.install()

    def popen(command: Sequence[str], *, stdout: Any, env: dict[str, str], **_: Any) -> Forked:
        return start(lambda: worker.main([str(command[-1])]), stdout.fileno(), env)

    executor.subprocess = SimpleNamespace(  # type: ignore[attr-defined]
        Popen=popen, DEVNULL=None, STDOUT=None, TimeoutExpired=subprocess.TimeoutExpired
    )


def sweep(arguments: list[str], stand_in: bool) -> int:
    """Run a sweep's entry point, as ``python -m entrypoints.sweep`` would, with forked workers."""
    from entrypoints.sweep import main

    fork_workers(stand_in)
    main(arguments, standalone_mode=True)
    return 0


def start_sweep(arguments: list[str], log: Path, environment: dict[str, str], stand_in: bool = False) -> Forked:
    """Start a sweep in a forked process."""
    with log.open("ab") as file:
        return start(lambda: sweep(arguments, stand_in), file.fileno(), environment)
