"""Fronts: properties, and agreement with moocore."""

import moocore
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from analysis import pareto
from slim.errors import UserError

points = hnp.arrays(np.float64, st.tuples(st.integers(1, 40), st.integers(2, 4)), elements=st.integers(0, 5).map(float))


@given(points)
def test_agrees_with_moocore(values: np.ndarray) -> None:
    assert (pareto.non_dominated(values) == moocore.is_nondominated(values, keep_weakly=True)).all()


@given(points)
def test_order_and_scale_do_not_matter(values: np.ndarray) -> None:
    mask = pareto.non_dominated(values)
    order = np.arange(len(values))[::-1]
    assert (pareto.non_dominated(values[order]) == mask[order]).all()
    assert (pareto.non_dominated(values * 7 - 3) == mask).all()


@given(points)
def test_something_is_always_on_the_front_and_duplicates_share_it(values: np.ndarray) -> None:
    mask = pareto.non_dominated(values)
    assert mask.any()
    doubled = pareto.non_dominated(np.vstack([values, values]))
    assert (doubled[: len(values)] == mask).all()
    assert (doubled[len(values) :] == mask).all()


def test_directions_come_from_the_metric_table_and_missing_values_are_off_the_front() -> None:
    frame = pd.DataFrame(
        {"accuracy/mean": [0.6, 0.5, 0.4, 0.9], "latency/e2e_mean_ms": [20.0, 10.0, 30.0, np.nan]}, index=["a", "b", "c", "d"]
    )
    assert pareto.front(frame, ["accuracy/mean", "latency/e2e_mean_ms"]).to_dict() == {
        "a": True,
        "b": True,
        "c": False,
        "d": False,
    }


def test_a_metric_without_direction_or_unknown_is_no_objective() -> None:
    frame = pd.DataFrame({"energy/idle_w": [1.0]})
    with pytest.raises(UserError, match="no better direction"):
        pareto.front(frame, ["energy/idle_w"])
    with pytest.raises(UserError, match="unknown metric"):
        pareto.front(frame, ["latency"])
