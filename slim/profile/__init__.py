"""Profiling: latency, throughput, memory and energy of a loaded engine, as ``docs/protocol.md`` says."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from slim import device as devices
from slim import text
from slim.config import ProfileConfig
from slim.device import Device, Sampler
from slim.engines.base import Completion, Engine, GenerationRequest, OpenLoopEngine
from slim.profile import batches, load, passes, summary, workload
from slim.profile import energy as energy_pass
from slim.profile.sources import PromptText
from slim.records import Dataset, OnProgress, ignore_progress
from slim.tables import write_parquet


@dataclass(frozen=True)
class Profile:
    """What profiling found.

    Attributes:
        metrics: by key of `slim.metrics`.
        params: what was found out while measuring.
        tags: ``slim.validity`` when a check did not hold.
        datasets: the workload's text.
    """

    metrics: dict[str, float]
    params: dict[str, str | int | float | bool]
    tags: dict[str, str]
    datasets: tuple[Dataset, ...]


def profile(
    engine: Engine,
    source: PromptText,
    config: ProfileConfig,
    out: Path,
    *,
    seed: int,
    device: Device | None = None,
    on_progress: OnProgress = ignore_progress,
    clock: Callable[[], float] = time.perf_counter,
) -> Profile:
    """Measure a loaded engine and write the raw values into ``out``.

    Args:
        engine: as opened.
        source: text that the prompts are cut from.
        config: lengths and counts.
        out: existing directory; gets ``requests.parquet``, ``throughput.parquet``, ``memory.parquet``, ``device.json`` where
            power can be read ``power.parquet``, and where the largest batch was looked for ``batches.parquet`` and
            ``batch_tries.parquet``, and under open-loop load ``load.parquet``.
        seed: of the prompts' order.
        device: what memory and energy are read from; None opens the one that this process sees.
        on_progress: called after each request or point.
        clock: monotonic seconds, the engine's own clock.

    Raises:
        StageError: from the engine; ``data_unavailable`` when the text is too short for so many prompts.
    """
    device = device or devices.open_device()
    windows = workload.cut(source, _requests_needed(engine, config), config.input_tokens, seed)
    requests = workload.requests(windows, config.output_tokens)

    before = device.state()
    held = devices.allocation()
    held_bytes = device.memory_used_bytes() if held is None else held.current
    devices.reset_peak_allocation()
    with Sampler(device.memory_used_bytes, config.memory_interval_s, clock) as memory:
        warmup = passes.warm_up(engine, requests, config.warmup, on_progress)
        done = passes.latency(engine, requests[: config.requests], on_progress)
        now = devices.allocation()
        peak_bytes = max(s.value for s in memory.samples) if now is None else now.peak
        metrics = summary.latency_metrics(done)
        amortized_s = passes.amortized_batch(engine, requests[:8], clock) if config.amortized_batch8 else None
        if amortized_s is not None:
            metrics["latency/amortized_b8_ms"] = 1e3 * amortized_s
        curve = passes.throughput(engine, requests, config.concurrency, config.requests_per_concurrency, on_progress)
    metrics |= summary.throughput_metrics(curve)
    growth = max(0, int(peak_bytes) - held_bytes)
    metrics |= summary.memory_metrics(engine.info, memory.samples, growth, config.input_tokens + config.output_tokens)
    more, params = _batches_and_load(
        engine, device, requests, curve, config=config, out=out, seed=seed, on_progress=on_progress, clock=clock
    )
    metrics |= more

    energy = None
    if config.energy is not None:
        best = int(metrics["throughput/best_concurrency"])
        batch = requests[: best * config.requests_per_concurrency]
        energy = energy_pass.measure(engine, device, batch, best, config.energy, on_progress=on_progress, clock=clock)
        if energy is not None:
            metrics |= summary.energy_metrics(energy)
    after = device.state()
    reasons = summary.validity(warmup, energy, before, after)
    metrics["validity/ok"] = float(not reasons)

    _write_requests(done, out / "requests.parquet")
    write_parquet(out / "throughput.parquet", [asdict(point) for point in curve])
    write_parquet(out / "memory.parquet", [asdict(sample) for sample in memory.samples])
    if energy is not None:
        phases = [("idle", energy.idle), ("work", energy.power)]
        write_parquet(out / "power.parquet", [{"phase": phase, **asdict(s)} for phase, samples in phases for s in samples])
    states = {"before": before.to_json(), "after": after.to_json(), "warmup_e2e_s": warmup.e2e_s}
    (out / "device.json").write_text(json.dumps(states, indent=2), encoding="utf-8")
    return Profile(
        metrics=metrics,
        params={
            "profile.device": device.name,
            "profile.warmup_requests": len(warmup.e2e_s),
            "profile.prompts.origin": source.origin,
            "profile.prompts.digest": source.digest,
            "profile.prompts.windows": len(windows),
            **params,
        },
        tags={"slim.validity": ",".join(reasons)} if reasons else {},
        datasets=(Dataset("workload", source.origin, text.digest(repr(windows)), len(windows), "workload"),),
    )


def _requests_needed(engine: Engine, config: ProfileConfig) -> int:
    """The most different requests that a pass asks for."""
    needed = [config.requests, max(*config.concurrency, 8) * config.requests_per_concurrency]
    if engine.info.max_concurrency is None and config.batch is not None:
        needed += config.batch.requests
    if config.load is not None:
        needed.append(config.load.requests)
    return max(needed)


def _batches_and_load(
    engine: Engine,
    device: Device,
    requests: Sequence[GenerationRequest],
    curve: Sequence[passes.CurvePoint],
    *,
    config: ProfileConfig,
    out: Path,
    seed: int,
    on_progress: OnProgress,
    clock: Callable[[], float],
) -> tuple[dict[str, float], dict[str, str | int | float | bool]]:
    """The largest batch and the open-loop load: metrics, and what is to be said about them."""
    metrics: dict[str, float] = {}
    params: dict[str, str | int | float | bool] = {}
    if engine.info.max_concurrency is not None:
        # The engine itself bounds the concurrency, so the curve tells.
        metrics |= summary.unpreempted(curve)
    elif config.batch is not None:
        interval_s = config.memory_interval_s
        found = batches.measure(
            engine, device, requests, config.batch, interval_s=interval_s, on_progress=on_progress, clock=clock
        )
        metrics |= found.metrics()
        params["profile.batch.bounded_by"] = "limit" if found.is_limited else "memory"
        found.write(out)
    if config.load is not None and isinstance(engine, OpenLoopEngine):
        metrics |= load.run(engine, requests, config.load, out, seed=seed, on_progress=on_progress)
    elif config.load is not None:
        params["profile.load.skipped"] = "no continuous batching"
    return metrics, params


def _write_requests(done: Sequence[Completion], path: Path) -> None:
    rows = [
        {
            "request": index,
            "submitted_s": c.submitted_s,
            "token_times_s": list(c.token_times_s),
            "ttft_s": c.ttft_s,
            "e2e_s": c.e2e_s,
            "output_tokens": len(c.tokens),
            "cached_tokens": c.cached_tokens,
        }
        for index, c in enumerate(done)
    ]
    write_parquet(path, rows)
