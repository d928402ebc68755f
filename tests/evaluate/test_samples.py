"""The per-item file: which figure an item enters and with what weight, what was cut, what could not be scored."""

import math
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from slim.config import EvaluateConfig, TaskEntry
from slim.evaluate import evaluate
from slim.evaluate.parts import Part
from slim.evaluate.samples import COLUMNS
from slim.evaluate.tasks import find, leaves
from tests.evaluate.conftest import RecordingEngine
from tests.evaluate.test_evaluate import rows, sums, write_copy

ITEMS = """
import numpy as np
from datasets import Dataset

def dataset(*, count, start=0, **_):
    rows = [{"question": f"Which is {n}?", "choices": ["a", "b", "c"], "answer": n % 3} for n in range(start, start + count)]
    return {"test": Dataset.from_list(rows)}

def counted(doc):
    return np.int64(doc["answer"])

def own_results(doc, results):
    return {"acc": float(results[0][0] > results[1][0])}
"""


def leaf(name: str, count: int, **settings: Any) -> dict[str, Any]:
    return {
        "task": name,
        "dataset_kwargs": {"count": count, "start": 10 * len(name)},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "answer",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        **settings,
    }


def group(name: str, members: list[Any], by_size: bool | None, metric: str = "acc") -> dict[str, Any]:
    rule = {} if by_size is None else {"aggregate_metric_list": [{"metric": metric, "weight_by_size": by_size}]}
    return {"group": name, "task": members, **rule}


def run(
    folder: Path, engine: RecordingEngine, model: Path, name: str, *files: dict[str, Any]
) -> tuple[Part, list[dict[str, Any]]]:
    """Run tasks and groups that stand in files of a test's own."""
    from lm_eval.tasks import TaskManager

    from slim.evaluate.harness import EngineLM, open_tokenizer
    from slim.evaluate.loading import LoadedTask, randomness
    from slim.evaluate.running import run_task

    (folder / "items.py").write_text(ITEMS)
    for file in files:
        text = yaml.safe_dump(file)
        if "task" in file and "group" not in file:
            text += "custom_dataset: !function items.dataset\n"
        text = re.sub(r"'(!function [^']*)'", r"\1", text)
        (folder / f"{file.get('group', file.get('task'))}.yaml").write_text(text)
    found = TaskManager(include_path=str(folder), include_defaults=False).load([name])
    entry = LoadedTask(TaskEntry(name=name), None, found["tasks"], found.get("groups", {}), {}, randomness())
    part = run_task(entry, EngineLM(engine, open_tokenizer(model)), EvaluateConfig(tasks=(name,)))
    return part, part.table.to_pylist()


def weighted(own: list[dict[str, Any]], head: str) -> float:
    """The figure as the file tells it."""
    return math.fsum(row["weight"] * row["correct"] for row in own if row["head"] == head and row["correct"] is not None)


SMALL = (leaf("a", 3), leaf("bb", 7), leaf("ccc", 12), leaf("dddd", 5))


