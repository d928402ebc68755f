"""Objectives and constraints as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import constraints
from analysis.constraints import Limit, NonInferior, Objective, parse_constraint, parse_objective, parse_objectives
from slim.errors import UserError
from tests.analysis.made import ACCURACY, LATENCY, MEMORY, frame_of

TTFT = "latency/ttft_p95_ms"


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("accuracy/mean >= 0.98 * baseline", Limit(ACCURACY, True, 0.98, 0.0)),
        ("accuracy/mean>=baseline*.98", Limit(ACCURACY, True, 0.98, 0.0)),
        ("accuracy/mean >= baseline - 0.01", Limit(ACCURACY, True, 1.0, -0.01)),
        ("latency/ttft_p95_ms <= 2 * baseline + 5", Limit(TTFT, False, 2.0, 5.0)),
        ("latency/ttft_p95_ms <= 200", Limit(TTFT, False, None, 200.0)),
        (" memory/required_mib <= 8e3  if measured ", Limit(MEMORY, False, None, 8000.0, True)),
        ("energy/mean_power_w <= 300", Limit("energy/mean_power_w", False, None, 300.0)),
        ("verdict/gsm8k = non-inferior", NonInferior("gsm8k")),
        ("verdict/gsm8k == non-inferior if measured", NonInferior("gsm8k", True)),
        ("non-inferior gsm8k", NonInferior("gsm8k")),
        ("non-inferior on arc_challenge", NonInferior("arc_challenge")),
    ],
)
def test_forms(text: str, stated: constraints.Constraint) -> None:
    assert parse_constraint(text) == stated


@given(
    st.sampled_from([ACCURACY, TTFT, MEMORY]),
    st.booleans(),
    st.none() | st.integers(-500, 500).map(lambda n: n / 100),
    st.integers(-500, 500).map(lambda n: n / 8),
    st.booleans(),
)
def test_what_is_written_is_read_again(key: str, least: bool, factor: float | None, offset: float, marked: bool) -> None:
    stated = Limit(key, least, factor, offset, marked)
    assert parse_constraint(stated.text) == stated


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("accuracy/mean", "cannot be read; allowed: <metric>"),
        ("accuracy/mean > 0.9", "cannot be read"),
        ("accuracy/mean >= best", "'best' is not a limit; allowed"),
        ("accuracy/mean >= 0.9 * baseline * 2", "is not a limit"),
        ("accuracy/mean >= nan", "is not a limit"),
        ("accuracy/mean >= 1e999", "beyond any number"),
        ("accuracy/mean >= __import__('os')", "is not a limit"),
        ("latency/ttft_p59_ms <= 200", "unknown metric 'latency/ttft_p59_ms', near: latency/ttft_<s>_ms"),
        ("memory/required_mb <= 8000", "near: memory/required_mib"),
        ("verdict/gsm8k = inferior", "unknown metric|cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_a_wrong_constraint_is_one_line(text: str, named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        parse_constraint(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    for parse in (parse_constraint, parse_objective):
        try:
            assert parse(text).text
        except UserError as error:
            assert "allowed" in str(error)


def test_objectives() -> None:
    assert parse_objective(ACCURACY) == Objective(ACCURACY)
    assert parse_objective("energy/net_j_per_query or energy/gross_j_per_query").instead == ("energy/gross_j_per_query",)
    for text, named in {
        "acuracy": "unknown metric 'acuracy'.*near: accuracy",
        "energy/mean_power_w": "no better direction",
        "accuracy/mean or latency/e2e_mean_ms": "one direction",
    }.items():
        with pytest.raises(UserError, match=named):
            parse_objective(text)
    with pytest.raises(UserError, match="given twice"):
        parse_objectives([ACCURACY, LATENCY, ACCURACY])
    with pytest.raises(UserError, match="no objective"):
        parse_objectives([])


def test_the_stand_in_counts_only_where_nothing_has_the_metric() -> None:
    objective = parse_objective("latency/e2e_mean_ms or latency/amortized_b8_ms")
    assert objective.measured(frame_of([{LATENCY: 3.0}, {"latency/amortized_b8_ms": 1.0}])) == LATENCY
    assert objective.measured(frame_of([{LATENCY: None}, {"latency/amortized_b8_ms": 1.0}])) == "latency/amortized_b8_ms"
    assert objective.measured(frame_of([{ACCURACY: 0.5}])) is None
