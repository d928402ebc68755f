"""Which GPUs CUDA programs see, as NVML's handles: ``CUDA_VISIBLE_DEVICES`` and MIG."""

import os
from contextlib import suppress
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable: indices by bus id, UUIDs or beginnings of them, MIG UUIDs."""


def opened() -> Any | None:
    """Return NVML's bindings, initialized; None where a library, driver or permission is missing, which all mean: no NVML here."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - see above
        return None
    return pynvml


def handles(pynvml: Any, visible: str | None = None) -> list[Any]:
    """Return what a value of the variable lets through, up to the first entry that is invalid, as CUDA does.

    A GPU that is divided by MIG stands for its first instance, which is what CUDA takes of it: the GPU's own memory and power are not
    those of the instance. One that is divided and has no instance is nothing.

    Args:
        pynvml: from `opened`.
        visible: the value; None is that of this process.

    Raises:
        pynvml.NVMLError: the driver does not answer.
    """
    return [handle for _, handle in _entries(pynvml, os.environ.get(VISIBLE) if visible is None else visible)]


def first(count: int) -> str | None:
    """Return the value of the variable that leaves the first GPUs of those that are visible.

    Args:
        count: how many.

    Returns:
        None where no more than these are visible, or nothing is known about GPUs: nothing is to be changed then.
    """
    pynvml = opened()
    if pynvml is None:
        return None
    try:
        entries = [entry for entry, _ in _entries(pynvml, os.environ.get(VISIBLE))]
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    return ",".join(entries[:count]) if len(entries) > count else None


def text_of(value: str | bytes) -> str:
    """NVML's strings are bytes in older bindings."""
    return value.decode() if isinstance(value, bytes) else value


def _entries(pynvml: Any, visible: str | None) -> list[tuple[str, Any]]:
    """What is let through: the entry that names it, and its handle. None is a variable that is not set."""
    count = pynvml.nvmlDeviceGetCount()
    everything = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    uuids = [text_of(pynvml.nvmlDeviceGetUUID(handle)) for handle in everything]
    asked = map(str, range(count)) if visible is None else (part.strip() for part in visible.split(","))
    found = []
    for entry in asked:
        if entry.isdecimal() and int(entry) < count:
            found += [(entry, handle) for handle in _whole(pynvml, everything[int(entry)])]
        elif entry.startswith("MIG-"):
            try:
                found.append((entry, pynvml.nvmlDeviceGetHandleByUUID(entry)))
            except pynvml.NVMLError:
                break
        elif entry.startswith("GPU-") and len(matching := [i for i, uuid in enumerate(uuids) if uuid.startswith(entry)]) == 1:
            found += [(entry, handle) for handle in _whole(pynvml, everything[matching[0]])]
        else:
            break
    return found


def _whole(pynvml: Any, handle: Any) -> list[Any]:
    """The GPU, or its first instance where it is divided; nothing where there is none."""
    with suppress(pynvml.NVMLError):
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
        if current == pynvml.NVML_DEVICE_MIG_ENABLE:
            for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
                with suppress(pynvml.NVMLError):
                    return [pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)]
            return []
    return [handle]
