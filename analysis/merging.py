"""Several runs of the same configuration as one: the newest counts, independent repeats are taken together, what it lacks is filled in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from analysis.protocol import identity, served, stages
from slim import aggregate, impact, precisions
from slim.store import TAG, StoredRun

_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "profile": ("latency/", "throughput/", "memory/", "energy/", "gpu/", "efficiency/"),
    "evaluate": ("accuracy/", "fidelity/"),
}
"""Families of metrics by the stage that measures them."""


@dataclass(frozen=True)
class Merged:
    """A configuration and the runs behind it.

    Attributes:
        run: the newest, with the metrics and tags of all; its tag of stage runs names those whose figures these are.
        runs: those whose results are in it, newest first.
        superseded: those whose results are not, with the reason.
        changed: its metrics are not those of the newest run alone.
    """

    run: StoredRun
    runs: tuple[StoredRun, ...]
    superseded: tuple[tuple[StoredRun, str], ...] = ()
    changed: bool = False


def merge(runs: Sequence[StoredRun]) -> Merged:
    """Merge finished runs of one configuration that are comparable.

    The newest counts. A run with the same key whose profiles are its own is a repeat: of what a profile measures, the mean over the
    repeats and its 95 % interval are taken, each run with equal weight (`slim.aggregate.combine_repeats`). Of a run with a profile or
    an evaluation that no newer one has, these are taken. The others are superseded.

    Args:
        runs: newest first.
    """
    newest, *older = runs
    repeats, filled, superseded = [newest], [], []
    has, seen = stages(newest), set(newest.stage_runs.get("profile", ()))
    for run in older:
        profiles = set(run.stage_runs.get("profile", ()))
        new = {stage for stage in _PREFIXES if stage in stages(run)} - has
        if new:
            filled.append((run, new))
            has |= new
        elif profiles and not profiles & seen and _is_same(run, newest):
            repeats.append(run)
        else:
            superseded.append((run, f"superseded by run {newest.run_id}"))
        seen |= profiles
    if len(repeats) == 1 and not filled:
        return Merged(newest, (newest,), tuple(superseded))
    metrics, tags = dict(newest.metrics), dict(newest.tags)
    reasons = [tags.get(TAG.VALIDITY, "")]
    if len(repeats) > 1:
        combined, spread = aggregate.combine_repeats([_of(run, {"profile"}) for run in repeats])
        metrics = {k: v for k, v in metrics.items() if not k.startswith(_PREFIXES["profile"])} | combined
        reasons += [*(run.tags.get(TAG.VALIDITY, "") for run in repeats[1:]), *spread]
    for run, new in filled:
        metrics |= _of(run, new)
        reasons.append(run.tags.get(TAG.VALIDITY, ""))
        if "evaluate" in new:
            # A verdict goes with the difference that it is about.
            metrics |= {k: v for k, v in run.metrics.items() if impact.is_difference(k)}
            kept = (TAG.VERDICT, TAG.COMPARISON, TAG.COMPARISON_REFUSED)
            tags = {k: v for k, v in run.tags.items() if k.startswith(kept)} | tags
    taken: dict[str, set[str]] = {run.run_id: {"profile"} for run in repeats} | {run.run_id: new for run, new in filled}
    behind = [run for run in runs if run.run_id in taken]
    flags = dict.fromkeys(reason for text in reasons for reason in text.split(",") if reason)
    if flags:
        tags[TAG.VALIDITY] = ",".join(flags)
    valid = [run.metrics["validity/ok"] for run in behind if "validity/ok" in run.metrics]
    if valid:
        metrics["validity/ok"] = 0.0 if flags else min(valid)
    tags[TAG.STAGE_RUNS] = json.dumps(_stage_runs(behind, taken))
    return Merged(replace(newest, metrics=metrics, tags=tags), tuple(behind), tuple(superseded), changed=True)


def _stage_runs(behind: Sequence[StoredRun], taken: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """The stage runs whose results count: the newest run's, and of each other those of the stages that were taken from it."""
    newest, *older = behind
    together = {stage: list(run_ids) for stage, run_ids in newest.stage_runs.items()}
    for run in older:
        for stage, run_ids in run.stage_runs.items():
            if stage in taken[run.run_id] or stage not in together:
                own = together.setdefault(stage, [])
                own += [run_id for run_id in run_ids if run_id not in own]
    return together


def against_baselines(merged: Sequence[Merged], references: Sequence[Merged] = ()) -> list[Merged]:
    """Return comparable configurations, the impact of each being against its baseline.

    The baseline is the bf16 (else fp16) configuration of the same model with the same engine and engine options. What the store says
    stays where that is what the store compared with and neither was changed by merging, and where the baseline is not here.

    Args:
        merged: configurations.
        references: baselines that are not to be among them, each compared with only where its configuration is not.
    """
    shown = {identity(one.run): one for one in merged} if references else {}
    every = [*merged, *(shown.get(identity(one.run), one) for one in references)]
    baselines: dict[tuple[tuple[str, str], ...], Merged] = {}
    for name in reversed(precisions.BASELINES):
        baselines |= {served(one.run): one for one in reversed(every) if one.run.params.get("precision") == name}
    owner = {run.run_id: baseline for one, baseline in zip([*merged, *references], every, strict=True) for run in _behind(one)}
    found = []
    for one in merged:
        run = one.run
        baseline = owner.get(run.tags[TAG.BASELINE]) if TAG.BASELINE in run.tags else baselines.get(served(run))
        is_original = baseline is not None and run.tags.get(TAG.BASELINE) == baseline.run.run_id
        if baseline is None or baseline is one or (is_original and not one.changed and not baseline.changed):
            found.append(one)
            continue
        # Differences are of paired items: what the store found against an earlier run of this baseline.
        kept = {k: v for k, v in run.metrics.items() if not k.startswith("impact/") or impact.is_difference(k)}
        metrics = kept | impact.impact(baseline.run.metrics, run.metrics)
        found.append(replace(one, run=replace(run, metrics=metrics, tags={**run.tags, TAG.BASELINE: baseline.run.run_id})))
    return found


def _behind(one: Merged) -> tuple[StoredRun, ...]:
    """All runs of a configuration, those whose results do not count included."""
    return (*one.runs, *(run for run, _ in one.superseded))


def _is_same(run: StoredRun, other: StoredRun) -> bool:
    return run.tags.get(TAG.KEY) is not None and run.tags.get(TAG.KEY) == other.tags.get(TAG.KEY)


def _of(run: StoredRun, measured: set[str]) -> dict[str, float]:
    """The metrics that some stages measured."""
    prefixes = tuple(prefix for stage in measured for prefix in _PREFIXES[stage])
    return {key: value for key, value in run.metrics.items() if key.startswith(prefixes)}
