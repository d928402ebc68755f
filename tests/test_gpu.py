"""Instruments against what is known about a GPU, where there is one: memory that was allocated, the counter, the bus."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slim import api
from slim.config import BatchConfig, SweepConfig
from slim.device import NvmlDevice, allocation, open_device
from slim.engines import Engine, EngineSpec, open_engine
from slim.engines.base import GenerationRequest
from slim.errors import Reason
from slim.profile import bandwidth, batches, energy
from slim.profile.trace import Monitor
from slim.provenance import probe
from slim.records import ignore_progress
from slim.store import TAG

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(probe().hardware.device != "cuda", reason="needs a GPU")

GIB = 1 << 30


@pytest.fixture(scope="module")
def device() -> NvmlDevice:
    found = open_device()
    assert isinstance(found, NvmlDevice)
    torch.zeros(1, device="cuda")
    return found


def test_a_known_allocation_is_what_the_trace_sees(device: NvmlDevice) -> None:
    torch.cuda.empty_cache()
    with Monitor(device, 0.1) as monitor:
        with monitor.phase("before"):
            time.sleep(0.3)
        block = torch.ones(4 * GIB, dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
        with monitor.phase("held"):
            time.sleep(0.3)
    held = allocation()
    assert held is not None
    assert held.current >= block.numel()
    before, during = (monitor.trace.samples("memory_bytes", name) for name in ("before", "held"))
    grown = max(s.value for s in during) - max(s.value for s in before)
    assert grown == pytest.approx(4 * GIB, rel=0.1)
    del block
    torch.cuda.empty_cache()


def test_the_uuids_open_the_same_gpus(device: NvmlDevice) -> None:
    again = NvmlDevice.open(",".join(device.uuids))
    assert again is not None
    assert again.uuids == device.uuids
    properties = torch.cuda.get_device_properties(0)
    assert str(properties.uuid) in device.uuids[0]


def test_counter_and_trace_agree_under_steady_work(device: NvmlDevice) -> None:
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)

    def work(seconds: float) -> None:
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            for _ in range(20):
                square @ square
            torch.cuda.synchronize()

    work(3)
    with Monitor(device, 0.1) as monitor, monitor.phase("energy"):
        counter, start_s = device.total_energy_j(), time.perf_counter()
        work(10)
        counter_end, wall_s = device.total_energy_j(), time.perf_counter() - start_s
    if counter is None or counter_end is None:
        pytest.skip("this GPU has no energy counter")
    power = monitor.trace.samples("power_w", "energy")
    found = energy.EnergyPass(1, counter_end - counter, wall_s, None, 1, 1, (), (), power[:1], power, ())
    assert found.sampled_j == pytest.approx(found.counter_j, rel=0.05)
    assert not monitor.trace.is_starved
    assert monitor.trace.other_processes in (None, 0)


def test_the_copy_test_stays_below_the_bus(device: NvmlDevice) -> None:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByUUID(device.uuids[0])
    try:
        bits = pynvml.nvmlDeviceGetMemoryBusWidth(handle)
        clock_hz = 1e6 * pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM)
    except pynvml.NVMLError:
        pytest.skip("this GPU does not tell its bus")
    bus = 2 * clock_hz * bits / 8  # two transfers a clock
    measured = bandwidth.copy_bandwidth("cuda")
    assert measured is not None
    assert 0.6 * bus < measured < bus


@pytest.fixture
def bounded(tiny_model: Path) -> Iterator[Engine]:
    """An engine that may allocate 64 MiB more than it holds."""
    engine = open_engine(EngineSpec("transformers", tiny_model, "bfloat16", {"max_model_len": 512}))
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 64 * (1 << 20)) / total)
    yield engine
    torch.cuda.set_per_process_memory_fraction(1.0)
    engine.close()


def test_the_search_for_the_largest_batch_ends_at_the_memory_and_leaves_the_engine_usable(
    bounded: Engine, device: NvmlDevice
) -> None:
    source = random.Random(1)
    requests = [GenerationRequest(tuple(source.randrange(3, 500) for _ in range(400)), 2, ignore_eos=True) for _ in range(512)]
    first = bounded.generate(requests[:1], 1)[0].tokens
    held = allocation()
    with Monitor(device, 0.1) as monitor:
        found = batches.measure(
            bounded, requests, BatchConfig(limit=512, requests=(512,)), monitor=monitor, on_progress=ignore_progress
        )
    assert 1 < found.largest < 512
    assert not found.is_limited
    assert [t for t in found.tries if not t.fits]
    assert bounded.generate(requests[:1], 1)[0].tokens == first
    after = allocation()
    assert held is not None
    assert after is not None
    assert after.current <= held.current + (1 << 20)


_HOLD = """
import sys, torch
torch.zeros(1, device="cuda")
block = torch.empty(torch.cuda.mem_get_info()[0] - int(sys.argv[1]), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def full_device() -> Iterator[None]:
    """Another process holds all of the GPU's memory but 150 MiB, less than a CUDA context needs."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(150 << 20)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        yield
    finally:
        holder.stdin.close()
        holder.wait(60)


@pytest.mark.usefixtures("full_device")
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_a_full_device_is_a_failure_with_its_reason_and_advice(
    engine: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
    profile = {"input_tokens": 16, "output_tokens": 8, "requests": 2, "concurrency": [1], "energy": None, "batch": None}
    config = SweepConfig.parse(
        {
            "name": "full",
            "models": [str(tiny_model)],
            "precisions": [f"bf16@{engine}"],
            "evaluate": None,
            "profile": profile,
            "repeats": 1,
        }
    )
    store, outcome = api.run(config, f"sqlite:///{tmp_path / 'mlflow.db'}")
    (one,) = outcome.configurations
    assert one.failure is not None
    assert one.failure.reason is Reason.OUT_OF_MEMORY
    assert one.run_id is not None
    run = store.get(one.run_id)
    assert (run.status, run.tags[TAG.FAILURE]) == ("FAILED", "out_of_memory")
    assert "Take less" in run.tags[TAG.NOTE]
