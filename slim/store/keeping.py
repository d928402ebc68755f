"""Keeping configurations that were measured elsewhere, such as published figures, in a store."""

from collections.abc import Iterable

from slim.store.contract import TAG, StoredRun
from slim.store.store import Store


def keep(store: Store, runs: Iterable[StoredRun]) -> dict[str, str]:
    """Write configurations into a store; again, it changes nothing but what differs, and what was cut off is completed.

    Args:
        store: where to.
        runs: configurations, each with a key (tag ``slim.key``) of its own that is the same every time. A baseline tag names the
            id of another of them and is written as the id that the store gave that one.

    Returns:
        The store's run ids by those of ``runs``.

    Raises:
        StoreError: the store is away; what it has by then is complete, or is completed by the next call.
    """
    given = list(runs)
    ids = {run.run_id: _keep(store, run) for run in given}
    for run in given:
        kept = store.get(ids[run.run_id])
        tags = {**run.tags, **({TAG.BASELINE: ids[run.tags[TAG.BASELINE]]} if TAG.BASELINE in run.tags else {})}
        metrics = {k: v for k, v in run.metrics.items() if kept.metrics.get(k) != v}
        changed = {k: v for k, v in tags.items() if kept.tags.get(k) != v}
        if metrics or changed:
            store.log(kept.run_id, metrics=metrics, tags=changed)
        if kept.status != run.status:
            store.finish(kept.run_id)
    return ids


def _keep(store: Store, run: StoredRun) -> str:
    """The id of the run with this key, which is started where there is none."""
    key = run.tags[TAG.KEY]
    found = store.search(f"tags.`{TAG.KIND}` = 'configuration' and tags.`{TAG.KEY}` = '{key}'", limit=1)
    if found:
        return found[0].run_id
    tags = {k: v for k, v in run.tags.items() if k != TAG.BASELINE}
    return store.begin("configuration", run.name, params=run.params, tags=tags)
