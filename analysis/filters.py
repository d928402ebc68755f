"""What of a store a study looks at: conditions that a run has to pass, and why it does not."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time

from analysis import protocol, vetting
from slim import precisions
from slim.errors import StoreError, UserError
from slim.store import TAG, Reader, StoredRun

Reason = tuple[str, str]
"""Kind and reason, as in the columns of `analysis.selection.Selection.left_out`."""

Condition = Callable[[StoredRun], Reason | None]
"""Gives why a run does not pass, and None for one that does."""


@dataclass(frozen=True)
class Filters:
    """What to look at; what is empty or None lets everything through.

    Attributes:
        sweeps: ids of sweep runs: the configurations they measured or found finished.
        models: as in the sweep file, or the short name that configurations bear.
        precisions, engines, hardware: as in the params of the same names.
        tags: tags that the configuration's run or its sweep's run has.
        params: params that the run has, such as ``{"profile.input_tokens": "256"}``; ``torch_version`` and ``driver_version`` too.
        since: runs that ended then or later; a date is its first moment in UTC, as is a time without a zone.
        flagged: take measurements that did not pass every check of their validity too.
        ignore: settings whose difference does not keep two runs from being compared, such as ``evaluate.batch_size``.
        group: number of one group of comparable configurations, as a `Selection` without this filter counts them.
    """

    sweeps: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    since: date | None = None
    flagged: bool = False
    ignore: tuple[str, ...] = ()
    group: int | None = None


@dataclass(frozen=True)
class Conditions:
    """What a run has to pass.

    Attributes:
        all: in the order in which reasons are told; each gives None for a run that passes.
        of_reference: those of them that a baseline has to pass which is not looked at itself, and is still what others are judged
            against: a measurement of the same hardware and protocol that ended.
        unflagged: that its measurement passed every check.
    """

    all: tuple[Condition, ...]
    of_reference: tuple[Condition, ...]
    unflagged: Condition

    def reason(self, run: StoredRun) -> Reason | None:
        """Return why a run is left out; None where it is not."""
        return next((told for condition in self.all if (told := condition(run)) is not None), None)


def conditions(store: Reader, filters: Filters, sweeps: Mapping[str, StoredRun]) -> Conditions:
    """Return what a run has to pass."""
    of_sweeps = _of_sweeps(store, filters.sweeps, sweeps)
    since_s = _since_s(filters.since)

    def sane(run: StoredRun) -> Reason | None:
        fault = vetting.fault(run)
        return None if fault is None else ("damaged", f"not a run as this version writes them: {fault}")

    def of_sweep(run: StoredRun) -> Reason | None:
        is_there = of_sweeps is None or run.run_id in of_sweeps or run.tags.get(TAG.PARENT) in filters.sweeps
        return None if is_there else ("filtered", "of another sweep")

    def named(run: StoredRun) -> Reason | None:
        if filters.models and not {run.params.get("model"), _short_name(run)} & set(filters.models):
            return "filtered", f"model {run.params.get('model')}"
        for name, allowed in (("precision", filters.precisions), ("engine", filters.engines)):
            if allowed and run.params.get(name) not in allowed:
                return "filtered", f"{name} {run.params.get(name)}"
        return None

    def tagged(run: StoredRun) -> Reason | None:
        parent = sweeps.get(run.tags.get(TAG.PARENT, ""))
        for tag, value in filters.tags.items():
            found = run.tags.get(tag, parent.tags.get(tag) if parent else None)
            if found != value:
                return "filtered", f"tag {tag} is {'not set' if found is None else found}"
        return None

    def recent(run: StoredRun) -> Reason | None:
        if since_s is None or ended_ms(run) >= 1000 * since_s:
            return None
        return "filtered", f"of {datetime.fromtimestamp(ended_ms(run) / 1000, UTC):%Y-%m-%d}"

    def measured(run: StoredRun) -> Reason | None:
        if filters.hardware and run.params.get("hardware") not in filters.hardware:
            return "hardware", f"other hardware: {run.params.get('hardware', 'unknown')}"
        for key, value in filters.params.items():
            if run.params.get(key) != value:
                return "protocol", f"other protocol: {key} is {run.params.get(key, 'not set')}"
        return None

    def finished(run: StoredRun) -> Reason | None:
        failure = run.tags.get(TAG.FAILURE)
        if run.status == "FAILED":
            return "failed", f"failed:{failure or 'unknown'}"
        if run.status != "FINISHED":
            return "incomplete", f"incomplete: {failure or run.status.lower()}"
        return None

    def unflagged(run: StoredRun) -> Reason | None:
        if run.tags.get(TAG.VALIDITY) or run.metrics.get("validity/ok") == 0:
            return "invalid", f"invalid:{run.tags.get(TAG.VALIDITY) or 'unknown'}"
        return None

    usual = (sane, of_sweep, named, tagged, recent, measured, finished)
    return Conditions(usual if filters.flagged else (*usual, unflagged), (sane, measured, finished), unflagged)


def _of_sweeps(store: Reader, wanted: Sequence[str], sweeps: Mapping[str, StoredRun]) -> set[str] | None:
    """Configuration runs that sweeps name in their plans; None for all."""
    if not wanted:
        return None
    found: set[str] = set()
    for sweep in wanted:
        try:
            found |= {row["run_id"] for row in protocol.plan_of(store, sweep).get("configurations", ()) if row.get("run_id")}
        except StoreError:
            # Without its plan the runs nested in it are known, but not those that it found finished.
            if TAG.REUSED in sweeps[sweep].tags:
                raise
    return found


def check(filters: Filters, runs: Sequence[StoredRun], sweeps: Iterable[str]) -> None:
    """Refuse values that nothing in the store has.

    Raises:
        UserError: names filter, value and what is allowed.
    """

    def known(name: str) -> list[str]:
        return sorted({run.params[name] for run in runs if name in run.params})

    allowed = {
        "sweeps": list(sweeps),
        "models": [*known("model"), *sorted({_short_name(run) for run in runs})],
        "precisions": [*precisions.CATALOGUE, *known("precision")],
        "engines": [*precisions.ENGINES, *known("engine")],
        "hardware": known("hardware"),
    }
    for name, values in allowed.items():
        for value in getattr(filters, name):
            if value not in values:
                told = ", ".join(dict.fromkeys(values)) or "none is in the store"
                raise UserError(f"filter {name}: {value!r} is not in the store; allowed: {told}")
    for key in filters.params:
        if not any(key in run.params for run in runs):
            raise UserError(
                f"filter params: no configuration has a param {key!r}; allowed: the names in the store, such as 'seed'"
            )


def _since_s(since: date | None) -> float | None:
    if since is None:
        return None
    moment = since if isinstance(since, datetime) else datetime.combine(since, time())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _short_name(run: StoredRun) -> str:
    return run.tags.get(TAG.CONFIG, run.name).partition("/")[0]


def ended_ms(run: StoredRun) -> int:
    """Return when a run ended (began, while it runs), in Unix milliseconds."""
    return round(1000 * (run.end_unix_s or run.start_unix_s))
