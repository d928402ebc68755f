"""Profiling: latency, throughput, memory and energy of a loaded engine, as ``docs/protocol.md`` says."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slim import device as devices
from slim import text
from slim.config import ProfileConfig
from slim.device import Device
from slim.engines.base import Engine
from slim.profile import bandwidth, plot, raw, summary, workload
from slim.profile import energy as energy_pass
from slim.profile.raw import Raw
from slim.profile.sources import PromptText
from slim.profile.trace import SERVING, Monitor, Trace
from slim.records import Dataset, OnProgress, ignore_progress


@dataclass(frozen=True)
class Profile:
    """What profiling found.

    Attributes:
        metrics: by key of `slim.metrics`.
        params: what was found out while measuring.
        tags: ``slim.validity`` when a check did not hold, ``slim.profile_notes`` when the device cannot measure something.
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
    checkpoint: Path | None = None,
    on_progress: OnProgress = ignore_progress,
    clock: Callable[[], float] = time.perf_counter,
) -> Profile:
    """Measure a loaded engine and write the raw values into ``out``.

    Args:
        engine: as opened.
        source: text that the prompts are cut from.
        config: lengths and counts.
        out: existing directory; gets ``requests.parquet``, ``throughput.parquet``, ``trace.parquet`` with its plot ``trace.png``,
            ``device.json``, ``throughput_requests.parquet``, where power can be read ``energy.parquet``, where the largest batch was
            looked for ``batches.parquet`` and ``batch_tries.parquet``, and under open-loop load ``load.parquet``.
        seed: of the prompts' order.
        device: what memory and energy are read from; None opens the one that this process sees.
        checkpoint: directory that the engine serves, whose weights a decode step reads; None leaves ``efficiency/`` out.
        on_progress: called after each request or point.
        clock: monotonic seconds, the engine's own clock.

    Raises:
        StageError: from the engine; ``data_unavailable`` when the text is too short for so many prompts.
    """
    device = device or devices.open_device()
    windows = workload.cut(source, raw.requests_needed(engine, config), config.input_tokens, seed)
    requests = workload.requests(windows, config.output_tokens)

    limit = None if checkpoint is None else bandwidth.limit(checkpoint, config.peak_bandwidth_gb_s, engine.info.device)
    before = device.state()
    held = devices.allocation()
    held_bytes = device.memory_used_bytes() if held is None else held.current
    devices.reset_peak_allocation()
    with Monitor(device, config.sampling_interval_s, clock) as monitor:
        found = raw.measure(engine, device, requests, config, monitor=monitor, seed=seed, on_progress=on_progress, clock=clock)
    trace = monitor.trace
    after = device.state()

    metrics = _serving_metrics(found, engine, config, trace, held_bytes)
    energy = None if found.work is None else energy_pass.join(found.work, trace)
    if energy is not None:
        metrics |= summary.energy_metrics(energy)
    notes = summary.notes(trace, found.curve, energy)
    if config.energy is not None and found.work is None and device.power_w() is not None:
        notes.append("energy was not measured: out of memory at every concurrency")
    params: dict[str, str | int | float | bool] = {
        "profile.device": device.name,
        "profile.warmup_requests": len(found.warmup.e2e_s),
        "profile.sampled_by": trace.sampled_by,
        "profile.prompts.origin": source.origin,
        "profile.prompts.digest": source.digest,
        "profile.prompts.windows": len(windows),
    }
    if found.batches is not None:
        params["profile.batch.bounded_by"] = "limit" if found.batches.is_limited else "memory"
    if config.load is not None and found.load is None:
        params["profile.load.skipped"] = "no continuous batching"
    if limit is not None:
        efficiency, absent = bandwidth.metrics(
            limit, engine.info, found.done, input_tokens=config.input_tokens, output_tokens=config.output_tokens
        )
        metrics |= efficiency
        params |= limit.params
        notes += absent
    reasons = summary.validity(found.warmup, energy, before, after, trace)
    metrics["validity/ok"] = float(not reasons)
    tags = {"slim.validity": ",".join(reasons), "slim.profile_notes": "; ".join(notes)}

    found.write(out, config)
    trace.write(out / "trace.parquet")
    plot.draw(plot.panels(trace), trace.phases, out / "trace.png", title=device.name)
    states = {"before": before.to_json(), "after": after.to_json(), "warmup_e2e_s": found.warmup.e2e_s, **trace.to_json()}
    (out / "device.json").write_text(json.dumps(states, indent=2), encoding="utf-8")
    return Profile(
        metrics=metrics,
        params=params,
        tags={name: value for name, value in tags.items() if value},
        datasets=(Dataset("workload", source.origin, text.digest(repr(windows)), len(windows), "workload"),),
    )


def _serving_metrics(found: Raw, engine: Engine, config: ProfileConfig, trace: Trace, held_bytes: int | None) -> dict[str, float]:
    """Latency, throughput and memory."""
    metrics = summary.latency_metrics(found.done) | summary.throughput_metrics(found.curve)
    if found.amortized_s is not None:
        metrics["latency/amortized_b8_ms"] = 1e3 * found.amortized_s
    if engine.info.max_concurrency is not None:
        # The engine itself bounds the concurrency, so the curve tells.
        metrics |= summary.unpreempted(found.curve, engine.info, config.input_tokens + config.output_tokens)
    if found.batches is not None:
        metrics |= found.batches.metrics(trace)
    if found.load is not None and config.load is not None:
        for point in found.load:
            metrics |= point.metrics(config.load)
    # The peak of the concurrency-1 passes less what was held before: of torch's allocations, else of the device's memory.
    resident = [int(s.value) for s in trace.samples("memory_bytes", "warm-up", "latency")]
    held_bytes = min(resident, default=0) if held_bytes is None else held_bytes
    peak = max(resident, default=held_bytes) if found.allocation is None else found.allocation.peak
    used = trace.samples("memory_bytes", *SERVING)
    tokens = config.input_tokens + config.output_tokens
    return metrics | summary.memory_metrics(engine.info, used, max(0, peak - held_bytes), tokens)
