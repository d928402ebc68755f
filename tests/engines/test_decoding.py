"""Text of continuations, with a real byte-level tokenizer and one that drops leading spaces."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from slim.engines.decoding import continuation_text, cut, tail_length


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> object:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.mark.parametrize("text", ["plain text", "naïve café, 東京 and more", "spaces   and\n\nlines "])
def test_text_is_the_same_wherever_it_is_split(tokenizer, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    for split in range(1, len(ids)):
        before = tokenizer.decode(ids[:split])
        if "\ufffd" not in before:
            assert before + continuation_text(tokenizer, ids[:split], ids[split:]) == text


def test_special_tokens_are_skipped(tokenizer) -> None:
    before, after = tokenizer("one")["input_ids"], tokenizer(" two<|im_end|>")["input_ids"]
    assert tokenizer.eos_token_id in after
    assert continuation_text(tokenizer, before, after) == " two"


class DropsLeadingSpace:
    """Decodes in SentencePiece's manner."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        return "".join(f" w{i}" for i in ids).removeprefix(" ")


def test_a_leading_space_is_kept() -> None:
    assert continuation_text(DropsLeadingSpace(), [1, 2], [3, 4]) == " w3 w4"


def test_the_first_stop_text_in_the_text_cuts() -> None:
    assert cut("a b c", ("c", "b")) == ("a ", True)
    assert cut("a b c", ("d",)) == ("a b c", False)
    assert cut("a b c", ()) == ("a b c", False)


def test_the_tail_holds_a_stop_text_of_byte_tokens(tokenizer) -> None:
    stop = "東京"
    ids = tokenizer("x" * 40 + stop)["input_ids"]
    assert stop in tokenizer.decode(ids[-tail_length((stop, "a")) :])
