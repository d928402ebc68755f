"""vLLM's OpenAI-compatible server as a child process: started, waited for, and ended with this process whatever ends it."""

import contextlib
import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from slim.engines import vllm_options
from slim.errors import Reason, StageError, UserError
from slim.serving.target import Target

_POLL_S = 0.5
_GRACE_S = 20.0
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def command(target: Target, *, host: str, port: int, interpreter: str | None = None) -> list[str]:
    """Return the command that serves a target.

    Args:
        target: what to serve.
        host: address to listen on.
        port: to listen on.
        interpreter: Python with vLLM; None is this one.
    """
    # The program `vllm` does not start with the CPU build, whose distribution has another name.
    start = [interpreter or sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(target.folder)]
    where = ["--served-model-name", target.name, "--host", host, "--port", str(port)]
    return [*start, *where, *vllm_options.flags(target.arguments)]


def shown(words: list[str]) -> str:
    """Return a command as one would type it."""
    return shlex.join(words)


def address(host: str, port: int) -> str:
    """Return the address at which this machine reaches a server."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://{f'[{reached}]' if ':' in reached else reached}:{port}"


def check_port(host: str, port: int) -> None:
    """Make sure that a server can listen there, before a minute is spent on starting it.

    Raises:
        UserError: it cannot.
    """
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: cannot listen there ({error.strerror}); name another port") from None


@contextlib.contextmanager
def running(words: list[str], *, url: str, log: Path | None = None, ready_s: float = 3600.0) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, wait until it answers, and end it with the block.

    Args:
        words: its command.
        url: where it will answer.
        log: file for what it writes; None lets it write where this process does.
        ready_s: seconds after which a server that does not answer counts as broken.

    Raises:
        StageError: it ended before it answered, or did not answer in time.
    """
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(log.open("wb")) if log is not None else None
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT if out is not None else None,
            env=_environment(),
            # A Ctrl-C is for this process, which then ends the server and its children in order.
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - it makes one system call, loaded beforehand
        )
        try:
            _wait(process, url, log, time.monotonic() + ready_s)
            yield process
        finally:
            stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a server and whatever it started: SIGTERM, and SIGKILL for what is left after a while or at the next interrupt."""
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # Its children share its session, and some outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path | None, until_s: float) -> None:
    while True:
        if process.poll() is not None:
            raise StageError(Reason.ENGINE_START, f"vLLM's server ended with status {process.returncode}{_last(log)}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
            return
        if time.monotonic() > until_s:
            raise StageError(Reason.TIMEOUT, f"vLLM's server does not answer at {url}{_last(log)}")
        time.sleep(_POLL_S)


def _last(log: Path | None) -> str:
    """The last line of the log that says something is wrong, after a colon; empty without a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log is not None else []
    wrong = [line for line in lines if "Error" in line] or [line for line in lines if line.strip()]
    return f": {' '.join(wrong[-1].split())[-400:]}" if wrong else ""


def _environment() -> dict[str, str]:
    """The server's environment; as for the engine that is measured."""
    # This would override the size of the cache that was measured.
    environment = {k: v for k, v in os.environ.items() if k != "VLLM_CPU_KVCACHE_SPACE"}
    environment.setdefault("VLLM_NO_USAGE_STATS", "1")
    return environment


def _end_with_parent() -> None:
    """Ask Linux to end this process when its parent goes, so that no server outlives a killed one."""
    pr_set_pdeathsig = 1
    if _LIBC is not None:
        _LIBC.prctl(pr_set_pdeathsig, signal.SIGTERM)
