"""How far decoding is from what the device's memory allows: model bandwidth utilization.

At concurrency 1 a decode step has to read every weight and the whole cache for a few operations each, so its time is bounded below
by bytes over bandwidth. The share of that bound which is reached (MBU) is defined as in Databricks' "LLM Inference Performance
Engineering: Best Practices" (2023): (bytes of parameters + bytes of cache) / time per output token / peak bandwidth.
"""

import math
import mmap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from slim import stats
from slim.checkpoint import EMBEDDINGS, HEAD, NOT_DECODER, is_tied
from slim.engines.base import Completion, EngineInfo
from slim.layout import Tensor, read_config, tensors, weight_files

_COPY_BYTES = 512 << 20
"""Of the array that is copied: several times the last cache of any processor, as STREAM asks for, and of any GPU."""
_REPEATS = 8
_COPIES_A_REPEAT = {"cpu": 1, "cuda": 10}

_ROWS = (*EMBEDDINGS, "wpe.weight", "embed_positions.weight", "embed_tokens_per_layer.weight")
_WIDE = ("F32", "F64")
_SERVED_BYTES = 2
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True)
class Peak:
    """The bandwidth that counts as the device's peak.

    Attributes:
        bytes_per_s: read and written bytes together.
        source: ``copy test`` or ``sweep file``.
    """

    bytes_per_s: float
    source: Literal["copy test", "sweep file"]


def copy_bandwidth(device: Literal["cpu", "cuda"], size_bytes: int = _COPY_BYTES) -> float | None:
    """Return bytes read and written a second while an array is copied on the device; the best of several, as in STREAM.

    A cache line that a CPU fetches before overwriting it does not count (McCalpin, "STREAM: Sustainable Memory Bandwidth in High
    Performance Computers"), so what the memory moves is at least this.

    Args:
        device: ``cuda`` is the GPU that this process works on.
        size_bytes: of the array.

    Returns:
        None where the memory is not free, or this process does not work on a GPU (an engine may, in processes of its own).
    """
    import torch

    if device == "cuda":
        if not torch.cuda.is_initialized():
            return None
        try:
            best_s = _timed_on_gpu(torch, size_bytes)
        except torch.cuda.OutOfMemoryError:
            return None
        finally:
            # What the allocator keeps would count as the engine's.
            torch.cuda.empty_cache()
    else:
        if psutil.virtual_memory().available < 4 * size_bytes:
            return None
        best_s = _timed_on_cpu(torch, size_bytes)
    return 2 * size_bytes / best_s


