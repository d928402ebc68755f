"""The largest batch that fits: the search for any limit, and its figures on an engine whose times and memory are known."""

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slim import metrics
from slim.config import BatchConfig, ProfileConfig, WarmupConfig
from slim.device import MIB
from slim.engines import EngineSpec, open_engine
from slim.engines.fake import FakeEngine
from slim.errors import Reason, StageError
from slim.profile import batches, passes, profile, sources, workload
from slim.profile.trace import Monitor, Trace
from slim.records import ignore_progress
from tests.profile.profiled import CONFIG, EXTRA_S, PREFILL_S, STEP_S, TEXT, FakeDevice, engine, measured

REQUESTS = workload.requests(workload.prompts(TEXT, 64, 20, 1), 5)


@given(fitting=st.integers(0, 5000), limit=st.integers(1, 5000))
@example(fitting=1, limit=1)
@example(fitting=64, limit=64)
@example(fitting=63, limit=64)
def test_the_search_finds_what_fits_in_few_tries(fitting: int, limit: int) -> None:
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= fitting

    found = batches.largest(fits, limit)
    assert found == min(fitting, limit)
    assert all(1 <= batch <= limit for batch in tried)
    assert len(set(tried)) == len(tried)
    assert len(tried) <= 2 * math.log2(max(found, 1)) + 2


def found_by(fake: FakeEngine, limit: int, *requests: int) -> tuple[batches.Batches, Trace]:
    config = BatchConfig(limit=limit, requests=requests)
    monitor = Monitor(FakeDevice(fake.clock), 1e6, fake.clock.now)
    with monitor:
        found = batches.measure(fake, REQUESTS, config, monitor=monitor, on_progress=ignore_progress, clock=fake.clock.now)
    return found, monitor.trace


@given(fitting=st.integers(1, 40), limit=st.integers(1, 32))
def test_the_largest_batch_is_the_one_that_memory_allows(fitting: int, limit: int) -> None:
    found, _ = found_by(engine(max_concurrency=None, out_of_memory_beyond=fitting), limit, 32)
    assert found.largest == min(fitting, limit)
    assert found.is_limited == (fitting >= limit)
    assert [one.fits for one in found.tries] == [one.batch <= fitting for one in found.tries]
    assert [run.batch for run in found.batched] == [found.largest]


def batch_s(size: int) -> float:
    """A batch of the fake: prefill of all prompts, then four steps for all."""
    return size * 20 * PREFILL_S + 4 * (STEP_S + (size - 1) * EXTRA_S)


def test_figures_are_those_of_the_engine() -> None:
    found, trace = found_by(engine(max_concurrency=None, out_of_memory_beyond=6), 16, 16, 24)
    assert [one.batch for one in found.tries] == [1, 2, 4, 8, 6, 7]
    assert [one.wall_s for one in found.tries if one.fits] == pytest.approx([batch_s(n) for n in (1, 2, 4, 6)])
    values = metrics.check(found.metrics(trace))
    assert values["throughput/max_batch"] == 6
    for n, sizes in ((16, (6, 6, 4)), (24, (6, 6, 6, 6))):
        alone_s, batched_s = n * batch_s(1), sum(map(batch_s, sizes))
        assert values[f"throughput/b1_n{n}_total_s"] == pytest.approx(alone_s)
        assert values[f"throughput/bmax_n{n}_total_s"] == pytest.approx(batched_s)
        assert values[f"throughput/b1_n{n}_requests_per_s"] == pytest.approx(n / alone_s)
        assert values[f"throughput/bmax_n{n}_requests_per_s"] == pytest.approx(n / batched_s)
        assert values[f"throughput/bmax_n{n}_speedup"] == pytest.approx(alone_s / batched_s)
        assert values[f"latency/b1_n{n}_mean_ms"] == pytest.approx(1e3 * batch_s(1))
        assert values[f"latency/bmax_n{n}_mean_ms"] == pytest.approx(1e3 * sum(s * batch_s(s) for s in sizes) / n)
        assert values[f"memory/bmax_n{n}_peak_mib"] == 8
        assert values[f"gpu/b1_n{n}_utilization_mean_pct"] == 50
    assert [len(run.done) for run in (*found.alone, *found.batched)] == [16, 24, 16, 24]


def test_a_batch_that_no_longer_fits_is_made_smaller() -> None:
    class Scattered(FakeEngine):
        """The ninth batch of many sequences and those after it have less room."""

        many = 0

        def generate(self, requests: Any, concurrency: int) -> Any:
            self.many += concurrency > 8
            if self.many > 8 and concurrency > 14:
                raise StageError(Reason.OUT_OF_MEMORY, "scattered")
            return super().generate(requests, concurrency)

    options = {"max_concurrency": None, "out_of_memory_beyond": 16}
    fake = Scattered(EngineSpec("fake", Path(), "bfloat16", options))
    found, _ = found_by(fake, 32, 64)
    # 1, 2, 4, 8, 16, 32, then 24, 20, 18, 17: sixteen fits, but not again and again.
    assert (found.largest, found.is_limited) == (14, False)
    assert len(found.batched[0].done) == 64


