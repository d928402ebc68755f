"""Draws and what they say: known distributions, pairing, determinism, and the limits of certainty."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis import frame as frames
from analysis import pareto, uncertainty
from analysis import samples as raw
from analysis.pareto import Epsilon
from analysis.samples import Items, Requests, Samples
from analysis.uncertainty import resample
from slim.errors import UserError
from slim.store import Store
from tests.answers import answers
from tests.made import run_sweep

ACCURACY, E2E, TTFT, SIZE = "accuracy/facts", "latency/e2e_mean_ms", "latency/ttft_p95_ms", "size/checkpoint_gb"
ENERGY = "energy/net_j_per_query"


def table(rows: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index")


def requested(run_id: str, *repeats: Sequence[float]) -> Samples:
    """E2E of some requests, TTFT a tenth of it."""
    arrays = [np.asarray(values, dtype=np.float64)[:, None] for values in repeats]
    return Samples(run_id, tuple({"e2e": a, "ttft": a / 10} for a in arrays))


def answered(run_id: str, correct: Sequence[float], questions: str = "q") -> Samples:
    values = np.asarray(correct, dtype=np.float64)
    names = tuple(f"{questions}{i}" for i in range(len(values)))
    scored = ~np.isnan(values)
    return Samples(run_id, items={"facts": Items(names, values, scored / scored.sum())})


def latency(mean: float, seed: int, count: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.05 * mean, size=count)


def test_draws_of_a_mean_have_its_standard_error() -> None:
    values = latency(100, 0, 24)
    frame = table({"a": {E2E: values.mean(), SIZE: 1.0}})
    drawn = uncertainty.draw(frame, [E2E, SIZE], {"a": requested("a", values)}, draws=4000)
    assert drawn.values.shape == (4000, 1, 2)
    assert drawn.values[:, 0, 0].mean() == pytest.approx(values.mean(), rel=0.002)
    assert drawn.values[:, 0, 0].std() == pytest.approx(values.std() / np.sqrt(24), rel=0.06)
    assert (drawn.values[:, 0, 1] == 1).all()
    assert drawn.spreads["a"][E2E] == uncertainty.Spread("requests", "24 requests")
    assert drawn.spreads["a"][SIZE] == uncertainty.Spread("constant", "no interval; no raw samples are kept of it")
    assert drawn.constant == (SIZE,)


def test_percentiles_are_those_of_scipys_bootstrap() -> None:
    values = latency(100, 1, 24)
    own = resample.requests(Requests((values[:, None],), "p95"), 6000, np.random.default_rng(0))
    reference = stats.bootstrap((values,), lambda x, axis: np.percentile(x, 95, axis=axis), n_resamples=6000, rng=1)
    assert own.std() == pytest.approx(reference.standard_error, rel=0.06)
    assert np.quantile(own, [0.025, 0.975]) == pytest.approx(
        np.quantile(reference.bootstrap_distribution, [0.025, 0.975]), rel=0.01
    )


def test_requests_that_depend_on_their_neighbours_are_drawn_in_blocks() -> None:
    """An autoregressive series, whose mean varies more than independent values of the same spread would make it vary."""
    random = np.random.default_rng(3)
    series = np.zeros((400, 101))
    for step in range(1, 101):
        series[:, step] = 0.6 * series[:, step - 1] + random.normal(size=400)
    series = 100 + series[:, 1:]
    truth = series.mean(axis=1).std()
    drawn = [resample.requests(Requests((one[:, None],), "mean"), 300, np.random.default_rng(0)).std() for one in series[:60]]
    independent = series.std(axis=1).mean() / np.sqrt(100)
    assert independent < 0.6 * truth
    assert np.mean(drawn) == pytest.approx(truth, rel=0.25)
    # As many requests in each draw as there are, also where blocks do not divide them.
    for count in (25, 33, 51):
        values = np.arange(count, dtype=float)[:, None]
        means = resample.requests(Requests((values,), "mean"), 500, np.random.default_rng(1))
        assert means.mean() == pytest.approx((count - 1) / 2, rel=0.1)
        assert set(np.round(means * count, 6) % 1) == {0.0}


def test_repeats_are_drawn_before_requests() -> None:
    # Hardly any spread within a repeat, so a draw is the mean of three repeats drawn with replacement.
    repeats = tuple(np.full((5, 1), value) for value in (10.0, 20.0, 60.0))
    drawn = resample.requests(Requests(repeats, "mean"), 9000, np.random.default_rng(0))
    means = {round(sum(c) / 3, 6) for c in [(a, b, c) for a in (10, 20, 60) for b in (10, 20, 60) for c in (10, 20, 60)]}
    assert set(np.round(drawn, 6)) == means
    assert drawn.std() == pytest.approx(np.std([10, 20, 60]) / np.sqrt(3), rel=0.03)
    # A repeat that no draw takes.
    assert len(resample.requests(Requests(repeats, "mean"), 1, np.random.default_rng(0))) == 1
    frame = table({"a": {E2E: 30.0, SIZE: 1.0}})
    spread = uncertainty.draw(frame, [E2E, SIZE], {"a": requested("a", *[r[:, 0] for r in repeats])}).spreads["a"][E2E]
    assert spread.note == "3 repeats of 5, 5, 5 requests"


def test_latencies_of_a_configuration_come_from_the_same_requests() -> None:
    values = latency(100, 2)
    frame = table({"a": {E2E: values.mean(), "latency/ttft_mean_ms": values.mean() / 10}})
    drawn = uncertainty.draw(frame, [E2E, "latency/ttft_mean_ms"], {"a": requested("a", values)})
    assert drawn.values[:, 0, 0] == pytest.approx(10 * drawn.values[:, 0, 1])


def test_accuracies_over_the_same_questions_are_paired() -> None:
    random = np.random.default_rng(3)
    before = (random.random(300) < 0.6).astype(float)
    after = before.copy()
    after[:6] = 1 - after[:6]
    frame = table({"a": {ACCURACY: before.mean(), SIZE: 1.0}, "b": {ACCURACY: after.mean(), SIZE: 1.0}})
    same = {"a": answered("a", before), "b": answered("b", after)}
    paired = -uncertainty.draw(frame, [ACCURACY, SIZE], same, draws=4000).values[:, :, 0]
    assert paired.std(axis=0) == pytest.approx([before.std() / np.sqrt(300), after.std() / np.sqrt(300)], rel=0.05)
    assert np.std(paired[:, 0] - paired[:, 1]) == pytest.approx(np.std(before - after) / np.sqrt(300), rel=0.05)
    other = {"a": answered("a", before), "b": answered("b", after, "other")}
    unpaired = -uncertainty.draw(frame, [ACCURACY, SIZE], other, draws=4000).values[:, :, 0]
    assert np.std(unpaired[:, 0] - unpaired[:, 1]) == pytest.approx(np.hypot(before.std(), after.std()) / np.sqrt(300), rel=0.05)


def test_paired_draws_give_the_stores_own_interval_of_the_difference(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    random = np.random.default_rng(0)
    before = {task: (random.random(120) < 0.6).astype(float) for task in ("facts", "sums")}
    after = {task: np.where(random.random(120) < 0.15, 1 - values, values) for task, values in before.items()}
    made = {
        f"{precision}@vllm": [answers(values.tolist(), task) for task, values in tasks.items()]
        for precision, tasks in (("bf16", before), ("gptq-int4", after))
    }
    runs = run_sweep(store, tmp_path, made)
    table_of_runs = frames.load(store, run_ids=runs.values())
    keys = ["accuracy/facts", "accuracy/mean"]
    found = {run_id: raw.read(store, store.get(run_id)) for run_id in runs.values()}
    drawn = -uncertainty.draw(table_of_runs, keys, found, draws=8000).values
    for column, name in enumerate(("facts", "mean")):
        ends = table_of_runs.loc[runs["gptq-int4@vllm"], [f"impact/{name}_difference_ci_{end}" for end in ("low", "high")]]
        own = np.quantile(drawn[:, 1, column] - drawn[:, 0, column], [0.025, 0.975])
        assert own == pytest.approx(ends.to_numpy(dtype=float), abs=0.01)


def test_unscored_items_share_their_weight_and_weights_count() -> None:
    correct, weight = np.array([1.0, 0.0, np.nan, 1.0]), np.array([0.5, 0.25, 0.0, 0.25])
    drawn = resample.items([correct], [weight], 20_000, np.random.default_rng(0))[:, 0]
    assert not np.isnan(drawn).any()
    assert set(np.round(drawn[drawn < 1], 6)) >= {0.0, round(0.5 / 0.75, 6), 0.75}
    # A draw of nothing but the unscored item says nothing.
    only = resample.items([np.array([np.nan, 1.0, 0.0])], [np.array([0.0, 0.5, 0.5])], 500, np.random.default_rng(0))
    assert set(only[:, 0]) <= {0.0, 0.5, 1.0, 1 / 3, 2 / 3}


def test_the_mean_over_tasks_is_that_of_its_tasks_draws() -> None:
    random = np.random.default_rng(0)
    tasks = {name: Items(tuple(f"{name}{i}" for i in range(80)), (random.random(80) < 0.5).astype(float), np.full(80, 1 / 80)) for name in ("facts", "sums")}  # fmt: skip
    samples = {"a": Samples("a", items=tasks)}
    row = {f"accuracy/{name}": items.value for name, items in tasks.items()}
    keys = ["accuracy/mean", "accuracy/facts", "accuracy/sums"]
    drawn = uncertainty.draw(table({"a": row | {"accuracy/mean": sum(row.values()) / 2}}), keys, samples).values[:, 0]
    assert drawn[:, 0] == pytest.approx((drawn[:, 1] + drawn[:, 2]) / 2)
    assert abs(np.corrcoef(drawn[:, 1], drawn[:, 2])[0, 1]) < 0.1


def test_an_interval_is_drawn_at_its_width() -> None:
    key = "throughput/output_tokens_per_s"
    frame = table({"a": {key: 50.0, f"{key}_ci_low": 40.0, f"{key}_ci_high": 60.0, SIZE: 1.0}})
    for samples, note in (
        ({}, "95 % interval, a normal distribution; no raw samples are kept of it"),
        (
            {"a": Samples("a", repeated=({key: 49.0}, {key: 51.0}))},
            "95 % interval, Student's t over 2 repeats; one number a repeat",
        ),
    ):
        drawn = uncertainty.draw(frame, [key, SIZE], samples, draws=20_000)
        assert np.quantile(-drawn.values[:, 0, 0], [0.025, 0.5, 0.975]) == pytest.approx([40, 50, 60], abs=1.5)
        assert drawn.spreads["a"][key] == uncertainty.Spread("interval", note)
    error = table({"a": {ACCURACY: 0.6, f"{ACCURACY}_stderr": 0.02, SIZE: 1.0}})
    drawn = uncertainty.draw(error, [ACCURACY, SIZE], draws=20_000)
    assert drawn.values[:, 0, 0].std() == pytest.approx(0.02, rel=0.03)
    assert drawn.spreads["a"][ACCURACY].kind == "standard error"
    assert drawn.spreads["a"][ACCURACY].note.endswith("its raw samples were not read")


def test_samples_that_do_not_give_the_figure_are_not_used() -> None:
    frame = table({"a": {E2E: 50.0, SIZE: 1.0}})
    spread = uncertainty.draw(frame, [E2E, SIZE], {"a": requested("a", [99.0, 101.0])}).spreads["a"][E2E]
    assert spread == uncertainty.Spread("constant", "no interval; its raw samples give 100 instead of 50")


def test_draws_depend_on_the_seed_and_on_nothing_else_in_the_frame() -> None:
    rows = {name: {E2E: latency(100, i).mean(), ACCURACY: 0.5, SIZE: float(i)} for i, name in enumerate("abc")}
    samples = {name: requested(name, latency(100, i)) for i, name in enumerate("abc")}
    for name in "abc":
        samples[name] = Samples(name, samples[name].latency, answered(name, [1.0, 0.0] * 20).items)
    keys = [E2E, ACCURACY, SIZE]
    first = uncertainty.draw(table(rows), keys, samples, seed=7)
    again = uncertainty.draw(table({name: rows[name] for name in "ca"}), keys, samples, seed=7)
    assert (again.values == first.values[:, [2, 0]]).all()
    assert (uncertainty.draw(table(rows), keys, samples, seed=8).values[:, :, 0] != first.values[:, :, 0]).any()
    whole, part = (
        uncertainty.assess(first),
        uncertainty.assess(uncertainty.draw(table(rows).iloc[[2, 1, 0]], keys, samples, seed=7)),
    )
    assert {c.run_id: c.probability for c in whole.configurations} == {c.run_id: c.probability for c in part.configurations}
    assert {frozenset(group) for group in whole.groups} == {frozenset(group) for group in part.groups}


def test_a_clear_winner_is_certain_and_two_equal_ones_are_even() -> None:
    fast, left, right = (
        requested(name, latency(mean, seed)) for name, mean, seed in (("w", 50, 0), ("l", 100, 1), ("r", 100, 1))
    )
    value = float(latency(100, 1).mean())
    frame = table({"w": {E2E: latency(50, 0).mean(), SIZE: 1.0}, "l": {E2E: value, SIZE: 1.0}})
    sure = uncertainty.assess(uncertainty.draw(frame, [E2E, SIZE], {"w": fast, "l": left}))
    assert [c.probability for c in sure.configurations] == [1, 0]
    assert [c.on_front for c in sure.configurations] == [True, False]
    assert sure.groups == ()
    frame = table({"l": {E2E: value, SIZE: 1.0}, "r": {E2E: value, SIZE: 1.0}})
    even = uncertainty.assess(uncertainty.draw(frame, [E2E, SIZE], {"l": left, "r": right}, draws=4000))
    assert [c.probability for c in even.configurations] == pytest.approx([0.5, 0.5], abs=0.04)
    assert even.configurations[0].probability_error == pytest.approx(np.sqrt(0.25 / 4000), rel=0.01)
    assert even.groups == (("l", "r"),)
    assert even.by_run["l"].tied_with == ("r",)


def test_what_differs_without_noise_is_not_tied() -> None:
    value = float(latency(100, 1).mean())
    frame = table({"l": {E2E: value, SIZE: 1.0}, "r": {E2E: value, SIZE: 1.001}})
    samples = {name: requested(name, latency(100, 1)) for name in "lr"}
    found = uncertainty.assess(uncertainty.draw(frame, [E2E, SIZE], samples))
    assert found.groups == ()
    assert found.by_run["l"].probability == 1
    assert found.by_run["r"].probability == pytest.approx(0.5, abs=0.05)


def test_groups_hold_only_what_is_tied_pair_by_pair() -> None:
    # A chain: each is within noise of its neighbour, the ends are not within noise of each other.
    means = {"a": 100.0, "b": 101.3, "c": 102.6}
    noise = latency(100, 5) - latency(100, 5).mean()
    frame = table({name: {E2E: mean, SIZE: 1.0} for name, mean in means.items()})
    found = uncertainty.assess(
        uncertainty.draw(frame, [E2E, SIZE], {name: requested(name, mean + noise) for name, mean in means.items()}, draws=4000)
    )
    assert found.by_run["b"].tied_with == ("a", "c")
    assert found.by_run["a"].tied_with == ("b",)
    assert len(found.groups) == 1
    assert len(found.groups[0]) == 2
    assert "b" in found.groups[0]


def test_a_configuration_far_behind_changes_no_probability() -> None:
    rows = {name: {E2E: latency(mean, i).mean(), SIZE: size} for i, (name, mean, size) in enumerate([("a", 100, 2.0), ("b", 102, 2.0), ("c", 150, 1.0)])}  # fmt: skip
    samples = {name: requested(name, latency(mean, i)) for i, (name, mean) in enumerate([("a", 100), ("b", 102), ("c", 150)])}
    before = uncertainty.assess(uncertainty.draw(table(rows), [E2E, SIZE], samples))
    after = uncertainty.assess(uncertainty.draw(table(rows | {"z": {E2E: 900.0, SIZE: 9.0}}), [E2E, SIZE], samples))
    assert after.configurations[:-1] == before.configurations
    assert after.configurations[-1].probability == 0
    assert after.groups == before.groups
    assert (after.hypervolume, after.hypervolume_interval, after.reference) == (
        before.hypervolume,
        before.hypervolume_interval,
        before.reference,
    )


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_units_do_not_matter(seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    values = {name: random.normal(100, 5, size=20) for name in "abcd"}
    sizes = {name: float(random.integers(1, 4)) for name in "abcd"}

    def found(factor: float) -> uncertainty.Uncertainty:
        frame = table({name: {E2E: (v * factor).mean(), SIZE: sizes[name] * factor} for name, v in values.items()})
        drawn = uncertainty.draw(frame, [E2E, SIZE], {n: requested(n, v * factor) for n, v in values.items()}, draws=200)
        return uncertainty.assess(drawn, epsilons={E2E: Epsilon(relative=0.01)})

    one, other = found(1.0), found(scale)
    assert [c.probability for c in other.configurations] == pytest.approx([c.probability for c in one.configurations])
    assert other.groups == one.groups
    assert other.cover == one.cover
    assert other.hypervolume == pytest.approx(one.hypervolume)
    assert one.hypervolume_interval is not None
    assert other.hypervolume_interval is not None
    assert other.hypervolume_interval.high == pytest.approx(one.hypervolume_interval.high)


def test_without_noise_the_draws_are_the_front() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        random.integers(0, 6, size=(40, 3)).astype(float), columns=[E2E, SIZE, ENERGY], index=[f"r{i}" for i in range(40)]
    )
    measured = pareto.analyse(frame, [E2E, SIZE, ENERGY])
    found = uncertainty.assess(uncertainty.draw(frame, [E2E, SIZE, ENERGY], draws=10))
    assert tuple(c.run_id for c in found.configurations if c.probability == 1) == measured.run_ids
    assert {c.probability for c in found.configurations} == {0.0, 1.0}
    assert found.constant == (E2E, SIZE, ENERGY)
    assert found.hypervolume_interval is not None
    assert found.hypervolume_interval.low == found.hypervolume_interval.high == found.hypervolume
    # Only what is equal in everything is tied.
    equal = {frozenset((p.run_id, *p.equal_to)) for p in measured.configurations if p.rank == 0 and p.equal_to}
    assert {frozenset(group) for group in found.groups} == equal


def test_epsilon_and_reference() -> None:
    frame = table({"a": {E2E: 100.0, SIZE: 2.0}, "b": {E2E: 101.0, SIZE: 2.0}, "c": {E2E: 150.0, SIZE: 1.0}})
    samples = {"a": requested("a", [99.0, 101.0]), "b": requested("b", [100.0, 102.0])}
    drawn = uncertainty.draw(frame, [E2E, SIZE], samples)
    found = uncertainty.assess(drawn, epsilons={E2E: Epsilon(additive=1.5)}, reference={E2E: 200.0, SIZE: 4.0})
    assert [c.within_epsilon for c in found.configurations] == [True, True, True]
    assert [c.on_front for c in found.configurations] == [True, False, True]
    assert found.cover == ("a", "c")
    # Each is the mean of two: b is behind by 3 in 1 of 16 draws, by 2 in 4.
    assert found.by_run["b"].epsilon_probability == pytest.approx(11 / 16, abs=0.04)
    assert found.by_run["b"].probability == pytest.approx(5 / 16, abs=0.04)
    assert found.reference == {E2E: 200, SIZE: 4}
    assert uncertainty.assess(drawn).cover is None
    assert uncertainty.assess(drawn).by_run["a"].within_epsilon is None
    with pytest.raises(UserError, match="epsilon: 'latency/ttft_p95_ms' is not an objective; allowed: latency/e2e_mean_ms, size"):
        uncertainty.assess(drawn, epsilons={TTFT: Epsilon()})
    with pytest.raises(UserError, match="reference: 'latency/ttft_p95_ms' is not an objective"):
        uncertainty.assess(drawn, reference={TTFT: 1.0})


def test_what_lacks_an_objective_is_left_out_and_nothing_at_all_is_no_error() -> None:
    frame = table({"a": {E2E: 100.0, SIZE: 2.0}, "b": {E2E: float("nan"), SIZE: 2.0}})
    drawn = uncertainty.draw(frame, [E2E, SIZE])
    assert drawn.values.shape[1] == 1
    assert uncertainty.assess(drawn).left_out == {"b": f"no {E2E}"}
    empty = uncertainty.assess(uncertainty.draw(frame.loc[["b"]], [E2E, SIZE]), epsilons={})
    assert (empty.configurations, empty.groups, empty.cover, empty.hypervolume) == ((), (), (), None)
    for wrong in ({"draws": 0}, {"seed": -1}):
        with pytest.raises(UserError, match="draws must be at least 1, seed at least 0"):
            uncertainty.draw(frame, [E2E, SIZE], **wrong)
