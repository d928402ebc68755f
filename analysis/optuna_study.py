"""Configurations as an Optuna study: one trial each, in a storage that optuna-dashboard opens.

The study is derived from a frame and nothing else; `update` brings it up to date. Optuna's finished trials cannot be changed,
nor can a parameter get new choices. So new configurations are added where nothing else has changed, and otherwise the study is made anew
under its name. An update that was cut off is completed by the next.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.constraints import parse_constraint, parse_objectives
from analysis.judging import Checked, applicable, check
from analysis.recommend.choose import FINISHED, one_hardware
from slim.errors import UserError
from slim.metrics import Better, get
from slim.precisions import CATALOGUE

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import CategoricalDistribution
    from optuna.storages import BaseStorage
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial

PARAMS = ("model", "precision", "engine")
"""Columns that are always parameters; dotted ones (``quantize.group_size``) are where they differ between rows."""
OBJECTIVES = "slim.objectives"
CONSTRAINTS = "slim.constraints"
JOURNALS = (".log", ".journal")
ENDED = (FINISHED, "FAILED", "KILLED")
LEAST_TOP = 5
"""Trials that PED-ANOVA wants to have among the best, so that what they share means something (its docstring in Optuna)."""


@dataclass(frozen=True, eq=False)
class Update:
    """What an update did.

    Attributes:
        study: up to date.
        added: run ids that are in the study since now; all of them where the study was made anew.
        kept: how many trials were there already and stay as they are.
        rebuilt: why the study was made anew; None when it was not.
        waiting: run ids of configurations that have not ended, which are not in the study yet.
        dropped: constraints marked ``if measured`` that no configuration can be judged by.
    """

    study: "Study"
    added: tuple[str, ...]
    kept: int
    rebuilt: str | None
    waiting: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class Importance:
    """How much each parameter has to do with an objective's best values.

    Attributes:
        objective: metric key.
        shares: by parameter, the greatest first; they sum to 1. Empty when they cannot be had.
        trials: completed ones that they rest on.
        missing: why there are none; None when there are.
    """

    objective: str
    shares: Mapping[str, float]
    trials: int
    missing: str | None


def update(
    frame: pd.DataFrame,
    objectives: Iterable[str],
    constraints: Iterable[str] = (),
    *,
    storage: str | Path | None = None,
    name: str = "slim",
) -> Update:
    """Make or bring up to date the study of a frame.

    A configuration that finished with every objective is a complete trial with its values in the metrics' own units. One that
    failed, or lacks an objective, is a failed trial without values, its user attribute ``failure`` or ``missing`` saying why.
    A constraint's value is how much it is missed by, in the metric's unit, so feasible at 0 and below; where it cannot be judged it
    is 1 and the attribute ``unjudged`` names it. Every trial has the attributes ``run_id`` and ``configuration``.

    Args:
        frame: from `analysis.frame`, of one hardware. Runs that are not in it leave the study.
        objectives: metric keys, as `analysis.constraints` reads them.
        constraints: likewise.
        storage: a database URL (``sqlite:///study.db``) or a journal file (``study.log``); None keeps it in memory.
        name: of the study within the storage.

    Raises:
        UserError: an objective, constraint or storage that cannot be; a study of that name that is not of these objectives;
            several kinds of hardware.
    """
    import optuna

    one_hardware(frame)
    ended = frame["status"].isin(ENDED)
    finished = frame["status"] == FINISHED
    keys = [objective.measured(frame[finished]) or objective.key for objective in parse_objectives(objectives)]
    checked, dropped = applicable([check(frame, parse_constraint(text)) for text in constraints], finished)
    wanted = _trials(frame[ended], keys, checked)
    stated = [each.constraint.text for each in checked]
    with _quiet():
        place = _open(storage)
        present, why = _present(place, name, keys, wanted)
        if present is not None and why is not None:
            optuna.delete_study(study_name=name, storage=place)
        if present is None or why is not None:
            study, present = optuna.create_study(storage=place, study_name=name, directions=_directions(keys)), set()
        else:
            study = optuna.load_study(study_name=name, storage=place)
        if OBJECTIVES not in study.user_attrs:
            study.set_metric_names(keys)
            study.set_user_attr(OBJECTIVES, keys)
        if study.user_attrs.get(CONSTRAINTS) != stated:
            study.set_user_attr(CONSTRAINTS, stated)
        added = tuple(run for run in wanted if run not in present)
        study.add_trials([wanted[run] for run in added])
    return Update(study, added, len(present), why, tuple(frame.index[~ended]), tuple(dropped))


def importances(study: "Study") -> tuple[Importance, ...]:
    """Return parameter importances for each objective, as PED-ANOVA gives them (Watanabe, Bansal and Hutter, IJCAI 2023).

    They say which parameters the best trials share: the best tenth, or as many as make `LEAST_TOP`. Twice as many trials have
    to be there, with a parameter that differs between them.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    seen: dict[str, set[Any]] = {}
    for trial in complete:
        for param, value in trial.params.items():
            seen.setdefault(param, set()).add(value)
    varied = sorted(param for param, values in seen.items() if len(values) > 1)
    missing = None
    if len(complete) < 2 * LEAST_TOP:
        missing = f"importances need {2 * LEAST_TOP} completed configurations, there are {len(complete)}"
    elif not varied:
        missing = "importances need a parameter that differs between configurations"
    found = []
    for index, key in enumerate(study.metric_names or []):
        shares: Mapping[str, float] = {}
        if missing is None:
            sign = -1.0 if get(key).better is Better.HIGHER else 1.0

            def target(trial: "FrozenTrial", index: int = index, sign: float = sign) -> float:
                return sign * float(trial.values[index])

            with _quiet():
                evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, LEAST_TOP / len(complete)))
                shares = get_param_importances(study, evaluator=evaluator, params=varied, target=target)
        found.append(Importance(key, shares, len(complete), missing))
    return tuple(found)


