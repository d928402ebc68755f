"""Readings of the device at a fixed interval, taken by a process of their own.

A thread of the process that works would wait for its interpreter lock, so a busy engine would starve it, and each of its readings
would take the lock from the engine. The process (``python -m slim.sampling``) imports nothing heavy, stamps its readings with
`time.perf_counter`, which on Linux is one clock for all processes, and ends with whoever started it: when its standard input does.
"""

import json
import math
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from slim.device import CpuDevice, Device, NvmlDevice
from slim.provenance import ROOT

PROCESSES_S = 1.0
"""Seconds between looks at who else computes on the GPUs, which take longer than a reading."""

_READY_S = 60.0
_MARK_S = 5.0
"""At most, for a reading that was asked for."""

_STOP_S = 10.0


@dataclass(frozen=True)
class Reading:
    """What the device said at one time; None is unknown.

    Attributes:
        time_s: `time.perf_counter` seconds.
        memory_bytes: as `Device.memory_used_bytes`.
        power_w: summed over the GPUs.
        utilization_pct: mean over the GPUs.
        temperature_c: of the warmest GPU.
        sm_clock_mhz: of the slowest GPU.
        throttle: reasons why a clock is held down.
        pids: processes that compute on the GPUs; looked at less often than the rest.
    """

    time_s: float
    memory_bytes: int | None
    power_w: float | None = None
    utilization_pct: float | None = None
    temperature_c: int | None = None
    sm_clock_mhz: int | None = None
    throttle: tuple[str, ...] = ()
    pids: frozenset[int] | None = None

    def to_line(self) -> str:
        """As one line of text."""
        return json.dumps([*astuple(self)[:-1], None if self.pids is None else sorted(self.pids)]) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        """The inverse of `to_line`."""
        time_s, memory, power, utilization, temperature, clock, throttle, pids = json.loads(line)
        pids = None if pids is None else frozenset(pids)
        return cls(time_s, memory, power, utilization, temperature, clock, tuple(throttle), pids)


