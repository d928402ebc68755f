"""Evaluation from end to end on an engine without a model: what is asked, counted, written and reported."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from slim.config import EvaluateConfig, TaskEntry
from slim.errors import Reason, StageError
from slim.evaluate import evaluate
from slim.evaluate.samples import COLUMNS
from slim.evaluate.tasks import find, leaves
from slim.records import Progress
from tests.evaluate.conftest import RecordingEngine

SUMS = "slim_arithmetic"


def rows(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "samples.parquet").to_pylist()


def prompts(engine: RecordingEngine, tokenizer_dir: Path) -> list[str]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    return [tokenizer.decode(request.prompt) for request in engine.generated]


def write_copy(folder: Path, names: list[str], splits: dict[str, list[dict[str, Any]]]) -> None:
    """Write a data set as a copy of the Hub's has it, with the same items under each of the names."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [{"split": split, "path": f"{split}.jsonl"} for split in splits]
    card = {"configs": [{"config_name": name, "data_files": files} for name in names]}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
    for split, items in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


def sums(split: str, numbers: range) -> list[dict[str, Any]]:
    return [{"question": f"How many {split} are {n}?", "answer": f"There are {n}.\n#### {n}"} for n in numbers]


def questions(split: str, count: int) -> list[dict[str, Any]]:
    choices = {"text": ["one", "two", "three"], "label": ["A", "B", "C"]}
    return [{"question": f"Which {split} is {n}?", "choices": choices, "answerKey": "ABC"[n % 3]} for n in range(count)]


def three_splits(examples: str, asked: str, count: int) -> dict[str, list[dict[str, Any]]]:
    return {"train": questions(examples, 9), "validation": questions(examples, 9), "test": questions(asked, count)}


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Made-up data sets in the Hub's layout."""
    hub = tmp_path / "hub"
    write_copy(hub / "openai" / "gsm8k", ["main"], {"train": sums("train", range(8)), "test": sums("test", range(5))})
    write_copy(hub / "allenai" / "ai2_arc", ["ARC-Easy", "ARC-Challenge"], three_splits("train", "test", 7))
    return hub


