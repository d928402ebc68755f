"""What the store holds, as words: kinds of run, tags, and a run as it is read back. No mlflow here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isnan
from typing import Final, Literal

SCHEMA: Final = 1
"""Version of the contract, in the tag ``slim.schema``."""

Kind = Literal["sweep", "configuration", "quantize", "evaluate", "profile", "study"]
STAGES: Final = ("quantize", "profile", "evaluate")


class TAG:
    """Names of the tags."""

    KIND = "slim.kind"
    SCHEMA = "slim.schema"
    KEY = "slim.key"
    CONFIG = "slim.config"
    FAILURE = "slim.failure"
    FAILURE_MESSAGE = "slim.failure_message"
    BASELINE = "slim.baseline"
    COMPARISON = "slim.comparison"
    COMPARISON_REFUSED = "slim.comparison_refused"
    VERDICT = "slim.verdict."
    VALIDITY = "slim.validity"
    SWEEP = "slim.sweep"
    STAGE_RUNS = "slim.stage_runs"
    REPEAT = "slim.repeat"
    REUSED = "slim.reused"
    RETRIED = "slim.retried"
    PLACEMENT = "slim.placement"
    HOST = "slim.host"
    PID = "slim.pid"
    PID_NAMESPACE = "slim.pid_namespace"
    HEARTBEAT = "slim.heartbeat"
    COMMIT = "slim.commit"
    PUBLISHED = "slim.published"
    RECOMMENDED = "slim.recommended."
    MOVED = "slim.moved_to"
    CONFIGURATION_RUN = "slim.configuration_run"
    PARENT = "mlflow.parentRunId"
    NOTE = "mlflow.note.content"


@dataclass(frozen=True)
class StoredRun:
    """A run as the store has it.

    Attributes:
        run_id: MLflow's id.
        kind: what it is.
        name: the run's name.
        status: MLflow's status: RUNNING, FINISHED, FAILED or KILLED.
        params, tags: as logged.
        metrics: as last logged; a NaN is a metric that was withdrawn (`slim.store.writing.Writer.withdraw`), and is left out.
        start_unix_s, end_unix_s: wall clock; the end is None while it runs.
        model_ids: LoggedModels that it wrote.
        artifact_uri: root of its artifacts.
    """

    run_id: str
    kind: str
    name: str
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    start_unix_s: float
    end_unix_s: float | None
    model_ids: tuple[str, ...]
    artifact_uri: str

    def __post_init__(self) -> None:
        # A sum is NaN when one of its terms is, and says so in a third of the time of looking at each.
        if isnan(sum(self.metrics.values())):
            known = {key: value for key, value in self.metrics.items() if not isnan(value)}
            object.__setattr__(self, "metrics", known)

    @property
    def stage_runs(self) -> Mapping[str, tuple[str, ...]]:
        """Ids of the stage runs that stand behind a configuration's run, by stage."""
        return _stage_runs(self.tags.get(TAG.STAGE_RUNS) or "{}")

    @property
    def verdicts(self) -> dict[str, str]:
        """By task: non-inferior, inferior or undecided against the baseline."""
        return {tag.removeprefix(TAG.VERDICT): verdict for tag, verdict in self.tags.items() if tag.startswith(TAG.VERDICT)}

    @property
    def duration_s(self) -> float | None:
        """Wall time; None while it runs."""
        return None if self.end_unix_s is None else self.end_unix_s - self.start_unix_s


@lru_cache(maxsize=65536)
def _stage_runs(text: str) -> Mapping[str, tuple[str, ...]]:
    return {stage: tuple(run_ids) for stage, run_ids in json.loads(text).items()}
