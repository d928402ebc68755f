"""Finds the distributions that a baseline kept, for a configuration that is about to be evaluated."""

from pathlib import Path

from slim import models
from slim.errors import StoreError
from slim.evaluate import REFERENCE_FILE, has_reference
from slim.jobs import Spool
from slim.planned import PlannedConfiguration
from slim.records import Against, Failure
from slim.store import Store


def find(planned: PlannedConfiguration, store: Store, spool: Spool, failure: Failure | None = None) -> Against:
    """Return what the evaluation of a configuration is to do about fidelity.

    A baseline that cannot be had is no error: the configuration is evaluated all the same, and its run says why a part is missing.

    Args:
        planned: the configuration.
        store: holds the baseline's run.
        spool: holds its result while the store was away.
        failure: why the baseline failed in this sweep.
    """
    if planned.reference is None:
        return Against(keep=planned.keeps_reference)
    name, key = planned.reference.name, planned.reference.key
    try:
        path = _waiting(spool, key)
        run = store.find_finished("evaluate", key) if path is None else None
        if run is not None and has_reference(run.params):
            path = store.artifact(run, REFERENCE_FILE, models.home() / "references")
    except StoreError as error:
        return Against(missing=f"what its baseline {name} kept cannot be fetched: {error}")
    if path is not None:
        return Against(path=path)
    if run is not None:
        why = "kept no distributions"
    else:
        why = f"failed: {failure.reason}" if failure is not None else "has not been evaluated with these settings"
    return Against(missing=f"its baseline {name} {why}")


def _waiting(spool: Spool, key: str) -> Path | None:
    """The file in the spool; None when there is none."""
    spooled = spool.find(key)
    if spooled is None or spooled.result.failure is not None:
        return None
    path = spooled.artifacts / REFERENCE_FILE
    return path if path.exists() else None