def test_everything_that_is_asked_for_is_measured(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    config = EvaluateConfig(
        tasks=(
            TaskEntry(name=SUMS, limit=7),
            TaskEntry(name="slim_facts", limit=30),
            TaskEntry(name="slim_completion"),
        ),
        limit=20,
        perplexity_tokens=600,
    )
    found = evaluate(engine, tiny_model, config, tmp_path, seed=1, on_progress=seen.append)

    table = pq.read_table(tmp_path / "samples.parquet")
    assert tuple(table.column_names) == tuple(COLUMNS)
    samples = table.to_pylist()
    counts = {SUMS: 7, "slim_facts": 30, "slim_completion": 20}
    for task, count in counts.items():
        own = [row for row in samples if row["task"] == task]
        assert [row["doc_id"] for row in own] == list(range(count))
        assert found.params[f"evaluate.items.{task}"] == count
        assert found.metrics[f"accuracy/{task}"] == pytest.approx(sum(row["correct"] for row in own) / count)
        assert len({row["doc_hash"] for row in own}) == count
        for row in own:
            if task == SUMS:
                assert row["choice"] is None
                assert row["text"] is not None
                assert row["correct"] == (row["extracted"] == row["target"])
            else:
                assert len(row["logprobs"]) == 4
                assert row["greedy"] is None
                assert row["correct"] == (row["choice"] == int(row["target"]))
    completions = [row for row in samples if row["task"] == "slim_completion"]
    assert found.metrics["accuracy/slim_completion_acc"] == pytest.approx(sum(row["beside"] for row in completions) / 20)
    assert 0 < found.metrics["accuracy/slim_facts"] < 1
    assert found.metrics["accuracy/slim_facts_stderr"] > 0
    assert found.metrics["accuracy/mean"] == pytest.approx(sum(found.metrics[f"accuracy/{t}"] for t in counts) / 3)
    assert found.params["evaluate.unscored_items"] == 0
    assert found.tags == {}

    tokens = pq.read_table(tmp_path / "perplexity_tokens.parquet").to_pylist()
    assert len(tokens) == found.params["evaluate.perplexity_scored_tokens"] == 599
    assert found.metrics["fidelity/perplexity"] > 1

    assert [dataset.name for dataset in found.datasets] == [*counts, "python-docs"]
    assert [dataset.source for dataset in found.datasets] == [*(f"builtin:{task}" for task in counts), "builtin:python-docs"]
    assert [dataset.items for dataset in found.datasets] == [7, 30, 20, 600]

    steps = list(dict.fromkeys(progress.step for progress in seen))
    assert steps == ["load tasks", *counts, "perplexity"]
    for step in (*counts, "perplexity"):
        done = [(progress.done, progress.total) for progress in seen if progress.step == step and progress.total is not None]
        assert done[0][0] == 0
        assert done == sorted(done)
        assert done[-1][0] == done[-1][1] > 0


def test_a_text_of_one_token_costs_the_perplexity_alone(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a")
    config = EvaluateConfig(tasks=("slim_facts",), limit=4, perplexity_text=str(tmp_path / "short.txt"), fidelity_tokens=None)
    found = evaluate(engine, tiny_model, config, tmp_path, seed=1)
    assert "accuracy/slim_facts" in found.metrics
    assert "fidelity/perplexity" not in found.metrics
    assert found.tags["slim.evaluate_notes"] == "perplexity left out: the text has 1 tokens; at least 2 are needed"
    table = pq.read_table(tmp_path / "perplexity_tokens.parquet")
    assert (table.column_names, table.num_rows) == (["position", "token", "logprob"], 0)


def test_the_same_seed_gives_the_same_results(tiny_model: Path, tmp_path: Path, mirror: Path) -> None:
    config = EvaluateConfig(tasks=(TaskEntry(name="arc_easy", num_fewshot=3),), data_dir=str(mirror), perplexity_text=None)
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        engine = RecordingEngine(max_model_len=1024)
        found.append((evaluate(engine, tiny_model, config, tmp_path / name, seed=seed), rows(tmp_path / name)))
    assert found[0] == found[1]
    hashes = [[row["prompt_hash"] for row in samples] for _, samples in found]
    assert hashes[0] != hashes[2]


def test_identical_requests_are_scored_once(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(tasks=(TaskEntry(name="slim_facts", limit=40),), perplexity_text=None)
    evaluate(engine, tiny_model, config, tmp_path, seed=1)
    assert len(set(engine.scored)) == len(engine.scored) == 40
    assert sum(len(request.continuations) for request in engine.scored) == 160
    from slim.evaluate.harness import EngineLM, open_tokenizer

    lm = EngineLM(engine, open_tokenizer(tiny_model))
    engine.scored.clear()
    pair = (None, [5, 6, 7], [8, 9])
    answers = lm._loglikelihood_tokens([pair, (None, [5, 6], [8, 9]), pair])
    assert len(engine.scored) == 2
    assert answers[0] == answers[2]


@pytest.mark.parametrize("count", [0, 2])
def test_examples_are_as_many_as_asked(count: int, engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(tasks=(TaskEntry(name=SUMS, num_fewshot=count, limit=3),), perplexity_text=None)
    found = evaluate(engine, tiny_model, config, tmp_path, seed=1)
    assert found.params[f"evaluate.num_fewshot.{SUMS}"] == str(count)
    for prompt in prompts(engine, tiny_model):
        assert prompt.count("=") == count + 1
        assert prompt.endswith("=")


def test_chat_template_and_system_prompt(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(
        tasks=(TaskEntry(name=SUMS, num_fewshot=1, limit=2),),
        apply_chat_template=True,
        system_prompt="Count well.",
        perplexity_text=None,
    )
    evaluate(engine, tiny_model, config, tmp_path, seed=1)
    for prompt in prompts(engine, tiny_model):
        assert prompt.startswith("<|im_start|>system\nCount well.<|im_end|>\n<|im_start|>user\n")
        assert prompt.count("<|im_start|>user") == 2
        assert prompt.count("<|im_start|>assistant") == 2
        assert prompt.endswith("<|im_start|>assistant\n")


def test_chat_template_that_the_model_lacks(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "plain")
    config = EvaluateConfig(tasks=(SUMS,), apply_chat_template=True)
    with pytest.raises(StageError, match="no chat template"):
        evaluate(engine, tmp_path / "plain", config, tmp_path, seed=1)


def test_a_harness_task_from_a_local_mirror(
    engine: RecordingEngine, tiny_model: Path, tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An engine that answers in the way gsm8k's strict extraction wants, right for 3 and wrong for all others.
    monkeypatch.setattr("slim.evaluate.harness.EngineLM._text", lambda self, tokens, until: "So it is 3.\n#### 3")
    config = EvaluateConfig(tasks=(TaskEntry(name="gsm8k", num_fewshot=2, limit=4),), data_dir=str(mirror), perplexity_text=None)
    found = evaluate(engine, tiny_model, config, tmp_path, seed=1)
    assert found.metrics["accuracy/gsm8k"] == found.metrics["accuracy/gsm8k_strict"] == 0.25
    assert found.datasets[0].source == str((mirror / "openai" / "gsm8k").resolve())
    assert [row["correct"] for row in rows(tmp_path)] == [0, 0, 0, 1]
    for prompt in prompts(engine, tiny_model):
        assert prompt.count("How many train are") == 2
        assert prompt.count("How many test are") == 1


def test_a_tag_counts_as_its_tasks(engine: RecordingEngine, tiny_model: Path, tmp_path: Path, mirror: Path) -> None:
    config = EvaluateConfig(tasks=("ai2_arc",), data_dir=str(mirror), perplexity_text=None)
    found = evaluate(engine, tiny_model, config, tmp_path, seed=1)
    both = [found.metrics["accuracy/arc_easy"], found.metrics["accuracy/arc_challenge"]]
    assert found.metrics["accuracy/mean"] == pytest.approx(sum(both) / 2)
    assert "accuracy/ai2_arc" not in found.metrics
    assert found.params["evaluate.items.ai2_arc"] == 14


@pytest.mark.slow
def test_a_group_is_one_figure(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    names = [name.removeprefix("mmlu_") for name in leaves(find("mmlu_humanities"))]
    items = [{"question": f"Which is {n}?", "choices": ["a", "b", "c", "d"], "answer": n % 4} for n in range(6)]
    write_copy(tmp_path / "hub" / "cais" / "mmlu", names, {"dev": items[:3], "test": items})
    config = EvaluateConfig(
        tasks=(TaskEntry(name="mmlu_humanities", num_fewshot=2, limit=5),),
        data_dir=str(tmp_path / "hub"),
        perplexity_text=None,
    )
    found = evaluate(engine, tiny_model, config, tmp_path, seed=1)
    samples = rows(tmp_path)
    assert len(samples) == found.params["evaluate.items.mmlu_humanities"] == 13 * 5
    assert set(found.metrics) == {"accuracy/mmlu_humanities", "accuracy/mmlu_humanities_stderr", "accuracy/mean"}
    expected = sum(row["correct"] for row in samples) / len(samples)
    assert found.metrics["accuracy/mmlu_humanities"] == found.metrics["accuracy/mean"] == pytest.approx(expected)
    subjects = json.loads((tmp_path / "harness.json").read_text())["mmlu_humanities"]["results"]
    assert len([name for name in subjects if name.startswith("mmlu_")]) == 14
    assert found.params["evaluate.num_fewshot.mmlu_humanities"] == "2"


def test_running_text_has_a_perplexity_and_no_accuracy(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    pages = [{"page": f"Page {n} says little and says it {n} times."} for n in range(4)]
    splits = {"train": pages, "validation": pages, "test": pages}
    write_copy(tmp_path / "hub" / "EleutherAI" / "wikitext_document_level", ["wikitext-2-raw-v1"], splits)
    config = EvaluateConfig(
        tasks=("wikitext", TaskEntry(name="slim_facts", limit=5)), data_dir=str(tmp_path / "hub"), perplexity_text=None
    )
    found = evaluate(engine, tiny_model, config, tmp_path, seed=1)
    assert found.metrics["fidelity/wikitext_perplexity"] > 1
    assert "accuracy/wikitext" not in found.metrics
    assert found.metrics["accuracy/mean"] == found.metrics["accuracy/slim_facts"]
    own = [row for row in rows(tmp_path) if row["task"] == "wikitext"]
    assert [row["correct"] for row in own] == [None] * 4
    words = sum(len(page["page"].split()) for page in pages)
    total = sum(row["logprobs"][0] for row in own)
    assert found.metrics["fidelity/wikitext_perplexity"] == pytest.approx(math.exp(-total / words))


def test_a_copy_that_has_changed_is_read_anew(engine: RecordingEngine, tiny_model: Path, tmp_path: Path, mirror: Path) -> None:
    config = EvaluateConfig(tasks=(TaskEntry(name="arc_easy"),), data_dir=str(mirror), perplexity_text=None)
    first = evaluate(engine, tiny_model, config, tmp_path, seed=1)
    write_copy(mirror / "allenai" / "ai2_arc", ["ARC-Easy", "ARC-Challenge"], three_splits("old", "new", 6))
    second = evaluate(engine, tiny_model, config, tmp_path, seed=1)
    assert (first.params["evaluate.items.arc_easy"], second.params["evaluate.items.arc_easy"]) == (7, 6)
    assert first.datasets[0].digest != second.datasets[0].digest
    assert "accuracy/arc_easy_acc" in second.metrics


def test_data_that_cannot_be_had_is_named(engine: RecordingEngine, tiny_model: Path, tmp_path: Path, mirror: Path) -> None:
    (mirror / "openai" / "gsm8k" / "test.jsonl").unlink()
    with pytest.raises(StageError) as caught:
        evaluate(engine, tiny_model, EvaluateConfig(tasks=("gsm8k",), data_dir=str(mirror)), tmp_path, seed=1)
    assert caught.value.reason is Reason.DATA_UNAVAILABLE
    assert "\n" not in caught.value.message
    for part in (
        "'openai/gsm8k' (main)",
        "'gsm8k'",
        "evaluate.data_dir",
        "hf download --repo-type dataset openai/gsm8k --local-dir ",
    ):
        assert part in caught.value.message


def test_an_item_that_cannot_be_scored_is_left_out_and_named(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(tasks=(TaskEntry(name="slim_facts", limit=10),), perplexity_text=None)
    evaluate(engine, tiny_model, config, tmp_path, seed=1)
    whole = rows(tmp_path)
    broken = engine.scored[0]
    engine.broken = lambda request: request == broken
    found = evaluate(engine, tiny_model, config, tmp_path, seed=1)
    samples = rows(tmp_path)
    lost = [row for row in samples if row["unscored"] is not None]
    assert len(lost) == found.params["evaluate.unscored_items"] == 1
    assert lost[0]["correct"] is None
    assert f"slim_facts[{lost[0]['doc_id']}]" in found.tags["slim.unscored"]
    kept = [row["correct"] for row in whole if row["doc_id"] != lost[0]["doc_id"]]
    assert found.metrics["accuracy/slim_facts"] == pytest.approx(sum(kept) / 9)


def test_a_task_of_which_nothing_can_be_scored_fails(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    engine.broken = lambda request: True
    with pytest.raises(StageError, match=r"no item of task 'slim_facts' can be scored.*nan"):
        evaluate(engine, tiny_model, EvaluateConfig(tasks=(TaskEntry(name="slim_facts", limit=3),)), tmp_path, seed=1)


def test_generation_that_leaves_no_room_for_a_prompt(tiny_model: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(tasks=(TaskEntry(name=SUMS, limit=1),), perplexity_text=None)
    with pytest.raises(StageError, match="generates up to 6 tokens, the context holds 5"):
        evaluate(RecordingEngine(max_model_len=6), tiny_model, config, tmp_path, seed=1)


def test_an_engines_failure_comes_through(engine: RecordingEngine, tiny_model: Path, tmp_path: Path) -> None:
    def crash(request: object) -> bool:
        raise StageError(Reason.OUT_OF_MEMORY, "it is full")

    engine.broken = crash
    with pytest.raises(StageError, match="it is full") as caught:
        evaluate(engine, tiny_model, EvaluateConfig(tasks=("slim_facts",)), tmp_path, seed=1)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
