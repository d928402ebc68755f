"""Which CPU cores go with which GPU of a host, so that workers beside each other do not get in each other's way."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from slim.device import NvmlDevice
from slim.provenance import usable_cores


def shares(
    cores: Sequence[frozenset[int]], near: Sequence[frozenset[int]], limit: int | None = None
) -> tuple[frozenset[int], ...]:
    """Divide the cores of a host among its GPUs.

    Args:
        cores: physical cores, each as the numbers under which the kernel knows it: two with hyper-threading. Siblings stay
            together, since two workers on one core disturb each other.
        near: for each GPU the numbers on its side of the machine; an empty set means all.
        limit: numbers that all GPUs together may use, where a container's quota is below what it sees.

    Returns:
        A set of numbers a GPU: apart from each other, and as many for each, while there are at least as many cores as GPUs; with
        fewer, each has one and some have the same.
    """
    most = max(1, (limit or sum(map(len, cores))) // max(1, len(near)))
    found: list[frozenset[int]] = []
    sides = [side if any(core & side for core in cores) else frozenset().union(*cores) for side in near]
    for index, side in enumerate(sides):
        # Cores that another side claims as well are divided among the GPUs of both.
        alike = [i for i, other in enumerate(sides) if other & side]
        own = sorted((core for core in cores if core & side), key=min)
        each, place = len(own) // len(alike), alike.index(index)
        mine = own[place * each : (place + 1) * each] if each else [own[place % len(own)]]
        taken: list[int] = []
        for core in mine:
            if taken and len(taken) + len(core) > most:
                break
            taken += sorted(core)
        found.append(frozenset(taken))
    fewest = min(map(len, found), default=0)
    return tuple(frozenset(sorted(share)[:fewest]) for share in found)


def of_this_host(gpus: int) -> tuple[frozenset[int], ...]:
    """Return the share of each GPU of this host, in the driver's order.

    Args:
        gpus: how many to divide among where the driver does not say what there is.
    """
    device = NvmlDevice.open(",".join(map(str, range(_most_gpus()))))
    near = device.near_cores() if device is not None else tuple(frozenset() for _ in range(gpus))
    return shares(_physical(), near, usable_cores())


def _most_gpus() -> int:
    """More than any host has: NVML's enumeration stops at the first that is not there."""
    return 64


def _physical() -> list[frozenset[int]]:
    """The physical cores that this process may use."""
    allowed = os.sched_getaffinity(0)
    found = set()
    for number in allowed:
        try:
            text = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list").read_text(encoding="ascii")
        except OSError:
            text = str(number)
        found.add(frozenset(_numbers(text)) & allowed)
    return sorted(found, key=min)


def _numbers(text: str) -> set[int]:
    """The numbers of a kernel's list, such as ``0-3,64-67``."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found |= set(range(int(first), int(last or first) + 1))
    return found
