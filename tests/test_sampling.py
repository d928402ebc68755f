"""Readings by another process, and by a thread."""

import mmap
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from slim.device import CpuDevice, DeviceState
from slim.sampling import ProcessSource, Reader, Reading, ThreadSource, open_source


def children() -> set[int]:
    return {c.pid for c in psutil.Process().children()}


def test_a_line_gives_the_reading_back() -> None:
    full = Reading(1.5, 7, 300.0, 50.0, 60, 1500, ("hw_slowdown",), frozenset({3, 1}))
    assert Reading.from_line(full.to_line()) == full
    assert Reading.from_line(Reading(1.5, 7).to_line()) == Reading(1.5, 7)


def test_the_process_reads_this_process_and_not_itself() -> None:
    source = ProcessSource(CpuDevice(), 0.02)
    before = time.perf_counter()
    source.start()
    # Pages of their own: the heap of a process that has run other tests may have as much to spare, resident already.
    ballast = mmap.mmap(-1, 96 << 20)
    ballast.write(b"1" * len(ballast))
    source.mark()
    time.sleep(0.3)
    taken = source.stop()
    after = time.perf_counter()
    times = [r.time_s for r in taken.readings]
    assert times == sorted(times)
    # One clock for both processes.
    assert before < times[0] <= times[-1] < after
    assert len(times) >= 5
    assert taken.readings[-1].memory_bytes - taken.readings[0].memory_bytes > len(ballast) / 2
    assert taken.readings[-1].power_w is None
    assert taken.cpu_s is not None
    own = psutil.Process().memory_info().rss
    assert abs(taken.readings[-1].memory_bytes - own) < 8 << 20


def test_the_process_is_not_held_up_by_a_busy_interpreter() -> None:
    source = ProcessSource(CpuDevice(), 0.02)
    source.start()
    start = time.perf_counter()
    # Holds the interpreter lock for a second, as a call into an engine may.
    while time.perf_counter() - start < 1:
        sum(range(10**7))
    end = time.perf_counter()
    taken = source.stop()
    during = [r for r in taken.readings if start <= r.time_s <= end]
    assert len(during) > 0.5 * (end - start) / 0.02


def test_a_process_that_dies_leaves_what_it_had() -> None:
    before = children()
    source = ProcessSource(CpuDevice(), 0.01)
    source.start()
    (pid,) = children() - before
    time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    source.mark()
    taken = source.stop()
    assert taken.readings
    assert taken.cpu_s is None
    assert pid not in children()


def test_the_process_ends_with_its_parent() -> None:
    code = (
        "import os; from slim.device import CpuDevice; from slim.sampling import ProcessSource; import psutil\n"
        "ProcessSource(CpuDevice(), 0.05).start()\n"
        "print(psutil.Process().children()[0].pid, flush=True); os._exit(0)"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail("still there")


def test_a_marked_reading_is_taken_when_mark_returns() -> None:
    source = ProcessSource(CpuDevice(), 1e6)
    source.start()
    assert source._process is not None
    sampler = psutil.Process(source._process.pid)
    sampler.suspend()
    # The machine gives the sampler its turn only after a while.
    threading.Timer(0.3, sampler.resume).start()
    begin_s = time.perf_counter()
    source.mark()
    end_s = time.perf_counter()
    source.mark()
    first, *marked, last = [r.time_s for r in source.stop().readings]
    assert len(marked) == 2
    assert first < begin_s < marked[0] < end_s < marked[1] < last


def test_a_process_that_cannot_start_gives_way_to_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    source = open_source(CpuDevice(), 0.05)
    assert source.kind == "thread"
    assert source.stop().readings


class Named(CpuDevice):
    """A device with all readings."""

    def power_w(self) -> float:  # type: ignore[override]
        return 100.0

    def state(self) -> DeviceState:
        return DeviceState(temperature_c=(40, 50), sm_clock_mhz=(1500, 1400), throttle=("hw_slowdown",))


def test_the_warmest_and_the_slowest_gpu_count() -> None:
    reading = Reader(Named(), lambda: 3.0)()
    assert (reading.time_s, reading.power_w, reading.temperature_c, reading.sm_clock_mhz) == (3.0, 100.0, 50, 1400)
    assert reading.throttle == ("hw_slowdown",)


def test_a_thread_reads_at_both_ends_and_when_asked() -> None:
    source = ThreadSource(CpuDevice(), 1e6, iter([1.0, 2.0, 3.0]).__next__)
    source.start()
    source.mark()
    assert [r.time_s for r in source.stop().readings] == [1.0, 2.0, 3.0]


def test_the_process_imports_nothing_heavy() -> None:
    code = "import sys, slim.sampling; print([m for m in ('torch', 'numpy', 'pydantic', 'mlflow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
