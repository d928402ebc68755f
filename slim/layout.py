"""The Hugging Face layout: which files a model's directory has, and whether they make a causal language model."""

import fnmatch
import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from slim.errors import ModelError
from slim.files import read_json

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SIDE_FILES = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "generation_config.json",
    "*processor_config.json",
)
"""Patterns of what belongs to a checkpoint besides configuration and weights."""
CODE_FILES = ("*.py",)
"""What a model with its own code carries; read only where the user allows that code."""
ALLOWED = (
    "allowed: embedded, synthetic:<preset>, a local directory in Hugging Face layout, a .gguf file, or a Hub id such as org/name"
)
"""What a model id may be, for error messages."""

_MAX_HEADER_BYTES = 100_000_000
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib", "*.npy", "*.npz")
"""Patterns of files that can run code when they are read; nothing here reads them."""
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Bits of an element by the format's word; what is not listed is not checked."""
_CAUSAL = ("ForCausalLM", "LMHeadModel")


def read_config(path: Path) -> dict[str, Any]:
    """Return ``config.json`` of a directory.

    Raises:
        OSError: it is not there.
        ValueError: it is not a JSON object.
    """
    values = read_json(path / CONFIG)
    if not isinstance(values, dict):
        raise ValueError(f"{CONFIG} holds no object")
    return values


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files that hold the weights: those that the index names, else all.

    Raises:
        ValueError: the index is damaged, or names a file elsewhere.
    """
    if (path / INDEX).exists():
        index = read_json(path / INDEX)
        names = (
            set(index["weight_map"].values()) if isinstance(index, dict) and isinstance(index.get("weight_map"), dict) else None
        )
        if names is None or any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError(f"{INDEX} is damaged, or names files elsewhere")
        other = next((name for name in sorted(names) if not name.endswith(".safetensors")), None)
        if other is not None:
            raise ValueError(f"{INDEX} names {other!r}, which is no safetensors file")
        return sorted(path / name for name in names)
    single = path / "model.safetensors"
    # Mistral's own layout lies beside the Hugging Face one, under names of its own, with the same weights.
    return [single] if single.exists() else sorted(f for f in path.glob("*.safetensors") if not f.name.startswith("consolidated"))


def side_files(path: Path, *, with_code: bool = False) -> list[Path]:
    """Return what belongs to the checkpoint besides configuration and weights: tokenizer, chat template, generation defaults."""
    patterns = SIDE_FILES + (CODE_FILES if with_code else ())
    return sorted(f for f in path.iterdir() if f.is_file() and _is_like(f, patterns) and not _is_like(f, PICKLED))


def _is_like(file: Path, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Tensor:
    """A tensor as a safetensors file holds it.

    Attributes:
        dtype: the format's word, such as ``BF16`` or ``I8``.
        shape: sizes.
        bytes: in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    bytes: int


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a safetensors file, read from its header alone.

    Raises:
        ValueError: not a safetensors file.
    """
    return {name: tensor.shape for name, tensor in tensors(file).items()}


def tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, described by its header alone, after checking that the file holds them whole.

    Raises:
        ValueError: not a safetensors file, or one that is cut off.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            held = file.stat().st_size - 8 - length
            if length > _MAX_HEADER_BYTES or held < 0:
                raise ValueError("its header does not fit into it")
            header = json.loads(stream.read(length))
        return {name: _tensor(name, entry, held) for name, entry in header.items() if name != "__metadata__"}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{file.name} is not a safetensors file, or not a whole one ({_said(error)})") from None


def _tensor(name: str, entry: Any, held: int) -> Tensor:
    """One entry of a header, in a file with that many bytes of data."""
    begin, end = entry["data_offsets"]
    dtype, shape = str(entry["dtype"]), tuple(entry["shape"])
    if not all(type(n) is int and n >= 0 for n in (begin, end, *shape)):
        raise ValueError(f"tensor {name!r} has sizes that are none")
    if not begin <= end <= held:
        raise ValueError(f"tensor {name!r} ends at byte {end} of {held}")
    if dtype in _BITS and prod(shape) * _BITS[dtype] != 8 * (end - begin):
        raise ValueError(f"tensor {name!r} of shape {list(shape)} has {end - begin} bytes")
    return Tensor(dtype, shape, end - begin)


def _said(error: Exception) -> str:
    text = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


def check_directory(path: Path, reference: str) -> None:
    """Check that a directory holds a causal language model with its tokenizer, by its files' names and configuration.

    Raises:
        ModelError: it does not; says what is missing.
    """
    try:
        config = read_config(path)
        weights = weight_files(path)
    except OSError:
        raise ModelError(f"model {reference!r} has no config.json; {ALLOWED}") from None
    except ValueError as error:
        raise ModelError(f"model {reference!r} cannot be read: {' '.join(str(error).split())}") from None
    check_config(config, reference)
    _check_inside(path, weights, reference)
    missing = [f.name for f in weights if not f.is_file()]
    if missing:
        raise ModelError(f"model {reference!r} lacks the weight file {missing[0]}")
    if not weights:
        pickled = sorted(f.name for f in path.iterdir() if _is_like(f, PICKLED))
        if pickled:
            raise ModelError(
                f"model {reference!r} has only pickled weights ({pickled[0]}), which can run code when read; allowed: safetensors, "
                "which many authors offer beside them, or which save_pretrained writes on a machine where you trust the file"
            )
        raise ModelError(f"model {reference!r} has no weight files; allowed: safetensors")
    if not any(path.glob("tokenizer*")) and not any(path.glob("vocab.*")):
        raise ModelError(f"model {reference!r} has no tokenizer files, such as tokenizer.json")


def _check_inside(path: Path, weights: Iterable[Path], reference: str) -> None:
    """Refuse links out of a model's directory, whose targets would be read, and copied into checkpoints and stores.

    The Hub's cache keeps files beside its snapshots, which is still inside.
    """
    root = path.resolve()
    root = root.parents[1] if root.parent.name == "snapshots" and (root.parents[1] / "blobs").is_dir() else root
    for file in (path / CONFIG, *weights, *side_files(path, with_code=True)):
        if file.is_symlink() and not (file.resolve(strict=False) if file.exists() else root).is_relative_to(root):
            raise ModelError(f"model {reference!r}: {file.name} is a link out of its directory; allowed: files that lie in it")


def check_config(config: dict[str, Any], reference: str) -> None:
    """Check that a configuration is that of a causal language model in its original precision.

    Raises:
        ModelError: it is not.
    """
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise ModelError(f"model {reference!r} has a config.json without architectures")
    name = architectures[0]
    # A language model that also sees images is called so, and keeps the configuration of its text part apart.
    with_images = name.endswith("ForConditionalGeneration") and isinstance(config.get("text_config"), dict)
    if not (name.endswith(_CAUSAL) or with_images):
        raise ModelError(f"model {reference!r} is a {name}, not a causal language model; allowed: architectures *ForCausalLM")
    quantized = config.get("quantization_config")
    if quantized is not None:
        method = quantized.get("quant_method", "unknown method") if isinstance(quantized, dict) else "unknown method"
        raise ModelError(f"model {reference!r} is quantized already ({method}); give the original weights")


def short(name: str) -> str:
    """Return a name that is safe in a run's name: lower case letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.")[:64] or "model"
