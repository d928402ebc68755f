"""Stages that take a moment and compute nothing, in place of a worker's own: for benchmarks of everything around them.

They write what real ones write: progress, artifacts, a checkpoint with its manifest, pieces that a later attempt goes on with, what a
baseline keeps. Their metrics follow from the stage's key.
"""

import json
import shutil
import time
from types import SimpleNamespace
from typing import Any

from slim import checkpoint as checkpoints
from slim import worker
from slim.evaluate import REFERENCE_FILE
from slim.jobs import Draft, Spool, StageOrder
from slim.records import Progress, StageResult
from slim.stages import Work

STEPS = 4
STEP_S = 0.1


def install() -> None:
    """Replace the stages and the engine of the workers of this process."""
    worker.RUNNERS.update(quantize=_quantize, profile=_profile, evaluate=_evaluate)
    worker.open_engine = lambda _: SimpleNamespace(info=SimpleNamespace(version="0"))  # type: ignore[assignment,return-value]
    worker.prepare_evaluate = lambda *_: None
    worker.keep_answers = lambda *_: None


def _number(key: str) -> float:
    return int(key[:6], 16) / 0xFFFFFF


def _step(work: Work, done: int) -> None:
    time.sleep(STEP_S)
    work.on_progress(Progress("work", done, STEPS))


def _quantize(work: Work, order: StageOrder, draft: Draft) -> StageResult:
    draft.checkpoint.mkdir()
    for done, file in enumerate(sorted(work.source.iterdir())):
        shutil.copy2(file, draft.checkpoint)
        _step(work, min(done + 1, STEPS))
    made = checkpoints.write_manifest(draft.checkpoint, order.key, 1000)
    return StageResult("quantize", order.key, {"size/parameters": float(made.parameters)}, has_checkpoint=True)


def _profile(work: Work, order: StageOrder, draft: Draft) -> StageResult:
    for done in range(STEPS):
        _step(work, done + 1)
        (draft.artifacts / "latency.txt").write_text("1\n" * done)
    return StageResult("profile", order.key, {"latency/e2e_mean_ms": 1 + _number(order.key), "size/checkpoint_gb": 1.0})


def _evaluate(work: Work, order: StageOrder, draft: Draft) -> StageResult:
    pieces, against = Spool(work.job.spool).pieces(order.key), work.job.against
    found: list[float] = []
    for number in range(STEPS):
        name = f"task{number}"
        if pieces.find(name) is None:
            _step(work, number + 1)
            with pieces.writing(name) as path:
                (path / "part.json").write_text(json.dumps(_number(order.key) + number))
        part = pieces.find(name)
        assert part is not None
        found.append(json.loads((part / "part.json").read_text()))
    metrics, params = {"accuracy/mean": sum(found) / STEPS / 10}, dict[str, Any]()
    if against.keep:
        (draft.artifacts / REFERENCE_FILE).write_bytes(order.key.encode())
        params["evaluate.fidelity_kept_tokens"] = 1
    elif against.path is not None:
        metrics["fidelity/kl_divergence_nats"] = _number(against.path.read_text())
        params["evaluate.fidelity_reference"] = True
    return StageResult("evaluate", order.key, metrics, params)
