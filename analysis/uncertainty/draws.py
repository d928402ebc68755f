"""Draws of every objective of every configuration: what else might have been measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from analysis import cells
from analysis.pareto import Objectives, minimised
from analysis.samples import Array, Items, Requests, Samples
from analysis.uncertainty import resample
from slim.errors import UserError
from slim.stats import Interval

DRAWS = 2000
Kind = Literal["requests", "items", "interval", "standard error", "constant"]


@dataclass(frozen=True)
class Spread:
    """Where the draws of one figure come from.

    Attributes:
        kind: ``requests`` and ``items`` resampled; ``interval`` and ``standard error`` drawn from a distribution of that width;
            ``constant`` when no uncertainty is known, so that every draw is the measured value.
        note: what of, or why nothing better, for a person.
    """

    kind: Kind
    note: str


@dataclass(frozen=True)
class Draws:
    """Objectives redrawn.

    Attributes:
        points: the configurations as measured, minimised, and those left out.
        values: shape (draws, configurations, objectives), minimised.
        spreads: by run id and metric key, where the draws come from.
        seed: of them.
    """

    points: Objectives
    values: Array
    spreads: Mapping[str, Mapping[str, Spread]]
    seed: int

    @cached_property
    def constant(self) -> tuple[str, ...]:
        """Objectives without uncertainty in any configuration."""
        keys = self.points.keys if self.spreads else ()
        return tuple(key for key in keys if all(own[key].kind == "constant" for own in self.spreads.values()))


def draw(
    frame: pd.DataFrame,
    objectives: Sequence[str],
    samples: Mapping[str, Samples] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Draws:
    """Redraw the objectives of the configurations of a frame.

    Latencies are bootstrapped from their requests, repeats first; all latencies of a configuration from the same requests.
    Accuracies are bootstrapped from their items; configurations that answered the same questions, of whatever model, get the same
    items in each draw, so that their differences are paired. A figure without raw samples is drawn from its 95 % interval, by
    Student's t where it is known to be one over repeats, else by a normal distribution, and independently of the others; an
    accuracy without either from its standard error. What has no uncertainty stays as it is and is marked as constant.
    A configuration's draws depend on the seed, its own run id and its questions, not on what else is in the frame.

    Args:
        frame: from `analysis.frame`.
        objectives: two to six metric keys with a direction.
        samples: by run id, from `analysis.samples.read`; a run that is missing has none.
        draws: how many.
        seed: of the draws, 0 or more.

    Raises:
        UserError: as `analysis.pareto.check`, or fewer than one draw, or a negative seed.
    """
    if draws < 1 or seed < 0:
        raise UserError(f"draws is {draws} and seed {seed}; draws must be at least 1, seed at least 0")
    points = minimised(frame, objectives)
    values = np.broadcast_to(points.values, (draws, *points.values.shape)).copy()
    spreads: dict[str, dict[str, Spread]] = {run_id: {} for run_id in points.run_ids}
    answered: list[tuple[int, int, tuple[Items, ...]]] = []
    unread = dict.fromkeys(("requests", "items"), "its raw samples were not read")
    rows = {str(run_id): row for run_id, row in zip(frame.index, frame.to_dict("records"), strict=True)}
    for at, run_id in enumerate(points.run_ids):
        own = (samples or {}).get(run_id, Samples(run_id, missing=unread))
        for column, key in enumerate(points.keys):
            found, why = _agreeing(own, key, rows[run_id][key])
            if isinstance(found, Requests):
                drawn = resample.requests(found, draws, resample.generator(seed, run_id, "requests"))
                spreads[run_id][key] = Spread("requests", _requests_note(found))
            elif found is not None:
                answered.append((at, column, found))
                spreads[run_id][key] = Spread("items", f"{sum(len(i.questions) for i in found)} items")
                continue
            else:
                drawn, spreads[run_id][key] = _modelled(rows[run_id], key, own, why, draws=draws, seed=seed)
            values[:, at, column] = drawn * points.signs[column]
    _draw_items(values, answered, points, seed)
    return Draws(points, values, spreads, seed)


def _agreeing(samples: Samples, key: str, value: float) -> tuple[Requests | tuple[Items, ...] | None, str]:
    """The samples behind a figure if they give it, else why not: what does not would be drawn around another value."""
    found = samples.of(key)
    if found is None:
        return None, samples.why_not(key) or ""
    given = found.value if isinstance(found, Requests) else sum(items.value for items in found) / len(found)
    if np.isclose(given, value, rtol=1e-6, atol=1e-9):
        return found, ""
    return None, f"its raw samples give {given:.6g} instead of {value:.6g}"


def _requests_note(found: Requests) -> str:
    counts = ", ".join(str(len(values)) for values in found.repeats)
    return f"{counts} requests" if len(found.repeats) == 1 else f"{len(found.repeats)} repeats of {counts} requests"


def _modelled(row: Mapping[str, object], key: str, samples: Samples, why: str, *, draws: int, seed: int) -> tuple[Array, Spread]:
    """Draws of a figure without raw samples."""
    value = cells.number_or_nan(row.get(key))
    low, high, error = (cells.number_or_nan(row.get(key + suffix)) for suffix in ("_ci_low", "_ci_high", "_stderr"))
    repeats = len(samples.repeats(key))
    random = resample.generator(seed, samples.run_id, key)
    if low < high:
        freedom = repeats - 1 if repeats > 1 else None
        shape = "a normal distribution" if freedom is None else f"Student's t over {repeats} repeats"
        return resample.around(value, Interval(low, high), freedom, draws, random), Spread(
            "interval", f"95 % interval, {shape}; {why}"
        )
    if error > 0:
        return value + error * random.standard_normal(draws), Spread("standard error", f"a normal distribution; {why}")
    same = f"the same in {repeats} repeats" if repeats > 1 else "no interval"
    return np.full(draws, value), Spread("constant", f"{same}; {why}")


def _draw_items(values: Array, answered: Sequence[tuple[int, int, tuple[Items, ...]]], points: Objectives, seed: int) -> None:
    """Put the accuracies that are resampled into the draws: all that answered the same questions at once."""
    same: dict[tuple[str, ...], list[tuple[int, int, int, Items]]] = {}
    for at, column, found in answered:
        values[:, at, column] = 0.0
        for items in found:
            same.setdefault(items.questions, []).append((at, column, len(found), items))
    for questions, members in same.items():
        drawn = resample.items(
            [items.correct for *_, items in members],
            [items.weight for *_, items in members],
            len(values),
            resample.generator(seed, "items", *questions),
        )
        for means, (at, column, tasks, _) in zip(drawn.T, members, strict=True):
            values[:, at, column] += points.signs[column] * means / tasks
