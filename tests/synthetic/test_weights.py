"""Random weights: the same on every machine, normal, in files that others read."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from slim.layout import INDEX, tensor_shapes, weight_files
from slim.synthetic import weights
from slim.synthetic.presets import PRESETS
from slim.synthetic.tensors import Tensor, tensors
from tests.synthetic.configs import SMALL

MATRIX = Tensor("model.layers.0.mlp.up_proj.weight", (300, 1001), "normal")
EXPECTED = "aed18a4cc2ea5acf0f6fb82922055deca09c1ce5d0be45cf541f5b1bb6504e0d"
"""SHA-256 of its file; when it changes, `slim.synthetic.GENERATION` has to."""


def written(out: Path, given: list[Tensor], std: float = 0.02, shard_bytes: int = weights.SHARD_BYTES) -> Path:
    out.mkdir(parents=True)
    weights.write(given, std, out, lambda *_: None, shard_bytes)
    return out


def values(path: Path) -> dict[str, np.ndarray]:
    """What safetensors reads, as float32."""
    from safetensors import safe_open

    found = {}
    for file in weight_files(path):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name).float().numpy() for name in opened.keys()}  # noqa: SIM118
    return found


def test_bytes_are_those_of_every_other_machine(tmp_path: Path) -> None:
    path = written(tmp_path / "a", [MATRIX])
    assert hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest() == EXPECTED
    assert (written(tmp_path / "b", [MATRIX]) / "model.safetensors").read_bytes() == (path / "model.safetensors").read_bytes()


def test_a_weight_does_not_depend_on_the_block_it_is_made_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = written(tmp_path / "whole", [MATRIX])
    monkeypatch.setattr(weights, "_BLOCK", 1024)
    assert (written(tmp_path / "parts", [MATRIX]) / "model.safetensors").read_bytes() == (
        whole / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_weights_are_normal_and_differ_from_each_other(tmp_path: Path) -> None:
    other = Tensor("model.layers.1.mlp.up_proj.weight", MATRIX.shape, "normal")
    read = values(written(tmp_path / "m", [MATRIX, other], std=0.05))
    one, two = read[MATRIX.name], read[other.name]
    assert one.shape == MATRIX.shape
    # bfloat16 keeps 8 bits, which shows in the distances that the test measures, but not in a distance of 0.01.
    for drawn in (one, two):
        assert stats.kstest(drawn.ravel() / 0.05, "norm").statistic < 0.01
    assert np.std(one) == pytest.approx(0.05, rel=0.01)
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(one[:-1].ravel(), one[1:].ravel())[0, 1]) < 0.01


@pytest.mark.slow
def test_norms_and_biases_are_without_effect(tmp_path: Path) -> None:
    read = values(written(tmp_path / "m", list(tensors({**SMALL, "attention_bias": True}))))
    assert len(read) == 2 + 3 * 13
    for name, found in read.items():
        if "norm" in name:
            assert (found == 1).all(), name
        elif name.endswith("bias"):
            assert (found == 0).all(), name
        else:
            assert 0.018 < found.std() < 0.022, name


def test_weights_are_distributed_over_files(tmp_path: Path) -> None:
    given = list(tensors(SMALL))
    single = written(tmp_path / "single", given)
    assert [f.name for f in weight_files(single)] == ["model.safetensors"]
    several = written(tmp_path / "several", given, shard_bytes=600_000)
    files = weight_files(several)
    assert [f.name for f in files] == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    assert len(files) > 2
    assert all(f.stat().st_size < 610_000 for f in files)
    shapes = {name: shape for f in files for name, shape in tensor_shapes(f).items()}
    assert shapes == {t.name: t.shape for t in given}
    index = json.loads((several / INDEX).read_text())
    assert index["metadata"]["total_size"] == 2 * sum(int(np.prod(t.shape)) for t in given)
    assert all(name in tensor_shapes(several / file) for name, file in index["weight_map"].items())


@pytest.mark.parametrize("name", PRESETS)
def test_files_of_a_preset_stay_below_two_gigabytes(name: str) -> None:
    held = weights.shards(tensors(PRESETS[name]))
    assert [t for file in held for t in file] == list(tensors(PRESETS[name]))
    assert all(2 * sum(int(np.prod(t.shape)) for t in file) <= 2e9 for file in held)


@pytest.mark.slow
def test_a_layer_of_a_large_model_is_written_in_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    held = weights.shards(tensors(PRESETS["llama-3.2-3b"]), 250_000_000)[-1]
    tracemalloc.start()
    path = written(tmp_path / "shard", held)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = (path / "model.safetensors").stat().st_size
    assert size > 150_000_000
    assert peak < size / 3
    read = values(path)
    assert {name: found.shape for name, found in read.items()} == {t.name: t.shape for t in held}
    assert all(np.isfinite(found).all() for found in read.values())
