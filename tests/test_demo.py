"""The demo in small, as a user starts it: the embedded model, through ``mlflow run``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slim import checkpoint as checkpoints
from slim.provenance import ROOT
from slim.store import TAG, Store

SMALL = (
    "quantize.samples=4; quantize.max_tokens=32; evaluate.limit=4; evaluate.perplexity_tokens=128; profile.requests=3; "
    "profile.output_tokens=4; profile.concurrency=[1, 2]; profile.warmup.max_requests=5; "
    "evaluate.tasks=[{name: slim_facts, limit: 4}, {name: slim_arithmetic, limit: 4}]"
)


@pytest.mark.slow
def test_the_embedded_model_through_mlflow_run(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": uri,
        "SLIM_HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def run(entry_point: str, **parameters: str) -> str:
        given = [word for name, value in parameters.items() for word in ("-P", f"{name}={value}")]
        command = [sys.executable, "-m", "mlflow", "run", ".", "-e", entry_point, "--env-manager", "local", *given]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = run("main", precisions="bf16@vllm,gptq-int4@vllm", set=SMALL)
    for part in ("bf16@vllm", "gptq-int4@vllm", "Pareto front of accuracy against size", f"ui --backend-store-uri {uri}", "left"):
        assert part in said

    # MLflow made its run in Default, since no experiment was named; the sweep is in `slim` all the same.
    store = Store.open(uri, "slim", create=False)
    assert store is not None
    (sweep,) = store.search(f"tags.`{TAG.KIND}` = 'sweep'")
    assert sweep.status == "FINISHED"
    default = Store.open(uri, "Default", create=False)
    assert default is not None
    assert [r.tags[TAG.MOVED] for r in default.search("")] == [sweep.run_id]

    runs = {r.params["precision"]: r for r in store.configurations(sweep.run_id)}
    assert set(runs) == {"bf16", "gptq-int4"}
    assert all(r.status == "FINISHED" and r.metrics["size/parameters"] == 134_515_008 for r in runs.values())
    assert runs["gptq-int4"].params["quantize.group_size"] == "64"
    assert runs["gptq-int4"].metrics["impact/size_reduction_pct"] > 50
    assert runs["gptq-int4"].tags[TAG.BASELINE] == runs["bf16"].run_id
    (quantized,) = store.search(f"tags.`{TAG.KIND}` = 'quantize'")
    assert checkpoints.load(store.checkpoint_path(quantized, tmp_path), verify=True).parameters == 134_515_008

    said = run("study", flagged="true", objectives="accuracy/mean,size/checkpoint_gb")
    (study,) = store.search(f"tags.`{TAG.KIND}` = 'study'")
    assert f"Study {study.run_id}" in said
    assert study.tags[f"{TAG.RECOMMENDED}memory-constrained"] in {r.run_id for r in runs.values()}
    assert "Deploy" in store.artifact(study, "report.html", tmp_path).read_text()
