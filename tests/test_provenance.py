import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slim import provenance, visible
from slim.errors import ConfigError
from slim.provenance import Environment, Hardware
from tests.fake_nvml import FakeNvml, Gpu

H100 = Hardware("cuda", "NVIDIA H100 80GB HBM3", 2, 80 << 30, "580.95.05", "AMD EPYC", 16, (9, 0))
CPU = Hardware("cpu", "AMD EPYC", 1, None, None, "AMD EPYC", 1)


def test_label_says_how_many_of_what():
    assert H100.label == "2x NVIDIA H100 80GB HBM3"
    assert CPU.label == "AMD EPYC (1 core)"


@pytest.mark.parametrize("hardware", [H100, CPU])
def test_an_environment_survives_json(hardware):
    environment = Environment("3.11.7", "Linux", hardware, {"torch": "2.11.0"})
    assert Environment.from_json(json.loads(json.dumps(environment.to_json()))) == environment


def test_the_probe_sees_what_is_installed_here():
    import numpy

    environment = provenance.probe()
    assert environment.python == ".".join(map(str, sys.version_info[:3]))
    assert environment.versions["numpy"] == numpy.__version__
    assert not set(environment.versions) - set(provenance.PACKAGES)
    assert 1 <= environment.hardware.cores <= (os.cpu_count() or 1)
    assert environment.hardware.cpu_name.strip()


def test_another_interpreter_is_asked_by_running_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert provenance.probe_interpreter(sys.executable) == provenance.probe()


def test_an_interpreter_may_be_named_relative_to_the_working_directory(monkeypatch):
    monkeypatch.chdir(Path(sys.executable).parent)
    assert provenance.probe_interpreter(f"./{Path(sys.executable).name}").versions == provenance.probe().versions


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 1", "does not run (exit code 1)"),
        ("echo boom >&2; exit 1", "does not run (boom)"),
        ("exit 0", "not that of a Python"),
        ("echo '[1]'", "not that of a Python"),
        ("echo '{}'", "not that of a Python"),
        ('[ "$1" = -c ] && echo 3.10', "is Python 3.10; allowed: 3.11 or newer"),
    ],
)
def test_a_program_that_is_no_usable_interpreter_is_refused(tmp_path, script, message):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    with pytest.raises(ConfigError) as caught:
        provenance.probe_interpreter(str(program))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/no/such/python", "no-such-python", "/etc/passwd", ""])
def test_an_interpreter_that_is_not_there_is_refused(name):
    with pytest.raises(ConfigError, match="no such program"):
        provenance.probe_interpreter(name)


def three(**options):
    """Three GPUs, the last of another model."""
    return FakeNvml(
        [
            Gpu("GPU-aa11", "Big", total_bytes=1000),
            Gpu("GPU-aa22", "Big", total_bytes=999),
            Gpu("GPU-bb33", "Small", total_bytes=998, capability=(8, 9)),
        ],
        **options,
    )


