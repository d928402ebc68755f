"""Statistics of paired items against scipy, closed forms and brute force."""

from collections.abc import Callable
from math import comb, log, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference
from scipy.optimize import minimize_scalar

from slim.comparison import paired

margins = st.floats(0.001, 0.5)


@st.composite
def tables(draw: st.DrawFn, most: int = 400) -> tuple[int, int, int]:
    """Items, lost and gained ones."""
    items = draw(st.integers(1, most))
    lost = draw(st.integers(0, items))
    return items, lost, draw(st.integers(0, items - lost))


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_tail_on_both_sides(lost: int, gained: int) -> None:
    p = paired.mcnemar_p(lost, gained)
    discordant = lost + gained
    tail = sum(comb(discordant, k) for k in range(min(lost, gained) + 1)) / 2**discordant
    assert p == pytest.approx(min(1.0, 2 * tail))
    assert p == pytest.approx(paired.mcnemar_p(gained, lost))


@given(tables(), margins)
def test_the_restricted_rate_is_the_likeliest(table: tuple[int, int, int], margin: float) -> None:
    items, lost, gained = table

    def likelihood(rate: float) -> float:
        cells = ((lost, rate), (gained, rate - margin), (items - lost - gained, 1 - 2 * rate + margin))
        return sum(count * log(max(share, 1e-300)) for count, share in cells if count)

    rate = paired.lost_rate_at_margin(items, lost, gained, margin)
    low, high = margin, (1 + margin) / 2
    assert low - 1e-12 <= rate <= high + 1e-12
    best = minimize_scalar(lambda q: -likelihood(q), bounds=(low, high), method="bounded", options={"xatol": 1e-12})
    assert likelihood(min(max(rate, low), high)) >= -best.fun - 1e-6 * max(1, abs(best.fun))


@given(tables(), margins)
def test_the_score_statistic_is_the_score_over_its_deviation(table: tuple[int, int, int], margin: float) -> None:
    items, lost, gained = table
    rate = paired.lost_rate_at_margin(items, lost, gained, margin)
    # Each item adds -1, 0 or 1; under the hypothesis with these chances.
    chances = np.array([rate, 1 - 2 * rate + margin, rate - margin])
    values = np.array([-1, 0, 1])
    mean = float(chances @ values)
    deviation = sqrt(items * float(chances @ (values - mean) ** 2))
    assert mean == pytest.approx(-margin)
    assert paired.score_statistic(items, lost, gained, margin) == pytest.approx((gained - lost - items * mean) / deviation)


@given(st.integers(1, 10_000), margins)
def test_the_extremes_have_closed_forms(items: int, margin: float) -> None:
    assert paired.score_statistic(items, 0, 0, margin) == pytest.approx(sqrt(items * margin / (1 - margin)))
    assert paired.score_statistic(items, items, 0, margin) == pytest.approx(-sqrt(items * (1 - margin) / (1 + margin)))
    assert paired.score_statistic(items, 0, items, margin) == pytest.approx(sqrt(items * (1 + margin) / (1 - margin)))


@pytest.mark.parametrize("items", [10, 25, 60, 150])
@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
def test_the_test_errs_about_as_often_as_it_says(items: int, margin: float) -> None:
    """Every possible outcome, at every lost rate that has a difference of exactly -margin."""
    outcomes = np.array([(lost, gained) for lost in range(items + 1) for gained in range(items + 1 - lost)])
    cells = np.column_stack([outcomes, items - outcomes.sum(axis=1)])
    verdicts = np.array(
        [paired.decide(paired.score_statistic(items, lost, gained, margin), items, 0.95).verdict for lost, gained in outcomes]
    )
    wrong = {"non-inferior": 0.0, "inferior": 0.0}
    for rate in margin + (1 - margin) / 2 * np.geomspace(0.002, 0.999, 30):
        chances = reference.multinomial.pmf(cells, items, [rate, rate - margin, 1 - 2 * rate + margin])
        wrong = {verdict: max(most, float(chances[verdicts == verdict].sum())) for verdict, most in wrong.items()}
    assert 0.03 < wrong["non-inferior"] < 0.08
    # Where the margin is a handful of items, their number can be no fifth or sixth.
    assert 0.03 < wrong["inferior"] < 0.09


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=60), st.floats(0.01, 0.1))
def test_with_equal_weights_the_mean_statistic_is_that_of_the_paired_t_test(values: list[float], margin: float) -> None:
    differences = np.array(values)
    statistic = paired.mean_statistic(differences, np.full(len(values), 0.3), margin)
    if differences.var(ddof=1) > margin * (1 - margin):
        assert statistic == pytest.approx(reference.ttest_1samp(differences, -margin).statistic)
    else:
        # The least variance: as if items were only lost.
        assert statistic == pytest.approx((differences.mean() + margin) / sqrt(margin * (1 - margin) / len(values)))


