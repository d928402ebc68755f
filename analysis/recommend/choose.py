"""Choosing a configuration from a frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import pareto
from analysis.constraints import NonInferior
from analysis.judging import Checked, applicable, check
from analysis.recommend import balance
from analysis.recommend.deployments import Request
from analysis.recommend.records import Excluded, Nearest, Option, Recommendation, RunnerUp, Slack, WeightRange
from slim.errors import UserError
from slim.metrics import Better, get

FINISHED = "FINISHED"
NO_OBJECTIVE = "no objective was measured"
"""Why configurations with nothing wrong are left out where every objective was dropped."""


def recommend(
    frame: pd.DataFrame, request: Request, *, references: pd.DataFrame | None = None, keep_flagged: bool = True
) -> Recommendation:
    """Return which configuration of a frame to deploy.

    With one objective the choice is the best of those that meet every constraint; with several it is the nearest to their ideal
    point (`analysis.recommend.balance`). Objectives that no configuration has are dropped, and so are constraints marked ``if
    measured``; a configuration that lacks what others have is left out. Equals are told apart by `Request.then`, the name
    and the run id, so the order of rows never matters.

    Args:
        frame: from `analysis.frame`, of one hardware; baselines included, since constraints may be relative to them.
        request: what is asked for.
        references: baselines that constraints are relative to and that cannot be chosen (`analysis.selection.Selection`); None is none.
        keep_flagged: whether configurations count whose measurement did not pass every check. They do unless said otherwise,
            since a whole device may be flagged (a power cap); the answer tells how many they are.

    Raises:
        UserError: the frame is of several kinds of hardware, whose figures cannot be compared.
    """
    finished = frame["status"] == FINISHED
    one_hardware(frame)
    flagged = frame["validity"].notna()
    candidates = finished if keep_flagged else finished & ~flagged
    keys = {objective: objective.measured(frame[candidates]) for objective in request.objectives}
    dropped = {objective.text: "no configuration has it" for objective, key in keys.items() if key is None}
    objectives = tuple(key for key in keys.values() if key is not None)
    checked, idle = applicable([check(frame, constraint, references) for constraint in request.constraints], candidates)
    dropped |= dict.fromkeys(idle, "not measured")

    known = frame.reindex(columns=list(objectives)).astype("float64")
    judged = candidates & known.notna().all(axis=1)
    for each in checked:
        judged &= each.slack.notna()
    judged &= bool(objectives)
    met = pd.DataFrame({each.constraint.text: each.met for each in checked}, index=frame.index)
    qualified = judged & met.all(axis=1)
    texts = met.columns.to_numpy()
    view = _View(frame, known, checked, request)
    weights = [w for w, key in zip(request.weights or [1.0] * len(keys), keys.values(), strict=True) if key is not None]
    answer = _Answer()
    if qualified.any():
        pick = _best if len(objectives) == 1 else _balanced
        answer = pick(view, frame.index[qualified], np.array(weights))
    elif judged.any():
        answer = _Answer(nearest=_nearest(view, frame.index[judged]))
    return Recommendation(
        request=request,
        objectives=objectives,
        choice=answer.choice,
        ties=answer.ties,
        runner_up=answer.runner_up,
        weights=answer.weights,
        nearest=answer.nearest,
        unmet=tuple(
            Excluded(run, view.name(run), tuple(texts[~row].tolist()))
            for run, row in zip(frame.index[judged & ~qualified], met[judged & ~qualified].to_numpy(), strict=True)
        ),
        left_out=tuple(Excluded(run, view.name(run), _why_not(view, run, bool(candidates[run]))) for run in frame.index[~judged]),
        dropped=dropped,
        replaced={o.key: key for o, key in keys.items() if key is not None and key != o.key},
        flagged=int((qualified & flagged).sum()),
        qualified=int(qualified.sum()),
    )


def one_hardware(frame: pd.DataFrame) -> None:
    """Make sure that a frame's finished configurations ran on one kind of hardware.

    Raises:
        UserError: they did not.
    """
    hardware = sorted({str(name) for name in frame.loc[frame["status"] == FINISHED, "hardware"].dropna()})
    if len(hardware) > 1:
        raise UserError(f"configurations are of {len(hardware)} kinds of hardware ({', '.join(hardware)}); allowed: one")


@dataclass(frozen=True)
class _Answer:
    """The parts of a recommendation that choosing decides."""

    choice: Option | None = None
    ties: tuple[str, ...] = ()
    runner_up: RunnerUp | None = None
    weights: tuple[WeightRange, ...] = ()
    nearest: Nearest | None = None


@dataclass(frozen=True, eq=False)
class _View:
    """A frame, its objectives' values and the constraints held against it."""

    frame: pd.DataFrame
    known: pd.DataFrame
    checked: Sequence[Checked]
    request: Request

    def name(self, run: str) -> str:
        return str(self.frame.at[run, "configuration"])

    def minimised(self, runs: pd.Index) -> pd.DataFrame:
        """Objectives' values with the sign turned where more is better."""
        return self.known.loc[runs] * [_sign(key) for key in self.known.columns]

    def sorted(self, runs: Sequence[str]) -> list[str]:
        """Equals in the order of what decides between them; what is unknown comes last."""
        keys = [key for key in (objective.measured(self.frame) for objective in self.request.then) if key is not None]
        columns = {key: self.frame[key].astype("float64") * _sign(key) for key in keys}

        def order(run: str) -> tuple[object, ...]:
            values = [float(column[run]) for column in columns.values()]
            return (*((np.isnan(value), 0.0 if np.isnan(value) else value) for value in values), self.name(run), run)

        return sorted(runs, key=order)

    def option(self, run: str, distance: float | None = None, shortfalls: Mapping[str, float] | None = None) -> Option:
        values = {key: float(self.known.at[run, key]) for key in self.known.columns}
        flags = self.frame.at[run, "validity"]
        return Option(
            run_id=run,
            configuration=self.name(run),
            values=values,
            slacks=tuple(_slack(each, run) for each in self.checked),
            distance=distance,
            shortfalls=shortfalls or {},
            flagged=flags if isinstance(flags, str) else None,
        )

    def runner_up(self, chosen: Option, option: Option, behind: float, size: float | None) -> RunnerUp:
        differences = {key: value - chosen.values[key] for key, value in option.values.items()}
        return RunnerUp(option, behind, behind / size if size else None, differences)


