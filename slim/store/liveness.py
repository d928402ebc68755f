"""Whether somebody still works on a run: tags that its process sets, and what they say to another."""

import os
import socket
import time

import psutil

from slim.store.contract import TAG, StoredRun

STALE_S = 600.0
"""A run without a heartbeat for this long, on another host, counts as abandoned."""

BEAT_S = 15.0
"""Between the heartbeats of a run that is worked on."""


def tags() -> dict[str, str]:
    """Return the tags that say that this process works on a run."""
    process = psutil.Process()
    return {
        TAG.HOST: socket.gethostname(),
        TAG.PID: f"{process.pid}:{int(process.create_time())}",
        TAG.HEARTBEAT: beat(),
    }


def beat() -> str:
    """Return the value of a heartbeat: Unix seconds."""
    return str(int(time.time()))


def alive(run: StoredRun) -> bool:
    """Whether the process that a run names still works on it."""
    heartbeat, (pid, _, created) = run.tags.get(TAG.HEARTBEAT, ""), run.tags.get(TAG.PID, "").partition(":")
    if run.tags.get(TAG.HOST) != socket.gethostname():
        return heartbeat.isdecimal() and time.time() - int(heartbeat) < STALE_S
    if not (pid.isdecimal() and created.isdecimal()):
        return False
    if int(pid) == os.getpid():
        return True
    try:
        # A pid is used again; the time at which the process started is not.
        return int(psutil.Process(int(pid)).create_time()) == int(created)
    except (psutil.NoSuchProcess, OverflowError):
        return False
