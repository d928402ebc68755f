"""How long a stage will take: a rough count of the work over the rough speed of the device.

Estimates serve dry runs and the time left; nothing is decided by them.
"""

from dataclasses import dataclass
from math import log2

from slim.config import EvaluateConfig, ProfileConfig, QuantizeConfig
from slim.precisions import Precision


@dataclass(frozen=True)
class Machine:
    """Rough speed of a device.

    Attributes:
        bytes_per_s: weights read while decoding.
        flop_per_s: matrix products.
        start_s: starting each engine.
    """

    bytes_per_s: float
    flop_per_s: float
    start_s: dict[str, float]


MACHINES = {
    "cpu": Machine(1e10, 4e11, {"vllm": 25.0, "transformers": 12.0}),
    "cuda": Machine(1.5e12, 2e14, {"vllm": 70.0, "transformers": 20.0}),
}

_STEP_OVERHEAD_S = {"vllm": 0.002, "transformers": 0.02}
_INT8_OVERHEAD_S = 0.06
"""Of each step of LLM.int8() beside that: activations are quantized, outliers taken out, layer by layer."""
_ITEM_TOKENS, _BUILTIN_ITEM_TOKENS = 250, 120
"""A usual prompt, and one of the built-in tasks; few-shot prompts of MMLU are longer."""

_UNLIMITED_ITEMS = {"mmlu": 14042, "gsm8k": 1319, "hellaswag": 10042}
_GPTQ_PASSES = 8
"""GPTQ's forward passes, Hessians and solves, in forward passes of the calibration tokens."""


def quantize_s(precision: Precision, config: QuantizeConfig, parameters: float, device: str) -> float:
    """Return rough wall seconds of a quantize stage."""
    machine = MACHINES[device]
    load = 15 + 4 * parameters / machine.bytes_per_s
    if precision.method != "gptq":
        return load
    return load + _GPTQ_PASSES * 2 * parameters * config.samples * config.max_tokens / machine.flop_per_s


def profile_s(config: ProfileConfig, parameters: float, bits: int, engine: str, device: str) -> float:
    """Return rough wall seconds of a profile stage, engine start not included."""
    machine = MACHINES[device]
    step = parameters * bits / 8 / machine.bytes_per_s + _STEP_OVERHEAD_S[engine]
    if engine == "transformers" and bits == 8:
        step += _INT8_OVERHEAD_S
    decode = step * config.output_tokens
    prefill = 2 * parameters * config.input_tokens / machine.flop_per_s
    alone = (config.requests + config.warmup.min_requests) * (decode + prefill)
    curve = sum(
        max(config.throughput_min_s, config.requests_per_concurrency * (decode + n * prefill)) for n in config.concurrency
    )
    alone_and_batched = 0.0
    if config.batch is not None and engine == "transformers":
        batch, tries = config.batch.limit, 2 * log2(config.batch.limit) + 1
        alone_and_batched = sum((n + n / batch) * decode + 2 * n * prefill for n in config.batch.requests)
        alone_and_batched += tries * decode + 2 * batch * prefill
    energy = config.energy.min_duration_s + config.energy.idle_s if config.energy and device == "cuda" else 0
    load = (
        sum(config.load.requests / rate + decode for rate in config.load.rates_per_s) if config.load and engine == "vllm" else 0
    )
    return alone + curve + alone_and_batched + load + energy


def evaluate_s(config: EvaluateConfig, parameters: float, device: str) -> float:
    """Return rough wall seconds of an evaluate stage, engine start not included."""
    tokens = sum(
        (task.limit or config.limit or _UNLIMITED_ITEMS.get(task.name, 1000))
        * (_BUILTIN_ITEM_TOKENS if task.name.startswith("slim_") else _ITEM_TOKENS)
        for task in config.tasks
    )
    tokens += config.perplexity_tokens + (config.fidelity_tokens or 0)
    return 10 + 2 * parameters * tokens / MACHINES[device].flop_per_s


def engine_start_s(engine: str, device: str) -> float:
    """Return rough wall seconds of an engine start."""
    return MACHINES[device].start_s[engine]
