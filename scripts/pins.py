"""Resolve the pins and write them, or check that what is written still is what the ``.in`` files ask for.

``lock`` writes the ``.txt`` beside each ``.in`` and ``conda.yaml``; versions that are pinned already stay unless
``--upgrade`` is given. ``check`` resolves again, for each Python that the pins serve, and changes nothing.
Only the standard library is used, so that it runs before there is an environment.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
CONDA = ROOT / "conda.yaml"
PYTHONS = {"cpu": ("3.11",), "gpu": ("3.11", "3.12"), "gpu-measure": ("3.11", "3.12"), "gpu-quantize": ("3.11", "3.12")}
SPLIT = ("gpu-measure", "gpu-quantize")
# The oldest C library that every pinned package has wheels for.
PLATFORM = "x86_64-manylinux_2_34"

CARD = (
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
)
"""What the project is made of, first in conda.yaml; the rest is what these need. pynvml is in nvidia-ml-py."""

HEADER = "# Complete list, written by `make lock` from {source}: install with --no-deps (docs/environments.md).\n"
CONDA_HEADER = """\
# The GPU environment, written by `make lock` from requirements/gpu.txt.
# vLLM and llmcompressor name different versions of compressed-tensors, so no resolver accepts the list as it stands:
#   mlflow run . --env-manager uv      works as it is (uv reads the override in pyproject.toml)
#   PIP_NO_DEPS=1 mlflow run .         conda: the list is complete, pip need not resolve it
# docs/environments.md has the reasons.
name: slim
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def main() -> int:
    """Parse, run, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("lock", "check"))
    parser.add_argument("--upgrade", action="store_true", help="lock: take the newest versions that the .in files allow")
    arguments = parser.parse_args()
    if arguments.command == "lock":
        lock(arguments.upgrade)
        return 0
    problems = check()
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        print("`make lock` writes the pins anew", file=sys.stderr)
    return 1 if problems else 0


def lock(upgrade: bool) -> None:
    """Write all pin files."""
    pins: dict[str, dict[str, str]] = {}
    for kind, pythons in PYTHONS.items():
        kept = {} if upgrade else read(REQUIREMENTS / f"{kind}.txt")
        if kind in SPLIT:
            # The pair has the versions of the one environment wherever it can.
            kept = {**kept, **{name: pin for name, pin in pins["gpu"].items() if name != "compressed-tensors"}}
        pins[kind] = resolve(kind, pythons[0], kept, keep_only_preferred=True)
        # One list serves each Python only if it also is an answer for the newer ones.
        for python in pythons[1:]:
            resolve(kind, python, pins[kind])
        write(REQUIREMENTS / f"{kind}.txt", f"{kind}.in", pins[kind])
    kept = {} if upgrade else read(REQUIREMENTS / "dev.txt")
    write(REQUIREMENTS / "dev.txt", "dev.in", tools(pins, kept))
    CONDA.write_text(conda(pins["gpu"]), encoding="utf-8")


def check() -> list[str]:
    """Return what is wrong, one line each."""
    problems = []
    pins = {kind: read(REQUIREMENTS / f"{kind}.txt") for kind in PYTHONS}
    cases = [(kind, python) for kind, pythons in PYTHONS.items() for python in pythons]
    with ThreadPoolExecutor() as pool:
        # Nearly all of the time is waiting for the index.
        answers = pool.map(lambda case: attempt(case[0], case[1], pins[case[0]]), cases)
        for (kind, python), answer in zip(cases, answers, strict=True):
            name = f"requirements/{kind}.txt for Python {python}"
            if isinstance(answer, str):
                problems.append(f"{name} does not resolve: {answer}")
                continue
            print(f"{name}: {len(answer)} packages")
            different = sorted(set(answer.items()) ^ set(pins[kind].items()))
            if different:
                shown = ", ".join("==".join(pin) for pin in different)
                problems.append(f"{name} differs from what {kind}.in resolves to: {shown}")
    written = read(REQUIREMENTS / "dev.txt")
    if tools(pins, written) != written:
        problems.append("requirements/dev.txt differs from what dev.in resolves to")
    if CONDA.read_text(encoding="utf-8") != conda(pins["gpu"]):
        problems.append("conda.yaml differs from requirements/gpu.txt")
    return problems


def attempt(kind: str, python: str, pins: dict[str, str]) -> dict[str, str] | str:
    """`resolve`, with the reason as text where there is no answer."""
    try:
        return resolve(kind, python, pins)
    except SystemExit as failure:
        return str(failure)


def resolve(kind: str, python: str, pins: dict[str, str], *, keep_only_preferred: bool = False) -> dict[str, str]:
    """Resolve ``<kind>.in``.

    Args:
        kind: a key of `PYTHONS`.
        python: version to resolve for.
        pins: versions to hold to.
        keep_only_preferred: give up a version of ``pins`` that no longer fits, in place of failing.

    Returns:
        Version by package.
    """
    arguments = [str(REQUIREMENTS / f"{kind}.in"), "--python-version", python]
    if kind == "cpu":
        arguments += ["--override", str(REQUIREMENTS / "cpu-overrides.txt")]
    else:
        arguments += ["--python-platform", PLATFORM]
    if kind in SPLIT:
        arguments += ["--no-config", "--override", str(REQUIREMENTS / "split-overrides.txt")]
    return compile_(arguments, pins, keep_only_preferred, kind)


def tools(pins: dict[str, dict[str, str]], kept: dict[str, str]) -> dict[str, str]:
    """Resolve ``dev.in`` beside both environments; what they hold already is left out."""
    shared = {name: version for name, version in pins["cpu"].items() if pins["gpu"].get(name) == version}
    arguments = [str(REQUIREMENTS / "dev.in"), "--python-version", PYTHONS["cpu"][0]]
    with tempfile.TemporaryDirectory() as directory:
        constraints = Path(directory, "constraints.txt")
        constraints.write_text(text(shared), encoding="utf-8")
        resolved = compile_([*arguments, "--constraints", str(constraints)], kept, True, "dev")
    return {name: version for name, version in resolved.items() if name not in shared}


def compile_(arguments: list[str], pins: dict[str, str], keep_only_preferred: bool, kind: str) -> dict[str, str]:
    """Run ``uv pip compile``; ``pins`` are constraints, or preferences only."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "output.txt")
        if keep_only_preferred:
            # uv prefers what the output file holds.
            output.write_text(text(pins), encoding="utf-8")
        else:
            constraints = Path(directory, "constraints.txt")
            constraints.write_text(text(pins), encoding="utf-8")
            arguments = [*arguments, "--constraints", str(constraints)]
        options = ["--quiet", "--no-header", "--no-annotate", "--output-file", str(output)]
        done = subprocess.run(
            [str(ROOT / "scripts" / "uv"), "pip", "compile", *options, *arguments],
            cwd=ROOT,
            env={**os.environ, "TORCH_BUILD": "cpu" if kind == "cpu" else ""},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr.strip())
        return read(output)


def conda(pins: dict[str, str]) -> str:
    """The text of conda.yaml: complete, so that MLflow, which names an environment by its content, sees each change."""
    rest = [name for name in pins if name not in CARD]
    lines = [f"      - {name}=={pins[name]}" for name in CARD]
    lines += ["      # what these need", *(f"      - {name}=={pins[name]}" for name in rest)]
    return CONDA_HEADER + "\n".join(lines) + "\n"


def read(path: Path) -> dict[str, str]:
    """Version by package of a pin file; empty when there is none."""
    if not path.exists():
        return {}
    return dict(re.findall(r"^([A-Za-z0-9_.\-]+)==(\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE))


def write(path: Path, source: str, pins: dict[str, str]) -> None:
    """Write a pin file."""
    path.write_text(HEADER.format(source=source) + text(pins), encoding="utf-8")


def text(pins: dict[str, str]) -> str:
    """One pin a line, in the order of the names."""
    return "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))


if __name__ == "__main__":
    raise SystemExit(main())
