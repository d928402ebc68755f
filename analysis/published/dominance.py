"""Which printed configurations the printed figures themselves rule out."""

from dataclasses import dataclass

import pandas as pd

from analysis import pareto
from analysis.published.data import MEAN, frame, study


@dataclass(frozen=True)
class Dominated:
    """A printed configuration that another printed one beats or equals in every objective and beats in one.

    Attributes:
        study: whose figures.
        objectives: metric keys.
        configuration: which is dominated.
        by: configurations that dominate it, in the order printed.
        hardware: on which the figures were measured, all that were compared.
    """

    study: str
    objectives: tuple[str, ...]
    configuration: str
    by: tuple[str, ...]
    hardware: str

    @property
    def sentence(self) -> str:
        """The finding in one sentence."""
        return f"{self.configuration} is dominated by {', '.join(self.by)} in {', '.join(self.objectives)} ({self.hardware})."


def dominated(name: str) -> tuple[Dominated, ...]:
    """Return which printed configurations others dominate, for each of the study's sets of objectives: no conclusion for them follows.

    Where a study measured accuracy on other hardware than performance, accuracies are taken over by precision, and `hardware`
    names both: no such pair was measured together.

    Raises:
        UserError: no such study.
    """
    source = study(name)
    table = frame(name)
    found = []
    for objectives in source.objectives:
        compared, hardware = _joined(table, objectives)
        on_front = pareto.front(compared, objectives)
        complete = compared[list(objectives)].notna().all(axis=1)
        for run_id in compared.index[complete & ~on_front]:
            others = compared.index[complete].drop(run_id)
            by = [other for other in others if not pareto.front(compared.loc[[run_id, other]], objectives).iloc[0]]
            names = compared["configuration"]
            found.append(Dominated(name, objectives, names[run_id], tuple(names[other] for other in by), hardware))
    return tuple(found)


def _joined(table: pd.DataFrame, objectives: tuple[str, ...]) -> tuple[pd.DataFrame, str]:
    """Rows that have the efficiency objectives, accuracy taken from another hardware's rows where they lack it; and the hardware."""
    rows = table[table[list(objectives[-1:])].notna().all(axis=1)]
    told = ", ".join(dict.fromkeys(rows["hardware"]))
    if MEAN in objectives and rows[MEAN].isna().all():
        evaluated = table[table[MEAN].notna()].drop_duplicates("configuration").set_index("configuration")
        rows = rows.assign(**{MEAN: rows["configuration"].map(evaluated[MEAN])})
        told += f", accuracy {', '.join(dict.fromkeys(evaluated['hardware']))}"
    return rows, told
