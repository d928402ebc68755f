"""What the registry holds, as words and records. No mlflow here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from slim.store.contract import TAG

CARD: Final = "README.md"
"""Name of the model card beside a checkpoint's weights; a Hub repository shows that file."""


class VERSION:
    """Names of the tags of a model version."""

    CONFIG = "slim.config"
    MODEL = "slim.model"
    REVISION = "slim.revision"
    PRECISION = "slim.precision"
    ENGINE = "slim.engine"
    HARDWARE = "slim.hardware"
    CONFIGURATION_RUN = TAG.CONFIGURATION_RUN
    STUDY_RUN = "slim.study_run"
    SWEEP_RUN = "slim.sweep_run"
    STAGE_RUNS: Mapping[str, str] = {stage: f"slim.{stage}_run" for stage in ("quantize", "evaluate", "profile")}
    CHECKPOINT = "slim.checkpoint"
    COMMIT = "slim.commit"
    LICENCE = "slim.licence"
    FORCED = "slim.forced"
    VERDICT = "slim.verdict."
    METRIC = "slim.metric."
    HUB = "slim.hub"


STUDY_OF_ALIAS: Final = "slim.study."
"""Prefix of the tags of a registered model that say which study moved an alias last: ``slim.study.<alias>``."""

Change = Literal["registered", "updated", "unchanged"]


@dataclass(frozen=True)
class Row:
    """A configuration as a study sees it: several runs of it may have been taken together.

    Attributes:
        runs: ids of its runs, newest first; the first is the one that it goes by.
        stage_runs: ids of the stage runs whose results count, by stage.
        baseline: id of its baseline's run; None for a baseline and where there is none.
        validity: why the study flags its measurement; None where it does not.
        metrics: in which it differs from what its newest run says; None where that does not count.
    """

    runs: tuple[str, ...]
    stage_runs: Mapping[str, tuple[str, ...]]
    baseline: str | None = None
    validity: str | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """Of the run that it goes by."""
        return self.runs[0]


@dataclass(frozen=True)
class Choice:
    """A configuration that a study recommends.

    Attributes:
        row: the configuration.
        baseline: its baseline; None where the study has none.
        deployments: what it is recommended for; the aliases that it gets.
    """

    row: Row
    baseline: Row | None
    deployments: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """A recommended configuration that was not registered.

    Attributes:
        configuration: its name.
        deployments: what it is recommended for.
        reasons: why, each a sentence without its full stop.
        final: whether ``force`` would not change that.
    """

    configuration: str
    deployments: tuple[str, ...]
    reasons: tuple[str, ...]
    final: bool


@dataclass(frozen=True)
class Registered:
    """A version in the registry.

    Attributes:
        name: of the registered model.
        version: its number; None where nothing was written (a dry run).
        configuration: name of the configuration.
        run_id: of the configuration.
        model_id: LoggedModel with the files; None in a dry run that would write one.
        deployments: aliases that point to it now.
        moved: aliases that this call moved, with the version that they pointed to before; None where there was none.
        forced: reasons that it was registered in spite of.
        change: what this call did to the version.
        hub: address of the commit on the Hub; None when it was not pushed.
    """

    name: str
    version: int | None
    configuration: str
    run_id: str
    model_id: str | None
    deployments: tuple[str, ...]
    moved: Mapping[str, int | None]
    forced: tuple[str, ...]
    change: Change
    hub: str | None = None


@dataclass(frozen=True)
class Registration:
    """What a call of `register` did.

    Attributes:
        study: run id of the study.
        versions: one a recommended configuration that passed the gates.
        refused: those that did not.
        unanswered: deployments for which the study recommends nothing, with the reason; their aliases stay where they are.
    """

    study: str
    versions: tuple[Registered, ...]
    refused: tuple[Refused, ...]
    unanswered: Mapping[str, str] = field(default_factory=dict)
