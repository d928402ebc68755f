"""Where the store is, and opening it. Foreign errors are translated here."""

import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from slim.errors import StoreAwayError, StoreConfigError, StoreError
from slim.redaction import HIDDEN, redact

_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
_MADE_BY_ANOTHER = ("alembic_version", "already exists")
_MAKING_S = (1.0, 2.0, 4.0)
_ALLOWED = "sqlite:///<absolute path>, http(s)://<server>, or another database that MLflow takes"


def default_tracking_uri() -> str:
    """Return ``MLFLOW_TRACKING_URI``, else a SQLite file in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def sqlite_path(tracking_uri: str) -> Path | None:
    """Return the file of a SQLite store, absolute; None for other stores."""
    if not tracking_uri.startswith("sqlite:"):
        return None
    name = tracking_uri.partition(":///")[2]
    if not name:
        raise StoreConfigError(f"tracking store {redact(tracking_uri)!r} names no file; allowed: {_ALLOWED}")
    return Path(name).expanduser().absolute()


def check_address(tracking_uri: str) -> str:
    """Return the address with a SQLite path made absolute, after checking all that can be checked without opening it.

    Raises:
        StoreConfigError: unknown scheme, missing server or directory, a file that is no MLflow store, or a place that cannot be written.
    """
    named = f"tracking store {redact(tracking_uri)!r}"
    if not tracking_uri.isprintable():
        raise StoreConfigError(f"{named} cannot be opened: its address holds a control character; allowed: {_ALLOWED}")
    try:
        parts = urlparse(tracking_uri)
        scheme, server, _ = parts.scheme.partition("+")[0], parts.hostname, parts.port
    except ValueError as error:
        raise StoreConfigError(f"{named} is not an address ({error}); allowed: {_ALLOWED}") from None
    if scheme not in _SCHEMES and tracking_uri != "databricks":
        raise StoreConfigError(f"{named} is not supported; allowed: {_ALLOWED}")
    if scheme in ("http", "https") and not server:
        raise StoreConfigError(f"{named} names no server; allowed: {_ALLOWED}")
    path = sqlite_path(tracking_uri)
    if path is None:
        return tracking_uri
    if not path.parent.is_dir():
        raise StoreConfigError(f"{named}: directory {str(path.parent)!r} does not exist; make it, or name another")
    if path.is_dir():
        raise StoreConfigError(f"{named} is a directory; name a file in it")
    try:
        _probe(path)
    except (OSError, sqlite3.Error) as error:
        raise StoreConfigError(f"{named} cannot be opened for writing ({error}); name another place") from None
    return f"sqlite:///{path}"


def _probe(path: Path) -> None:
    """Make sure that a SQLite file can be written; MLflow itself would try for minutes, and root may write where files cannot be."""
    if path.exists() and not path.is_file():
        raise FileExistsError("it is no regular file")
    if not path.exists():
        with tempfile.TemporaryFile(dir=path.parent):
            return
    if not os.access(path, os.W_OK):
        raise PermissionError("no permission to write")
    connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)
    try:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        # MLflow would put its own tables beside those of whatever program this file belongs to.
        if tables and not {"alembic_version", "experiments"} <= tables:
            raise sqlite3.DatabaseError("it is the database of another program than MLflow")
    finally:
        connection.close()


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn whatever MLflow or its database raises inside the block into a `StoreError` that says what was being done."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        line = redact(" ".join(str(error).split()))[:300]
        raise StoreError(f"tracking store: {what} failed: {line}") from error


def open_client(tracking_uri: str) -> Any:
    """Return an `MlflowClient` for the store; its database is made when absent.

    Raises:
        StoreAwayError: a server or a database does not answer, or answers errors.
        StoreConfigError: it cannot be opened.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # The default is minutes of retries; results wait in the spool, so a sweep need not.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # Bars for each file that is fetched or sent would stand among an entry point's lines.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.tracking import MlflowClient

    # MLflow narrates each database migration, and prints the traceback of each error beside raising it.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    try:
        path = sqlite_path(tracking_uri)
        if path is not None and not path.exists():
            _make_database(path)
        for wait_s in _MAKING_S:
            try:
                return _answering(MlflowClient(tracking_uri=tracking_uri))
            except Exception as error:
                # Another process has just made the tables of an empty database, for which MLflow keeps no order.
                if path is not None or not any(said in str(error) for said in _MADE_BY_ANOTHER):
                    raise
                time.sleep(wait_s)
        return _answering(MlflowClient(tracking_uri=tracking_uri))
    except Exception as error:
        line = redact(" ".join(str(error).split()))[:200]
        kind = StoreAwayError if _is_away(tracking_uri, error) else StoreConfigError
        raise kind(f"tracking store {redact(tracking_uri)!r} cannot be opened: {line}") from error


def _answering(client: Any) -> Any:
    """The client, once the store has answered it."""
    client.search_experiments(max_results=1)
    return client


def _make_database(path: Path) -> None:
    """Make a SQLite store aside and then give it its name: one whose making is cut off could never be opened again."""
    from mlflow.tracking import MlflowClient

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".slim-store-") as directory:
        made, whole = Path(directory) / "made.db", Path(directory) / "whole.db"
        MlflowClient(tracking_uri=f"sqlite:///{made}").search_experiments(max_results=1)
        # A copy that nobody has open.
        with closing(sqlite3.connect(made)) as source, closing(sqlite3.connect(whole)) as target:
            source.backup(target)
        # Whoever else makes it at this moment makes the same.
        with suppress(FileExistsError):
            os.link(whole, path)


def shown(tracking_uri: str) -> str:
    """Return an address as it may be shown and kept: without user name and password."""
    return redact(tracking_uri).replace(f"{HIDDEN}@", "")


def _is_away(tracking_uri: str, error: Exception) -> bool:
    """Whether an address that does not open may do so later: nobody answers, or with an error of the server's own."""
    if tracking_uri.startswith("http"):
        # MLflow gives up on connections, timeouts and 5xx with these words.
        return any(
            words in str(error) for words in ("Max retries exceeded", "error code 5", "failed with exception", "timed out")
        )
    return not tracking_uri.startswith("sqlite") and any(
        words in str(error)
        for words in ("Connection refused", "could not connect", "timeout expired", "starting up", "shutting down")
    )
