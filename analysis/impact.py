"""What quantizing changes: each configuration against its baseline, means over models, and what the engine does, apart from it.

Formulas are those of `slim.impact`; here it is only found out what is compared with what.
"""

from collections.abc import Hashable, Sequence
from itertools import combinations

import pandas as pd

from analysis import cells
from slim import precisions
from slim.impact import accuracies, relative, share
from slim.metrics import find

SOURCE = "source/"
"""Before the name of an ``impact/`` figure: the column with the metric that it was taken from."""

_SAME = ("model", "revision", "engine", "hardware")
_IDENTITY = ["configuration", "status", *_SAME[:2], "precision", "method", *_SAME[2:]]


def against_baselines(frame: pd.DataFrame) -> pd.DataFrame:
    """Return every configuration against its baseline, one row each, in the frame's order and under its index.

    The baseline is the run that the configuration names when the frame has it, else the frame's bf16, else fp16 configuration of
    the same model, revision, engine and hardware; never one of another engine. A baseline stands against itself.

    Args:
        frame: as `analysis.frame.from_runs` gives it.

    Returns:
        The identifying columns; ``baseline`` (index of the baseline's row), ``baseline_configuration``, ``is_baseline``;
        ``reason`` (why there are no relative figures, else missing); ``impact/`` figures in the units of the metric table, and
        the metric each was taken from under ``source/<name>``; ``fidelity/`` figures as stored.
    """
    table = _complete(frame)
    keys = _metric_keys(table)
    values = {run_id: _known(row) for run_id, row in zip(table.index, table[keys].to_dict("records"), strict=True)}
    baselines = _Baselines(table)
    rows = []
    for run_id, row in zip(table.index, table[[*_IDENTITY, "failure"]].to_dict("records"), strict=True):
        baseline, reason = baselines.find(run_id)
        made: dict[str, object] = {name: row[name] for name in _IDENTITY}
        made |= {"baseline": None, "baseline_configuration": None, "is_baseline": baseline == run_id, "reason": reason}
        if baseline is not None:
            made |= {"baseline": baseline, "baseline_configuration": table.at[baseline, "configuration"]}
            figures = relative(values[baseline], values[run_id])
            made |= {name: figure.value for name, figure in figures.items()}
            made |= {SOURCE + name.removeprefix("impact/"): figure.source for name, figure in figures.items()}
            if reason is None and not figures:
                made["reason"] = _unmeasured(row)
        made |= {key: value for key, value in values[run_id].items() if key.startswith("fidelity/")}
        rows.append(made)
    first = [*_IDENTITY, "baseline", "baseline_configuration", "is_baseline", "reason"]
    found = pd.DataFrame(rows, index=table.index) if rows else pd.DataFrame(columns=first, index=table.index)
    others = [column for column in found.columns if column not in first]
    return found[first + sorted(others, key=_order)]


