"""Recommendations: known answers, and properties that hold for every frame."""

from dataclasses import replace
from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from analysis import pareto
from analysis.recommend import DEPLOYMENTS, Request, balance, deployments, named, recommend, request, sentences
from slim.errors import UserError
from slim.metrics import Better, get
from tests.analysis.made import ACCURACY, ENERGY, LATENCY, MEMORY, frame_of, points

KEYS = (ACCURACY, LATENCY, ENERGY, MEMORY)
BALANCED = request(KEYS)

arrays = hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(4)), elements=st.integers(1, 9).map(float))
holes = hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(4)), elements=st.integers(1, 9).map(float) | st.just(np.nan))
orders = st.randoms(use_true_random=False)
requests = st.sampled_from(
    [
        BALANCED,
        request([LATENCY, ACCURACY], weights=[1, 3]),
        request([ACCURACY]),
        request([LATENCY], [f"{ACCURACY} >= 5"]),
        request([ENERGY], [f"{ACCURACY} >= 4", f"{MEMORY} <= 5 if measured"]),
        *DEPLOYMENTS.values(),
    ]
)


def based(values: np.ndarray) -> pd.DataFrame:
    """The first row is the baseline of all."""
    made = points(values)
    made["baseline"] = [None, *["r0"] * (len(made) - 1)]
    made["precision"] = ["bf16", *["gptq-int8"] * (len(made) - 1)]
    return made


@pytest.fixture
def frame() -> pd.DataFrame:
    base = {"baseline": "bf16"}
    return frame_of(
        [
            {
                "run_id": "bf16",
                "configuration": "m/bf16@vllm",
                "precision": "bf16",
                ACCURACY: 0.80,
                LATENCY: 100.0,
                MEMORY: 6000.0,
            },
            {"run_id": "int8", "configuration": "m/int8@vllm", ACCURACY: 0.79, LATENCY: 60.0, MEMORY: 3500.0, **base},
            {"run_id": "int4", "configuration": "m/int4@vllm", ACCURACY: 0.72, LATENCY: 50.0, MEMORY: 2000.0, **base},
            {"run_id": "nf4", "configuration": "m/nf4@vllm", "status": "FAILED", "failure": "out_of_memory", **base},
            {"run_id": "fp4", "configuration": "m/fp4@vllm", "status": "RUNNING", **base},
            {"run_id": "part", "configuration": "m/part@vllm", ACCURACY: 0.9, **base},
        ]
    )


def test_the_least_latency_that_stays_accurate(frame: pd.DataFrame) -> None:
    answer = recommend(frame, named("latency-critical"))
    assert answer.choice is not None
    assert answer.choice.run_id == "int8"
    assert answer.choice.values == {LATENCY: 60.0}
    (slack,) = answer.choice.slacks
    assert (slack.value, slack.bound, slack.slack) == (0.79, pytest.approx(0.784), pytest.approx(0.006))
    assert slack.relative == pytest.approx(0.006 / 0.784)
    assert answer.runner_up is not None
    assert answer.runner_up.option.run_id == "bf16"
    assert (answer.runner_up.behind, answer.runner_up.relative) == (40.0, pytest.approx(2 / 3))
    assert [(each.run_id, each.reasons) for each in answer.unmet] == [("int4", ("accuracy/mean >= 0.98 * baseline if measured",))]
    assert {each.run_id: each.reasons for each in answer.left_out} == {
        "nf4": ("failed: out_of_memory",),
        "fp4": ("not finished (RUNNING)",),
        "part": (f"no {LATENCY}",),
    }
    text = "\n".join(sentences(answer))
    assert "latency-critical: m/int8@vllm (of 2 that qualify): latency/e2e_mean_ms 60.00 ms." in text
    assert "0.7900, 0.0060 to spare (0.8%)" in text
    assert "Runner-up: m/bf16@vllm, 66.7% behind (latency/e2e_mean_ms +40.00 ms)." in text
    assert "m/nf4@vllm (failed: out_of_memory)" in text


def test_a_budget_and_a_verdict_of_a_users_own(frame: pd.DataFrame) -> None:
    frame["verdict/gsm8k"] = [None, "non-inferior", "inferior", None, None, "undecided"]
    answer = recommend(frame, request([ACCURACY], ["memory/required_mib <= 4000", "non-inferior gsm8k"]))
    assert answer.choice is not None
    assert answer.choice.run_id == "int8"
    assert [slack.slack for slack in answer.choice.slacks] == [500.0, None]
    assert answer.choice.slacks[1].verdict == "non-inferior"
    whole = recommend(frame, request([ACCURACY], ["non-inferior gsm8k"]))
    assert whole.choice is not None
    assert whole.choice.run_id == "bf16"
    assert "Meets non-inferior gsm8k: it is the baseline." in sentences(whole)


