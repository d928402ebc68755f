"""A study: which of the configurations that a store holds to deploy, what that costs, and how sure it is.

Reads the store and computes; nothing is run and nothing is written. `analysis.evidence` makes files of it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from analysis import pareto, samples, uncertainty
from analysis.constraints import parse_constraint, parse_objectives
from analysis.filters import Filters
from analysis.pareto import Front
from analysis.recommend import DEPLOYMENTS, Recommendation, recommend, request
from analysis.recommend import named as deployment
from analysis.recommend.deployments import ACCURACY, ENERGY, LATENCY, MEMORY
from analysis.samples import Samples
from analysis.selection import Selection, select
from analysis.uncertainty import Uncertainty
from slim.errors import UserError
from slim.store import Reader

ASKED = "as asked"
"""Name of the recommendation for the user's own objectives."""

_MOST_SAMPLED = 200
"""Configurations of whose runs the raw samples are read; more would be drawn from their intervals."""

_LOADS = ("energy/concurrency", "throughput/best_concurrency")
"""Where energy was measured: profiles that do not say it measured where throughput was best."""

_MOST_DRAWS = 1_000_000
"""Redraws that still fit into memory and patience."""


@dataclass(frozen=True)
class Question:
    """What is asked of the configurations.

    Attributes:
        objectives: metric keys of the Pareto front, as `analysis.constraints` reads them; empty is accuracy, latency, energy and
            memory, as far as they were measured. Named ones are also recommended by, balanced.
        constraints: that every recommended configuration must meet.
        weights: of the named objectives; empty is equal.
        deployments: names of `analysis.recommend.DEPLOYMENTS`.
        draws: how often the measurements are redrawn to say how sure the front is.
        seed: of the draws.
    """

    objectives: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    deployments: tuple[str, ...] = tuple(DEPLOYMENTS)
    draws: int = 2000
    seed: int = 42

    def check(self) -> None:
        """Refuse what cannot be read, before a store is.

        Raises:
            UserError: names what was wrong and what is allowed.
        """
        for text in self.constraints:
            parse_constraint(text)
        for name in self.deployments:
            deployment(name)
        if self.weights and not self.objectives:
            raise UserError("weights are of named objectives; name these too")
        if self.objectives:
            keys = [objective.key for objective in parse_objectives(self.objectives)]
            if len(keys) > 1:
                pareto.check(keys)
            request(self.objectives, self.constraints, weights=self.weights)
        if not 1 <= self.draws <= _MOST_DRAWS:
            raise UserError(f"draws is {self.draws}; allowed: 1 to {_MOST_DRAWS:,}")


@dataclass(frozen=True, eq=False)
class Study:
    """What was found.

    Attributes:
        question: what was asked.
        filters: what was looked at.
        experiment: that was read.
        frame: the configurations that were compared, one row each.
        selection: with what was left out, and why.
        objectives: metric keys of the front; empty when fewer than two were measured.
        front: None then.
        sureness: of the front; None then.
        recommendations: over all models, the user's own first, else balanced first.
        by_model: the same for each model alone, by its name in the frame; empty with a single model.
        samples: raw samples by run id.
        notes: what a reader has to know, a sentence each.
    """

    question: Question
    filters: Filters
    experiment: str
    frame: pd.DataFrame
    selection: Selection
    objectives: tuple[str, ...]
    front: Front | None
    sureness: Uncertainty | None
    recommendations: tuple[Recommendation, ...]
    by_model: Mapping[str, tuple[Recommendation, ...]]
    samples: Mapping[str, Samples]
    notes: tuple[str, ...]

    @cached_property
    def named(self) -> pd.DataFrame:
        """The frame, in which configurations of the same name are told apart."""
        return _named(self.frame)

    @cached_property
    def names(self) -> Mapping[str, str]:
        """Those names by run id."""
        return {str(run_id): name for run_id, name in self.named["configuration"].items()}

    @property
    def models(self) -> tuple[str, ...]:
        """Models that were compared, in the order of their names."""
        return tuple(sorted(set(self.frame["model"].dropna())))

    @property
    def hardware(self) -> str:
        """What it was measured on."""
        return ", ".join(sorted(set(self.frame["hardware"].dropna())))


