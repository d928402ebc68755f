"""A measured configuration over HTTP: a real tracking server, MLflow's model server, vLLM's server and its smoke test."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from analysis import evidence, study
from slim import api, registry
from slim.config import SweepConfig
from slim.provenance import ROOT
from slim.serving import answers
from slim.store import TAG, Store
from tests.made import SMALL
from tests.servers import free_port, mlflow_server, stop

pytestmark = pytest.mark.slow

NAME = "slim-tiny-llama"
LOAD = """
import json, sys, mlflow
assert not any("slim" in name for name in sys.modules)
model = mlflow.pyfunc.load_model(sys.argv[1])
asked = json.load(sys.stdin)
print(json.dumps([model.predict(row, params={"max_tokens": 32})[0] for row in asked]))
"""


@pytest.fixture(scope="module")
def measured(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A tracking server with a sweep, registered by MLflow's client alone."""
    home = tmp_path_factory.mktemp("serving")
    with mlflow_server(home) as address, pytest.MonkeyPatch.context() as patched:
        patched.setenv("SLIM_HOME", str(home / "home"))
        patched.setenv("MLFLOW_TRACKING_URI", address)
        evaluate = {"tasks": [{"name": "slim_facts", "limit": 2}], "perplexity_text": None}
        fields = {**SMALL, "profile": None, "evaluate": evaluate}
        precisions = ["bnb-nf4@transformers", "gptq-int8@vllm"]
        store, outcome = api.run(SweepConfig.parse({"models": [str(tiny_model)], "precisions": precisions, **fields}))
        assert outcome.ok
        client = MlflowClient()
        client.create_registered_model(NAME)
        found: dict[str, Any] = {"uri": store.tracking_uri, "home": home}
        for run in store.configurations(outcome.run_id):
            stages = json.loads(run.tags[TAG.STAGE_RUNS])
            (model_id,) = store.get(stages["quantize"][0]).model_ids
            version = client.create_model_version(
                NAME, f"models:/{model_id}", model_id=model_id, tags={"slim.configuration_run": run.run_id}
            )
            alias = "balanced" if run.params["engine"] == "vllm" else "memory-constrained"
            client.set_registered_model_alias(NAME, alias, version.version)
            kept = store.artifact(store.get(stages["evaluate"][0]), answers.FILE, home / "kept")
            found[alias] = answers.read(kept)
        yield found


def rows(recorded: list[answers.Answer]) -> list[dict[str, Any]]:
    return [{"prompt": a.prompt} if a.messages is None else {"messages": list(a.messages)} for a in recorded]


def load(reference: str, recorded: list[answers.Answer], directory: Path) -> list[str]:
    """What a model answers in a process of its own that does not have this project on its path."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, reference],
        input=json.dumps(rows(recorded)),
        cwd=directory,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    texts: list[str] = json.loads(done.stdout.splitlines()[-1])
    return texts


def test_a_colleague_without_slim_gets_the_recorded_answers(measured: dict[str, Any], tmp_path: Path) -> None:
    recorded = measured["memory-constrained"]
    assert load(f"models:/{NAME}@memory-constrained", recorded, tmp_path) == [a.text for a in recorded]


def test_what_a_study_recommends_answers_as_it_was_measured(measured: dict[str, Any], tmp_path: Path) -> None:
    """From the sweep through study and registry to a loaded model, on the engine that it was measured on."""
    store = Store.open(measured["uri"], "slim")
    assert store is not None
    kept = evidence.keep(store, study.make(store))
    done = registry.register(registry.Question(kept.run_id, name="slim-recommended", force=True), measured["uri"])
    assert done.versions, done.refused
    for version in done.versions:
        recorded = measured["balanced" if version.configuration.endswith("@vllm") else "memory-constrained"]
        loaded = load(f"models:/slim-recommended@{version.deployments[0]}", recorded, tmp_path)
        assert loaded == [a.text for a in recorded], version.configuration


def test_mlflow_serves_it(measured: dict[str, Any], tmp_path: Path) -> None:
    port = free_port()
    words = ["models", "serve", "-m", f"models:/{NAME}@memory-constrained", "--env-manager", "local", "--host", "127.0.0.1"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words, "--port", str(port)],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", process, tmp_path / "log")
        for asked, answer in zip(rows(measured["memory-constrained"]), measured["memory-constrained"], strict=True):
            said = post(f"http://127.0.0.1:{port}/invocations", {"inputs": asked, "params": {"max_tokens": answers.MAX_TOKENS}})
            assert said == {"predictions": [answer.text]}
    finally:
        stop(process)


def test_the_server_of_vllm_gives_the_recorded_answers(measured: dict[str, Any], tmp_path: Path) -> None:
    words = [sys.executable, "-m", "entrypoints.serve", "--model", f"{NAME}@balanced", "--port", str(free_port())]
    done = subprocess.run([*words, "--smoke"], cwd=ROOT, capture_output=True, text=True, check=False)
    asked = len(measured["balanced"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{asked} of {asked} answers are those that were recorded." in done.stdout
    assert "--max-num-seqs 8" in done.stdout


def test_the_server_ends_with_its_terminal(measured: dict[str, Any], tmp_path: Path) -> None:
    """SIGTERM while it starts: exit code 0 and nothing left behind."""
    words = [sys.executable, "-m", "entrypoints.serve", "--model", f"{NAME}@balanced", "--port", str(free_port())]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log)
    end = time.monotonic() + 120
    children: list[str] = []
    while not children:
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < end
        listed = subprocess.run(
            ["pgrep", "-f", "-P", str(process.pid), "vllm.entrypoints"], capture_output=True, text=True, check=False
        )
        children = listed.stdout.split()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, (tmp_path / "log").read_text()
    assert "The server has ended." in (tmp_path / "log").read_text()
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path, limit_s: float = 300) -> None:
    end = time.monotonic() + limit_s
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as response:
        return json.loads(response.read())
