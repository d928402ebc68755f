"""The chaos benchmark in small: two rounds, on stages that compute nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slim.provenance import ROOT


@pytest.mark.slow
def test_two_rounds_without_a_miss(tmp_path: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "tiny")
    command = [sys.executable, "-m", "benchmarks.chaos", "--stand-in", "--rounds", "2", "--seed", "3", "--keep", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("rounds missed: 0 of 2")
