"""A worker's job in this process, on an engine without a model."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slim import models, stages, worker
from slim.config import EvaluateConfig, ModelEntry, ProfileConfig, QuantizeConfig
from slim.device import CpuDevice
from slim.engines import EngineSpec
from slim.engines.fake import FakeEngine
from slim.errors import Reason
from slim.jobs import Draft, Job, Spool, StageOrder
from slim.meter import Meter
from slim.records import Checkpoint, ModelSource, ignore_progress
from slim.serving import answers
from tests.tiny import VOCAB_SIZE

EVALUATE = EvaluateConfig(tasks=("slim_facts",), limit=4, perplexity_tokens=64)
PROFILE = ProfileConfig(
    input_tokens=8, output_tokens=4, requests=3, concurrency=(1,), requests_per_concurrency=1, throughput_min_s=0.0
)
Run = Callable[..., Spool]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens, in order: the engine opened, tasks loaded."""
    from slim.evaluate import evaluation

    seen: list[str] = []
    prepare = evaluation.prepare

    def open_engine(_: EngineSpec) -> FakeEngine:
        seen.append("engine")
        return FakeEngine(EngineSpec("fake", Path(), "bfloat16", {"vocab_size": VOCAB_SIZE, "max_model_len": 2048}))

    def noted(*arguments: Any, **keywords: Any) -> Any:
        seen.append("tasks")
        return prepare(*arguments, **keywords)

    monkeypatch.setattr(worker, "open_engine", open_engine)
    monkeypatch.setattr("slim.evaluate.prepare", noted)
    monkeypatch.setattr(evaluation, "prepare", noted)
    return seen


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))

    def start(*orders: StageOrder) -> Spool:
        spool = Spool(tmp_path / "spool")
        job_dir = tmp_path / "job"
        job_dir.mkdir()
        worker.run_job(Job(models.resolve(ModelEntry(id=str(tiny_model))), "bf16", 1, spool.root, orders, "vllm"), job_dir)
        return spool

    return start


def order(stage: Any, config: Any) -> StageOrder:
    return StageOrder(stage, stage, config.model_dump(mode="json"))


def test_tasks_are_loaded_before_the_engine_and_once(run: Run, opened: list[str]) -> None:
    found = run(order("evaluate", EVALUATE)).find("evaluate")
    assert opened == ["tasks", "engine"]
    assert found is not None
    assert found.result.failure is None
    assert found.result.metrics["timing/work_s"] > 0


def test_every_measuring_stage_keeps_the_answers_that_were_asked_for_once(
    run: Run, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record, asked = answers.record, []
    monkeypatch.setattr(answers, "record", lambda *given: asked.append(given) or record(*given))
    spool = run(order("profile", PROFILE), order("evaluate", EVALUATE))
    kept = [found.artifacts / answers.FILE for stage in ("profile", "evaluate") if (found := spool.find(stage)) is not None]
    first, second = map(answers.read, kept)
    assert first == second
    assert [a.prompt for a in first if a.messages is None] == list(answers.PROMPTS)
    assert len(asked) == 1


def test_a_result_is_kept_without_answers(run: Run, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "record", lambda *_: 1 / 0)
    found = run(order("profile", PROFILE)).find("profile")
    assert found is not None
    assert found.result.failure is None
    assert not (found.artifacts / answers.FILE).exists()


def test_data_that_cannot_be_had_costs_no_engine(run: Run, opened: list[str], tmp_path: Path) -> None:
    (tmp_path / "hub" / "openai" / "gsm8k").mkdir(parents=True)
    asked = EvaluateConfig(tasks=("gsm8k",), data_dir=str(tmp_path / "hub"))
    found = run(order("evaluate", asked)).find("evaluate")
    assert opened == ["tasks"]
    assert found is not None
    assert found.result.failure is not None
    assert found.result.failure.reason is Reason.DATA_UNAVAILABLE
    command = f"hf download --repo-type dataset openai/gsm8k --local-dir {tmp_path}/hub/openai/gsm8k"
    assert found.result.failure.message.endswith(command)


def test_a_profile_is_measured_before_tasks_are_in_memory(run: Run, opened: list[str]) -> None:
    spool = run(order("profile", PROFILE), order("evaluate", EVALUATE))
    assert opened == ["engine", "tasks"]
    for stage in ("profile", "evaluate"):
        found = spool.find(stage)
        assert found is not None
        assert found.result.failure is None, found.result.failure


def test_work_of_earlier_attempts_is_added(run: Run, opened: list[str], tmp_path: Path, tiny_model: Path) -> None:
    from slim.engines import Engine
    from slim.evaluate import evaluate

    pieces = Spool(tmp_path / "spool").pieces("evaluate")
    (tmp_path / "out").mkdir()
    engine: Engine = worker.open_engine(None)  # type: ignore[arg-type]
    evaluate(engine, tiny_model, EVALUATE, tmp_path / "out", seed=1, pieces=pieces)
    (kept,) = pieces.root.glob("task*/work.json")
    kept.write_text(json.dumps(1000.0))
    found = run(order("evaluate", EVALUATE)).find("evaluate")
    assert found is not None
    assert 1000 <= found.result.metrics["timing/resumed_s"] < 1010
    assert found.result.metrics["timing/work_s"] > found.result.metrics["timing/resumed_s"]
    assert found.result.params["evaluate.resumed_parts"] == 2
    assert not pieces.root.exists()


@pytest.mark.parametrize(("counter", "energy_j"), [((1000.0, 1750.0), 750.0), ((None, None), None)])
def test_quantizing_has_its_own_energy_where_there_is_a_counter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, counter: tuple[float | None, ...], energy_j: float | None
) -> None:
    readings = iter(counter)
    device = CpuDevice()
    monkeypatch.setattr(device, "total_energy_j", lambda: next(readings))
    made = SimpleNamespace(checkpoint=Checkpoint(tmp_path, "k", 100, 50), params={}, datasets=())

    def quantize(*_: object, meter: Meter, **__: object) -> SimpleNamespace:
        with meter:
            return made

    monkeypatch.setattr("slim.quantize.quantize", quantize)
    source = ModelSource("m", "local", None, "f", "m", tmp_path)
    work = stages.Work(Job(source, "gptq-int4", 1, tmp_path), tmp_path, device, ignore_progress)
    found = stages.run_quantize(work, order("quantize", QuantizeConfig()), Draft(tmp_path)).metrics
    assert found.get("quantize/energy_j") == energy_j
    assert found["quantize/peak_mib"] > 1
