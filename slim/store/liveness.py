"""Whether somebody still works on a run: tags that its process sets, and what they say to another."""

import os
import socket
import time
from functools import cache
from pathlib import Path

import psutil

from slim.store.contract import TAG, StoredRun

STALE_S = 600.0
"""A run without a heartbeat for this long, of a process that cannot be looked up here, counts as abandoned."""

BEAT_S = 15.0
"""Between the heartbeats of a run that is worked on."""

_CLOCK_S = 3.0
"""By which the start of one process may differ between two readings, since it is counted from a boot time that is adjusted."""


def tags() -> dict[str, str]:
    """Return the tags that say that this process works on a run."""
    return {**_process(os.getpid()), TAG.HEARTBEAT: beat()}


def beat() -> str:
    """Return the value of a heartbeat: Unix seconds."""
    return str(int(time.time()))


def is_own(run: StoredRun) -> bool:
    """Whether it is this process that a run names."""
    return all(run.tags.get(tag) == value for tag, value in _process(os.getpid()).items())


def alive(run: StoredRun) -> bool:
    """Whether the process that a run names still works on it.

    A process id means the same only to processes of one boot and one PID namespace: two containers may have the same host name. For
    any other process, and for one that may not be looked at, the heartbeat counts.
    """
    own = _process(os.getpid())
    if TAG.PID_NAMESPACE not in own or any(run.tags.get(tag) != own[tag] for tag in (TAG.HOST, TAG.PID_NAMESPACE)):
        return _is_fresh(run)
    pid, _, created = run.tags.get(TAG.PID, "").partition(":")
    if not (pid.isdecimal() and created.isdecimal()):
        return False
    try:
        # A pid is used again; the time at which the process started is not.
        return abs(int(psutil.Process(int(pid)).create_time()) - int(created)) <= _CLOCK_S
    except (psutil.NoSuchProcess, OverflowError):
        return False
    except psutil.AccessDenied:
        return _is_fresh(run)


def _is_fresh(run: StoredRun) -> bool:
    heartbeat = run.tags.get(TAG.HEARTBEAT, "")
    return heartbeat.isdecimal() and time.time() - int(heartbeat) < STALE_S


@cache
def _process(pid: int) -> dict[str, str]:
    """The tags that tell this process from all others, the same whenever it is asked; a child that was forked is another one."""
    found = {TAG.HOST: socket.gethostname(), TAG.PID: f"{pid}:{int(psutil.Process(pid).create_time())}"}
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return {**found, TAG.PID_NAMESPACE: f"{boot}/{Path('/proc/self/ns/pid').readlink()}"}
    except OSError:
        # Whoever reads goes by the heartbeat.
        return found
