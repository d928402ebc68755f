"""Two runs' answers against each other: what is paired, what is refused, what comes of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim import comparison, metrics
from slim.comparison import paired, pairing
from slim.comparison.items import METRICS
from slim.config import ComparisonConfig
from slim.errors import ComparisonError
from tests.answers import answers, frame, write

CONFIG = ComparisonConfig(resamples=2000)
outcomes = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=80)


def compare(
    baseline: pd.DataFrame,
    configuration: pd.DataFrame,
    config: ComparisonConfig = CONFIG,
    seed: int = 42,
    with_mean: bool = True,
) -> comparison.Comparison:
    return comparison.compare(baseline, configuration, config, seed=seed, with_mean=with_mean)


def turned(lost: int, gained: int, right: int, wrong: int, **values: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A task's items in two runs."""
    before = [1.0] * lost + [0.0] * gained + [1.0] * right + [0.0] * wrong
    after = [0.0] * lost + [1.0] * gained + [1.0] * right + [0.0] * wrong
    return frame(answers(before, **values)), frame(answers(after, **values))


def test_flips_of_one_task() -> None:
    (head,) = compare(*turned(12, 4, 60, 24)).heads
    assert (head.head, head.items, head.unpaired, head.lost, head.gained) == ("facts", 100, 0, 12, 4)
    assert head.difference == pytest.approx(-0.08)
    assert head.mcnemar_p == pytest.approx(0.0768, abs=5e-5)
    assert head.interval is not None
    # Normal approximation of the same.
    half = 1.96 * np.sqrt((0.16 - 0.08**2) / 100)
    assert (head.interval.low, head.interval.high) == pytest.approx((-0.08 - half, -0.08 + half), abs=0.011)
    assert head.verdict == "undecided"
    assert head.items_to_decide is not None
    assert head.items_to_decide > 100


def test_metrics_and_verdicts_have_their_names() -> None:
    one, two = turned(12, 4, 60, 24), turned(0, 0, 150, 50, task="sums")
    made = compare(pd.concat([one[0], two[0]]), pd.concat([one[1], two[1]]))
    values = made.metrics()
    assert metrics.check(values) == values
    assert {metrics.get(key).key for key in values} == METRICS
    assert values == {
        "fidelity/paired_items": 300,
        "fidelity/unpaired_items": 0,
        "fidelity/flip_rate": pytest.approx(16 / 300),
        "fidelity/mcnemar_p": pytest.approx(0.0768, abs=5e-5),
        "fidelity/facts_flip_rate": pytest.approx(0.16),
        "fidelity/facts_mcnemar_p": pytest.approx(0.0768, abs=5e-5),
        "fidelity/facts_lost_items": 12,
        "fidelity/facts_gained_items": 4,
        "fidelity/facts_items_to_decide": made.heads[0].items_to_decide,
        "fidelity/sums_flip_rate": 0,
        "fidelity/sums_mcnemar_p": 1,
        "fidelity/sums_lost_items": 0,
        "fidelity/sums_gained_items": 0,
        "fidelity/sums_items_to_decide": 133,
        "impact/facts_difference": pytest.approx(-0.08),
        "impact/facts_difference_ci_low": pytest.approx(-0.16, abs=0.015),
        "impact/facts_difference_ci_high": pytest.approx(0, abs=0.015),
        # Nothing turned, which says nothing of how much could have.
        "impact/sums_difference": 0,
        "impact/mean_difference": pytest.approx(-0.04),
        "impact/mean_difference_ci_low": pytest.approx(-0.08, abs=0.0075),
        "impact/mean_difference_ci_high": pytest.approx(0, abs=0.0075),
    }
    assert made.verdicts() == {"facts": "undecided", "sums": "non-inferior"}


