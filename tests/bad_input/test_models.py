"""Models and checkpoints that are damaged or hostile: one typed line, no traceback, nothing read that lies elsewhere."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slim import checkpoint, files, models
from slim.config import ModelEntry
from slim.errors import ModelError, Reason, StageError
from tests.test_checkpoint import CONFIG, SHAPES, directory

Change = Callable[[Path], Any]


def raw(content: str | bytes) -> Change:
    return lambda path: (path / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())


def config(**fields: Any) -> Change:
    return raw(json.dumps({**CONFIG, **fields}))


def weights(header: Any, data: bytes = bytes(8), length: int | None = None) -> Change:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = struct.pack("<Q", len(encoded) if length is None else length) + encoded + data
    return lambda path: (path / "model.safetensors").write_bytes(content)


def tensor(**fields: Any) -> Change:
    return weights({"a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8], **fields}})


def index(content: str) -> Change:
    return lambda path: (path / "model.safetensors.index.json").write_text(content)


def instead(name: str) -> Change:
    return lambda path: (path / "model.safetensors").rename(path / name)


def linked(name: str, target: str) -> Change:
    def change(path: Path) -> None:
        (path / name).unlink()
        (path / name).symlink_to(target)

    return change


MODELS: dict[str, tuple[Change, str]] = {
    "an empty config": (raw(""), "cannot be read"),
    "a config too deep": (raw("[" * 100_000), "nested"),
    "a config in UTF-16": (raw("{}".encode("utf-16")), "cannot be read"),
    "a config that is a list": (raw("[]"), "no object"),
    "a config that is a number": (raw("7"), "no object"),
    "a number of 5000 digits": (raw('{"hidden_size": ' + "9" * 5000 + "}"), "limit"),
    "NaN for a size": (raw('{"architectures": ["LlamaForCausalLM"], "num_attention_heads": NaN}'), "NaN"),
    "no width and no heads": (config(hidden_size=0, num_attention_heads=0), "0"),
    "no heads": (config(num_attention_heads=0, num_key_value_heads=0), "attention heads 0"),
    "heads in words": (config(num_attention_heads="four"), "four"),
    "layers below 0": (config(num_hidden_layers=-3), "layers -3"),
    "layers without end": (config(num_hidden_layers=10**30), "layers 1e+30"),
    "an infinite vocabulary": (config(vocab_size=float("inf")), "infinity"),
    "an architecture that is a number": (config(architectures=[7]), "without architectures"),
    "an architecture of another kind": (config(architectures=["BertForMaskedLM"]), "not a causal language model"),
    "a text part that is a list": (config(text_config=[1]), "cannot be read"),
    "quantized already": (config(quantization_config={"quant_method": "awq"}), "awq"),
    "quantized in a list": (config(quantization_config=[1]), "quantized already"),
    "positions in words": (config(max_position_embeddings="many"), "many"),
    "empty weights": (lambda path: (path / "model.safetensors").write_bytes(b""), "not a safetensors file"),
    "weights that are a pickle": (
        lambda path: (path / "model.safetensors").write_bytes(b"\x80\x04\x95" * 9),
        "not a safetensors",
    ),
    "a header beyond memory": (weights(b"{}", length=2**62), "header does not fit"),
    "a header beyond the file": (weights(b"{}", length=500), "header does not fit"),
    "a header that is a list": (weights([]), "not a safetensors file"),
    "a header too deep": (weights(b"[" * 50_000), "not a safetensors file"),
    "a header that is no text": (weights(b"\xff\xfe{}"), "not a safetensors file"),
    "no tensors": (weights({}), "no tensors"),
    "a size below 0": (tensor(shape=[-2, 2]), "sizes that are none"),
    "a size that is NaN": (weights(b'{"a": {"dtype": "BF16", "shape": [NaN], "data_offsets": [0, 8]}}'), "sizes that are none"),
    "a size without end": (tensor(shape=[10**30]), "of shape"),
    "a shape that its bytes do not fill": (tensor(shape=[100, 100]), "has 8 bytes"),
    "offsets beyond the file": (tensor(data_offsets=[0, 10**12]), "ends at byte"),
    "offsets the wrong way": (tensor(data_offsets=[8, 0]), "ends at byte"),
    "weights that are cut off": (
        weights({"a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}, bytes(3)),
        "byte 8 of 3",
    ),
    "pickled weights": (instead("pytorch_model.bin"), "pytorch_model.bin"),
    "pickled shards": (instead("pytorch_model-00001-of-00002.bin"), "pickled"),
    "a checkpoint of torch": (instead("consolidated.00.pth"), "pickled"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "no weight files"),
    "weights in a directory": (instead("elsewhere/../model.safetensors.d"), "no weight files"),
    "an index that is a list": (index("[]"), "damaged"),
    "an index too deep": (index("[" * 100_000), "nested"),
    "an index of nothing": (index('{"weight_map": {}}'), "no weight files"),
    "an index that leads up": (index('{"weight_map": {"a": "../x.safetensors"}}'), "elsewhere"),
    "an index that leads to the root": (index('{"weight_map": {"a": "/etc/passwd"}}'), "elsewhere"),
    "an index of pickles": (index('{"weight_map": {"a": "evil.bin"}}'), "'evil.bin', which is no safetensors file"),
    "an index of what is not there": (index('{"weight_map": {"a": "model-9.safetensors"}}'), "lacks the weight file"),
    "weights linked from elsewhere": (linked("model.safetensors", "/dev/zero"), "link out of its directory"),
    "a tokenizer linked from elsewhere": (linked("tokenizer.json", "/etc/passwd"), "link out of its directory"),
    "a config linked from elsewhere": (linked("config.json", "/etc/passwd"), "cannot be read"),
    "weights linked in a circle": (linked("model.safetensors", "model.safetensors"), "lacks the weight file"),
    "no tokenizer": (lambda path: (path / "tokenizer.json").unlink(), "no tokenizer"),
}


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def gguf(entries: int, *parts: bytes, tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + u32(version) + u64(tensors) + u64(entries) + b"".join(parts)


KEY = u64(1) + b"k"
GGUF: dict[str, bytes] = {
    "an empty file": b"",
    "another format": b"PK\x03\x04 a zip archive",
    "nothing after the magic": b"GGUF",
    "another version": gguf(0, version=99),
    "a text beyond memory": gguf(1, u64(2**60)),
    "a text beyond numbers": gguf(1, u64(2**63 + 5)),
    "entries without end": gguf(2**63),
    "tensors without end": gguf(0, tensors=2**63),
    "an array beyond memory": gguf(1, KEY, u32(9), u32(4), u64(2**34)),
    "an array beyond numbers": gguf(1, KEY, u32(9), u32(4), u64(2**62)),
    "texts without end": gguf(1, KEY, u32(9), u32(8), u64(2**62)),
    "arrays in arrays": gguf(1, KEY, u32(9), *[u32(9) + u64(1)] * 5000),
    "an unknown type": gguf(1, KEY, u32(77)),
    "dimensions without end": gguf(0, KEY, u32(2**32 - 1), tensors=1),
    "no architecture": gguf(0),
}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))


def told(call: Callable[[], Any]) -> str:
    """The one line in which a call refuses."""
    with pytest.raises((ModelError, StageError)) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize("case", MODELS)
def test_a_damaged_model(tmp_path: Path, case: str) -> None:
    change, expected = MODELS[case]
    path = directory(tmp_path / "model", CONFIG, SHAPES)
    (path / "tokenizer.json").write_text("{}")
    (path / "elsewhere").mkdir()
    change(path)
    assert expected in told(lambda: models.describe(models.resolve(ModelEntry(id=str(path)))))


@pytest.mark.parametrize("case", GGUF)
def test_a_damaged_gguf_file(tmp_path: Path, case: str) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(GGUF[case])
    assert "model.gguf" in told(lambda: models.resolve(ModelEntry(id=str(file))))


def test_links_inside_the_hubs_cache_are_inside(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--org--name" / "blobs", tmp_path / "models--org--name" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    directory(blobs, CONFIG, SHAPES)
    (blobs / "tokenizer.json").write_text("{}")
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert models.resolve(ModelEntry(id=str(snapshot))).path == snapshot


def rewritten(**values: Any) -> Change:
    """A manifest that says something else and has the right digest."""

    def change(path: Path) -> None:
        known = json.loads((path / checkpoint.MANIFEST).read_text())
        content = {"key": known["key"], "parameters": known["parameters"], "files": known["files"], **values}
        (path / checkpoint.MANIFEST).write_text(checkpoint._canonical(**content))

    return change


def replaced(old: str, new: str) -> Change:
    def change(path: Path) -> None:
        text = (path / checkpoint.MANIFEST).read_text()
        assert old in text
        (path / checkpoint.MANIFEST).write_text(text.replace(old, new))

    return change


ENTRY = {"bytes": 1, "sha256": "0" * 64}
CHECKPOINTS: dict[str, tuple[Change, str]] = {
    "no manifest": (lambda path: (path / checkpoint.MANIFEST).unlink(), "missing"),
    "an empty manifest": (lambda path: (path / checkpoint.MANIFEST).write_text(""), "damaged"),
    "a manifest that is a list": (lambda path: (path / checkpoint.MANIFEST).write_text("[]"), "damaged"),
    "a manifest too deep": (lambda path: (path / checkpoint.MANIFEST).write_text("[" * 100_000), "nested"),
    "a manifest of bytes": (lambda path: (path / checkpoint.MANIFEST).write_bytes(b"\xff\x00"), "damaged"),
    "another schema": (replaced('"schema": 1', '"schema": 2'), "schema 2"),
    "a changed key": (replaced('"key": "k"', '"key": "x"'), "changed"),
    "a file above": (rewritten(files={"../secret": ENTRY}), "leads out"),
    "a file above in the middle": (rewritten(files={"a/../../secret": ENTRY}), "leads out"),
    "a file at the root": (rewritten(files={"/etc/passwd": ENTRY}), "leads out"),
    "a name with a NUL": (rewritten(files={"a\0b": ENTRY}), "leads out"),
    "no files": (rewritten(files={}), "no weights"),
    "files in a list": (rewritten(files=[]), "damaged"),
    "an entry that is a number": (rewritten(files={"model.safetensors": 5}), "damaged"),
    "no parameters": (rewritten(parameters=0), "0 parameters"),
    "parameters below 0": (rewritten(parameters=-7), "-7 parameters"),
    "infinite parameters": (rewritten(parameters=float("inf")), "infinity"),
    "parameters in words": (rewritten(parameters="many"), "many"),
    "weights that are gone": (lambda path: (path / "model.safetensors").unlink(), "is missing"),
    "weights that are cut off": (lambda path: (path / "model.safetensors").write_bytes(b"x"), "has 1 bytes"),
    "another config": (lambda path: (path / "config.json").write_text("{}"), "config.json"),
    "weights that are too many": (lambda path: (path / "more.safetensors").write_bytes(b""), "does not belong"),
    "pickled weights beside": (lambda path: (path / "pytorch_model.bin").write_bytes(b""), "does not belong"),
    "code beside": (lambda path: (path / "modeling_evil.py").write_text("raise SystemExit"), "does not belong"),
    "an index beside": (index('{"weight_map": {}}'), "does not belong"),
    "a config linked from elsewhere": (linked("config.json", "/etc/passwd"), "leads out"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_damaged_checkpoint(tmp_path: Path, case: str) -> None:
    change, expected = CHECKPOINTS[case]
    path = directory(tmp_path / "checkpoint", CONFIG, SHAPES)
    checkpoint.write_manifest(path, "k", 392)
    assert checkpoint.load(path, verify=True).parameters == 392
    change(path)
    with pytest.raises(StageError) as caught:
        checkpoint.load(path, verify=True)
    assert caught.value.reason is Reason.CHECKPOINT_MISMATCH
    assert expected in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "names", [("..",), ("a", "..", ".."), ("/etc/passwd",), ("run", "../../x"), ("a\0b",), ("out",), ("out", "x")]
)
def test_names_from_elsewhere_stay_inside(tmp_path: Path, names: tuple[str, ...]) -> None:
    inner = tmp_path / "cache"
    inner.mkdir()
    (inner / "out").symlink_to("/etc")
    with pytest.raises(ValueError, match="leads out"):
        files.inside(inner, *names)
    assert files.inside(inner, "run", "folder/file.json") == inner.resolve() / "run" / "folder" / "file.json"
