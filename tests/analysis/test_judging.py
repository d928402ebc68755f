"""Constraints held against a frame."""

import pandas as pd
import pytest

from analysis.constraints import parse_constraint
from analysis.judging import applicable, check
from tests.analysis.made import ACCURACY, frame_of

TTFT = "latency/ttft_p95_ms"


@pytest.fixture
def frame() -> pd.DataFrame:
    return frame_of(
        [
            {"run_id": "base", "precision": "bf16", ACCURACY: 0.8, TTFT: 10.0},
            {"run_id": "good", "baseline": "base", ACCURACY: 0.79, TTFT: 30.0, "verdict/gsm8k": "non-inferior"},
            {"run_id": "bad", "baseline": "base", ACCURACY: 0.7, "verdict/gsm8k": "inferior"},
            {"run_id": "open", "baseline": "gone", ACCURACY: 0.9, TTFT: 5.0, "verdict/gsm8k": "undecided"},
            {"run_id": "alone", ACCURACY: 0.9},
        ]
    )


def test_a_limit_by_the_baseline(frame: pd.DataFrame) -> None:
    done = check(frame, parse_constraint("accuracy/mean >= 0.95 * baseline"))
    assert done.bound[["base", "good", "bad"]].tolist() == pytest.approx([0.76] * 3)
    assert done.slack[["base", "good", "bad"]].tolist() == pytest.approx([0.04, 0.03, -0.06])
    assert done.relative["bad"] == pytest.approx(-0.06 / 0.76)
    assert done.met.to_dict() == {"base": True, "good": True, "bad": False, "open": False, "alone": False}
    assert done.unknown["open"] == "its baseline is not among these runs"
    assert done.unknown["alone"] == "it has no baseline"
    assert done.unknown[["base", "good", "bad"]].isna().all()


def test_a_baseline_is_its_own_and_meets_it_exactly(frame: pd.DataFrame) -> None:
    for text in ("accuracy/mean >= baseline", "accuracy/mean <= baseline"):
        assert check(frame, parse_constraint(text)).slack["base"] == 0
    assert check(frame, parse_constraint("accuracy/mean >= baseline")).met["base"]


def test_a_constant_limit_and_what_is_missing(frame: pd.DataFrame) -> None:
    done = check(frame, parse_constraint(f"{TTFT} <= 20"))
    assert done.slack.dropna().to_dict() == {"base": 10, "good": -10, "open": 15}
    assert done.unknown["bad"] == f"no {TTFT}"
    done = check(frame, parse_constraint(f"{TTFT} <= 0"))
    assert done.relative["good"] == -1.0
    assert check(frame, parse_constraint("accuracy/maen >= 0.5")).unknown["base"] == "no accuracy/maen (near: accuracy/mean)"


def test_a_verdict(frame: pd.DataFrame) -> None:
    done = check(frame, parse_constraint("non-inferior gsm8k"))
    assert done.slack.drop("alone").to_dict() == {"base": 0, "good": 0, "bad": -1, "open": -1}
    assert done.verdict["bad"] == "inferior"
    assert done.unknown["alone"] == "no verdict/gsm8k"
    missing = check(frame, parse_constraint("non-inferior gms8k"))
    assert missing.slack.isna().all()
    assert missing.unknown["base"] == "no verdict/gms8k (near: verdict/gsm8k)"


def test_if_measured(frame: pd.DataFrame) -> None:
    texts = ["energy/net_kwh <= 1 if measured", "energy/net_kwh <= 1", f"{TTFT} <= 20 if measured"]
    counts, dropped = applicable([check(frame, parse_constraint(text)) for text in texts], frame["status"] == "FINISHED")
    assert [each.constraint.text for each in counts] == texts[1:]
    assert dropped == texts[:1]


def test_a_baseline_that_is_not_among_the_rows_is_a_reference(frame: pd.DataFrame) -> None:
    others, references = frame.drop(index="base"), frame.loc[["base"]]
    constraint = parse_constraint("accuracy/mean >= 0.95 * baseline")
    assert check(others, constraint).unknown["good"] == "its baseline is not among these runs"
    done = check(others, constraint, references)
    assert done.slack[["good", "bad"]].tolist() == pytest.approx([0.03, -0.06])
    assert list(done.slack.index) == list(others.index)


def test_what_was_measured_counts_though_no_row_can_be_judged_by_it(frame: pd.DataFrame) -> None:
    others = frame.drop(index="base")
    constraint = parse_constraint("accuracy/mean >= 0.95 * baseline if measured")
    (counts,), dropped = applicable([check(others, constraint)], others["status"] == "FINISHED")
    assert not dropped
    assert not counts.met.any()
