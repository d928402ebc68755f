"""Which of a task's figures counts."""

import pytest

from slim.evaluate.scores import Choice, mean, metric_name, primary


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
    assert primary(figures, better) == expected


def test_the_choice_does_not_depend_on_the_values() -> None:
    assert primary({"bleu,none": 31.5, "em,none": 0.5}, {}) is None
    assert primary({"bleu,none": 0.9, "em,none": 0.5}, {}) == Choice("bleu", "none")


def test_mean_needs_all_tasks() -> None:
    assert mean([[0.5], [0.1, 0.3]]) == pytest.approx(0.3)
    assert mean([[0.5], []]) == 0.5
    assert mean([[0.5], None]) is None
    assert mean([[]]) is None


def test_names_fit_metric_keys() -> None:
    assert metric_name("group::task/one-2.b") == "group__task_one-2.b"
