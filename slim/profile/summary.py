"""Metrics and validity of a profile, derived from its raw records. Pure functions."""

import itertools
import statistics
from collections.abc import Sequence

from slim import stats
from slim.device import MIB, DeviceState, Sample
from slim.engines.base import Completion, EngineInfo
from slim.profile import passes
from slim.profile.energy import EnergyPass
from slim.profile.passes import CurvePoint, Warmup
from slim.profile.trace import MAX_THROTTLED, POWER_CAP, Trace

MAX_DEPARTURE = 0.10
"""The rate of the energy pass and that of the curve at the same concurrency; further apart is said."""

MIN_ENERGY_S = 30.0
MAX_COUNTER_DEVIATION = 0.05


def latency_metrics(done: Sequence[Completion]) -> dict[str, float]:
    """TTFT, TPOT, ITL and E2E in ms with percentiles, and 95 % intervals of the means over requests.

    Intervals are over the means of `slim.stats.blocks` of requests, and do not cover what varies between engine starts, which is what
    repeats are for. Gaps between tokens of one request are still less independent, so ITL has no interval.
    """
    samples = {
        "ttft": [c.ttft_s for c in done],
        "tpot": [c.tpot_s for c in done if c.tpot_s is not None],
        "itl": [gap for c in done for gap in c.itl_s],
        "e2e": [c.e2e_s for c in done],
    }
    metrics: dict[str, float] = {}
    for name, values in samples.items():
        if not values:
            continue
        summary = stats.summarize(values)
        for statistic in ("mean", "p50", "p95", "p99"):
            metrics[f"latency/{name}_{statistic}_ms"] = 1e3 * getattr(summary, statistic)
        interval = None if name == "itl" else stats.block_interval(values, stats.blocks(len(values)))
        if interval:
            metrics[f"latency/{name}_mean_ms_ci_low"] = 1e3 * interval.low
            metrics[f"latency/{name}_mean_ms_ci_high"] = 1e3 * interval.high
    if samples["itl"]:
        metrics["latency/stalled_pct"] = 100 * stalled(samples["itl"])
    return metrics


def stalled(gaps_s: Sequence[float]) -> float:
    """Return the share of the time between tokens that gaps of more than twice the median take beyond the median.

    An engine's steps at concurrency 1 are alike; what makes one of them several times longer is the host.

    Raises:
        statistics.StatisticsError: there are no gaps.
    """
    median = statistics.median(gaps_s)
    return sum(gap - median for gap in gaps_s if gap > 2 * median) / total if (total := sum(gaps_s)) > 0 else 0.0


def throughput_metrics(curve: Sequence[CurvePoint]) -> dict[str, float]:
    """The best point of the curve, and each point's output rate."""
    best = passes.best(curve)
    return {
        "throughput/output_tokens_per_s": best.output_tokens_per_s,
        "throughput/total_tokens_per_s": (best.prompt_tokens + best.output_tokens) / best.wall_s,
        "throughput/requests_per_s": best.requests / best.wall_s,
        "throughput/best_concurrency": best.concurrency,
        **{f"throughput/output_tokens_per_s_c{point.concurrency}": point.output_tokens_per_s for point in curve},
    }


def unpreempted(curve: Sequence[CurvePoint], info: EngineInfo, tokens: int) -> dict[str, float]:
    """The largest concurrency at which no request is thrown out of the cache; absent when there is none.

    Where requests were thrown out, that is the highest concurrency below; else what the engine's own limit and its cache have room
    for, which may be beyond the curve.

    Args:
        curve: in the order of concurrency.
        info: of the engine.
        tokens: prompt and output tokens of one request.
    """
    calm = [point.concurrency for point in itertools.takewhile(lambda point: not point.preemptions, curve)]
    largest = max(calm, default=0)
    if len(calm) == len(curve):
        room = None if info.kv_capacity_tokens is None else info.kv_capacity_tokens // tokens
        largest = max(largest, min((bound for bound in (info.max_concurrency, room) if bound is not None), default=0))
    return {"throughput/max_batch": largest} if largest else {}


