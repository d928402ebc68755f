"""The built-in tasks' items are well-formed and come out the same each time."""

import re
from collections import Counter
from pathlib import Path

import pytest

from slim.evaluate.builtin import completion, facts, generate, items

MULTIPLE_CHOICE = ("slim_facts", "slim_completion")
TASKS = ("slim_arithmetic", *MULTIPLE_CHOICE)


@pytest.mark.parametrize("task", TASKS)
def test_enough_items_and_no_question_twice(task: str) -> None:
    made = [item for item in items.load(task) if item["split"] == "test"]
    questions = Counter(item.get("question") or item["start"] for item in made)
    assert len(made) >= 200
    assert questions.most_common(1)[0][1] == 1


@pytest.mark.parametrize("task", MULTIPLE_CHOICE)
def test_choices_differ_and_right_ones_are_spread(task: str) -> None:
    made = items.load(task)
    for item in made:
        assert len(set(item["choices"])) == len(item["choices"]) == 4
        assert all(choice == choice.strip() and choice for choice in item["choices"])
    places = Counter(item["answer"] for item in made)
    assert set(places) == {0, 1, 2, 3}
    assert min(places.values()) > 0.17 * len(made)


def test_shipped_items_are_what_the_generator_makes() -> None:
    folder = Path(items.__file__).parent
    assert (folder / "arithmetic.jsonl").read_text() == generate.dump(generate.arithmetic())
    assert (folder / "facts.jsonl").read_text() == generate.dump(generate.facts())


def test_arithmetic_answers_are_right_and_examples_are_not_asked() -> None:
    made = items.load("slim_arithmetic")
    for item in made:
        a, sign, b = re.fullmatch(r"(\d+) ([+*-]) (\d+)", item["question"]).groups()
        expected = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
        assert item["answer"] == str(expected)
    assert sum(item["split"] == "train" for item in made) == generate.EXAMPLES


def test_facts_keep_to_their_tables() -> None:
    tables = {table.name: table for table in facts.TABLES}
    for table in facts.TABLES:
        assert len(set(table.pairs.values())) >= 4, table.name
        assert all(subject and answer for subject, answer in table.pairs.items())
    for item in items.load("slim_facts"):
        table = tables[item["relation"]]
        subject = next(s for s in table.pairs if table.prompt.format(s) == item["question"])
        assert item["choices"][item["answer"]] == table.pairs[subject]
        assert set(item["choices"]) <= set(table.pairs.values())


def test_a_prefix_of_the_facts_spans_the_tables() -> None:
    assert len({item["relation"] for item in items.load("slim_facts")[:100]}) >= 0.8 * len(facts.TABLES)


def test_completions_are_sentences_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    prose = " ".join(completion.text.python_docs().split())
    for item in items.load("slim_completion"):
        assert f"{item['start']} {item['choices'][item['answer']]}" in prose


def test_completions_come_from_the_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = items.digest("slim_completion")
    completion.completion.cache_clear()
    items.digest.cache_clear()
    assert items.digest("slim_completion") == before
    # Without its first third the text gives other items, all of them from what is left.
    whole = completion.text.python_docs()
    monkeypatch.setattr(completion.text, "python_docs", lambda: whole[len(whole) // 3 :])
    completion.completion.cache_clear()
    items.digest.cache_clear()
    assert items.digest("slim_completion") != before
    completion.completion.cache_clear()
    items.digest.cache_clear()