@given(outcomes)
def test_swapping_the_runs_mirrors_lost_and_gained(pairs: list[tuple[float, float]]) -> None:
    one, other = frame(answers([p[0] for p in pairs])), frame(answers([p[1] for p in pairs]))
    (forth,), (back,) = compare(one, other).heads, compare(other, one).heads
    assert (forth.lost, forth.gained) == (back.gained, back.lost)
    assert forth.mcnemar_p == pytest.approx(back.mcnemar_p)
    assert forth.difference == pytest.approx(-(back.difference or 0))
    assert (forth.interval is None) == (back.interval is None) == (len({b - a for a, b in pairs}) == 1)


@given(outcomes, st.floats(0.001, 0.9), st.floats(0.001, 0.9))
def test_a_wider_margin_never_makes_a_verdict_worse(pairs: list[tuple[float, float]], one: float, other: float) -> None:
    runs = frame(answers([p[0] for p in pairs])), frame(answers([p[1] for p in pairs]))
    order = ["inferior", "undecided", "non-inferior"]
    narrow, wide = (
        order.index(compare(*runs, ComparisonConfig(margin=m, resamples=100)).heads[0].verdict) for m in sorted((one, other))
    )
    assert narrow <= wide


@given(outcomes, st.integers(0, 10), st.sampled_from(["doc_hash", "prompt_hash", "target_hash"]))
def test_any_other_hash_is_refused(pairs: list[tuple[float, float]], item: int, column: str) -> None:
    one, other = frame(answers([p[0] for p in pairs])), frame(answers([p[1] for p in pairs]))
    other.loc[item % len(pairs), column] += "x"
    with pytest.raises(ComparisonError, match=rf"^task 'facts', item {item % len(pairs)}: .* differ \({column}\)$"):
        compare(one, other)


@pytest.mark.parametrize(
    ("baseline", "configuration", "message"),
    [
        (frame(answers([1, 1, 1])), frame(answers([1])), "task 'facts', item 1 and 1 more: only in the baseline's samples"),
        (
            frame(answers([1])),
            frame(answers([1]), answers([1], "sums")),
            "task 'sums', item 0: only in the configuration's samples",
        ),
        (
            frame(answers([1]), answers([1])),
            frame(answers([1])),
            "task 'facts', item 0: more than once in the baseline's samples",
        ),
    ],
)
def test_other_questions_are_refused_in_one_line(baseline: pd.DataFrame, configuration: pd.DataFrame, message: str) -> None:
    with pytest.raises(ComparisonError) as caught:
        compare(baseline, configuration)
    assert str(caught.value) == message


@pytest.mark.parametrize("head", [None, "all"])
def test_a_figure_of_only_one_run_costs_no_other_figure(head: str | None) -> None:
    one, two = turned(12, 4, 60, 24), turned(0, 0, 150, 50, task="sums")
    changed = two[1].assign(head=head)
    made = compare(pd.concat([one[0], two[0]]), pd.concat([one[1], changed]))
    assert made.heads == compare(*one).heads
    assert (made.difference, made.interval) == (None, None)
    assert made.differing == (("sums",) if head is None else ("sums", "all"))
    names = "'sums'" if head is None else "'sums', 'all'"
    assert made.refused() == f"only one of the two runs has {names} over the same items"
    assert compare(*one).refused() is None


def test_a_group_of_which_one_task_is_missing_is_no_figure_of_both() -> None:
    """What is left of the group is not what the other run's figure is made of."""
    before = frame(answers([1.0] * 4, "small", head="group"), answers([1.0] * 9, "large", head="group"), answers([1.0, 0.0]))
    after = frame(answers([0.0] * 4, "small"), answers([1.0] * 9, "large", head="group"), answers([1.0, 0.0]))
    made = compare(before, after)
    assert [h.head for h in made.heads] == ["facts"]
    assert made.differing == ("group", "small")


def test_the_order_of_items_does_not_matter() -> None:
    one, other = turned(3, 1, 10, 6)
    assert compare(one, other.sample(frac=1, random_state=1)) == compare(one, other)


