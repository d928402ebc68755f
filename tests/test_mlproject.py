"""MLproject says what the click commands say."""

import importlib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
ENTRY_POINTS = sorted(PROJECT["entry_points"])
# `mlflow run` tells the tracking store itself.
NOT_PARAMETERS = {"--tracking-uri"}


def command(name: str) -> click.Command:
    found = importlib.import_module(f"entrypoints.{name}").main
    assert isinstance(found, click.Command)
    return found


def options(name: str) -> dict[str, click.Option]:
    return {
        p.opts[0].removeprefix("--").replace("-", "_"): p
        for p in command(name).params
        if isinstance(p, click.Option) and p.opts[0] not in NOT_PARAMETERS
    }


def test_every_script_is_an_entry_point() -> None:
    assert sorted(p.stem for p in (ROOT / "entrypoints").glob("[a-z]*.py")) == ENTRY_POINTS
    assert PROJECT["conda_env"] == "conda.yaml"


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_parameters_are_the_options(name: str) -> None:
    parameters = PROJECT["entry_points"][name]["parameters"]
    assert list(parameters) == list(options(name))
    for key, option in options(name).items():
        declared = parameters[key]
        assert option.help
        assert declared["description"] == option.help.partition("  [default")[0], key
        assert ("default" not in declared) == option.required, key
        if not option.required:
            default = "false" if option.default is False else "" if option.multiple else str(option.default)
            assert declared["default"] == default, key
        inner = getattr(option.type, "inner", option.type)
        assert declared["type"] == ("float" if isinstance(inner, click.IntRange | click.FloatRange) else "string"), key


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_the_command_passes_every_parameter(name: str) -> None:
    words = PROJECT["entry_points"][name]["command"].split()
    assert words[:3] == ["python", "-m", f"entrypoints.{name}"]
    pairs = dict(zip(words[3::2], words[4::2], strict=True))
    assert pairs == {f"--{key.replace('_', '-')}": f"{{{key}}}" for key in options(name)}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_help_says_what_it_does(name: str) -> None:
    result = CliRunner().invoke(command(name), ["--help"])
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    for option in options(name).values():
        assert option.opts[0] in text