def _trials(frame: pd.DataFrame, keys: Sequence[str], checked: Sequence[Checked]) -> "dict[str, FrozenTrial]":
    """One trial a row, by run id."""
    from optuna.trial import TrialState, create_trial

    spaces = _spaces(frame)
    values = frame.reindex(columns=list(keys)).to_numpy(dtype=np.float64)
    texts = [each.constraint.text for each in checked]
    slacks = np.array([each.slack[frame.index] for each in checked]).reshape(len(checked), len(frame)).T
    told = frame[["configuration", "status", "failure", "validity"]].itertuples(name=None)
    chosen = frame[list(spaces)].to_dict("records")
    made = {}
    for (run, configuration, status, failure, validity), row, slack, choices in zip(told, values, slacks, chosen, strict=True):
        finished, lacking = status == FINISHED, ~np.isfinite(row)
        complete = finished and not lacking.any()
        attributes = {
            "run_id": run,
            "configuration": configuration,
            "failure": "" if finished else failure if isinstance(failure, str) else status,
            "missing": ", ".join(np.array(keys)[lacking]) if finished else "",
            "validity": validity if isinstance(validity, str) else "",
            "unjudged": ", ".join(text for text, size in zip(texts, slack, strict=True) if np.isnan(size)) if complete else "",
        }
        params = {column: str(choice) for column, choice in choices.items() if pd.notna(choice)}
        made[str(run)] = create_trial(
            state=TrialState.COMPLETE if complete else TrialState.FAIL,
            values=row.tolist() if complete else None,
            params=params,
            distributions={column: spaces[column] for column in params},
            user_attrs={name: value for name, value in attributes.items() if value},
            constraints=dict(zip(texts, map(_violation, slack), strict=True)) if complete else None,
        )
    return made


def _violation(slack: float) -> float:
    return 1.0 if np.isnan(slack) else 0.0 - float(slack)


