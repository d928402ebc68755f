"""What two studies printed, as configurations like any other, to compare own runs with.

The printed figures are CSV files here; ``columns.csv`` says for each column which metric it becomes, by which factor and why.
`slim.store.keep` writes `runs` into a store.
"""

from analysis.published.beside import beside
from analysis.published.data import EXPERIMENT, STUDIES, Study, columns, frame, printed, runs, study
from analysis.published.dominance import Dominated, dominated

__all__ = [
    "EXPERIMENT",
    "STUDIES",
    "Dominated",
    "Study",
    "beside",
    "columns",
    "dominated",
    "frame",
    "printed",
    "runs",
    "study",
]
