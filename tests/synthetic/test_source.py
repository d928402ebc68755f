"""What an id of random weights means, what identifies it, and getting it onto this disk."""

import json
from pathlib import Path
from typing import Any

import pytest

from slim import checkpoint, layout, models, synthetic
from slim.config import ModelEntry
from slim.errors import ModelError, Reason, StageError
from slim.records import ModelSource, Progress
from slim.synthetic.presets import PRESETS
from tests.synthetic.configs import PARAMETERS, write


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def resolve(reference: Any) -> ModelSource:
    return models.resolve(ModelEntry(id=f"synthetic:{reference}"))


def test_a_preset_is_known_by_its_configuration(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = resolve("llama-3.2-1b")
    assert (source.kind, source.short_name, source.path, source.revision) == ("synthetic", "synthetic-llama-3.2-1b", None, None)
    assert len({resolve(name).fingerprint for name in PRESETS}) == len(PRESETS)
    # The same configuration in a file, in whatever order and with whatever says nothing about it, is the same model.
    values = dict(reversed(PRESETS["llama-3.2-1b"].items())) | {"torch_dtype": "float16", "transformers_version": "4.45.0"}
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "config.json").write_text(json.dumps(values, indent=3))
    assert resolve(tmp_path / "copy").fingerprint == source.fingerprint
    assert not own_home.exists()
    monkeypatch.setattr(synthetic, "GENERATION", 2)
    assert resolve("llama-3.2-1b").fingerprint != source.fingerprint


def test_a_configuration_is_named_by_directory_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write(tmp_path / "My Model")
    first = resolve(directory)
    assert (first.short_name, first.path) == ("synthetic-my-model", directory / "config.json")
    assert resolve(directory / "config.json") == models.resolve(ModelEntry(id=f"synthetic:{directory}/config.json"))
    monkeypatch.chdir(tmp_path)
    relative = resolve("My Model")
    assert (relative.path, relative.fingerprint) == (first.path, first.fingerprint)
    (directory / "config.json").rename(tmp_path / "three-layers.json")
    assert resolve("three-layers.json").short_name == "synthetic-three-layers"


@pytest.mark.parametrize("change", [{"num_hidden_layers": 4}, {"rms_norm_eps": 1e-6}, {"eos_token_id": 3}, {"rope_theta": 1e6}])
def test_another_configuration_is_another_model(change: dict[str, Any], tmp_path: Path) -> None:
    assert resolve(write(tmp_path / "a", **change)).fingerprint != resolve(write(tmp_path / "b")).fingerprint


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architectures": ["OPTForCausalLM"]}, ["OPTForCausalLM", "allowed", "LlamaForCausalLM", "Gemma3ForCausalLM"]),
        ({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {}}, ["text_config", "of its own"]),
        ({"architectures": None}, ["architectures"]),
        ({"model_type": "qwen2"}, ["'qwen2'", "'llama'"]),
        ({"quantization_config": {"quant_method": "gptq"}}, ["quantized already (gptq)"]),
        ({"hidden_size": None}, ["hidden_size is missing"]),
        ({"hidden_size": 255}, ["hidden_size 255", "num_attention_heads 4"]),
        ({"num_attention_heads": 3, "head_dim": 64}, ["num_attention_heads 3", "num_key_value_heads 2"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers", "0"]),
        ({"intermediate_size": "512"}, ["intermediate_size", "'512'"]),
        ({"max_position_embeddings": -1}, ["max_position_embeddings", "-1"]),
        ({"vocab_size": 250, "eos_token_id": 1, "bos_token_id": 2}, ["vocab_size 250", "too small", "256 bytes"]),
        ({"eos_token_id": None}, ["eos_token_id is missing"]),
        ({"eos_token_id": []}, ["eos_token_id"]),
        ({"eos_token_id": [1, 1024]}, ["eos_token_id", "0 to 1023", "1024"]),
        ({"pad_token_id": -1}, ["pad_token_id", "-1"]),
        ({"initializer_range": 0}, ["initializer_range", "0"]),
    ],
)
def test_a_configuration_that_cannot_be_made_is_refused(change: dict[str, Any], named: list[str], tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(write(tmp_path / "m", **change))
    message = str(caught.value)
    assert "\n" not in message
    for part in (*named, str(tmp_path / "m")):
        assert part in message


@pytest.mark.parametrize(
    ("reference", "named"),
    [
        ("", "allowed: llama-3.2-1b"),
        ("Llama-3.2-3B-Instruct", "did you mean llama-3.2-3b"),
        ("/no/such/place", "no such file"),
        ("nothing.json", "no such file"),
        ("~/no-such-model", "no such file"),
    ],
)
def test_an_id_that_leads_nowhere_is_refused(reference: str, named: str) -> None:
    with pytest.raises(ModelError, match=named):
        resolve(reference)


@pytest.mark.parametrize("content", ["{", "[1]", "\x00"])
def test_a_file_that_is_no_configuration_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        resolve(tmp_path)


def test_random_weights_have_no_revision() -> None:
    with pytest.raises(ModelError, match="'main'"):
        models.resolve(ModelEntry(id="synthetic:llama-3.2-1b", revision="main"))


@pytest.mark.slow
def test_it_is_made_once_and_the_same_each_time(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = resolve(write(tmp_path / "m", dtype="float16"))
    assert models.materialized(source) is None
    told: list[Progress] = []
    path = models.materialize(source, told.append)
    assert [(p.done, p.total) for p in told] == [(0, 1), (1, 1)]
    assert models.materialize(source, told.append) == models.materialized(source) == path
    assert len(told) == 2
    layout.check_directory(path, "m")
    shape = checkpoint.describe(path)
    assert shape.parameters == PARAMETERS
    planned = models.describe(source)
    assert planned is not None
    assert {**vars(planned), "weight_bytes": 0} == {**vars(shape), "weight_bytes": 0}
    assert json.loads((path / "config.json").read_text())["dtype"] == "bfloat16"

    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "elsewhere"))
    again = models.materialize(source)
    assert again != path
    files = sorted(f.name for f in path.iterdir())
    assert files == sorted(f.name for f in again.iterdir())
    for name in files:
        assert (again / name).read_bytes() == (path / name).read_bytes(), name


def test_a_configuration_that_changed_since_is_told(tmp_path: Path, own_home: Path) -> None:
    source = resolve(write(tmp_path / "m"))
    write(tmp_path / "m", num_hidden_layers=5)
    with pytest.raises(StageError, match="changed after it was planned") as caught:
        models.materialize(source)
    assert caught.value.reason is Reason.MODEL_UNAVAILABLE
    (tmp_path / "m" / "config.json").unlink()
    with pytest.raises(StageError) as caught:
        models.materialize(source)
    assert caught.value.reason is Reason.MODEL_UNAVAILABLE
    assert not any(p.is_dir() for p in (own_home / "models").iterdir())


def test_a_full_disk_leaves_nothing(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    source = resolve(write(tmp_path / "m"))
    monkeypatch.setattr(synthetic.weights, "write", full)
    monkeypatch.setattr(synthetic.tokenizer, "write", lambda *_: None)
    with pytest.raises(StageError, match="No space left") as caught:
        models.materialize(source)
    assert caught.value.reason is Reason.MODEL_UNAVAILABLE
    assert not any(p.is_dir() for p in (own_home / "models").iterdir())
