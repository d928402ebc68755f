"""Planning with random weights: what is known without making them, and that nobody evaluates them."""

from pathlib import Path
from typing import Any

import pytest

from slim import plan as planning
from slim.config import SweepConfig
from slim.errors import ConfigError, Reason
from slim.planned import Plan
from tests.synthetic.configs import write

TASKS = {"tasks": [{"name": "slim_facts", "limit": 6}]}


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def plan(models: list[str], **fields: Any) -> Plan:
    precisions = ["bf16@transformers", "bnb-nf4@transformers"]
    return planning.make(
        SweepConfig.parse({"models": models, "precisions": precisions, "evaluate": None, "repeats": 1, **fields}), None, None
    )


def test_estimates_and_keys_come_from_the_configuration(own_home: Path) -> None:
    planned = plan(["synthetic:llama-3.2-1b", "synthetic:mistral-7b-v0.3"]).configurations
    assert [c.name for c in planned][:2] == [
        "synthetic-llama-3.2-1b/bf16@transformers",
        "synthetic-llama-3.2-1b/bnb-nf4@transformers",
    ]
    assert planned[2].estimate_s > 2 * planned[0].estimate_s
    assert [s.stage for s in planned[1].stages] == ["quantize", "profile"]
    again = plan(["synthetic:llama-3.2-1b"]).configurations
    assert [c.key for c in again] == [c.key for c in planned[:2]]
    assert not (own_home / "models").exists()


def test_another_configuration_has_other_keys(tmp_path: Path) -> None:
    (one, _), (two, _) = (
        plan([f"synthetic:{write(tmp_path / 'm', num_hidden_layers=layers)}"]).configurations for layers in (2, 3)
    )
    assert one.name == two.name
    assert one.key != two.key


def test_what_does_not_fit_the_architecture_is_known_before_it_is_made(tmp_path: Path, own_home: Path) -> None:
    model = f"synthetic:{write(tmp_path / 'm', hidden_size=200, head_dim=50)}"
    (planned,) = plan([model], precisions=["gptq-int4@vllm"]).configurations
    assert planned.failure is not None
    assert planned.failure.reason in (Reason.UNSUPPORTED_SCHEME, Reason.MISSING_PACKAGE)
    assert planned.failure.reason is Reason.MISSING_PACKAGE or "input size 200" in planned.failure.message
    assert not (own_home / "models").exists()


@pytest.mark.parametrize("beside", [[], ["synthetic:qwen2.5-3b"]])
def test_evaluating_nothing_but_random_weights_is_refused(beside: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(["synthetic:llama-3.2-1b", *beside], evaluate=TASKS)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("synthetic:llama-3.2-1b", "random", "evaluate: null"):
        assert part in message


def test_beside_a_real_model_random_weights_are_only_profiled(tiny_model: Path) -> None:
    planned = plan(["synthetic:llama-3.2-1b", str(tiny_model)], evaluate=TASKS).configurations
    for configuration in planned:
        stages = [s.stage for s in configuration.stages if s.stage != "quantize"]
        if configuration.source.kind == "synthetic":
            assert stages == ["profile"]
            assert configuration.reference is None
            assert configuration.left_out is not None
            assert "synthetic:llama-3.2-1b" in configuration.left_out
        else:
            assert stages == ["profile", "evaluate"]
            assert configuration.left_out is None
    # The same configuration as in a sweep that asks for no accuracy.
    alone = plan(["synthetic:llama-3.2-1b"]).configurations
    assert [c.key for c in planned if c.source.kind == "synthetic"] == [c.key for c in alone]


def test_without_a_profile_nothing_would_be_left(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"synthetic:llama-3\.2-1b"):
        plan([str(tiny_model), "synthetic:llama-3.2-1b"], evaluate=TASKS, profile=None)
