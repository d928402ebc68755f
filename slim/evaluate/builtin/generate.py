"""Makes ``arithmetic.jsonl`` and ``facts.jsonl``: ``python -m slim.evaluate.builtin.generate`` writes them anew.

The files are part of the package, so that an item means the same everywhere; a test compares them with what this makes.
"""

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from slim.evaluate.builtin.facts import TABLES

SEED = 20240229
CHOICES = 4
EXAMPLES = 8
ARITHMETIC_ITEMS = 272
FACTS_A_TABLE = 24

Item = Mapping[str, Any]


def arithmetic() -> list[Item]:
    """Additions, subtractions and products of small whole numbers, kinds in turn, no question twice.

    The first `EXAMPLES` items are the split ``train``.
    """
    draw = random.Random(SEED)
    seen: set[str] = set()
    made: list[Item] = []
    while len(made) < EXAMPLES + ARITHMETIC_ITEMS:
        question, answer = _problem(draw, len(made) % 4)
        if question not in seen:
            seen.add(question)
            made.append({"split": "train" if len(made) < EXAMPLES else "test", "question": question, "answer": str(answer)})
    return made


def _problem(draw: random.Random, kind: int) -> tuple[str, int]:
    """A question and its answer, hard enough that a model of 135 million parameters gets about two thirds right."""
    a, b = draw.randint(1, 9), draw.randint(1, 9)
    if kind == 0:
        return f"{a} + {b}", a + b
    if kind == 1:
        return f"{a + 10} + {b}", a + 10 + b
    if kind == 2:
        return f"{a + 3} * {b + 1}", (a + 3) * (b + 1)
    return f"{a + b} - {b}", a


def facts() -> list[Item]:
    """Facts of all tables, no table prevailing, with wrong answers from their own table.

    They are mixed, so that any prefix spans the tables.
    """
    draw = random.Random(SEED)
    made: list[Item] = []
    for table in TABLES:
        answers = sorted(set(table.pairs.values()))
        pairs = list(table.pairs.items())
        for subject, answer in draw.sample(pairs, min(len(pairs), FACTS_A_TABLE)):
            choices = [answer, *draw.sample([other for other in answers if other != answer], CHOICES - 1)]
            draw.shuffle(choices)
            made.append(
                {
                    "split": "test",
                    "relation": table.name,
                    "question": table.prompt.format(subject),
                    "choices": choices,
                    "answer": choices.index(answer),
                }
            )
    draw.shuffle(made)
    return made


def write(directory: Path) -> None:
    """Write both files into ``directory``."""
    for name, made in (("arithmetic", arithmetic()), ("facts", facts())):
        (directory / f"{name}.jsonl").write_text(dump(made), encoding="utf-8")


def dump(made: Iterable[Item]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in made)


if __name__ == "__main__":
    write(Path(__file__).parent)
