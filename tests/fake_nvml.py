"""NVML's bindings as far as they are used, over GPUs that a test describes."""

from dataclasses import dataclass, field
from types import SimpleNamespace


class NVMLError(Exception):
    """As the bindings'."""


@dataclass
class Gpu:
    """A GPU or MIG instance; None is what it does not support."""

    uuid: str
    name: str = "GPU"
    used_bytes: int = 0
    power_mw: int | None = None
    energy_mj: int | None = None
    utilization_pct: int | None = None
    temperature_c: int | None = None
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    limit_mw: int | None = None
    throttle: int | None = None
    pids: list[int] | None = field(default_factory=list)
    instant_mw: int | None = None
    total_bytes: int = 1 << 30
    capability: tuple[int, int] = (9, 0)
    mig: list["Gpu"] | None = None
    """Its instances; None when it is not divided."""


class FakeNvml:
    """Stands in for the module ``pynvml``.

    Args:
        gpus: by index.
        driver: whether there is one.
    """

    NVMLError = NVMLError
    NVML_SUCCESS, NVML_FI_DEV_POWER_INSTANT = 0, 186
    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, NVML_CLOCK_MEM = 0, 1, 2
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self, gpus: list[Gpu], *, driver: bool = True) -> None:
        self.gpus, self._driver = gpus, driver
        known = {
            "PowerUsage": lambda g: g.power_mw,
            "TotalEnergyConsumption": lambda g: g.energy_mj,
            "UtilizationRates": lambda g: (g.utilization_pct is not None and SimpleNamespace(gpu=g.utilization_pct)) or None,
            "Temperature": lambda g, _: g.temperature_c,
            "ClockInfo": lambda g, kind: g.sm_mhz if kind == self.NVML_CLOCK_SM else g.memory_mhz,
            "EnforcedPowerLimit": lambda g: g.limit_mw,
            "CurrentClocksThrottleReasons": lambda g: g.throttle,
            "ComputeRunningProcesses": lambda g: None if g.pids is None else [SimpleNamespace(pid=p) for p in g.pids],
            "MemoryInfo": lambda g: SimpleNamespace(used=g.used_bytes, total=g.total_bytes),
            "CudaComputeCapability": lambda g: list(g.capability),
            "MigMode": lambda g: [int(g.mig is not None)] * 2,
            "MaxMigDeviceCount": lambda g: 7 if g.mig is not None else 0,
            "MigDeviceHandleByIndex": lambda g, index: dict(enumerate(g.mig or ())).get(index),
            "Name": lambda g: g.name,
            "UUID": lambda g: g.uuid.encode(),
        }
        for name, read in known.items():
            setattr(self, f"nvmlDeviceGet{name}", lambda *a, read=read: self._supported(read(*a)))

    @staticmethod
    def _supported(value: object) -> object:
        if value is None:
            raise NVMLError("not supported")
        return value

    def nvmlDeviceGetFieldValues(self, gpu: Gpu, fields: list[int]) -> list[SimpleNamespace]:  # noqa: N802
        assert fields == [self.NVML_FI_DEV_POWER_INSTANT]
        value = SimpleNamespace(uiVal=gpu.instant_mw)
        return [SimpleNamespace(nvmlReturn=0 if gpu.instant_mw is not None else 3, value=value)]

    def nvmlInit(self) -> None:  # noqa: N802
        if not self._driver:
            raise NVMLError("driver not loaded")

    def nvmlShutdown(self) -> None:  # noqa: N802
        pass

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        return b"575.1"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:  # noqa: N802
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Gpu:  # noqa: N802
        for gpu in self.gpus:
            for one in [gpu, *(gpu.mig or ())]:
                if one.uuid == uuid:
                    return one
        raise NVMLError("not found")
