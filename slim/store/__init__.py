"""The tracking store (MLflow): the only package, with `slim.registry`, that imports mlflow."""

from slim.store.bulk import Snapshot
from slim.store.connection import check_address, default_tracking_uri, shown
from slim.store.contract import SCHEMA, TAG, Kind, StoredRun
from slim.store.joining import experiment_of, explain_run
from slim.store.keeping import keep
from slim.store.reading import Reader
from slim.store.store import Store

__all__ = [
    "SCHEMA",
    "TAG",
    "Kind",
    "Reader",
    "Snapshot",
    "Store",
    "StoredRun",
    "check_address",
    "default_tracking_uri",
    "experiment_of",
    "explain_run",
    "keep",
    "shown",
]
