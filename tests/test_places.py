"""Paths of a sweep file mean the caller's directory, whatever directory a worker runs in."""

import sys
from pathlib import Path

import pytest

from slim import evaluate, keys, places, text
from slim import plan as planning
from slim.config import EvaluateConfig, ProfileConfig, PromptsConfig, QuantizeConfig, SweepConfig, TaskEntry
from slim.errors import ConfigError
from slim.provenance import ROOT
from tests.test_keys import evaluate as evaluate_key
from tests.test_keys import profile as profile_key
from tests.test_keys import quantize as quantize_key


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a text, a mirror and an interpreter; it is the home directory, too."""
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("Not the README of the project. " * 40)
    (tmp_path / "mirror" / "openai" / "gsm8k").mkdir(parents=True)
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "python").symlink_to(sys.executable)
    return tmp_path


def sweep(python: str | None, name: str, mirror: str, model: str = "embedded") -> SweepConfig:
    return SweepConfig.parse(
        {
            "models": [model],
            "precisions": ["bf16@transformers"],
            "quantize": {"calibration": name},
            "evaluate": {"tasks": ["slim_facts"], "data_dir": mirror, "perplexity_text": name},
            "profile": {"prompts": {"source": name}},
            "interpreters": {"measure": python},
        }
    )


@pytest.mark.parametrize("given", ["./", "~/", ""])
def test_the_plan_has_absolute_paths_for_the_workers(
    here: Path, tiny_model: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "tiny").symlink_to(tiny_model)
    plan = planning.make(sweep(f"{given}env/python", f"{given}README.md", f"{given}mirror", f"{given}tiny"), None, None)
    planned = plan.config
    assert plan.configurations[0].source.path == tiny_model
    # As the workers do, in a directory that has a README.md, too.
    monkeypatch.chdir(ROOT)
    assert planned.evaluate is not None
    assert planned.profile is not None
    assert planned.interpreters.measure == str(here / "env" / "python")
    assert planned.evaluate.data_dir == str(here / "mirror")
    for name in (planned.quantize.calibration, planned.evaluate.perplexity_text, planned.profile.prompts.source):
        assert name is not None
        assert text.load(name).startswith("Not the README")


def test_names_that_are_no_paths_stay(here: Path) -> None:
    config = sweep("python3", "python-docs", str(here))
    (here / "python-docs").write_text("no text of this name is meant")
    assert places.absolute(config) == config
    named = config.model_copy(update={"quantize": QuantizeConfig(calibration="HuggingFaceH4/ultrachat_200k")})
    assert places.absolute(named).quantize == named.quantize
    assert places.absolute(config.model_copy(update={"evaluate": None, "profile": None})).evaluate is None


def test_a_path_that_no_file_can_have_is_one_line(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.data_dir: a part of it is longer than 255 bytes"):
        sweep(None, "python-docs", "x" * 256)
    deep = here / "/".join(["d" * 200] * 5)
    with pytest.raises(ConfigError, match=r"evaluate\.data_dir.*at most 1000"):
        places.absolute(sweep(None, "python-docs", f"{deep}/x"[len(str(here)) + 1 :]))


def test_where_a_text_or_a_mirror_lies_is_no_part_of_a_key(here: Path) -> None:
    other = here / "other"
    other.mkdir()
    (other / "text.md").write_text((here / "README.md").read_text())
    (other / "mirror").mkdir()
    first, second, changed = str(here / "README.md"), str(other / "text.md"), str(here / "changed.md")
    Path(changed).write_text("Something else. " * 40)

    def calibrated(name: str) -> str:
        return quantize_key(config=QuantizeConfig(calibration=name))

    def prompted(name: str) -> str:
        return profile_key(config=ProfileConfig(prompts=PromptsConfig(source=name)))

    def scored(name: str | None, data_dir: Path | None = None) -> str:
        mirror = str(data_dir) if data_dir else None
        return evaluate_key(config=EvaluateConfig(tasks=(TaskEntry(name="slim_facts"),), perplexity_text=name, data_dir=mirror))

    for key in (calibrated, prompted, scored):
        assert key(first) == key(second)
        assert len({key(name) for name in (first, changed, "python-docs")}) == 3
    assert scored("python-docs", here / "mirror") == scored("python-docs", other / "mirror")
    assert scored(None) != scored(first)


def test_what_a_mirror_holds_is_part_of_a_key(here: Path) -> None:
    config = EvaluateConfig(tasks=(TaskEntry(name="gsm8k"),), data_dir=str(here / "mirror"))
    before = keys.digest({"tasks": evaluate.task_digest(config)}), evaluate_key(config=config)
    (here / "mirror" / "openai" / "gsm8k" / "test.parquet").write_text("rows")
    after = keys.digest({"tasks": evaluate.task_digest(config)}), evaluate_key(config=config)
    assert before[0] != after[0]
    assert before[1] != after[1]
