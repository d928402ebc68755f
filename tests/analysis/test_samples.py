"""Raw samples read from a real store: they give the store's figures, and what is not there is said."""

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import samples, study
from analysis.filters import Filters
from slim import aggregate
from slim.config import ProfileConfig
from slim.engines.base import Completion
from slim.jobs import Spool
from slim.profile import summary
from slim.profile.passes import CurvePoint, Warmup
from slim.profile.raw import Raw
from slim.records import StageResult
from slim.store import TAG, Store, StoredRun
from tests.answers import answers
from tests.made import run_sweep

BF16, INT4 = "bf16@vllm", "gptq-int4@vllm"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    return tmp_path


def completions(seed: int, requests: int = 6, tokens: Sequence[int] = (4, 1, 3)) -> tuple[Completion, ...]:
    """Answers of different lengths, one of a single token."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(requests):
        times = tuple(float(t) for t in i + np.cumsum(random.uniform(0.01, 0.05, size=tokens[i % len(tokens)])))
        found.append(Completion(tuple(range(len(times))), "", "length", float(i), times))
    return tuple(found)


def profiled(store: Store, home: Path, repeats: Sequence[tuple[Completion, ...]], **params: str) -> StoredRun:
    """Log a configuration with a profile run a repeat, written as a profile writes them."""
    spool = Spool(home / f"spool-{uuid.uuid4().hex}")
    tags = {TAG.CONFIG: "tiny/bf16@vllm", TAG.KEY: "same"}
    configuration = store.begin("configuration", "tiny/bf16@vllm", params=params, tags=tags)
    runs, metrics = [], []
    for number, done in enumerate(repeats):
        curve = (CurvePoint(1, 2.0 + number, 4, 8, 16, 0, done),)
        raw = Raw(Warmup((0.1,), True), done, None, None, curve, None, None, None)
        metrics.append(summary.latency_metrics(done) | summary.throughput_metrics(curve))
        with spool.writing(f"key{number}") as draft:
            raw.write(draft.artifacts, ProfileConfig())
            draft.finish(StageResult("profile", f"key{number}", metrics=metrics[-1]))
        spooled = spool.find(f"key{number}")
        assert spooled is not None
        runs.append(store.log_stage(spooled, name="tiny/bf16@vllm", parent=configuration, params={}, tags={}).run_id)
    combined, _ = aggregate.combine_repeats(metrics)
    store.log(configuration, metrics=combined, tags={TAG.STAGE_RUNS: json.dumps({"profile": runs})})
    store.finish(configuration)
    return store.get(configuration)


@pytest.mark.parametrize("repeats", [1, 3])
def test_requests_give_every_latency_of_the_store(store: Store, home: Path, repeats: int) -> None:
    run = profiled(store, home, [completions(seed, requests=6 + seed) for seed in range(repeats)])
    found = samples.read(store, run)
    latencies = [key for key in run.metrics if key.startswith("latency/") and key.endswith("_ms")]
    assert len(latencies) == 16
    for key in latencies:
        behind = found.of(key)
        assert isinstance(behind, samples.Requests)
        assert len(behind.repeats) == repeats
        assert behind.value == pytest.approx(run.metrics[key])
        assert found.why_not(key) is None
    assert [len(values) for values in found.arrays["latency/e2e_mean_ms"]] == [6 + seed for seed in range(repeats)]
    # Every third answer is a single token, which has no time per output token.
    assert len(found.arrays["latency/tpot_mean_ms"][0]) == 4
    assert len(found.arrays["latency/itl_mean_ms"][0]) == 10


def test_what_is_one_number_a_repeat_comes_from_the_repeats(store: Store, home: Path) -> None:
    found = samples.read(store, profiled(store, home, [completions(0), completions(1)]))
    key = "throughput/output_tokens_per_s"
    assert found.of(key) is None
    assert found.why_not(key) == "one number a repeat"
    assert found.repeats(key) == pytest.approx([16 / 2, 16 / 3])
    assert found.why_not("latency/stalled_pct") == "one number a repeat"
    assert len(found.repeats("latency/stalled_pct")) == 2
    assert len(found.repeats("energy/net_j_per_query")) == 0
    assert found.why_not("size/checkpoint_gb") == "no raw samples are kept of it"
    assert "was not evaluated" in str(found.why_not("accuracy/mean"))


def test_answers_of_single_tokens_have_no_tpot(store: Store, home: Path) -> None:
    found = samples.read(store, profiled(store, home, [completions(0, tokens=(1,))]))
    assert found.of("latency/tpot_p95_ms") is None
    assert found.why_not("latency/tpot_p95_ms") == "its requests lack that latency"
    assert isinstance(found.of("latency/ttft_p95_ms"), samples.Requests)


def test_a_file_that_is_gone_or_broken_is_said(store: Store, home: Path) -> None:
    run = profiled(store, home, [completions(0), completions(1)])
    stage = store.get(json.loads(run.tags[TAG.STAGE_RUNS])["profile"][1])
    file = store.artifact(stage, samples.REQUESTS_FILE, home)
    file.write_bytes(b"PAR1 and no more")
    found = samples.read(store, run)
    assert "requests.parquet" in str(found.why_not("latency/e2e_mean_ms"))
    assert found.of("latency/e2e_mean_ms") is None
    # What the runs themselves hold is still there.
    assert len(found.repeats("throughput/requests_per_s")) == 2
    file.unlink()
    assert "has no artifact 'requests.parquet'" in str(samples.read(store, run).why_not("latency/e2e_mean_ms"))


def with_beside(rows: list[dict[str, Any]], beside: Sequence[float]) -> list[dict[str, Any]]:
    return [{**row, "beside": value} for row, value in zip(rows, beside, strict=True)]


def test_items_give_the_accuracies_and_pair_across_configurations(store: Store, home: Path) -> None:
    weights = [0.1, 0.2, 0.3, 0.4]
    runs = run_sweep(
        store,
        home,
        {
            BF16: [
                answers([1.0, 0.0, None, 1.0], "facts"),
                with_beside(answers([1.0, 0.0, 1.0, 0.0], "sums", weights=weights), [1.0] * 4),
            ],
            INT4: [answers([0.0, 0.0, 1.0, 1.0], "facts"), answers([1.0, 1.0, 1.0, 0.0], "sums", weights=weights)],
        },
    )
    for name in (BF16, INT4):
        run = store.get(runs[name])
        found = samples.read(store, run)
        for key in ("accuracy/facts", "accuracy/sums", "accuracy/mean"):
            items = found.of(key)
            assert isinstance(items, tuple)
            assert sum(i.value for i in items) / len(items) == pytest.approx(run.metrics[key])
        assert "latency/e2e_mean_ms" not in found.arrays
        assert found.why_not("latency/e2e_mean_ms") == "it was not profiled"
    before, after = (samples.read(store, store.get(runs[name])) for name in (BF16, INT4))
    assert before.items["facts"].questions == after.items["facts"].questions
    assert before.items["facts"].questions != before.items["sums"].questions
    assert before.arrays["accuracy/facts"][0].tolist() == [1, 0, 1]
    assert after.arrays["accuracy/facts"][0].tolist() == [0, 0, 1, 1]
    (beside,) = before.of("accuracy/sums_acc") or ()
    assert isinstance(beside, samples.Items)
    assert beside.value == 1
    assert after.of("accuracy/sums_acc") is None
    assert before.why_not("accuracy/sums_stem") == "no items enter this accuracy by themselves"


PLACE = {"model": "tiny", "precision": "bf16", "engine": "vllm", "hardware": "AMD EPYC"}
THROUGHPUT = "throughput/output_tokens_per_s"


def test_configurations_that_were_merged_have_the_samples_of_all(store: Store, home: Path) -> None:
    for seed in (0, 2):
        profiled(store, home, [completions(seed), completions(seed + 1)], **PLACE)
    made = study.make(store, study.Question(objectives=("latency/e2e_mean_ms", THROUGHPUT), draws=10), Filters(flagged=True))
    ((run_id, row),) = made.frame.iterrows()
    found = made.samples[str(run_id)]
    assert row["runs"] == 2
    assert len(found.arrays["latency/e2e_mean_ms"]) == 4
    behind = found.of("latency/e2e_mean_ms")
    assert isinstance(behind, samples.Requests)
    assert behind.value == pytest.approx(row["latency/e2e_mean_ms"])
    # The interval of what is one number a repeat is over the two configurations, not over their four profiles.
    assert len(found.repeats(THROUGHPUT)) == 2
    assert found.repeats(THROUGHPUT).mean() == pytest.approx(row[THROUGHPUT])


def test_repeats_that_were_merged_are_drawn_by_students_t(store: Store, home: Path) -> None:
    for seed in (0, 1):
        profiled(store, home, [completions(seed)], **PLACE)
    for number, run in enumerate(store.configurations()):
        store.log(run.run_id, metrics={THROUGHPUT: 10.0 + number})
    found = study.make(store, study.Question(objectives=("latency/e2e_mean_ms", THROUGHPUT), draws=10))
    assert found.sureness is not None
    (spreads,) = [one.spreads for one in found.sureness.configurations]
    assert spreads[THROUGHPUT].note.startswith("95 % interval, Student's t over 2 repeats")
    assert spreads["latency/e2e_mean_ms"].note.startswith("2 repeats of 6, 6 requests")


def test_items_of_an_older_run_stand_behind_the_accuracy_that_was_filled_in(store: Store, home: Path) -> None:
    runs = run_sweep(store, home, {BF16: [answers([1.0, 0.0, 1.0, 1.0], "facts")]})
    old = store.get(runs[BF16])
    params = {key: value for key, value in old.params.items() if not key.startswith("evaluate.")}
    newest = profiled(store, home, [completions(0)], **params)
    found = study.make(store, study.Question(objectives=("accuracy/mean", "latency/e2e_mean_ms"), draws=10))
    assert list(found.frame.index) == [newest.run_id]
    assert found.sureness is not None
    (sure,) = found.sureness.configurations
    assert {key: spread.kind for key, spread in sure.spreads.items()} == {
        "accuracy/mean": "items",
        "latency/e2e_mean_ms": "requests",
    }


def test_a_figure_that_is_no_mean_of_its_items_has_none(store: Store, home: Path) -> None:
    rows = [{**row, "weight": None} for row in answers([1.0, 0.0])]
    runs = run_sweep(store, home, {BF16: [answers([1.0, 0.0], "sums"), rows]})
    assert set(samples.read(store, store.get(runs[BF16])).items) == {"sums"}


@pytest.mark.parametrize(("statistic", "expected"), [("mean", 2.0), ("p50", 2.0), ("p95", 2.9), ("p99", 2.98)])
def test_statistics_leave_nan_out(statistic: str, expected: float) -> None:
    values = np.array([[1.0, np.nan, 3.0, 2.0], [1.0, 2.0, 3.0, np.nan]])
    assert samples.statistic_of(values, statistic) == pytest.approx([expected, expected])
    assert samples.statistic_of(values[:, [0, 2]], "mean") == pytest.approx([2.0, 2.0])
