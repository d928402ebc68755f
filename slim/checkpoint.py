"""Checkpoints: directories in Hugging Face layout. What they hold is read from headers; that they are whole, from a manifest."""

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from slim.errors import Reason, StageError
from slim.files import inside, read_json, sha256
from slim.layout import CONFIG, INDEX, PICKLED, read_config, tensor_shapes, weight_files
from slim.records import Checkpoint

MANIFEST = "slim_checkpoint.json"
"""Name of the manifest in a checkpoint's directory."""

_SCHEMA = 1
_LARGEST = 10_000_000
"""Layers, heads or width beyond which a configuration is damaged rather than large."""
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.\d+\.")
NOT_DECODER = re.compile(r"(?:^|\.)(?:vision_tower|vision_model|visual|multi_modal_projector|audio_tower|encoder)\.")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight")
HEAD = "lm_head.weight"
_BUFFERS = ("*inv_freq", "*.masked_bias")


@dataclass(frozen=True)
class Shape:
    """What the configuration and the weight files' headers say about a model.

    Attributes:
        architecture: class name, such as ``LlamaForCausalLM``.
        model_type: family, such as ``llama``.
        parameters: counted from the weight files, tied weights once.
        weight_bytes: size of the weight files.
        hidden_size: width of the residual stream.
        layers: decoder layers.
        kv_heads: key/value heads of a layer.
        head_dim: width of a head.
        vocab_size: rows of the embedding.
        max_positions: context in tokens; None when the configuration does not say.
        is_tied: whether the output layer is the embedding.
        is_multimodal: whether the language model is one part among others.
        has_own_code: whether loading it runs code that comes with the model.
        linear_input_sizes: input size of each linear layer in the decoder, by module name.
    """

    architecture: str
    model_type: str
    parameters: int
    weight_bytes: int
    hidden_size: int
    layers: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int | None
    is_tied: bool
    is_multimodal: bool
    has_own_code: bool
    linear_input_sizes: Mapping[str, int]


def describe(path: Path) -> Shape:
    """Say what a directory of original weights holds, without loading them.

    Raises:
        StageError: ``unsupported_model``: configuration or weight files cannot be read or lack what is needed.
    """
    try:
        config = read_config(path)
        files = weight_files(path)
        if not files:
            raise ValueError("no safetensors files")
        shapes = {name: shape for file in files for name, shape in tensor_shapes(file).items()}
        if not shapes:
            raise ValueError("its weight files hold no tensors")
        return shape_of(config, shapes, sum(f.stat().st_size for f in files))
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
        raise StageError(Reason.UNSUPPORTED_MODEL, f"{path} cannot be read as a model: {_said(error)}") from error


