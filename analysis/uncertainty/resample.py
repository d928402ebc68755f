"""Redrawing a figure from its raw samples. Arrays in, draws out; deterministic for a seed."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np

from analysis.samples import Array, Requests, statistic_of
from slim.stats import Interval, blocks

# Numbers that are held at once, whatever the number of samples and draws.
_HELD = 1 << 22


def generator(seed: int, *what: str) -> np.random.Generator:
    """Return the generator of one thing's draws, which do not depend on what else is drawn."""
    digest = sha256("\n".join(what).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, dtype=np.uint32).tolist()])


def requests(samples: Requests, draws: int, random: np.random.Generator) -> Array:
    """Redraw a latency: with several repeats the repeats first, then the requests within each, both with replacement.

    Requests are drawn as blocks of neighbours, the first following the last (D. Politis and J. Romano, A circular block-resampling
    procedure for stationary data, 1992), since neighbours share the state of host and device; of few requests each by itself.

    With K repeats the spread between them comes out (K - 1) / K as large as it is, so two repeats show half of it (Davison and
    Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). The same generator gives the same requests for every
    latency of a configuration.

    Returns:
        shape (draws,), ms.
    """
    # A request without any value, such as the TPOT of a single token, cannot be drawn.
    repeats = [values[~np.isnan(values).all(axis=1)] for values in samples.repeats]
    chosen = random.integers(0, len(repeats), size=(draws, len(repeats)))
    total = np.zeros(draws)
    for slot in chosen.T:
        for number, values in enumerate(repeats):
            rows = np.flatnonzero(slot == number)
            length = -(-len(values) // blocks(len(values)))
            begins = random.integers(0, len(values), size=(len(rows), -(-len(values) // length)))
            taken = (begins[..., None] + np.arange(length)).reshape(len(rows), begins.shape[1] * length)
            drawn = taken[:, : len(values)] % len(values)
            step = max(1, _HELD // values.size)
            for start in range(0, len(rows), step):
                some = values[drawn[start : start + step]]
                total[rows[start : start + step]] += statistic_of(some.reshape(len(some), -1), samples.statistic)
    return total / len(repeats)


def items(correct: Sequence[Array], weight: Sequence[Array], draws: int, random: np.random.Generator) -> Array:
    """Redraw accuracies over the same questions: each draw takes the same items, with replacement, for all of them.

    Args:
        correct: for each configuration, shape (items,); NaN where unscored.
        weight: likewise; 0 where unscored. What is left out shares its weight among the others.
        draws: how many.
        random: of the draws.

    Returns:
        shape (draws, configurations). A draw without a single scored item has the measured accuracy.
    """
    shares = np.stack(weight, axis=1)
    right = np.where(shares > 0, np.stack(correct, axis=1), 0.0) * shares
    count = len(shares)
    means = np.tile(right.sum(axis=0) / shares.sum(axis=0), (draws, 1))
    step = max(1, _HELD // count)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        drawn = random.integers(0, count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)
        total = times @ shares
        np.divide(times @ right, total, out=means[start : start + size], where=total > 0)
    return means


def around(value: float, interval: Interval, freedom: int | None, draws: int, random: np.random.Generator) -> Array:
    """Draw around a value so that the middle 95 % are as wide as an interval.

    Args:
        value: centre.
        interval: of 95 %.
        freedom: degrees of freedom of the t distribution; None for a normal one.
        draws: how many.
        random: of the draws.
    """
    from scipy.stats import norm, t

    half = (interval.high - interval.low) / 2
    if freedom is None:
        return value + half / float(norm.ppf(0.975)) * random.standard_normal(draws)
    return value + half / float(t.ppf(0.975, freedom)) * random.standard_t(freedom, draws)
