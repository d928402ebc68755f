"""Random weights as safetensors, the same bytes on every machine, written as they are drawn.

A weight is one of 65,536 quantiles of the normal distribution, chosen by 16 bits of a stream that the weight's name seeds.
numpy keeps the streams of its bit generators stable between versions, but not what it makes of them, and mathematics
libraries round logarithms differently; so nothing but raw bits and one table is used. A block of weights is all that is held
in memory.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slim import layout
from slim.synthetic.tensors import Tensor

SEED = 0
"""Of all synthetic weights; a sweep's own seed does not change them, as it does not change those of a real model."""
SHARD_BYTES = 2_000_000_000
"""Weights of a file at most, unless a single one is larger."""

_BYTES = 2
_BLOCK = 1 << 22
_LEVELS = 1 << 16
_ONE = 0x3F80
"""bfloat16's bits of 1."""


def shards(tensors: Iterable[Tensor], shard_bytes: int = SHARD_BYTES) -> list[list[Tensor]]:
    """Distribute weights over files, in their order."""
    found: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in tensors:
        size = prod(tensor.shape) * _BYTES
        if found[-1] and filled + size > shard_bytes:
            found.append([])
            filled = 0
        found[-1].append(tensor)
        filled += size
    return found


def write(
    tensors: Iterable[Tensor], std: float, out: Path, on_shard: Callable[[int, int], None], shard_bytes: int = SHARD_BYTES
) -> None:
    """Write bfloat16 weights, and their index where there is more than one file.

    Args:
        tensors: what to write.
        std: of normal deviates.
        out: existing directory.
        on_shard: told how many files of how many are written.
        shard_bytes: weights of a file at most.
    """
    files = shards(tensors, shard_bytes)
    levels = _levels(std)
    names = [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    names = names if len(files) > 1 else ["model.safetensors"]
    for number, (name, held) in enumerate(zip(names, files, strict=True)):
        on_shard(number, len(files))
        _write_shard(out / name, held, levels)
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(prod(t.shape) * _BYTES for held in files for t in held)},
            "weight_map": {t.name: name for name, held in zip(names, files, strict=True) for t in held},
        }
        (out / layout.INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    on_shard(len(files), len(files))


def _write_shard(path: Path, tensors: list[Tensor], levels: npt.NDArray[np.uint16]) -> None:
    """Write one file: the length of a JSON header, the header, then the weights one after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + prod(tensor.shape) * _BYTES
        header[tensor.name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for tensor in tensors:
            for block in _blocks(tensor, levels):
                file.write(block.data)


def _blocks(tensor: Tensor, levels: npt.NDArray[np.uint16]) -> Iterator[npt.NDArray[np.uint16]]:
    """A weight's bits, a block at a time."""
    count = prod(tensor.shape)
    if tensor.fill != "normal":
        yield np.full(count, _ONE if tensor.fill == "ones" else 0, dtype="<u2")
        return
    digest = hashlib.sha256(f"{SEED}/{tensor.name}".encode()).digest()
    bits = np.random.PCG64(int.from_bytes(digest, "big"))
    for begin in range(0, count, _BLOCK):
        length = min(_BLOCK, count - begin)
        drawn = bits.random_raw(-(-length // 4)).astype("<u8", copy=False).view("<u2")[:length]
        yield levels[drawn]


def _levels(std: float) -> npt.NDArray[np.uint16]:
    """The middle of each of 65,536 equally likely intervals of the normal distribution, as bfloat16's bits."""
    from scipy.special import ndtri

    values = (std * ndtri((np.arange(_LEVELS) + 0.5) / _LEVELS)).astype("<f4").view("<u4")
    # Rounded to nearest, ties to even.
    rounded: npt.NDArray[np.uint16] = ((values + 0x7FFF + ((values >> 16) & 1)) >> 16).astype("<u2")
    return rounded
