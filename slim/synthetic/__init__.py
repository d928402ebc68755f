"""Random weights in a published architecture, for measuring efficiency where the weights are gated or absent.

Speed, memory and energy depend on a model's shapes, hardly on the values of its weights; accuracy depends on nothing else, so
such a model is never evaluated.
"""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any

from slim import checkpoint, layout
from slim.config import ModelEntry
from slim.errors import ModelError
from slim.records import ModelSource, OnProgress, Progress
from slim.synthetic import tokenizer, weights
from slim.synthetic.presets import PRESETS
from slim.synthetic.tensors import FAMILIES, is_tied, tensors

__all__ = ["GENERATION", "PREFIX", "PRESETS", "describe", "is_reference", "resolve", "write"]

PREFIX = "synthetic:"
GENERATION = 1
"""Raised when the same configuration gives other files, so that results of older ones are not taken for theirs."""

_WRITTEN_FOR = "5.0.0"
"""Version of transformers that the files are for; it doubts the tokenizer of a model that names none."""
_DROPPED = ("auto_map", "torch_dtype", "transformers_version", "_name_or_path")
"""What a configuration says about other weights, or about code that is not here."""


def is_reference(reference: str) -> bool:
    """Whether a model id asks for random weights."""
    return reference.startswith(PREFIX)


def resolve(entry: ModelEntry) -> ModelSource:
    """Find out which configuration an id names; the configuration identifies the weights. Nothing is written.

    Raises:
        ModelError: unknown preset, or a configuration that cannot be read or is not of a known architecture.
    """
    if entry.revision is not None:
        raise ModelError(f"model {entry.id!r} has no revisions, got revision {entry.revision!r}; only a Hub id has")
    named = entry.id.removeprefix(PREFIX)
    path = None if named in PRESETS else _file(entry.id, named)
    config = _read(entry.id, path)
    name = named if path is None else path.stem if path.name != layout.CONFIG else path.parent.name
    return ModelSource(entry.id, "synthetic", None, _fingerprint(config), layout.short(f"synthetic-{name}"), path)


def describe(source: ModelSource) -> checkpoint.Shape:
    """Say what the model will hold, from its configuration.

    Raises:
        ModelError: the configuration cannot be read any more.
    """
    config = _read(source.reference, source.path)
    shapes = {tensor.name: tensor.shape for tensor in tensors(config)}
    return checkpoint.shape_of(config, shapes)


def write(source: ModelSource, out: Path, on_progress: OnProgress) -> None:
    """Write the model in Hugging Face layout: configuration, tokenizer, bfloat16 weights.

    Args:
        source: what `resolve` returned.
        out: existing directory.
        on_progress: told each weight file.

    Raises:
        ModelError: the configuration is not the one that was resolved any more.
    """
    config = _read(source.reference, source.path)
    if _fingerprint(config) != source.fingerprint:
        raise ModelError(f"model {source.reference!r} was changed after it was planned; run the same command again")
    (out / layout.CONFIG).write_text(_json(config), encoding="utf-8")
    special = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if config.get(name) is not None}
    (out / "generation_config.json").write_text(_json(special), encoding="utf-8")
    tokenizer.write(config, out)
    weights.write(
        tensors(config),
        _std(config),
        out,
        lambda done, total: on_progress(Progress(f"make {source.short_name}", done, total, "files")),
    )


def _file(reference: str, named: str) -> Path:
    """The configuration file that an id names."""
    path = Path(named).expanduser()
    if not named or not ("/" in named or path.exists() or path.suffix == ".json" or named.startswith((".", "~"))):
        near = difflib.get_close_matches(named.lower(), PRESETS, n=3, cutoff=0.5)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ModelError(
            f"unknown preset {reference!r}{meant}; allowed: {', '.join(PRESETS)}, or the path of a config.json after {PREFIX!r}"
        )
    path = path / layout.CONFIG if path.is_dir() else path
    if not path.is_file():
        raise ModelError(f"model {reference!r}: no such file: {path}; allowed: a config.json, or a directory that holds one")
    return path.resolve()


def _read(reference: str, path: Path | None) -> dict[str, Any]:
    """The configuration that will be written: checked, with what other readers need to find in it."""
    if path is None:
        given: Any = dict(PRESETS[reference.removeprefix(PREFIX)])
    else:
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ModelError(f"model {reference!r}: {path.name} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ModelError(f"model {reference!r}: {path.name} is not JSON: {' '.join(str(error).split())}") from None
        if not isinstance(given, dict):
            raise ModelError(f"model {reference!r}: {path.name} holds no object")
    layout.check_config(given, reference)
    name = given["architectures"][0]
    if name not in FAMILIES:
        hint = "; give its text_config, with architectures, as a file of its own" if "text_config" in given else ""
        raise ModelError(f"model {reference!r} is a {name}; allowed for random weights: {', '.join(FAMILIES)}{hint}")
    family = FAMILIES[name]
    if given.setdefault("model_type", family.model_type) != family.model_type:
        raise ModelError(f"model {reference!r} has model_type {given['model_type']!r}; a {name} is a {family.model_type!r}")
    config = {key: value for key, value in given.items() if key not in _DROPPED}
    try:
        # Walks over all that is read of it.
        for _ in tensors(config):
            pass
        tokenizer.special_tokens(config)
        _std(config)
    except ValueError as error:
        raise ModelError(f"model {reference!r}: {error}") from None
    return config | {"dtype": "bfloat16", "tie_word_embeddings": is_tied(config), "transformers_version": _WRITTEN_FOR}


def _std(config: dict[str, Any]) -> float:
    value = config.get("initializer_range", 0.02)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 10:
        raise ValueError(f"initializer_range must be a number above 0 and below 10, got {value!r}")
    return float(value)


def _fingerprint(config: dict[str, Any]) -> str:
    described = json.dumps({"generation": GENERATION, "seed": weights.SEED, "config": config}, sort_keys=True)
    return f"sha256:{hashlib.sha256(described.encode()).hexdigest()}"


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True) + "\n"
