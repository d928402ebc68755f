"""The device that is measured: NVIDIA GPUs through NVML, or the CPU. The one place that knows NVML.

A quantity that a device cannot measure is None, never 0. Vendor errors are translated here, once.
"""

import math
import os
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, Self

import psutil

from slim import provenance, visible
from slim.visible import text_of

MIB = 1 << 20

_FAMILY_S = 1.0

_THROTTLE_REASONS = {
    0x0000000000000004: "sw_power_cap",
    0x0000000000000008: "hw_slowdown",
    0x0000000000000020: "sw_thermal_slowdown",
    0x0000000000000040: "hw_thermal_slowdown",
    0x0000000000000080: "hw_power_brake",
}


@dataclass(frozen=True)
class DeviceState:
    """What might disturb a measurement, read before and after it; a tuple holds one value a GPU.

    Attributes:
        temperature_c: of each GPU.
        sm_clock_mhz, memory_clock_mhz: current clocks.
        power_limit_w: enforced.
        throttle: names of the reasons why a clock is held down now.
        driver: its version; None on a CPU.
        other_processes: compute processes on these GPUs that are not this worker or its children; None where that cannot be
            told: no GPU, or a container whose process ids are not those that the driver reports.
    """

    temperature_c: tuple[int, ...] = ()
    sm_clock_mhz: tuple[int, ...] = ()
    memory_clock_mhz: tuple[int, ...] = ()
    power_limit_w: tuple[float, ...] = ()
    throttle: tuple[str, ...] = ()
    other_processes: int | None = None
    driver: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


class Device(Protocol):
    """What instruments read. Safe to call from a sampling thread."""

    @property
    def name(self) -> str:
        """The model's name."""

    def memory_used_bytes(self) -> int | None:
        """Device memory in use: by everything on the GPUs, or resident in this process and its children on a CPU."""

    def power_w(self) -> float | None:
        """Present power, summed over the GPUs; at this moment where the device tells, else over the time it averages over."""

    def total_energy_j(self) -> float | None:
        """Energy since the driver was loaded, summed over the GPUs; only differences mean something."""

    def utilization_pct(self) -> float | None:
        """Share of the last sampling period in which a kernel ran, mean over the GPUs."""

    def state(self) -> DeviceState:
        """What might disturb a measurement."""


class CpuDevice:
    """A machine without a GPU: memory is the resident set of a process and its children; power is unknown.

    Args:
        pid: the process; None is this one.
        without: children that do not count, such as who is reading.
    """

    name = "cpu"

    def __init__(self, pid: int | None = None, without: Collection[int] = ()) -> None:
        self._process = psutil.Process(pid)
        self._without = frozenset(without)
        self._children: list[psutil.Process] = []
        self._looked_s = -math.inf

    def memory_used_bytes(self) -> int:
        """See `Device`."""
        total = self._process.memory_info().rss
        # Children are looked for once a second: it means reading about every process of the machine.
        if time.monotonic() - self._looked_s >= _FAMILY_S:
            self._children = [c for c in self._process.children(recursive=True) if c.pid not in self._without]
            self._looked_s = time.monotonic()
        for child in self._children:
            try:
                total += child.memory_info().rss
            except psutil.Error:
                continue
        return int(total)

    def power_w(self) -> None:
        """See `Device`: not measured."""

    def total_energy_j(self) -> None:
        """See `Device`: not measured."""

    def utilization_pct(self) -> None:
        """See `Device`: not measured."""

    def state(self) -> DeviceState:
        """See `Device`: nothing is known."""
        return DeviceState()


