"""The sweep file: what is accepted, what is refused and how."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from slim import precisions
from slim.config import Section, SweepConfig
from slim.errors import ConfigError

CONFIGS = Path(__file__).parent.parent / "configs"
OK: dict[str, Any] = {"models": ["embedded"], "precisions": ["bf16@vllm"]}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, ["models", "missing"]),
        ({"models": []}, ["models is empty"]),
        ({"precisions": []}, ["precisions is empty"]),
        ({"models": "embedded"}, ["models", "'embedded'"]),
        ({"models": ["a", "a"]}, ["models names one twice", "a"]),
        ({"precisions": ["bf16", "bf16@vllm"]}, ["precisions names one twice", "bf16@vllm"]),
        ({"precisions": ["int3"]}, ["'int3'", "allowed", "gptq-int4"]),
        ({"precisions": ["bf16@llama.cpp"]}, ["'llama.cpp'", "allowed", "transformers"]),
        ({"precisions": ["bnb-nf4@vllm"]}, ["'bnb-nf4'", "transformers"]),
        ({"modls": []}, ["modls", "unknown key", "allowed", "models"]),
        ({"profile": {"warmup": {"min": 1}}}, ["profile.warmup.min", "unknown key", "min_requests"]),
        ({"evaluate": {"tasks": [{"name": "mmlu", "shots": 5}]}}, ["evaluate.tasks.0.shots", "num_fewshot"]),
        ({"evaluate": {"tasks": []}}, ["tasks is empty"]),
        ({"evaluate": {"tasks": ["mmlu", "mmlu"]}}, ["twice", "mmlu"]),
        ({"evaluate": {"system_prompt": "Hi"}}, ["apply_chat_template"]),
        ({"evaluate": {"limit": 0}}, ["evaluate.limit", "0"]),
        ({"evaluate": {"perplexity_tokens": 1}}, ["evaluate.perplexity_tokens", "1", "2"]),
        ({"evaluate": {"fidelity_tokens": 1}}, ["evaluate.fidelity_tokens", "1", "2"]),
        ({"evaluate": {"fidelity_max_mib": 0}}, ["evaluate.fidelity_max_mib", "0"]),
        ({"evaluate": {"fidelity_tokens": 10**6}}, ["fidelity_max_mib 64", "fidelity_tokens 1000000", "at least 123"]),
        ({"profile": {"requests": -1}}, ["profile.requests", "-1"]),
        ({"profile": {"requests": "many"}}, ["profile.requests", "'many'"]),
        ({"profile": {"requests": 2.5}}, ["profile.requests", "2.5"]),
        ({"profile": {"requests": True}}, ["profile.requests", "True"]),
        ({"profile": {"concurrency": []}}, ["concurrency is empty"]),
        ({"profile": {"concurrency": [8, 1]}}, ["increase", "[8, 1]"]),
        ({"profile": {"warmup": {"min_requests": 9, "max_requests": 5}}}, ["max_requests (5)", "min_requests (9)"]),
        ({"profile": {"input_tokens": 9000}}, ["9256", "engines.vllm.max_model_len 8192"]),
        ({"profile": {"concurrency": [512]}}, ["profile.concurrency 512", "engines.vllm.max_num_seqs 256"]),
        (
            {"profile": {"energy": {"concurrency": 64}}, "engines": {"vllm": {"max_num_seqs": 32}}},
            ["profile.energy.concurrency 64", "engines.vllm.max_num_seqs 32"],
        ),
        ({"quantize": {"group_size": 0}}, ["quantize.group_size", "0"]),
        ({"quantize": {"damping": 1.5}}, ["quantize.damping", "1.5"]),
        ({"engines": {"vllm": {"gpu_memory_utilization": 1.2}}}, ["gpu_memory_utilization", "1.2"]),
        ({"comparison": {"margin": 0}}, ["comparison.margin", "0"]),
        ({"comparison": {"margin": 2.0}}, ["comparison.margin", "2.0", "less than 1"]),
        ({"comparison": {"confidence": 0.5}}, ["comparison.confidence", "0.5", "greater than 0.5"]),
        ({"comparison": {"resamples": 10}}, ["comparison.resamples", "10", "100"]),
        ({"comparison": {"delta": 0.1}}, ["comparison.delta", "unknown key", "margin"]),
        ({"repeats": 0}, ["repeats", "0"]),
        ({"repeats": "3"}, ["repeats", "'3'"]),
        ({"on_failure": "ignore"}, ["on_failure", "'continue'", "'stop'"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"name": ""}, ["name"]),
    ],
)
def test_wrong_input_is_one_line_that_names_it(values: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        SweepConfig.parse({**OK, **values} if values else {}, "my.yaml")
    message = str(caught.value)
    assert "\n" not in message
    for part in named:
        assert part in message


@pytest.mark.parametrize("text", ["", "- a list", "models: [", "just text", "\x00"])
def test_a_file_that_is_no_sweep_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"sweep\.yaml"):
        SweepConfig.load(path)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml.*No such file"):
        SweepConfig.load("nowhere.yaml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_sweep_files_are_valid(path: Path) -> None:
    assert SweepConfig.load(path).models


def test_template_names_every_field_with_its_default() -> None:
    values = yaml.safe_load((CONFIGS / "template.yaml").read_text())

    def compare(section: Section, given: dict[str, Any], where: str) -> None:
        assert set(given) == set(type(section).model_fields), where
        for name, value in given.items():
            default = getattr(section, name)
            if isinstance(default, Section):
                compare(default, value, f"{where}.{name}")
            elif isinstance(default, tuple) and default and isinstance(default[0], Section):
                assert [{k: v for k, v in d.model_dump().items() if v is not None} for d in default] == value
            else:
                assert (list(default) if isinstance(default, tuple) else default) == value, f"{where}.{name}"

    template = SweepConfig.parse(values)
    defaults = SweepConfig.parse({"models": values["models"], "precisions": values["precisions"]})
    assert template == defaults
    top = {k: v for k, v in values.items() if k not in ("models", "precisions")}
    assert set(values) == set(SweepConfig.model_fields)
    for name, value in top.items():
        default = getattr(defaults, name)
        if isinstance(default, Section):
            compare(default, value, name)
        else:
            assert default == value, name


def test_overrides_replace_single_fields() -> None:
    config = SweepConfig.load(CONFIGS / "demo.yaml", {"profile.requests": 3, "evaluate": None, "models": ["org/model"]})
    assert config.profile is not None
    assert config.profile.requests == 3
    assert config.profile.input_tokens == 64
    assert config.evaluate is None
    assert [m.id for m in config.models] == ["org/model"]


@given(
    names=st.lists(st.sampled_from(sorted(precisions.CATALOGUE)), min_size=1, unique=True),
    models=st.lists(st.text("abc/-", min_size=1, max_size=8), min_size=1, unique=True),
    repeats=st.integers(1, 9),
    concurrency=st.lists(st.integers(1, 512), min_size=1, unique=True).map(sorted),
)
def test_what_is_written_is_read_again(names: list[str], models: list[str], repeats: int, concurrency: list[int]) -> None:
    values = {
        "models": models,
        "precisions": names,
        "repeats": repeats,
        "profile": {"concurrency": concurrency},
        "engines": {"vllm": {"max_num_seqs": 512}},
    }
    config = SweepConfig.parse(values)
    assert SweepConfig.parse(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config