class Reader:
    """Takes readings.

    Args:
        device: what is read.
        clock: monotonic seconds.
    """

    def __init__(self, device: Device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._clock = clock
        self._looked_s = -math.inf

    def __call__(self) -> Reading:
        """Take one."""
        device = self._device
        # The power is what the time has to be right for.
        now, power_w = self._clock(), device.power_w()
        pids = None
        if isinstance(device, NvmlDevice):
            state = device.conditions()
            if now - self._looked_s >= PROCESSES_S:
                pids, self._looked_s = device.compute_pids(), now
        else:
            state = device.state()
        return Reading(
            time_s=now,
            memory_bytes=device.memory_used_bytes(),
            power_w=power_w,
            utilization_pct=device.utilization_pct(),
            temperature_c=max(state.temperature_c, default=None),
            sm_clock_mhz=min(state.sm_clock_mhz, default=None),
            throttle=state.throttle,
            pids=pids,
        )


@dataclass(frozen=True)
class Taken:
    """What a source has when it is stopped.

    Attributes:
        readings: in the order of time.
        cpu_s: processor time that taking them cost, without the start of what takes them; None where it is not known.
    """

    readings: tuple[Reading, ...]
    cpu_s: float | None = None


class Source(Protocol):
    """Takes readings between `start` and `stop`."""

    kind: str

    def start(self) -> None:
        """Begin; the first reading is taken when this returns."""

    def mark(self) -> None:
        """Take a reading now, between the regular ones; it is taken when this returns, unless the source is stuck."""

    def stop(self) -> Taken:
        """End with a last reading."""


class ThreadSource:
    """Readings by a thread of this process: for devices that another process cannot open, such as a test's.

    Args:
        device: what is read.
        interval_s: between readings.
        clock: monotonic seconds.
    """

    kind = "thread"

    def __init__(self, device: Device, interval_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._read = Reader(device, clock)
        self._interval_s = interval_s
        self._readings: list[Reading] = []
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slim-sampling", daemon=True)

    def _run(self) -> None:
        while not self._end.wait(self._interval_s):
            self.mark()

    def start(self) -> None:
        """See `Source`."""
        self.mark()
        self._thread.start()

    def mark(self) -> None:
        """See `Source`."""
        with self._lock:
            self._readings.append(self._read())

    def stop(self) -> Taken:
        """See `Source`."""
        self._end.set()
        self._thread.join()
        self.mark()
        return Taken(tuple(self._readings))


class ProcessSource:
    """Readings by a process of its own.

    Args:
        device: what is read; the process opens the same GPUs, or reads this process's memory on a CPU.
        interval_s: between readings.
    """

    kind = "process"

    def __init__(self, device: NvmlDevice | CpuDevice, interval_s: float) -> None:
        self._uuids = ",".join(device.uuids) if isinstance(device, NvmlDevice) else ""
        self._interval_s = interval_s
        self._directory = tempfile.TemporaryDirectory(prefix="slim-sampling-")
        self._path = Path(self._directory.name) / "readings.jsonl"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """See `Source`.

        Raises:
            OSError: the process could not be started, or ended without a reading.
        """
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "slim.sampling", str(os.getpid()), str(self._interval_s), str(self._path), self._uuids],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Interrupting the sweep is the parent's business; this one ends with its standard input.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _READY_S)
        if not ready or not self._process.stdout.readline():
            self._close()
            raise OSError("the sampling process did not start")

    def mark(self) -> None:
        """See `Source`. Were it not waited for, a short phase would end without a reading on a busy machine."""
        self._tell(b"m")
        assert self._process is not None and self._process.stdout is not None
        taken, _, _ = select.select([self._process.stdout], [], [], _MARK_S)
        if taken:
            os.read(self._process.stdout.fileno(), 64)

    def stop(self) -> Taken:
        """See `Source`. A process that has died leaves what it had read."""
        self._tell(b"q")
        self._close()
        lines = self._path.read_text(encoding="utf-8").splitlines()
        self._directory.cleanup()
        # The last line is the process's own account, unless it died, which may have cut a line short.
        cpu_s, readings = None, []
        for line in lines:
            with suppress(ValueError):
                if isinstance(values := json.loads(line), dict):
                    cpu_s = float(values["cpu_s"])
                else:
                    readings.append(Reading.from_line(line))
        return Taken(tuple(readings), cpu_s)

    def _tell(self, word: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(word)
            self._process.stdin.flush()

    def _close(self) -> None:
        assert self._process is not None
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def open_source(device: Device, interval_s: float, clock: Callable[[], float] = time.perf_counter) -> Source:
    """Return a started source: a process where it can read the device, else a thread.

    Args:
        device: what is read.
        interval_s: between readings.
        clock: monotonic seconds; a process has only the real one.
    """
    if isinstance(device, NvmlDevice | CpuDevice) and clock is time.perf_counter:
        source = ProcessSource(device, interval_s)
        with suppress(OSError):
            source.start()
            return source
    thread = ThreadSource(device, interval_s, clock)
    thread.start()
    return thread


def main(arguments: list[str]) -> int:
    """Take readings until standard input says so or ends.

    Args:
        arguments: process whose memory is read on a CPU; seconds between readings; file for them; UUIDs of GPUs, empty for a CPU.
    """
    pid, interval, path, uuids = arguments
    device: Device | None = NvmlDevice.open(uuids) if uuids else CpuDevice(int(pid), without=(os.getpid(),))
    if device is None:
        return 1
    with Path(path).open("w", encoding="utf-8", buffering=1) as file:
        start_s = time.process_time()
        _loop(Reader(device), float(interval), file)
        file.write(json.dumps({"cpu_s": time.process_time() - start_s}) + "\n")
    return 0


def _loop(read: Reader, interval_s: float, file: Any) -> None:
    file.write(read().to_line())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    next_s = time.perf_counter()
    while True:
        # What was missed is not made up for: readings in a burst would say nothing new.
        next_s += interval_s * max(1, math.ceil((time.perf_counter() - next_s) / interval_s))
        while True:
            words, _, _ = select.select([0], [], [], max(0.0, next_s - time.perf_counter()))
            if not words:
                break
            word = os.read(0, 64)
            file.write(read().to_line())
            if not word or b"q" in word:
                return
            sys.stdout.write("m")
            sys.stdout.flush()
        file.write(read().to_line())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
