"""An engine and a device whose times and readings are known, and a profile of them."""

from collections.abc import Sequence
from pathlib import Path

from slim.config import ProfileConfig, WarmupConfig
from slim.device import DeviceState
from slim.engines.base import EngineSpec
from slim.engines.fake import FakeEngine, VirtualClock
from slim.profile import Profile, profile
from slim.profile.sources import PromptText

PREFILL_S, STEP_S, EXTRA_S = 0.001, 0.010, 0.001
CONFIG = ProfileConfig(
    input_tokens=20,
    output_tokens=5,
    requests=4,
    warmup=WarmupConfig(min_requests=5, max_requests=9),
    concurrency=(1, 2, 4),
    requests_per_concurrency=1,
    throughput_min_s=0.0,
    sampling_interval_s=0.5,
    energy=None,
)
TEXT = [i * 7 % 255 + 1 for i in range(400)]
SOURCE = PromptText(tuple(TEXT), "builtin:test", "digest")


def engine(**options: object) -> FakeEngine:
    times = {"prefill_s_per_token": PREFILL_S, "decode_step_s": STEP_S, "extra_sequence_s": EXTRA_S}
    return FakeEngine(EngineSpec("fake", Path(), "bfloat16", {**times, **options}), VirtualClock())


class FakeDevice:
    """A device whose readings are functions of the engine's clock."""

    name = "fake GPU"

    def __init__(
        self, clock: VirtualClock, watts: float | None = 300.0, throttle: Sequence[str] = (), others: int | None = 0
    ) -> None:
        self.clock, self.watts, self._throttle, self._others = clock, watts, tuple(throttle), others

    def memory_used_bytes(self) -> int:
        return 8 << 20

    def power_w(self) -> float | None:
        return self.watts

    def total_energy_j(self) -> float | None:
        return None if self.watts is None else self.watts * self.clock.now()

    def utilization_pct(self) -> float | None:
        return 50.0

    def state(self) -> DeviceState:
        return DeviceState(throttle=self._throttle, other_processes=self._others)


def measured(tmp_path: Path, fake: FakeEngine, device: FakeDevice | None = None, config: ProfileConfig = CONFIG) -> Profile:
    return profile(fake, SOURCE, config, tmp_path, seed=1, device=device or FakeDevice(fake.clock), clock=fake.clock.now)
