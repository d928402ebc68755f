"""A configuration that may be registered, with all that the store says about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from slim import precisions
from slim.config import ModelEntry
from slim.errors import ConfigError, NotStoredError
from slim.impact import is_difference
from slim.precisions import Precision
from slim.registry.words import Row
from slim.store import TAG, Store, StoredRun


@dataclass(frozen=True)
class Subject:
    """A configuration and its runs.

    Attributes:
        run: of the configuration; where a study took several together the newest, with the params, metrics and tags of all.
        stages: the stage runs whose results count, by stage.
        baseline: run of its baseline, likewise; None for a baseline and where the store has none.
        sweep: run that it is nested in; None where there is none.
        precision: of the catalogue.
        older: the runs that were taken together with it, newest first, as they are.
    """

    run: StoredRun
    stages: Mapping[str, tuple[StoredRun, ...]]
    baseline: StoredRun | None
    sweep: StoredRun | None
    precision: Precision
    older: tuple[StoredRun, ...] = ()

    @property
    def name(self) -> str:
        """Of the configuration: ``<model>/<precision>@<engine>``."""
        return self.run.tags.get(TAG.CONFIG, self.run.name)

    @property
    def model_name(self) -> str:
        """Short name of the model."""
        return self.name.partition("/")[0]

    @property
    def fingerprint(self) -> str:
        """Of the original weights, as `slim.records.ModelSource` has it."""
        revision = self.run.params["revision"]
        return revision if ":" in revision else f"hub:{revision}"

    @property
    def quantize(self) -> StoredRun | None:
        """The run that made the checkpoint; None for original weights."""
        return next(iter(self.stages.get("quantize", ())), None)

    @property
    def verdicts(self) -> dict[str, str]:
        """By task: non-inferior, inferior or undecided against the baseline."""
        return dict(sorted(self.run.verdicts.items()))

    @property
    def entry(self) -> ModelEntry:
        """The model as the sweep file names it; code of its own stays forbidden, since registering loads nothing."""
        revision = self.run.params["revision"]
        return ModelEntry(id=self.run.params["model"], revision=None if ":" in revision else revision)


def load(store: Store, row: Row, baseline: Row | None) -> Subject:
    """Read a configuration and all runs that a study took together as it.

    Args:
        store: where they lie.
        row: the configuration.
        baseline: its baseline as the study saw it; None is as the store has it.

    Raises:
        ConfigError: it is not one that was measured here.
        NotStoredError: one of the runs is gone.
        StoreError: the store cannot be read.
    """
    newest, *older = (store.get(run_id) for run_id in row.runs)
    run = _together(row, newest, older)
    name = run.tags.get(TAG.CONFIG, run.name)
    if TAG.PUBLISHED in run.tags:
        raise ConfigError(
            f"{name} was printed by the study {run.tags[TAG.PUBLISHED]!r} and not measured here: there is no checkpoint"
        )
    lacking = [param for param in ("model", "revision", "precision", "engine", "hardware") if param not in run.params]
    if run.kind != "configuration" or lacking:
        raise ConfigError(f"run {run.run_id} is not a measured configuration" + (f" (no param {lacking[0]})" if lacking else ""))
    stages = {stage: tuple(store.get(run_id) for run_id in run_ids) for stage, run_ids in row.stage_runs.items()}
    return Subject(
        run,
        stages,
        _baseline(store, row, baseline),
        _found(store, run.tags.get(TAG.PARENT)),
        precisions.get(run.params["precision"]),
        tuple(older),
    )


def _together(row: Row, newest: StoredRun, older: Sequence[StoredRun]) -> StoredRun:
    """The newest run with what the study took from the others.

    Comparisons with the baseline may have been brought up to date since the study, and flags may have been set: these are read anew.
    """
    runs = [*reversed(older), newest]
    params = {key: value for run in runs for key, value in run.params.items()}
    metrics = {key: value for key, value in {**newest.metrics, **row.metrics}.items() if value is not None}
    tags: dict[str, str] = {}
    for run in runs:
        tags |= {key: value for key, value in run.tags.items() if key.startswith((TAG.VERDICT, TAG.COMPARISON))}
        if TAG.COMPARISON in run.tags:
            metrics |= {key: value for key, value in run.metrics.items() if is_difference(key)}
    tags |= newest.tags
    flags = [row.validity, *(run.tags.get(TAG.VALIDITY) for run in reversed(runs))]
    if any(flags):
        tags[TAG.VALIDITY] = ",".join(dict.fromkeys(flag for text in flags if text for flag in text.split(",")))
    valid = [found["validity/ok"] for found in (metrics, *(run.metrics for run in older)) if "validity/ok" in found]
    if valid:
        metrics["validity/ok"] = min(valid)
    return replace(newest, params=params, metrics=metrics, tags=tags)


def _baseline(store: Store, row: Row, baseline: Row | None) -> StoredRun | None:
    if baseline is None:
        return _found(store, row.baseline)
    try:
        newest, *older = (store.get(run_id) for run_id in baseline.runs)
    except NotStoredError:
        return None
    return _together(baseline, newest, older)


def _found(store: Store, run_id: str | None) -> StoredRun | None:
    """A run that may have been deleted since; what it says is lost then, and nothing else."""
    if run_id is None:
        return None
    try:
        return store.get(run_id)
    except NotStoredError:
        return None
