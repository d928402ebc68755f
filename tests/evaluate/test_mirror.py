"""Data without a network: what is missing is found while planning, with the commands that mirror it, and changes are noticed."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from slim.config import EvaluateConfig
from slim.errors import ConfigError
from slim.evaluate import check_tasks, mirror, task_digest, tasks


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A mirror that holds GSM8K."""
    folder = tmp_path / "my mirror"
    (folder / "openai" / "gsm8k" / ".cache").mkdir(parents=True)
    (folder / "openai" / "gsm8k" / "test.jsonl").write_text('{"question": "?", "answer": "#### A"}\n')
    return folder


def config(*names: str, data_dir: Path | None = None) -> EvaluateConfig:
    return EvaluateConfig(tasks=names, data_dir=str(data_dir) if data_dir else None, perplexity_text=None)


def test_the_data_sets_are_those_of_the_single_tasks() -> None:
    found = tasks.data_sets(config("mmlu", "gsm8k", "slim_facts", "ai2_arc"))
    assert set(found) == {"cais/mmlu", "openai/gsm8k", "allenai/ai2_arc"}
    assert found["openai/gsm8k"] == "gsm8k"
    assert found["cais/mmlu"].startswith("mmlu_")


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_what_is_missing_offline_is_told_with_its_command(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_tasks(config("mmlu", "gsm8k"))
    monkeypatch.setenv(name, "1")
    check_tasks(config("gsm8k", "slim_facts", data_dir=place))
    with pytest.raises(ConfigError) as caught:
        check_tasks(config("mmlu", "gsm8k", "hellaswag", data_dir=place))
    message = str(caught.value)
    assert "\n" not in message
    assert "'cais/mmlu' of task 'mmlu_abstract_algebra' (and 1 more)" in message
    assert f"hf download --repo-type dataset cais/mmlu --local-dir '{place}/cais/mmlu' && hf download" in message
    assert "gsm8k" not in message
    with pytest.raises(ConfigError, match=r"--local-dir <data_dir>/openai/gsm8k, and name <data_dir> as evaluate\.data_dir"):
        check_tasks(config("gsm8k"))


@pytest.mark.parametrize("cached", ["hub/datasets--cais--mmlu", "datasets/cais___mmlu"])
def test_what_a_cache_may_hold_is_not_refused(cached: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError):
        check_tasks(config("mmlu"))
    (tmp_path / cached).mkdir(parents=True)
    check_tasks(config("mmlu"))


def test_the_command_is_one_that_the_installed_program_knows(place: Path) -> None:
    program, *arguments = shlex.split(mirror.command("cais/mmlu", place))
    assert program == "hf"
    # A request that never leaves: offline, the program gets as far as asking.
    done = subprocess.run(
        [Path(sys.executable).parent / program, *arguments, "--dry-run"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert "no such option" not in done.stderr.lower()
    assert "usage" not in done.stderr.lower()
    assert "offline" in (done.stderr + done.stdout).lower()


def test_a_changed_copy_changes_the_digest(place: Path) -> None:
    asked = config("gsm8k", data_dir=place)
    first = task_digest(asked)
    file = place / "openai" / "gsm8k" / "test.jsonl"
    os.utime(file, (1, 1))
    (place / "openai" / "gsm8k" / ".cache" / "x.metadata").write_text("when it was fetched")
    (place / "openai" / "other").mkdir()
    (place / "openai" / "other" / "test.jsonl").write_text("{}")
    assert task_digest(asked) == first
    # One letter for another: neither names nor sizes tell.
    file.write_text(file.read_text().replace("#### A", "#### B"))
    second = task_digest(asked)
    (place / "openai" / "gsm8k" / "train.jsonl").write_text("{}")
    assert len({first, second, task_digest(asked), task_digest(config("gsm8k"))}) == 4