def test_nothing_qualifies_and_the_nearest_is_named(frame: pd.DataFrame) -> None:
    answer = recommend(frame, request([ACCURACY], ["latency/e2e_mean_ms <= 40", "memory/required_mib <= 2500"]))
    assert answer.choice is None
    assert answer.nearest is not None
    assert answer.nearest.option.run_id == "int4"
    assert answer.nearest.distance == pytest.approx(10 / 40)
    assert [slack.key for slack in answer.nearest.misses] == [LATENCY]
    assert len(answer.unmet) == 3
    head, missed, *_ = sentences(answer)
    assert head == "as asked: nothing qualifies; the nearest is m/int4@vllm (accuracy/mean 0.7200)."
    assert missed == "It misses latency/e2e_mean_ms <= 40: 50.00 ms, by 10.00 ms (25.0% of 40.00 ms)."
    farther = recommend(frame, request([ACCURACY], ["latency/e2e_mean_ms <= 59", "memory/required_mib <= 200", "non-inferior x"]))
    assert farther.nearest is None
    assert "no configuration could be judged" in sentences(farther)[0]


def test_a_missed_verdict_counts_one(frame: pd.DataFrame) -> None:
    frame["verdict/gsm8k"] = [None, "undecided", "inferior", None, None, None]
    answer = recommend(frame, request([ACCURACY], ["non-inferior gsm8k", "latency/e2e_mean_ms <= 51"]))
    assert answer.nearest is not None
    assert answer.nearest.option.run_id == "bf16"
    assert answer.nearest.distance == pytest.approx(49 / 51)
    slower = recommend(frame, request([ACCURACY], ["non-inferior gsm8k", "latency/e2e_mean_ms <= 45"]))
    assert slower.nearest is not None
    assert slower.nearest.option.run_id == "int4"
    assert slower.nearest.distance == pytest.approx(1 + 5 / 45)
    assert "It misses non-inferior gsm8k: the verdict is inferior." in sentences(slower)


def test_what_nothing_has_is_dropped_and_told(frame: pd.DataFrame) -> None:
    answer = recommend(frame, named("balanced"))
    assert answer.objectives == (ACCURACY, LATENCY, MEMORY)
    assert answer.dropped == {deployments.ENERGY: "no configuration has it"}
    frame["latency/amortized_b8_ms"] = frame[LATENCY]
    stands_in = recommend(frame.drop(columns=[LATENCY, ACCURACY]), named("latency-critical"))
    assert stands_in.replaced == {LATENCY: "latency/amortized_b8_ms"}
    assert list(stands_in.dropped) == ["accuracy/mean >= 0.98 * baseline if measured"]
    assert stands_in.choice is not None
    assert stands_in.choice.run_id == "int4"
    nothing = recommend(frame.drop(columns=ACCURACY), named("accuracy-critical"))
    assert (nothing.choice, nothing.nearest, nothing.objectives) == (None, None, ())
    assert sentences(nothing)[:2] == (
        "accuracy-critical: no recommendation, since nothing that is to be good was measured.",
        "Does not count: accuracy/mean (no configuration has it).",
    )


def test_flagged_measurements_count_unless_refused(frame: pd.DataFrame) -> None:
    frame.loc["int8", "validity"] = "warmup_unsettled"
    kept = recommend(frame, named("latency-critical"))
    assert kept.choice is not None
    assert (kept.choice.run_id, kept.choice.flagged, kept.flagged) == ("int8", "warmup_unsettled", 1)
    refused = recommend(frame, named("latency-critical"), keep_flagged=False)
    assert refused.choice is not None
    assert refused.choice.run_id == "bf16"
    assert ("flagged: warmup_unsettled",) in [each.reasons for each in refused.left_out]


def test_several_kinds_of_hardware_are_refused(frame: pd.DataFrame) -> None:
    frame.loc["int8", "hardware"] = "H200"
    with pytest.raises(UserError, match=r"2 kinds of hardware \(H100, H200\); allowed: one"):
        recommend(frame, BALANCED)


