"""Foreign errors become reasons, and an engine that failed once can be used, or another one opened."""

import json
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from slim.engines import EngineSpec, GenerationRequest, ScoreRequest, open_engine
from slim.errors import Reason, StageError

pytestmark = pytest.mark.slow
ENGINES = ("transformers", "vllm")
both = pytest.mark.parametrize("name", ENGINES)
OPTIONS: dict[str, dict[str, Any]] = {
    "transformers": {"max_model_len": 64},
    "vllm": {"max_model_len": 64, "max_num_seqs": 4, "cpu_kv_cache_gib": 0.25, "gpu_memory_utilization": 0.3},
}
Changed = Callable[..., Path]


@pytest.fixture
def changed(tiny_model: Path, tmp_path: Path) -> Changed:
    """A copy of the tiny model with other values in its configuration."""

    def change(**values: Any) -> Path:
        path = tmp_path / "changed"
        shutil.copytree(tiny_model, path)
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, **values}))
        return path

    return change


def failure(name: str, checkpoint: Path, **options: Any) -> StageError:
    with pytest.raises(StageError) as caught:
        open_engine(EngineSpec(name, checkpoint, "bfloat16", {**OPTIONS[name], **options}))
    assert "\n" not in caught.value.message
    return caught.value


@both
def test_no_checkpoint(name: str, tmp_path: Path) -> None:
    assert failure(name, tmp_path / "absent").reason is Reason.MODEL_UNAVAILABLE


@both
def test_an_architecture_that_nobody_knows(name: str, changed: Changed) -> None:
    assert failure(name, changed(model_type="nonsense")).reason is Reason.UNSUPPORTED_MODEL


@both
def test_a_model_that_is_no_causal_one(name: str, changed: Changed) -> None:
    path = changed(model_type="t5", architectures=["T5ForConditionalGeneration"])
    assert failure(name, path).reason is Reason.UNSUPPORTED_MODEL


@both
def test_a_scheme_that_nobody_knows(name: str, changed: Changed) -> None:
    assert failure(name, changed(quantization_config={"quant_method": "nonsense"})).reason is Reason.UNSUPPORTED_SCHEME


@both
def test_weights_that_are_not_there(name: str, changed: Changed) -> None:
    error = failure(name, changed(num_hidden_layers=3))
    assert error.reason is Reason.CHECKPOINT_MISMATCH
    assert "layers.2" in error.message


def test_a_cache_that_does_not_fit_and_one_that_does(tiny_model: Path) -> None:
    assert failure("vllm", tiny_model, cpu_kv_cache_gib=1e6, gpu_memory_utilization=1e-6).reason is Reason.OUT_OF_MEMORY
    engine = open_engine(EngineSpec("vllm", tiny_model, "bfloat16", OPTIONS["vllm"]))
    assert len(engine.generate([GenerationRequest((5,), 3, ignore_eos=True)], 1)[0].tokens) == 3
    engine.close()


def test_transformers_runs_on_after_it_was_out_of_memory(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    engine: Any = open_engine(EngineSpec("transformers", tiny_model, "bfloat16", OPTIONS["transformers"]))
    requests = [GenerationRequest((5, 6), 3, ignore_eos=True)]
    before = engine.generate(requests, 1)[0].tokens
    with monkeypatch.context() as patch:
        patch.setattr(engine._model.model.layers[1].mlp, "forward", full)
        for call in (lambda: engine.generate(requests, 1), lambda: engine.score([ScoreRequest((5,), ((6,),))], 1)):
            with pytest.raises(StageError) as caught:
                call()
            assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert engine.generate(requests, 1)[0].tokens == before
    engine.close()


def test_vllm_forgets_what_was_in_flight_when_it_was_interrupted(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = open_engine(EngineSpec("vllm", tiny_model, "bfloat16", OPTIONS["vllm"]))
    requests = [GenerationRequest((5, 6 + i), 6, ignore_eos=True) for i in range(3)]
    scoring = [ScoreRequest((5, 6 + i), ((7, 8, 9), (4,))) for i in range(40)]
    before = [a.tokens for a in engine.generate(requests, 3)], engine.score(scoring, 1)
    core = engine._engine.engine_core
    scheduled = core.engine_core.scheduler.requests

    def breaking(step: Callable[[], Any], after: int) -> Callable[[], Any]:
        calls = iter(range(100))

        def breaks() -> Any:
            if next(calls) == after:
                raise RuntimeError("kernel broke")
            return step()

        return breaks

    for call, after in ((lambda: engine.generate(requests, 2), 3), (lambda: engine.score(scoring, 1), 1)):
        with monkeypatch.context() as patch:
            patch.setattr(core, "get_output", breaking(core.get_output, after))
            with pytest.raises(StageError, match="kernel broke") as caught:
                call()
            assert caught.value.reason is Reason.ENGINE_CRASH
        assert not engine._engine.has_unfinished_requests()
        assert not scheduled
    assert [a.tokens for a in engine.generate(requests, 3)] == before[0]
    for one, other in zip(chain(*engine.score(scoring, 1)), chain(*before[1]), strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=0.05)
    engine.close()
