"""Wrong input: one line that names it, exit code 2, and nothing left in the store."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mlflow.tracking import MlflowClient

from slim.provenance import ROOT
from slim.store import TAG

MODEL = "{tiny}"
STORE = ["--tracking-uri", "sqlite:///{home}/mlflow.db"]
SWEEP = ["--models", MODEL, "--precisions", "bf16@transformers"]

CASES: list[tuple[str, list[str], list[str]]] = [
    ("sweep", ["--config", "nowhere.yaml"], ["--config", "nowhere.yaml"]),
    ("sweep", ["--config", "{home}/broken.yaml"], ["broken.yaml", "not YAML"]),
    ("sweep", ["--config", "{home}/keys.yaml"], ["modles", "unknown key", "models"]),
    ("sweep", ["--models", "./nowhere"], ["./nowhere"]),
    ("sweep", ["--models", "/nowhere/at/all"], ["/nowhere/at/all"]),
    ("sweep", ["--models", "no such model"], ["no such model", "allowed"]),
    ("sweep", ["--models", "synthetic:llama"], ["synthetic:llama", "llama-3.2-3b", "allowed"]),
    ("sweep", ["--models", "synthetic:./nothing"], ["synthetic:./nothing", "no such file"]),
    ("sweep", ["--models", "synthetic:llama-3.2-1b"], ["synthetic:llama-3.2-1b", "random", "evaluate: null"]),
    ("evaluate", ["--model", "synthetic:qwen2.5-3b", "--precision", "bf16"], ["synthetic:qwen2.5-3b", "random"]),
    ("sweep", ["--models", "{home}"], ["{home}"]),
    ("sweep", ["--precisions", "int3"], ["int3", "allowed", "gptq-int4"]),
    ("sweep", ["--precisions", "bf16@sglang"], ["sglang", "allowed", "vllm"]),
    ("sweep", ["--precisions", "bnb-nf4@vllm"], ["bnb-nf4", "transformers"]),
    ("sweep", ["--precisions", "bf16,bf16@vllm"], ["twice", "bf16@vllm"]),
    ("sweep", [*SWEEP, "--tasks", "slim_fact"], ["slim_fact", "slim_facts"]),
    ("sweep", [*SWEEP, "--tasks", "slim_facts:many"], ["slim_facts:many", "whole number"]),
    ("sweep", [*SWEEP, "--limit", "0"], ["--limit", "0"]),
    ("sweep", [*SWEEP, "--limit", "ten"], ["--limit", "ten"]),
    ("sweep", [*SWEEP, "--repeats", "-1"], ["--repeats", "-1"]),
    ("sweep", [*SWEEP, "--set", "profile.requests=-5"], ["profile.requests", "-5"]),
    ("sweep", [*SWEEP, "--set", "profile.request=5"], ["profile.request", "unknown key", "requests"]),
    ("sweep", [*SWEEP, "--set", "profile.requests=many"], ["profile.requests", "many"]),
    ("sweep", [*SWEEP, "--set", "profile.concurrency=[]"], ["concurrency is empty"]),
    ("sweep", [*SWEEP, "--set", "models=[]"], ["models is empty"]),
    ("sweep", [*SWEEP, "--set", "evaluate.system_prompt=Hi"], ["apply_chat_template"]),
    ("sweep", [*SWEEP, "--set", "evaluate.perplexity_text=/no/such/text"], ["/no/such/text", "python-docs"]),
    ("sweep", [*SWEEP, "--set", "quantize.calibration=./missing.txt"], ["./missing.txt", "python-docs"]),
    (
        "sweep",
        [*SWEEP, "--set", "profile.prompts.source=./missing.txt"],
        ["profile.prompts.source", "./missing.txt", "python-docs"],
    ),
    ("sweep", [*SWEEP, "--set", "profile.prompts.source=org/chats"], ["org/chats", "HF_HUB_OFFLINE", "hf download"]),
    ("sweep", [*SWEEP, "--set", "just words"], ["just words", "field=value"]),
    ("sweep", [*SWEEP, "--set", "seed=1", "--set", "seed=2"], ["seed is set to 1 and to 2"]),
    ("sweep", [*SWEEP, "--set", "seed=1; seed=2"], ["seed is set to 1 and to 2"]),
    ("sweep", [*SWEEP, "--set", "seed=1", "--set", "profile.requests=-5"], ["profile.requests", "-5"]),
    ("sweep", [*SWEEP, "--data-dir", "/no/such/mirror"], ["/no/such/mirror"]),
    ("sweep", [*SWEEP, "--measure-python", "/no/python"], ["/no/python"]),
    ("sweep", [*SWEEP, "--tracking-uri", "sqlite:////no/such/dir/mlflow.db"], ["/no/such/dir"]),
    ("sweep", [*SWEEP, "--tracking-uri", "file:///tmp/mlruns"], ["file:///tmp/mlruns", "allowed"]),
    ("sweep", [*SWEEP, "--no-such-option", "1"], ["--no-such-option"]),
    ("sweep", ["--models", MODEL, "--precisions", "gptq-int4", "--set", "quantize.group_size=7"], ["7"]),
    ("quantize", ["--model", MODEL, "--precision", "bf16"], ["bf16", "needs no quantizing", "gptq-int8"]),
    ("quantize", ["--model", MODEL, "--precision", "gptq-int2"], ["gptq-int2", "allowed"]),
    ("quantize", ["--model", MODEL, "--precision", "gptq-int4", "--samples", "-1"], ["--samples", "-1"]),
    ("quantize", ["--model", MODEL, "--precision", "gptq-int4", "--group-size", "100000"], ["100000"]),
    ("quantize", ["--precision", "gptq-int4"], ["--model"]),
    ("evaluate", ["--model", MODEL, "--precision", "bf16", "--engine", "tgi"], ["tgi", "allowed"]),
    ("evaluate", ["--model", MODEL, "--precision", "bf16", "--tasks", "mmlu_proo"], ["mmlu_proo"]),
    ("evaluate", ["--model", MODEL, "--precision", "bf16", "--system-prompt", "Hi"], ["apply_chat_template"]),
    ("profile", ["--model", MODEL, "--precision", "bf16", "--concurrency", "8,1"], ["increase"]),
    ("profile", ["--model", MODEL, "--precision", "bf16", "--concurrency", "1,x"], ["--concurrency", "x"]),
    ("profile", ["--model", MODEL, "--precision", "bf16", "--input-tokens", "99999"], ["max_model_len"]),
    ("profile", ["--model", MODEL, "--precision", "bf16", "--revision", "main"], ["revision", "main"]),
]


def invoke(entry: str, arguments: list[str]) -> Result:
    return CliRunner().invoke(importlib.import_module(f"entrypoints.{entry}").main, arguments)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "broken.yaml").write_text("models: [")
    (tmp_path / "keys.yaml").write_text("modles: [embedded]\nmodels: [embedded]\nprecisions: [bf16]\n")
    return tmp_path


@pytest.mark.parametrize(("entry", "arguments", "named"), CASES, ids=[" ".join([e, *a]) for e, a, _ in CASES])
def test_wrong_input(home: Path, tiny_model: Path, entry: str, arguments: list[str], named: list[str]) -> None:
    def filled(word: str) -> str:
        return word.replace("{tiny}", str(tiny_model)).replace("{home}", str(home))

    store = [] if "--tracking-uri" in arguments else STORE
    result = invoke(entry, [filled(a) for a in [*arguments, *store]])
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.output
    for part in named:
        assert filled(part) in lines[0]
    assert not (home / "mlflow.db").exists()
    assert "Traceback" not in result.output


@pytest.mark.slow
def test_through_mlflow_run_only_its_own_run_is_left_and_says_why(home: Path) -> None:
    uri = f"sqlite:///{home}/mlflow.db"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    arguments = ["run", ".", "-e", "sweep", "--env-manager", "local", "--experiment-name", "slim", "-P", "models=./nowhere"]
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Error: " in done.stderr
    assert "'./nowhere'" in done.stderr
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("slim")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert "./nowhere" in run.data.tags[TAG.NOTE]
    assert TAG.KIND not in run.data.tags


def test_a_dry_run_writes_nothing(home: Path, tiny_model: Path) -> None:
    arguments = [
        "--models",
        str(tiny_model),
        "--precisions",
        "bf16@transformers,bnb-nf4",
        "--dry-run",
        "--tracking-uri",
        f"sqlite:///{home}/x.db",
    ]
    result = invoke("sweep", arguments)
    assert result.exit_code == 0, result.output
    assert "bnb-nf4@transformers" in result.output
    assert "estimate" in result.output
    assert not (home / "x.db").exists()
