"""Where an Optuna study is kept."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slim.errors import UserError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

JOURNALS = (".log", ".journal")


def opened(storage: str | Path | None) -> "BaseStorage":
    """Return the storage at an address; None keeps a study in memory.

    Raises:
        UserError: neither a database nor a journal, or one that cannot be opened.
    """
    import optuna
    from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if storage is None:
        return InMemoryStorage()
    errors: tuple[type[Exception], ...] = (OSError, ImportError, RuntimeError, optuna.exceptions.OptunaError)
    try:
        if isinstance(storage, str) and "://" in storage:
            from sqlalchemy.exc import SQLAlchemyError

            errors = (*errors, SQLAlchemyError)
            return RDBStorage(storage)
        path = Path(storage)
        if path.suffix in JOURNALS:
            return JournalStorage(JournalFileBackend(str(path)))
    except errors as error:
        reason = str(error).strip().partition("\n")[0]
        told = re.sub(r"(?<=:)[^:/@]+(?=@)", "***", str(storage))
        raise UserError(f"storage {told!r} cannot be opened: {reason}; allowed: a place that can be written") from error
    allowed = f"a database URL such as sqlite:///study.db, or a journal file ending in {' or '.join(JOURNALS)}"
    raise UserError(f"storage {str(storage)!r} is neither a database nor a journal; allowed: {allowed}")


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna writes to stderr what it does, and warns of calls that may change; the version is pinned."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