def test_an_item_of_twice_the_weight_pulls_twice_as_much() -> None:
    differences = np.array([-1.0, 0.0, 1.0, 0.0])
    weights = np.array([2.0, 1.0, 1.0, 1.0])
    share = weights / 5
    variance = (share**2 * (differences - (-1 / 5)) ** 2).sum() * 4 / 3
    assert paired.mean_statistic(differences, weights, 0.02) == pytest.approx((-1 / 5 + 0.02) / sqrt(variance))


@pytest.mark.parametrize("statistic", [paired.score_statistic, None])
def test_items_that_all_agree_decide_only_when_there_are_enough(statistic: Callable[..., float] | None) -> None:
    def decide(items: int) -> paired.Decision:
        value = statistic(items, 0, 0, 0.02) if statistic else paired.mean_statistic(np.zeros(items), np.ones(items), 0.02)
        return paired.decide(value, items, 0.95)

    # 0.98 / 0.02 * 1.645^2 = 132.6
    assert decide(1) == paired.Decision("undecided", 133)
    assert decide(132) == paired.Decision("undecided", 133)
    assert decide(133) == paired.Decision("non-inferior", 133)
    assert decide(5000) == paired.Decision("non-inferior", 133)


def test_without_items_or_without_a_tendency_nothing_would_decide() -> None:
    assert paired.decide(None, 0, 0.95) == paired.Decision("undecided", None)
    # 3 of 150 lost is a loss of exactly the margin.
    assert paired.decide(paired.score_statistic(150, 3, 0, 0.02), 150, 0.95) == paired.Decision("undecided", None)


@given(tables(), margins, st.floats(0.55, 0.999))
def test_that_many_items_of_the_same_rates_decide(table: tuple[int, int, int], margin: float, confidence: float) -> None:
    items, lost, gained = table
    statistic = paired.score_statistic(items, lost, gained, margin)
    decision = paired.decide(statistic, items, confidence)
    needed = decision.items_to_decide
    if needed is None:
        assert statistic == pytest.approx(0, abs=1e-9)
        return
    assert (needed > items) == (decision.verdict == "undecided")
    scale = needed / items
    enough = paired.score_statistic(needed, lost * scale, gained * scale, margin)
    threshold = reference.norm.ppf(confidence)
    assert abs(enough) >= threshold * (1 - 1e-9)
    if needed > 1:
        scale = (needed - 1) / items
        assert abs(paired.score_statistic(needed - 1, lost * scale, gained * scale, margin)) <= threshold * (1 + 1e-9)


@given(tables(), margins, margins)
def test_a_wider_margin_is_never_harder_to_meet(table: tuple[int, int, int], one: float, other: float) -> None:
    narrow, wide = sorted((one, other))
    assert paired.score_statistic(*table, wide) >= paired.score_statistic(*table, narrow) - 1e-9


WEIGHTED: dict[str, Any] = {
    "counted, equal weights": ([-1] * 12 + [1] * 5 + [0] * 100, [1.0] * 117),
    "counted, two weights": ([-1] * 12 + [1] * 5 + [0] * 100, [1.0] * 60 + [3.0] * 57),
    "drawn": (list(np.sin(np.arange(117))), list(1 + np.cos(np.arange(117)) / 2)),
}


@pytest.mark.parametrize("case", WEIGHTED)
def test_resampling_is_drawing_items_with_replacement(case: str) -> None:
    differences, weights = (np.array(values, dtype=np.float64) for values in WEIGHTED[case])
    made = paired.resampled_means(differences, weights, 20_000, np.random.default_rng(1))
    generator = np.random.default_rng(2)
    literal = []
    for _ in range(20_000):
        chosen = generator.integers(0, len(differences), len(differences))
        literal.append((weights[chosen] * differences[chosen]).sum() / weights[chosen].sum())
    assert made.mean() == pytest.approx(np.mean(literal), abs=4 * np.std(literal) / sqrt(20_000 / 2))
    assert made.std() == pytest.approx(np.std(literal), rel=0.03)
    # Means over few kinds of item fall on a lattice, so the distributions are compared on the lattice's scale.
    distance = reference.ks_2samp(np.round(made, 9), np.round(literal, 9)).statistic
    assert distance < 1.95 * sqrt(2 / 20_000)


def test_one_item_is_always_itself() -> None:
    means = paired.resampled_means(np.array([-1.0]), np.array([0.5]), 100, np.random.default_rng(0))
    assert (means == -1).all()


def test_many_resamples_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "_HELD", 100)
    for differences in (np.repeat([0.0, 1.0], 30), np.linspace(-1, 1, 60)):
        means = paired.resampled_means(differences, np.ones(60), 777, np.random.default_rng(0))
        assert means.shape == (777,)
        assert means.std() == pytest.approx(differences.std() / sqrt(60), rel=0.15)


def test_the_interval_is_made_of_percentiles() -> None:
    interval = paired.percentile_interval(np.arange(1001, dtype=np.float64))
    assert (interval.low, interval.high) == pytest.approx((25, 975))