def _timed_on_gpu(torch: Any, size_bytes: int) -> float:
    source = torch.ones(size_bytes, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best_s = math.inf
    copies = _COPIES_A_REPEAT["cuda"]
    for _ in range(_REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(copies):
            target.copy_(source)
        end.record()
        end.synchronize()
        best_s = min(best_s, begin.elapsed_time(end) / 1e3 / copies)
    return best_s


def _timed_on_cpu(torch: Any, size_bytes: int) -> float:
    # Mapped by hand: memory that an allocator kept would count as the engine's.
    with mmap.mmap(-1, size_bytes) as one, mmap.mmap(-1, size_bytes) as other:
        source, target = (torch.frombuffer(m, dtype=torch.float32) for m in (one, other))
        source.fill_(1.0)
        target.copy_(source)
        best_s = math.inf
        for _ in range(_REPEATS):
            start_s = time.perf_counter()
            target.copy_(source)
            best_s = min(best_s, time.perf_counter() - start_s)
        del source, target
    return best_s


def peak(named_gb_s: float | None, device: Literal["cpu", "cuda"]) -> Peak | None:
    """Return the bandwidth that the sweep file names, else what a copy test finds; None where that cannot be run."""
    if named_gb_s is not None:
        return Peak(1e9 * named_gb_s, "sweep file")
    measured = copy_bandwidth(device)
    return None if measured is None else Peak(measured, "copy test")


def weight_bytes(checkpoint: Path) -> int | None:
    """Return the bytes of weights that a decode step has to read, from the headers of the weight files.

    Args:
        checkpoint: directory in Hugging Face layout.

    Returns:
        None for a mixture of experts, of whose weights a step reads those that the router chose.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    config = read_config(checkpoint)
    stored = {name: tensor for file in weight_files(checkpoint) for name, tensor in tensors(file).items()}
    return step_weight_bytes(config, stored)


def step_weight_bytes(config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> int | None:
    """Return the bytes of weights that a decode step has to read.

    All weights of the decoder as they are stored count. Of a table that is looked up, a row counts, except that an embedding which
    is also the output layer is read whole, once. Weights stored in 32 bit or more count as the 16 bit that they are served in,
    unless the checkpoint is quantized, whose 32-bit values are scales that stay so. Parts for images or sound are not read.

    Args:
        config: of the model.
        stored: the weight files' tensors by name.

    Returns:
        None for a mixture of experts.
    """
    text = config.get("text_config", config)
    if any((text.get(name) or 1) > 1 for name in _EXPERTS):
        return None
    is_quantized = config.get("quantization_config") is not None or text.get("quantization_config") is not None
    tied = is_tied(config, stored)
    has_embedding = any(name.endswith(EMBEDDINGS) for name in stored)
    total = 0
    for name, tensor in stored.items():
        if NOT_DECODER.search(name) or (tied and has_embedding and name.endswith(HEAD)):
            continue
        size = tensor.bytes
        if tensor.dtype in _WIDE and not is_quantized:
            size = _SERVED_BYTES * math.prod(tensor.shape)
        if name.endswith(_ROWS) and not (tied and name.endswith(EMBEDDINGS)):
            size //= max(1, tensor.shape[0])
        total += size
    return total


def mean_context(input_tokens: int, output_tokens: int) -> float:
    """Return the mean number of tokens whose keys and values a decode step reads.

    The first output token comes from the prompt; the step for the one after k output tokens reads the cache of the prompt and
    of those k, for k from 1 to ``output_tokens`` - 1.
    """
    return input_tokens + output_tokens / 2


def step_bytes(weights: int, kv_bytes_per_token: int, input_tokens: int, output_tokens: int) -> float:
    """Return what a decode step of one sequence has to read, in the mean over its steps."""
    return weights + kv_bytes_per_token * mean_context(input_tokens, output_tokens)


@dataclass(frozen=True)
class Limit:
    """What bounds a decode step from below.

    Attributes:
        weights: bytes of weights that it has to read; None where that is not known.
        peak: the device's bandwidth; None where it is not known.
    """

    weights: int | None
    peak: Peak | None

    @property
    def params(self) -> dict[str, str | float]:
        """Where the bandwidth came from, and what it is."""
        if self.peak is None:
            return {}
        return {"profile.bandwidth_from": self.peak.source, "profile.bandwidth_gb_s": round(self.peak.bytes_per_s / 1e9, 3)}


def limit(checkpoint: Path, named_gb_s: float | None, device: Literal["cpu", "cuda"]) -> Limit:
    """Look at the checkpoint and the device: before the passes, since the copy test disturbs them.

    Args:
        checkpoint: directory that the engine serves.
        named_gb_s: as `peak`.
        device: the engine's.
    """
    try:
        weights = weight_bytes(checkpoint)
    except (OSError, ValueError, KeyError, TypeError):
        # An engine may read what this does not; its figures stand.
        weights = None
    return Limit(weights, peak(named_gb_s, device))


def metrics(
    known: Limit, info: EngineInfo, done: Sequence[Completion], *, input_tokens: int, output_tokens: int
) -> tuple[dict[str, float], list[str]]:
    """Return the ``efficiency/`` metrics that can be told, and why there is no ``efficiency/mbu`` when there is none.

    Args:
        known: the bound.
        info: of the engine.
        done: requests of the latency pass, one at a time.
        input_tokens, output_tokens: of each.
    """
    found: dict[str, float] = {}
    if known.peak is not None:
        found["efficiency/peak_bandwidth_gb_s"] = known.peak.bytes_per_s / 1e9
    absent = []
    if known.weights is None:
        absent.append("which weights a step reads is not known")
    if info.kv_bytes_per_token is None:
        absent.append("the engine does not say what a token of cache takes")
    if known.peak is None:
        absent.append("the copy test could not be run; profile.peak_bandwidth_gb_s names the bandwidth")
    if known.weights is not None and info.kv_bytes_per_token is not None:
        read = step_bytes(known.weights, info.kv_bytes_per_token, input_tokens, output_tokens)
        found["efficiency/step_read_mb"] = read / 1e6
        step_s = stats.summarize([gap for c in done for gap in c.itl_s]).p50
        if known.peak is not None and step_s > 0:
            found["efficiency/mbu"] = read / step_s / known.peak.bytes_per_s
    return found, [f"no efficiency/mbu: {'; '.join(absent)}"] if absent else []
