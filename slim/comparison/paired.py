"""Statistics of paired items: the same questions put to a baseline and to a configuration.

Counts and arrays in, plain numbers out. ``lost`` counts the items that the baseline had right and the configuration wrong,
``gained`` those the other way round; a difference is the configuration's value less the baseline's.
"""

from dataclasses import dataclass
from math import ceil, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slim.stats import Interval

Verdict = Literal["non-inferior", "inferior", "undecided"]

# Numbers that are drawn at once, whatever the number of items and resamples.
_HELD = 1 << 20
# Counting is faster than drawing every item as long as the items fall into few kinds.
_ITEMS_A_KIND = 20
# A statistic below this is zero but for rounding.
_ZERO = 1e-9


@dataclass(frozen=True)
class Decision:
    """What a test against a margin says.

    Attributes:
        verdict: ``non-inferior`` when the difference is above -margin at the confidence asked for, ``inferior`` when it is
            below, else ``undecided``.
        items_to_decide: items at which the observed rates would decide, not more than there are where they do; None when no
            number would, or nothing was observed.
    """

    verdict: Verdict
    items_to_decide: int | None


def mcnemar_p(lost: int, gained: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: the discordant items against a fair coin; 1 without any."""
    if lost + gained == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + gained, 0.5).pvalue)


def lost_rate_at_margin(items: float, lost: float, gained: float, margin: float) -> float:
    """Return the likeliest rate of lost items if the rate of gained items were smaller by exactly ``margin``.

    With that rate q the log-likelihood is ``lost log q + gained log(q - margin) + same log(1 - 2 q + margin)``; where it is
    flat is a quadratic's larger root (Tango, Statistics in Medicine 17, 1998, 891-908). It lies between ``margin``
    and ``(1 + margin) / 2``.
    """
    linear = -margin * (2 * items + lost - gained) - (lost + gained)
    constant = lost * margin * (1 + margin)
    # Without gained items the roots can be equal, and their distance a rounding error below zero.
    return (sqrt(max(0.0, linear * linear - 8 * items * constant)) - linear) / (4 * items)


def score_statistic(items: float, lost: float, gained: float, margin: float) -> float:
    """Return Tango's score statistic of the hypothesis that the difference of two paired rates is -margin.

    It is standard normal under the hypothesis, for many items, and above zero when the difference is above -margin. Its variance
    is the hypothesis's own and never zero, so it also holds for items that all agree (Tango 1998, as
    `lost_rate_at_margin`).

    Args:
        items: pairs, at least one.
        lost, gained: discordant ones.
        margin: between 0 and 1, exclusive.
    """
    rate = lost_rate_at_margin(items, lost, gained, margin)
    return (gained - lost + items * margin) / sqrt(items * (2 * rate - margin * (1 + margin)))


def mean_statistic(differences: NDArray[np.float64], weights: NDArray[np.float64], margin: float) -> float:
    """Return the normal statistic of the hypothesis that the weighted mean of the differences is -margin.

    With equal weights it is that of the paired t test. The variance of an item is taken to be at least ``margin (1 - margin)``,
    which is what it would be if items were only lost, at that rate: otherwise a few items that happen to agree would decide.

    Args:
        differences: in [-1, 1], at least one.
        weights: of the items, above zero, in any unit.
        margin: between 0 and 1, exclusive.
    """
    share = weights / weights.sum()
    mean = float(share @ differences)
    concentration = float(share @ share)
    count = len(differences)
    observed = float(share**2 @ (differences - mean) ** 2) / concentration * count / (count - 1) if count > 1 else 0.0
    return (mean + margin) / sqrt(max(observed, margin * (1 - margin)) * concentration)


def decide(statistic: float | None, items: int, confidence: float) -> Decision:
    """Return what a statistic says at a one-sided confidence.

    Args:
        statistic: standard normal where the difference is -margin, growing with the root of the items; None without items.
        items: it is over.
        confidence: of either verdict, above one half.
    """
    if statistic is None:
        return Decision("undecided", None)
    from scipy.stats import norm

    needed = float(norm.ppf(confidence))
    verdict: Verdict = "non-inferior" if statistic >= needed else "inferior" if statistic <= -needed else "undecided"
    if abs(statistic) < _ZERO:
        return Decision(verdict, None)
    enough = ceil(items * (needed / statistic) ** 2)
    # At the very edge rounding must not contradict the verdict.
    return Decision(verdict, max(enough, items + 1) if verdict == "undecided" else max(1, min(enough, items)))


def resampled_means(
    differences: NDArray[np.float64], weights: NDArray[np.float64], resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return the weighted mean of each of many resamples of the items, drawn with replacement; weights are renormalised.

    Items of the same difference and weight are interchangeable, so where there are few kinds of them only their numbers are
    drawn, which is the same thing in distribution: a multinomial over the kinds.

    Args:
        differences: of the items, at least one.
        weights: above zero.
        resamples: how many.
        generator: of the draws.

    Returns:
        shape (resamples,).
    """
    count = len(differences)
    kinds, numbers = np.unique(np.stack([weights * differences, weights]), axis=1, return_counts=True)
    by_kind = len(numbers) <= max(3, count // _ITEMS_A_KIND)
    step = max(1, _HELD // (len(numbers) if by_kind else count))
    means = np.empty(resamples)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        if by_kind:
            drawn = generator.multinomial(count, numbers / count, size=size)
            sums, totals = drawn @ kinds[0], drawn @ kinds[1]
        else:
            chosen = generator.integers(0, count, size=(size, count), dtype=np.int32)
            sums, totals = (weights * differences)[chosen].sum(axis=1), weights[chosen].sum(axis=1)
        means[start : start + size] = sums / totals
    return means


def percentile_interval(means: NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Return the two-sided percentile bootstrap interval of resampled means."""
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
