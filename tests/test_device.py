"""Which GPUs are measured, and what is made of their readings."""

import os
import subprocess
import sys

import pytest

from slim import device as devices
from slim.device import CpuDevice, NvmlDevice, strangers
from slim.sampling import Reader
from tests.fake_nvml import FakeNvml, Gpu

MIG = Gpu("MIG-5", name="Big MIG", used_bytes=7)


def two() -> FakeNvml:
    first = Gpu("GPU-aa1", "Big", 100, 250_000, 5_000_000, 40, 50, 1500, 2600, 700_000, 0x1, [os.getpid()])
    second = Gpu("GPU-bb2", "Small", 11, 50_500, 1_000_500, 80, 61, 1400, 2500, 300_000, 0x24, [1])
    return FakeNvml([first, second, Gpu("GPU-cc3", "Divided", 1000, mig=[MIG])])


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = two()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        ("0", ("GPU-aa1",)),
        ("1", ("GPU-bb2",)),
        ("1,0", ("GPU-bb2", "GPU-aa1")),
        ("GPU-b", ("GPU-bb2",)),
        ("GPU-bb2,GPU-aa1", ("GPU-bb2", "GPU-aa1")),
        ("MIG-5", ("MIG-5",)),
        ("2", ("MIG-5",)),
        ("0,-1,1", ("GPU-aa1",)),
        ("", None),
        ("GPU-", None),  # ambiguous
        ("MIG-6", None),
        ("5", None),
    ],
)
def test_the_device_is_what_cuda_sees(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, visible: str, uuids: tuple[str, ...] | None
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = NvmlDevice.open()
    assert (found and found.uuids) == uuids
    if found is not None:
        # The sampling process opens the same by these.
        again = NvmlDevice.open(",".join(found.uuids))
        assert again is not None
        assert again.uuids == uuids


def test_several_gpus_are_summed(nvml: FakeNvml) -> None:
    device = NvmlDevice.open("0,1")
    assert device is not None
    assert device.memory_used_bytes() == 111
    assert device.power_w() == pytest.approx(300.5)
    assert device.total_energy_j() == pytest.approx(6000.5)
    assert device.utilization_pct() == 60
    state = device.state()
    assert state.temperature_c == (50, 61)
    assert state.sm_clock_mhz == (1500, 1400)
    assert state.memory_clock_mhz == (2600, 2500)
    assert state.power_limit_w == (700, 300)
    assert state.throttle == ("sw_power_cap", "sw_thermal_slowdown")
    assert state.driver == "575.1"
    assert state.other_processes == 1


def test_power_is_that_of_the_moment_where_all_gpus_tell_it(nvml: FakeNvml) -> None:
    nvml.gpus[0].instant_mw = 300_000
    one = NvmlDevice.open("0")
    assert one is not None
    assert one.power_w() == 300
    both = NvmlDevice.open("0,1")
    assert both is not None
    assert both.power_w() == pytest.approx(300.5)
    nvml.gpus[1].instant_mw = 60_000
    again = NvmlDevice.open("0,1")
    assert again is not None
    assert again.power_w() == pytest.approx(360)


def test_what_a_gpu_does_not_say_is_unknown(nvml: FakeNvml) -> None:
    nvml.gpus[1].energy_mj = None
    device = NvmlDevice.open("0,1")
    assert device is not None
    # A sum that lacks a GPU would be no sum.
    assert device.total_energy_j() is None
    nvml.gpus[1].pids = None
    assert device.state().other_processes is None
    instance = NvmlDevice.open("MIG-5")
    assert instance is not None
    assert (instance.power_w(), instance.utilization_pct(), instance.memory_used_bytes()) == (None, None, 7)
    assert instance.state().temperature_c == ()


def test_a_reading_that_fails_is_unknown(nvml: FakeNvml) -> None:
    device = NvmlDevice.open("0")
    assert device is not None

    def fails(_: object) -> None:
        raise nvml.NVMLError("GPU is lost")

    nvml.nvmlDeviceGetMemoryInfo = fails  # type: ignore[attr-defined]
    assert device.memory_used_bytes() is None
    reading = Reader(device)()
    assert (reading.memory_bytes, reading.power_w) == (None, 250)


@pytest.mark.parametrize(
    ("begin_j", "end_j", "energy_j"), [(5.0, 7.5, 2.5), (None, 1.0, None), (1.0, None, None), (3.0, 3.0, None), (9.0, 2.0, None)]
)
def test_a_counter_that_does_not_advance_is_none(begin_j: float | None, end_j: float | None, energy_j: float | None) -> None:
    assert devices.energy_between(begin_j, end_j) == energy_j


def test_strangers_are_processes_that_are_not_ours() -> None:
    ours = frozenset({10, 11})
    assert strangers([], ours) is None
    assert strangers([frozenset({10})], ours) == 0
    assert strangers([frozenset({10}), frozenset({10, 5}), frozenset({11, 6})], ours) == 2
    # Numbered otherwise than here: ours are among the first, and only who came later can be told.
    assert strangers([frozenset({900})], ours) is None
    assert strangers([frozenset({900}), frozenset({900, 901})], ours) == 1


def test_a_cpu_measures_its_memory_and_nothing_else() -> None:
    device = CpuDevice()
    assert device.memory_used_bytes() > 1 << 20
    assert (device.power_w(), device.total_energy_j(), device.utilization_pct()) == (None, None, None)


def test_children_count_unless_they_are_left_out() -> None:
    code = "x = bytearray(64 << 20); print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        counted, left_out = CpuDevice(), CpuDevice(os.getpid(), without=[child.pid])
        with_child, without = counted.memory_used_bytes(), left_out.memory_used_bytes()
        assert with_child - without > 64 << 20
        child.communicate("\n")
    assert counted.memory_used_bytes() < with_child - (64 << 20) / 2
