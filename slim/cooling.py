"""Cooling down between configurations: the next one starts about as cool as the first did."""

import time
from collections.abc import Callable

from slim.device import NvmlDevice

NEAR_C = 3
"""Degrees above the first configuration's temperature that count as cool."""


class Cooling:
    """Remembers how warm the GPUs were before the first measurement.

    Args:
        read: temperatures of the GPUs in degrees Celsius; empty on a CPU.
        sleep: waits.
        first: how warm they were, when that is known already.

    Attributes:
        first: degrees of the warmest one before the first measurement; None before that.
    """

    def __init__(
        self,
        read: Callable[[], tuple[int, ...]] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        first: int | None = None,
    ) -> None:
        self._read = read or _temperatures
        self._sleep = sleep
        self.first = first

    def wait(self, limit_s: float) -> float:
        """Wait until the warmest GPU is near where it was before the first call, at most ``limit_s``; return the seconds waited."""
        waited = 0.0
        while temperatures := self._read():
            warmest = max(temperatures)
            if self.first is None:
                self.first = warmest
            if warmest <= self.first + NEAR_C or waited >= limit_s:
                break
            self._sleep(1.0)
            waited += 1.0
        return waited


def _temperatures() -> tuple[int, ...]:
    device = NvmlDevice.open()
    return device.state().temperature_c if device else ()
