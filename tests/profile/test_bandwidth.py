"""What a decode step must read, and what share of the device's bandwidth it reaches: by closed form."""

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import pytest

from slim import metrics as catalogue
from slim.engines.base import Completion, EngineInfo
from slim.layout import Tensor
from slim.profile import bandwidth
from slim.profile.bandwidth import Limit, Peak

HIDDEN, VOCAB = 8, 100
WIDTH = {"BF16": 2, "F16": 2, "F32": 4, "I8": 1, "I32": 4, "U8": 1}
LAYER = "model.layers.0.mlp.up_proj.weight"


def tensor(dtype: str, *shape: int) -> Tensor:
    return Tensor(dtype, shape, WIDTH[dtype] * prod(shape))


EMBEDDING = {"model.embed_tokens.weight": tensor("BF16", VOCAB, HIDDEN)}
HEAD = {"lm_head.weight": tensor("BF16", VOCAB, HIDDEN)}
DENSE = {LAYER: tensor("BF16", 32, HIDDEN), "model.norm.weight": tensor("BF16", HIDDEN)}
TABLE, ROW, REST = 2 * VOCAB * HIDDEN, 2 * HIDDEN, 2 * (32 * HIDDEN + HIDDEN)


@pytest.mark.parametrize(
    ("config", "stored", "expected"),
    [
        # Untied: the output layer is read whole, of the embedding a row.
        ({"tie_word_embeddings": False}, {**EMBEDDING, **HEAD, **DENSE}, REST + TABLE + ROW),
        ({}, {**EMBEDDING, **HEAD, **DENSE}, REST + TABLE + ROW),
        # Tied: the one table is the output layer, also where it is stored twice.
        ({"tie_word_embeddings": True}, {**EMBEDDING, **DENSE}, REST + TABLE),
        ({}, {**EMBEDDING, **DENSE}, REST + TABLE),
        ({"tie_word_embeddings": True}, {**EMBEDDING, **HEAD, **DENSE}, REST + TABLE),
        ({"tie_word_embeddings": True}, {**HEAD, **DENSE}, REST + TABLE),
        # Positions are looked up too.
        ({}, {**EMBEDDING, **DENSE, "transformer.wpe.weight": tensor("BF16", 50, HIDDEN)}, REST + TABLE + ROW),
        # What sees images is not read by a step.
        ({"text_config": {}}, {**EMBEDDING, **DENSE, "vision_tower.layers.0.weight": tensor("BF16", 99, 99)}, REST + TABLE),
        # Served in 16 bit, however wide it is stored, but a quantized checkpoint's scales stay as they are.
        ({}, {**EMBEDDING, LAYER: tensor("F32", 32, HIDDEN)}, TABLE + 2 * 32 * HIDDEN),
        (
            {"quantization_config": {}},
            {**EMBEDDING, LAYER: tensor("I8", 32, HIDDEN), LAYER + "_scale": tensor("F32", 32, 1)},
            TABLE + 32 * HIDDEN + 4 * 32,
        ),
        # A mixture of experts reads what its router chose.
        ({"num_local_experts": 8}, {**EMBEDDING, **DENSE}, None),
        ({"text_config": {"num_experts": 8}}, {**EMBEDDING, **DENSE}, None),
        ({"num_local_experts": 1}, {**EMBEDDING, **DENSE}, REST + TABLE),
    ],
)
def test_a_step_reads_the_weights_but_not_tables(config: dict[str, Any], stored: dict[str, Tensor], expected: int | None) -> None:
    assert bandwidth.step_weight_bytes(config, stored) == expected


def test_weights_are_read_from_headers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    header: dict[str, Any] = {"__metadata__": {}}
    begin = 0
    for name, t in {**EMBEDDING, **DENSE}.items():
        header[name] = {"dtype": t.dtype, "shape": t.shape, "data_offsets": [begin, begin := begin + t.bytes]}
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(begin))
    assert bandwidth.weight_bytes(tmp_path) == REST + TABLE


def test_the_real_model_of_the_tests(tiny_model: Path) -> None:
    from safetensors import safe_open

    with safe_open(tiny_model / "model.safetensors", "pt") as file:
        sizes = {name: file.get_tensor(name).nbytes for name in file.keys()}  # noqa: SIM118
    config = json.loads((tiny_model / "config.json").read_text())
    tables = 0 if config["tie_word_embeddings"] else sizes["model.embed_tokens.weight"] * (1 - 1 / config["vocab_size"])
    assert bandwidth.weight_bytes(tiny_model) == sum(sizes.values()) - tables


