"""What a model's shape says about a scheme."""

import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim import precisions, quantize
from slim.checkpoint import Shape
from slim.config import QuantizeConfig
from slim.errors import ConfigError, Reason, StageError

SHAPE = Shape(
    architecture="LlamaForCausalLM",
    model_type="llama",
    parameters=1000,
    weight_bytes=2000,
    hidden_size=576,
    layers=1,
    kv_heads=3,
    head_dim=64,
    vocab_size=49152,
    max_positions=8192,
    is_tied=True,
    is_multimodal=False,
    has_own_code=False,
    linear_input_sizes={"model.layers.0.self_attn.q_proj": 576, "model.layers.0.mlp.down_proj": 1536},
)
INT4 = precisions.get("gptq-int4")


def shaped(*sizes: int) -> Shape:
    return replace(SHAPE, linear_input_sizes={f"model.layers.{i}.mlp.up_proj": n for i, n in enumerate(sizes)})


def settled(shape: Shape, precision: str = "gptq-int4", **config: object) -> quantize.Scheme:
    scheme = quantize.preflight(shape, precisions.get(precision), QuantizeConfig.model_validate(config))
    assert scheme is not None
    return scheme


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_original_weights_need_no_scheme(name: str) -> None:
    assert quantize.preflight(shaped(), precisions.get(name), QuantizeConfig()) is None


@pytest.mark.parametrize(
    ("sizes", "requested", "used"),
    [
        ((512, 1024), 128, 128),
        ((576, 1536), 128, 64),
        ((512, 1024), 64, 64),
        ((512, 1024), 100, 64),
        ((512, 1024), 256, 128),
        ((96, 1536), 128, 32),
    ],
)
def test_a_group_size_falls_to_the_largest_that_divides(sizes: tuple[int, ...], requested: int, used: int) -> None:
    assert settled(shaped(*sizes), group_size=requested).group_size == used


@given(sizes=st.lists(st.integers(1, 64).map(lambda n: 32 * n), min_size=1), requested=st.integers(32, 256))
def test_no_larger_group_size_would_do(sizes: list[int], requested: int) -> None:
    if requested > max(sizes):
        with pytest.raises(ConfigError, match="larger than every layer"):
            settled(shaped(*sizes), group_size=requested)
        return
    used = settled(shaped(*sizes), group_size=requested).group_size
    assert used in [g for g in (32, 64, 128) if g <= requested]
    assert all(n % used == 0 for n in sizes)
    assert not any(used < g <= requested and all(n % g == 0 for n in sizes) for g in (64, 128))


def test_a_group_size_that_divides_nothing_names_the_layer() -> None:
    with pytest.raises(StageError, match=r"up_proj.* 50;.*quantize\.ignore") as caught:
        settled(shaped(512, 50))
    assert caught.value.reason is Reason.UNSUPPORTED_SCHEME
    assert settled(shaped(512, 50), ignore=("re:.*layers.1.*",)).group_size == 128


@pytest.mark.parametrize("requested", [1, 16, 31, 1537, 100_000])
def test_an_impossible_group_size_is_the_users_error(requested: int) -> None:
    with pytest.raises(ConfigError, match=rf"quantize.group_size {requested} .*allowed: 32, 64, 128"):
        settled(SHAPE, group_size=requested)


def test_a_group_size_matters_to_grouped_precisions_only() -> None:
    assert settled(SHAPE, "gptq-int8", group_size=1).group_size is None
    assert settled(SHAPE, "bnb-int8", group_size=1).group_size is None
    # bitsandbytes' own block.
    assert settled(SHAPE, "bnb-nf4", group_size=1).group_size == settled(SHAPE, "bnb-fp4").group_size == 64


def test_what_has_to_stay_in_16_bit_is_ignored() -> None:
    assert settled(SHAPE, ignore=("model.layers.0.mlp.down_proj",)).ignore == ("model.layers.0.mlp.down_proj", "lm_head")
    assert settled(SHAPE).ignore == ("lm_head",)
    assert settled(SHAPE, ignore=("re:lm_.*",)).ignore == ("re:lm_.*",)
    assert settled(replace(SHAPE, is_tied=False), ignore=("x",)).ignore == ("x",)
    assert "re:.*vision_tower.*" in settled(replace(SHAPE, is_multimodal=True)).ignore


@pytest.mark.parametrize("name", [p.name for p in precisions.CATALOGUE.values() if p.is_quantized])
def test_ignored_layers_are_not_counted_and_not_all_can_be(name: str) -> None:
    assert settled(SHAPE, name).layers == 2
    assert settled(SHAPE, name, ignore=("model.layers.0.mlp.down_proj",)).layers == 1
    with pytest.raises(ConfigError, match="leaves no layer"):
        settled(SHAPE, name, ignore=("re:model.*",))
    with pytest.raises(StageError) as caught:
        settled(shaped(), name)
    assert caught.value.reason is Reason.UNSUPPORTED_MODEL


def test_transposed_layers_are_not_taken_by_gptq() -> None:
    with pytest.raises(StageError) as caught:
        settled(replace(SHAPE, architecture="GPT2LMHeadModel"))
    assert caught.value.reason is Reason.UNSUPPORTED_MODEL
    assert settled(replace(SHAPE, architecture="GPT2LMHeadModel"), "bnb-nf4").layers == 2


def versions(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], needs: str) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    module = sys.modules["slim.quantize.preflight"]
    monkeypatch.setattr(module, "version", version)
    monkeypatch.setattr(module, "requires", lambda _: ["torch>=2", needs, 'pytest; extra == "dev"'])


@pytest.mark.parametrize(
    ("compressed", "needs", "fits"),
    [
        ("0.17.0", "compressed-tensors==0.19.0", False),
        ("0.19.0", "compressed-tensors==0.19.0", True),
        ("0.17.0", "compressed-tensors==0.17.1", True),
        ("0.20.1", "compressed-tensors==0.19.0", True),
        ("0.17.0", "compressed-tensors>=0.18,<0.20", False),
    ],
)
def test_packages_that_do_not_go_together_are_found_before_they_are_imported(
    compressed: str, needs: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"llmcompressor": "0.14", "compressed-tensors": compressed, "torch": "2", "transformers": "5"}
    versions(monkeypatch, installed, needs)
    if fits:
        quantize.check_packages(INT4)
        return
    with pytest.raises(StageError, match=rf"needs compressed-tensors.*, installed is {compressed}") as caught:
        quantize.check_packages(INT4)
    assert caught.value.reason is Reason.MISSING_PACKAGE


@pytest.mark.parametrize(("name", "package"), [("gptq-int8", "llmcompressor"), ("bnb-nf4", "bitsandbytes")])
def test_an_absent_package_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, {"torch": "2", "transformers": "5"}, "x")
    with pytest.raises(StageError, match=package) as caught:
        quantize.check_packages(precisions.get(name))
    assert caught.value.reason is Reason.MISSING_PACKAGE


def test_what_determines_a_checkpoint_is_known() -> None:
    assert {"llmcompressor", "compressed-tensors"} <= set(quantize.versions_that_matter(INT4))
    assert "bitsandbytes" in quantize.versions_that_matter(precisions.get("bnb-int8"))
    assert quantize.versions_that_matter(precisions.get("bf16")) == ()
