"""Keeps what a configuration's run says against its baseline's up to date: impact, flips, intervals, verdicts."""

import json
from typing import TYPE_CHECKING

from slim import impact, models
from slim import metrics as catalogue
from slim.comparison import items, pairing
from slim.config import SweepConfig
from slim.errors import ComparisonError, NotStoredError
from slim.evaluate.parts import SAMPLES_FILE
from slim.records import Stage
from slim.store import TAG, Reader, Store, StoredRun

if TYPE_CHECKING:
    import pandas as pd


def update(store: Store, run: StoredRun, baseline_run: str, config: SweepConfig) -> bool:
    """Compare a configuration's run with its baseline's, unless its tags say that this was done with the same settings.

    Why two runs, or some of their figures, cannot be compared is written in place of verdicts. What an earlier
    comparison knew and this one does not is withdrawn.

    Args:
        store: holds both.
        run: of the configuration, its stages' metrics and runs logged.
        baseline_run: id of the baseline's finished run.
        config: margin, confidence, resamples and seed.

    Returns:
        Whether anything was written.

    Raises:
        StoreError: the store is away; the next call does what is left.
    """
    done = {TAG.BASELINE: baseline_run}
    if stage_run(run, "evaluate") is not None:
        done[TAG.COMPARISON] = json.dumps(items.settings(baseline_run, config.comparison))
    if all(run.tags.get(tag) == value for tag, value in done.items()):
        return False
    baseline = store.get(baseline_run)
    metrics = impact.impact(baseline.metrics, run.metrics)
    found: dict[str, str] = {}
    if TAG.COMPARISON in done:
        try:
            compared = items.compare(
                samples(store, baseline),
                samples(store, run),
                config.comparison,
                seed=config.seed,
                with_mean="accuracy/mean" in baseline.metrics and "accuracy/mean" in run.metrics,
            )
            metrics |= compared.metrics()
            found = {f"{TAG.VERDICT}{head}": verdict for head, verdict in compared.verdicts().items()}
            if (left_out := compared.refused()) is not None:
                found[TAG.COMPARISON_REFUSED] = left_out
        except ComparisonError as error:
            found = {TAG.COMPARISON_REFUSED: str(error)}
    gone = [key for key in run.metrics if _is_of_comparison(key) and key not in metrics]
    stale = [tag for tag in run.tags if tag.startswith((TAG.VERDICT, TAG.COMPARISON_REFUSED)) and tag not in found]
    store.log(run.run_id, metrics=metrics, tags=found, model_id=_model(store, run))
    store.withdraw(run.run_id, gone)
    store.untag(run.run_id, stale)
    # Last, so that what was cut off before is done again.
    store.log(run.run_id, tags=done)
    return True


def samples(store: Reader, configuration: StoredRun, columns: tuple[str, ...] = pairing.COLUMNS) -> "pd.DataFrame":
    """Return columns of the items that a configuration answered.

    Raises:
        ComparisonError: there are none, or they cannot be read.
        StoreError: the store is away.
    """
    whose = f"{configuration.tags.get(TAG.CONFIG, configuration.name)} (run {configuration.run_id})"
    evaluated = stage_run(configuration, "evaluate")
    if evaluated is None:
        raise ComparisonError(f"{whose} was not evaluated")
    try:
        path = store.artifact(store.get(evaluated), SAMPLES_FILE, models.home() / "artifacts")
    except NotStoredError as error:
        raise ComparisonError(f"samples of {whose} are gone: {error}") from error
    return pairing.read(path, whose, columns)


def _is_of_comparison(key: str) -> bool:
    """Whether a metric comes of comparing with the baseline."""
    metric = catalogue.find(key)
    return metric is not None and (metric.key.startswith("impact/") or metric.key in items.METRICS)


def _model(store: Reader, configuration: StoredRun) -> str | None:
    """The LoggedModel of a configuration's checkpoint; None without one, or when its run is gone."""
    quantized = stage_run(configuration, "quantize")
    try:
        return next(iter(store.get(quantized).model_ids), None) if quantized else None
    except NotStoredError:
        return None


def stage_run(configuration: StoredRun, stage: Stage) -> str | None:
    """Return the id of the run of a configuration's stage, the first of several repeats; None without one."""
    runs = configuration.stage_runs.get(stage)
    return runs[0] if runs else None
