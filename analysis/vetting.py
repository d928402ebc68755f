"""Whether a configuration's run is what this program writes: others write to stores too, disks break, and versions differ."""

import json
import math
import re
from collections.abc import Mapping
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from slim.metrics import find
from slim.store import SCHEMA, TAG, StoredRun

_IDENTITY = ("model", "precision", "engine", "hardware")
_NEVER_BELOW_0 = ("latency/", "throughput/", "memory/", "energy/", "size/", "efficiency/", "timing/")
_RUN_ID = re.compile(r"[A-Za-z0-9][\w-]{0,255}", re.ASCII)
_INFINITE = 1.7e308
"""MLflow keeps infinity as the largest number that there is."""
_FIRST_S, _LAST_S = 1.0e9, 7.0e9
"""Unix times of 2001 and 2191; before and after there were no such runs."""
_LONGEST = 6000
"""Characters of a param that MLflow itself takes."""


def fault(run: StoredRun) -> str | None:
    """Return why a configuration's run cannot be taken for one, in a few words; None for a sound one.

    Metrics that are not in the catalogue are another program's and do no harm.
    """
    schema = run.tags.get(TAG.SCHEMA)
    if schema != str(SCHEMA):
        return f"schema {_shown(schema)}, and this version reads {SCHEMA}" if schema is not None else "no tag slim.schema"
    missing = [name for name in _IDENTITY if not run.params.get(name)]
    if missing:
        return f"no param {missing[0]}"
    names = [(f"param {key}", run.params[key]) for key in _IDENTITY]
    for what, value in (*names, ("its name", run.tags.get(TAG.CONFIG, run.name))):
        if not value.isprintable() or len(value) > _LONGEST:
            return f"{what} is {_shown(value)}"
    for what, moment_s in (("began", run.start_unix_s), ("ended", run.end_unix_s)):
        if moment_s is not None and not _FIRST_S <= moment_s <= _LAST_S:
            return f"it {what} {moment_s:.0f} s after 1970"
    return _tags(run.tags) or _metrics(run.metrics)


def _tags(tags: Mapping[str, str]) -> str | None:
    for name in (TAG.BASELINE, TAG.PARENT):
        if name in tags and not _RUN_ID.fullmatch(tags[name]):
            return f"tag {name} is {_shown(tags[name])}, no run"
    if TAG.STAGE_RUNS in tags and not _names_runs(tags[TAG.STAGE_RUNS]):
        return f"tag {TAG.STAGE_RUNS} is {_shown(tags[TAG.STAGE_RUNS])}, no runs by stage"
    return None


def _names_runs(text: str) -> bool:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and all(
        isinstance(run_ids, list) and all(isinstance(one, str) and _RUN_ID.fullmatch(one) for one in run_ids)
        for run_ids in found.values()
    )


def _metrics(metrics: Mapping[str, float]) -> str | None:
    least, most = _bounds_of(tuple(metrics))
    values = np.fromiter(metrics.values(), float, len(metrics))
    wrong = np.flatnonzero(~((least <= values) & (values <= most)))
    if not wrong.size:
        return None
    key, value = list(metrics.items())[wrong[0]]
    if abs(value) > _INFINITE:
        return f"{key} is infinite"
    return f"{key} is {value:g}, no fraction" if most[wrong[0]] == 1 else f"{key} is {value:g}, below 0"


@lru_cache(maxsize=256)
def _bounds_of(keys: tuple[str, ...]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """`_bounds` of many, which the configurations of a sweep have alike."""
    least, most = np.array([_bounds(key) for key in keys]).reshape(-1, 2).T
    return least, most


@cache
def _bounds(key: str) -> tuple[float, float]:
    """The least and the greatest value that a metric may have; none are set for what is not in the catalogue."""
    if find(key) is None:
        return -math.inf, math.inf
    if key.startswith("accuracy/"):
        return 0, 1
    # An interval may reach below 0, and so may net energy where idle power was measured too high.
    is_signed = not key.startswith(_NEVER_BELOW_0) or key.startswith("energy/net_") or key.endswith("_ci_low")
    return -_INFINITE if is_signed else 0, _INFINITE


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
