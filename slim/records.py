"""The records that stages hand on. Raw values are kept; statistics are derived from them in `slim.stats`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from slim.errors import Reason

Stage = Literal["quantize", "evaluate", "profile"]


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is.

    Attributes:
        step: what is running, such as ``latency`` or ``mmlu``.
        done: units finished.
        total: units in all; None when it cannot be known.
        unit: what is counted, in the plural.
        fraction: share of the work that is done, where units differ too much for ``done / total`` to tell; None where they do not.
        part, parts: which step of how many this is, from 1; None where steps are not counted.
    """

    step: str
    done: int
    total: int | None
    unit: str = "steps"
    fraction: float | None = None
    part: int | None = None
    parts: int | None = None

    @property
    def share(self) -> float | None:
        """Share of the step's work that is done; None when it cannot be known."""
        if self.fraction is not None:
            return self.fraction
        return self.done / self.total if self.total else None


OnProgress = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """For callers who do not watch."""


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from, resolved: enough to name it, find it again and tell it from any other.

    Attributes:
        reference: as the user wrote it.
        kind: how it is reached.
        revision: commit of the Hub repository; None where there is none.
        fingerprint: identifies the weights and what computes with them: ``hub:<commit>``, with ``+code`` where the model's own code may be
            run, or ``sha256:<digest>`` over the weight and config files, and that code, or over what they are made from.
        short_name: for run names: the last part of the reference, lower case.
        path: local directory or file; None for a Hub model that has to be downloaded, and for a preset.
        trust_remote_code: whether the user allowed code that comes with the model.
    """

    reference: str
    kind: Literal["hub", "local", "gguf", "embedded", "synthetic"]
    revision: str | None
    fingerprint: str
    short_name: str
    path: Path | None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A directory in Hugging Face layout, complete.

    Attributes:
        path: the directory.
        fingerprint: of the source for original weights, else of the quantize stage that made it (its key).
        weight_bytes: size of the weight files.
        parameters: of the original model, tied weights once.
    """

    path: Path
    fingerprint: str
    weight_bytes: int
    parameters: int

    @property
    def bits_per_weight(self) -> float:
        """Bits in the weight files over the original's parameters."""
        return 8 * self.weight_bytes / self.parameters


@dataclass(frozen=True)
class Dataset:
    """A data set that a stage read, for MLflow's inputs.

    Attributes:
        name: the task's or the data set's name.
        source: where it came from: a Hub id, ``builtin:<name>`` or a path.
        digest: short hash of the items used.
        items: how many.
        context: ``calibration``, ``evaluation`` or ``workload``.
    """

    name: str
    source: str
    digest: str
    items: int
    context: str


@dataclass(frozen=True)
class Against:
    """What an evaluation does about its fidelity to a baseline; by default nothing.

    Attributes:
        keep: keep the distributions for others: this is a baseline.
        path: file that the baseline kept; None where there is none.
        missing: why there is none although the configuration has a baseline.
    """

    keep: bool = False
    path: Path | None = None
    missing: str = ""


NOTHING = Against()


@dataclass(frozen=True)
class Failure:
    """Why a stage gave no result.

    Attributes:
        reason: typed.
        message: one line.
        log_tail: last lines of the worker's log.
    """

    reason: Reason
    message: str
    log_tail: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, str]) -> Self:
        """Read what ``asdict`` made."""
        return cls(Reason(values["reason"]), values["message"], values["log_tail"])


@dataclass(frozen=True)
class StageResult:
    """What a worker leaves in the spool for one stage.

    Attributes:
        stage: which.
        key: the stage's key.
        metrics: by key of `slim.metrics`; only what is known.
        params: what the stage found out and the plan could not know (dtype used, group size that divided).
        tags: further tags of the run, such as ``slim.validity``.
        datasets: inputs.
        failure: None when it finished.
        started_unix_s, ended_unix_s: wall clock of the stage.
        has_checkpoint: whether ``checkpoint/`` lies beside the artifacts.
    """

    stage: Stage
    key: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: tuple[Dataset, ...] = ()
    failure: Failure | None = None
    started_unix_s: float = 0.0
    ended_unix_s: float = 0.0
    has_checkpoint: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        failure = values["failure"]
        return cls(
            **{
                **values,
                "datasets": tuple(Dataset(**d) for d in values["datasets"]),
                "failure": Failure.from_json(failure) if failure else None,
            }
        )
