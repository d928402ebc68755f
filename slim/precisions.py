"""The one catalogue of precisions: what each is, who makes it, which engines serve it."""

from dataclasses import dataclass
from typing import Literal

from slim.errors import ConfigError

Method = Literal["none", "gptq", "bitsandbytes"]
EngineName = Literal["vllm", "transformers"]
ENGINES: tuple[EngineName, ...] = ("vllm", "transformers")


@dataclass(frozen=True)
class Precision:
    """A named scheme.

    Attributes:
        name: what a sweep file says.
        method: how its checkpoint is made; ``none`` serves the original weights.
        weight_bits: bits of a stored weight, without scales.
        activation_bits: bits of the activations in matrix products.
        dtype: torch dtype of what is not quantized.
        engines: who can serve it, the preferred one first.
        scheme: compressed-tensors preset (GPTQ) or bitsandbytes quantization type; None for ``none``.
        grouped: True when weights have a scale per group along the input dimension, so a group size applies.
        title: one line for a person.
    """

    name: str
    method: Method
    weight_bits: int
    activation_bits: int
    dtype: Literal["bfloat16", "float16"]
    engines: tuple[EngineName, ...]
    scheme: str | None
    grouped: bool
    title: str

    @property
    def is_quantized(self) -> bool:
        """Whether a checkpoint has to be made."""
        return self.method != "none"


CATALOGUE: dict[str, Precision] = {
    p.name: p
    for p in (
        Precision("bf16", "none", 16, 16, "bfloat16", ("vllm", "transformers"), None, False, "original weights as bfloat16"),
        Precision("fp16", "none", 16, 16, "float16", ("vllm", "transformers"), None, False, "original weights as float16"),
        Precision(
            "gptq-int8",
            "gptq",
            8,
            8,
            "bfloat16",
            ("vllm",),
            "W8A8",
            False,
            "GPTQ, int8 weights per channel, int8 activations per token",
        ),
        Precision(
            "gptq-int4", "gptq", 4, 16, "bfloat16", ("vllm",), "W4A16", True, "GPTQ, int4 weights in groups, 16-bit activations"
        ),
        Precision("bnb-int8", "bitsandbytes", 8, 8, "bfloat16", ("transformers",), "int8", False, "bitsandbytes LLM.int8()"),
        Precision(
            "bnb-nf4", "bitsandbytes", 4, 16, "bfloat16", ("transformers",), "nf4", False, "bitsandbytes 4-bit NormalFloat"
        ),
        Precision("bnb-fp4", "bitsandbytes", 4, 16, "bfloat16", ("transformers",), "fp4", False, "bitsandbytes 4-bit float"),
    )
}
BASELINES = ("bf16", "fp16")
"""Precisions that others are compared with, in the order of preference."""


def get(name: str) -> Precision:
    """Return the precision of that name.

    Raises:
        ConfigError: there is none.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise ConfigError(f"unknown precision {name!r}; allowed: {', '.join(CATALOGUE)}") from None


def serve(name: str, engine: str | None) -> tuple[Precision, EngineName]:
    """Return precision and engine, the precision's preferred engine when none is named.

    Raises:
        ConfigError: unknown precision or engine, or an engine that does not serve the precision.
    """
    precision = get(name)
    if engine is None:
        return precision, precision.engines[0]
    for known in ENGINES:
        if engine == known:
            if known not in precision.engines:
                raise ConfigError(
                    f"engine {engine!r} does not serve precision {name!r}; it is served by: {', '.join(precision.engines)}"
                )
            return precision, known
    raise ConfigError(f"unknown engine {engine!r}; allowed: {', '.join(ENGINES)}")
