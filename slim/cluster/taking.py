"""Takes what a node says of its work: progress, files, and how it ended."""

from collections.abc import Callable

from slim.cluster.task import Arrived, Coming, Ended, Message, Reported
from slim.cluster.transfer import Chunk, Receiver
from slim.errors import Reason
from slim.jobs import Spool
from slim.overlapping import Withdrawn
from slim.records import Failure, Progress


class LostError(Exception):
    """The node went away with the work on it."""


class Taking:
    """Takes what a node says.

    Attributes:
        ended: how the work ended; None before it has.
    """

    def __init__(self, spool: Spool, on_progress: Callable[[str, Progress], None]) -> None:
        self._spool = spool
        self._on_progress = on_progress
        self._arriving: Receiver | None = None
        self.ended: Ended | None = None

    def take(self, message: Message) -> None:
        """Take a message.

        Raises:
            ValueError: files came short.
        """
        match message:
            case Reported(stage, progress):
                self._on_progress(stage, progress)
            case Coming(key, sizes):
                self._arriving = Receiver(self._spool, key, sizes)
            case Chunk() if self._arriving is not None:
                self._arriving.take(message)
            case Arrived() if self._arriving is not None:
                self._arriving.finish()
            case Ended():
                self.ended = message
            case _:
                pass

    def drop(self) -> None:
        """Remove what came of a result without the rest."""
        if self._arriving is not None:
            self._arriving.drop()


def ended_by(error: Exception) -> Ended:
    """How work ended of which Ray says that it failed.

    Raises:
        LostError: it did not fail, its node is gone.
        Withdrawn: it was taken back.
    """
    from ray import exceptions as wrong

    match error:
        case wrong.TaskCancelledError():
            raise Withdrawn from error
        case wrong.OutOfMemoryError():
            failure = Failure(Reason.OUT_OF_MEMORY, f"Ray stopped the work, since the node ran out of memory: {_line(error)}")
        case wrong.RayTaskError():
            failure = Failure(Reason.INTERNAL, _line(error))
        case wrong.RuntimeEnvSetupError():
            failure = Failure(Reason.INTERNAL, f"the project could not be brought to a node: {_line(error)}")
        case _:
            # The node, Ray's process on it, or what it had sent.
            raise LostError(_line(error)) from error
    return Ended(0.0, failure)


def _line(error: Exception) -> str:
    """What Ray says, in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
