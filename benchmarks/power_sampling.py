"""What sampling the device costs the engine, whether it keeps its rate, and whether the power agrees with the energy counter.

    python -m benchmarks.power_sampling [--engine vllm] [--model embedded] [--concurrency 8] [--rounds 20]

One engine, opened once. A round generates the same requests twice, once with the monitor that a profile uses and once without, in
an order that alternates from round to round, so that drift of the machine falls on both. The loss is the median over rounds of how
much longer the sampled half took, with a 95 % interval by the bootstrap; the monitor's own processor time is an upper bound on what
it can take from a machine whose cores are all busy. The rate is readings over time against the nominal one, while the engine works.

The last line holds the verdict; the exit status is 1 when the loss is above 0.5 % of throughput or more than 5 % of the readings
are missing.
"""

import argparse
import math
import os
import statistics
import sys
import time

import numpy as np
from scipy.stats import bootstrap

from slim import models, precisions, text
from slim.config import EnergyConfig, EnginesConfig, ModelEntry
from slim.device import Device, open_device
from slim.engines import Engine, EngineSpec, open_engine
from slim.engines.base import GenerationRequest
from slim.profile import energy, workload
from slim.profile.summary import MAX_COUNTER_DEVIATION
from slim.profile.trace import MAX_MISSING, Monitor, Trace
from slim.provenance import probe, usable_cores
from slim.records import ignore_progress

TARGET_PCT = 0.5


def main() -> int:
    """Measure, print, compare with the targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--model", default="embedded", help="as in a sweep file")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64, help="of each prompt and of each answer")
    parser.add_argument("--half-s", type=float, default=5.0, help="each half works at least this long")
    parser.add_argument("--interval-s", type=float, default=0.1)
    arguments = parser.parse_args()
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    engine, requests = opened(arguments)
    device = open_device()
    batch_s = min(timed(engine, requests, arguments.concurrency) for _ in range(3))
    work = requests * math.ceil(arguments.half_s / batch_s)
    plain_s, loss_pct, traces = rounds(engine, work, device, arguments)
    loss = statistics.median(loss_pct)
    found = bootstrap((np.asarray(loss_pct),), np.median, rng=np.random.default_rng(1), method="percentile").confidence_interval
    span_s = sum(t.end_s - t.begin_s for t in traces)
    readings = sum(sum(t.begin_s <= r.time_s <= t.end_s for r in t.readings) for t in traces)
    missing = sum(t.missing * (t.end_s - t.begin_s) for t in traces) / span_s
    cpu_s = [t.sampling_cpu_s for t in traces if t.sampling_cpu_s is not None]
    print(f"hardware     {probe().hardware.label}")
    print(f"engine       {arguments.engine} {engine.info.version}, {arguments.model}, concurrency {arguments.concurrency}")
    print(f"sampled by   a {traces[0].sampled_by}")
    tokens = sum(r.max_tokens for r in work)
    print(f"unsampled    {tokens / statistics.median(plain_s):.1f} tok/s, {statistics.median(plain_s):.2f} s a half")
    print(f"loss         {loss:.2f} % (95 % interval {found.low:.2f} to {found.high:.2f}, {arguments.rounds} rounds)")
    if cpu_s:
        share = 100 * sum(cpu_s) / span_s / usable_cores()
        print(f"its own CPU  {share:.2f} % of {usable_cores()} cores")
    print(f"rate         {readings / span_s:.2f} Hz of {1 / arguments.interval_s:.2f} Hz, {sum(t.late for t in traces)} late")
    deviation = counter_deviation(engine, device, requests, arguments)
    met = loss <= TARGET_PCT and missing <= MAX_MISSING and abs(deviation or 0.0) <= MAX_COUNTER_DEVIATION
    verdict = f"loss {loss:.2f} % (target {TARGET_PCT} %), missing {100 * missing:.1f} % (target {100 * MAX_MISSING:.0f} %)"
    if deviation is not None:
        verdict += f", counter {100 * deviation:+.2f} % (target {100 * MAX_COUNTER_DEVIATION:.0f} %)"
    print(verdict + (": met" if met else ": missed"))
    return 0 if met else 1


def rounds(
    engine: Engine, work: list[GenerationRequest], device: Device, arguments: argparse.Namespace
) -> tuple[list[float], list[float], list[Trace]]:
    """Return wall seconds of the unsampled halves, the loss of each round in percent, and the traces."""
    plain_s: list[float] = []
    loss_pct: list[float] = []
    traces: list[Trace] = []

    def half(sampled: bool) -> float:
        if not sampled:
            return timed(engine, work, arguments.concurrency)
        with Monitor(device, arguments.interval_s) as monitor:
            wall_s = timed(engine, work, arguments.concurrency)
        traces.append(monitor.trace)
        return wall_s

    half(True)
    traces.clear()
    for index in range(arguments.rounds):
        first = index % 2 == 0
        times = {sampled: half(sampled) for sampled in (first, not first)}
        plain_s.append(times[False])
        loss_pct.append(100 * (1 - times[False] / times[True]))
    return plain_s, loss_pct, traces


def counter_deviation(
    engine: Engine, device: Device, requests: list[GenerationRequest], arguments: argparse.Namespace
) -> float | None:
    """Run a profile's energy pass; return how far the integral of the power is from the counter; None without either."""
    with Monitor(device, arguments.interval_s) as monitor:
        work = energy.measure(
            engine, device, monitor, requests, arguments.concurrency, config=EnergyConfig(), on_progress=ignore_progress
        )
    found = None if work is None else energy.join(work, monitor.trace)
    if found is None or not found.counter_j:
        print("counter      none")
        return None
    print(f"idle         {found.idle_w:.1f} W over {len(found.idle)} readings")
    print(f"counter      {found.counter_j:.0f} J in {found.wall_s:.1f} s, {found.counter_j / found.wall_s:.1f} W")
    print(f"integral     {found.sampled_j:.0f} J over {len(found.power)} readings")
    return found.sampled_j / found.counter_j - 1


def opened(arguments: argparse.Namespace) -> tuple[Engine, list[GenerationRequest]]:
    """Open the engine; return it and a workload."""
    from transformers import AutoTokenizer

    path = models.materialize(models.resolve(ModelEntry(id=arguments.model)), ignore_progress)
    options = getattr(EnginesConfig(), arguments.engine).model_dump()
    options["max_model_len"] = max(512, 2 * arguments.tokens)
    engine = open_engine(EngineSpec(arguments.engine, path, precisions.get("bf16").dtype, options))
    tokens = AutoTokenizer.from_pretrained(path)(text.python_docs(), add_special_tokens=False)["input_ids"]
    return engine, workload.requests(workload.prompts(tokens, arguments.concurrency, arguments.tokens, 42), arguments.tokens)


def timed(engine: Engine, requests: list[GenerationRequest], concurrency: int) -> float:
    """Return wall seconds of the requests."""
    start = time.perf_counter()
    engine.generate(requests, concurrency)
    return time.perf_counter() - start


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # an engine's own end may take long, and a CUDA context's