@pytest.mark.parametrize(("prompt", "output"), [(10, 2), (10, 5), (256, 256)])
def test_the_mean_context_is_that_of_the_steps(prompt: int, output: int) -> None:
    contexts = [prompt + k for k in range(1, output)]
    assert bandwidth.mean_context(prompt, output) == sum(contexts) / len(contexts)
    assert bandwidth.step_bytes(1000, 3, prompt, output) == 1000 + 3 * sum(contexts) / len(contexts)


def info(kv_bytes: int | None = 100) -> EngineInfo:
    return EngineInfo("fake", "1", "cpu", 1024, 256, 1, kv_bytes, None, None, 0.0)


def completions(*gaps: float) -> list[Completion]:
    times = [1.0]
    for gap in gaps:
        times.append(times[-1] + gap)
    return [Completion((1,) * len(times), "", "length", 0.0, tuple(times))]


def test_the_share_of_the_peak() -> None:
    # 9,000 bytes of weights and 10 tokens of 100 bytes in a median step of 10 ms are 1 MB/s, of 4.
    limit = Limit(9000, Peak(4e6, "sweep file"))
    found, absent = bandwidth.metrics(limit, info(), completions(0.01, 0.01, 0.5), input_tokens=8, output_tokens=4)
    assert absent == []
    assert limit.params == {"profile.bandwidth_from": "sweep file", "profile.bandwidth_gb_s": 0.004}
    assert found["efficiency/mbu"] == pytest.approx(0.25)
    assert found["efficiency/step_read_mb"] == pytest.approx(0.01)
    assert found["efficiency/peak_bandwidth_gb_s"] == pytest.approx(0.004)
    assert catalogue.check(found) == found


@pytest.mark.parametrize(
    ("weights", "kv", "peak", "known"),
    [
        (None, 100, Peak(4e6, "copy test"), {"efficiency/peak_bandwidth_gb_s"}),
        (9000, None, Peak(4e6, "copy test"), {"efficiency/peak_bandwidth_gb_s"}),
        (9000, 100, None, {"efficiency/step_read_mb"}),
        (None, 100, None, set()),
    ],
)
def test_what_is_not_known_is_absent_and_said(weights: int | None, kv: int | None, peak: Peak | None, known: set[str]) -> None:
    found, absent = bandwidth.metrics(Limit(weights, peak), info(kv), completions(0.1), input_tokens=8, output_tokens=4)
    assert set(found) == known
    assert len(absent) == 1


def test_the_sweep_file_goes_before_the_copy_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "copy_bandwidth", lambda device: 5e9)
    assert bandwidth.peak(3350.0, "cuda") == Peak(3.35e12, "sweep file")
    assert bandwidth.peak(None, "cuda") == Peak(5e9, "copy test")
    monkeypatch.setattr(bandwidth, "copy_bandwidth", lambda device: None)
    assert bandwidth.peak(None, "cuda") is None


def test_a_copy_counts_what_is_read_and_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    # A clock that says that the fastest copy of 8 MiB took 2 ms.
    readings = iter([t for i in range(8) for t in (float(i), i + (0.002 if i == 3 else 0.004))])
    monkeypatch.setattr(bandwidth.time, "perf_counter", lambda: next(readings))
    assert bandwidth.copy_bandwidth("cpu", 8 << 20) == pytest.approx(2 * (8 << 20) / 0.002)


def test_the_copy_test_gives_its_memory_back() -> None:
    import psutil

    bandwidth.copy_bandwidth("cpu", 1 << 20)
    before = psutil.Process().memory_info().rss
    assert (bandwidth.copy_bandwidth("cpu", 128 << 20) or 0) > 0
    assert psutil.Process().memory_info().rss - before < 64 << 20


def test_without_room_or_gpu_there_is_no_copy_test() -> None:
    assert bandwidth.copy_bandwidth("cpu", 1 << 50) is None
    assert bandwidth.copy_bandwidth("cuda") is None


def test_a_checkpoint_that_cannot_be_read_costs_no_measurement(tmp_path: Path) -> None:
    assert bandwidth.limit(tmp_path, 1.0, "cpu") == Limit(None, Peak(1e9, "sweep file"))
