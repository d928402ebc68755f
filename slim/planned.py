"""What a plan says: configurations, their stages and what is known of them before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slim import precisions
from slim.config import SweepConfig
from slim.precisions import EngineName, Precision
from slim.provenance import Environment
from slim.records import Failure, ModelSource, Stage
from slim.store import StoredRun


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a configuration.

    Attributes:
        stage: which.
        key: of its result.
        repeat: number of the repeat, from 0; only profile stages have more than one.
        config: its section of the sweep file, as plain values.
        estimate_s: wall seconds if it has to be run.
        run: finished run with the same key, which is reused.
        spooled: a finished result waits in the spool and only has to be logged.
    """

    stage: Stage
    key: str
    repeat: int
    config: Mapping[str, Any]
    estimate_s: float
    run: StoredRun | None = None
    spooled: bool = False

    @property
    def to_run(self) -> bool:
        """Whether work is left."""
        return self.run is None and not self.spooled


@dataclass(frozen=True)
class PlannedReference:
    """The evaluation whose next-token distributions a configuration is compared with; it need not be part of the sweep.

    Attributes:
        name: of the baseline configuration.
        key: of its evaluate stage.
    """

    name: str
    key: str


@dataclass(frozen=True)
class PlannedConfiguration:
    """A configuration of the sweep.

    Attributes:
        name: ``<model>/<precision>@<engine>``.
        source: the model.
        precision, engine: how it is served.
        options: engine options as plain values.
        key: of the configuration: model, precision, engine and the keys of its stages.
        stages: in the order in which they run.
        run: finished configuration run with the same key, which is reused.
        failure: why it cannot work, found before any work.
        baseline: name of the configuration it is compared with; None for a baseline.
        reference: of the comparison of distributions; None for a baseline or without such a comparison.
        left_out: which stage that the sweep asks for is left out, and why; None when none is.
        disk_bytes: about what is left to do will take on disk, its share of converting the model included.
    """

    name: str
    source: ModelSource
    precision: Precision
    engine: EngineName
    options: Mapping[str, Any]
    key: str
    stages: tuple[PlannedStage, ...]
    run: StoredRun | None = None
    failure: Failure | None = None
    baseline: str | None = None
    reference: PlannedReference | None = None
    left_out: str | None = None
    disk_bytes: int = 0

    @property
    def keeps_reference(self) -> bool:
        """Whether others are compared with it, so that its evaluation keeps its distributions."""
        return self.reference is None and self.precision.name in precisions.BASELINES

    @property
    def estimate_s(self) -> float:
        """Wall seconds of what is left, engine starts included."""
        if self.run is not None or self.failure is not None:
            return 0.0
        return sum(s.estimate_s for s in self.stages if s.to_run)


@dataclass(frozen=True)
class Plan:
    """What a sweep will do.

    Attributes:
        config: the sweep file.
        measure, quantize: environments of the workers.
        configurations: baselines first within each model.
    """

    config: SweepConfig
    measure: Environment
    quantize: Environment
    configurations: tuple[PlannedConfiguration, ...]

    @property
    def estimate_s(self) -> float:
        """Rough wall seconds of what is left."""
        return sum(c.estimate_s for c in self.configurations)

    @property
    def disk_bytes(self) -> int:
        """Rough bytes on disk of what is left."""
        return sum(c.disk_bytes for c in self.configurations)
