"""Making a study and keeping it up to date.

Optuna's finished trials cannot be changed, nor can a parameter get new choices. So new configurations are added where nothing else has
changed, and otherwise the study is made anew under its name. An update that was cut off is completed by the next.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis.constraints import parse_constraint, parse_objectives
from analysis.judging import applicable, check
from analysis.optuna_study.storage import opened, quiet
from analysis.optuna_study.trials import trials
from analysis.recommend.choose import FINISHED, one_hardware
from slim.errors import UserError
from slim.metrics import Better, get

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial

OBJECTIVES = "slim.objectives"
CONSTRAINTS = "slim.constraints"
ENDED = (FINISHED, "FAILED", "KILLED")


@dataclass(frozen=True, eq=False)
class Update:
    """What an update did.

    Attributes:
        study: up to date.
        added: run ids that are in the study since now; all of them where the study was made anew.
        kept: how many trials were there already and stay as they are.
        rebuilt: why the study was made anew; None when it was not.
        waiting: run ids of configurations that have not ended, which are not in the study yet.
        dropped: constraints marked ``if measured`` whose metric no configuration has.
    """

    study: "Study"
    added: tuple[str, ...]
    kept: int
    rebuilt: str | None
    waiting: tuple[str, ...]
    dropped: tuple[str, ...]


def update(
    frame: pd.DataFrame,
    objectives: Iterable[str],
    constraints: Iterable[str] = (),
    *,
    references: pd.DataFrame | None = None,
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
        references: baselines that constraints are relative to and that get no trial (`analysis.selection.Selection`); None is none.
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
    checked, dropped = applicable([check(frame, parse_constraint(text), references) for text in constraints], finished)
    wanted = trials(frame[ended], keys, checked)
    stated = [each.constraint.text for each in checked]
    with quiet():
        place = opened(storage)
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


def _present(
    place: "BaseStorage", name: str, keys: Sequence[str], wanted: "Mapping[str, FrozenTrial]"
) -> tuple[set[str] | None, str | None]:
    """Run ids of the study's trials, None where there is no such study; and why it has to be made anew, if it has."""
    import optuna

    if name not in optuna.get_all_study_names(place):
        return None, None
    study = optuna.load_study(study_name=name, storage=place)
    stored = study.user_attrs.get(OBJECTIVES)
    stored_trials = {str(trial.user_attrs.get("run_id")): trial for trial in study.get_trials(deepcopy=False)}
    if stored is None:
        if stored_trials or study.directions != _directions(keys):
            raise UserError(f"study {name!r} was not made from a tracking store; allowed: another name or another storage")
        return set(), None  # empty: an update was cut off just after it had made the study
    if stored != list(keys):
        told = ", ".join(stored)
        raise UserError(f"study {name!r} has the objectives {told}; allowed: these in this order, another name, another storage")
    gone = [run for run in stored_trials if run not in wanted]
    stay = [run for run in stored_trials if run in wanted]
    changed = [run for run in stay if _content(stored_trials[run]) != _content(wanted[run])]
    grown = any(stored_trials[run].distributions != wanted[run].distributions for run in stay)
    why = [f"{len(gone)} of its runs are not there any more"] if gone else []
    why += [f"{len(changed)} of its runs have other results, parameters or limits now"] if changed else []
    why += ["parameters have other choices now"] if grown else []
    return set(stored_trials) if not why else set(), "; ".join(why) or None


def _content(trial: "FrozenTrial") -> tuple[object, ...]:
    """What a trial says, without when it was added and what else its parameters could have been."""
    return (trial.state, trial.values, trial.params, trial.user_attrs, trial.constraints)


def _directions(keys: Sequence[str]) -> "list[StudyDirection]":
    from optuna.study import StudyDirection

    return [StudyDirection.MAXIMIZE if get(key).better is Better.HIGHER else StudyDirection.MINIMIZE for key in keys]