def memory_metrics(info: EngineInfo, samples: Sequence[Sample], growth_bytes: int, tokens: int) -> dict[str, float]:
    """Memory in MiB, split.

    Args:
        info: of the engine.
        samples: device memory in use over the passes, bytes; empty where it could not be read.
        growth_bytes: peak of the concurrency-1 pass less what was held before it: activations, and the cache where the engine
            does not reserve it beforehand.
        tokens: prompt and output tokens of one request of the workload.
    """
    used = [s.value for s in samples]
    metrics = {"memory/weights_mib": info.weights_bytes / MIB}
    if used:
        metrics |= {"memory/peak_mib": max(used) / MIB, "memory/mean_mib": sum(used) / len(used) / MIB}
    if info.kv_capacity_tokens is not None:
        metrics["memory/kv_capacity_tokens"] = info.kv_capacity_tokens
        if info.kv_bytes_per_token is not None:
            metrics["memory/required_mib"] = (info.weights_bytes + growth_bytes + tokens * info.kv_bytes_per_token) / MIB
    else:
        metrics["memory/required_mib"] = (info.weights_bytes + growth_bytes) / MIB
    return metrics


def energy_metrics(energy: EnergyPass) -> dict[str, float]:
    """Energy per request and token, net and gross, and the cross-check of counter and samples."""
    metrics = {
        "energy/gross_j_per_query": energy.gross_j / energy.requests,
        "energy/net_j_per_query": energy.net_j / energy.requests,
        "energy/net_j_per_output_token": energy.net_j / energy.output_tokens,
        "energy/net_kwh": energy.net_j / 3.6e6,
        "energy/idle_w": energy.idle_w,
        "energy/mean_power_w": energy.gross_j / energy.wall_s,
        "energy/concurrency": energy.concurrency,
        "throughput/sustained_output_tokens_per_s": energy.output_tokens_per_s,
    }
    if energy.counter_j:
        metrics["energy/counter_ratio"] = energy.sampled_j / energy.counter_j
    for key, samples in (("gpu/utilization_mean_pct", energy.utilization), ("gpu/sm_clock_mean_mhz", energy.clock)):
        if samples:
            metrics[key] = sum(s.value for s in samples) / len(samples)
    return metrics


def validity(
    warmup: Warmup, energy: EnergyPass | None, before: DeviceState, after: DeviceState, trace: Trace | None = None
) -> list[str]:
    """The checks of the protocol that did not hold, as short reasons; empty when all did.

    Args:
        warmup: as it went.
        energy: None where power cannot be read.
        before, after: the device outside the measurement.
        trace: the device throughout it; None leaves out what only that shows.
    """
    reasons = []
    if not warmup.settled:
        reasons.append("warmup_unsettled")
    if energy is not None:
        if energy.wall_s < MIN_ENERGY_S:
            reasons.append("energy_pass_short")
        if energy.counter_j and abs(energy.sampled_j / energy.counter_j - 1) > MAX_COUNTER_DEVIATION:
            reasons.append("energy_counter_disagrees")
    throttle = {*before.throttle, *after.throttle, *(energy.throttle if energy else ())}
    if trace is not None:
        throttle |= {reason for reason, share in trace.throttled.items() if share > MAX_THROTTLED}
    if held := sorted(throttle - {POWER_CAP}):
        reasons.append("clocks_throttled:" + "+".join(held))
    if max(before.other_processes or 0, after.other_processes or 0, (trace and trace.other_processes) or 0) > 0:
        reasons.append("gpu_shared")
    if trace is not None and trace.is_starved:
        reasons.append("trace_starved")
    return reasons


def notes(trace: Trace, curve: Sequence[CurvePoint], energy: EnergyPass | None) -> list[str]:
    """Say what the device does not offer, so that its metrics are absent, and what else a reader of the figures has to know.

    Args:
        trace: of the profile.
        curve: of its throughput pass.
        energy: None where there was no energy pass or it gave nothing.
    """
    names = {"power_w": "power", "utilization_pct": "utilization", "temperature_c": "temperature", "sm_clock_mhz": "clock"}
    absent = [name for quantity, name in names.items() if all(getattr(r, quantity) is None for r in trace.readings)]
    found = [f"not measured by this device: {', '.join(absent)}"] if absent else []
    if (share := trace.throttled.get(POWER_CAP, 0.0)) > MAX_THROTTLED:
        found.append(f"the power limit held the clock down in {share:.0%} of the readings under work")
    if energy is None:
        return found
    if energy.counter_j is None:
        found.append("no energy counter: energy is sampled power alone")
    here = next((point for point in curve if point.concurrency == energy.concurrency), None)
    if here is not None and abs((share := energy.output_tokens_per_s / here.output_tokens_per_s) - 1) > MAX_DEPARTURE:
        found.append(f"at concurrency {here.concurrency} the energy pass ran at {share:.0%} of the throughput pass's rate")
    if energy.concurrency != (best := passes.best(curve).concurrency):
        found.append(f"energy was measured at concurrency {energy.concurrency}, the best rate was at {best}")
    return found