def relative_accuracy(frame: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies over the baseline's, 1 where nothing was lost: tasks, MMLU's groups, the mean.

    Returns:
        As `against_baselines`, with ``accuracy/<task>`` columns that hold shares of the baseline's accuracy.
    """
    found = against_baselines(frame)
    table = _complete(frame)
    keys = accuracies(_metric_keys(table))
    shares = {
        key: [
            None if pd.isna(baseline) else share(cells.number(table.at[baseline, key]), cells.number(own))
            for baseline, own in zip(found["baseline"], table[key], strict=True)
        ]
        for key in keys
    }
    first = [*_IDENTITY, "baseline", "baseline_configuration", "is_baseline", "reason"]
    return pd.concat([found[first], pd.DataFrame(shares, index=found.index, dtype="float64")], axis=1)


def by_precision(frame: pd.DataFrame, keys: Sequence[str] | None = None) -> pd.DataFrame:
    """Return mean and standard deviation over models of what each precision changes.

    Baselines are left out. Configurations of one model at one precision, which differ in their options, count as that model once,
    with their mean. Engines and hardware are never pooled.

    Args:
        frame: as `analysis.frame.from_runs` gives it.
        keys: ``impact/`` and ``fidelity/`` figures; None is all that `against_baselines` gives.

    Returns:
        One row a precision, engine, hardware and figure: ``precision``, ``engine``, ``hardware``, ``key``, ``mean``, ``sd`` (sample
        standard deviation, missing for one model), ``n`` (models). Unknown figures make no row.
    """
    compared = against_baselines(frame)
    compared = compared[~compared["is_baseline"].astype(bool)]
    keys = [c for c in compared.columns if c.startswith(("impact/", "fidelity/"))] if keys is None else list(keys)
    rows = []
    for (precision, engine, hardware), group in compared.groupby(["precision", "engine", "hardware"], dropna=False, sort=False):
        for key in keys:
            if key not in group:
                continue
            per_model = group.astype({key: "float64"}).groupby(["model", "revision"], dropna=False)[key].mean().dropna()
            if len(per_model):
                spread = float(per_model.std(ddof=1)) if len(per_model) > 1 else None
                rows.append((precision, engine, hardware, key, float(per_model.mean()), spread, len(per_model)))
    found = pd.DataFrame(rows, columns=["precision", "engine", "hardware", "key", "mean", "sd", "n"])
    order = {name: place for place, name in enumerate(precisions.CATALOGUE)}
    found = found.astype({"mean": "float64", "sd": "float64"})
    return found.sort_values("precision", key=lambda names: names.map(order), kind="stable").reset_index(drop=True)


def engine_effect(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what the engine alone does: the baselines of one model on two engines of one hardware, the second against the first.

    Returns:
        One row a model, hardware and pair of engines: ``model``, ``revision``, ``hardware``, ``precision``, ``engine``,
        ``reference_engine``, ``configuration``, ``reference`` (configurations), ``reason``, and ``impact/`` figures of the engine
        against the reference engine, missing where the two baselines differ in precision, which ``reason`` says.
    """
    table = _complete(frame)
    baselines = against_baselines(frame)
    baselines = baselines[baselines["is_baseline"].astype(bool)]
    keys = _metric_keys(table)
    rows = []
    for (model, revision, hardware), group in baselines.groupby(["model", "revision", "hardware"], dropna=False, sort=False):
        for (_, reference), (_, other) in combinations(group.sort_values("engine", kind="stable").iterrows(), 2):
            if reference["engine"] == other["engine"]:
                continue
            row: dict[str, object] = {"model": model, "revision": revision, "hardware": hardware}
            row |= {name: other[name] for name in ("precision", "engine", "configuration")}
            row |= {"reference_engine": reference["engine"], "reference": reference["configuration"], "reason": None}
            if reference["precision"] != other["precision"]:
                row["reason"] = f"the baselines differ in precision: {reference['precision']} and {other['precision']}"
            else:
                figures = relative(_known(table.loc[reference.name, keys]), _known(table.loc[other.name, keys]))
                row |= {name: figure.value for name, figure in figures.items()}
            rows.append(row)
    first = ["model", "revision", "hardware", "precision", "engine", "reference_engine", "configuration", "reference", "reason"]
    found = pd.DataFrame(rows) if rows else pd.DataFrame(columns=first)
    return found[first + sorted((c for c in found.columns if c not in first), key=_order)]


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with every column that is read here."""
    needed = [*_IDENTITY, "baseline", "failure"]
    return frame.reindex(columns=[*needed, *(c for c in frame.columns if c not in needed)])


def _metric_keys(table: pd.DataFrame) -> list[str]:
    return [column for column in table.columns if "/" in column and find(column) is not None]


def _known(row: "pd.Series | dict[str, object]") -> dict[str, float]:
    return {str(key): figure for key, value in row.items() if (figure := cells.number(value)) is not None}


class _Baselines:
    """Finds the baseline of each configuration of a table."""

    def __init__(self, table: pd.DataFrame) -> None:
        columns = [*_SAME, "precision", "status", "configuration", "failure", "baseline"]
        self.rows = dict(zip(table.index, table[columns].to_dict("records"), strict=True))
        self.candidates: dict[tuple[object, ...], list[object]] = {}
        for run_id, row in self.rows.items():
            if row["precision"] in precisions.BASELINES:
                self.candidates.setdefault(self._same(row), []).append(run_id)

    def find(self, run_id: object) -> tuple[object | None, str | None]:
        """Return the index of a configuration's baseline, or None and the reason."""
        row = self.rows[run_id]
        named = row["baseline"]
        if isinstance(named, str) and named in self.rows:
            return self._finished(named)
        candidates = self.candidates.get(self._same(row), [])
        if not candidates:
            where = f"of {row['model']} on {row['engine']} and {row['hardware']}"
            return None, f"no baseline ({' or '.join(precisions.BASELINES)}) {where} is among these configurations"
        best = min(precisions.BASELINES.index(self.rows[c]["precision"]) for c in candidates)
        preferred = [c for c in candidates if self.rows[c]["precision"] == precisions.BASELINES[best]]
        finished = [c for c in preferred if self.rows[c]["status"] == "FINISHED"]
        if run_id in finished:
            return run_id, None
        if len(finished) > 1:
            return None, f"{len(finished)} baselines fit ({', '.join(map(str, finished))}), and the run names none of them"
        return self._finished(finished[0] if finished else run_id if run_id in preferred else preferred[0])

    def _finished(self, baseline: object) -> tuple[object | None, str | None]:
        row = self.rows[baseline]
        if row["status"] == "FINISHED":
            return baseline, None
        why = f"failed ({row['failure']})" if isinstance(row["failure"], str) else f"has the status {row['status']}"
        return None, f"the baseline {row['configuration']} {why}"

    @staticmethod
    def _same(row: dict[Hashable, object]) -> tuple[object, ...]:
        return tuple(value if isinstance(value := row[name], str) else None for name in _SAME)


def _unmeasured(row: dict[str, object]) -> str:
    failure = row["failure"]
    if isinstance(failure, str):
        return f"the configuration failed ({failure})"
    return "the configuration and its baseline have no metric in common"


_FIRST = ("impact/speedup", "impact/energy", "impact/size", "impact/memory", "impact/", "fidelity/", SOURCE)


def _order(column: str) -> int:
    return next(place for place, prefix in enumerate(_FIRST) if column.startswith(prefix))
