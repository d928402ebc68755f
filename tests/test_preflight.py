"""What cannot work is found out before any work, with its reason; the rest goes on, and what it takes is estimated."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slim import api, checkpoint, doctor, estimate, files, hub, plan, precisions, preflight
from slim.checkpoint import Shape
from slim.config import ModelEntry, SweepConfig
from slim.errors import ConfigError, Reason, StageError, StoreConfigError
from slim.jobs import Spool
from slim.provenance import Environment, Hardware
from slim.records import ModelSource
from slim.store import Store
from tests.bad_input.told import invoke
from tests.made import SMALL

GIB = 1 << 30
LLAMA_3B = Shape(
    "LlamaForCausalLM", "llama", 3_212_749_824, 6_425_499_648, 3072, 28, 8, 128, 128_256, 131_072, True, False, False, {}
)
SMOLLM = Shape("LlamaForCausalLM", "llama", 134_515_008, 269_030_016, 576, 30, 3, 64, 49_152, 8192, True, False, False, {})


def gpu(gib: float) -> Environment:
    return Environment("3.11", "Linux", Hardware("cuda", "GPU", 1, int(gib * GIB), "580", "CPU", 8, (9, 0)))


def cpu(gib: float) -> Environment:
    return Environment("3.11", "Linux", Hardware("cpu", "CPU", 1, int(gib * GIB), None, "CPU", 2))


def sweep(**fields: Any) -> SweepConfig:
    return SweepConfig.parse({"models": ["embedded"], "precisions": ["bf16"], **fields})


def fits(
    environment: Environment, name: str, engine: Any, config: SweepConfig | None = None, shape: Shape = LLAMA_3B
) -> str | None:
    failure = preflight.memory(
        shape, precisions.get(name), engine, config or sweep(), measure=environment, quantizing=environment, makes=True
    )
    if failure is None:
        return None
    assert failure.reason is Reason.OUT_OF_MEMORY
    assert "\n" not in failure.message
    return failure.message


# Sizes of the checkpoints that the demo wrote, in bytes.
@pytest.mark.parametrize(
    ("name", "group_size", "measured"),
    [("gptq-int8", 64, 163_226_688), ("gptq-int4", 64, 113_175_416), ("bnb-int8", 64, 163_557_634), ("bnb-nf4", 64, 116_548_186)],
)
def test_weights_are_as_large_as_checkpoints_turned_out(name: str, group_size: int, measured: int) -> None:
    config = sweep(quantize={"group_size": group_size}).quantize
    assert preflight.weight_bytes(SMOLLM, precisions.get(name), config) == pytest.approx(measured, rel=0.04)
    assert preflight.weight_bytes(SMOLLM, precisions.get("bf16"), config) == SMOLLM.weight_bytes


def test_a_cache_is_as_large_as_its_heads_make_it() -> None:
    # Llama 3.2 3B: 28 layers, 8 heads of 128, keys and values, 2 bytes each.
    assert preflight.cache_bytes_per_token(LLAMA_3B) == 28 * 8 * 128 * 2 * 2


def test_what_does_not_fit_into_a_gpu_is_told() -> None:
    assert fits(gpu(80), "bf16", "vllm") is None
    assert fits(gpu(8), "bf16", "vllm") is None
    told = fits(gpu(6.5), "bf16", "vllm")
    assert told is not None and "6.0 GiB" in told and "gpu_memory_utilization 0.9" in told
    assert fits(gpu(6.5), "bf16", "transformers") is None
    assert fits(gpu(4), "bf16", "transformers") is not None
    two = sweep(engines={"vllm": {"tensor_parallel_size": 2}})
    assert fits(gpu(4), "bf16", "vllm", two) is None
    assert fits(gpu(3), "bnb-nf4", "transformers") is None
    assert fits(gpu(1), "bnb-nf4", "transformers") is not None


def test_what_does_not_fit_into_the_host_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "cpu_hardware", lambda: cpu(16).hardware)
    assert fits(gpu(80), "gptq-int4", "vllm") is None
    windows = sweep(quantize={"calibration": "python-docs", "samples": 2048, "max_tokens": 2048})
    told = fits(gpu(80), "gptq-int4", "vllm", windows)
    assert told is not None and "activations of the calibration 24.0 GiB" in told
    monkeypatch.setattr(preflight, "cpu_hardware", lambda: cpu(4).hardware)
    assert "original weights" in (fits(gpu(80), "gptq-int4", "vllm") or "")
    assert fits(gpu(80), "bnb-nf4", "transformers") is None


def test_a_cache_set_aside_on_a_cpu_counts() -> None:
    assert fits(cpu(16), "bf16", "vllm") is None
    told = fits(cpu(16), "bf16", "vllm", sweep(engines={"vllm": {"cpu_kv_cache_gib": 20}}))
    assert told is not None and "cache 20.0 GiB" in told and "this machine has 16.0 GiB" in told


def test_unknown_memory_is_not_held_against_a_machine() -> None:
    unknown = replace(cpu(1), hardware=replace(cpu(1).hardware, memory_bytes=None))
    assert fits(unknown, "bf16", "vllm") is None


def test_requests_beyond_the_models_context_are_told(home: Path, tiny_model: Path) -> None:
    failure = preflight.context(replace(SMOLLM, max_positions=100), sweep(profile={"input_tokens": 64, "output_tokens": 37}))
    assert failure is not None
    assert failure.reason is Reason.UNSUPPORTED_MODEL
    assert "101" in failure.message
    assert "context of 100 tokens" in failure.message
    for fits in ({"input_tokens": 64, "output_tokens": 36}, None):
        assert preflight.context(replace(SMOLLM, max_positions=100), sweep(profile=fits)) is None
    long: dict[str, Any] = {"profile": {**SMALL["profile"], "input_tokens": 4000, "output_tokens": 100}, "engines": {}}
    positions = checkpoint.describe(tiny_model).max_positions
    assert positions is not None and positions < 4100
    (found,) = planned(home, tiny_model, ["bf16@transformers"], **long).configurations
    assert found.failure is not None
    assert f"context of {positions} tokens" in found.failure.message


def planned(home: Path, model: Path, names: list[str], **fields: Any) -> plan.Plan:
    config = SweepConfig.parse({"models": [str(model)], "precisions": names, **SMALL, **fields})
    return plan.make(config, None, Spool(home / "spool"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home"


def test_a_full_disk_stops_only_what_does_not_fit(home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["bf16@transformers", "bnb-nf4@transformers", "bnb-int8@transformers"]
    whole = planned(home, tiny_model, names)
    assert [c.failure for c in whole.configurations] == [None, None, None]
    sizes = [c.disk_bytes for c in whole.configurations]
    assert whole.disk_bytes == sum(sizes) > 0
    free = preflight._SPARE_BYTES + sizes[0] + sizes[1]
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    tight = planned(home, tiny_model, names)
    reasons = [c.failure.reason if c.failure else None for c in tight.configurations]
    assert reasons == [None, None, Reason.DISK_FULL]
    assert tight.disk_bytes == sizes[0] + sizes[1]
    assert "make room" in tight.configurations[2].failure.message  # type: ignore[union-attr]


def test_calibration_that_cannot_be_had_stops_only_what_is_calibrated(home: Path, tiny_model: Path) -> None:
    names = ["bf16@transformers", "gptq-int8@vllm", "bnb-nf4@transformers"]
    quantize = {**SMALL["quantize"], "calibration": "org/chats"}
    made = planned(home, tiny_model, names, quantize=quantize)
    failures = {c.name.partition("/")[2]: c.failure for c in made.configurations}
    refused = failures.pop("gptq-int8@vllm")
    assert refused is not None and refused.reason is Reason.DATA_UNAVAILABLE
    assert "org/chats" in refused.message
    assert set(failures.values()) == {None}
    (home.parent / "hub" / "datasets--org--chats").mkdir(parents=True)
    assert {c.failure for c in planned(home, tiny_model, names, quantize=quantize).configurations} == {None}


class GatedHub:
    """The Hub's answers for a model whose terms nobody accepted."""

    def auth_check(self, reference: str) -> None:
        import httpx
        from huggingface_hub.errors import GatedRepoError

        raise GatedRepoError(f"403 for {reference}", response=httpx.Response(403, request=httpx.Request("GET", "https://hub")))


