"""Keys of stages: everything that determines a result changes them, nothing else does."""

from dataclasses import replace
from typing import Any

import pytest

from slim import keys, precisions
from slim.config import EvaluateConfig, ProfileConfig, QuantizeConfig, TaskEntry
from slim.provenance import Environment, Hardware

HARDWARE = Hardware("cuda", "NVIDIA H100", 1, 80 << 30, "580", "AMD EPYC", 16)
VERSIONS = {
    "torch": "2.11.0",
    "vllm": "0.26.0",
    "transformers": "5.17.0",
    "llmcompressor": "0.14",
    "lm-eval": "0.4.13",
    "mlflow": "3.17",
}
ENVIRONMENT = Environment("3.12.3", "Linux", HARDWARE, VERSIONS)
INT4 = precisions.get("gptq-int4")
SERVING: dict[str, Any] = {"precision": "gptq-int4", "engine": "vllm", "options": {"max_model_len": 8192}}
CALIBRATION = QuantizeConfig(calibration="python-docs")
TASKS = EvaluateConfig(tasks=(TaskEntry(name="slim_facts"),))


def with_versions(**versions: str) -> Environment:
    return replace(ENVIRONMENT, versions={**VERSIONS, **{k.replace("_", "-"): v for k, v in versions.items()}})


def with_hardware(**fields: Any) -> Environment:
    return replace(ENVIRONMENT, hardware=replace(HARDWARE, **fields))


def quantize(**changed: Any) -> str:
    values = {"fingerprint": "hub:1", "precision": INT4, "config": CALIBRATION, "seed": 42, "environment": ENVIRONMENT, **changed}
    return keys.quantize_key(**values)


def profile(**changed: Any) -> str:
    values = {
        "weights": "w",
        "serving": SERVING,
        "config": ProfileConfig(),
        "seed": 42,
        "repeat": 0,
        "environment": ENVIRONMENT,
        **changed,
    }
    return keys.profile_key(**values)


def evaluate(**changed: Any) -> str:
    values = {"weights": "w", "serving": SERVING, "config": TASKS, "seed": 42, "environment": ENVIRONMENT, **changed}
    return keys.evaluate_key(**values)


@pytest.mark.parametrize(
    "changed",
    [
        {"fingerprint": "hub:2"},
        {"precision": precisions.get("gptq-int8")},
        {"config": CALIBRATION.model_copy(update={"samples": 8})},
        {"config": CALIBRATION.model_copy(update={"group_size": 64})},
        {"config": CALIBRATION.model_copy(update={"calibration": "HuggingFaceH4/ultrachat_200k"})},
        {"seed": 1},
        {"environment": with_versions(llmcompressor="0.15")},
    ],
)
def test_what_changes_a_checkpoint_changes_its_key(changed: dict[str, Any]) -> None:
    assert quantize(**changed) != quantize()


@pytest.mark.parametrize(
    "changed", [{"environment": with_hardware(name="A100")}, {"environment": with_versions(lm_eval="1", mlflow="4")}]
)
def test_what_does_not_change_a_checkpoint_leaves_its_key(changed: dict[str, Any]) -> None:
    assert quantize(**changed) == quantize()


def test_what_a_method_does_not_use_leaves_its_key() -> None:
    other = CALIBRATION.model_copy(update={"group_size": 64})
    int8, nf4 = precisions.get("gptq-int8"), precisions.get("bnb-nf4")
    assert quantize(precision=int8, config=other) == quantize(precision=int8)
    assert quantize(precision=nf4, config=other, seed=1) == quantize(precision=nf4)


@pytest.mark.parametrize(
    "changed",
    [
        {"weights": "v"},
        {"serving": {**SERVING, "precision": "fp16"}},
        {"serving": {**SERVING, "engine": "transformers"}},
        {"serving": {**SERVING, "options": {"max_model_len": 4096}}},
        {"seed": 1},
        {"environment": with_hardware(name="A100")},
        {"environment": with_versions(vllm="0.27")},
    ],
)
def test_what_changes_a_measurement_changes_its_key(changed: dict[str, Any]) -> None:
    assert profile(**changed) != profile()
    assert evaluate(**changed) != evaluate()


def test_protocol_tasks_and_repeats_change_their_own_stage() -> None:
    assert profile(config=ProfileConfig(requests=7)) != profile()
    assert profile(repeat=1) != profile()
    assert evaluate(config=TASKS.model_copy(update={"limit": 7})) != evaluate()
    assert evaluate(environment=with_versions(lm_eval="0.5")) != evaluate()
    assert evaluate(config=TASKS.model_copy(update={"fidelity_tokens": 7})) != evaluate()
    assert len({evaluate(baseline=b) for b in (None, "bf16", "fp16")}) == 3
    assert profile(environment=with_versions(lm_eval="0.5")) == profile()


def test_a_few_pages_more_memory_are_the_same_machine() -> None:
    assert profile(environment=with_hardware(memory_bytes=1)) == profile()


def test_keys_do_not_depend_on_the_order_of_fields() -> None:
    turned = dict(reversed(SERVING.items()))
    assert profile(serving=turned) == profile()