class NvmlDevice:
    """The GPUs that this process sees, in CUDA's order by bus id (workers set ``CUDA_DEVICE_ORDER``)."""

    def __init__(self, nvml: Any, handles: list[Any]) -> None:
        self._nvml = nvml
        self._handles = handles
        self._is_instant = self._instant_mw() is not None
        self.name = text_of(nvml.nvmlDeviceGetName(handles[0]))

    @classmethod
    def open(cls, seen: str | None = None) -> Self | None:
        """Return the visible GPUs, or None where there is no NVML, no driver or no visible GPU.

        Args:
            seen: value of ``CUDA_VISIBLE_DEVICES``: indices, UUIDs or MIG UUIDs; None reads the environment.
        """
        nvml = visible.opened()
        if nvml is None:
            return None
        try:
            handles = visible.handles(nvml, seen)
        except nvml.NVMLError:
            return None
        return cls(nvml, handles) if handles else None

    @property
    def uuids(self) -> tuple[str, ...]:
        """Of the GPUs, as ``CUDA_VISIBLE_DEVICES`` takes them: opens the same GPUs in another process."""
        return tuple(text_of(self._nvml.nvmlDeviceGetUUID(handle)) for handle in self._handles)

    def near_cores(self) -> tuple[frozenset[int], ...]:
        """CPU cores on the same side of the machine as each GPU; an empty set where the driver does not say."""
        words = -(-(os.cpu_count() or 1) // 64)
        masks = self._read("nvmlDeviceGetCpuAffinity", words)
        if masks is None:
            return tuple(frozenset() for _ in self._handles)
        return tuple(
            frozenset(64 * number + bit for number, word in enumerate(mask) for bit in range(64) if word >> bit & 1)
            for mask in masks
        )

    def _read(self, function: str, *arguments: Any) -> list[Any] | None:
        """One reading a GPU; None when the device does not offer it."""
        try:
            return [getattr(self._nvml, function)(handle, *arguments) for handle in self._handles]
        except self._nvml.NVMLError:
            return None

    def memory_used_bytes(self) -> int | None:
        """See `Device`."""
        readings = self._read("nvmlDeviceGetMemoryInfo")
        return None if readings is None else sum(int(reading.used) for reading in readings)

    def power_w(self) -> float | None:
        """See `Device`: ``nvmlDeviceGetPowerUsage`` is a mean over one second on Ampere (but GA100) and newer, by NVML's reference."""
        readings = self._instant_mw() if self._is_instant else self._read("nvmlDeviceGetPowerUsage")
        return None if readings is None else sum(readings) / 1000

    def _instant_mw(self) -> list[int] | None:
        """Power at this moment, mW a GPU; None where a GPU or the driver does not offer it."""
        fields = self._read("nvmlDeviceGetFieldValues", [self._nvml.NVML_FI_DEV_POWER_INSTANT])
        if fields is None or any(field.nvmlReturn != self._nvml.NVML_SUCCESS for (field,) in fields):
            return None
        return [int(field.value.uiVal) for (field,) in fields]

    def total_energy_j(self) -> float | None:
        """See `Device`."""
        readings = self._read("nvmlDeviceGetTotalEnergyConsumption")
        return None if readings is None else sum(readings) / 1000

    def utilization_pct(self) -> float | None:
        """See `Device`."""
        readings = self._read("nvmlDeviceGetUtilizationRates")
        return None if readings is None else sum(r.gpu for r in readings) / len(readings)

    def conditions(self) -> DeviceState:
        """Temperature, clock and throttle reasons: the part of `state` that is cheap enough to be sampled."""
        masks = self._read("nvmlDeviceGetCurrentClocksThrottleReasons") or []
        return DeviceState(
            temperature_c=tuple(self._read("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU) or ()),
            sm_clock_mhz=tuple(self._read("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM) or ()),
            throttle=tuple(sorted({name for mask in masks for bit, name in _THROTTLE_REASONS.items() if mask & bit})),
        )

    def compute_pids(self) -> frozenset[int] | None:
        """Processes that compute on the GPUs, as the driver numbers them; None when it does not say."""
        processes = self._read("nvmlDeviceGetComputeRunningProcesses")
        return None if processes is None else frozenset(int(p.pid) for gpu in processes for p in gpu)

    def state(self) -> DeviceState:
        """See `Device`."""
        pids = self.compute_pids()
        return replace(
            self.conditions(),
            memory_clock_mhz=tuple(self._read("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_MEM) or ()),
            power_limit_w=tuple(w / 1000 for w in self._read("nvmlDeviceGetEnforcedPowerLimit") or ()),
            other_processes=None if pids is None else strangers([pids], own_pids()),
            driver=self._driver(),
        )

    def _driver(self) -> str | None:
        try:
            return text_of(self._nvml.nvmlSystemGetDriverVersion())
        except self._nvml.NVMLError:
            return None


def own_pids() -> frozenset[int]:
    """This process and its children."""
    return frozenset({os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))})


def strangers(seen: Sequence[frozenset[int]], own: frozenset[int]) -> int | None:
    """Return how many processes not our own computed on the GPUs while an engine of ours did, in this process or its children.

    Inside a container the driver may number processes otherwise than the container does: then none of ours is among those seen.
    They cannot be told from others at first sight, but whoever came later is a stranger: the engine was there from the beginning.

    Args:
        seen: process ids at one time after another, as the driver numbers them.
        own: ours, as this process numbers them.

    Returns:
        None where it cannot be told.
    """
    if not seen:
        return None
    everyone = frozenset().union(*seen)
    if everyone and not everyone & own:
        return len(everyone - seen[0]) or None
    return len(everyone - own)


def energy_between(begin_j: float | None, end_j: float | None) -> float | None:
    """Return the energy between two readings of a device's counter, J; None where it is not known.

    A counter that did not advance is none: there are drivers, of virtual GPUs above all, that answer and do not count.
    """
    return None if begin_j is None or end_j is None or not end_j > begin_j else end_j - begin_j


def open_device() -> Device:
    """Return the GPUs that this process can work on, else the CPU: a GPU that a CPU build of torch cannot use is not measured."""
    on_gpu = provenance.probe().hardware.device == "cuda"
    return (NvmlDevice.open() if on_gpu else None) or CpuDevice()


@dataclass(frozen=True)
class Allocation:
    """Bytes that this process's tensors take.

    Attributes:
        current: now.
        peak: since `reset_peak_allocation`.
    """

    current: int
    peak: int


def allocation() -> Allocation | None:
    """Return what torch's CUDA allocator of this process holds; None without torch or without a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    devices = range(torch.cuda.device_count())
    return Allocation(
        sum(torch.cuda.memory_allocated(i) for i in devices), sum(torch.cuda.max_memory_allocated(i) for i in devices)
    )


def reset_peak_allocation() -> None:
    """Start a new peak for `allocation`."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for i in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(i)


@dataclass(frozen=True)
class Sample:
    """One reading: when (`time.perf_counter` seconds) and what."""

    time_s: float
    value: float
