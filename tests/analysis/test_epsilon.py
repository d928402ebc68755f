"""Epsilon-dominance: definition, properties, and moocore's epsilon indicators."""

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from analysis.pareto import Epsilon, cover, epsilon_front, non_dominated

points = hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.integers(2, 4)), elements=st.integers(1, 9).map(float))


@given(points)
def test_without_tolerance_it_is_the_front(values: np.ndarray) -> None:
    none = (Epsilon(),) * values.shape[1]
    assert (epsilon_front(values, none) == non_dominated(values)).all()
    distinct = np.unique(values[non_dominated(values)], axis=0)
    assert np.array_equal(np.unique(values[cover(values, none)], axis=0), distinct)
    assert cover(values, none).sum() == len(distinct)


@given(points, st.integers(0, 3))
def test_a_cover_is_within_an_additive_epsilon_by_moocore(values: np.ndarray, epsilon: int) -> None:
    chosen = cover(values, (Epsilon(additive=epsilon),) * values.shape[1])
    assert (non_dominated(values) | ~chosen).all()
    assert moocore.epsilon_additive(values[chosen], ref=values) <= epsilon


@given(points, st.floats(0, 1))
def test_a_cover_is_within_a_relative_epsilon_by_moocore(values: np.ndarray, epsilon: float) -> None:
    chosen = cover(values, (Epsilon(relative=epsilon),) * values.shape[1])
    assert moocore.epsilon_mult(values[chosen], ref=values) <= (1 + epsilon) * (1 + 1e-12)


@given(points, st.integers(0, 3))
def test_more_tolerance_keeps_more_and_covers_with_no_larger_a_need(values: np.ndarray, epsilon: int) -> None:
    small, large = ((Epsilon(additive=e),) * values.shape[1] for e in (epsilon, epsilon + 1))
    assert (epsilon_front(values, large) | ~epsilon_front(values, small)).all()
    order = np.arange(len(values))[::-1]
    assert (epsilon_front(values[order], small) == epsilon_front(values, small)[order]).all()
    assert np.array_equal(
        np.unique(values[order][cover(values[order], small)], axis=0), np.unique(values[cover(values, small)], axis=0)
    )


def test_by_hand() -> None:
    # Negated accuracy, latency.
    values = np.array([[-0.60, 20.0], [-0.59, 20.5], [-0.50, 10.0], [-0.50, 19.0], [-0.60, 20.0]])
    both = (Epsilon(relative=0.02), Epsilon(additive=1.0))
    assert epsilon_front(values, both).tolist() == [True, True, True, False, True]
    # Accuracy within 2 %, but not a millisecond more.
    assert epsilon_front(values, (Epsilon(relative=0.02), Epsilon())).tolist() == [True, False, True, False, True]
    assert cover(values, both).tolist() == [True, False, True, False, False]
    # One configuration is enough when 20 % of the accuracy may go.
    assert cover(values, (Epsilon(relative=0.2), Epsilon())).tolist() == [False, False, True, False, False]


def test_what_is_no_tolerance_is_refused() -> None:
    for wrong in ({"additive": -1.0}, {"additive": float("nan")}, {"relative": 1.5}, {"additive": float("inf")}):
        with pytest.raises(ValueError, match="additive must be 0 or more and finite, relative 0 to 1"):
            Epsilon(**wrong)
