"""An evaluation that was cut off goes on where it was, and comes to the same results as one that was not."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from slim import models
from slim.config import EvaluateConfig, ModelEntry, TaskEntry
from slim.engines import Completion, Engine, GenerationRequest, Score
from slim.errors import Reason, StageError
from slim.evaluate import Evaluation, answers, evaluate, scoring
from slim.evaluate.answers import KeepingEngine
from slim.jobs import Job, Spool, StageOrder
from slim.pieces import Pieces
from slim.provenance import ROOT
from slim.records import OnProgress, Progress, ignore_progress
from tests.evaluate.conftest import RecordingEngine
from tests.evaluate.test_evaluate import write_copy

CONFIG = EvaluateConfig(
    tasks=(
        TaskEntry(name="slim_facts", limit=30),
        TaskEntry(name="slim_arithmetic", limit=40),
        TaskEntry(name="slim_completion"),
    ),
    limit=30,
    perplexity_tokens=600,
    batch_size=4,
)


class MortalEngine(RecordingEngine):
    """Breaks at a call, as if the worker were killed in it."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__(max_model_len=2048)
        self.dies_at = dies_at
        self.asked: list[Any] = []
        self.answered = 0

    def generate(self, requests: Sequence[GenerationRequest], concurrency: int) -> list[Completion]:
        """See the base."""
        self._count(requests)
        return super().generate(requests, concurrency)

    def score(self, requests: Sequence[Any], batch_size: int) -> list[Any]:
        """See the base."""
        self._count(requests)
        return super().score(requests, batch_size)

    def _count(self, requests: Sequence[Any]) -> None:
        if self.answered == self.dies_at:
            raise StageError(Reason.ENGINE_CRASH, "killed")
        self.answered += 1
        self.asked += requests


@pytest.fixture(autouse=True)
def keep_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "KEPT_EVERY_S", 0.0)
    # Several calls a task, so that there is something to be cut off between.
    monkeypatch.setitem(scoring._TOKENS_A_CALL, "cpu", 400)


def attempt(
    engine: Engine, model: Path, root: Path, config: EvaluateConfig = CONFIG, on_progress: OnProgress = ignore_progress
) -> Evaluation:
    out = root / "out"
    out.mkdir(exist_ok=True)
    return evaluate(engine, model, config, out, seed=1, pieces=Pieces(root / "pieces"), on_progress=on_progress)


def results(found: Evaluation, root: Path) -> tuple[Any, ...]:
    """Everything but what was taken over."""
    return (
        {key: value for key, value in found.metrics.items() if not key.startswith("timing/")},
        {key: value for key, value in found.params.items() if not key.startswith("evaluate.resumed_")},
        found.datasets,
        found.tags,
        pq.read_table(root / "out" / "samples.parquet").to_pylist(),
        pq.read_table(root / "out" / "perplexity_tokens.parquet").to_pylist(),
        (root / "out" / "harness.json").read_text(),
    )


@dataclass
class Whole:
    """An evaluation that nothing disturbed.

    Attributes:
        results: what it came to.
        asked: requests in order.
        calls: calls to the engine until each step had ended.
    """

    results: tuple[Any, ...]
    asked: list[Any]
    calls: dict[str, int]


@pytest.fixture
def whole(tiny_model: Path, tmp_path: Path) -> Whole:
    root = tmp_path / "whole"
    root.mkdir()
    engine, calls = MortalEngine(), dict[str, int]()

    def note(progress: Progress) -> None:
        if progress.part is not None:
            calls[progress.step] = engine.answered

    found = attempt(engine, tiny_model, root, on_progress=note)
    assert not any(key.startswith("evaluate.resumed_") for key in found.params)
    assert "timing/resumed_s" not in found.metrics
    return Whole(results(found, root), engine.asked, calls)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.6, 0.8, 0.99])
def test_what_was_answered_is_not_asked_again(share: float, whole: Whole, tiny_model: Path, tmp_path: Path) -> None:
    calls = int(share * max(whole.calls.values()))
    parts = sum(end <= calls for end in whole.calls.values())
    first = MortalEngine(dies_at=calls)
    with pytest.raises(StageError, match="killed"):
        attempt(first, tiny_model, tmp_path)
    second, seen = MortalEngine(), list[Progress]()
    found = attempt(second, tiny_model, tmp_path, on_progress=seen.append)
    assert results(found, tmp_path) == whole.results
    # In the same order and in the same calls, so that a batch holds what it would have held.
    assert first.asked + second.asked == whole.asked
    assert found.params.get("evaluate.resumed_parts", 0) == parts
    assert list(tmp_path.glob("pieces/*~*")) == []
    assert ("timing/resumed_s" in found.metrics) == (calls > 0)
    assert found.metrics.get("timing/resumed_s", 0.0) < 60
    shown = list(dict.fromkeys((p.step, p.part, p.parts) for p in seen if p.part is not None))
    assert shown == [(name, place, len(whole.calls)) for place, name in enumerate(whole.calls, start=1)][parts:]


def test_it_may_be_cut_off_many_times(whole: Whole, tiny_model: Path, tmp_path: Path) -> None:
    asked: list[Any] = []
    found = None
    while found is None:
        engine = MortalEngine(dies_at=4)
        with contextlib.suppress(StageError):
            found = attempt(engine, tiny_model, tmp_path)
        assert engine.asked
        asked += engine.asked
    assert results(found, tmp_path) == whole.results
    assert asked == whole.asked
    assert found.params["evaluate.resumed_parts"] >= 2


