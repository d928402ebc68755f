"""Configurations as a data frame, one row each."""

from collections.abc import Iterable

import pandas as pd

from slim.store import TAG, Store, StoredRun

VERDICT = "verdict/"
"""Before a task's name: the column with its verdict."""

IDENTITY = ("model", "revision", "precision", "method", "engine", "hardware")

SETTINGS = tuple(
    f"quantize.{name}"
    for name in (
        "weight_bits",
        "activation_bits",
        "group_size",
        "calibration",
        "calibration_samples",
        "calibration_tokens",
        "max_tokens",
        "damping",
    )
)
"""Params that say how a configuration was quantized, beyond its precision. Not what came of it, such as the number of layers."""


def from_runs(runs: Iterable[StoredRun]) -> pd.DataFrame:
    """Return one row a configuration run, indexed by run id.

    Columns: ``configuration``, ``status``, the identifying params, `SETTINGS` as text, ``baseline`` (run id), ``failure``, ``validity`` (reasons),
    ``comparison`` (settings of the comparison with the baseline, as JSON), ``comparison_refused`` (why there is none, or none of a figure),
    ``verdict/<task>`` and every metric under its key. What a run lacks is missing (NaN or None), never 0.
    """
    rows = [
        {
            "run_id": run.run_id,
            "configuration": run.tags.get(TAG.CONFIG, run.name),
            "status": run.status,
            **{name: run.params.get(name) for name in IDENTITY},
            **{name: run.params[name] for name in SETTINGS if name in run.params},
            "baseline": run.tags.get(TAG.BASELINE),
            "failure": run.tags.get(TAG.FAILURE),
            "validity": run.tags.get(TAG.VALIDITY),
            "comparison": run.tags.get(TAG.COMPARISON),
            "comparison_refused": run.tags.get(TAG.COMPARISON_REFUSED),
            **{VERDICT + task: verdict for task, verdict in run.verdicts.items()},
            **run.metrics,
        }
        for run in runs
    ]
    tags = ["baseline", "failure", "validity", "comparison", "comparison_refused"]
    columns = ["run_id", "configuration", "status", *IDENTITY, *tags]
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
