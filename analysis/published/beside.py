"""Own runs beside what a study printed of the same model and precision."""

import pandas as pd

from analysis import impact
from analysis.published import data
from slim.metrics import find

_PAIR = ["model", "precision", "engine"]
_APART = ("accuracy/mean", "impact/mean_drop_pct", "energy/net_kwh")
_COLUMNS = [*_PAIR, "hardware", "published_hardware", "configuration", "key", "own", "published"]


def beside(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return each own figure with the printed one of the same model, precision and engine.

    A speed-up of own runs is taken from the latency that the study has too. Left out is what cannot be set side by side: the mean
    accuracy, whose tasks and metrics differ, and the energy of a whole pass, whose work differs (its reduction is there, per query
    where that is known). Hardware differs as a rule: relative figures and accuracies say more than times.

    Args:
        frame: own runs, as `analysis.frame.from_runs` gives them.
        name: of a study.

    Returns:
        One row a configuration, printed hardware and metric that both have: ``model``, ``precision``, ``engine``, ``hardware``,
        ``published_hardware``, ``configuration``, ``key``, ``own``, ``published`` (in the metric's unit).

    Raises:
        UserError: no such study.
    """
    printed = data.frame(name)
    kept = frame[[column for column in frame.columns if column in printed or not column.startswith("latency/")]]
    merged = _long(kept).merge(_long(printed), on=[*_PAIR, "key"], suffixes=("", "_published"), sort=False)
    merged = merged.rename(columns={"value": "own", "value_published": "published", "hardware_published": "published_hardware"})
    merged = merged[~merged["key"].isin(_APART)].reindex(columns=_COLUMNS)
    first = {name: place for place, name in enumerate(dict.fromkeys(frame["configuration"]))}
    return merged.sort_values("configuration", key=lambda names: names.map(first), kind="stable", ignore_index=True)


def _long(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a configuration and figure that it has, relative ones included but those of a baseline against itself."""
    compared = impact.against_baselines(frame)
    relative = [column for column in compared.columns if column.startswith("impact/")]
    figures = [column for column in frame.columns if find(column) is not None and not column.startswith("impact/")]
    table = frame.reindex(columns=figures).join(compared.loc[~compared["is_baseline"].astype(bool), relative])
    identity = frame.reindex(columns=[*_PAIR, "hardware", "configuration"])
    long = identity.join(table).melt(id_vars=list(identity.columns), var_name="key", value_name="value").dropna(subset="value")
    return long.astype({"value": "float64"})
