"""Where calibration samples come from."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slim import text
from slim.config import QuantizeConfig
from slim.errors import ConfigError, Reason, StageError
from slim.quantize import calibration


class Characters:
    """A tokenizer whose tokens are code points."""

    bos_token_id = 1
    chat_template: str | None = "template"

    def __init__(self, starts: bool = False) -> None:
        self.starts = starts

    def __call__(self, passage: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        start = [1] if self.starts and add_special_tokens else []
        return {"input_ids": start + [ord(c) for c in passage]}

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool) -> str:
        assert not tokenize
        return "".join(f"<{m['role']}>{m['content']}" for m in messages)


def config(**values: Any) -> QuantizeConfig:
    return QuantizeConfig(**{"calibration": "python-docs", "samples": 4, "max_tokens": 8, **values})


def said(samples: list[list[int]]) -> list[str]:
    return ["".join(map(chr, s)) for s in samples]


def local(tmp_path: Path, content: str) -> str:
    (tmp_path / "notes.txt").write_text(content)
    return str(tmp_path / "notes.txt")


def test_the_built_in_text_serves_anywhere() -> None:
    found, dataset = calibration.samples(config(samples=16, max_tokens=128), Characters(), seed=1)
    assert [len(s) for s in found] == [128] * 16
    assert all(s in text.python_docs() for s in said(found))
    assert (dataset.name, dataset.source, dataset.items, dataset.context) == (
        "python-docs",
        "builtin:python-docs",
        16,
        "calibration",
    )
    assert calibration.samples(config(samples=16, max_tokens=128), Characters(), seed=2) == (found, dataset)
    other = calibration.samples(config(samples=15, max_tokens=128), Characters(), seed=1)[1]
    assert other.digest != dataset.digest


@given(length=st.integers(1, 200), samples=st.integers(1, 20), max_tokens=st.integers(1, 50))
@example(length=114, samples=14, max_tokens=1)
def test_windows_are_spread_and_do_not_overlap(length: int, samples: int, max_tokens: int) -> None:
    passage = "".join(chr(0x4E00 + i) for i in range(length))
    found = calibration._windows(passage, config(samples=samples, max_tokens=max_tokens), Characters())
    assert 1 <= len(found) <= samples
    # All that was asked for, or all that fits.
    window = min(max_tokens, length)
    assert len(found) == min(samples, length // window)
    assert {len(s) for s in found} == {window}
    starts = [s[0] - 0x4E00 for s in found]
    assert all(b - a >= window for a, b in itertools.pairwise(starts))
    assert starts[0] == 0
    if len(found) > 1:
        assert starts[-1] + window == length


def test_a_local_text_serves_and_says_how_much_there_was(tmp_path: Path) -> None:
    name = local(tmp_path, "abcdefghijklmnopqrst")
    found, dataset = calibration.samples(config(calibration=name), Characters(), seed=1)
    assert said(found) == ["abcdefgh", "mnopqrst"]
    assert (dataset.name, dataset.source, dataset.items) == ("notes.txt", name, 2)
    assert said(calibration.samples(config(calibration=local(tmp_path, "abc")), Characters(), seed=1)[0]) == ["abc"]


def test_samples_begin_as_the_model_expects(tmp_path: Path) -> None:
    name = local(tmp_path, "abcdefghijklmnopqrst")
    found, _ = calibration.samples(config(calibration=name), Characters(starts=True), seed=1)
    assert [s[0] for s in found] == [1, 1]
    assert said([s[1:] for s in found]) == ["abcdefg", "nopqrst"]


@pytest.mark.parametrize("content", ["", " \n "])
def test_a_text_without_words_is_the_users_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigError, match="holds no text"):
        calibration.samples(config(calibration=local(tmp_path, content)), Characters(), seed=1)


class Rows(list[dict[str, Any]]):
    """A data set of the Hub."""

    def shuffle(self, seed: int) -> "Rows":
        return Rows(self[seed % len(self) :] + self[: seed % len(self)])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Rows:
    rows = Rows()

    def load_dataset(name: str, split: str) -> Rows:
        assert (name, split) == ("org/chats", "train_sft[:4]")
        return rows

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return rows


def chat(content: str) -> dict[str, Any]:
    return {"messages": [{"role": "u", "content": content}]}


def test_chats_go_through_the_template_and_are_cut(hub: Rows) -> None:
    hub += [chat("one"), chat("two more words"), chat("three")]
    found, dataset = calibration.samples(config(calibration="org/chats"), Characters(starts=True), seed=1)
    assert said(found) == ["<u>two m", "<u>three", "<u>one"]
    assert (dataset.name, dataset.source, dataset.items) == ("chats", "org/chats", 3)


def test_without_a_template_chats_are_text(hub: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    hub += [chat("one"), {"text": "two"}, {"text": ""}]
    monkeypatch.setattr(Characters, "chat_template", None)
    assert said(calibration.samples(config(calibration="org/chats"), Characters(), seed=0)[0]) == ["one", "two"]


@pytest.mark.parametrize("rows", [[], [{"question": "x"}], [{"text": ""}]])
def test_a_data_set_without_text_is_unavailable(hub: Rows, rows: list[dict[str, Any]]) -> None:
    hub += rows or [{"text": ""}]
    with pytest.raises(StageError, match="use calibration: python-docs") as caught:
        calibration.samples(config(calibration="org/chats"), Characters(), seed=0)
    assert caught.value.reason is Reason.DATA_UNAVAILABLE


@pytest.mark.parametrize("error", [ConnectionError("no\nnetwork"), FileNotFoundError("x"), ValueError("Unknown split")])
def test_a_data_set_that_cannot_be_had_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(StageError, match=r"'org/chats', split 'train_sft'.*use calibration: python-docs") as caught:
        calibration.samples(config(calibration="org/chats"), Characters(), seed=0)
    assert caught.value.reason is Reason.DATA_UNAVAILABLE
    assert "\n" not in caught.value.message
