"""Fronts, ranks, crowding, hypervolume: properties, and agreement with moocore and Optuna."""

import itertools
import subprocess
import sys

import moocore
import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from optuna.samplers.nsgaii._elite_population_selection_strategy import _calc_crowding_distance
from optuna.study._multi_objective import _fast_non_domination_rank

from analysis import pareto
from slim.errors import UserError
from slim.provenance import ROOT

ACCURACY, E2E, SIZE, ENERGY = "accuracy/mean", "latency/e2e_mean_ms", "size/checkpoint_gb", "energy/net_j_per_query"
points = hnp.arrays(np.float64, st.tuples(st.integers(1, 40), st.integers(2, 4)), elements=st.integers(0, 5).map(float))
many = hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(2, 6)), elements=st.integers(0, 9).map(float))


def table(rows: list[list[float]], keys: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=keys, index=pd.Index([chr(97 + i) for i in range(len(rows))], name="run_id"), dtype=float)


def dominated_volume(values: np.ndarray, reference: np.ndarray) -> float:
    """By inclusion and exclusion over all subsets: slow and plain."""
    total = 0.0
    for size in range(1, len(values) + 1):
        for chosen in itertools.combinations(values, size):
            corner = np.max(chosen, axis=0)
            total += (-1) ** (size + 1) * float(np.prod(np.maximum(reference - corner, 0)))
    return total


@given(points)
def test_the_front_is_moocores_and_optunas(values: np.ndarray) -> None:
    mask = pareto.non_dominated(values)
    assert (mask == moocore.is_nondominated(values, keep_weakly=True)).all()
    assert (mask == (_fast_non_domination_rank(values) == 0)).all()


@given(points)
def test_ranks_are_optunas_and_crowding_does_not_depend_on_the_order(values: np.ndarray) -> None:
    ranks = pareto.ranks(values)
    assert (ranks == _fast_non_domination_rank(values)).all()
    distances = pareto.crowding(values, ranks)
    order = np.random.default_rng(0).permutation(len(values))
    assert (pareto.ranks(values[order]) == ranks[order]).all()
    assert pareto.crowding(values[order], ranks[order]) == pytest.approx(distances[order])
    columns = np.roll(np.arange(values.shape[1]), 1)
    assert pareto.crowding(values[:, columns], ranks) == pytest.approx(distances)


@given(points, st.integers(1, 50), st.integers(-20, 20))
def test_units_do_not_matter(values: np.ndarray, factor: int, shift: int) -> None:
    scales = np.linspace(1, factor, values.shape[1])
    other = values * scales + shift
    ranks = pareto.ranks(values)
    assert (pareto.ranks(other) == ranks).all()
    assert pareto.crowding(other, ranks) == pytest.approx(pareto.crowding(values, ranks))
    before, after = pareto.reference_point(values), pareto.reference_point(other)
    assert pareto.hypervolume(other, after) == pytest.approx(pareto.hypervolume(values, before))
    assert pareto.contributions(other, after) == pytest.approx(pareto.contributions(values, before), abs=1e-12)


@given(points)
def test_duplicates_share_rank_and_crowding_and_contribute_nothing_alone(values: np.ndarray) -> None:
    ranks = pareto.ranks(values)
    twice = np.vstack([values, values])
    assert (pareto.ranks(twice) == np.tile(ranks, 2)).all()
    assert pareto.crowding(twice, np.tile(ranks, 2)) == pytest.approx(np.tile(pareto.crowding(values, ranks), 2))
    reference = pareto.reference_point(values)
    assert (pareto.reference_point(twice) == reference).all()
    assert pareto.hypervolume(twice, reference) == pytest.approx(pareto.hypervolume(values, reference))
    assert (pareto.contributions(twice, reference) == 0).all()