def test_unscored_items_are_left_out_and_counted() -> None:
    one = frame(answers([1, None, 1, 1, 0]))
    other = frame(answers([0, 1, None, 1, 0]))
    made = compare(one, other)
    (head,) = made.heads
    assert (head.items, head.unpaired, head.lost, head.gained) == (3, 2, 1, 0)
    assert head.difference == pytest.approx(-1 / 3)
    assert made.metrics()["fidelity/unpaired_items"] == 2


def test_without_a_pair_nothing_is_known() -> None:
    made = compare(frame(answers([None, 1])), frame(answers([1, None])))
    assert made.metrics() == {"fidelity/paired_items": 0, "fidelity/unpaired_items": 2}
    assert made.verdicts() == {"facts": "undecided"}


def test_running_text_is_checked_but_is_no_item() -> None:
    text = [{**row, "head": None, "weight": None, "correct": None} for row in answers([1, 1], "wikitext")]
    made = compare(frame(answers([1, 0]), text), frame(answers([1, 1]), text))
    assert [h.head for h in made.heads] == ["facts"]
    assert made.metrics()["fidelity/unpaired_items"] == 0
    assert compare(frame(text), frame(text)).metrics() == {"fidelity/paired_items": 0, "fidelity/unpaired_items": 0}
    with pytest.raises(ComparisonError, match="prompts differ"):
        compare(frame(text), frame([{**row, "prompt_hash": "other"} for row in text]))


@pytest.mark.parametrize(
    ("table", "verdict"),
    [
        ((0, 0, 1, 0), "undecided"),
        ((1, 0, 0, 0), "undecided"),
        ((50, 0, 0, 0), "inferior"),
        ((0, 50, 0, 0), "non-inferior"),
        ((0, 0, 50, 0), "undecided"),
        ((0, 0, 200, 200), "non-inferior"),
        ((200, 200, 200, 200), "undecided"),
    ],
)
def test_edges(table: tuple[int, int, int, int], verdict: str) -> None:
    assert compare(*turned(*table)).heads[0].verdict == verdict


def test_weights_are_those_of_the_figure() -> None:
    """Two tasks of a group that counts them alike, whatever their size."""
    small, large = [1.0, 1.0, 0.0, 0.0], [1.0] * 10 + [0.0] * 10
    group = {"head": "group"}
    one = frame(
        answers(small, "small", **group, weights=[1 / 8] * 4),
        answers(large, "large", **group, weights=[1 / 40] * 20),
    )
    other = frame(
        answers([0.0, 1.0, 0.0, 0.0], "small", **group, weights=[1 / 8] * 4),
        answers([1.0] * 12 + [0.0] * 8, "large", **group, weights=[1 / 40] * 20),
    )
    made = compare(one, other)
    (head,) = made.heads
    for name, run in (("before", one), ("after", other)):
        assert (run["weight"] * run["correct"]).sum() == pytest.approx(0.5 if name == "before" else 0.25 / 2 + 0.6 / 2)
    assert head.difference == pytest.approx((0.25 - 0.5) / 2 + (0.6 - 0.5) / 2)
    assert (head.lost, head.gained) == (1, 2)
    assert made.difference == head.difference
    # As if all had counted alike, only the flips are the same.
    equal = compare(one.assign(weight=1 / 24), other.assign(weight=1 / 24)).heads[0]
    assert equal.difference == pytest.approx(1 / 24)
    assert equal.mcnemar_p == head.mcnemar_p


def test_the_scale_of_weights_does_not_matter() -> None:
    one, other = turned(12, 4, 60, 24)
    made = compare(one.assign(weight=3.0), other.assign(weight=5.0))
    assert made == compare(one, other)


