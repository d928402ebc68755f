"""Which configurations of a store a study looks at, one row each, and every run that is not among them with the reason."""

import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pandas as pd

from analysis import cache, frame, protocol
from analysis.filters import Conditions, Filters, check, conditions, ended_ms
from analysis.merging import Merged, against_baselines, merge
from slim import precisions
from slim.errors import UserError
from slim.store import TAG, Reader, StoredRun

EVERYTHING = Filters()
_TOLD = 3
"""Differing settings that a refusal names."""


@dataclass(frozen=True)
class Group:
    """Configurations that can be compared with each other.

    Attributes:
        number: from 1, the group with the newest run first.
        run_ids: of its rows.
        differs: of the settings in which the groups differ, this group's values; not set or not known is missing.
    """

    number: int
    run_ids: tuple[str, ...]
    differs: Mapping[str, str]


@dataclass(frozen=True)
class Selection:
    """What was found. Every configuration run of the experiment is behind one row of `frame` or is one row of `left_out`.

    Attributes:
        frame: one row a configuration as `analysis.frame.from_runs` gives it, the newest first, and ``group`` (number), ``runs``,
            ``sweeps`` and ``profiles`` (how many configuration runs, sweeps and profile runs stand behind it), ``stage_runs`` (run ids
            by stage, as JSON), ``variant`` (what tells it from others of the same name; empty where there are none) and ``ended`` (UTC).
            Figures of different groups cannot be compared: ask for `comparable`.
        left_out: ``configuration``, ``run_id``, ``kind`` (``damaged``, ``filtered``, ``failed``, ``incomplete``, ``invalid``, ``superseded``,
            ``hardware``, ``protocol`` or ``group``) and ``reason``.
        groups: of comparable configurations.
        references: baselines of those in the frame that are left out themselves, as flagged or by a filter, and can be compared with
            them; like the frame. What is said of a configuration is held against its baseline all the same.
        merged: the runs behind each row of frame and references, by run id.
    """

    frame: pd.DataFrame
    left_out: pd.DataFrame
    groups: tuple[Group, ...]
    references: pd.DataFrame
    merged: Mapping[str, Merged]

    def comparable(self) -> pd.DataFrame:
        """Return the frame.

        Raises:
            UserError: it holds several groups; says in what they differ and how to choose.
        """
        if len(self.groups) > 1:
            raise UserError(refusal(self.groups))
        return self.frame


@contextmanager
def _no_collection() -> Iterator[None]:
    """Let Python's garbage collector wait: of millions of new objects, none of them garbage, it would look through all again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_no_collection()
def select(store: Reader, filters: Filters = EVERYTHING, *, whole: bool = False) -> Selection:
    """Read an experiment and return what the filters let through, merged.

    Args:
        store: an experiment.
        filters: what to look at.
        whole: do not trust the copy on this machine (`analysis.cache`).

    Raises:
        UserError: a filter names what the store does not have.
        StoreError: the store cannot be read, or what a sweep reused is not to be found out.
    """
    everything = cache.runs(store, whole=whole)
    sweeps = {run.run_id: run for run in everything if run.kind == "sweep"}
    runs = protocol.with_environment(store, [run for run in everything if run.kind == "configuration"])
    check(filters, runs, sweeps)
    left_out: list[tuple[StoredRun, str, str]] = []
    passes = conditions(store, filters, sweeps)
    kept = []
    for run in runs:
        reason = passes.reason(run)
        if reason is None:
            kept.append(run)
        else:
            left_out.append((run, *reason))
    kept.sort(key=_newest)
    spare = sorted((run for run, *_ in left_out if all(one(run) is None for one in passes.of_reference)), key=_newest)
    parts = protocol.parts(kept, filters.ignore)
    if filters.group is not None:
        if not 1 <= filters.group <= len(parts):
            raise UserError(
                f"group {filters.group} does not exist; allowed: 1 to {len(parts)}" if parts else "nothing is selected"
            )
        for number, part in enumerate(parts, 1):
            if number != filters.group:
                left_out += [(run, "group", f"of group {number}: {_settings(part.differs)}") for run in part.runs]
        parts = (replace(parts[filters.group - 1], differs={}),)
    merged: list[tuple[int, Merged]] = []
    references: list[tuple[int, Merged]] = []
    for number, part in enumerate(parts, 1):
        beside = _references(part, spare, passes, filters.ignore)
        found = against_baselines([merge(same) for same in _by_identity(part.runs)], beside)
        merged += [(number, one) for one in found]
        named = {one.run.tags.get(TAG.BASELINE) for one in found}
        references += [(number, one) for one in beside if one.run.run_id in named]
        left_out += [(run, "superseded", reason) for one in found for run, reason in one.superseded]
    ids = [tuple(one.run.run_id for n, one in merged if n == number) for number in range(1, len(parts) + 1)]
    groups = tuple(Group(n, run_ids, part.differs) for n, (run_ids, part) in enumerate(zip(ids, parts, strict=True), 1))
    return Selection(
        _frame(merged),
        _left_out(left_out),
        groups,
        _frame(references),
        {one.run.run_id: one for _, one in [*merged, *references]},
    )


def _by_identity(runs: Iterable[StoredRun]) -> list[list[StoredRun]]:
    found: dict[tuple[tuple[str, str], ...], list[StoredRun]] = {}
    for run in runs:
        found.setdefault(protocol.identity(run), []).append(run)
    return list(found.values())


def _references(part: protocol.Part, spare: Iterable[StoredRun], passes: Conditions, ignore: Iterable[str]) -> list[Merged]:
    """What may be the baseline of a part's configurations among the runs that are left out; flagged ones only where there is no other."""
    named = {run.tags.get(TAG.BASELINE) for run in part.runs}
    possible = [run for run in spare if run.run_id in named or run.params.get("precision") in precisions.BASELINES]
    if not possible:
        return []
    served = {protocol.served(run) for run in part.runs}
    possible = [run for run in possible if run.run_id in named or protocol.served(run) in served]
    found = []
    for same in _by_identity(protocol.comparable(part, possible, ignore)):
        sound = [run for run in same if passes.unflagged(run) is None]
        one = merge(protocol.parts(sound or same, ignore)[0].runs)
        others = ((run, f"superseded by run {one.run.run_id}") for run in same if run not in one.runs)
        found.append(replace(one, superseded=tuple(others)))
    return found


