"""Logs what waits in the spool, without running anything."""

from dataclasses import dataclass, replace

from slim.errors import NotStoredError, Reason, StoreAwayError, StoreError
from slim.jobs import Spool
from slim.ledger import Entry, Ledger
from slim.own_run import begin, finish
from slim.plan import with_reuse
from slim.store import TAG, Store, shown
from slim.waiting import Record, alone, records


@dataclass(frozen=True)
class Flushed:
    """What came of it.

    Attributes:
        logged: results that are in the store now.
        run_ids: configurations that they belong to.
        elsewhere: how many wait for another store, by its address.
        unknown: results that no record speaks of: the command that made them logs them.
        problems: why a sweep could not be logged whole, a line each; what is left of it still waits.
    """

    logged: int
    run_ids: tuple[str, ...]
    elsewhere: dict[str, int]
    unknown: int
    problems: tuple[str, ...] = ()


def flush(tracking_uri: str, spool: Spool) -> Flushed:
    """Log what waits for a store.

    A configuration of which everything is there is finished; one of which something is missing is left as interrupted, to be gone on
    with by the command that began it.

    Args:
        tracking_uri: address of the store.
        spool: where results wait.

    Raises:
        StoreAwayError: nobody answers.
        UserError: a sweep is running.
    """
    address = shown(tracking_uri)
    elsewhere: dict[str, int] = {}
    run_ids: list[str] = []
    problems: list[str] = []
    logged = 0
    with alone(spool):
        known: set[str] = set()
        for record in records(spool):
            waiting = record.waiting(spool) - known
            known |= waiting
            if record.address != address:
                if waiting:
                    elsewhere[record.address] = elsewhere.get(record.address, 0) + len(waiting)
                continue
            try:
                store = Store.open(tracking_uri, record.experiment)
                assert store is not None
                with store.beating():
                    run_ids += _flush(record, store, spool)
                if not record.waiting(spool):
                    record.remove()
            except StoreAwayError:
                raise
            except StoreError as error:
                problems.append(str(error))
            logged += len(waiting) - len(record.waiting(spool))
        unknown = len(set(spool.keys()) - known)
    return Flushed(logged, tuple(dict.fromkeys(run_ids)), elsewhere, unknown, tuple(problems))


def _flush(record: Record, store: Store, spool: Spool) -> list[str]:
    """Log what waits of one sweep, and how that ended; return the runs of the configurations that were written."""
    plan = replace(record.plan, configurations=tuple(with_reuse(c, store, spool) for c in record.plan.configurations))
    ledger = Ledger(plan, store, spool, lambda: _begin(ledger, record), looked_up=False)
    ledger.sweep_run = _still_there(store, record.sweep_run)
    # Of a sweep that was deleted since, results are logged and nothing else.
    is_gone = record.sweep_run is not None and ledger.sweep_run is None
    failures = record.end.failures if record.end and not is_gone else {}
    written = []
    for entry in ledger.entries:
        _collect(entry, spool)
        entry.failure = next((s.result.failure for _, s in entry.waiting if s.result.failure), failures.get(entry.planned.name))
        if entry.ended or not (entry.waiting or entry.failure) or _is_told(entry, ledger):
            continue
        ledger.write(entry)
        assert entry.run_id is not None
        if not entry.ended:
            store.finish(entry.run_id, failure=Reason.INTERRUPTED.value, message="the rest of it was not measured yet")
        written.append(entry.run_id)
    for entry in ledger.entries:
        ledger.compare(entry)
    if ledger.sweep_run is not None and store.get(ledger.sweep_run).status != "FINISHED":
        if record.end is not None:
            finish(store, ledger.sweep_run, record.end)
        else:
            message = "it was cut off; what it had finished is logged"
            store.finish(ledger.sweep_run, failure=Reason.INTERRUPTED.value, message=message)
    return written


def _collect(entry: Entry, spool: Spool) -> None:
    """Take over what waits, failures included; what the store has meanwhile goes."""
    for stage in entry.planned.stages:
        if stage.run is not None or entry.ended:
            entry.done |= {stage.key: stage.run} if stage.run is not None else {}
            spool.done(stage.key)
        elif (spooled := spool.find(stage.key)) is not None:
            entry.waiting.append((stage, spooled))


def _is_told(entry: Entry, ledger: Ledger) -> bool:
    """Whether the store was still there when a configuration failed."""
    if entry.waiting or ledger.sweep_run is None:
        return False
    return any(
        run.tags.get(TAG.KEY) == entry.planned.key and run.status == "FAILED"
        for run in ledger.store.configurations(ledger.sweep_run)
    )


def _begin(ledger: Ledger, record: Record) -> None:
    ledger.sweep_run = begin(ledger.store, record.plan, record.started_unix_s)


def _still_there(store: Store, run_id: str | None) -> str | None:
    if run_id is None:
        return None
    try:
        store.get(run_id)
    except NotStoredError:
        return None
    return run_id
