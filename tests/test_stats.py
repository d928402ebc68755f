"""Statistics against closed forms and scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from slim import stats

values = st.lists(st.floats(0.001, 1e6), min_size=2, max_size=50)


@given(values)
def test_interval_is_students(sample: list[float]) -> None:
    interval = stats.mean_interval(sample)
    assert interval is not None
    if len(set(sample)) > 1:
        low, high = reference.t.interval(0.95, len(sample) - 1, np.mean(sample), reference.sem(sample))
        assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)
    assert interval.low <= np.mean(sample) * (1 + 1e-12)


@pytest.mark.parametrize(("count", "blocks"), [(1, 1), (24, 24), (25, 5), (30, 6), (49, 9), (50, 10), (5000, 10)])
def test_requests_are_divided_into_blocks(count: int, blocks: int) -> None:
    assert stats.blocks(count) == blocks


@given(values)
def test_summary_is_ordered_and_within_the_sample(sample: list[float]) -> None:
    summary = stats.summarize(sample)
    assert min(sample) <= summary.p50 <= summary.p95 <= summary.p99 <= max(sample)
    assert summary.mean == pytest.approx(np.mean(sample))


def test_one_value_has_no_interval_and_none_no_summary() -> None:
    assert stats.mean_interval([1.0]) is None
    with pytest.raises(ValueError, match="empty"):
        stats.summarize([])


def test_constant_power_integrates_to_power_times_time() -> None:
    assert stats.integrate([0.0, 0.5, 2.0], [100.0, 100.0, 100.0]) == pytest.approx(200.0)
    assert stats.integrate([0.0, 1.0], [0.0, 100.0]) == pytest.approx(50.0)


def test_relative_spread() -> None:
    assert stats.relative_spread([9.0, 10.0, 11.0]) == pytest.approx(0.2)
    assert stats.relative_spread([3.0]) == 0
    with pytest.raises(ValueError, match="mean"):
        stats.relative_spread([])