@given(points, st.integers(0, 3))
def test_a_point_behind_the_front_changes_nothing(values: np.ndarray, how_far: int) -> None:
    behind = np.vstack([values, values.max(axis=0) + 100.0**how_far])
    on_front = pareto.non_dominated(values)
    assert (pareto.non_dominated(behind)[:-1] == on_front).all()
    assert not pareto.non_dominated(behind)[-1]
    assert (pareto.ranks(behind)[:-1] == pareto.ranks(values)).all()
    reference = pareto.reference_point(values)
    assert (pareto.reference_point(behind) == reference).all()
    assert pareto.hypervolume(behind, reference) == pytest.approx(pareto.hypervolume(values, reference))
    assert pareto.contributions(behind, reference)[:-1] == pytest.approx(pareto.contributions(values, reference))


@given(hnp.arrays(np.float64, st.tuples(st.integers(2, 25), st.integers(2, 4)), elements=st.integers(0, 10**6).map(float)))
def test_crowding_is_optunas_where_no_value_stands_there_twice(values: np.ndarray) -> None:
    assume(all(len(np.unique(column)) == len(column) for column in values.T))
    trials = [
        optuna.trial.FrozenTrial(
            number=i, value=None, values=list(row), state=optuna.trial.TrialState.COMPLETE, datetime_start=None,
            datetime_complete=None, params={}, distributions={}, user_attrs={}, system_attrs={}, intermediate_values={}, trial_id=i,
        )
        for i, row in enumerate(values)
    ]  # fmt: skip
    expected = _calc_crowding_distance(trials)
    found = pareto.crowding(values, np.zeros(len(values), dtype=np.int64))
    assert found == pytest.approx([expected[i] for i in range(len(values))])


def test_crowding_of_ties_and_of_lonely_points() -> None:
    values = np.array([[0.0, 4.0, 1.0], [1.0, 3.0, 1.0], [1.0, 3.0, 1.0], [3.0, 1.0, 1.0], [4.0, 0.0, 1.0]])
    rank = np.zeros(5, dtype=np.int64)
    # Neighbours of 1 are 0 and 3, of 3 are 1 and 4; the third objective says nothing.
    assert pareto.crowding(values, rank).tolist() == [np.inf, 1.5, 1.5, 1.5, np.inf]
    assert pareto.crowding(values[[1, 2]], rank[:2]).tolist() == [np.inf, np.inf]


@given(many, st.integers(1, 12))
def test_hypervolume_is_that_of_inclusion_and_exclusion(values: np.ndarray, at: int) -> None:
    reference = np.full(values.shape[1], float(at))
    ideal = np.full(values.shape[1], -1.0)
    box = float(np.prod(reference - ideal))
    share = pareto.hypervolume(values, reference, ideal)
    assert share * box == pytest.approx(dominated_volume(np.unique(values, axis=0), reference))
    alone = pareto.contributions(values, reference, ideal)
    assert alone is not None
    assert alone[~pareto.non_dominated(values)].tolist() == [0.0] * int((~pareto.non_dominated(values)).sum())
    front = np.flatnonzero(pareto.non_dominated(values))
    for i in front:
        without = np.delete(values[front], np.flatnonzero(front == i), axis=0)
        assert share - pareto.hypervolume(without, reference, ideal) == pytest.approx(alone[i], abs=1e-9)


def test_hypervolume_by_hand() -> None:
    values = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert pareto.reference_point(values).tolist() == [1.1, 1.1]
    # The box is 1.1 squared; each end alone has a strip of 1 by 0.1, both share the corner of 0.1 by 0.1.
    assert pareto.hypervolume(values, np.array([1.1, 1.1])) == pytest.approx(0.21 / 1.21)
    assert pareto.contributions(values, np.array([1.1, 1.1])) == pytest.approx([0.1 / 1.21, 0.1 / 1.21, 0])
    # A reference that is nowhere worse than the best leaves no box.
    assert pareto.hypervolume(values, np.array([0.0, 5.0])) == 0
    assert pareto.contributions(values, np.array([0.0, 5.0])).tolist() == [0, 0, 0]


