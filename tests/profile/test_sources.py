"""Where prompts come from: whatever the source, they have one length and begin differently, and the record says what was read."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from slim import keys, text
from slim.config import ProfileConfig, PromptsConfig
from slim.errors import ConfigError, Reason, StageError
from slim.profile import sources, workload
from tests.quantize.test_calibration import Characters
from tests.test_keys import ENVIRONMENT, SERVING

CHATS = [[("user", f"Question {i} about the number {i * i}?"), ("assistant", f"It is {i} times {i}.")] for i in range(40)]


def chats(count: int = 40) -> list[dict[str, Any]]:
    return [{"messages": [{"role": role, "content": content} for role, content in chat]} for chat in CHATS[:count]]


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def mirrored(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    """A mirror with one data set, ``org/lines``: its subset ``raw`` has a split ``test``, as Wikitext has."""
    home = tmp_path / "hub" / "org" / "lines"
    written(home / "raw" / "test.jsonl", rows)
    written(home / "other" / "test.jsonl", [{"text": "not this one"}])
    (home / "README.md").write_text(
        "---\nconfigs:\n- config_name: other\n  data_files: other/test.jsonl\n- config_name: raw\n  data_files:\n  - split: test\n"
        "    path: raw/test.jsonl\n---\n"
    )
    return tmp_path / "hub"


def made(tmp_path: Path, kind: str) -> PromptsConfig:
    if kind == "builtin":
        return PromptsConfig()
    if kind == "text":
        (tmp_path / "notes.txt").write_text(text.python_docs()[5000:9000])
        return PromptsConfig(source=str(tmp_path / "notes.txt"))
    if kind == "chats":
        return PromptsConfig(source=written(tmp_path / "chats.jsonl", chats()))
    lines = [{"text": line + "\n"} for line in text.python_docs()[:6000].splitlines()]
    return PromptsConfig(source="org/lines", subset="raw", split="test", data_dir=str(mirrored(tmp_path, lines)))


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.mark.parametrize("kind", ["builtin", "text", "chats", "mirror"])
def test_prompts_of_any_source_have_one_length_and_begin_differently(kind: str, tmp_path: Path, tiny_model: Path) -> None:
    config = made(tmp_path, kind)
    sources.check(config)
    found = sources.read(config, AutoTokenizer.from_pretrained(tiny_model))
    windows = workload.cut(found, 64, 33, seed=1)
    assert {len(window) for window in windows} == {33}
    assert len({window[:16] for window in windows}) == 64
    assert found == sources.read(config, AutoTokenizer.from_pretrained(tiny_model))


def test_origins_tell_sources_apart(tmp_path: Path) -> None:
    assert sources.origin(PromptsConfig()) == "builtin:python-docs"
    assert sources.origin(made(tmp_path, "text")) == str(tmp_path / "notes.txt")
    assert sources.origin(made(tmp_path, "mirror")) == "org/lines/raw/test"
    assert sources.origin(PromptsConfig(source="org/chats", split="train_sft")) == "org/chats/train_sft"


def test_chats_go_through_the_template_whole(tmp_path: Path) -> None:
    found = sources.read(PromptsConfig(source=written(tmp_path / "chats.jsonl", chats()), rows=2), Characters())
    assert "".join(map(chr, found.tokens)) == "".join(f"<{role}>{content}" for chat in CHATS[:2] for role, content in chat)


def test_lines_are_joined_and_empty_ones_left_out(tmp_path: Path) -> None:
    data_dir = mirrored(
        tmp_path, [{"text": ""}, {"text": " = A title = \n"}, {"text": ""}, {"text": " Words .\n"}, {"text": "x"}]
    )
    config = PromptsConfig(source="org/lines", subset="raw", split="test", rows=4, data_dir=str(data_dir))
    found = sources.read(config, Characters())
    assert "".join(map(chr, found.tokens)) == "= A title =\n\nWords .\n\n"


def test_the_digest_is_of_the_text_and_not_of_the_tokenizer(tmp_path: Path, tiny_model: Path) -> None:
    config = PromptsConfig(source=written(tmp_path / "chats.jsonl", chats()))
    one, other = sources.read(config, Characters()), sources.read(config, AutoTokenizer.from_pretrained(tiny_model))
    assert one.tokens != other.tokens
    assert one.digest == other.digest
    written(tmp_path / "chats.jsonl", chats(39))
    assert sources.read(config, Characters()).digest != one.digest


def test_a_mirror_that_changed_is_read_again(tmp_path: Path) -> None:
    config = made(tmp_path, "mirror")
    before = sources.read(config, Characters())
    mirrored(tmp_path, [{"text": "something else"}])
    after = sources.read(config, Characters())
    assert "".join(map(chr, after.tokens)) == "something else\n\n"
    assert after.digest != before.digest


@pytest.mark.parametrize("kind", ["text", "chats", "mirror"])
def test_what_a_local_source_holds_is_part_of_the_key(kind: str, tmp_path: Path) -> None:
    def key(prompts: PromptsConfig) -> str:
        config = ProfileConfig(prompts=prompts)
        return keys.profile_key("w", SERVING, config, seed=1, repeat=0, environment=ENVIRONMENT)

    config = made(tmp_path, kind)
    first = key(config)
    assert first == key(config)
    assert first != key(PromptsConfig())
    path = next(
        p for p in (tmp_path / "notes.txt", tmp_path / "chats.jsonl", tmp_path / "hub/org/lines/raw/test.jsonl") if p.exists()
    )
    path.write_text(path.read_text() + '{"text": "more"}\n')
    assert key(config) != first
    if kind == "mirror":
        (tmp_path / "hub").rename(tmp_path / "moved")
        second = config.model_copy(update={"data_dir": str(tmp_path / "moved")})
        path = tmp_path / "moved/org/lines/raw/test.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
        assert key(second) == first
        assert key(second.model_copy(update={"split": "train"})) != first


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"source": "nowhere.txt"}, ["profile.prompts.source", "'nowhere.txt'", "python-docs", "HuggingFaceH4/ultrachat_200k"]),
        ({"source": "org/nowhere.jsonl"}, ["'org/nowhere.jsonl'", "no such file"]),
        ({"source": "wikitext"}, ["'wikitext'", "allowed"]),
        ({"source": "org/lines", "data_dir": "/no/mirror"}, ["profile.prompts.data_dir", "'/no/mirror'"]),
        ({"source": "org/lines"}, ["'org/lines'", "HF_HUB_OFFLINE", "hf download", "profile.prompts.data_dir"]),
        ({"subset": "raw"}, ["profile.prompts.subset", "'raw'", "python-docs"]),
        ({"source": "{empty.txt}"}, ["empty.txt", "holds no text"]),
        ({"source": "{binary.txt}"}, ["binary.txt", "cannot be read"]),
        ({"source": "{empty.jsonl}"}, ["empty.jsonl", "holds no text"]),
        ({"source": "{broken.jsonl}"}, ["line 2", "broken.jsonl", "no JSON"]),
        ({"source": "{list.jsonl}"}, ["line 1", "list.jsonl", "no JSON object"]),
        ({"source": "{questions.jsonl}"}, ["questions.jsonl", "'messages'", "question"]),
    ],
)
def test_a_source_that_cannot_be_is_found_while_planning(
    values: dict[str, str], named: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    contents = {
        "empty.txt": b" \n",
        "binary.txt": b"\xff\xfe\x00",
        "empty.jsonl": b"",
        "broken.jsonl": b'{"text": "a"}\n{"text": \n',
        "list.jsonl": b"[1]\n",
        "questions.jsonl": b'{"question": "?"}\n',
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    filled = {k: re.sub(r"\{(.*)\}", rf"{tmp_path}/\1", v) for k, v in values.items()}
    with pytest.raises(ConfigError) as caught:
        sources.check(PromptsConfig(**filled))
    assert "\n" not in str(caught.value)
    for part in named:
        assert part in str(caught.value)


def test_what_only_reading_finds_is_one_line_too(tmp_path: Path) -> None:
    config = made(tmp_path, "mirror").model_copy(update={"split": "nowhere"})
    with pytest.raises(StageError, match=r"data set of the prompts 'org/lines', subset 'raw', split 'nowhere'") as caught:
        sources.read(config, Characters())
    assert caught.value.reason is Reason.DATA_UNAVAILABLE
    short = sources.PromptText((1, 2, 3), "/a/text", "d")
    with pytest.raises(StageError, match=r"/a/text.*3 different windows of 8 tokens, 9 are needed") as caught:
        workload.cut(short, 9, 8, seed=1)
    assert caught.value.reason is Reason.DATA_UNAVAILABLE


def test_a_chat_that_the_template_refuses_is_one_line(tmp_path: Path, tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(StageError, match=r"chats\.jsonl.*roles must alternate") as caught:
        sources.read(PromptsConfig(source=written(tmp_path / "chats.jsonl", chats())), tokenizer)
    assert caught.value.reason is Reason.DATA_UNAVAILABLE
