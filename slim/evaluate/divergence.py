"""How far apart two models' next-token distributions are, from raw logits; arrays in, arrays out.

A row is a place in a text, a column a token id. With p the baseline's distribution, q the configuration's, A the tokens
whose p is kept and B the rest, with r = p(B) and s = q(B), the Kullback-Leibler divergence in nats is

    KL(p || q) = sum over A of p log(p / q) + sum over B of p log(p / q).

Where every token is kept, B is empty and this is exact. Otherwise q is known as a whole, but of p on B only r, the sum over B of
p log p, and that no token has more than m, the smaller of r and the least likely kept token's p. So the second sum is

- at least r log(r / s): the log-sum inequality (Cover and Thomas, Elements of Information Theory, theorem 2.7.1), with which
  this is the divergence of the two distributions after the tokens of B are taken for one;
- at most sum over B of p log p, which is known, plus the largest possible value of sum over B of p (-log q). That is linear in
  p, so over all p with 0 <= p <= m and sum r it is largest where q's least likely tokens have m each until r is used up.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from slim.errors import Reason, StageError

Floats = NDArray[np.float64]

_VALUES_AT_ONCE = 1 << 22
"""Logits that are worked on in float64 at a time: 32 MiB."""

_ROUNDING_NATS = 1e-9
"""A divergence is never negative; sums of a vocabulary in float64 are off by less than this."""


@dataclass(frozen=True)
class Selection:
    """Which tokens of each row are kept, and what is known of the rest.

    Attributes:
        ids: token ids, most likely first; shape (rows, kept).
        rest_log_mass: log of the rest's probability, taken from the rest itself: 1 minus the kept ones' would cancel.
        rest_plogp: sum over the rest of p log p.
    """

    ids: NDArray[np.int32]
    rest_log_mass: Floats
    rest_plogp: Floats


@dataclass(frozen=True)
class Kept:
    """Distributions, as far as they are kept.

    Attributes:
        logits: raw; shape (rows, kept tokens), the column being the token id where there is no selection.
        log_normalizer: log of the sum of exp over all of the vocabulary's logits; shape (rows,).
        selection: None where whole rows are kept.
    """

    logits: NDArray[np.float32]
    log_normalizer: Floats
    selection: Selection | None = None

    @property
    def count(self) -> int:
        """Tokens kept a row."""
        return int(self.logits.shape[1])

    def rows(self, part: slice) -> Self:
        """Some of the rows."""
        chosen = self.selection
        some = Selection(chosen.ids[part], chosen.rest_log_mass[part], chosen.rest_plogp[part]) if chosen else None
        return type(self)(self.logits[part], self.log_normalizer[part], some)

    def narrowed(self, count: int) -> "Kept":
        """The same with only the ``count`` most likely tokens of each row."""
        if count >= self.count:
            return self
        if self.selection is None:
            return keep(self.logits, count)
        dropped = self.logits[:, count:].astype(np.float64) - self.log_normalizer[:, None]
        return Kept(
            self.logits[:, :count],
            self.log_normalizer,
            Selection(
                self.selection.ids[:, :count],
                np.logaddexp(self.selection.rest_log_mass, _log_sum_exp(dropped)),
                self.selection.rest_plogp + _plogp(dropped),
            ),
        )


@dataclass(frozen=True)
class Divergence:
    """The comparison of each row; every array has shape (rows,).

    Attributes:
        kl_nats: KL(baseline || configuration), the lower bound of it where not every token is kept. Infinite where the
            configuration rules out a token that the baseline does not.
        kl_upper_nats: upper bound; None where `kl_nats` is exact.
        baseline_top1, top1: most likely token of each, the one with the lowest id where several are.
        agree: whether some token is a most likely one of both. In 16 bit, different logits become equal so often that a tie is not
            rare, and which of the tied tokens comes first says nothing about the model.
    """

    kl_nats: Floats
    kl_upper_nats: Floats | None
    baseline_top1: NDArray[np.int32]
    top1: NDArray[np.int32]
    agree: NDArray[np.bool_]


def joined(parts: list[Kept]) -> Kept:
    """Return all rows of the parts, which keep equally many tokens."""
    chosen = [part.selection for part in parts if part.selection is not None]
    return Kept(
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.log_normalizer for part in parts]),
        Selection(
            np.concatenate([c.ids for c in chosen]),
            np.concatenate([c.rest_log_mass for c in chosen]),
            np.concatenate([c.rest_plogp for c in chosen]),
        )
        if chosen
        else None,
    )


def joined_divergences(parts: list[Divergence]) -> Divergence:
    """Return all rows of the parts."""
    uppers = [part.kl_upper_nats for part in parts if part.kl_upper_nats is not None]
    return Divergence(
        np.concatenate([part.kl_nats for part in parts]),
        np.concatenate(uppers) if uppers else None,
        np.concatenate([part.baseline_top1 for part in parts]),
        np.concatenate([part.top1 for part in parts]),
        np.concatenate([part.agree for part in parts]),
    )


def keep(logits: NDArray[np.float32], count: int) -> Kept:
    """Return what is kept of the baseline's rows.

    Args:
        logits: shape (rows, vocabulary).
        count: most likely tokens to keep, at least 1; the vocabulary's size or more keeps whole rows.

    Raises:
        StageError: a logit is not a number, or a row is nowhere finite.
    """
    check(logits)
    rows, vocabulary = logits.shape
    log_normalizer = np.empty(rows)
    if count >= vocabulary:
        for part in _parts(logits):
            log_normalizer[part] = _log_sum_exp(logits[part].astype(np.float64))
        return Kept(logits, log_normalizer)
    values = np.empty((rows, count), np.float32)
    ids = np.empty((rows, count), np.int32)
    rest_log_mass, rest_plogp = np.empty(rows), np.empty(rows)
    for part in _parts(logits):
        some = logits[part]
        log_normalizer[part] = _log_sum_exp(some.astype(np.float64))
        is_kept = _largest(some, count)
        chosen = np.nonzero(is_kept)[1].reshape(-1, count)
        # A stable sort, so that equal logits stay in the order of their ids.
        chosen = np.take_along_axis(chosen, np.argsort(-some[is_kept].reshape(-1, count), axis=1, kind="stable"), 1)
        ids[part], values[part] = chosen, np.take_along_axis(some, chosen, 1)
        rest = some[~is_kept].reshape(-1, vocabulary - count) - log_normalizer[part][:, None]
        rest_log_mass[part] = _log_sum_exp(rest)
        rest_plogp[part] = _plogp(rest)
    return Kept(values, log_normalizer, Selection(ids, rest_log_mass, rest_plogp))


def compare(kept: Kept, logits: NDArray[np.float32]) -> Divergence:
    """Compare a configuration with its baseline, row by row.

    Args:
        kept: of the baseline.
        logits: of the configuration; shape (rows, vocabulary).

    Raises:
        StageError: a logit is not a number, or what is kept is not a distribution.
    """
    check(logits)
    parts = [_compare(kept.rows(part), logits[part]) for part in _parts(logits)]
    return joined_divergences(parts)


def check(logits: NDArray[np.float32]) -> None:
    """Make sure that each row is a distribution; -inf is a token that is ruled out.

    Raises:
        StageError: it is none.
    """
    # A NaN anywhere in a row is its maximum too.
    if not np.isfinite(logits.max(axis=1)).all():
        raise StageError(Reason.EVALUATION, "the engine's logits are not all numbers")


def _compare(kept: Kept, logits: NDArray[np.float32]) -> Divergence:
    chosen = kept.selection
    log_q = logits.astype(np.float64)
    log_q -= _log_sum_exp(log_q)[:, None]
    log_p = kept.logits.astype(np.float64) - kept.log_normalizer[:, None]
    is_top = logits == logits.max(axis=1, keepdims=True)
    was_top = kept.logits == kept.logits.max(axis=1, keepdims=True)
    if chosen is None:
        kl, upper = _terms(log_p, log_q).sum(axis=1), None
        baseline_top1 = kept.logits.argmax(axis=1)
        agree = (is_top & was_top).any(axis=1)
    else:
        ids = chosen.ids.astype(np.int64)
        known = _terms(log_p, np.take_along_axis(log_q, ids, 1)).sum(axis=1)
        rest = _without(log_q, ids)
        kl = known + _terms(chosen.rest_log_mass, _log_sum_exp(rest))
        worst = [_worst(*row) for row in zip(rest, np.exp(log_p[:, -1]), np.exp(chosen.rest_log_mass), strict=True)]
        upper = known + chosen.rest_plogp + worst
        baseline_top1 = ids[:, 0]
        agree = (np.take_along_axis(is_top, ids, 1) & was_top).any(axis=1)
    if (kl < -_ROUNDING_NATS).any():
        raise StageError(Reason.EVALUATION, "what is kept of the baseline's distributions is not normalized")
    kl = np.maximum(kl, 0.0)
    return Divergence(
        kl,
        None if upper is None else np.maximum(upper, kl),
        baseline_top1.astype(np.int32),
        logits.argmax(axis=1).astype(np.int32),
        np.asarray(agree),
    )


def _terms(log_p: Floats, log_q: Floats) -> Floats:
    """p log(p / q), by definition 0 where p is 0, whatever q is, and infinite where only q is."""
    ruled_out = log_p == -np.inf
    with np.errstate(invalid="ignore"):
        terms = np.exp(log_p) * (log_p - log_q)
    # Asked of the logarithms: a p so small that exp makes it 0 is still more than none.
    return np.where(ruled_out, 0.0, np.where(log_q == -np.inf, np.inf, terms))


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """Which are the ``count`` largest of each row; of equal ones those with the lowest ids."""
    place = values.shape[1] - count
    last = np.partition(values, place, axis=1)[:, place, None]
    larger, equal = values > last, values == last
    left = count - larger.sum(axis=1, keepdims=True)
    chosen: NDArray[np.bool_] = larger | (equal & (np.cumsum(equal, axis=1) <= left))
    return chosen


def _without(values: Floats, ids: NDArray[np.int64]) -> Floats:
    """The columns of each row other than those of ``ids``; shape (rows, columns - kept)."""
    others = np.ones(values.shape, np.bool_)
    np.put_along_axis(others, ids, False, axis=1)
    rest: Floats = values[others].reshape(len(values), -1)
    return rest


def _worst(log_q: Floats, most: float, mass: float) -> float:
    """The largest sum of p (-log q) over tokens of which none has more than ``most`` and all together have ``mass``."""
    if mass == 0:
        return 0.0
    # Exp may have made the least likely kept token's p 0; then the mass itself is the bound.
    most = min(most, mass) or mass
    # As many as have their full share; rounding must not make them more than there are.
    full = min(int(mass / most), len(log_q) - 1)
    ordered = np.partition(log_q, full)
    if ordered[: full + 1].min() == -np.inf:
        return np.inf
    return float(-most * ordered[:full].sum() - (mass - full * most) * ordered[full])


def _log_sum_exp(values: Floats) -> Floats:
    """log of the sum of exp of each row; -inf for a row of them. `scipy.special.logsumexp` takes 20 times as long."""
    peak = values.max(axis=1, keepdims=True)
    peak[peak == -np.inf] = 0
    with np.errstate(divide="ignore"):
        total: Floats = np.log(np.exp(values - peak).sum(axis=1)) + peak[:, 0]
    return total


def _plogp(log_p: Floats) -> Floats:
    """Sum of p log p of each row."""
    total: Floats = _terms(log_p, np.zeros_like(log_p)).sum(axis=1)
    return total


def _parts(values: NDArray[Any]) -> Iterator[slice]:
    """Slices of rows that are small enough to be worked on at once."""
    step = max(1, _VALUES_AT_ONCE // values.shape[1])
    for start in range(0, len(values), step):
        yield slice(start, start + step)
