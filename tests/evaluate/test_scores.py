"""Which of a task's figures counts."""

import pytest

from slim.evaluate.primary import IN_PERCENT, NO_FRACTION, Choice, primary, why_none
from slim.evaluate.scores import mean, metric_name
from slim.evaluate.tasks import harness_tasks


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"acc,none": 0.5, "acc_stderr,none": 0.1, "sample_len": 3}, Choice("acc", "none")),
        (
            {"acc,none": 0.4, "acc_norm,none": 0.5, "acc_norm_stderr,none": 0.1},
            Choice("acc_norm", "none", ("acc", "acc", "none")),
        ),
        (
            {"exact_match,strict-match": 0.1, "exact_match,flexible-extract": 0.2},
            Choice("exact_match", "flexible-extract", ("strict", "exact_match", "strict-match")),
        ),
        ({"perplexity,none": 12.0, "acc,none": 0.5}, Choice("acc", "none")),
        ({"exact_match,custom-extract": 0.3}, Choice("exact_match", "custom-extract")),
        ({"em,none": 0.2, "f1,none": 0.3}, Choice("em", "none")),
        ({"bleu,none": 31.5}, None),
        ({"word_perplexity,none": 20.0, "bits_per_byte,none": 0.8}, None),
    ],
)
def test_primary_figure(figures: dict[str, float], expected: Choice | None) -> None:
    better = {"perplexity": False, "word_perplexity": False, "bits_per_byte": False}
    assert primary(figures, better, ["some_task"]) == expected


@pytest.mark.parametrize("value", [-0.01, 0.0, 0.02, 0.6, 1.0, 31.5, float("nan")])
@pytest.mark.parametrize(
    ("metric", "task", "expected"),
    [
        ("bleu", "wmt16-en-de", None),
        ("chrf", "wmt16-en-de", None),
        ("ter", "wmt16-en-de", None),
        ("mcc", "cola", None),
        ("exact", "squadv2", None),
        ("f1", "scrolls_qasper", None),
        ("exact", "french_bench_fquadv2", Choice("exact", "none")),
        ("f1", "evalita-mp_hs_prompt-1", Choice("f1", "none")),
        ("acc", "boolq", Choice("acc", "none")),
    ],
)
def test_the_choice_does_not_depend_on_the_values(metric: str, task: str, value: float, expected: Choice | None) -> None:
    assert primary({f"{metric},none": value, f"{metric}_stderr,none": value, "em,none": 0.5}, {}, [task]) == expected


def test_a_group_with_a_task_in_percent_is_no_fraction() -> None:
    assert primary({"f1,none": 0.4}, {}, ["coqa", "squadv2"]) is None
    assert primary({"f1,none": 0.4}, {}, ["coqa", "drop"]) == Choice("f1", "none")


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"mcc,none": 0.1}, "mcc is a correlation, from -1 to 1"),
        ({"exact,none": 0.1}, "exact is on a scale of 0 to 100"),
        ({"word_perplexity,none": 20.0}, "no figure that is better when higher"),
    ],
)
def test_why_there_is_no_figure(figures: dict[str, float], expected: str) -> None:
    assert why_none(figures, {"word_perplexity": False}) == expected


def test_the_harness_has_what_the_tables_name() -> None:
    """Each aggregation that gives no fraction is left out wherever a task names it, and the tables name nothing that is gone."""
    no_fraction = {"bleu", "chrf", "chrf++", "ter", "matthews_corrcoef", "perplexity", "weighted_perplexity", "bits_per_byte"}
    known = harness_tasks()
    named = {"chrf++", "bypass"}  # registered, but of no task in this version
    for task in known.values():
        for figure in task.settings.get("metric_list") or ():
            name = figure["metric"].rpartition(".")[2]
            named.add(name)
            assert figure.get("aggregation") not in no_fraction or name in NO_FRACTION, (task.name, figure)
    assert set(NO_FRACTION) <= named
    assert known.keys() >= IN_PERCENT


def test_mean_needs_all_tasks() -> None:
    assert mean([[0.5], [0.1, 0.3]]) == pytest.approx(0.3)
    assert mean([[0.5], []]) == 0.5
    assert mean([[0.5], None]) is None
    assert mean([[]]) is None


def test_names_fit_metric_keys() -> None:
    assert metric_name("group::task/one-2.b") == "group__task_one-2.b"
