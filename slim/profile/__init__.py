"""Profiling: latency, throughput, memory and energy of a loaded engine, as ``docs/protocol.md`` says."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slim import device as devices
from slim import text
from slim.config import ProfileConfig
from slim.device import Allocation, Device
from slim.engines.base import Completion, Engine
from slim.profile import bandwidth, passes, plot, summary, workload
from slim.profile import energy as energy_pass
from slim.profile.trace import SERVING, Monitor, Trace
from slim.records import Dataset, OnProgress, ignore_progress
from slim.tables import write_parquet


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
    tokens: Sequence[int],
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
        tokens: text of the workload as token ids.
        config: lengths and counts.
        out: existing directory; gets ``requests.parquet``, ``throughput.parquet``, ``trace.parquet`` with its plot ``trace.png``, and
            ``device.json``.
        seed: of the prompts' order.
        device: what memory and energy are read from; None opens the one that this process sees.
        checkpoint: directory that the engine serves, whose weights a decode step reads; None leaves ``efficiency/`` out.
        on_progress: called after each request or point.
        clock: monotonic seconds, the engine's own clock.

    Raises:
        StageError: from the engine.
    """
    device = device or devices.open_device()
    largest = max(*config.concurrency, 8)
    windows = workload.prompts(tokens, max(config.requests, largest * config.requests_per_concurrency), config.input_tokens, seed)
    requests = workload.requests(windows, config.output_tokens)

    limit = None if checkpoint is None else bandwidth.limit(checkpoint, config.peak_bandwidth_gb_s, engine.info.device)
    before = device.state()
    held = devices.allocation()
    held_bytes = device.memory_used_bytes() if held is None else held.current
    devices.reset_peak_allocation()
    with Monitor(device, config.sampling_interval_s, clock) as monitor:
        with monitor.phase("warm-up"):
            warmup = passes.warm_up(engine, requests, config.warmup, on_progress)
        with monitor.phase("latency"):
            done = passes.latency(engine, requests[: config.requests], on_progress)
        serving_one = devices.allocation()
        metrics = summary.latency_metrics(done)
        if config.amortized_batch8:
            with monitor.phase("batch of 8"):
                metrics["latency/amortized_b8_ms"] = 1e3 * passes.amortized_batch(engine, requests[:8], clock)
        with monitor.phase("throughput"):
            curve = passes.throughput(engine, requests, config.concurrency, config.requests_per_concurrency, on_progress)
        metrics |= summary.throughput_metrics(curve)
        work = None
        if config.energy is not None:
            best = int(metrics["throughput/best_concurrency"])
            batch = requests[: best * config.requests_per_concurrency]
            work = energy_pass.measure(
                engine, device, monitor, batch, best, config=config.energy, on_progress=on_progress, clock=clock
            )
    trace = monitor.trace
    after = device.state()

    growth = _growth_bytes(trace, serving_one, held_bytes)
    used = trace.samples("memory_bytes", *SERVING)
    metrics |= summary.memory_metrics(engine.info, used, growth, config.input_tokens + config.output_tokens)
    energy = None if work is None else energy_pass.join(work, trace)
    if energy is not None:
        metrics |= summary.energy_metrics(energy)
    notes = summary.not_measured(trace, energy)
    params: dict[str, str | int | float | bool] = {
        "profile.device": device.name,
        "profile.warmup_requests": len(warmup.e2e_s),
        "profile.sampled_by": trace.sampled_by,
    }
    if limit is not None:
        efficiency, absent = bandwidth.metrics(
            limit, engine.info, done, input_tokens=config.input_tokens, output_tokens=config.output_tokens
        )
        metrics |= efficiency
        params |= limit.params
        notes += absent
    reasons = summary.validity(warmup, energy, before, after, trace)
    metrics["validity/ok"] = float(not reasons)
    tags = {"slim.validity": ",".join(reasons), "slim.profile_notes": "; ".join(notes)}

    _write_requests(done, out / "requests.parquet")
    write_parquet(out / "throughput.parquet", [asdict(point) for point in curve])
    states = {"before": before.to_json(), "after": after.to_json(), "warmup_e2e_s": warmup.e2e_s}
    _write_device(device, trace, states, out)
    return Profile(
        metrics=metrics,
        params=params,
        tags={name: value for name, value in tags.items() if value},
        datasets=(Dataset("workload", f"builtin:{text.BUILTIN}", text.digest(repr(windows)), len(windows), "workload"),),
    )


def _growth_bytes(trace: Trace, serving_one: Allocation | None, held_bytes: int) -> int:
    """Peak of the concurrency-1 passes less what was held before: of torch's allocations, else of the device's memory."""
    resident = [int(s.value) for s in trace.samples("memory_bytes", "warm-up", "latency")]
    peak = max(resident, default=held_bytes) if serving_one is None else serving_one.peak
    return max(0, peak - held_bytes)


def _write_device(device: Device, trace: Trace, states: dict[str, Any], out: Path) -> None:
    trace.write(out / "trace.parquet")
    plot.draw(plot.panels(trace), trace.phases, out / "trace.png", title=device.name)
    (out / "device.json").write_text(json.dumps({**states, **trace.to_json()}, indent=2), encoding="utf-8")


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
