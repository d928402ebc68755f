"""The divergence against closed forms and scipy, and that what is kept of a distribution bounds it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.special import log_softmax
from scipy.stats import entropy

from slim.errors import StageError
from slim.evaluate.divergence import Divergence, compare, joined, keep

# Sums in float64 of values of this size are off by less.
ROUNDING = 1e-9
FINITE = st.floats(-40, 40, width=32)
# What an engine in 16 bit gives: few different values, so ties; and tokens that are ruled out.
TIED = st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0])


def logits(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def pairs(elements: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    shapes = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
    return shapes.flatmap(lambda shape: st.tuples(*[arrays(np.float32, shape, elements=elements)] * 2))


def exact(p: np.ndarray, q: np.ndarray) -> Divergence:
    return compare(keep(p, p.shape[1]), q)


def test_two_coins() -> None:
    found = exact(logits([math.log(0.75), math.log(0.25)]), logits([0.0, 0.0]))
    assert found.kl_nats == pytest.approx([0.75 * math.log(1.5) + 0.25 * math.log(0.5)], rel=1e-6)
    assert found.kl_upper_nats is None
    assert (found.baseline_top1.tolist(), found.top1.tolist(), found.agree.tolist()) == ([0], [0], [True])


def test_two_geometric_distributions() -> None:
    # p(i) = 2^-(i+1), q(i) = 2/3 3^-i over enough tokens that the rest does not matter: sum p i = 1.
    i = np.arange(60)
    found = exact(logits(list(-i * math.log(2))), logits(list(-i * math.log(3))))
    assert found.kl_nats[0] == pytest.approx(-2 * math.log(2) - math.log(2 / 3) + math.log(3), rel=1e-5)


@given(pairs(FINITE))
def test_whole_rows_give_what_scipy_gives(rows: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = (np.exp(log_softmax(r.astype(np.float64), axis=1)) for r in rows)
    assert exact(*rows).kl_nats == pytest.approx(entropy(p, q, axis=1), rel=1e-6, abs=1e-9)


@given(pairs(FINITE | TIED), st.data())
def test_the_bounds_hold_for_every_number_of_tokens_kept(rows: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    truth = exact(*rows)
    vocabulary = rows[0].shape[1]
    lower = np.zeros(len(rows[0]))
    for count in range(1, vocabulary):
        found = compare(keep(rows[0], count), rows[1])
        assert found.kl_upper_nats is not None
        assert (found.kl_nats <= truth.kl_nats + ROUNDING).all()
        assert (truth.kl_nats <= found.kl_upper_nats + ROUNDING).all()
        # More that is kept is never worse: the log-sum inequality again.
        assert (found.kl_nats >= lower - ROUNDING).all()
        lower = found.kl_nats
        assert (found.top1 == truth.top1).all()
    assert (compare(keep(rows[0], vocabulary + 1), rows[1]).kl_nats == truth.kl_nats).all()


@given(pairs(FINITE), st.integers(1, 11), st.integers(1, 11))
def test_narrowing_is_keeping_less(rows: tuple[np.ndarray, np.ndarray], first: int, second: int) -> None:
    direct, narrowed = keep(rows[0], second), keep(rows[0], max(first, second)).narrowed(second)
    assert (direct.logits == narrowed.logits).all()
    one, other = compare(direct, rows[1]), compare(narrowed, rows[1])
    assert one.kl_nats == pytest.approx(other.kl_nats, abs=ROUNDING)
    if one.kl_upper_nats is not None:
        assert one.kl_upper_nats == pytest.approx(other.kl_upper_nats, abs=ROUNDING)


@given(arrays(np.float32, (3, 9), elements=FINITE | TIED | st.just(-math.inf)), st.integers(1, 9))
def test_a_model_agrees_with_itself(rows: np.ndarray, count: int) -> None:
    rows[:, 4] = 1.0
    found = compare(keep(rows, count), rows)
    assert (found.kl_nats <= ROUNDING).all()
    assert (found.kl_nats >= 0).all()
    assert found.agree.all()
    if count == 9:
        assert (found.kl_nats == 0).all()


def test_the_upper_bound_is_reached() -> None:
    # Kept: one token with half of the mass; of the rest all is on the token that the configuration likes least, which is what
    # the bound supposes, and what the lower bound rules out least.
    p, q = logits([0.0, -math.inf, 0.0, -math.inf]), logits([0.0, 0.0, -5.0, 0.0])
    found = compare(keep(p, 1), q)
    assert found.kl_upper_nats == pytest.approx(exact(p, q).kl_nats)
    assert found.kl_nats[0] < found.kl_upper_nats[0]


def test_the_lower_bound_is_that_of_the_rest_as_one_token() -> None:
    p, q = logits([2.0, 1.0, 0.0, -1.0]), logits([0.0, 1.0, 2.0, 3.0])
    together = [
        np.array([*row[:2], np.log(np.exp(row[2:]).sum())])[None].astype(np.float32) for row in (p[0].astype(float), q[0])
    ]
    assert compare(keep(p, 2), q).kl_nats == pytest.approx(exact(*together).kl_nats, rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_token_that_is_ruled_out(count: int) -> None:
    possible, ruled_out = logits([1.0, 0.5, 0.0]), logits([1.0, 0.5, -math.inf])
    # p = 0 contributes nothing.
    fewer = compare(keep(ruled_out, count), possible)
    assert np.isfinite(fewer.kl_nats).all()
    # q = 0 with p > 0 is infinite, if not by what is kept then by what it may be.
    more = compare(keep(possible, count), ruled_out)
    assert (more.kl_nats if more.kl_upper_nats is None or count == 2 else more.kl_upper_nats).tolist() == [math.inf]
    # Neither is possible: nothing at all.
    if count > 1:
        assert compare(keep(ruled_out, count), ruled_out).kl_nats.tolist() == [0.0]


def test_a_probability_too_small_for_a_float_is_not_none() -> None:
    found = exact(logits([0.0, -2000.0]), logits([0.0, -math.inf]))
    assert found.kl_nats.tolist() == [math.inf]
    assert exact(logits([0.0, -2000.0]), logits([0.0, -4000.0])).kl_nats.tolist() == [0.0]


@pytest.mark.parametrize("count", [2, 4])
def test_tied_tokens_agree_when_any_of_them_is_shared(count: int) -> None:
    p = logits([1.0, 1.0, 0.0, -1.0], [1.0, 1.0, 0.0, -1.0], [3.0, 0.0, 0.0, 0.0])
    q = logits([0.0, 2.0, 2.0, -1.0], [0.0, 1.0, 2.0, -1.0], [0.0, 0.0, 0.0, 0.0])
    found = compare(keep(p, count), q)
    assert found.agree.tolist() == [True, False, True]
    assert found.baseline_top1.tolist() == [0, 0, 0]
    assert found.top1.tolist() == [1, 2, 0]


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [math.inf, 1.0], [-math.inf, -math.inf]])
def test_what_is_no_distribution_is_refused(bad: list[float]) -> None:
    good = logits([0.0, 1.0])
    with pytest.raises(StageError, match="not all numbers"):
        keep(logits(bad), 1)
    with pytest.raises(StageError, match="not all numbers"):
        compare(keep(good, 2), logits(bad))


def test_a_reference_that_is_not_normalized_is_refused() -> None:
    kept = keep(logits([0.0, 1.0]), 2)
    with pytest.raises(StageError, match="not normalized"):
        compare(type(kept)(kept.logits, kept.log_normalizer + 1), logits([0.0, 1.0]))


@pytest.mark.parametrize("count", [3, 7])
def test_rows_are_worked_on_in_parts(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.random.default_rng(1)
    p, q = source.normal(size=(2, 10, 7)).astype(np.float32)
    whole = compare(keep(p, count), q)
    monkeypatch.setattr("slim.evaluate.divergence._VALUES_AT_ONCE", 22)
    parts = compare(joined([keep(p[:4], count), keep(p[4:], count)]), q)
    assert (whole.kl_nats == parts.kl_nats).all()
    assert (whole.agree == parts.agree).all()
