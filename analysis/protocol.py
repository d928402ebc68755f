"""What makes two measurements of a configuration the same configuration, and what makes figures comparable at all.

Which configuration it is: model, revision, precision, engine, the engine's options and the settings it was quantized with. What has to
be the same before figures stand side by side, or are taken together: hardware and driver; seed and settings of a profile and of an
evaluation; versions of engine and torch, within an engine. Where two differ in a stage that only one of them has, they do not differ.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from types import UnionType
from typing import Any, get_args

from slim import files
from slim.config import Section, SweepConfig
from slim.errors import StoreError
from slim.store import TAG, Reader, StoredRun

VERSIONS = ("engine_version", "torch_version")
DRIVER = "driver_version"
_SERVED = ("model", "revision", "engine")
# Where the data lie says nothing about what they are; a digest or a count does.
_PLACES = {"profile.prompts.data_dir", "evaluate.data_dir"}
_FOUND = ("profile.prompts.digest", "evaluate.items.", "evaluate.num_fewshot.")

Settings = Mapping[str, str]
Runs = tuple[StoredRun, ...]


@dataclass(frozen=True)
class Part:
    """Runs that are comparable with each other.

    Attributes:
        runs: newest first.
        differs: of the settings in which the parts differ, this one's values; empty where there is one part. What is not set or not
            known is missing.
    """

    runs: Runs
    differs: Settings


def stages(run: StoredRun) -> set[str]:
    """Return the stages that stand behind a configuration's run; told by its params where no runs are named."""
    if found := {stage for stage, run_ids in run.stage_runs.items() if run_ids}:
        return found
    return {stage for stage in ("quantize", "profile", "evaluate") if any(key.startswith(f"{stage}.") for key in run.params)}


def identity(run: StoredRun) -> tuple[tuple[str, str], ...]:
    """Return what says which configuration a run measured."""
    return tuple((key, run.params[key]) for key in _keys(tuple(run.params)).identity)


def served(run: StoredRun) -> tuple[tuple[str, str], ...]:
    """Return which model a run served and how, whatever the precision: what a configuration shares with its baseline."""
    return tuple((key, run.params[key]) for key in _keys(tuple(run.params)).served)


def variant(run: StoredRun) -> dict[str, str]:
    """Return what is not in a configuration's name and still says which it is; of the model a name has only the short form."""
    return {k: v for k, v in identity(run) if k not in ("precision", "engine")}


def with_environment(store: Reader, runs: Iterable[StoredRun]) -> list[StoredRun]:
    """Return the runs with torch's version and the driver's among their params.

    Sweeps of earlier versions of this program wrote them into ``plan.json`` only; where that cannot be read they stay unknown.
    """
    known: dict[str, dict[str, str]] = {}
    found = []
    for run in runs:
        parent = run.tags.get(TAG.PARENT)
        if "torch_version" not in run.params and parent is not None:
            if parent not in known:
                known[parent] = _environment(store, parent)
            run = replace(run, params={**known[parent], **run.params}) if known[parent] else run  # noqa: PLW2901
        found.append(run)
    return found


def plan_of(store: Reader, sweep_run: str) -> dict[str, Any]:
    """Return the ``plan.json`` of a sweep.

    Raises:
        StoreError: there is none, or it cannot be read.
    """
    try:
        path = store.artifact(store.get(sweep_run), "plan.json", files.home() / "artifacts")
        plan = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"plan.json of sweep {sweep_run} cannot be read: {error}") from error
    return dict(plan)


def parts(runs: Sequence[StoredRun], ignore: Iterable[str] = ()) -> tuple[Part, ...]:
    """Split runs into those that are comparable, the part with the newest run first.

    Runs that an axis says nothing about, such as those of the other engine for an engine's version, stay with the newest.

    Args:
        runs: newest first.
        ignore: settings whose difference does not matter to the caller.
    """
    ignored = frozenset(ignore)
    found: list[list[StoredRun]] = [list(runs)] if runs else []
    axes = {run.run_id: _axes(run, ignored) for run in runs}
    for axis in dict.fromkeys(name for values in axes.values() for name in values):
        split = []
        for part in found:
            by_value: dict[tuple[tuple[str, str], ...], list[StoredRun]] = {}
            silent = []
            for run in part:
                value = axes[run.run_id].get(axis)
                if value is None:
                    silent.append(run)
                else:
                    by_value.setdefault(value, []).append(run)
            pieces = list(by_value.values()) or [[]]
            pieces[0] += silent
            split += [sorted(piece, key=_newest) for piece in pieces]
        found = split
    found.sort(key=lambda part: _newest(part[0]))
    values = [_values(part, axes) for part in found]
    differing = [
        (axis, key)
        for axis, key in dict.fromkeys((axis, key) for value in values for axis in value for key in value[axis])
        if len({value[axis].get(key) for value in values if axis in value}) > 1
    ]
    return tuple(
        Part(tuple(part), {key: value[axis][key] for axis, key in differing if key in value.get(axis, {})})
        for part, value in zip(found, values, strict=True)
    )


