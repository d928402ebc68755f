"""A worker that works by sleeping, for what is about where and when workers run and not about what they measure.

`install` writes a program that passes for a Python interpreter: asked to run ``slim.worker`` it runs this module instead, and
everything else it hands to the real interpreter. Named in ``interpreters`` it stands in for the workers of a sweep, whatever executor
starts them; a device or heavy packages are not needed.
"""

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slim import checkpoint as checkpoints
from slim.jobs import Draft, Job, Spool, StageOrder
from slim.provenance import ROOT
from slim.records import StageResult

LOG = "STAND_IN_LOG"
SLEEPS = "STAND_IN_SLEEPS"
_STEP_S = 0.05


def install(directory: Path, sleeps_s: Mapping[str, float]) -> Path:
    """Write the program.

    Args:
        directory: for the program and ``work.jsonl``, in which each stage leaves a line when it begins and one when it ends.
        sleeps_s: by stage.
    """
    program = directory / "python"
    real = shlex.quote(sys.executable)
    program.write_text(
        f"""#!/bin/sh
if [ "$2" = slim.worker ]; then
  export {LOG}={shlex.quote(str(directory / "work.jsonl"))} {SLEEPS}={shlex.quote(json.dumps(dict(sleeps_s)))}
  cd {shlex.quote(str(ROOT))} && exec {real} -m benchmarks.stand_in "$3"
fi
exec {real} "$@"
""",
        encoding="utf-8",
    )
    program.chmod(0o755)
    return program


def make_model(directory: Path, name: str) -> Path:
    """Write a directory that planning takes for a model; no engine would."""
    import numpy as np
    from safetensors.numpy import save_file

    path = directory / name
    path.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "vocab_size": 128,
        "max_position_embeddings": 1024,
        "name": name,
    }
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    layers = (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
    weights = {f"model.layers.0.{layer}.weight": np.zeros((128, 128), np.float16) for layer in layers}
    weights |= {name: np.zeros((128, 128), np.float16) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    (path / "tokenizer.json").write_text("{}", encoding="utf-8")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def work(log: Path) -> list[dict[str, Any]]:
    """Return what stages wrote, in time's order."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return sorted((json.loads(line) for line in lines), key=lambda line: float(line["unix_s"]))


def main(job_dir: Path) -> int:
    """Do a job's orders."""
    from slim.worker import die_with_parent

    die_with_parent()
    job = Job.read(job_dir / "job.json")
    spool = Spool(job.spool)
    for order in job.orders:
        _tell(job, order, "begin")
        started = time.time()
        with spool.writing(order.key) as draft:
            slept_s = _sleep(order, job_dir)
            result = _result(job, order, draft, {"timing/work_s": slept_s}, started)
            draft.finish(result)
        _tell(job, order, "end")
    return 0


def _sleep(order: StageOrder, job_dir: Path) -> float:
    start = time.perf_counter()
    end = start + json.loads(os.environ[SLEEPS]).get(order.stage, 0.0)
    while (left := end - time.perf_counter()) > 0:
        line = {"stage": order.stage, "step": "sleep", "done": 1, "total": 2}
        with (job_dir / "progress.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        time.sleep(min(left, 20 * _STEP_S))
    return time.perf_counter() - start


def _result(job: Job, order: StageOrder, draft: Draft, metrics: dict[str, float], started: float) -> StageResult:
    (draft.artifacts / "worker.log").write_text(f"{order.stage} on GPUs {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    has_checkpoint = order.stage == "quantize"
    if has_checkpoint:
        assert job.source.path is not None
        shutil.copytree(job.source.path, draft.checkpoint)
        checkpoints.write_manifest(draft.checkpoint, order.key, parameters=1)
    if job.checkpoint is not None:
        checkpoints.load(job.checkpoint, verify=True)
    if order.stage == "profile":
        metrics = {**metrics, "latency/e2e_mean_ms": 1.0}
    return StageResult(
        order.stage, order.key, metrics, started_unix_s=started, ended_unix_s=time.time(), has_checkpoint=has_checkpoint
    )


def _tell(job: Job, order: StageOrder, what: str) -> None:
    line = {
        "what": what,
        "configuration": f"{job.source.short_name}/{job.precision}@{job.engine}",
        "stage": order.stage,
        "key": order.key,
        "gpus": [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name],
        "cores": sorted(os.sched_getaffinity(0)),
        "node": os.environ.get("RAY_RAYLET_PID", ""),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "pid": os.getpid(),
        "unix_s": time.time(),
    }
    with Path(os.environ[LOG]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
