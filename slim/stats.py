"""Statistics derived from raw samples. Arrays in, plain floats out; nothing here knows what is measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_BLOCKS, MAX_BLOCKS, BLOCK_REQUESTS = 5, 10, 5


@dataclass(frozen=True)
class Summary:
    """A sample's location, in the sample's own unit."""

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a mean, in the sample's own unit."""

    low: float
    high: float


def summarize(values: Sequence[float]) -> Summary:
    """Return mean and percentiles (linear interpolation between order statistics, numpy's default).

    Raises:
        ValueError: no values.
    """
    if len(values) == 0:
        raise ValueError("cannot summarize an empty sample")
    array = np.asarray(values, dtype=np.float64)
    p50, p95, p99 = np.percentile(array, [50, 95, 99])
    return Summary(float(array.mean()), float(p50), float(p95), float(p99))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Return Student's t interval of the mean of independent values; None for fewer than two."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    array = np.asarray(values, dtype=np.float64)
    half = float(t.ppf((1 + confidence) / 2, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return Interval(float(array.mean()) - half, float(array.mean()) + half)


def blocks(count: int) -> int:
    """Return into how many blocks so many consecutive requests are divided: up to ten, of five requests or more.

    Neighbours share the state of host and device. Fewer than 25 requests are too few for blocks; each is one then.
    """
    return count if count < MIN_BLOCKS * BLOCK_REQUESTS else min(MAX_BLOCKS, count // BLOCK_REQUESTS)


def block_interval(values: Sequence[float] | NDArray[np.float64], blocks: int) -> Interval | None:
    """Return the 95 % interval of the mean of values that follow one another; None for fewer than two blocks.

    Neighbours depend on each other, so that an interval which took each for an independent draw would be too narrow. The means of long
    blocks hardly do; Student's t is taken over them. Up to 30 blocks are usual: B. Schmeiser, Batch size effects in the analysis of
    simulation output, Operations Research 30 (1982).

    Args:
        values: in their order.
        blocks: to divide them into, as equal as can be.
    """
    if blocks < 2:
        return None
    return mean_interval([float(block.mean()) for block in np.array_split(np.asarray(values, dtype=np.float64), blocks)])


def relative_spread(values: Sequence[float]) -> float:
    """Return (largest - smallest) / mean; 0 for a single value.

    Raises:
        ValueError: no values, or a mean of zero.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) == 0 or array.mean() == 0:
        raise ValueError("relative spread needs values with a mean other than zero")
    return float((array.max() - array.min()) / array.mean())


def integrate(times_s: Sequence[float], power_w: Sequence[float]) -> float:
    """Return the energy in joules under power samples, by the trapezoid rule; 0 for fewer than two samples."""
    return float(np.trapezoid(np.asarray(power_w, dtype=np.float64), np.asarray(times_s, dtype=np.float64)))