def test_contributions_of_a_front_that_is_too_large_are_unknown() -> None:
    random = np.abs(np.random.default_rng(0).normal(size=(200, 6)))
    sphere = 1 - random / np.linalg.norm(random, axis=1, keepdims=True)
    assert pareto.non_dominated(sphere).all()
    assert pareto.contributions(sphere, np.full(6, 1.1)) is None
    assert pareto.contributions(sphere[:50], np.full(6, 1.1)) is not None


@given(points, points)
def test_dominators_are_what_dominance_says(values: np.ndarray, of: np.ndarray) -> None:
    assume(values.shape[1] == of.shape[1])
    found = pareto.dominators(values, of)
    for other, row in zip(of, found, strict=True):
        assert row.tolist() == [bool((p <= other).all() and (p < other).any()) for p in values]


def test_one_objective_and_no_points() -> None:
    values = np.array([[1.0], [0.0], [0.0]])
    assert pareto.non_dominated(values).tolist() == [False, True, True]
    assert pareto.ranks(values).tolist() == [1, 0, 0]
    assert len(pareto.non_dominated(np.empty((0, 3)))) == len(pareto.ranks(np.empty((0, 3)))) == 0
    assert pareto.hypervolume(np.empty((0, 2)), np.ones(2)) == 0


def test_moocore_is_imported_when_it_is_needed() -> None:
    code = "import sys, analysis.pareto, analysis.uncertainty; print([m for m in ('moocore', 'optuna') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout == "[]\n"


def test_nan_is_refused() -> None:
    for function in (pareto.non_dominated, pareto.ranks, pareto.reference_point):
        with pytest.raises(ValueError, match="without NaN"):
            function(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="needs points"):
        pareto.reference_point(np.empty((0, 2)))


def test_directions_come_from_the_metric_table_and_missing_values_are_off_the_front() -> None:
    frame = table([[0.6, 20.0], [0.5, 10.0], [0.4, 30.0], [0.9, np.nan]], [ACCURACY, E2E])
    assert pareto.front(frame, [ACCURACY, E2E]).to_dict() == {"a": True, "b": True, "c": False, "d": False}


def test_analysis_of_a_frame() -> None:
    frame = table([[0.6, 20.0], [0.5, 10.0], [0.4, 30.0], [0.9, np.nan], [0.6, 20.0], [0.5, 15.0]], [ACCURACY, E2E])
    found = pareto.analyse(frame, [ACCURACY, E2E])
    assert found.run_ids == ("a", "b", "e")
    assert {p.run_id: p.rank for p in found.configurations} == {"a": 0, "b": 0, "c": 2, "e": 0, "f": 1}
    assert found.left_out == {"d": f"no {E2E}"}
    assert found.by_run["c"].dominated_by == ("a", "b", "e")
    assert found.by_run["f"].dominated_by == ("b",)
    assert found.by_run["a"].dominated_by == ()
    assert (found.by_run["a"].equal_to, found.by_run["e"].equal_to, found.by_run["b"].equal_to) == (("e",), ("a",), ())
    assert found.by_run["a"].values == {ACCURACY: 0.6, E2E: 20.0}
    assert found.reference == pytest.approx({ACCURACY: 0.49, E2E: 21})
    assert found.ideal == {ACCURACY: 0.6, E2E: 10}
    # Of a box of 0.11 by 11: both ends together, and what b has alone; a and e stand in for one another.
    assert found.hypervolume == pytest.approx((0.01 * 11 + 0.11 * 1 - 0.01 * 1) / (0.11 * 11))
    assert found.by_run["b"].contribution == pytest.approx(0.01 * 10 / (0.11 * 11))
    assert found.by_run["a"].contribution == found.by_run["e"].contribution == 0
    assert found.frame().loc["f", "rank"] == 1
    assert list(found.frame().index) == ["a", "b", "c", "e", "f"]


