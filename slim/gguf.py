"""GGUF files: what their header says, and their conversion into Hugging Face layout.

Only what a conversion gets right is taken: architectures whose weights transformers maps, with byte-level tokenizers whose
splitting rule is known here. Anything else is refused rather than converted into a model that answers a little worse.
"""

import contextlib
import functools
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from slim.errors import ModelError

CONVERSION = 1
"""Raised when a conversion comes out differently, so that converted models and results of an older one are not taken for it."""
ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Values of ``general.architecture`` that are converted."""
SPLITS = ("gpt-2", "smollm", "qwen2")
"""Values of ``tokenizer.ggml.pre`` whose splitting rule is known here."""

_MAGIC = b"GGUF"
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_CONTROL, _USER_DEFINED = 3, 4
_QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Header:
    """What stands before a GGUF file's weights.

    Attributes:
        values: metadata by key.
        tensors: names of the weights.
    """

    values: Mapping[str, Any]
    tensors: tuple[str, ...]


def read_header(path: Path) -> Header:
    """Read a file's metadata. The gguf package does it too, in seconds where this takes a tenth of one.

    Raises:
        ModelError: not a GGUF file of version 2 or 3, or cut off.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != _MAGIC:
                raise ModelError(f"model {str(path)!r} is not a GGUF file; allowed: GGUF version 2 or 3")
            version, tensors, entries = _unpack(file, "<I"), _unpack(file, "<Q"), _unpack(file, "<Q")
            if version not in (2, 3):
                raise ModelError(f"model {str(path)!r} is GGUF version {version}; allowed: 2 or 3")
            values = {}
            for _ in range(entries):
                key = _string(file)
                values[key] = _value(file, _unpack(file, "<I"))
            names = []
            for _ in range(tensors):
                names.append(_string(file))
                file.seek(8 * _unpack(file, "<I") + 4 + 8, 1)
            return Header(values, tuple(names))
    except (OSError, struct.error, UnicodeDecodeError, KeyError, OverflowError, MemoryError, RecursionError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"model {str(path)!r} cannot be read as GGUF: {said[:200]}") from None


def check(path: Path) -> Header:
    """Return the header of a file that can be converted.

    Raises:
        ModelError: it cannot; says what is allowed.
    """
    header = read_header(path)
    instead = "; give the model in Hugging Face layout"
    architecture = header.values.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"model {str(path)!r} has GGUF architecture {architecture!r}; allowed: {', '.join(ARCHITECTURES)}{instead}"
        )
    kind, split = header.values.get("tokenizer.ggml.model"), header.values.get("tokenizer.ggml.pre")
    if kind != "gpt2" or split not in SPLITS:
        allowed = ", ".join(f"gpt2/{name}" for name in SPLITS)
        raise ModelError(f"model {str(path)!r} has the GGUF tokenizer {kind}/{split}; allowed: {allowed}{instead}")
    if "rope_freqs.weight" in header.tensors:
        raise ModelError(f"model {str(path)!r} scales its rotary frequencies by a table, which conversion would lose{instead}")
    return header


def convert(path: Path, target: Path) -> None:
    """Write the model into ``target`` in Hugging Face layout: bfloat16 weights, tokenizer with chat template, configuration.

    Args:
        path: a file that `check` accepts.
        target: empty directory.

    Raises:
        ModelError: as `check`.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    header = check(path)
    with _read_once():
        read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16)
    config = read.config
    # The weights are dequantized by now; with this left in, saving and loading treat them as GGUF blocks.
    del config.quantization_config
    config._name_or_path = ""
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.tie_weights()
    tokens = {name: _token_id(header, name) for name in ("bos", "eos", "padding")}
    plain.generation_config = GenerationConfig(
        bos_token_id=tokens["bos"], eos_token_id=tokens["eos"], pad_token_id=tokens["padding"]
    )
    plain.save_pretrained(target)
    tokenizer(header).save_pretrained(target)


@contextlib.contextmanager
def _read_once() -> Iterator[None]:
    """Let transformers parse the file once; it does so three times, and builds one table of names for each module."""
    import gguf

    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = functools.cache(reader), functools.cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names


def tokenizer(header: Header) -> Any:
    """Return the file's tokenizer, as transformers has them.

    transformers builds one too, but with the beginning-of-sequence token as the end, without the padding token and
    without the splitting rule that ``tokenizer.ggml.pre`` names, so that digits after a blank or a newline come out wrong.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    values = header.values
    tokens, kinds = values["tokenizer.ggml.tokens"], values.get("tokenizer.ggml.token_type", [])
    merges = [tuple(merge.split(" ", 1)) for merge in values["tokenizer.ggml.merges"]]
    built = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    match values["tokenizer.ggml.pre"]:
        case "smollm":
            built.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), by_bytes])
        case "qwen2":
            from tokenizers import Regex

            split = pre_tokenizers.Split(Regex(_QWEN2_SPLIT), behavior="isolated")
            by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            built.pre_tokenizer = pre_tokenizers.Sequence([split, by_bytes])
            built.normalizer = normalizers.NFC()
        case _:
            built.pre_tokenizer = by_bytes
    built.decoder = decoders.ByteLevel()
    special = [
        AddedToken(token, special=kind == _CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=False)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    built.add_tokens(special)
    named = {name: _token(header, key) for name, key in _SPECIAL.items()}
    bos = named.get("bos_token")
    if bos is not None and values.get("tokenizer.ggml.add_bos_token"):
        built.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokens.index(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=built,
        model_max_length=values[f"{values['general.architecture']}.context_length"],
        clean_up_tokenization_spaces=False,
        chat_template=values.get("tokenizer.chat_template"),
        **{name: token for name, token in named.items() if token is not None},
    )


_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def _token_id(header: Header, name: str) -> int | None:
    found = header.values.get(f"tokenizer.ggml.{name}_token_id")
    return int(found) if found is not None else None


def _token(header: Header, name: str) -> str | None:
    found = _token_id(header, name)
    return str(header.values["tokenizer.ggml.tokens"][found]) if found is not None else None


def _unpack(file: BinaryIO, form: str) -> Any:
    (value,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return value


def _string(file: BinaryIO) -> str:
    return _bytes(file, _unpack(file, "<Q")).decode("utf-8")


def _bytes(file: BinaryIO, length: int) -> bytes:
    """The next bytes; a length that the file cannot have is refused before memory is asked for."""
    if length > os.fstat(file.fileno()).st_size - file.tell():
        raise struct.error("cut off")
    return file.read(length)


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        of, count = _unpack(file, "<I"), _unpack(file, "<Q")
        if of in (_STRING, _ARRAY):
            return [_value(file, of) for _ in range(count)]
        form = f"<{count}{_SCALARS[of][1:]}"
        return list(struct.unpack(form, _bytes(file, struct.calcsize(form))))
    return _unpack(file, _SCALARS[kind])
