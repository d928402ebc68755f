"""What a configuration's answers say against its baseline's, item by item. Frames in, records out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slim.comparison import paired
from slim.comparison.paired import Verdict
from slim.comparison.pairing import BASELINE, CONFIGURATION, differing_heads, pair
from slim.config import ComparisonConfig
from slim.stats import Interval

if TYPE_CHECKING:
    import pandas as pd


METRICS = frozenset(
    {
        *(f"fidelity/{name}" for name in ("paired_items", "unpaired_items", "flip_rate", "mcnemar_p")),
        *(f"fidelity/<task>_{name}" for name in ("flip_rate", "mcnemar_p", "lost_items", "gained_items", "items_to_decide")),
        "impact/<task>_difference",
    }
)
"""Keys in `slim.metrics` of what `Comparison.metrics` gives."""


@dataclass(frozen=True)
class HeadComparison:
    """A figure of the configuration against the baseline's.

    Attributes:
        head: the figure's name.
        items: scored in both runs: the pairs.
        unpaired: scored in only one of them, or in none.
        lost, gained: items that turned from right to wrong, and back; None where items have fractional scores.
        mcnemar_p: of these; None with them.
        difference: of the weighted means over the pairs, configuration less baseline; None without pairs, and for a figure that
            is no mean over its items.
        interval: 95 % interval of the difference; None when all pairs differ by the same, which says nothing of others.
        verdict: of the difference against the margin; None for a figure that is no mean over its items.
        items_to_decide: as `slim.comparison.paired.Decision` has it.
    """

    head: str
    items: int
    unpaired: int
    lost: int | None
    gained: int | None
    mcnemar_p: float | None
    difference: float | None
    interval: Interval | None
    verdict: Verdict | None
    items_to_decide: int | None


@dataclass(frozen=True)
class Comparison:
    """A configuration's figures against the baseline's.

    Attributes:
        heads: one a figure.
        difference: of the unweighted mean over the figures; None where there is none.
        interval: 95 % interval of it.
        differing: figures that are left out because the same items enter them in only one of the runs.
    """

    heads: tuple[HeadComparison, ...]
    difference: float | None
    interval: Interval | None
    differing: tuple[str, ...] = ()

    def metrics(self) -> dict[str, float]:
        """Return what is known under the keys of `slim.metrics`."""
        found: dict[str, float | None] = {
            "fidelity/paired_items": sum(h.items for h in self.heads),
            "fidelity/unpaired_items": sum(h.unpaired for h in self.heads),
            **_flips("fidelity/", [h for h in self.heads if h.lost is not None]),
            **_difference("mean", self.difference, self.interval),
        }
        for head in self.heads:
            key = f"fidelity/{head.head}_"
            found |= {
                f"{key}lost_items": head.lost,
                f"{key}gained_items": head.gained,
                f"{key}items_to_decide": head.items_to_decide,
                **_difference(head.head, head.difference, head.interval),
                **(_flips(key, [head]) if head.lost is not None else {}),
            }
        return {key: float(value) for key, value in found.items() if value is not None}

    def verdicts(self) -> dict[str, Verdict]:
        """Return the verdict on each figure that has one."""
        return {head.head: head.verdict for head in self.heads if head.verdict is not None}

    def refused(self) -> str | None:
        """Return why some figures are left out; None where all are compared."""
        if not self.differing:
            return None
        return f"only one of the two runs has {', '.join(map(repr, self.differing))} over the same items"


def compare(
    baseline: "pd.DataFrame", configuration: "pd.DataFrame", config: ComparisonConfig, *, seed: int, with_mean: bool
) -> Comparison:
    """Compare a configuration's answers with its baseline's.

    Args:
        baseline, configuration: samples with at least `COLUMNS`.
        config: margin, confidence and resamples.
        seed: of the resampling; a figure's interval does not depend on which others there are.
        with_mean: also compare the mean over the figures, which the runs have when all their tasks have one.

    Raises:
        ComparisonError: as `pair`.
    """
    pairs = pair(baseline, configuration)
    heads: list[HeadComparison] = []
    total: NDArray[np.float64] | None = np.zeros(config.resamples)
    for head in dict.fromkeys(pairs["head"].dropna()):
        one, means = _head(str(head), pairs[pairs["head"] == head], config, seed)
        heads.append(one)
        total = None if total is None or means is None else total + means
    differing = tuple(differing_heads(pairs))
    differences = [h.difference for h in heads if h.difference is not None]
    if not with_mean or not heads or differing or total is None:
        return Comparison(tuple(heads), None, None, differing)
    varies = any(h.interval is not None for h in heads)
    return Comparison(
        tuple(heads),
        sum(differences) / len(heads),
        paired.percentile_interval(total / len(heads)) if varies else None,
    )


def _head(
    name: str, items: "pd.DataFrame", config: ComparisonConfig, seed: int
) -> tuple[HeadComparison, NDArray[np.float64] | None]:
    """The comparison of one figure and its resampled differences; None where it has no difference."""
    before, after = (_numbers(items, "correct" + suffix) for suffix in (BASELINE, CONFIGURATION))
    scored = ~np.isnan(before) & ~np.isnan(after)
    if not scored.any():
        known = items["unscored" + BASELINE].notna() | items["unscored" + CONFIGURATION].notna()
        verdict: Verdict | None = "undecided" if known.any() else None
        return HeadComparison(name, 0, int(known.sum()), None, None, None, None, None, verdict, None), None
    # They differ where an item is unscored in one run only, since the others of its task then share its weight.
    weights = (_numbers(items, "weight" + BASELINE) + _numbers(items, "weight" + CONFIGURATION))[scored] / 2
    before, after = before[scored], after[scored]
    differences, count = after - before, len(before)
    binary = bool(np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all())
    lost, gained = int((differences < 0).sum()), int((differences > 0).sum())
    comparison = HeadComparison(
        head=name,
        items=count,
        unpaired=len(items) - count,
        lost=lost if binary else None,
        gained=gained if binary else None,
        mcnemar_p=paired.mcnemar_p(lost, gained) if binary else None,
        difference=None,
        interval=None,
        verdict=None,
        items_to_decide=None,
    )
    if not (weights > 0).all():
        return comparison, None
    if equal := bool(np.allclose(weights, weights[0], rtol=1e-6, atol=0)):
        weights = np.ones(count)
    if binary and equal:
        statistic = paired.score_statistic(count, lost, gained, config.margin)
    else:
        statistic = paired.mean_statistic(differences, weights, config.margin)
    decision = paired.decide(statistic, count, config.confidence)
    means = paired.resampled_means(differences, weights, config.resamples, np.random.default_rng([seed, *name.encode()]))
    comparison = replace(
        comparison,
        difference=float(weights @ differences / weights.sum()),
        interval=paired.percentile_interval(means) if np.ptp(differences) > 0 else None,
        verdict=decision.verdict,
        items_to_decide=decision.items_to_decide,
    )
    return comparison, means


def _flips(prefix: str, heads: Sequence[HeadComparison]) -> dict[str, float]:
    """Flip rate and McNemar's p over the items of some heads, all of whose items are right or wrong."""
    items = sum(h.items for h in heads)
    if items == 0:
        return {}
    lost, gained = sum(h.lost or 0 for h in heads), sum(h.gained or 0 for h in heads)
    return {f"{prefix}flip_rate": (lost + gained) / items, f"{prefix}mcnemar_p": paired.mcnemar_p(lost, gained)}


def _difference(name: str, difference: float | None, interval: Interval | None) -> dict[str, float | None]:
    key = f"impact/{name}_difference"
    return {
        key: difference,
        f"{key}_ci_low": interval.low if interval else None,
        f"{key}_ci_high": interval.high if interval else None,
    }


def _numbers(items: "pd.DataFrame", column: str) -> NDArray[np.float64]:
    import pandas as pd

    return np.asarray(pd.to_numeric(items[column]), dtype=np.float64)


def settings(baseline_run: str, config: ComparisonConfig) -> Mapping[str, Any]:
    """Return what a comparison depends on besides the samples: the value of the tag ``slim.comparison``."""
    return {"baseline": baseline_run, **config.model_dump(mode="json")}
