"""What a worker does for each stage, given its job and what is open."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slim import precisions
from slim.config import EvaluateConfig, ProfileConfig, QuantizeConfig
from slim.device import Device
from slim.engines import Engine
from slim.jobs import Draft, Job, Spool, StageOrder
from slim.meter import Meter
from slim.records import Checkpoint, OnProgress, Stage, StageResult
from slim.serving import answers
from slim.serving.answers import Answer


@dataclass
class Work:
    """What a stage may use.

    Attributes:
        job: the job.
        source: local directory of the original model.
        device: what memory and energy are read from.
        on_progress: where progress goes.
        engine: open engine, for measuring stages.
        served: the checkpoint it serves.
        prepared: what the first stage loaded before the engine was opened.
        prepared_s: how long that took.
        answers: what the engine said to the fixed prompts of `slim.serving.answers`; None until it was asked.
    """

    job: Job
    source: Path
    device: Device
    on_progress: OnProgress
    engine: Engine | None = None
    served: Checkpoint | None = None
    prepared: Any = None
    prepared_s: float = 0.0
    answers: list[Answer] | None = None

    def opened(self) -> tuple[Engine, Checkpoint]:
        """The engine and what it serves."""
        assert self.engine is not None and self.served is not None
        return self.engine, self.served


def run_quantize(work: Work, order: StageOrder, draft: Draft) -> StageResult:
    """Make the checkpoint."""
    from slim.quantize import quantize

    meter = Meter(work.device)
    made = quantize(
        work.source,
        precisions.get(work.job.precision),
        QuantizeConfig.model_validate(order.config, strict=False),
        draft.checkpoint,
        key=order.key,
        seed=work.job.seed,
        trust_remote_code=work.job.source.trust_remote_code,
        on_progress=work.on_progress,
        meter=meter,
    )
    measured = {"quantize/duration_s": meter.wall_s}
    if meter.peak_mib is not None:
        measured["quantize/peak_mib"] = meter.peak_mib
    if meter.energy_j is not None:
        measured["quantize/energy_j"] = meter.energy_j
    return StageResult(
        "quantize", order.key, {**measured, **sizes(made.checkpoint)}, made.params, {}, made.datasets, has_checkpoint=True
    )


def run_profile(work: Work, order: StageOrder, draft: Draft) -> StageResult:
    """Measure efficiency."""
    from transformers import AutoTokenizer

    from slim.profile import profile, sources

    config = ProfileConfig.model_validate(order.config, strict=False)
    engine, served = work.opened()
    tokenizer = AutoTokenizer.from_pretrained(served.path, trust_remote_code=work.job.source.trust_remote_code)
    found = profile(
        engine,
        sources.read(config.prompts, tokenizer),
        config,
        draft.artifacts,
        seed=work.job.seed,
        device=work.device,
        checkpoint=served.path,
        on_progress=work.on_progress,
    )
    return StageResult("profile", order.key, {**found.metrics, **sizes(served)}, found.params, found.tags, found.datasets)


def prepare_evaluate(work: Work, order: StageOrder) -> None:
    """Load the tasks, so that data that cannot be had costs no engine start."""
    from slim.evaluate import prepare

    assert work.served is not None
    start = time.perf_counter()
    work.prepared = prepare(
        work.served.path,
        EvaluateConfig.model_validate(order.config, strict=False),
        seed=work.job.seed,
        trust_remote_code=work.job.source.trust_remote_code,
        pieces=Spool(work.job.spool).pieces(order.key),
        on_progress=work.on_progress,
    )
    work.prepared_s = time.perf_counter() - start


def run_evaluate(work: Work, order: StageOrder, draft: Draft) -> StageResult:
    """Measure accuracy."""
    from slim.evaluate import evaluate

    engine, served = work.opened()
    pieces = Spool(work.job.spool).pieces(order.key)
    pieces.count(work.prepared_s)
    found = evaluate(
        engine,
        served.path,
        EvaluateConfig.model_validate(order.config, strict=False),
        draft.artifacts,
        seed=work.job.seed,
        against=work.job.against,
        trust_remote_code=work.job.source.trust_remote_code,
        pieces=pieces,
        prepared=work.prepared,
        on_progress=work.on_progress,
    )
    return StageResult("evaluate", order.key, {**found.metrics, **sizes(served)}, found.params, found.tags, found.datasets)


RUNNERS: dict[Stage, Callable[[Work, StageOrder, Draft], StageResult]] = {
    "quantize": run_quantize,
    "profile": run_profile,
    "evaluate": run_evaluate,
}


def sizes(checkpoint: Checkpoint) -> dict[str, float]:
    """The size metrics of a checkpoint."""
    return {
        "size/checkpoint_gb": checkpoint.weight_bytes / 1e9,
        "size/parameters": checkpoint.parameters,
        "size/bits_per_weight": checkpoint.bits_per_weight,
    }


def keep_answers(work: Work, path: Path) -> None:
    """Write what the configuration answers to fixed prompts, asked once a job and after all that is measured.

    A result is worth keeping without them, so what goes wrong here is only in the log.
    """
    from transformers import AutoTokenizer

    engine, served = work.opened()
    try:
        if work.answers is None:
            tokenizer = AutoTokenizer.from_pretrained(served.path, trust_remote_code=work.job.source.trust_remote_code)
            work.answers = answers.record(engine, tokenizer, precisions.get(work.job.precision).dtype)
        answers.write(path, work.answers)
    except Exception:  # noqa: BLE001 - a result is worth keeping without them
        traceback.print_exc()