def test_a_reference_of_the_users_in_the_metrics_own_direction() -> None:
    frame = table([[0.6, 20.0], [0.5, 10.0]], [ACCURACY, E2E])
    found = pareto.analyse(frame, [ACCURACY, E2E], {ACCURACY: 0.0, E2E: 40.0})
    assert found.reference == {ACCURACY: 0, E2E: 40}
    assert found.hypervolume == pytest.approx((0.6 * 20 + 0.5 * 10) / (0.6 * 30))
    assert pareto.analyse(frame, [ACCURACY, E2E], {E2E: 40.0}).reference == pytest.approx({ACCURACY: 0.49, E2E: 40})
    with pytest.raises(UserError, match=r"reference: 'size/checkpoint_gb' is not an objective; allowed: accuracy/mean, latency"):
        pareto.analyse(frame, [ACCURACY, E2E], {SIZE: 1.0})
    with pytest.raises(UserError, match="give a finite number"):
        pareto.analyse(frame, [ACCURACY, E2E], {E2E: float("nan")})


@given(points, st.randoms(use_true_random=False))
def test_the_order_of_a_frame_and_what_is_missing_do_not_matter(values: np.ndarray, random: object) -> None:
    keys = [E2E, SIZE, ENERGY, "memory/required_mib"][: values.shape[1]]
    frame = pd.DataFrame(values, columns=keys, index=[f"r{i}" for i in range(len(values))])
    found = pareto.analyse(frame, keys)
    order = list(frame.index)
    random.shuffle(order)  # type: ignore[attr-defined]
    empty = pd.DataFrame([[np.nan] * len(keys)], columns=keys, index=["missing"])
    other = pareto.analyse(pd.concat([frame.loc[order], empty]), keys)
    assert other.left_out == {"missing": "no " + ", ".join(keys)}
    assert (other.reference, other.ideal) == (found.reference, found.ideal)
    for placed in found.configurations:
        same = other.by_run[placed.run_id]
        assert (same.rank, same.values) == (placed.rank, placed.values)
        assert same.crowding == pytest.approx(placed.crowding)
        assert set(same.dominated_by) == set(placed.dominated_by)
        assert set(same.equal_to) == set(placed.equal_to)
        assert bool(placed.dominated_by) == (placed.rank > 0)


def test_nothing_to_compare_is_an_empty_analysis() -> None:
    found = pareto.analyse(table([[np.nan, 1.0]], [ACCURACY, E2E]), [ACCURACY, E2E, SIZE])
    assert (found.run_ids, found.hypervolume, found.reference) == ((), None, {})
    assert found.left_out == {"a": f"no {ACCURACY}, {SIZE}"}
    assert found.frame().empty


def test_a_metric_without_direction_or_unknown_is_no_objective() -> None:
    frame = pd.DataFrame({"energy/idle_w": [1.0]})
    with pytest.raises(UserError, match="no better direction"):
        pareto.front(frame, ["energy/idle_w"])
    with pytest.raises(UserError, match="no better direction"):
        pareto.front(frame, [E2E, "accuracy/mean_ci_low"])
    with pytest.raises(UserError, match="unknown metric"):
        pareto.front(frame, ["latency"])


def test_two_to_six_objectives_each_once() -> None:
    six = [ACCURACY, E2E, SIZE, ENERGY, "memory/required_mib", "throughput/output_tokens_per_s"]
    frame = table([[1.0] * 6], six)
    assert pareto.analyse(frame, six).run_ids == ("a",)
    with pytest.raises(UserError, match=r"objectives: 1 given \(accuracy/mean\); allowed: 2 to 6 metric keys"):
        pareto.analyse(frame, [ACCURACY])
    with pytest.raises(UserError, match="7 given"):
        pareto.front(frame, [*six, "latency/ttft_p95_ms"])
    with pytest.raises(UserError, match=f"'{E2E}' is named more than once"):
        pareto.front(frame, [ACCURACY, E2E, E2E])
    with pytest.raises(UserError, match="run a stands there twice"):
        pareto.front(pd.concat([frame, frame]), six)
