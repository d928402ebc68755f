"""Wrong input: one line that names it, exit code 2, and nothing left in the store."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from slim.provenance import ROOT
from slim.store import TAG
from tests.bad_input.told import everything_below, invoke, one_line

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
    ("sweep", ["--flush", "--dry-run"], ["--flush", "--dry-run"]),
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
    # Words of the options themselves
    ("sweep", ["--config", ""], ["--config"]),
    ("sweep", ["--config", "{home}"], ["--config", "{home}"]),
    ("sweep", ["--config", "a\0b"], ["--config"]),
    ("sweep", ["--models", "./a\0b"], ["models.0", "control"]),
    ("sweep", ["--models", "{home}/not-a-model.gguf"], ["not-a-model.gguf", "GGUF"]),
    ("sweep", ["--models", "{home}/broken.yaml"], ["broken.yaml", ".gguf"]),
    ("sweep", ["--models", "org/../model"], ["org/../model", "allowed"]),
    ("sweep", ["--models", "org/model/"], ["org/model/", "allowed"]),
    ("sweep", ["--models", "https://huggingface.co/org/model"], ["https://huggingface.co/org/model", "allowed"]),
    ("sweep", [*SWEEP, "--tasks", "slim_facts:\u00b2"], ["slim_facts:\u00b2", "whole number"]),
    ("sweep", [*SWEEP, "--tasks", "slim_facts:"], ["slim_facts:", "whole number"]),
    ("sweep", [*SWEEP, "--tasks", ":5"], ["evaluate.tasks.0.name"]),
    ("sweep", [*SWEEP, "--tasks", "slim_facts:99999999999999999999"], ["num_fewshot", "1000"]),
    ("sweep", [*SWEEP, "--tasks", "slim_facts:" + "9" * 5000], ["--tasks"]),
    ("sweep", [*SWEEP, "--limit", "1e3"], ["--limit", "1e3"]),
    ("sweep", [*SWEEP, "--limit", "nan"], ["--limit", "nan"]),
    ("sweep", [*SWEEP, "--limit", "9" * 5000], ["--limit"]),
    ("sweep", [*SWEEP, "--dry-run", "perhaps"], ["--dry-run", "perhaps"]),
    ("sweep", [*SWEEP, "--set", "seed=[1"], ["[1", "YAML"]),
    ("sweep", [*SWEEP, "--set", "seed=!!python/object/apply:os.getcwd []"], ["python/object", "YAML"]),
    ("sweep", [*SWEEP, "--set", "seed=2026-13-45"], ["2026-13-45", "YAML"]),
    ("sweep", [*SWEEP, "--set", "seed=" + "9" * 5000], ["--set", "YAML"]),
    ("sweep", [*SWEEP, "--set", "seed={a: 1, a: 2}"], ["twice"]),
    ("sweep", [*SWEEP, "--set", "=5"], ["=5", "field=value"]),
    ("sweep", [*SWEEP, "--set", "profile..requests=5"], ["profile..requests"]),
    ("sweep", [*SWEEP, "--set", ".=5"], [".=5", "field=value"]),
    ("sweep", [*SWEEP, "--set", "__class__=5"], ["__class__", "unknown key"]),
    ("sweep", [*SWEEP, "--set", "models.0=5"], ["models"]),
    ("sweep", [*SWEEP, "--set", "name.inner=5"], ["name"]),
    ("sweep", [*SWEEP, "--set", "profile=5"], ["profile", "5"]),
    ("sweep", [*SWEEP, "--set", "profile.requests"], ["profile.requests", "field=value"]),
    ("sweep", [*SWEEP, "--experiment", ".."], ["experiment", "'..'"]),
    ("sweep", [*SWEEP, "--experiment", "a\nb"], ["experiment", "control"]),
    ("sweep", [*SWEEP, "--data-dir", "{home}/broken.yaml"], ["broken.yaml", "directory"]),
    ("sweep", [*SWEEP, "--measure-python", "{home}"], ["{home}", "Python"]),
    ("sweep", [*SWEEP, "--quantize-python", "/bin/false"], ["/bin/false", "Python"]),
    # Addresses of stores
    ("sweep", [*SWEEP, "--tracking-uri", "sqlite://"], ["sqlite://", "names no file"]),
    ("sweep", [*SWEEP, "--tracking-uri", "sqlite:mlflow.db"], ["sqlite:mlflow.db", "names no file"]),
    ("sweep", [*SWEEP, "--tracking-uri", "sqlite:///{home}"], ["{home}", "is a directory"]),
    ("sweep", [*SWEEP, "--tracking-uri", "sqlite:///{home}/broken.yaml"], ["broken.yaml", "not a database"]),
    ("sweep", [*SWEEP, "--tracking-uri", "sqlite:///{home}/foreign.db"], ["foreign.db", "MLflow"]),
    ("sweep", [*SWEEP, "--tracking-uri", "sqlite:///{home}/a\0b"], ["cannot be opened"]),
    ("sweep", [*SWEEP, "--tracking-uri", "sqlite:////dev/null"], ["/dev/null"]),
    ("sweep", [*SWEEP, "--tracking-uri", "http://"], ["http://", "names no server"]),
    ("sweep", [*SWEEP, "--tracking-uri", "http://127.0.0.1:99999"], ["99999"]),
    ("sweep", [*SWEEP, "--tracking-uri", "http://[::1"], ["http://[::1"]),
    ("sweep", [*SWEEP, "--tracking-uri", "mlruns"], ["mlruns", "allowed"]),
    ("sweep", [*SWEEP, "--tracking-uri", "databricks"], ["databricks"]),
    ("sweep", [*SWEEP, "--tracking-uri", "mysql://"], ["mysql://"]),
    # Questions to a store
    ("study", ["--objectives", "accurracy/mean"], ["accurracy/mean", "unknown metric"]),
    ("study", ["--objectives", "accuracy/mean,accuracy/mean"], ["twice"]),
    ("study", ["--objectives", "accuracy/mean", "--weights", "one"], ["--weights", "one"]),
    ("study", ["--objectives", "accuracy/mean,latency/e2e_p50_ms", "--weights", "nan,1"], ["nan"]),
    ("study", ["--objectives", "accuracy/mean,latency/e2e_p50_ms", "--weights", "inf,1"], ["inf"]),
    ("study", ["--objectives", "accuracy/mean,latency/e2e_p50_ms", "--weights", "-1,1"], ["-1"]),
    ("study", ["--weights", "1,1"], ["weights", "objectives"]),
    ("study", ["--constraints", "accuracy/mean"], ["accuracy/mean", "allowed"]),
    ("study", ["--constraints", "accuracy/mean >= nan"], ["nan", "allowed"]),
    ("study", ["--constraints", "accuracy/mean >= 1e999"], ["1e999", "finite"]),
    ("study", ["--constraints", "accuracy/mean >= __import__('os')"], ["__import__", "allowed"]),
    ("study", ["--deployments", "on-the-moon"], ["on-the-moon", "balanced"]),
    ("study", ["--since", "yesterday"], ["--since", "yesterday"]),
    ("study", ["--since", "2026-02-31"], ["--since", "2026-02-31"]),
    ("study", ["--tags", "just words"], ["just words", "field=value"]),
    ("study", ["--published", "nobody"], ["nobody", "slim_eval"]),
    ("study", ["--draws", "0"], ["--draws", "0"]),
    ("study", ["--draws", "99999999999999"], ["draws", "99999999999999"]),
    ("study", ["--seed", "-1"], ["--seed", "-1"]),
    ("study", ["--group", "first"], ["--group", "first"]),
    ("study", ["--experiment", "nothing here"], ["nothing here", "run a sweep first"]),
    ("report", ["--formats", "exe"], ["exe", "png"]),
    ("report", ["--formats", "../../png"], ["../../png", "svg"]),
    ("report", ["--out", "{home}/broken.yaml"], ["broken.yaml", "--out"]),
    ("report", ["--out", "{home}/broken.yaml/report"], ["broken.yaml", "--out"]),
    ("report", ["--out", ""], ["--out"]),
    # What only looks
    ("doctor", ["--python", "{home}"], ["{home}"]),
    ("doctor", ["--python", "/bin/ls"], ["/bin/ls"]),
    ("doctor", ["--quantize-python", "./a\0b"], ["a"]),
    ("doctor", ["--json", "maybe"], ["--json", "maybe"]),
    ("tasks", ["--pattern", "no-such-task-at-all"], ["no-such-task-at-all"]),
    ("tasks", ["--pattern", "[[["], ["[[["]),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "broken.yaml").write_text("models: [")
    (tmp_path / "not-a-model.gguf").write_text("no model")
    with sqlite3.connect(tmp_path / "foreign.db") as foreign:
        foreign.execute("CREATE TABLE addresses (name TEXT)")
    (tmp_path / "keys.yaml").write_text("modles: [embedded]\nmodels: [embedded]\nprecisions: [bf16]\n")
    return tmp_path


def label(entry: str, arguments: list[str]) -> str:
    text = " ".join([entry, *arguments]).encode("unicode_escape").decode()
    return text if len(text) < 120 else f"{text[:117]}..."


@pytest.mark.parametrize(("entry", "arguments", "named"), CASES, ids=[label(e, a) for e, a, _ in CASES])
def test_wrong_input(home: Path, tiny_model: Path, entry: str, arguments: list[str], named: list[str]) -> None:
    def filled(word: str) -> str:
        return word.replace("{tiny}", str(tiny_model)).replace("{home}", str(home))

    has_store = entry in ("doctor", "tasks") or "--tracking-uri" in arguments
    before = everything_below(home)
    told = one_line(invoke(entry, [filled(a) for a in [*arguments, *([] if has_store else STORE)]]))
    for part in named:
        assert filled(part) in told
    assert everything_below(home) - before <= {"home/hashes.json"}


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