def comparable(part: Part, runs: Iterable[StoredRun], ignore: Iterable[str] = ()) -> list[StoredRun]:
    """Return those of other runs that can be compared with the runs of a part.

    Args:
        part: of `parts`.
        runs: to look at.
        ignore: as for `parts`.
    """
    ignored = frozenset(ignore)
    own = {axis: value for run in part.runs for axis, value in _axes(run, ignored).items()}
    return [run for run in runs if all(own.get(axis, value) == value for axis, value in _axes(run, ignored).items())]


def _values(part: Iterable[StoredRun], axes: Mapping[str, Mapping[str, tuple[tuple[str, str], ...]]]) -> dict[str, Settings]:
    """A part's settings by axis: those of the runs that the axis says something about."""
    return {axis: dict(pairs) for run in part for axis, pairs in axes[run.run_id].items()}


def _axes(run: StoredRun, ignored: frozenset[str]) -> dict[str, tuple[tuple[str, str], ...]]:
    """What must agree, by axis; an axis that says nothing about the run is left out."""
    params, has, engine = run.params, stages(run), run.params.get("engine", "")
    keys = _keys(tuple(params))

    def chosen(names: Iterable[str], rename: str = "") -> tuple[tuple[str, str], ...]:
        return tuple((rename + key, params[key]) for key in names if key in params and key not in ignored)

    found = {"hardware": chosen(("hardware", DRIVER))}
    if "profile" in has:
        found["profile"] = chosen(keys.profile)
    if "evaluate" in has:
        found["evaluate"] = chosen(keys.evaluate)
    found[f"engine {engine}"] = chosen(VERSIONS, f"{engine} ")
    return found


@dataclass(frozen=True)
class _Keys:
    """Which of a run's params say what, in alphabetical order."""

    identity: tuple[str, ...]
    served: tuple[str, ...]
    profile: tuple[str, ...]
    evaluate: tuple[str, ...]


@lru_cache(maxsize=4096)
def _keys(names: tuple[str, ...]) -> _Keys:
    """Sort params; thousands of runs have the same few sets of them."""
    settings = _fields(SweepConfig, "")
    quantizing = {key for key in settings if key.startswith("quantize.")}
    measuring = {key for key in settings if key.startswith(("profile.", "evaluate."))} - _PLACES
    ordered = sorted(names)
    served = tuple(key for key in ordered if key in _SERVED or key.startswith("engine_options."))

    def of(stage: str) -> tuple[str, ...]:
        return tuple(
            key
            for key in ordered
            if key == "seed" or (key.startswith(f"{stage}.") and (key in measuring or key.startswith(_FOUND)))
        )

    identity = tuple(key for key in ordered if key in served or key == "precision" or key in quantizing)
    return _Keys(identity, served, of("profile"), of("evaluate"))


def _newest(run: StoredRun) -> tuple[float, str]:
    return -(run.end_unix_s or run.start_unix_s), run.run_id


def _environment(store: Reader, sweep_run: str) -> dict[str, str]:
    try:
        measure = plan_of(store, sweep_run)["environments"]["measure"]
        found = {"torch_version": measure["versions"].get("torch"), DRIVER: measure["hardware"].get("driver")}
    except (StoreError, KeyError, TypeError):
        return {}
    return {key: value for key, value in found.items() if value is not None}


@cache
def _fields(section: type[Section], prefix: str) -> frozenset[str]:
    """Names of the params that a section of a sweep file becomes."""
    found: set[str] = set()
    for name, declared in section.model_fields.items():
        # A section or None; a list of sections is one param.
        kinds = [declared.annotation, *(get_args(declared.annotation) if isinstance(declared.annotation, UnionType) else ())]
        nested = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
        found |= _fields(nested, f"{prefix}{name}.") if nested is not None else {prefix + name}
    return frozenset(found)