def _newest(run: StoredRun) -> tuple[float, str]:
    return -(run.end_unix_s or run.start_unix_s), run.run_id


def refusal(groups: Sequence[Group]) -> str:
    """Return one line that says in what groups differ and how to choose one."""
    keys = list(dict.fromkeys(key for group in groups for key in group.differs))
    keys.sort(key=lambda key: key != "hardware")
    told = []
    for key in keys[:_TOLD]:
        counts: Counter[str] = Counter()
        for group in groups:
            counts[group.differs.get(key, "not set")] += len(group.run_ids)
        told.append(f"{key} is " + " or ".join(f"{value} ({count})" for value, count in counts.items()))
    more = f"; and {len(keys) - _TOLD} more" if len(keys) > _TOLD else ""
    key = keys[0] if keys else "hardware"
    value = next((group.differs[key] for group in groups if key in group.differs), "")
    how = f"hardware={value!r}" if key == "hardware" else f"params={{{key!r}: {value!r}}}"
    by_setting = f"{how}, " if " " not in key else ""
    return (
        f"the selection holds {len(groups)} groups of configurations that cannot be compared: {'; '.join(told)}{more}"
        f" (configurations); choose one by {by_setting}group=1 to {len(groups)}, or a sweep"
    )


def _settings(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items()) or "nothing that differs is known"


def _frame(merged: Sequence[tuple[int, Merged]]) -> pd.DataFrame:
    found = frame.from_runs(one.run for _, one in merged)
    same_name: dict[tuple[int, str], list[Merged]] = {}
    for number, one in merged:
        same_name.setdefault((number, one.run.tags.get(TAG.CONFIG, one.run.name)), []).append(one)
    variants = {one.run.run_id: told for ones in same_name.values() for one, told in zip(ones, _variants(ones), strict=True)}
    added = {
        "group": [number for number, _ in merged],
        "runs": [len(one.runs) for _, one in merged],
        "sweeps": [len({run.tags.get(TAG.PARENT) for run in one.runs} - {None}) for _, one in merged],
        "profiles": [_profiles(one) for _, one in merged],
        "stage_runs": [one.run.tags.get(TAG.STAGE_RUNS) for _, one in merged],
        "variant": [variants[one.run.run_id] for _, one in merged],
        "ended": pd.to_datetime([ended_ms(one.run) for _, one in merged], unit="ms", utc=True),
    }
    return pd.concat([found, pd.DataFrame(added, index=found.index)], axis=1)


def _profiles(one: Merged) -> int:
    return len(one.run.stage_runs.get("profile", ()))


def _variants(ones: Sequence[Merged]) -> list[str]:
    """What tells configurations of the same name from each other."""
    if len(ones) == 1:
        return [""]
    settings = [protocol.variant(one.run) for one in ones]
    keys = [key for key in dict.fromkeys(k for s in settings for k in s) if len({s.get(key) for s in settings}) > 1]
    return [", ".join(f"{key}={s[key]}" for key in keys if key in s) for s in settings]


def _left_out(rows: Iterable[tuple[StoredRun, str, str]]) -> pd.DataFrame:
    columns = ["configuration", "run_id", "kind", "reason"]
    return pd.DataFrame([(r.tags.get(TAG.CONFIG, r.name), r.run_id, kind, reason) for r, kind, reason in rows], columns=columns)


__all__ = ["EVERYTHING", "Filters", "Group", "Selection", "refusal", "select"]
