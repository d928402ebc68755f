"""The Hugging Face layout: which files a model's directory has, and whether they make a causal language model."""

import fnmatch
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slim.errors import ModelError

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
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_CAUSAL = ("ForCausalLM", "LMHeadModel")


def read_config(path: Path) -> dict[str, Any]:
    """Return ``config.json`` of a directory.

    Raises:
        OSError: it is not there.
        ValueError: it is not a JSON object.
    """
    values = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{CONFIG} holds no object")
    return values


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files that hold the weights: those that the index names, else all.

    Raises:
        ValueError: the index is damaged, or names a file elsewhere.
    """
    if (path / INDEX).exists():
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        names = (
            set(index["weight_map"].values()) if isinstance(index, dict) and isinstance(index.get("weight_map"), dict) else None
        )
        if names is None or any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError(f"{INDEX} is damaged")
        return sorted(path / name for name in names)
    single = path / "model.safetensors"
    # Mistral's own layout lies beside the Hugging Face one, under names of its own, with the same weights.
    return [single] if single.exists() else sorted(f for f in path.glob("*.safetensors") if not f.name.startswith("consolidated"))


def side_files(path: Path, *, with_code: bool = False) -> list[Path]:
    """Return what belongs to the checkpoint besides configuration and weights: tokenizer, chat template, generation defaults."""
    patterns = SIDE_FILES + (CODE_FILES if with_code else ())
    return sorted(f for f in path.iterdir() if f.is_file() and any(fnmatch.fnmatch(f.name, pattern) for pattern in patterns))


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
    """Return the tensors of a safetensors file, described by its header alone.

    Raises:
        ValueError: not a safetensors file.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MAX_HEADER_BYTES:
                raise ValueError("header too long")
            header = json.loads(stream.read(length))
        found = {}
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                found[name] = Tensor(str(entry["dtype"]), tuple(int(n) for n in entry["shape"]), int(end) - int(begin))
        return found
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file.name} is not a safetensors file ({error})") from None


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
    missing = [f.name for f in weights if not f.is_file()]
    if missing:
        raise ModelError(f"model {reference!r} lacks the weight file {missing[0]}")
    if not weights:
        pickled = sorted(f.name for pattern in _PICKLED for f in path.glob(pattern))
        if pickled:
            raise ModelError(
                f"model {reference!r} has only pickled weights ({pickled[0]}), which can run code when read; allowed: safetensors"
            )
        raise ModelError(f"model {reference!r} has no weight files; allowed: safetensors")
    if not any(path.glob("tokenizer*")) and not any(path.glob("vocab.*")):
        raise ModelError(f"model {reference!r} has no tokenizer files, such as tokenizer.json")


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
