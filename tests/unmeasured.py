"""Sweeps whose workers are replaced by made-up results: everything else is real, and a sweep takes a second."""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from slim import api
from slim.config import SweepConfig
from slim.errors import Reason
from slim.jobs import Spooled
from slim.outcomes import SweepOutcome
from slim.planned import PlannedConfiguration, PlannedStage
from slim.records import Against, Failure, StageResult
from slim.runner import Runner

NAMES = ("bf16@vllm", "fp16@vllm", "bf16@transformers", "fp16@transformers")


def config(**fields: Any) -> SweepConfig:
    """Return a sweep of random weights at four precisions, which needs no files."""
    return SweepConfig.parse(
        {
            "models": ["synthetic:llama-3.2-1b"],
            "precisions": list(NAMES),
            "evaluate": None,
            "profile": {"requests": 2},
            "repeats": 1,
            **fields,
        }
    )


def value(name: str, seed: int) -> float:
    """Return what is measured for a configuration of a sweep with that seed."""
    return 100.0 * seed + [*NAMES].index(name.partition("/")[2])


class Made(Runner):
    """Makes results instead of starting workers; in ``broken`` those that fail, by the end of the configuration's name."""

    broken: tuple[str, ...] = ()
    made: list[str] = []  # noqa: RUF012 - of the class, so that a test can read it

    def prepare(self, planned: PlannedConfiguration) -> None:
        """Nothing to fetch."""

    def measure(
        self, planned: PlannedConfiguration, stages: list[PlannedStage], checkpoint: Path | None, against: Against
    ) -> list[Spooled]:
        """Make results up."""
        return [self._one(planned, stage) for stage in stages]

    def _one(self, planned: PlannedConfiguration, stage: PlannedStage) -> Spooled:
        failure = (
            Failure(Reason.ENGINE_CRASH, "it broke", "last words") if planned.name.endswith(self.broken) and self.broken else None
        )
        with self._spool.writing(stage.key) as draft:
            (draft.artifacts / "worker.log").write_text(f"{planned.name} {self._config.seed}")
            metrics = {} if failure else {"latency/e2e_mean_ms": value(planned.name, self._config.seed)}
            draft.finish(StageResult(stage.stage, stage.key, metrics, failure=failure, started_unix_s=1.0, ended_unix_s=2.0))
        self.made.append(planned.name)
        found = self._spool.find(stage.key)
        assert found is not None
        return found


def run(tracking_uri: str, **fields: Any) -> SweepOutcome:
    """Run such a sweep; ``slim.sweep.Runner`` has to be `Made`."""
    return api.run(config(**fields), tracking_uri)[1]


def together(tracking_uri: str, homes: Path, count: int) -> int:
    """Run sweeps with the seeds from 1 on, all at once, each in a process with a home of its own; return how many ended ill."""
    children = []
    for seed in range(1, count + 1):
        child = os.fork()
        if child == 0:
            os.environ["SLIM_HOME"] = str(homes / str(seed))
            status = 1
            try:
                status = 0 if run(tracking_uri, seed=seed).ok else 1
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(status)
        children.append(child)
    return sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


if __name__ == "__main__":
    from slim import sweep

    sweep.Runner = Made  # type: ignore[misc]
    sys.exit(together(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