def test_a_gated_model_is_told_before_its_download(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", GatedHub)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    source = ModelSource("org/gated", "hub", "a" * 40, "hub:" + "a" * 40, "gated", None)
    with pytest.raises(StageError, match="accept its terms") as refused:
        hub.check_access(source)
    assert refused.value.reason is Reason.MODEL_UNAVAILABLE
    failure = preflight.access(source)
    assert failure is not None and "HF_TOKEN" in failure.message
    assert preflight.access(replace(source, kind="synthetic")) is None


def test_places_that_cannot_be_written_are_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(ConfigError, match="SLIM_HOME"):
        api.spool()
    assert not files.writable(tmp_path / "file" / "x")
    assert files.writable(tmp_path / "x" / "y")
    # The directory of artifacts beside the store is a file.
    (tmp_path / "mlartifacts").write_text("")
    with pytest.raises(StoreConfigError, match="cannot be written"):
        Store.open(f"sqlite:///{tmp_path}/mlflow.db", "slim")
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    store = Store.open(f"sqlite:///{tmp_path}/mlflow.db", "slim", create=False)
    assert store is None


# Wall seconds of the demo on two cores of an AMD EPYC, whole configurations: README's run.
MEASURED_S = {
    "bf16@vllm": 56.5,
    "gptq-int8@vllm": 78.2,
    "gptq-int4@vllm": 103.4,
    "bf16@transformers": 75.0,
    "bnb-int8@transformers": 125.2,
    "bnb-nf4@transformers": 75.2,
}
MEASURED_BYTES = {
    "checkpoints": 4 * 3_600_000 + 163_557_634 + 163_226_688 + 116_548_186 + 113_175_416,
    "references": 2 * 67_105_368,
}


def test_the_demo_is_estimated_within_a_factor_of_two() -> None:
    config = SweepConfig.load("configs/demo.yaml")
    total_s = total_bytes = 0.0
    for name, measured_s in MEASURED_S.items():
        precision, engine = precisions.serve(*name.split("@"))  # type: ignore[arg-type]
        assert config.evaluate is not None and config.profile is not None
        estimated_s = estimate.engine_start_s(engine, "cpu") + estimate.evaluate_s(config.evaluate, SMOLLM.parameters, "cpu")
        estimated_s += estimate.profile_s(config.profile, SMOLLM.parameters, precision.weight_bits, engine, "cpu")
        stages = ["profile", "evaluate"]
        if precision.is_quantized:
            stages.append("quantize")
            estimated_s += estimate.quantize_s(precision, config.quantize, SMOLLM.parameters, "cpu")
        assert measured_s / 2 < estimated_s < 2 * measured_s, name
        total_s += estimated_s
        keeps = not precision.is_quantized
        total_bytes += preflight.result_bytes(SMOLLM, precision, config, stages, keeps=keeps, parameters=0.0)
    assert total_s == pytest.approx(514, rel=0.3)
    assert total_bytes == pytest.approx(sum(MEASURED_BYTES.values()), rel=0.2)


def test_the_doctor_tells_memory_disk_and_access(home: Path) -> None:
    values = json.loads(invoke("doctor", ["--json"]).stdout)
    found = {f["subject"]: f for f in values["findings"]}
    assert "GiB" in found["memory"]["detail"]
    assert "free" in found["disk"]["detail"]
    assert found["Hub"]["verdict"] == "note"
    full = doctor.diagnose(cpu(16), replace(doctor.read_machine(), free_bytes=GIB))
    assert next(f for f in full if f.subject == "disk").verdict is doctor.Verdict.NOTE
    closed = doctor.diagnose(cpu(16), replace(doctor.read_machine(), is_home_writable=False))
    assert next(f for f in closed if f.subject == "disk").verdict is doctor.Verdict.NO


def test_an_entry_without_code_allowed_allows_none() -> None:
    assert ModelEntry(id="x").trust_remote_code is False
