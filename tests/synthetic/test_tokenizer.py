"""The made-up tokenizer: any text there and back, every id decoded, special ids where the configuration has them."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim.synthetic import tokenizer
from slim.synthetic.presets import PRESETS
from tests.synthetic.configs import SMALL, write

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@cache
def small() -> Any:
    from transformers import AutoTokenizer

    with TemporaryDirectory() as directory:
        tokenizer.write(SMALL, write(Path(directory)))
        return AutoTokenizer.from_pretrained(directory)


@given(st.text())
def test_text_comes_back(text: str) -> None:
    ids = small()(text)["input_ids"]
    if not any(token in text for token in small().all_special_tokens):
        assert len(ids) == len(text.encode())
    assert small().decode(ids) == text


def test_every_id_stands_for_something_of_its_own() -> None:
    read = small()
    tokens = read.convert_ids_to_tokens(list(range(SMALL["vocab_size"])))
    assert len(read) == len(set(tokens)) == SMALL["vocab_size"]
    assert read.decode([500, 501]) == " 500 501"
    assert (read.bos_token_id, read.eos_token_id, read.pad_token_id) == (1000, 1001, 7)
    assert read.decode([1000, 1001, 1002, 7], skip_special_tokens=True) == ""


def test_a_chat_has_turns_that_end() -> None:
    written = small().apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert written == "user: Hi<|eos|>\nassistant: Hello<|eos|>\nassistant: "
    assert small()(written, add_special_tokens=False)["input_ids"].count(1001) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_a_tokenizer_that_fits(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    config = dict(PRESETS[name])
    tokenizer.write(config, write(tmp_path, **config))
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert len(read) == config["vocab_size"]
    ends = config["eos_token_id"] if isinstance(config["eos_token_id"], list) else [config["eos_token_id"]]
    assert read.eos_token_id == ends[0]
    assert read.bos_token_id == config["bos_token_id"]
    assert read.pad_token_id == config.get("pad_token_id", ends[0])
    assert read.model_max_length == config["max_position_embeddings"]
    text = "Zürich, 東京:\n\t{x: 1}"
    assert read.decode(read(text)["input_ids"]) == text
    assert read.decode(range(config["vocab_size"] - 2, config["vocab_size"])).strip()
