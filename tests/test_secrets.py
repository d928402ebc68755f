"""Secrets are planted and then searched for in everything that a sweep leaves behind or prints."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from slim import redaction
from slim.errors import Reason, StageError, UserError
from slim.provenance import ROOT
from slim.store import TAG, Store
from tests.made import SMALL
from tests.servers import free_port, serve, stop

HUB = "hf_" + "PlantedHubTokenForTheTest0123456789"
OTHER_HUB = "hf_" + "AnotherTokenThatNoVariableHolds9876"
PASSWORD = "planted-tracking-p@ssword"
QUOTED = "planted-tracking-p%40ssword"
IN_ADDRESS = "planted-address-password"
CLOUD = "plantedCloudSecretKey0123456789abcdef"
PLANTED = [HUB, OTHER_HUB, PASSWORD, QUOTED, IN_ADDRESS, CLOUD]

ENVIRONMENT = {
    "HF_TOKEN": HUB,
    "MLFLOW_TRACKING_USERNAME": "somebody",
    "MLFLOW_TRACKING_PASSWORD": PASSWORD,
    "AWS_SECRET_ACCESS_KEY": CLOUD,
    "SOME_DATABASE": f"postgresql://user:{IN_ADDRESS}@127.0.0.1/db",
}

CODE = f"""
import os, sys
from transformers import LlamaConfig
print("environment:", dict(os.environ))
print("address: https://somebody:{IN_ADDRESS}@example.org/api?token={OTHER_HUB}", file=sys.stderr)
raise RuntimeError("401 for " + os.environ["HF_TOKEN"] + " and {OTHER_HUB}, Authorization: Bearer {CLOUD}")
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://user:pw@host/db", "postgresql://***@host/db"),
        ("http://user:p@ss@host:5000/x", "http://***@host:5000/x"),
        ("https://token@host", "https://***@host"),
        ("see https://host/a@b and mail a@b.c", "see https://host/a@b and mail a@b.c"),
        ("?token=abcdef&x=1", "?token=***&x=1"),
        ("https://s3/x?X-Amz-Signature=abc&y", "https://s3/x?X-Amz-Signature=***&y"),
        ("Authorization: Bearer abcdef123456", "Authorization: Bearer ***"),
        (f"token {OTHER_HUB}.", "token ***."),
        ("ghp_" + "a" * 36, "***"),
        ("AKIA" + "B" * 16, "***"),
        ("tokens: 256, keys 12, bearer of news", "tokens: 256, keys 12, bearer of news"),
        ("hf_transfer and hf_hub", "hf_transfer and hf_hub"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_what_is_taken_out_and_what_is_not(text: str, expected: str) -> None:
    assert redaction.redact(text) == expected


def test_values_of_the_environment_are_taken_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    text = " ".join(PLANTED) + " somebody"
    assert redaction.redact(text) == " ".join(["***"] * len(PLANTED)) + " somebody"
    assert redaction.redacted({"a": [PASSWORD, 1], "b": {"c": CLOUD}, "d": 2.5, "e": None}) == {
        "a": ["***", 1],
        "b": {"c": "***"},
        "d": 2.5,
        "e": None,
    }
    assert PASSWORD not in str(UserError(f"wrong {PASSWORD}"))
    assert HUB not in StageError(Reason.INTERNAL, f"no access with {HUB}").message
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text("a-token-that-was-logged-in-with\n")
    assert redaction.redact("x a-token-that-was-logged-in-with y") == "x *** y"


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_text_without_secrets_stays_as_it_is_when_it_is_redacted_twice(text: str) -> None:
    once = redaction.redact(text)
    assert redaction.redact(once) == once


def test_a_log_keeps_its_other_bytes(tmp_path: Path) -> None:
    file = tmp_path / "worker.log"
    file.write_bytes(b"\xff\xfe " + HUB.encode() + b" \x80\n")
    redaction.scrub(file)
    assert file.read_bytes() == b"\xff\xfe *** \x80\n"
    redaction.scrub(tmp_path / "absent.log")


@dataclass(frozen=True)
class Swept:
    """What a sweep with planted secrets left.

    Attributes:
        place: everything that it wrote.
        uri: of the store, password included.
        printed: what it printed.
        code: its exit code.
    """

    place: Path
    uri: str
    printed: str
    code: int


@pytest.fixture(scope="module")
def swept(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swept]:
    """A sweep of a model that works and one whose own code, which is allowed, shouts every secret it knows and fails."""
    place = tmp_path_factory.mktemp("secrets")
    loud = shutil.copytree(tiny_model, tmp_path_factory.mktemp("models") / "loud")
    settings = json.loads((loud / "config.json").read_text())
    settings |= {"model_type": "loud", "auto_map": {"AutoConfig": "configuration_loud.LoudConfig"}}
    (loud / "config.json").write_text(json.dumps(settings))
    (loud / "configuration_loud.py").write_text(CODE)
    sweep = {
        "models": [str(tiny_model), {"id": str(loud), "trust_remote_code": True}],
        "precisions": ["bf16@transformers"],
        **SMALL,
        "evaluate": {**SMALL["evaluate"], "perplexity_text": None, "fidelity_tokens": None},
    }
    (place / "sweep.yaml").write_text(yaml.safe_dump({**sweep, "experiment": "secrets"}))
    (place / "work").mkdir()
    environment = {**os.environ, **ENVIRONMENT, "SLIM_HOME": str(place / "home"), "HF_HOME": str(place / "hub")}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_RUN_ID", None)
    port = free_port()
    server = serve(place, port)
    try:
        uri = f"http://somebody:{IN_ADDRESS}@127.0.0.1:{port}"
        command = [sys.executable, "-m", "entrypoints.sweep", "--config", str(place / "sweep.yaml"), "--tracking-uri", uri]
        done = subprocess.run(command, cwd=place / "work", env=environment, capture_output=True, text=True, check=False)
        (place / "printed.txt").write_text(done.stdout + done.stderr)
        yield Swept(place, uri, done.stdout + done.stderr, done.returncode)
    finally:
        stop(server)


@pytest.mark.slow
def test_the_sweep_did_what_it_was_asked_for(swept: Swept) -> None:
    assert swept.code == 1, swept.printed
    store = Store.open(swept.uri, "secrets", create=False)
    assert store is not None
    by_name = {run.name: run for run in store.configurations()}
    assert sorted(run.status for run in by_name.values()) == ["FAILED", "FINISHED"]
    failed = by_name["loud/bf16@transformers"]
    assert "401 for ***" in failed.tags[TAG.FAILURE_MESSAGE]
    assert "Traceback" not in swept.printed


@pytest.mark.slow
def test_no_planted_secret_is_anywhere(swept: Swept) -> None:
    files = [file for file in swept.place.rglob("*") if file.is_file() and "hub/modules" not in file.as_posix()]
    names = {file.name for file in files}
    # What is searched is what there is to search: store, artifacts, worker logs here and there, terminal output.
    assert {"server.db", "plan.json", "sweep.json", "worker.log", "printed.txt"} <= names
    logs = [file for file in files if file.name == "worker.log"]
    assert any("served" in file.parts for file in logs)
    assert any("jobs" in file.parts for file in logs)
    assert any(b"environment:" in file.read_bytes() for file in logs)
    found = [
        f"{secret} in {file.relative_to(swept.place)}"
        for file in files
        for secret in PLANTED
        if secret.encode() in file.read_bytes()
    ]
    assert not found


@pytest.mark.slow
def test_code_of_a_model_is_not_run_unless_a_field_says_so(swept: Swept) -> None:
    from slim.engines.checkpoints import load_config

    loud = next(m["id"] for m in yaml.safe_load((swept.place / "sweep.yaml").read_text())["models"] if isinstance(m, dict))
    with pytest.raises(StageError, match="trust_remote_code") as refused:
        load_config(Path(loud), trust_remote_code=False)
    assert "401" not in str(refused.value)
