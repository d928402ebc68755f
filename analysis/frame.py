"""Configurations as a data frame, one row each."""

from collections.abc import Iterable

import pandas as pd

from slim.store import TAG, Store, StoredRun

IDENTITY = ("model", "revision", "precision", "method", "engine", "hardware")


def from_runs(runs: Iterable[StoredRun]) -> pd.DataFrame:
    """Return one row a configuration run, indexed by run id.

    Columns: ``configuration``, ``status``, the identifying params, ``baseline`` (run id), ``failure``, ``validity`` (reasons) and
    every metric under its key. What a run lacks is missing (NaN or None), never 0.
    """
    rows = [
        {
            "run_id": run.run_id,
            "configuration": run.tags.get(TAG.CONFIG, run.name),
            "status": run.status,
            **{name: run.params.get(name) for name in IDENTITY},
            "baseline": run.tags.get(TAG.BASELINE),
            "failure": run.tags.get(TAG.FAILURE),
            "validity": run.tags.get(TAG.VALIDITY),
            **run.metrics,
        }
        for run in runs
    ]
    columns = ["run_id", "configuration", "status", *IDENTITY, "baseline", "failure", "validity"]
    return (pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)).set_index("run_id")


def load(store: Store, sweep_run: str | None = None, run_ids: Iterable[str] | None = None) -> pd.DataFrame:
    """Return the configurations of a store as `from_runs` gives them.

    Args:
        store: an experiment.
        sweep_run: only the configurations nested in this sweep.
        run_ids: these runs instead, in this order.
    """
    if run_ids is not None:
        return from_runs([store.get(run_id) for run_id in run_ids])
    return from_runs(store.configurations(sweep_run))
