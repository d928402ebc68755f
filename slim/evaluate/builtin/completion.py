"""Items of ``slim_completion``: which ending belongs to a sentence of Python's reference documentation?

The documentation differs between Python versions, so the items are made from the installed one when they are needed:
the same text gives the same items.
"""

import random
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from slim import text

SEED = 20240229
CHOICES = 4
WORDS = range(10, 28)
START_SHARE = 0.45

_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_PLAIN = re.compile(r"[A-Z][A-Za-z0-9 ,;:'\"’“”()/\-]*[A-Za-z0-9)\"”]\.")


@cache
def completion() -> tuple[Mapping[str, Any], ...]:
    """Every sentence of plain prose once: its start, its ending and three endings of about the same length."""
    sentences = _sentences()
    split = [(" ".join(words[:cut]), " ".join(words[cut:])) for words, cut in map(_cut, sentences)]
    by_length = sorted({ending for _, ending in split}, key=lambda ending: (len(ending), ending))
    place = {ending: index for index, ending in enumerate(by_length)}
    draw = random.Random(SEED)
    made = []
    for start, ending in split:
        here = place[ending]
        near = [other for other in by_length[max(0, here - 12) : here + 13] if other != ending]
        choices = [ending, *draw.sample(near, CHOICES - 1)]
        draw.shuffle(choices)
        made.append({"split": "test", "start": start, "choices": choices, "answer": choices.index(ending)})
    draw.shuffle(made)
    return tuple(made)


def _cut(sentence: str) -> tuple[list[str], int]:
    words = sentence.split()
    return words, max(4, round(len(words) * START_SHARE))


def _sentences() -> list[str]:
    """Sentences of plain prose in the order of the text, none twice, no two with the same start."""
    found: dict[str, str] = {}
    for paragraph in _PARAGRAPH.split(text.python_docs()):
        for sentence in _SENTENCE_END.split(" ".join(paragraph.split())):
            if len(sentence.split()) in WORDS and _PLAIN.fullmatch(sentence):
                found.setdefault(" ".join(sentence.split()[:6]), sentence)
    return list(found.values())
