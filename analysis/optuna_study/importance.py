"""Which parameters have to do with an objective's best values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.optuna_study.storage import quiet
from slim.metrics import Better, get

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

LEAST_TOP = 5
"""Trials that PED-ANOVA wants to have among the best, so that what they share means something (its docstring in Optuna)."""


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

            with quiet():
                evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, LEAST_TOP / len(complete)))
                shares = get_param_importances(study, evaluator=evaluator, params=varied, target=target)
        found.append(Importance(key, shares, len(complete), missing))
    return tuple(found)