def divided():
    """Two GPUs by MIG, one without instances, and one whole GPU."""
    instances = [Gpu("MIG-1", "Big 1g", total_bytes=10), Gpu("MIG-2", "Big 2g", total_bytes=20)]
    return FakeNvml([Gpu("GPU-cc11", "Big", mig=instances), Gpu("GPU-cc22", "Big", mig=[]), Gpu("GPU-dd33", "Whole")])


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, (3, "Big + Small", 998, (8, 9))),
        ("0", (1, "Big", 1000, (9, 0))),
        ("2,0", (2, "Small + Big", 998, (8, 9))),
        (" 1 , 0 ", (2, "Big", 999, (9, 0))),
        ("GPU-bb", (1, "Small", 998, (8, 9))),
        ("GPU-bb33,GPU-aa11", (2, "Small + Big", 998, (8, 9))),
        ("0,7,1", (1, "Big", 1000, (9, 0))),
        ("GPU-aa", None),  # two of them begin so
        ("MIG-2", None),
        ("", None),
        ("-1", None),
        ("7", None),
        ("all", None),
    ],
)
def test_gpus_are_those_that_cuda_programs_would_see(monkeypatch, visible, expected):
    monkeypatch.setitem(sys.modules, "pynvml", three())
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    hardware = provenance.gpu_hardware()
    found = hardware and (hardware.count, hardware.name, hardware.memory_bytes, hardware.compute_capability)
    assert found == expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ("MIG-2", (1, "Big 2g", 20)),
        # CUDA takes the first instance of a GPU that is divided: what it has is not what the GPU has.
        ("0", (1, "Big 1g", 10)),
        ("GPU-cc1", (1, "Big 1g", 10)),
        ("1", None),
        ("1,2", (1, "Whole", 1 << 30)),
        (None, (2, "Big 1g + Whole", 10)),
    ],
)
def test_a_divided_gpu_stands_for_its_first_instance(monkeypatch, seen, expected):
    monkeypatch.setitem(sys.modules, "pynvml", divided())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    hardware = provenance.gpu_hardware(seen)
    assert (hardware and (hardware.count, hardware.name, hardware.memory_bytes)) == expected


@pytest.mark.parametrize(
    ("seen", "count", "expected"),
    [
        (None, 1, "0"),
        (None, 2, "0,1"),
        (None, 3, None),
        ("2,0", 1, "2"),
        ("GPU-bb,1", 1, "GPU-bb"),
        ("1", 1, None),
        # What CUDA does not see either.
        ("1,9,0", 1, None),
        ("", 1, None),
    ],
)
def test_the_first_gpus_of_those_that_are_visible(monkeypatch, seen, count, expected):
    monkeypatch.setitem(sys.modules, "pynvml", three())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert visible.first(count) == expected
    monkeypatch.setitem(sys.modules, "pynvml", three(driver=False))
    assert visible.first(count) is None


def test_an_interpreter_may_be_given_fewer_gpus(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", three())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(provenance, "versions", dict)
    assert provenance.probe().hardware.label == "3x Big + Small"
    assert provenance.probe(gpus=1).hardware.label == "1x Big"
    asked = {}
    monkeypatch.setattr(provenance, "_run", lambda *_, **variables: (asked.update(variables), (None, "no"))[1])
    with pytest.raises(ConfigError):
        provenance.probe(sys.executable, gpus=2)
    assert asked == {"CUDA_VISIBLE_DEVICES": "0,1"}


def test_without_driver_or_bindings_there_is_no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", three(driver=False))
    assert provenance.gpu_hardware() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert provenance.gpu_hardware() is None


@pytest.mark.parametrize(
    ("torch", "device"), [("2.13.0+cpu", "cpu"), ("2.11.0", "cuda"), ("2.11.0+cu130", "cuda"), (None, "cuda")]
)
def test_a_cpu_build_of_torch_makes_the_gpu_invisible(monkeypatch, torch, device):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", three())
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": torch} if torch else {})
    assert provenance.probe().hardware.device == device


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository that has the module, committed."""
    (tmp_path / "slim").mkdir()
    (tmp_path / "slim" / "provenance.py").write_text("1\n")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    return tmp_path


def test_the_commit_is_marked_when_tracked_files_changed(checkout, monkeypatch):
    commit = provenance.commit()
    assert commit is not None
    assert len(commit) == 40
    (checkout / "untracked").write_text("")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert provenance.commit() == commit
    (checkout / "slim" / "provenance.py").write_text("2\n")
    assert provenance.commit() == f"{commit}-dirty"


def test_there_is_no_commit_where_the_package_is_not_tracked(checkout, monkeypatch):
    inside = checkout / "venv"
    (inside / "slim").mkdir(parents=True)
    (inside / "slim" / "provenance.py").write_text("1\n")
    monkeypatch.setattr(provenance, "ROOT", inside)
    assert provenance.commit() is None


def test_there_is_no_commit_outside_git_or_without_it(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.commit() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit() is None
