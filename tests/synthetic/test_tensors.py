"""Names and shapes of weights against what is published, and against transformers' own classes."""

from pathlib import Path
from typing import Any

import pytest

from slim import models
from slim.config import ModelEntry
from slim.provenance import ROOT
from slim.synthetic.presets import PRESETS
from slim.synthetic.tensors import is_tied, tensors
from tests.synthetic.configs import PARAMETERS, SMALL, write

# Parameters as the Hub counts them in the published weight files; Gemma's without its vision part.
PUBLISHED = {
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "qwen2.5-3b": 3_085_938_688,
    "phi-3-mini-4k": 3_821_079_552,
    "gemma-3-4b": 3_880_263_168,
    "mistral-7b-v0.3": 7_248_023_552,
}
GEMMA_WITH_VISION = 4_300_079_472
FAMILIES = {
    "llama": {},
    "llama-biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": None},
    "llama-head-dim": {"head_dim": 96},
    "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "tie_word_embeddings": None},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "num_key_value_heads": 4},
    "qwen3-bias": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": True, "head_dim": 64},
    "phi3": {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "tie_word_embeddings": False},
    "gemma3": {"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "tie_word_embeddings": None},
}
"""Small models of every family, with what a configuration may leave out or add."""


def resolved(reference: str) -> Any:
    return models.describe(models.resolve(ModelEntry(id=reference)))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_as_many_parameters_as_published(name: str) -> None:
    shape = resolved(f"synthetic:{name}")
    assert shape.parameters == PUBLISHED[name]
    assert shape.weight_bytes == 2 * PUBLISHED[name]
    assert shape.linear_input_sizes


def test_a_small_model_is_counted_by_hand(tmp_path: Path) -> None:
    assert resolved(f"synthetic:{write(tmp_path)}").parameters == PARAMETERS


def loaded(config: dict[str, Any]) -> Any:
    """The model that transformers makes of a configuration, without weights."""
    import torch
    import transformers

    made = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        return getattr(transformers, config["architectures"][0])(made)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [*PRESETS.values(), *({k: v for k, v in {**SMALL, **c}.items() if v is not None} for c in FAMILIES.values())],
    ids=[*PRESETS, *FAMILIES],
)
def test_weights_are_those_that_transformers_expects(config: dict[str, Any]) -> None:
    model = loaded(dict(config))
    expected = {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}
    assert ("lm_head.weight" in model.all_tied_weights_keys) == is_tied(config)
    if is_tied(config):
        del expected["lm_head.weight"]
    assert {t.name: t.shape for t in tensors(config)} == expected


@pytest.mark.slow
def test_gemma_with_its_vision_part_is_what_was_published() -> None:
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision = {
        "hidden_size": 1152,
        "image_size": 896,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "vision_use_head": False,
    }
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=dict(PRESETS["gemma-3-4b"]), vision_config=vision))
    text = sum(p.numel() for p in model.model.language_model.parameters())
    assert (text, sum(p.numel() for p in model.parameters())) == (PUBLISHED["gemma-3-4b"], GEMMA_WITH_VISION)


def test_the_documentation_lists_every_preset_with_its_parameters() -> None:
    text = (ROOT / "docs" / "synthetic.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    assert {name.strip("`"): int(count.replace(",", "")) for name, _, count in rows} == PUBLISHED
    assert set(PRESETS) == set(PUBLISHED)
