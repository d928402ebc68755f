"""Random weights through real quantizers and engines, in sweeps like any other model's."""

from pathlib import Path
from typing import Any

import pytest

from slim import api, models
from slim.config import ModelEntry, SweepConfig
from slim.engines import EngineSpec, GenerationRequest, open_engine
from slim.outcomes import Event
from slim.store import TAG
from tests.made import SMALL
from tests.synthetic.configs import PARAMETERS, write

pytestmark = pytest.mark.slow

PROFILED = {**SMALL, "evaluate": None}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 24},
    "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "tie_word_embeddings": False},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 64},
    "phi3": {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "tie_word_embeddings": False},
    "gemma3": {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "head_dim": 64, "sliding_window": 64},
}


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def made(directory: Path) -> Path:
    return models.materialize(models.resolve(ModelEntry(id=f"synthetic:{directory}")))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_layer_gives_finite_activations(name: str, dtype: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    path = made(write(tmp_path / "m", **FAMILIES[name]))
    model, report = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.inference_mode():
        out = model(torch.arange(8, 136)[None], output_hidden_states=True)
    scales = [float(state.float().std()) for state in out.hidden_states]
    assert len(scales) == model.config.num_hidden_layers + 1
    assert all(torch.isfinite(state).all() for state in (*out.hidden_states, out.logits))
    assert 1e-3 < min(scales) <= max(scales) < 100
    # Answers depend on what came before.
    assert len(out.logits.argmax(-1).unique()) > 2


def test_vllm_answers_as_transformers_does(tmp_path: Path) -> None:
    path = made(write(tmp_path / "m"))
    requests = [GenerationRequest(tuple(range(8 + i, 40 + i)), 2, ignore_eos=True) for i in range(8)]
    first = []
    for engine in ("transformers", "vllm"):
        opened = open_engine(EngineSpec(engine, path, "bfloat16", PROFILED["engines"][engine]))
        try:
            answers = opened.generate(requests, 1)
        finally:
            opened.close()
        assert all(answer.text for answer in answers)
        first.append([answer.tokens[0] for answer in answers])
    assert sum(a == b for a, b in zip(*first, strict=True)) >= 6


def test_a_sweep_quantizes_serves_and_profiles_them_beside_a_real_model(tmp_path: Path, tiny_model: Path) -> None:
    model = f"synthetic:{write(tmp_path / 'three-layers')}"
    precisions = ["bf16@vllm", "gptq-int4@vllm", "gptq-int8@vllm", "bnb-nf4@transformers"]
    events: list[Event] = []
    store, outcome = api.run(
        SweepConfig.parse({"models": [model], "precisions": precisions, **PROFILED}),
        f"sqlite:///{tmp_path / 'mlflow.db'}",
        on_event=events.append,
    )
    assert [c.failure for c in outcome.configurations] == [None] * 4
    assert not [e.message for e in events if e.kind == "note"]
    runs = {r.tags[TAG.CONFIG]: r for r in store.configurations(outcome.run_id)}
    assert set(runs) == {f"synthetic-three-layers/{p}" for p in precisions}
    for name, run in runs.items():
        assert run.params["model"] == model
        assert run.metrics["size/parameters"] == PARAMETERS
        assert run.metrics["latency/tpot_mean_ms"] > 0
        assert not [key for key in run.metrics if key.startswith(("accuracy/", "fidelity/"))]
        assert (run.metrics["size/bits_per_weight"] > 15) == ("bf16" in name)

    evaluated = {**PROFILED, "evaluate": {"tasks": [{"name": "slim_facts", "limit": 6}], "perplexity_text": None}}
    store, outcome = api.run(
        SweepConfig.parse({"models": [model, str(tiny_model)], "precisions": ["bf16@vllm"], **evaluated}),
        f"sqlite:///{tmp_path / 'mlflow.db'}",
        on_event=events.append,
    )
    assert {c.name.partition("/")[0]: c.status for c in outcome.configurations} == {
        "synthetic-three-layers": "reused",
        "tiny-llama": "finished",
    }
    (note,) = [e.message for e in events if e.kind == "note"]
    assert "evaluate is left out" in note
    assert model in note
    (real,) = [r for r in store.configurations(outcome.run_id) if r.params["model"] == str(tiny_model)]
    assert "accuracy/slim_facts" in real.metrics
