"""Sizes from a configuration and from modules, without an engine."""

from types import SimpleNamespace

import pytest

from slim.engines.checkpoints import context_length, kv_bytes_per_token, module_bytes


@pytest.mark.parametrize(
    ("config", "wanted", "expected"),
    [
        ({"max_position_embeddings": 2048}, 8192, 2048),
        ({"max_position_embeddings": 131072}, 8192, 8192),
        ({"n_positions": 1024}, 8192, 1024),
        ({}, 8192, 8192),
        ({"max_position_embeddings": None}, 512, 512),
    ],
)
def test_context_is_capped_at_the_models_own(config: dict[str, int], wanted: int, expected: int) -> None:
    assert context_length(SimpleNamespace(**config), wanted) == expected


PLAIN = {"num_hidden_layers": 30, "num_attention_heads": 9, "hidden_size": 576}


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        # SmolLM2-135M: 30 layers x 2 x 3 heads x 64 x 2 bytes.
        ({"num_key_value_heads": 3}, 23_040),
        ({}, 69_120),
        ({"num_key_value_heads": 3, "head_dim": 128}, 46_080),
        ({"num_key_value_heads": 3, "layer_types": ["full_attention", "sliding_attention"]}, 23_040),
        ({"layer_types": ["linear_attention", "full_attention"]}, None),
        ({"kv_lora_rank": 512}, None),
        ({"hidden_size": None}, None),
    ],
)
def test_cache_of_a_token(extra: dict[str, object], expected: int | None) -> None:
    assert kv_bytes_per_token(SimpleNamespace(**{**PLAIN, **extra}), 2) == expected


def test_shared_weights_count_once_and_computed_buffers_not() -> None:
    import torch

    embedding, head = torch.nn.Embedding(10, 4), torch.nn.Linear(4, 10, bias=False)
    model = torch.nn.Sequential(embedding, head)
    assert module_bytes(model) == 2 * 160
    head.weight = embedding.weight
    assert module_bytes(model) == 160
    model.register_buffer("scales", torch.zeros(3))
    model.register_buffer("table", torch.zeros(100), persistent=False)
    assert module_bytes(model) == 160 + 12
