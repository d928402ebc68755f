"""Fidelity from a baseline's engine to a configuration's: closed forms, what is written, and what is refused."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import t

from slim.config import EvaluateConfig, TaskEntry
from slim.errors import Reason, StageError
from slim.evaluate import evaluate, had_reference, has_reference
from slim.evaluate.divergence import Divergence
from slim.evaluate.fidelity import FIDELITY_FILE, Fidelity, block_interval, measure, summarize
from slim.evaluate.reference import REFERENCE_FILE, opened
from slim.records import Against
from tests.evaluate.conftest import RecordingEngine
from tests.tiny import VOCAB_SIZE

TEXT = "A quick brown fox jumps over the lazy dog, and then it sleeps. " * 60
TOKENS = 301


class Warmer(RecordingEngine):
    """The fake with other logits.

    Args:
        change: what becomes of them.
    """

    def __init__(self, change: Callable[[np.ndarray], np.ndarray] = lambda rows: rows, max_model_len: int = 128) -> None:
        super().__init__(max_model_len)
        self.change = change

    def logits(self, tokens: tuple[int, ...]) -> np.ndarray:
        """See the base."""
        return self.change(super().logits(tokens))


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def run(tokenizer: Any, tmp_path: Path) -> Callable[..., Fidelity]:
    def run(engine: RecordingEngine, against: Against, max_mib: int = 64, text: str = TEXT) -> Fidelity:
        config = EvaluateConfig(tasks=("slim_facts",), fidelity_tokens=TOKENS, fidelity_max_mib=max_mib)
        out = tmp_path / ("baseline" if against.keep else "configuration")
        out.mkdir(exist_ok=True)
        return measure(engine, tokenizer, text, config, out, against=against)

    return run


@pytest.fixture
def reference(run: Callable[..., Fidelity], tmp_path: Path) -> Path:
    assert run(Warmer(), Against(keep=True)).notes == ()
    return tmp_path / "baseline" / REFERENCE_FILE


def geometric(base: float) -> np.ndarray:
    weights = base ** -np.arange(VOCAB_SIZE, dtype=np.float64)
    return weights / weights.sum()


def test_the_divergence_of_two_temperatures(run: Callable[..., Fidelity], reference: Path, tmp_path: Path) -> None:
    # The most likely token is the same; p falls by 2 from token to token, q by the square root of 2.
    found = run(Warmer(lambda rows: rows / 2), Against(path=reference))
    p, q = geometric(2), geometric(math.sqrt(2))
    wanted = float((p * np.log(p / q)).sum())
    assert found.metrics["fidelity/kl_divergence_nats"] == pytest.approx(wanted, rel=1e-6)
    assert found.metrics["fidelity/kl_divergence_p99_nats"] == pytest.approx(wanted, rel=1e-6)
    assert found.metrics["fidelity/top1_agreement"] == 1
    assert "fidelity/kl_divergence_upper_bound_nats" not in found.metrics
    assert found.params == {
        "evaluate.fidelity_reference": True,
        "evaluate.fidelity_scored_tokens": TOKENS - 1,
        "evaluate.fidelity_kept_tokens": VOCAB_SIZE,
        "evaluate.fidelity_exact": True,
    }
    table = pq.read_table(tmp_path / "configuration" / FIDELITY_FILE)
    assert table.column_names == ["position", "token", "kl_nats", "baseline_top1", "top1", "agree"]
    rows = table.to_pylist()
    assert [row["position"] for row in rows] == list(range(1, TOKENS))
    with opened(reference) as kept:
        assert tuple(row["token"] for row in rows) == kept.passage.tokens[1:]
        engine = Warmer()
        for sequence, part in kept.passage.windows():
            best = [engine.next_token(sequence[: end + 1]) for end in range(len(sequence) - 1)]
            assert [row["baseline_top1"] for row in rows[part]] == best[len(kept.passage.prefix) :]


def test_a_model_and_itself(run: Callable[..., Fidelity], reference: Path) -> None:
    found = run(Warmer(), Against(path=reference))
    assert set(found.metrics.values()) == {0.0, 1.0}
    assert found.metrics["fidelity/kl_divergence_nats"] == found.metrics["fidelity/kl_divergence_nats_ci_high"] == 0
    assert found.metrics["fidelity/top1_agreement"] == found.metrics["fidelity/top1_agreement_ci_low"] == 1


def test_a_small_budget_bounds_the_divergence(
    run: Callable[..., Fidelity], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In bfloat16, so 2 bytes a logit; flat, so that the rest has mass.
    def flat(rows: np.ndarray) -> np.ndarray:
        return (np.ascontiguousarray(rows / 128).view(np.uint32) & 0xFFFF0000).view(np.float32)

    def other(rows: np.ndarray) -> np.ndarray:
        return flat(np.roll(rows, 3, axis=1))

    path = tmp_path / "baseline" / REFERENCE_FILE
    run(Warmer(flat), Against(keep=True))
    exact = run(Warmer(other), Against(path=path)).metrics
    whole = path.stat().st_size
    budget = whole // 2
    monkeypatch.setattr("slim.evaluate.fidelity._MIB", budget)
    kept = run(Warmer(flat), Against(keep=True), max_mib=1)
    assert path.stat().st_size <= budget
    assert kept.params["evaluate.fidelity_exact"] is False
    assert 50 < int(kept.params["evaluate.fidelity_kept_tokens"]) < VOCAB_SIZE // 2
    found = run(Warmer(other), Against(path=path))
    assert found.params["evaluate.fidelity_kept_tokens"] == kept.params["evaluate.fidelity_kept_tokens"]
    lower, upper = (found.metrics[f"fidelity/kl_divergence_{name}nats"] for name in ("", "upper_bound_"))
    assert 0 < lower < exact["fidelity/kl_divergence_nats"] < upper
    assert found.metrics["fidelity/top1_agreement"] == exact["fidelity/top1_agreement"] == 0
    rows = pq.read_table(tmp_path / "configuration" / FIDELITY_FILE).to_pylist()
    assert all(row["kl_nats"] <= row["kl_upper_nats"] for row in rows)


def test_an_infinite_divergence_is_left_out(run: Callable[..., Fidelity], reference: Path, tmp_path: Path) -> None:
    def without(rows: np.ndarray) -> np.ndarray:
        rows[7, 3] = -math.inf
        return rows

    found = run(Warmer(without), Against(path=reference))
    assert not [key for key in found.metrics if "kl_" in key]
    assert found.metrics["fidelity/top1_agreement"] > 0.9
    (note,) = found.notes
    # One row of each window.
    assert "infinite, since 3 of 300" in note
    rows = pq.read_table(tmp_path / "configuration" / FIDELITY_FILE).to_pylist()
    assert sum(math.isinf(row["kl_nats"]) for row in rows) == 3
    assert not any(math.isnan(row["kl_nats"]) for row in rows)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_a_note(bad: float, run: Callable[..., Fidelity], reference: Path) -> None:
    def broken(rows: np.ndarray) -> np.ndarray:
        rows[0, 0] = bad
        return rows

    found = run(Warmer(broken), Against(path=reference))
    assert (found.metrics, found.params) == ({}, {"evaluate.fidelity_reference": True})
    assert found.notes == ("KL divergence left out: the engine's logits are not all numbers",)


def test_another_tokenizer_vocabulary_or_window_is_refused(run: Callable[..., Fidelity], reference: Path) -> None:
    (note,) = run(Warmer(), Against(path=reference), text=TEXT[1:]).notes
    assert "other tokens for the same text" in note
    (note,) = run(Warmer(max_model_len=64), Against(path=reference)).notes
    assert "windows of 127 tokens, here they have 63" in note
    larger = Warmer()
    larger._info = replace(larger.info, vocab_size=VOCAB_SIZE + 8)
    (note,) = run(larger, Against(path=reference)).notes
    assert f"a vocabulary of {VOCAB_SIZE} tokens, this model one of {VOCAB_SIZE + 8}" in note
    assert larger.calls == 0


def test_an_engine_that_gives_no_logits_is_a_note(run: Callable[..., Fidelity], reference: Path, tmp_path: Path) -> None:
    def refuse(_: np.ndarray) -> np.ndarray:
        raise StageError(Reason.EVALUATION, "no logits from this kernel")

    found = run(Warmer(refuse), Against(path=reference))
    assert found.notes == ("KL divergence left out: no logits from this kernel",)
    assert had_reference(found.params)
    reference.unlink()
    kept = run(Warmer(refuse), Against(keep=True))
    assert kept.notes == ("no distributions kept for the KL divergence of others: no logits from this kernel",)
    assert not has_reference(kept.params)
    assert list((tmp_path / "baseline").iterdir()) == []


def test_logits_of_another_shape_are_a_note(run: Callable[..., Fidelity], reference: Path) -> None:
    (note,) = run(Warmer(lambda rows: rows[1:]), Against(path=reference)).notes
    assert "the engine gave logits of shape" in note


def test_without_a_reference_the_reason_is_noted(run: Callable[..., Fidelity]) -> None:
    found = run(Warmer(), Against(missing="its baseline m/bf16@vllm failed: out_of_memory"))
    assert found.metrics == {}
    assert not had_reference(found.params)
    assert found.notes == ("KL divergence left out: its baseline m/bf16@vllm failed: out_of_memory",)
    assert run(Warmer(), Against()) == Fidelity()


def test_the_interval_is_students_over_blocks() -> None:
    values = np.random.default_rng(5).gamma(1.0, size=1000)
    interval = block_interval(values)
    assert interval is not None
    means = values.reshape(20, 50).mean(axis=1)
    low, high = t.interval(0.95, 19, loc=means.mean(), scale=means.std(ddof=1) / math.sqrt(20))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert block_interval(values[:63]) is None
    assert block_interval(values[:64]) is not None


def test_intervals_stay_in_range() -> None:
    kl = np.zeros(640)
    kl[5] = 1.0
    agree = np.ones(640, np.bool_)
    agree[5] = False
    ids = np.zeros(640, np.int32)
    metrics, notes = summarize(Divergence(kl, None, ids, ids, agree))
    assert notes == ()
    assert metrics["fidelity/kl_divergence_nats_ci_low"] == 0
    assert metrics["fidelity/top1_agreement_ci_high"] == 1
    assert metrics["fidelity/kl_divergence_nats_ci_high"] > metrics["fidelity/kl_divergence_nats"] == pytest.approx(1 / 640)


def test_an_infinite_upper_bound_is_left_out() -> None:
    ids, agree = np.zeros(4, np.int32), np.ones(4, np.bool_)
    metrics, notes = summarize(Divergence(np.ones(4), np.array([1, 2, np.inf, 3]), ids, ids, agree))
    assert metrics["fidelity/kl_divergence_nats"] == 1
    assert "fidelity/kl_divergence_upper_bound_nats" not in metrics
    assert "upper bound" in notes[0]


def test_it_is_part_of_an_evaluation(tiny_model: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(
        tasks=(TaskEntry(name="slim_facts", limit=3),), perplexity_tokens=50, fidelity_tokens=80, fidelity_max_mib=1
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    kept = evaluate(Warmer(max_model_len=512), tiny_model, config, tmp_path / "a", seed=1, against=Against(keep=True))
    assert has_reference(kept.params)
    assert not [key for key in kept.metrics if "kl_" in key]
    warmer = Warmer(lambda rows: rows / 2, max_model_len=512)
    found = evaluate(warmer, tiny_model, config, tmp_path / "b", seed=1, against=Against(path=tmp_path / "a" / REFERENCE_FILE))
    assert found.metrics["fidelity/kl_divergence_nats"] > 0.1
    assert found.params["evaluate.fidelity_scored_tokens"] == 79
    assert "slim.evaluate_notes" not in found.tags
    missing = evaluate(warmer, tiny_model, config, tmp_path / "b", seed=1, against=Against(missing="it failed"))
    assert missing.tags["slim.evaluate_notes"] == "KL divergence left out: it failed"
    off = config.model_copy(update={"fidelity_tokens": None})
    assert not has_reference(evaluate(warmer, tiny_model, off, tmp_path / "b", seed=1, against=Against(keep=True)).params)
    silent = config.model_copy(update={"perplexity_text": None})
    assert not has_reference(evaluate(warmer, tiny_model, silent, tmp_path / "b", seed=1, against=Against(keep=True)).params)


def test_it_is_what_the_model_says(tiny_model: Path, tokenizer: Any, run: Callable[..., Fidelity], tmp_path: Path) -> None:
    """Logits of a real model in 16 bit and of the same with rounded weights, against torch's own divergence."""
    import torch
    from transformers import AutoModelForCausalLM

    class Model(RecordingEngine):
        def __init__(self, step: float | None) -> None:
            super().__init__(128)
            self.model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
            for weight in self.model.parameters() if step else ():
                weight.data = torch.round(weight.data / step) * step

        def logits(self, tokens: tuple[int, ...]) -> np.ndarray:
            with torch.inference_mode():
                return self.model(torch.tensor([tokens[:-1]])).logits[0].float().numpy()

    path = tmp_path / "baseline" / REFERENCE_FILE
    baseline, rounded = Model(None), Model(1 / 16)
    kept = run(baseline, Against(keep=True))
    assert kept.params["evaluate.fidelity_exact"] is True
    found = run(rounded, Against(path=path))
    divergences, agreement = [], []
    with opened(path) as reference:
        assert reference.encoding == "bfloat16"
        assert path.stat().st_size < 300 * VOCAB_SIZE * 2 + 8192
        for sequence, _ in reference.passage.windows():
            p, q = (
                torch.log_softmax(torch.from_numpy(m.logits(sequence)).double(), -1)[len(reference.passage.prefix) :]
                for m in (baseline, rounded)
            )
            divergences += torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1).tolist()
            agreement += [bool((a == a.max())[b == b.max()].any()) for a, b in zip(p.float(), q.float(), strict=True)]
    assert found.metrics["fidelity/kl_divergence_nats"] == pytest.approx(np.mean(divergences), rel=1e-9)
    assert found.metrics["fidelity/kl_divergence_p99_nats"] == pytest.approx(np.percentile(divergences, 99), rel=1e-9)
    assert found.metrics["fidelity/top1_agreement"] == np.mean(agreement)
    assert 0 < found.metrics["fidelity/top1_agreement"] < 1
    assert run(baseline, Against(path=path)).metrics["fidelity/kl_divergence_nats"] == 0
