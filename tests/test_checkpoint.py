"""Shapes read from headers, and manifests that notice every change."""

import json
import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slim import checkpoint
from slim.errors import Reason, StageError
from slim.layout import weight_files


def write_tensors(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of zeros in bfloat16."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2
        for n in shape:
            size *= n
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(offset))


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 16,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (16, 8),
    "model.norm.weight": (8,),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 24),
}


def directory(path: Path, config: dict[str, object], shapes: dict[str, tuple[int, ...]]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    write_tensors(path / "model.safetensors", shapes)
    return path


def test_the_shape_of_the_tiny_model_is_that_of_the_loaded_one(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    shape = checkpoint.describe(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert shape.parameters == model.num_parameters()
    assert shape.architecture == type(model).__name__
    assert (shape.hidden_size, shape.layers, shape.kv_heads, shape.head_dim) == (256, 2, 2, 64)
    assert (shape.vocab_size, shape.max_positions, shape.is_tied, shape.is_multimodal) == (512, 2048, True, False)
    linear = {n: m.in_features for n, m in model.named_modules() if type(m).__name__ == "Linear" and n != "lm_head"}
    assert dict(shape.linear_input_sizes) == linear
    original = checkpoint.original(tiny_model, "sha256:x")
    assert original.weight_bytes == (tiny_model / "model.safetensors").stat().st_size
    assert original.bits_per_weight == pytest.approx(16, rel=0.01)


@pytest.mark.parametrize(
    ("tied", "expected"), [(True, 128 + 8 + 64 + 192), (False, 2 * 128 + 8 + 64 + 192), (None, 2 * 128 + 8 + 64 + 192)]
)
def test_tied_weights_are_counted_once(tmp_path: Path, tied: bool | None, expected: int) -> None:
    config = {**CONFIG, "tie_word_embeddings": tied}
    shapes = {**SHAPES, "lm_head.weight": (16, 8), "model.layers.0.self_attn.rotary_emb.inv_freq": (4,)}
    shape = checkpoint.describe(directory(tmp_path / "m", config, shapes))
    assert shape.parameters == expected
    assert shape.is_tied is (tied is True)


def test_a_model_with_images_is_described_by_its_text_part(tmp_path: Path) -> None:
    text = {k: v for k, v in CONFIG.items() if k not in ("architectures", "tie_word_embeddings")}
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text, "hidden_size": 99}
    shapes = {
        **{f"language_model.{n}": s for n, s in SHAPES.items()},
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight": (8, 13),
    }
    shape = checkpoint.describe(directory(tmp_path / "m", config, shapes))
    assert (shape.hidden_size, shape.is_multimodal, shape.is_tied) == (8, True, True)
    assert set(shape.linear_input_sizes.values()) == {8, 24}
    assert shape.parameters == 128 + 8 + 64 + 192 + 8 * 13


def test_sharded_weights_are_those_of_the_index(tmp_path: Path) -> None:
    path = directory(tmp_path / "m", CONFIG, SHAPES)
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    write_tensors(path / "model-00002-of-00002.safetensors", {"model.layers.0.mlp.up_proj.weight": (24, 8)})
    write_tensors(path / "consolidated.safetensors", SHAPES)
    index = {"weight_map": {**dict.fromkeys(SHAPES, "model-00001-of-00002.safetensors"), "x": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [f.name for f in weight_files(path)] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert checkpoint.describe(path).parameters == 128 + 8 + 64 + 192 + 192
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../../elsewhere.safetensors"}}))
    with pytest.raises(ValueError, match="damaged"):
        weight_files(path)


@pytest.mark.parametrize("damage", ["no config", "no weights", "cut header", "no heads", "list"])
def test_what_cannot_be_described_is_unsupported(tmp_path: Path, damage: str) -> None:
    path = directory(tmp_path / "m", CONFIG, SHAPES)
    match damage:
        case "no config":
            (path / "config.json").unlink()
        case "no weights":
            (path / "model.safetensors").unlink()
        case "cut header":
            (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:40])
        case "no heads":
            (path / "config.json").write_text(json.dumps({k: v for k, v in CONFIG.items() if k != "num_attention_heads"}))
        case "list":
            (path / "config.json").write_text("[]")
    with pytest.raises(StageError) as caught:
        checkpoint.describe(path)
    assert caught.value.reason is Reason.UNSUPPORTED_MODEL
    assert "\n" not in caught.value.message


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = directory(tmp_path / "made", CONFIG, SHAPES)
    (path / "tokenizer.json").write_text("{}")
    checkpoint.write_manifest(path, key="k1", parameters=392)
    return path


def mismatch(path: Path, *, verify: bool) -> str:
    with pytest.raises(StageError) as caught:
        checkpoint.load(path, verify=verify)
    assert caught.value.reason is Reason.CHECKPOINT_MISMATCH
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_checkpoint_is_loaded_as_it_was_written(made: Path) -> None:
    found = checkpoint.load(made, verify=True)
    assert found == checkpoint.load(made, verify=False)
    assert (found.path, found.fingerprint, found.parameters) == (made, "k1", 392)
    assert found.weight_bytes == (made / "model.safetensors").stat().st_size


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_is_found(made: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(f.name for f in made.iterdir())))
    before = (made / name).read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    changed = bytearray(before)
    changed[at] ^= data.draw(st.integers(1, 255))
    (made / name).write_bytes(changed)
    try:
        mismatch(made, verify=True)
    finally:
        (made / name).write_bytes(before)
    checkpoint.load(made, verify=True)


@pytest.mark.parametrize("change", ["missing", "longer", "no manifest", "strange weights"])
def test_what_shows_without_reading_is_found_without_verifying(made: Path, change: str) -> None:
    match change:
        case "missing":
            (made / "tokenizer.json").unlink()
        case "longer":
            (made / "tokenizer.json").write_text("{} ")
        case "no manifest":
            (made / checkpoint.MANIFEST).unlink()
        case "strange weights":
            shutil.copy(made / "model.safetensors", made / "adapter.safetensors")
    assert str(made) in mismatch(made, verify=False)


def test_a_file_that_is_added_later_does_no_harm(made: Path) -> None:
    (made / "MLmodel").write_text("flavors: {}")
    checkpoint.load(made, verify=True)
