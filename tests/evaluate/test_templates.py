"""Templates compiled once give the texts that the harness gives."""

import pytest
from lm_eval.utils import apply_template, env

from slim.evaluate.templates import compiled_once

DOCUMENTS = [{"question": f"What is {n} + {n}?", "choices": ["a", "b"], "answer": n} for n in range(3)]
TEMPLATES = [
    "{{question.strip()}}\n{% for c in choices %}{{c}}{% endfor %}\nAnswer:",
    "{{answer}}",
    "{{question|regex_replace('W', 'V')}}",
]


def rendered() -> list[str]:
    return [apply_template(template, document) for template in TEMPLATES for document in DOCUMENTS]


def test_texts_are_the_same_and_each_template_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rendered()
    compiled: list[str] = []
    original = type(env).compile
    monkeypatch.setattr(
        type(env), "compile", lambda self, source, *rest: compiled.append(source) or original(self, source, *rest)
    )
    with compiled_once():
        with compiled_once():
            assert rendered() == expected
        assert rendered() == expected
    assert sorted(compiled) == sorted(TEMPLATES)
    rendered()
    assert len(compiled) == len(TEMPLATES) + len(TEMPLATES) * len(DOCUMENTS)


def test_an_error_leaves_the_harness_as_it_was() -> None:
    with pytest.raises(KeyError), compiled_once():
        raise KeyError
    assert "from_string" not in vars(env)