def test_nothing_but_memory_ends_the_search() -> None:
    with pytest.raises(StageError) as caught:
        found_by(engine(max_concurrency=None, crash_after_steps=170), 16, 32)
    assert caught.value.reason is Reason.ENGINE_CRASH


def test_a_profile_says_what_bounded_the_batch(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"batch": BatchConfig(limit=4, requests=(4,))})
    for fitting, bound, largest in ((3, "memory", 3), (9, "limit", 4)):
        found = measured(tmp_path, engine(max_concurrency=None, out_of_memory_beyond=fitting), config=config)
        assert found.params["profile.batch.bounded_by"] == bound
        assert found.metrics["throughput/max_batch"] == largest
        assert found.metrics["throughput/bmax_n4_speedup"] > 1
        assert metrics.check(found.metrics) == found.metrics
        rows = pq.read_table(tmp_path / "batches.parquet").to_pylist()
        assert {(row["requests"], row["batch"]) for row in rows} == {(4, 1), (4, largest)}
        tries = pq.read_table(tmp_path / "batch_tries.parquet").to_pylist()
        assert max(row["batch"] for row in tries if row["fits"]) == largest
        # The curve and the batch of 8 are bounded by the same memory, and it is no failure.
        curve = pq.read_table(tmp_path / "throughput.parquet").to_pylist()
        assert [row["concurrency"] for row in curve] == ([1, 2] if fitting == 3 else [1, 2, 4])
        assert ("latency/amortized_b8_ms" in found.metrics) == (fitting == 9)


def test_without_the_search_nothing_is_said(tmp_path: Path) -> None:
    found = measured(tmp_path, engine(max_concurrency=None), config=CONFIG.model_copy(update={"batch": None}))
    assert "throughput/max_batch" not in found.metrics
    assert not (tmp_path / "batches.parquet").exists()


def test_where_the_engine_bounds_concurrency_the_curve_tells(tmp_path: Path) -> None:
    found = measured(tmp_path, engine(max_concurrency=2))
    assert found.metrics["throughput/max_batch"] == 2
    assert not (tmp_path / "batches.parquet").exists()


def test_a_first_concurrency_that_does_not_fit_is_a_failure() -> None:
    with pytest.raises(StageError) as caught:
        passes.throughput(engine(out_of_memory_beyond=2), REQUESTS, (4, 8), 1, ignore_progress)
    assert caught.value.reason is Reason.OUT_OF_MEMORY


@pytest.mark.slow
def test_a_real_engine_up_to_a_limit(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model on transformers; torch raises as on a full GPU for batches beyond 5."""
    import torch
    from transformers import AutoTokenizer

    opened = open_engine(EngineSpec("transformers", tiny_model, "bfloat16", {"max_model_len": 256}))
    forward = opened._model.forward  # type: ignore[attr-defined]

    def bounded(input_ids: Any, **keywords: Any) -> Any:
        if len(input_ids) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(input_ids=input_ids, **keywords)

    config = ProfileConfig(
        input_tokens=16,
        output_tokens=4,
        requests=4,
        warmup=WarmupConfig(min_requests=1, max_requests=5),
        concurrency=(1, 4, 8),
        requests_per_concurrency=1,
        throughput_min_s=0.0,
        batch=BatchConfig(limit=8, requests=(10,)),
    )
    source = sources.read(config.prompts, AutoTokenizer.from_pretrained(tiny_model))
    free = profile(opened, source, config, tmp_path, seed=1)
    assert (free.metrics["throughput/max_batch"], free.params["profile.batch.bounded_by"]) == (8, "limit")
    assert free.metrics["memory/bmax_n10_peak_mib"] > opened.info.weights_bytes / MIB
    monkeypatch.setattr(opened._model, "forward", bounded)  # type: ignore[attr-defined]
    found = profile(opened, source, config, tmp_path, seed=1)
    assert (found.metrics["throughput/max_batch"], found.params["profile.batch.bounded_by"]) == (5, "memory")
    tries = {row["batch"]: row["fits"] for row in pq.read_table(tmp_path / "batch_tries.parquet").to_pylist()}
    assert tries == {1: True, 2: True, 4: True, 8: False, 6: False, 5: True}
    rows = pq.read_table(tmp_path / "batches.parquet").to_pylist()
    assert [row["batch"] for row in rows] == [1] * 10 + [5] * 10
    assert all(row["output_tokens"] == 4 for row in rows)
    opened.close()
