"""What vLLM is started with: the same for the engine that is measured and for the server that is started later. No vllm here."""

from collections.abc import Mapping
from typing import Any, Literal

_GIB = 1 << 30
# The cache shares whole blocks. vLLM's own choice on a CPU, 128 tokens, is longer than many a task's context; the kernels
# take multiples of 32, and decoding is no slower with them.
_CPU_BLOCK_TOKENS = 32


def arguments(
    options: Mapping[str, Any],
    *,
    device: Literal["cpu", "cuda"],
    dtype: str,
    seed: int,
    max_model_len: int,
    trust_remote_code: bool,
) -> dict[str, Any]:
    """Return vLLM's engine arguments, the model left out.

    Args:
        options: of `slim.config.VllmOptions`.
        device: what it runs on.
        dtype: torch dtype of what is not quantized.
        seed: of sampling.
        max_model_len: context in tokens, already capped at the model's own.
        trust_remote_code: run code that comes with the model.
    """
    tensor_parallel_size = options.get("tensor_parallel_size", 1)
    found: dict[str, Any] = {
        "dtype": dtype,
        "seed": seed,
        "trust_remote_code": trust_remote_code,
        "load_format": "safetensors",
        "max_model_len": max_model_len,
        "max_num_seqs": options.get("max_num_seqs", 256),
        "enable_prefix_caching": True,
        "tensor_parallel_size": tensor_parallel_size,
        "distributed_executor_backend": "uni" if tensor_parallel_size == 1 else "mp",
    }
    if device == "cpu":
        # Compiling takes minutes on a CPU and wants a C++ compiler.
        found["enforce_eager"] = True
        found["block_size"] = _CPU_BLOCK_TOKENS
        found["kv_cache_memory_bytes"] = int(options.get("cpu_kv_cache_gib", 2.0) * _GIB)
    else:
        found["enforce_eager"] = options.get("enforce_eager", False)
        found["gpu_memory_utilization"] = options.get("gpu_memory_utilization", 0.9)
    return found


def flags(found: Mapping[str, Any]) -> list[str]:
    """Return engine arguments as ``vllm serve`` takes them on its command line."""
    words: list[str] = []
    for name, value in found.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not False:
            words += [flag, str(value)]
    return words