def make(store: Reader, question: Question | None = None, filters: Filters | None = None) -> Study:
    """Answer a question from what a store holds.

    Args:
        store: an experiment.
        question: None asks for the named deployments.
        filters: None takes every configuration that passed all checks of its measurement.

    Raises:
        UserError: the question cannot be read, nothing is there to compare, or what is there cannot be compared with each other.
        StoreError: the store cannot be read.
    """
    question, filters = question or Question(), filters or Filters()
    question.check()
    selection = select(store, filters)
    frame = selection.comparable()
    if frame.empty:
        raise UserError(_nothing(store, selection))
    objectives, unmeasured = _objectives(frame, question)
    raw: dict[str, Samples] = {}
    notes = [*_judged_against(selection), *unmeasured]
    if len(frame) <= _MOST_SAMPLED:
        rows = {run_id: selection.merged[run_id] for run_id in map(str, frame.index)}
        raw = {run_id: samples.read(store, one.run, one.runs) for run_id, one in rows.items()}
        notes += _once(raw.values())
    else:
        notes.append(
            f"Raw samples of {len(frame)} configurations are not read (at most {_MOST_SAMPLED}): their intervals are redrawn."
        )
    named = _named(frame)
    notes += _loads(named)
    front = sureness = None
    if len(objectives) > 1:
        front = pareto.analyse(frame, objectives)
        drawn = uncertainty.draw(frame, objectives, raw, draws=question.draws, seed=question.seed)
        sureness = uncertainty.assess(drawn)
        if sureness.constant:
            notes.append(f"Taken as exact, since nothing is known of their noise: {', '.join(sureness.constant)}.")
    else:
        notes.append("Fewer than two objectives were measured, so there is no Pareto front.")
    models = sorted(set(frame["model"].dropna()))
    each = {model: _recommend(named[frame["model"] == model], selection.references, question, filters) for model in models}
    return Study(
        question=question,
        filters=filters,
        experiment=store.experiment,
        frame=frame,
        selection=selection,
        objectives=objectives,
        front=front,
        sureness=sureness,
        recommendations=_recommend(named, selection.references, question, filters),
        by_model=each if len(models) > 1 else {},
        samples=raw,
        notes=tuple(notes),
    )


def _once(raw: Collection[Samples]) -> list[str]:
    """What is to be said of configurations that were profiled a single time."""
    repeats = [len(found.repeated) for found in raw if found.repeated]
    once = repeats.count(1)
    if not once:
        return []
    who = "Each configuration was" if once == len(repeats) else f"{once} of {len(repeats)} configurations were"
    return [f"{who} profiled once: how far two runs of the same configuration differ is in no interval and no probability."]


def _loads(frame: pd.DataFrame) -> list[str]:
    """What is to be said where energy was measured at different loads, which makes a token cheaper or dearer by itself."""
    columns = frame.reindex(columns=["energy/net_j_per_output_token", *_LOADS]).astype("float64")
    own = columns[columns.iloc[:, 0].notna()]
    load = own[_LOADS[0]].fillna(own[_LOADS[1]]).dropna()
    if load.nunique() < 2:
        return []
    names = frame["configuration"][load.index]
    levels = [f"{level:,.0f} for {', '.join(names[load == level])}" for level in sorted(load.unique())]
    return [
        f"Energy was measured at different concurrencies, each configuration where its throughput is best: {'; '.join(levels)}. "
        "The field profile.energy.concurrency makes it the same for all."
    ]


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    rows = zip(frame["configuration"], frame["variant"], strict=True)
    return frame.assign(configuration=[f"{name} ({variant})" if variant else name for name, variant in rows])


def _objectives(frame: pd.DataFrame, question: Question) -> tuple[tuple[str, ...], list[str]]:
    """Metric keys of the front, and what is to be said of objectives that were named and that nothing measured.

    Raises:
        UserError: none of those that were named was measured.
    """
    wanted = parse_objectives(question.objectives or (ACCURACY, LATENCY, ENERGY, MEMORY))
    keys = {objective.text: objective.measured(frame) for objective in wanted}
    missing = [text for text, key in keys.items() if key is None] if question.objectives else []
    if len(missing) == len(wanted):
        raise UserError(f"no configuration has {', nor '.join(missing)}; allowed: objectives that some of them have")
    told = [f"Not in the Pareto front, since nothing measured it: {', '.join(missing)}."] if missing else []
    return tuple(key for key in keys.values() if key is not None), told


def _judged_against(selection: Selection) -> list[str]:
    """Say which baselines are not compared themselves, and why."""
    reasons = dict(zip(selection.left_out["run_id"], selection.left_out["reason"], strict=True))
    told = [f"{name} ({reasons[run_id]})" for run_id, name in _named(selection.references)["configuration"].items()]
    return [f"Left out, and still the baseline that others are judged against: {', '.join(told)}."] if told else []


def _recommend(frame: pd.DataFrame, references: pd.DataFrame, question: Question, filters: Filters) -> tuple[Recommendation, ...]:
    requests = [deployment(name).demanding(question.constraints) for name in question.deployments]
    # The balanced answer is the one to read first.
    requests.sort(key=lambda one: one.name != "balanced")
    if question.objectives or (question.constraints and not requests):
        own = question.objectives or (ACCURACY, LATENCY, ENERGY, MEMORY)
        requests.insert(0, request(own, question.constraints, name=ASKED, weights=question.weights))
    return tuple(recommend(frame, one, references=references, keep_flagged=filters.flagged) for one in requests)


def _nothing(store: Reader, selection: Selection) -> str:
    """Why there is nothing to study, and what to do about it."""
    kinds: Sequence[str] = list(selection.left_out["kind"])
    if not kinds:
        return f"experiment {store.experiment!r} of {store.address} holds no configurations; run a sweep first"
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    flagged = "; flagged measurements can be taken too (--flagged)" if "invalid" in counts else ""
    return f"nothing is left to study in experiment {store.experiment!r}: {told}{flagged}"
