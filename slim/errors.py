"""What can go wrong, as a small tree of exceptions and a closed list of failure reasons.

Foreign errors (CUDA, vLLM, the Hub, MLflow) are translated where they enter; everything above sees only these.
"""

from enum import StrEnum

from slim.redaction import redact


class Reason(StrEnum):
    """Why a stage failed; the value of the tag ``slim.failure``."""

    OUT_OF_MEMORY = "out_of_memory"
    UNSUPPORTED_SCHEME = "unsupported_scheme"
    UNSUPPORTED_MODEL = "unsupported_model"
    MISSING_PACKAGE = "missing_package"
    MODEL_UNAVAILABLE = "model_unavailable"
    DATA_UNAVAILABLE = "data_unavailable"
    CHECKPOINT_MISMATCH = "checkpoint_mismatch"
    ENGINE_START = "engine_start"
    ENGINE_CRASH = "engine_crash"
    EVALUATION = "evaluation"
    DRIVER = "driver"
    DISK_FULL = "disk_full"
    BROKEN_RESULT = "broken_result"
    TIMEOUT = "timeout"
    KILLED = "killed"
    INTERRUPTED = "interrupted"
    DEPENDENCY = "dependency"
    INTERNAL = "internal"


class SlimError(Exception):
    """Base of all errors that this library raises on purpose. Their texts hold no secrets (`slim.redaction`)."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redact(one) if isinstance(one, str) else one for one in arguments))


class UserError(SlimError):
    """The caller asked for something that cannot be; one line that names what was wrong and what is allowed.

    Entry points print it and exit with code 2; nothing has been written to the store when it is raised.
    """


class ConfigError(UserError):
    """A sweep file or an option says something impossible."""


class ModelError(UserError):
    """A model reference leads nowhere, or to something that is not a causal language model."""


class ComparisonError(UserError):
    """Two runs' answers cannot be compared, since they are not answers to the same questions."""


class StoreError(SlimError):
    """The tracking store cannot be reached, read or written."""


class NotStoredError(StoreError):
    """The store answers, but does not have the run, or the run's file, that was asked for."""


class StoreConfigError(StoreError, UserError):
    """The tracking store's address is wrong or its place cannot be written, found before any work is done."""


class StoreAwayError(StoreConfigError):
    """Nobody answers at the tracking store's address; a sweep goes on without it, whoever has to read it cannot."""


class StageError(SlimError):
    """A stage cannot give a result.

    Args:
        reason: one of the closed list, stored as the tag ``slim.failure``.
        message: one line for a person.
        log_tail: last lines of the log of whoever failed, where there is one.
    """

    def __init__(self, reason: Reason, message: str, log_tail: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = str(self)
        self.log_tail = log_tail