@pytest.mark.parametrize("by_size", [True, False])
def test_a_nested_group_is_made_of_its_tasks(by_size: bool, engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    inner = group("inner", ["bb", "ccc"], not by_size)
    part, own = run(tmp_path, engine, tiny_model, "outer", *SMALL, inner, group("outer", ["a", "inner", "dddd"], by_size))
    assert {row["head"] for row in own} == {"outer"}
    assert weighted(own, "outer") == pytest.approx(part.metrics["accuracy/outer"], abs=1e-12)
    assert part.figures == (part.metrics["accuracy/outer"],)
    weights = {row["task"]: row["weight"] for row in own}
    counts = {"a": 3, "bb": 7, "ccc": 12, "dddd": 5}
    expected = {name: 1 / 27 if by_size else 1 / (4 * count) for name, count in counts.items()}
    assert weights == pytest.approx(expected)
    assert part.metrics["accuracy/inner"] != part.metrics["accuracy/outer"]


def test_a_group_that_is_not_aggregated_counts_as_what_is_in_it(
    engine: RecordingEngine, tiny_model: Path, tmp_path: Path
) -> None:
    inner = group("inner", ["bb", "ccc"], True)
    part, own = run(tmp_path, engine, tiny_model, "outer", *SMALL, inner, group("outer", ["a", "inner", "dddd"], None))
    assert {(row["task"], row["head"]) for row in own} == {("a", "a"), ("bb", "inner"), ("ccc", "inner"), ("dddd", "dddd")}
    for head in ("a", "inner", "dddd"):
        assert weighted(own, head) == pytest.approx(part.metrics[f"accuracy/{head}"], abs=1e-12)
    assert part.figures is not None
    assert len(part.figures) == 3


def test_items_are_judged_by_the_figure_that_their_group_aggregates(
    engine: RecordingEngine, tiny_model: Path, tmp_path: Path
) -> None:
    both = [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")]
    files = [leaf("a", 9, metric_list=both, doc_to_choice=["no", "perhaps, perhaps not", "yes"]), group("one", ["a"], True)]
    part, own = run(tmp_path, engine, tiny_model, "one", *files)
    assert weighted(own, "one") == pytest.approx(part.metrics["accuracy/one"], abs=1e-12)
    for row in own:
        assert row["choice"] == row["logprobs"].index(max(row["logprobs"]))
        assert row["correct"] == (row["choice"] == int(row["target"]))


def test_a_figure_that_is_no_mean_over_items_has_no_weights(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    median = [{"metric": "acc", "aggregation": "median", "higher_is_better": True}]
    part, own = run(tmp_path, engine, tiny_model, "a", leaf("a", 9, metric_list=median))
    assert 0 < sum(row["correct"] for row in own) / 9 != part.metrics["accuracy/a"]
    assert {(row["head"], row["weight"]) for row in own} == {("a", None)}


def test_a_standard_error_without_a_closed_form_is_resampled_a_thousand_times(
    engine: RecordingEngine, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.api.metrics import bootstrap_stderr, median

    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    aggregated = [{"metric": "acc", "aggregation": "median", "higher_is_better": True}]
    part, own = run(tmp_path, engine, tiny_model, "a", leaf("a", 9, metric_list=aggregated))
    values = [row["correct"] for row in own]
    assert part.metrics["accuracy/a_stderr"] == bootstrap_stderr(median, values, 1000) != bootstrap_stderr(median, values, 200)


def test_a_correlation_is_no_accuracy(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    part, own = run(tmp_path, engine, tiny_model, "a", leaf("a", 9, metric_list=[{"metric": "mcc"}]))
    assert (part.figures, dict(part.metrics)) == (None, {})
    assert part.notes == ("a has no accuracy, so there is no mean: mcc is a correlation, from -1 to 1",)
    assert {(row["head"], row["weight"]) for row in own} == {(None, None)}


def test_a_figure_that_is_out_of_range_is_unknown_and_its_items_keep_their_head(
    engine: RecordingEngine, tiny_model: Path, tmp_path: Path
) -> None:
    odd = [{"metric": "acc", "aggregation": "bypass", "higher_is_better": True}]
    part, own = run(tmp_path, engine, tiny_model, "a", leaf("a", 9, metric_list=odd))
    assert (part.figures, dict(part.metrics)) == (None, {})
    assert part.notes == ("a has no accuracy, so there is no mean: acc is 999, which is no fraction",)
    assert {(row["head"], row["weight"]) for row in own} == {("a", None)}


def test_a_task_of_a_group_without_items_that_can_be_scored_is_left_out(tiny_model: Path, tmp_path: Path) -> None:
    engine = RecordingEngine(max_model_len=64)
    long = leaf("bb", 5, doc_to_choice=["x " * 100, "y " * 100, "z " * 100])
    part, own = run(tmp_path, engine, tiny_model, "both", leaf("a", 6), long, group("both", ["a", "bb"], True))
    assert len(part.unscored) == part.params["evaluate.unscored_items.both"] == 5
    assert {task for task, _, _ in part.unscored} == {"bb"}
    assert "longer than the context" in part.unscored[0][2]
    assert any("bb is left out" in note for note in part.notes)
    assert weighted(own, "both") == pytest.approx(part.metrics["accuracy/both"], abs=1e-12)
    assert [row["weight"] for row in own] == [pytest.approx(1 / 6)] * 6 + [None] * 5


def test_one_answer_that_is_too_long_costs_one_item(tiny_model: Path, tmp_path: Path) -> None:
    engine = RecordingEngine(max_model_len=64)
    text = "{% if '31' in question %}{{['z ' * 100, 'b', 'c']}}{% else %}{{choices}}{% endif %}"
    part, own = run(
        tmp_path, engine, tiny_model, "bb", leaf("bb", 12, doc_to_choice=text, dataset_kwargs={"count": 12, "start": 25})
    )
    assert [(row["doc_id"], row["correct"], row["weight"]) for row in own if row["unscored"]] == [(6, None, None)]
    assert part.params["evaluate.unscored_items.bb"] == 1
    assert weighted(own, "bb") == pytest.approx(part.metrics["accuracy/bb"], abs=1e-12)
    assert sum(row["weight"] is not None for row in own) == 11


def test_a_right_answer_that_is_no_choice(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    # The first item has to be sound: the harness looks at it while it loads the task.
    wrong = leaf("a", 9, doc_to_target="{% if '12' in question %}7{% else %}{{answer}}{% endif %}")
    part, own = run(tmp_path, engine, tiny_model, "a", wrong)
    assert part.unscored == (("a", 2, "the right answer 7 is not among the choices"),)
    assert weighted(own, "a") == pytest.approx(part.metrics["accuracy/a"], abs=1e-12)


def test_a_target_that_the_tasks_own_code_does_not_use_is_not_looked_at(
    engine: RecordingEngine, tiny_model: Path, tmp_path: Path
) -> None:
    own_code = leaf("a", 9, doc_to_target="all", process_results="!function items.own_results")
    part, own = run(tmp_path, engine, tiny_model, "a", own_code)
    assert part.unscored == ()
    assert [row["correct"] for row in own] == [float(row["logprobs"][0] > row["logprobs"][1]) for row in own]


def test_a_right_answer_is_any_number_that_equals_an_index(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    part, own = run(tmp_path, engine, tiny_model, "a", leaf("a", 9, doc_to_target="!function items.counted"))
    assert part.unscored == ()
    assert [row["correct"] for row in own] == [float(row["choice"] == (10 + n) % 3) for n, row in enumerate(own)]
    assert 0 < part.metrics["accuracy/a"] < 1


def test_an_empty_choice_is_never_the_likeliest_by_length(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    norm = [{"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}]
    # The first item has to be sound: the harness looks at it while it loads the task.
    text = "{% if '10' in question %}{{choices}}{% else %}{{['', 'perhaps', 'yes']}}{% endif %}"
    part, own = run(tmp_path, engine, tiny_model, "a", leaf("a", 9, metric_list=norm, doc_to_choice=text))
    assert part.unscored == ()
    assert {row["choice"] for row in own[1:]} <= {1, 2}
    assert [row["correct"] for row in own] == [float(row["choice"] == int(row["target"])) for row in own]


def test_a_context_that_was_cut_is_marked(tiny_model: Path, tmp_path: Path) -> None:
    engine = RecordingEngine(max_model_len=64)
    text = "{% if answer == 0 %}{{'so ' * 80}}{% endif %}{{question}}"
    part, own = run(tmp_path, engine, tiny_model, "a", leaf("a", 9, doc_to_text=text))
    assert [row["truncated"] for row in own] == [row["target"] == "0" for row in own]
    assert part.params["evaluate.truncated_items.a"] == 3
    assert all(row["unscored"] is None for row in own)


def test_answers_that_were_not_found_are_counted(
    engine: RecordingEngine, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = iter(["So it is 0.\n#### 0", "I cannot tell", "", " \n", "Perhaps 4"])
    monkeypatch.setattr("slim.evaluate.harness.EngineLM._text", lambda *_: next(texts))
    hub = tmp_path / "hub"
    write_copy(hub / "openai" / "gsm8k", ["main"], {"train": sums("train", range(8)), "test": sums("test", range(5))})
    config = EvaluateConfig(tasks=(TaskEntry(name="gsm8k", num_fewshot=1),), data_dir=str(hub), perplexity_text=None)
    found = evaluate(engine, tiny_model, config, tmp_path, seed=1)
    assert found.params["evaluate.unextracted_items.gsm8k"] == 3
    assert "evaluate.unscored_items.gsm8k" not in found.params
    own = rows(tmp_path)
    assert sum(row["extracted"] == "[invalid]" or not row["text"].strip() for row in own) == 3
    # They count as wrong, as in the harness.
    assert found.metrics["accuracy/gsm8k"] == sum(row["correct"] for row in own) / 5
    assert weighted(own, "gsm8k") == pytest.approx(found.metrics["accuracy/gsm8k"])
    assert "validity/ok" not in found.metrics


def test_text_without_tokens_cannot_be_scored(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    pages = [{"page": page} for page in ("Page one says little.", "", "Page three says more than that.")]
    splits = {"train": pages, "validation": pages, "test": pages}
    write_copy(tmp_path / "hub" / "EleutherAI" / "wikitext_document_level", ["wikitext-2-raw-v1"], splits)
    config = EvaluateConfig(tasks=("wikitext",), data_dir=str(tmp_path / "hub"), perplexity_text=None)
    found = evaluate(engine, tiny_model, config, tmp_path, seed=1)
    assert found.tags["slim.unscored"] == "wikitext[1]: the text has no tokens"
    assert (found.tags["slim.validity"], found.metrics["validity/ok"]) == ("unscored_items", 0)
    own = rows(tmp_path)
    assert [row["unscored"] is None for row in own] == [True, False, True]
    assert {row["head"] for row in own} == {None}
    total = sum(row["logprobs"][0] for row in own if row["unscored"] is None)
    assert found.metrics["fidelity/wikitext_perplexity"] == pytest.approx(math.exp(-total / 10))


def test_columns_have_their_types_whatever_is_missing(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    types = []
    for name, tasks in (("one", ("slim_facts",)), ("other", ("slim_arithmetic",))):
        (tmp_path / name).mkdir()
        config = EvaluateConfig(tasks=tasks, limit=2, perplexity_text=None)
        evaluate(engine, tiny_model, config, tmp_path / name, seed=1)
        schema = pq.read_schema(tmp_path / name / "samples.parquet")
        assert tuple(schema.names) == tuple(COLUMNS)
        types.append(schema)
    assert types[0] == types[1]


@pytest.mark.slow
def test_mmlus_groups(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    names = sorted(name.removeprefix("mmlu_") for name in leaves(find("mmlu")))
    assert len(names) == 57
    for place, name in enumerate(names):
        items = [
            {"question": f"What of {name} is {n}?", "choices": ["a", "b", "c", "d"], "answer": (n + place) % 4}
            for n in range(2 + place % 5)
        ]
        folder = hub / "cais" / "mmlu"
        write_copy(folder / name, [name], {"dev": items[:2], "test": items})
        (folder / name / "README.md").unlink()
    splits = ("dev", "test")
    card = {
        "configs": [
            {"config_name": name, "data_files": [{"split": split, "path": f"{name}/{split}.jsonl"} for split in splits]}
            for name in names
        ]
    }
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
    config = EvaluateConfig(tasks=(TaskEntry(name="mmlu", num_fewshot=1),), data_dir=str(hub), perplexity_text=None)
    found = evaluate(engine, tiny_model, config, tmp_path, seed=1)
    own = rows(tmp_path)
    assert len(own) == found.params["evaluate.items.mmlu"] == sum(2 + place % 5 for place in range(57))
    assert {row["head"] for row in own} == {"mmlu"}
    assert weighted(own, "mmlu") == pytest.approx(found.metrics["accuracy/mmlu"], abs=1e-12)
    for part in ("stem", "humanities", "social_sciences", "other"):
        inside = [row["correct"] for row in own if row["task"] in leaves(find(f"mmlu_{part}"))]
        assert found.metrics[f"accuracy/mmlu_{part}"] == pytest.approx(sum(inside) / len(inside))