def test_unknown_names_and_weights_are_refused() -> None:
    with pytest.raises(UserError, match="unknown deployment 'fast'; allowed: accuracy-critical"):
        named("fast")
    for weights in ([1.0], [1.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(UserError, match="allowed: 2 numbers above 0"):
            request([ACCURACY, LATENCY], weights=weights)
    more = named("latency-critical").demanding(["memory/required_mib <= 4000"])
    assert [c.text for c in more.constraints] == ["accuracy/mean >= 0.98 * baseline if measured", "memory/required_mib <= 4000"]


def test_equals_are_named_and_told_apart() -> None:
    rows = [{ACCURACY: 0.5, LATENCY: 9.0}, {ACCURACY: 0.5, LATENCY: 7.0}, {ACCURACY: 0.5}, {ACCURACY: 0.4, LATENCY: 1.0}]
    answer = recommend(frame_of(rows), named("accuracy-critical"))
    assert answer.choice is not None
    assert answer.choice.run_id == "r1"
    assert answer.ties == ("m/c0@vllm", "m/c2@vllm")
    assert answer.runner_up is not None
    assert answer.runner_up.option.run_id == "r3"


def test_the_nearest_to_the_ideal_point_by_hand() -> None:
    # The front's ends are 0.8 to 0.7 and 10 to 30 ms; shortfalls (0, 1), (0.2, 0.25), (1, 0); the last is dominated.
    rows = np.array([[0.8, 30], [0.78, 15], [0.7, 10], [0.69, 100]])
    answer = recommend(points(rows), request([ACCURACY, LATENCY]))
    assert answer.choice is not None
    assert answer.choice.run_id == "r1"
    assert answer.choice.shortfalls == {ACCURACY: pytest.approx(0.2), LATENCY: pytest.approx(0.25)}
    assert answer.choice.distance == pytest.approx(np.sqrt((0.2**2 + 0.25**2) / 2))
    low, high = answer.weights[0].low, answer.weights[0].high
    # r0 is as near when 0.2² t² + 0.25² (1-t)² = (1-t)², r2 when it is t².
    assert 0.04 * high**2 + 0.0625 * (1 - high) ** 2 == pytest.approx((1 - high) ** 2)
    assert 0.04 * low**2 + 0.0625 * (1 - low) ** 2 == pytest.approx(low**2)
    assert (answer.weights[0].below, answer.weights[0].above) == ("m/c2@vllm", "m/c0@vllm")


@given(arrays, requests)
def test_the_choice_qualifies_and_nothing_that_qualifies_dominates_it(values: np.ndarray, asked: Request) -> None:
    frame = based(values)
    answer = recommend(frame, asked)
    out = {each.run_id for each in (*answer.unmet, *answer.left_out)}
    rest = frame.drop(index=list(out))
    assert answer.qualified == len(rest)
    if answer.choice is None:
        assert rest.empty
        assert answer.nearest is None or answer.nearest.misses
        return
    assert all(slack.met for slack in answer.choice.slacks)
    signs = [-1 if get(key).better is Better.HIGHER else 1 for key in answer.objectives]
    mask = pareto.non_dominated(rest[list(answer.objectives)].to_numpy() * signs)
    assert mask[rest.index.get_loc(answer.choice.run_id)]


@given(holes, requests, orders)
def test_the_order_of_rows_does_not_matter(values: np.ndarray, asked: Request, random: Random) -> None:
    frame = based(values)
    order = list(frame.index)
    random.shuffle(order)
    one, other = recommend(frame, asked), recommend(frame.loc[order], asked)
    assert sorted(each.run_id for each in one.left_out) == sorted(each.run_id for each in other.left_out)
    assert (one.choice, one.ties, one.nearest, one.runner_up) == (other.choice, other.ties, other.nearest, other.runner_up)
    assert one.dropped == other.dropped


@given(holes, requests)
def test_what_lacks_a_metric_is_left_out_by_name(values: np.ndarray, asked: Request) -> None:
    frame = based(values)
    answer = recommend(frame, asked)
    for each in answer.left_out:
        assert each.reasons
        assert all(reason for reason in each.reasons)
    lacking = set(frame.index[frame[list(answer.objectives)].isna().any(axis=1)]) if answer.objectives else set(frame.index)
    assert lacking <= {each.run_id for each in answer.left_out}
    assert answer.qualified + len(answer.unmet) + len(answer.left_out) == len(frame)


factors = st.lists(st.sampled_from([0.001, 0.25, 1024.0, 3.6e6]), min_size=4, max_size=4)
shifts = st.lists(st.sampled_from([0.0, 273.15, -4.0]), min_size=4, max_size=4)


@given(arrays, factors, shifts)
def test_other_units_change_nothing_in_the_balance(values: np.ndarray, by: list[float], shift: list[float]) -> None:
    one = recommend(points(values), BALANCED)
    other = recommend(points(values * by + shift), BALANCED)
    assert one.choice is not None
    assert other.choice is not None
    assert one.choice.run_id == other.choice.run_id
    assert one.choice.distance == pytest.approx(other.choice.distance, abs=1e-6)
    assert one.ties == other.ties
    for mine, its in zip(one.weights, other.weights, strict=True):
        assert (mine.low, mine.high) == pytest.approx((its.low, its.high), abs=1e-4)


@given(arrays, st.integers(0, 11))
def test_copies_and_dominated_points_change_nothing_in_the_balance(values: np.ndarray, which: int) -> None:
    one = recommend(points(values), BALANCED)
    row = values[which % len(values)]
    worse = row + np.array([-1.0, 5.0, 50.0, 0.0])
    more = recommend(points(np.vstack([values, row, worse])), BALANCED)
    assert one.choice is not None
    assert more.choice is not None
    assert more.choice.values == one.choice.values
    assert more.choice.distance == one.choice.distance
    assert [(w.low, w.high) for w in more.weights] == [(w.low, w.high) for w in one.weights]
    assert set(one.ties) <= set(more.ties)


@given(arrays, st.integers(1, 9), st.integers(1, 9), st.sampled_from([ACCURACY, LATENCY, ENERGY]))
def test_asking_for_more_never_makes_the_objective_better(values: np.ndarray, a: int, b: int, key: str) -> None:
    frame, sign = points(values), -1 if key == ACCURACY else 1
    loose, tight = (recommend(frame, request([key], [f"{MEMORY} <= {bound}"])) for bound in (max(a, b), min(a, b)))
    if tight.choice is not None:
        assert loose.choice is not None
        assert sign * tight.choice.values[key] >= sign * loose.choice.values[key]
    if loose.choice is None:
        assert tight.choice is None
        assert loose.nearest is not None
        assert tight.nearest is not None
        assert tight.nearest.distance >= loose.nearest.distance


@given(arrays, st.integers(1, 9), st.sampled_from([0.125, 1024.0]))
def test_the_distance_of_the_nearest_has_no_unit(values: np.ndarray, bound: int, factor: float) -> None:
    asked = request([ACCURACY], [f"{MEMORY} <= {bound}", f"{LATENCY} <= 2"])
    scaled = request([ACCURACY], [f"{MEMORY} <= {bound * factor}", f"{LATENCY} <= 2"])
    one, other = recommend(points(values), asked), recommend(points(values * [1, 1, 1, factor]), scaled)
    assume(one.nearest is not None)
    assert one.nearest is not None
    assert other.nearest is not None
    assert one.nearest.option.run_id == other.nearest.option.run_id
    assert one.nearest.distance == pytest.approx(other.nearest.distance)


@given(arrays, st.integers(0, 3))
def test_the_choice_stays_within_the_weights_told_and_not_beyond(values: np.ndarray, which: int) -> None:
    frame = points(values)
    answer = recommend(frame, BALANCED)
    assert answer.choice is not None
    told = answer.weights[which]

    def farther(share: float) -> float:
        """How much farther than the nearest the choice is when the objective has this share."""
        shares = np.full(4, (1 - share) / 3)
        shares[which] = share
        signed = values * [-1, 1, 1, 1]
        far = balance.distances(balance.shortfalls(signed), shares)[pareto.non_dominated(signed)]
        here = balance.distances(balance.shortfalls(signed), shares)[frame.index.get_loc(answer.choice.run_id)]
        return float(here - far.min())

    for part in (0.01, 0.5, 0.99):
        assert farther(told.low + part * (told.high - told.low)) <= 1e-9
    if told.above is not None and told.high < 0.98:
        assert farther(told.high + 0.01) > 0
    if told.below is not None and told.low > 0.02:
        assert farther(told.low - 0.01) > 0


def test_the_one_table_reads_as_it_is_meant() -> None:
    assert list(DEPLOYMENTS) == ["accuracy-critical", "latency-critical", "energy-constrained", "memory-constrained", "balanced"]
    for name, asked in DEPLOYMENTS.items():
        again = request([o.text for o in asked.objectives], [c.text for c in asked.constraints], name=name, meaning=asked.meaning)
        assert replace(again, then=asked.then) == asked