def test_fractional_scores_have_a_difference_but_no_flips() -> None:
    generator = np.random.default_rng(0)
    before = generator.random(200)
    after = np.clip(before - 0.05 + generator.normal(0, 0.05, 200), 0, 1)
    made = compare(frame(answers(list(before))), frame(answers(list(after))))
    (head,) = made.heads
    assert (head.lost, head.gained, head.mcnemar_p) == (None, None, None)
    assert head.difference == pytest.approx((after - before).mean())
    assert head.verdict == "inferior"
    statistic = paired.mean_statistic(after - before, np.ones(200), 0.02)
    assert head.items_to_decide == paired.decide(statistic, 200, 0.95).items_to_decide
    assert "fidelity/flip_rate" not in made.metrics()
    # Beside a task of right and wrong, the flips over all are those of that task.
    one, other = turned(2, 1, 10, 7, task="sums")
    both = compare(pd.concat([frame(answers(list(before))), one]), pd.concat([frame(answers(list(after))), other])).metrics()
    assert both["fidelity/flip_rate"] == pytest.approx(3 / 20)
    assert both["fidelity/paired_items"] == 220


def test_a_figure_that_is_no_mean_over_its_items_has_flips_only() -> None:
    one, other = turned(2, 1, 10, 7)
    more = turned(12, 4, 60, 24, task="sums")
    unweighted = compare(pd.concat([one.assign(weight=None), more[0]]), pd.concat([other.assign(weight=None), more[1]]))
    values = unweighted.metrics()
    assert (values["fidelity/facts_lost_items"], values["fidelity/facts_gained_items"]) == (2, 1)
    assert not any(key.startswith(("impact/facts", "impact/mean", "fidelity/facts_items")) for key in values)
    assert list(unweighted.verdicts()) == ["sums"]
    # Nor is there anything to pair where items have no value of their own.
    nothing = {"weight": None, "correct": None}
    empty = compare(one.assign(**nothing), other.assign(**nothing))
    assert empty.metrics() == {"fidelity/paired_items": 0, "fidelity/unpaired_items": 0}
    assert empty.verdicts() == {}


def test_the_mean_resamples_every_task() -> None:
    one, two = turned(12, 4, 60, 24), turned(30, 10, 200, 160, task="sums")
    made = compare(pd.concat([one[0], two[0]]), pd.concat([one[1], two[1]]), ComparisonConfig(resamples=20_000))
    assert made.difference == pytest.approx((-0.08 - 0.05) / 2)
    assert made.interval is not None
    variance = ((0.16 - 0.08**2) / 100 + (0.1 - 0.05**2) / 400) / 4
    half = 1.96 * np.sqrt(variance)
    assert (made.interval.low, made.interval.high) == pytest.approx((-0.065 - half, -0.065 + half), abs=0.002)
    without = compare(one[0], one[1], with_mean=False)
    assert (without.difference, without.interval) == (None, None)
    assert "impact/mean_difference" not in without.metrics()


def test_a_seed_gives_the_same_interval_whatever_else_is_compared() -> None:
    one, two = turned(12, 4, 60, 24), turned(9, 2, 9, 9, task="sums")
    alone = compare(*one).heads[0]
    both = compare(pd.concat([two[0], one[0]]), pd.concat([two[1], one[1]]))
    assert both.heads[1] == alone
    scores = np.linspace(0, 1, 50)
    fractional = frame(answers(list(scores))), frame(answers(list(scores**2)))
    assert compare(*fractional).heads[0] == compare(*fractional).heads[0]
    assert compare(*fractional).heads[0].interval != compare(*fractional, seed=43).heads[0].interval


def test_samples_are_read_and_what_is_no_sample_is_refused(tmp_path: Path) -> None:
    directory = write(tmp_path / "run", answers([1, 0]), answers([1, None], "sums"))
    read = pairing.read(directory / "samples.parquet", "run 1")
    assert list(read.columns) == list(pairing.COLUMNS)
    assert compare(read, read).metrics()["fidelity/paired_items"] == 3
    old = frame(answers([1])).drop(columns=["head", "weight"])
    old.to_parquet(tmp_path / "old.parquet")
    with pytest.raises(ComparisonError, match="samples of run 2 lack head, weight: an earlier version"):
        pairing.read(tmp_path / "old.parquet", "run 2")
    (tmp_path / "broken.parquet").write_text("no parquet")
    with pytest.raises(ComparisonError, match="samples of run 3 cannot be read"):
        pairing.read(tmp_path / "broken.parquet", "run 3")