def test_a_group_goes_on_within(tiny_model: Path, tmp_path: Path) -> None:
    names = ["formal_logic", "philosophy"]
    items = [{"question": f"Which is {n}?", "choices": ["a", "b", "c", "d"], "answer": n % 4} for n in range(40)]
    write_copy(tmp_path / "hub" / "cais" / "mmlu", names, {"dev": items[:3], "test": items})
    tasks = tuple(TaskEntry(name=f"mmlu_{name}", num_fewshot=2) for name in names)
    config = EvaluateConfig(tasks=tasks, data_dir=str(tmp_path / "hub"), perplexity_text=None)
    first, second = MortalEngine(dies_at=2), MortalEngine()
    with pytest.raises(StageError):
        attempt(first, tiny_model, tmp_path, config)
    found = attempt(second, tiny_model, tmp_path, config)
    assert not set(first.asked) & set(second.asked)
    assert found.params["evaluate.resumed_answers"] == len(first.asked) > 0


def test_a_part_of_another_format_is_done_again(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError):
        attempt(MortalEngine(dies_at=6), tiny_model, tmp_path)
    (file,) = tmp_path.glob("pieces/*/part.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 0}))
    found = attempt(MortalEngine(), tiny_model, tmp_path)
    assert "evaluate.resumed_parts" not in found.params
    assert found.params["evaluate.resumed_answers"] > 0


@pytest.mark.parametrize(
    "answer",
    [
        Score((-0.1, float("-inf"), -1e-300), (True, False, True)),
        (Score((-0.1,), (True,)), Score((-1 / 3, -2.0), (False, True))),
        Completion((1, 2), "ab", "stop", 0.5, (0.6, 0.7), 3, 1),
    ],
)
def test_answers_come_back_as_they_were(answer: Any, tmp_path: Path) -> None:
    class One(RecordingEngine):
        def score(self, requests: Sequence[Any], batch_size: int) -> list[Any]:
            return [answer] * len(requests)

    request = GenerationRequest((1, 2), 3)
    for recalled in (0, 1):
        engine = KeepingEngine(One(64), Pieces(tmp_path / "pieces"), "task")
        assert engine.score([request, GenerationRequest((9,) * (recalled + 1), 3)], 1)[0] == answer  # type: ignore[list-item]
        assert engine.recalled == recalled
        assert engine.info.max_model_len == 64


WORKER = (
    "import sys; from slim import worker; from slim.evaluate import answers; answers.KEPT_EVERY_S = 0; worker.main(sys.argv[1:])"
)


@pytest.mark.slow
def test_a_worker_that_was_killed_in_a_task(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    config = {
        "tasks": [{"name": "slim_facts", "limit": 10}, {"name": "slim_completion", "limit": 150}],
        "perplexity_tokens": 64,
        "batch_size": 4,
    }
    source = models.resolve(ModelEntry(id=str(tiny_model)))

    def start(name: str) -> tuple[subprocess.Popen[bytes], Spool]:
        spool = Spool(tmp_path / name)
        order = StageOrder("evaluate", "k" * 32, EvaluateConfig.model_validate(config, strict=False).model_dump(mode="json"))
        job = Job(source, "bf16", 1, spool.root, (order,), "transformers", {"max_model_len": 256})
        (tmp_path / f"{name}-job").mkdir(exist_ok=True)
        job.write(tmp_path / f"{name}-job" / "job.json")
        arguments = [sys.executable, "-c", WORKER, str(tmp_path / f"{name}-job")]
        log = (tmp_path / f"{name}-job" / "worker.log").open("wb")
        return subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env={**os.environ}), spool

    worker, spool = start("killed")
    pieces = spool.pieces("k" * 32)
    end = time.monotonic() + 180
    while len(pieces.sections("task1-slim_completion")) < 3:
        assert worker.poll() is None, (tmp_path / "killed-job" / "worker.log").read_text()
        assert time.monotonic() < end
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert pieces.find("task0-slim_facts") is not None
    kept = sum(len(pq.read_table(path / "answers.parquet")) for path in pieces.sections("task1-slim_completion"))
    before_s = pieces.work_s
    assert spool.find("k" * 32) is None

    found = []
    for name in ("killed", "undisturbed"):
        worker, spool = start(name)
        assert worker.wait(timeout=300) == 0
        spooled = spool.find("k" * 32)
        assert spooled is not None
        assert spooled.result.failure is None
        assert not (spool.root / "pieces" / ("k" * 32)).exists()
        samples = pq.read_table(spooled.artifacts / "samples.parquet").to_pylist()
        found.append((spooled.result, samples))
    (resumed, samples), (undisturbed, expected) = found
    assert samples == expected
    for key, value in undisturbed.metrics.items():
        if not key.startswith("timing/"):
            assert resumed.metrics[key] == value
    assert resumed.params["evaluate.resumed_parts"] == 1
    assert resumed.params["evaluate.resumed_answers"] == kept
    assert resumed.metrics["timing/resumed_s"] == pytest.approx(before_s)
    assert resumed.metrics["timing/work_s"] > before_s