def is_tied(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether a model's output layer is its embedding.

    Args:
        config: of the model.
        names: of its tensors: where the configuration leaves it to the class's default, they tell.
    """
    text = config.get("text_config", config)
    stated = text.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    return bool(stated) if stated is not None else not any(name.endswith(HEAD) for name in names)


def shape_of(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], weight_bytes: int | None = None) -> Shape:
    """Say what a model with this configuration and these weights is.

    Args:
        config: content of its ``config.json``.
        shapes: of the weights, by name.
        weight_bytes: size of the weight files; None for those that are not written yet, which will hold 16 bits a weight.

    Raises:
        KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError: the configuration lacks what is needed.
    """
    text = config.get("text_config", config)
    tied = is_tied(config, shapes)
    heads = int(_first(text, "num_attention_heads", "n_head"))
    hidden = int(_first(text, "hidden_size", "n_embd", "d_model"))
    positions = next((text[n] for n in ("max_position_embeddings", "n_positions", "max_seq_len") if text.get(n)), None)
    parameters = _parameters(shapes, tied)
    layers = int(_first(text, "num_hidden_layers", "n_layer", "n_layers"))
    for what, size in {"attention heads": heads, "width": hidden, "layers": layers}.items():
        if not 0 < size <= _LARGEST:
            raise ValueError(f"{CONFIG} says that it has {what} {size:g}")
    return Shape(
        architecture=str(config["architectures"][0]),
        model_type=str(config.get("model_type", "")),
        parameters=parameters,
        weight_bytes=2 * parameters if weight_bytes is None else weight_bytes,
        hidden_size=hidden,
        layers=layers,
        kv_heads=int(text.get("num_key_value_heads") or heads),
        head_dim=int(text.get("head_dim") or hidden // heads),
        vocab_size=int(_first(text, "vocab_size") if "vocab_size" in text else _embedding_rows(shapes)),
        max_positions=int(positions) if positions else None,
        is_tied=tied,
        is_multimodal=text is not config,
        has_own_code="auto_map" in config,
        linear_input_sizes=_linear_inputs(shapes),
    )


def original(path: Path, fingerprint: str) -> Checkpoint:
    """Return the checkpoint that original weights are.

    Args:
        path: directory in Hugging Face layout.
        fingerprint: of the model's source.

    Raises:
        StageError: as `describe`.
    """
    shape = describe(path)
    return Checkpoint(path, fingerprint, shape.weight_bytes, shape.parameters)


def write_manifest(path: Path, key: str, parameters: int) -> Checkpoint:
    """Write the manifest over all files of a directory and return the checkpoint that it makes.

    Args:
        path: complete directory in Hugging Face layout.
        key: of the quantize stage that made it.
        parameters: of the original model.
    """
    files = sorted(f for f in path.rglob("*") if f.is_file() and f.name != MANIFEST)
    entries = {f.relative_to(path).as_posix(): {"bytes": f.stat().st_size, "sha256": sha256(f)} for f in files}
    (path / MANIFEST).write_text(_canonical(key, parameters, entries), encoding="utf-8")
    return Checkpoint(path, key, _weight_bytes(entries), parameters)


def load(path: Path, verify: bool) -> Checkpoint:
    """Return the checkpoint that a directory holds.

    Files that the manifest does not name are let be, weights and code excepted, which an engine would read.

    Args:
        path: directory with a manifest.
        verify: also compare every file's hash; a size is compared in any case.

    Raises:
        StageError: ``checkpoint_mismatch``: no manifest, or files are not those that were written.
    """

    def mismatch(what: str) -> StageError:
        return StageError(Reason.CHECKPOINT_MISMATCH, f"checkpoint {path}: {what}")

    try:
        content = (path / MANIFEST).read_text(encoding="utf-8")
        values = read_json(path / MANIFEST)
        if values["schema"] != _SCHEMA:
            raise ValueError(f"it is of schema {values['schema']!r:.20}, and this version reads {_SCHEMA}")
        key, parameters, files = str(values["key"]), int(values["parameters"]), dict(values["files"])
        if content != _canonical(key, parameters, files):
            raise ValueError("changed after it was written")
        if parameters < 1:
            raise ValueError(f"it says that the model has {parameters} parameters")
        expected = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
        for name in expected:
            # Links too: what a store hands out must not make this machine read, or pass on, what lies elsewhere.
            inside(path, name)
        if not any(name.endswith(".safetensors") for name in expected):
            raise ValueError("it names no weights")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise mismatch(f"{MANIFEST} is missing or damaged ({_said(error)})") from None
    for name, (size, digest) in expected.items():
        file = path / name
        if not file.is_file():
            raise mismatch(f"{name} is missing")
        if file.stat().st_size != size:
            raise mismatch(f"{name} has {file.stat().st_size} bytes, not {size}")
        if verify and sha256(file) != digest:
            raise mismatch(f"{name} was changed after it was written")
    weights = ("*.safetensors", "*.py", INDEX, *PICKLED)
    strange = sorted(f.name for pattern in weights for f in path.glob(pattern) if f.name not in expected)
    if strange:
        raise mismatch(f"{strange[0]} does not belong to it")
    return Checkpoint(path, key, _weight_bytes(files), parameters)


def _canonical(key: str, parameters: int, files: Mapping[str, Any]) -> str:
    """The manifest's one spelling, its own digest included, so that a changed byte of it shows too."""
    values = {"schema": _SCHEMA, "key": key, "parameters": parameters, "files": files}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return json.dumps({**values, "digest": digest}, indent=2, sort_keys=True) + "\n"


def _weight_bytes(files: Mapping[str, Any]) -> int:
    return sum(int(entry["bytes"]) for name, entry in files.items() if name.endswith(".safetensors"))


def _first(config: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        if config.get(name) is not None:
            return config[name]
    raise KeyError(names[0])


def _embedding_rows(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return next(s[0] for name, s in shapes.items() if name.endswith(EMBEDDINGS))


def _parameters(shapes: Mapping[str, tuple[int, ...]], is_tied: bool) -> int:
    repeats = is_tied and any(name.endswith(EMBEDDINGS) for name in shapes)
    return sum(
        prod(shape)
        for name, shape in shapes.items()
        if not ((repeats and name.endswith(HEAD)) or any(fnmatch.fnmatch(name, pattern) for pattern in _BUFFERS))
    )


def _linear_inputs(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    return {
        name.removesuffix(".weight"): shape[1]
        for name, shape in sorted(shapes.items())
        if len(shape) == 2 and name.endswith(".weight") and _LAYER.search(name) and not NOT_DECODER.search(name)
    }


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a module's name is among ``patterns``: names, or ``re:`` and a regular expression that matches from the start."""
    return any(re.match(p.removeprefix("re:"), name) if p.startswith("re:") else p == name for p in patterns)


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    return f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
