"""What a runner adds up, with the executor replaced by a script of outcomes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slim import models, quantize
from slim.config import SweepConfig
from slim.errors import ConfigError, StageError
from slim.executor import Outcome
from slim.jobs import Spool, Spooled
from slim.records import Against, StageResult
from slim.runner import Runner

PLANNED: Any = SimpleNamespace(
    name="m/bf16@vllm",
    source=SimpleNamespace(reference="m", fingerprint="sha256:1"),
    precision=SimpleNamespace(name="bf16"),
    engine="vllm",
    options={},
)
STAGE: Any = SimpleNamespace(stage="evaluate", key="k", config={})


@pytest.fixture
def runner(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    places = iter([None, tiny_model])
    monkeypatch.setattr(models, "materialized", lambda _: next(places))
    made = Runner(SweepConfig.parse({"models": ["m"], "precisions": ["bf16"]}), Spool(tmp_path), lambda *_: None)
    result = StageResult("evaluate", "k", metrics={"timing/engine_start_s": 3.0, "timing/work_s": 4.0})
    outcomes = iter([Outcome((), 5.0), Outcome((Spooled(tmp_path, result),), 8.0)])
    monkeypatch.setattr(made._executor, "run", lambda *_: next(outcomes))
    return made


def test_conversion_work_and_engine_starts_are_added_up(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "preflight", lambda *_: None)
    runner.prepare(PLANNED)
    runner.measure(PLANNED, [STAGE], None, Against())
    assert (runner.prepare_s, runner.work_s, runner.engine_start_s, runner.engine_starts) == (5.0, 4.0, 3.0, 1)


def test_a_scheme_that_does_not_fit_the_model_is_a_typed_failure(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConfigError("group size 7 divides nothing")

    monkeypatch.setattr(quantize, "preflight", refuse)
    with pytest.raises(StageError, match="group size 7") as caught:
        runner.prepare(PLANNED)
    assert caught.value.reason == "unsupported_scheme"
