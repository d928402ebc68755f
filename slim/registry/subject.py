"""A configuration that may be registered, with all that the store says about it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from slim import precisions
from slim.config import ModelEntry
from slim.errors import ConfigError, NotStoredError
from slim.precisions import Precision
from slim.store import TAG, Store, StoredRun


@dataclass(frozen=True)
class Subject:
    """A configuration and its runs.

    Attributes:
        run: of the configuration.
        stages: its finished stage runs by stage, newest last.
        baseline: run of its baseline; None for a baseline and where the store has none.
        sweep: run that it is nested in; None where there is none.
        precision: of the catalogue.
    """

    run: StoredRun
    stages: Mapping[str, tuple[StoredRun, ...]]
    baseline: StoredRun | None
    sweep: StoredRun | None
    precision: Precision

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
        return {t.removeprefix(TAG.VERDICT): v for t, v in sorted(self.run.tags.items()) if t.startswith(TAG.VERDICT)}

    @property
    def entry(self) -> ModelEntry:
        """The model as the sweep file names it; code of its own stays forbidden, since registering loads nothing."""
        revision = self.run.params["revision"]
        return ModelEntry(id=self.run.params["model"], revision=None if ":" in revision else revision)


def load(store: Store, run_id: str) -> Subject:
    """Read a configuration.

    Raises:
        ConfigError: it is not one that was measured here.
        StoreError: the store cannot be read.
    """
    run = store.get(run_id)
    name = run.tags.get(TAG.CONFIG, run.name)
    if TAG.PUBLISHED in run.tags:
        raise ConfigError(
            f"{name} was printed by the study {run.tags[TAG.PUBLISHED]!r} and not measured here: there is no checkpoint"
        )
    lacking = [param for param in ("model", "revision", "precision", "engine", "hardware") if param not in run.params]
    if run.kind != "configuration" or lacking:
        raise ConfigError(f"run {run_id} is not a measured configuration" + (f" (no param {lacking[0]})" if lacking else ""))
    stages = {
        stage: tuple(store.get(str(each)) for each in runs)
        for stage, runs in json.loads(run.tags.get(TAG.STAGE_RUNS, "{}")).items()
    }
    baseline, sweep = (_found(store, run.tags.get(tag)) for tag in (TAG.BASELINE, TAG.PARENT))
    return Subject(run, stages, baseline, sweep, precisions.get(run.params["precision"]))


def _found(store: Store, run_id: str | None) -> StoredRun | None:
    """A run that may have been deleted since; what it says is lost then, and nothing else."""
    if run_id is None:
        return None
    try:
        return store.get(run_id)
    except NotStoredError:
        return None