def _sign(key: str) -> float:
    return -1.0 if get(key).better is Better.HIGHER else 1.0


def _slack(checked: Checked, run: str) -> Slack:
    constraint, relative = checked.constraint, float(checked.relative[run])
    if isinstance(constraint, NonInferior):
        said = checked.verdict[run]
        return Slack(constraint.text, constraint.key, None, None, None, relative, said if isinstance(said, str) else None)
    value, bound, slack = (float(column[run]) for column in (checked.value, checked.bound, checked.slack))
    return Slack(constraint.text, constraint.key, value, bound, slack, relative, None)


def _best(view: _View, runs: pd.Index, _weights: np.ndarray) -> _Answer:
    """The best in the one objective."""
    values = view.minimised(runs).iloc[:, 0]
    equal = values == values.min()
    first, *ties = view.sorted(list(values.index[equal]))
    choice, others = view.option(first), values[~equal]
    runner_up = None
    if len(others):
        second = view.sorted(list(others.index[others == others.min()]))[0]
        runner_up = view.runner_up(choice, view.option(second), float(others.min() - values.min()), abs(float(values.min())))
    return _Answer(choice, tuple(view.name(run) for run in ties), runner_up)


def _balanced(view: _View, runs: pd.Index, weights: np.ndarray) -> _Answer:
    """The nearest to the ideal point, on the front."""
    values = view.minimised(runs)
    values = values[pareto.non_dominated(values.to_numpy())]
    shares = weights / weights.sum()
    behind = balance.shortfalls(values.to_numpy())
    far = pd.Series(balance.distances(behind, shares), index=values.index)
    parts = pd.DataFrame(behind, index=values.index, columns=values.columns)

    def option(run: str) -> Option:
        return view.option(run, float(far[run]), {key: float(part) for key, part in parts.loc[run].items()})

    near = far <= far.min() + balance.TOLERANCE
    first, *ties = view.sorted(list(far.index[near]))
    choice, others = option(first), far[~near]
    runner_up = None
    if len(others):
        close = others <= others.min() + balance.TOLERANCE
        second = option(view.sorted(list(others.index[close]))[0])
        runner_up = view.runner_up(choice, second, float(far[second.run_id] - far[first]), None)
    found = balance.ranges(behind, shares, values.index.get_loc(first))
    return _Answer(
        choice,
        tuple(view.name(run) for run in ties),
        runner_up,
        tuple(
            WeightRange(key, float(share), low, high, *(None if at is None else view.name(values.index[at]) for at in rivals))
            for key, share, (low, high, *rivals) in zip(values.columns, shares, found, strict=True)
        ),
    )


def _nearest(view: _View, runs: pd.Index) -> Nearest:
    """What misses the constraints by the least in all; of equals, what is best in the first objective."""
    missed = pd.DataFrame({index: each.relative[runs].clip(upper=0) for index, each in enumerate(view.checked)})
    distance = -missed.sum(axis=1)
    first = view.minimised(runs).iloc[:, 0][distance <= distance.min() + balance.TOLERANCE]
    option = view.option(view.sorted(list(first.index[first == first.min()]))[0])
    return Nearest(option, float(distance[option.run_id]), tuple(slack for slack in option.slacks if not slack.met))


def _why_not(view: _View, run: str, candidate: bool) -> tuple[str, ...]:
    """Why a configuration could not be judged."""
    status, failure, validity = (view.frame.at[run, column] for column in ("status", "failure", "validity"))
    if status != FINISHED:
        return (f"failed: {failure}" if isinstance(failure, str) else f"not finished ({status})",)
    if not candidate:
        return (f"flagged: {validity}",)
    reasons = [f"no {key}" for key in view.known.columns if np.isnan(view.known.at[run, key])]
    reasons += [each.unknown[run] for each in view.checked if isinstance(each.unknown[run], str)]
    return tuple(dict.fromkeys(reasons)) or (NO_OBJECTIVE,)
