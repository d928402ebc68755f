"""Real quantizers on a tiny model: what they write loads again, answers close to the original, and is whole."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slim import checkpoint, precisions
from slim.config import QuantizeConfig
from slim.engines import EngineSpec, GenerationRequest, open_engine
from slim.errors import ConfigError, Reason, StageError
from slim.quantize import Quantized, quantize
from slim.records import Progress

CONFIG = QuantizeConfig(calibration="python-docs", samples=8, max_tokens=64, group_size=64)
GPTQ, BNB = ("gptq-int8", "gptq-int4"), ("bnb-int8", "bnb-nf4", "bnb-fp4")
pytestmark = pytest.mark.slow


def make(source: Path, name: str, out: Path, told: list[Progress] | None = None, **config: Any) -> Quantized:
    return quantize(
        source,
        precisions.get(name),
        CONFIG.model_copy(update=config),
        out,
        key=f"key of {name}",
        seed=7,
        on_progress=(told if told is not None else []).append,
    )


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Quantized, list[Progress]]]:
    """Every quantized precision of the tiny model, with what was told on the way."""
    place = tmp_path_factory.mktemp("quantized")
    found = {}
    for name in (*GPTQ, *BNB):
        told: list[Progress] = []
        found[name] = (make(tiny_model, name, place / name, told), told)
    return found


def logits(path: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from slim import text

    tokens = AutoTokenizer.from_pretrained(path)(text.python_docs()[200_000:201_500], return_tensors="pt")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, device_map={"": "cpu"}).eval()
    with torch.inference_mode():
        return model(tokens).logits.float().log_softmax(-1)


@pytest.mark.parametrize("name", [*GPTQ, *BNB])
def test_a_checkpoint_loads_and_answers_much_as_the_original(
    name: str, made: dict[str, tuple[Quantized, list[Progress]]], tiny_model: Path
) -> None:
    made_here = made[name][0].checkpoint
    assert checkpoint.load(made_here.path, verify=True) == made_here
    before, after = logits(tiny_model), logits(made_here.path)
    agreement = float((before.argmax(-1) == after.argmax(-1)).float().mean())
    # Random weights feel 4 bit more than trained ones do; a broken checkpoint agrees on one token in 512.
    assert (0.9 if precisions.get(name).weight_bits == 8 else 0.2) < agreement < 1


@pytest.mark.parametrize("name", [*GPTQ, *BNB])
def test_a_checkpoint_says_what_it_is(name: str, made: dict[str, tuple[Quantized, list[Progress]]], tiny_model: Path) -> None:
    precision, found = precisions.get(name), made[name][0]
    assert found.checkpoint.fingerprint == f"key of {name}"
    assert found.checkpoint.parameters == checkpoint.describe(tiny_model).parameters
    assert precision.weight_bits < found.checkpoint.bits_per_weight < 11
    config = json.loads((found.checkpoint.path / "config.json").read_text())["quantization_config"]
    if precision.method == "gptq":
        weights = config["config_groups"]["group_0"]["weights"]
        assert (config["quant_method"], weights["num_bits"]) == ("compressed-tensors", precision.weight_bits)
        assert weights["group_size"] == (64 if precision.grouped else None)
        assert config["ignore"] == ["lm_head"]
        (dataset,) = found.datasets
        assert (dataset.items, found.params["quantize.calibration_tokens"]) == (8, 8 * 64)
        assert found.params["quantize.rounded_to_nearest_layers"] == 0
    else:
        assert config["quant_method"] == "bitsandbytes"
        assert config["load_in_8bit"] is (precision.weight_bits == 8)
        if precision.weight_bits == 4:
            assert (config["bnb_4bit_quant_type"], config["bnb_4bit_compute_dtype"]) == (precision.scheme, "bfloat16")
        assert found.datasets == ()
        assert found.params["quantize.reload_logit_difference"] == 0
    assert found.params.get("quantize.group_size") == (64 if precision.weight_bits == 4 else None)
    assert found.params["quantize.layers"] == 14


def test_an_engine_says_nothing_a_layer_and_token(
    made: dict[str, tuple[Quantized, list[Progress]]], caplog: pytest.LogCaptureFixture
) -> None:
    spec = EngineSpec("transformers", made["bnb-int8"][0].checkpoint.path, "bfloat16", {"max_model_len": 64})
    engine = open_engine(spec)
    engine.generate([GenerationRequest((3, 4, 5), 4, ignore_eos=True)], 1)
    engine.close()
    assert [r.getMessage() for r in caplog.records if r.name.startswith("bitsandbytes")] == []


@pytest.mark.parametrize("name", [*GPTQ, *BNB])
def test_side_files_are_the_originals(name: str, made: dict[str, tuple[Quantized, list[Progress]]], tiny_model: Path) -> None:
    path = made[name][0].checkpoint.path
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (path / file).read_bytes() == (tiny_model / file).read_bytes()
    assert not [f.name for f in path.iterdir() if f.suffix in (".bin", ".pt", ".pkl")]


@pytest.mark.parametrize("name", [*GPTQ, *BNB])
def test_progress_reaches_its_end(name: str, made: dict[str, tuple[Quantized, list[Progress]]]) -> None:
    told = made[name][1]
    layers = [(p.done, p.total) for p in told if p.step == "gptq"]
    if name in GPTQ:
        assert layers == [(0, 2), (1, 2), (2, 2)]
    else:
        assert [p.done for p in told if p.total is not None] == list(range(5))


def test_the_same_seed_gives_the_same_weights(
    made: dict[str, tuple[Quantized, list[Progress]]], tiny_model: Path, tmp_path: Path
) -> None:
    again = make(tiny_model, "gptq-int4", tmp_path / "again")
    first = made["gptq-int4"][0].checkpoint.path
    assert (again.checkpoint.path / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()


def test_ignored_layers_stay_and_group_sizes_fall(tiny_model: Path, tmp_path: Path) -> None:
    from slim.layout import tensor_shapes

    found = make(
        tiny_model, "gptq-int4", tmp_path / "out", ignore=("re:.*down_proj", "model.layers.0.self_attn.q_proj"), group_size=100
    )
    assert (found.params["quantize.group_size"], found.params["quantize.layers"]) == (64, 11)
    assert found.params["quantize.ignore"] == "re:.*down_proj,model.layers.0.self_attn.q_proj,lm_head"
    names = tensor_shapes(tmp_path / "out" / "model.safetensors")
    plain = {n for n in names if n.endswith("_proj.weight")}
    assert plain == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)} | {"model.layers.0.self_attn.q_proj.weight"}


def test_bitsandbytes_leaves_ignored_layers_too(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    make(tiny_model, "bnb-nf4", tmp_path / "out", ignore=("re:.*down_proj", "model.layers.0.self_attn.q_proj"))
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as weights:
        plain = {n for n in weights.keys() if n.endswith("_proj.weight") and weights.get_slice(n).get_dtype() == "BF16"}  # noqa: SIM118
    assert plain == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)} | {"model.layers.0.self_attn.q_proj.weight"}


@pytest.mark.parametrize("name", BNB)
def test_a_checkpoint_that_answers_otherwise_is_refused(
    name: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slim.quantize import bnb, writing

    def broken(model: Any, out: Path, **options: Any) -> None:
        import torch

        # What saving after a forward pass does to 4-bit weights on some CPUs, and a damaged file to any: other scales.
        with torch.no_grad():
            norm = model.model.layers[1].input_layernorm.weight
            kept = norm.clone()
            norm.mul_(torch.linspace(-1, 2, norm.numel()))
            writing.save(model, out, **options)
            norm.copy_(kept)

    monkeypatch.setattr(bnb, "save", broken)
    with pytest.raises(StageError, match=name) as caught:
        make(tiny_model, name, tmp_path / "out")
    assert caught.value.reason is Reason.CHECKPOINT_MISMATCH
    assert list(tmp_path.iterdir()) == []


def test_logits_are_compared_where_tokens_agree() -> None:
    import torch

    from slim.quantize import bnb

    logits = torch.linspace(0, 10, 8).reshape(1, 2, 4)
    before = bnb.Answers(torch.tensor([[3, 3]]), logits)
    assert bnb.compare(before, replace(before, logits=logits + 0.05), "x") == pytest.approx(0.005, rel=1e-3)
    for logits_after in (logits + 0.5, logits * float("nan")):
        with pytest.raises(StageError, match="logits differ"):
            bnb.compare(before, replace(before, logits=logits_after), "x")
    with pytest.raises(StageError, match="other tokens"):
        bnb.compare(before, replace(before, tokens=torch.tensor([[3, 2]])), "x")


def test_what_cannot_be_is_refused_and_leaves_nothing(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs no quantizing"):
        make(tiny_model, "bf16", tmp_path / "out")
    with pytest.raises(ConfigError, match="group_size"):
        make(tiny_model, "gptq-int4", tmp_path / "out", group_size=4096)
    broken = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "model_type": "nobody-knows"}))
    for name in ("gptq-int8", "bnb-nf4"):
        with pytest.raises(StageError, match="does not know this architecture") as caught:
            make(broken, name, tmp_path / "out")
        assert caught.value.reason is Reason.UNSUPPORTED_MODEL
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_calibration_stays_within_the_models_context(tiny_model: Path, tmp_path: Path) -> None:
    found = make(tiny_model, "gptq-int8", tmp_path / "out", samples=1, max_tokens=100_000)
    assert found.params["quantize.calibration_tokens"] == checkpoint.describe(tiny_model).max_positions
