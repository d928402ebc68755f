"""What a sweep says while it runs and at its end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from slim.records import Failure, Progress

Status = Literal["finished", "reused", "failed"]
EventKind = Literal["stage", "progress", "configuration", "note"]


@dataclass(frozen=True)
class Event:
    """Something a person watching wants to see.

    Attributes:
        kind: a ``stage`` begins, ``progress`` of it, a ``configuration`` ended, or a ``note``.
        configuration: its name; empty for notes.
        stage: running stage, or ``prepare`` while the model is fetched or converted.
        progress: of the stage.
        message: outcome or note.
        done, total: configurations ended and in all.
        left_s: rough wall seconds to the end of the sweep.
        step_left_s: rough wall seconds to the end of the step that runs; None while that cannot be told.
        at_once: how many configurations may be under way at once.
    """

    kind: EventKind
    configuration: str
    stage: str = ""
    progress: Progress | None = None
    message: str = ""
    done: int = 0
    total: int = 0
    left_s: float = 0.0
    step_left_s: float | None = None
    at_once: int = 1


OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class ConfigurationOutcome:
    """How a configuration ended.

    Attributes:
        name: of the configuration.
        status: ``reused`` when a finished run was found.
        run_id: its run; None when the store could not be written.
        failure: why it failed.
    """

    name: str
    status: Status
    run_id: str | None
    failure: Failure | None = None


@dataclass(frozen=True)
class SweepOutcome:
    """How a sweep ended.

    Attributes:
        run_id: its run; None when the store was away all the time.
        configurations: in the plan's order; those that ``on_failure: stop`` left out are missing.
        unlogged: stages whose results wait in the spool because the store was away.
        end_is_logged: the sweep's own run says how it ended.
        wall_s: of the whole.
        prepare_s: of fetching and converting models.
        work_s: of the stages that ran, by their own account.
        engine_start_s: of the engines that were opened.
        engine_starts: how many.
    """

    run_id: str | None
    configurations: tuple[ConfigurationOutcome, ...]
    unlogged: int
    end_is_logged: bool
    wall_s: float
    prepare_s: float
    work_s: float
    engine_start_s: float
    engine_starts: int

    @property
    def ok(self) -> bool:
        """Whether every configuration has its results in the store, and the sweep's run its end."""
        return (
            self.unlogged == 0
            and self.end_is_logged
            and all(c.status != "failed" and c.run_id is not None for c in self.configurations)
        )