def _spaces(frame: pd.DataFrame) -> "dict[str, CategoricalDistribution]":
    """Parameters with their choices: those of the catalogue in its order, others by the alphabet."""
    from optuna.distributions import CategoricalDistribution

    order = {name: position for position, name in enumerate(CATALOGUE)}
    dotted = [column for column in frame.columns if "." in column and "/" not in column and frame[column].nunique() > 1]
    spaces = {}
    for column in (*PARAMS, *sorted(dotted)):
        choices = {str(value) for value in frame[column].dropna()}
        if choices:
            ranked = sorted((order.get(choice, len(order)), choice) for choice in choices)
            spaces[column] = CategoricalDistribution([choice for _, choice in ranked])
    return spaces


def _present(
    place: "BaseStorage", name: str, keys: Sequence[str], wanted: "Mapping[str, FrozenTrial]"
) -> tuple[set[str] | None, str | None]:
    """Run ids of the study's trials, None where there is no such study; and why it has to be made anew, if it has."""
    import optuna

    if name not in optuna.get_all_study_names(place):
        return None, None
    study = optuna.load_study(study_name=name, storage=place)
    stored = study.user_attrs.get(OBJECTIVES)
    trials = {str(trial.user_attrs.get("run_id")): trial for trial in study.get_trials(deepcopy=False)}
    if stored is None:
        if trials or study.directions != _directions(keys):
            raise UserError(f"study {name!r} was not made from a tracking store; allowed: another name or another storage")
        return set(), None  # empty: an update was cut off just after it had made the study
    if stored != list(keys):
        told = ", ".join(stored)
        raise UserError(f"study {name!r} has the objectives {told}; allowed: these in this order, another name, another storage")
    gone = [run for run in trials if run not in wanted]
    stay = [run for run in trials if run in wanted]
    changed = [run for run in stay if _content(trials[run]) != _content(wanted[run])]
    grown = any(trials[run].distributions != wanted[run].distributions for run in stay)
    why = [f"{len(gone)} of its runs are not there any more"] if gone else []
    why += [f"{len(changed)} of its runs have other results, parameters or limits now"] if changed else []
    why += ["parameters have other choices now"] if grown else []
    return set(trials) if not why else set(), "; ".join(why) or None


def _content(trial: "FrozenTrial") -> tuple[object, ...]:
    """What a trial says, without when it was added and what else its parameters could have been."""
    return (trial.state, trial.values, trial.params, trial.user_attrs, trial.constraints)


def _directions(keys: Sequence[str]) -> "list[StudyDirection]":
    from optuna.study import StudyDirection

    return [StudyDirection.MAXIMIZE if get(key).better is Better.HIGHER else StudyDirection.MINIMIZE for key in keys]


def _open(storage: str | Path | None) -> "BaseStorage":
    """The storage at an address."""
    import optuna
    from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if storage is None:
        return InMemoryStorage()
    errors: tuple[type[Exception], ...] = (OSError, ImportError, RuntimeError, optuna.exceptions.OptunaError)
    try:
        if isinstance(storage, str) and "://" in storage:
            from sqlalchemy.exc import SQLAlchemyError

            errors = (*errors, SQLAlchemyError)
            return RDBStorage(storage)
        path = Path(storage)
        if path.suffix in JOURNALS:
            return JournalStorage(JournalFileBackend(str(path)))
    except errors as error:
        reason = str(error).strip().partition("\n")[0]
        told = re.sub(r"(?<=:)[^:/@]+(?=@)", "***", str(storage))
        raise UserError(f"storage {told!r} cannot be opened: {reason}; allowed: a place that can be written") from error
    allowed = f"a database URL such as sqlite:///study.db, or a journal file ending in {' or '.join(JOURNALS)}"
    raise UserError(f"storage {str(storage)!r} is neither a database nor a journal; allowed: {allowed}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna writes to stderr what it does, and warns of calls that may change; the version is pinned."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
