"""A configuration against its baseline: their items paired, what turned, intervals and verdicts; kept up to date in the store."""

from slim.comparison.items import Comparison, HeadComparison, compare, settings
from slim.comparison.pairing import BASELINE, COLUMNS, CONFIGURATION, pair
from slim.comparison.stored import samples, update

__all__ = [
    "BASELINE",
    "COLUMNS",
    "CONFIGURATION",
    "Comparison",
    "HeadComparison",
    "compare",
    "pair",
    "samples",
    "settings",
    "update",
]
