"""Which weights an architecture has: names, shapes and what they are filled with, told from its configuration alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Fill = Literal["normal", "ones", "zeros"]


@dataclass(frozen=True)
class Tensor:
    """One weight of a checkpoint.

    Attributes:
        name: in the Hugging Face layout.
        shape: rows first, as torch has it.
        fill: what it holds: normal deviates, or what leaves a norm or a bias without effect.
    """

    name: str
    shape: tuple[int, ...]
    fill: Fill


@dataclass(frozen=True)
class Family:
    """In what a decoder differs from Llama's; otherwise it is the same.

    Attributes:
        model_type: of its configuration.
        tied: whether the output layer is the embedding where the configuration does not say.
        head_dim: where the configuration does not say; None divides the hidden size by the heads.
        qkv_bias: biases of query, key and value: always, never, or as ``attention_bias`` says, which then holds for the output too.
        mlp_bias: whether ``mlp_bias`` is read.
        fused: query, key and value are one layer, and so are gate and up.
        head_norms: queries and keys are normalized a head.
        sandwich: norms after attention and MLP too, each of which multiplies by one plus its weight.
    """

    model_type: str
    tied: bool = False
    head_dim: int | None = None
    qkv_bias: Literal["always", "never", "configured"] = "configured"
    mlp_bias: bool = False
    fused: bool = False
    head_norms: bool = False
    sandwich: bool = False


FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family("llama", mlp_bias=True),
    "MistralForCausalLM": Family("mistral", qkv_bias="never"),
    "Qwen2ForCausalLM": Family("qwen2", qkv_bias="always"),
    "Qwen3ForCausalLM": Family("qwen3", head_dim=128, head_norms=True),
    "Phi3ForCausalLM": Family("phi3", qkv_bias="never", fused=True),
    "Gemma3ForCausalLM": Family("gemma3_text", tied=True, head_dim=256, head_norms=True, sandwich=True),
}
"""Architectures whose weights are known here, by class name."""


@dataclass(frozen=True)
class Sizes:
    """The widths that a configuration names, checked.

    Attributes:
        hidden: of the residual stream.
        intermediate: of the MLP.
        layers: decoder layers.
        heads, kv_heads: attention heads of a layer.
        head_dim: width of a head.
        vocab: rows of the embedding.
        positions: context in tokens.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    positions: int


def sizes(config: Mapping[str, Any]) -> Sizes:
    """Read the widths of a configuration whose architecture is in `FAMILIES`.

    Raises:
        ValueError: one is missing, not a positive whole number, or does not fit another; says which.
    """
    family = FAMILIES[config["architectures"][0]]
    hidden, heads = _positive(config, "hidden_size"), _positive(config, "num_attention_heads")
    kv_heads = _positive(config, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise ValueError(f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    fallback = family.head_dim
    if fallback is None and config.get("head_dim") is None:
        if hidden % heads:
            raise ValueError(f"hidden_size {hidden} is no multiple of num_attention_heads {heads}, and there is no head_dim")
        fallback = hidden // heads
    return Sizes(
        hidden,
        _positive(config, "intermediate_size"),
        _positive(config, "num_hidden_layers"),
        heads,
        kv_heads,
        _positive(config, "head_dim", fallback),
        _positive(config, "vocab_size"),
        _positive(config, "max_position_embeddings"),
    )


def tensors(config: Mapping[str, Any]) -> Iterator[Tensor]:
    """Give every weight of a checkpoint once, in the order of the computation; a tied output layer is left out.

    Raises:
        ValueError: as `sizes`.
    """
    family, size = FAMILIES[config["architectures"][0]], sizes(config)
    norm: Fill = "zeros" if family.sandwich else "ones"
    yield Tensor("model.embed_tokens.weight", (size.vocab, size.hidden), "normal")
    for layer in range(size.layers):
        for tensor in _layer(config, family, size, norm):
            yield Tensor(f"model.layers.{layer}.{tensor.name}", tensor.shape, tensor.fill)
    yield Tensor("model.norm.weight", (size.hidden,), norm)
    if not is_tied(config):
        yield Tensor("lm_head.weight", (size.vocab, size.hidden), "normal")


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the output layer is the embedding."""
    stated = config.get("tie_word_embeddings")
    return FAMILIES[config["architectures"][0]].tied if stated is None else bool(stated)


def _layer(config: Mapping[str, Any], family: Family, size: Sizes, norm: Fill) -> Iterator[Tensor]:
    has_bias = family.qkv_bias == "configured" and bool(config.get("attention_bias"))
    has_qkv_bias, has_mlp_bias = has_bias or family.qkv_bias == "always", family.mlp_bias and bool(config.get("mlp_bias"))
    query, keys = size.heads * size.head_dim, size.kv_heads * size.head_dim
    yield Tensor("input_layernorm.weight", (size.hidden,), norm)
    if family.fused:
        yield from _linear("self_attn.qkv_proj", query + 2 * keys, size.hidden, False)
    else:
        for name, rows in (("q_proj", query), ("k_proj", keys), ("v_proj", keys)):
            yield from _linear(f"self_attn.{name}", rows, size.hidden, has_qkv_bias)
    if family.head_norms:
        yield from (Tensor(f"self_attn.{name}.weight", (size.head_dim,), norm) for name in ("q_norm", "k_norm"))
    yield from _linear("self_attn.o_proj", size.hidden, query, has_bias)
    yield Tensor("post_attention_layernorm.weight", (size.hidden,), norm)
    if family.sandwich:
        yield Tensor("pre_feedforward_layernorm.weight", (size.hidden,), norm)
    if family.fused:
        yield from _linear("mlp.gate_up_proj", 2 * size.intermediate, size.hidden, False)
    else:
        yield from _linear("mlp.gate_proj", size.intermediate, size.hidden, has_mlp_bias)
        yield from _linear("mlp.up_proj", size.intermediate, size.hidden, has_mlp_bias)
    yield from _linear("mlp.down_proj", size.hidden, size.intermediate, has_mlp_bias)
    if family.sandwich:
        yield Tensor("post_feedforward_layernorm.weight", (size.hidden,), norm)


def _linear(name: str, rows: int, columns: int, has_bias: bool) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", (rows, columns), "normal")
    if has_bias:
        yield Tensor(f"{name}.bias", (rows,), "zeros")


def _positive(config: Mapping[str, Any], name: str, fallback: int | None = None) -> int:
    value = config.get(name)
    if value is None:
        value = fallback
    if value is None:
        raise ValueError(f"{name} is missing")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    return value
