"""How much faster a sweep is on the GPUs of a host than on one of them.

    python -m benchmarks.ray_gpus --gpus 4                on a host with GPUs
    python -m benchmarks.ray_gpus --cpu --gpus 4          fake GPUs and workers that sleep: what the executor itself costs

Twelve configurations (four models with random weights x three precisions, quantized, started and profiled) run twice from an empty
store: one after another on one GPU with the local executor, and with ``executor: ray`` and ``overlap: true`` on all of them, each
worker on a GPU and cores of its own. A fifth model goes before both on all GPUs, untimed, so that neither is the first to read
libraries and to compile kernels on this host. Prints wall times, speed-up and efficiency (speed-up a GPU); where the time went: how
much of it the GPUs had a stage (with its engine's start), how long the same stages took alone and beside others; and how far the
figures measured side by side are from those measured alone. Target: efficiency 0.9. Exit code 1 when it is missed, 2 when it cannot
be run here.

With ``--keep DIRECTORY`` a sweep that has ended there is not run again, so that each may have a command of its own
(``--only one``, ``--only all``).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import stand_in
from slim import provenance
from slim.provenance import ROOT

TARGET = 0.9
MODELS = 4
COMPARED = ("latency/ttft_mean_ms", "latency/tpot_mean_ms", "throughput/output_tokens_per_s")


def main() -> int:
    """Run both sweeps, print, compare with the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, help="GPUs of the faster sweep; all that are visible unless given")
    parser.add_argument("--cpu", action="store_true", help="fake GPUs, workers that sleep")
    parser.add_argument("--sleep", type=float, default=10.0, help="with --cpu: seconds of a measurement; quantizing takes half")
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--precisions", default="", help="three, separated by commas; the engine's usual ones unless given")
    parser.add_argument("--layers", type=int, default=8, help="of the smallest model")
    parser.add_argument("--requests", type=int, default=10, help="of the latency pass")
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--compiled", action="store_true", help="compile the models and capture CUDA graphs (vLLM)")
    parser.add_argument("--quantize-python", help="interpreter of quantizing workers")
    parser.add_argument("--measure-python", help="interpreter of measuring workers")
    parser.add_argument("--keep", type=Path, help="directory for models, stores and results")
    parser.add_argument("--only", choices=("one", "all"), help="run one sweep of the two, and compare when the other is there")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        return run_child(arguments.child)
    gpus = provenance.gpu_hardware()
    count = arguments.gpus or (gpus.count if gpus and not arguments.cpu else 4 if arguments.cpu else 0)
    if count < 2 or (not arguments.cpu and (gpus is None or gpus.count < count)):
        print(
            f"needs two GPUs or more, and as many as are asked for; visible: {gpus.label if gpus else 'none'} (--cpu fakes them)"
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="slim-ray-") as made:
        directory = (arguments.keep or Path(made)).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        return compare(arguments, directory, count)


def compare(arguments: argparse.Namespace, directory: Path, count: int) -> int:
    """Run what has not been run, and say how the two differ."""
    made = models(arguments, directory)
    planned = {"warm": (made[MODELS:], count), "one": (made[:MODELS], 1), "all": (made[:MODELS], count)}
    results: dict[str, dict[str, Any]] = {}
    for name, (entries, gpus) in planned.items():
        path = directory / f"{name}.json"
        if not path.exists() and (name == "warm" or arguments.only in (None, name)):
            config = sweep(arguments, directory, entries, gpus)
            if run(directory, name, config, fake_gpus=gpus if arguments.cpu else 0) != 0:
                return 2
        if path.exists():
            found = results[name] = json.loads(path.read_text(encoding="utf-8"))
            used = f"{gpus} {'fake GPUs' if arguments.cpu else found['hardware'].removeprefix('1x ')}"
            print(f"{name:4s} {used:40s} {found['wall_s']:8.1f} s for {len(found['metrics'])}", flush=True)
    if not results.keys() >= {"one", "all"}:
        return 0
    one, many = results["one"], results["all"]
    speedup = one["wall_s"] / many["wall_s"]
    efficiency = speedup / count
    print(f"whole process     {one['process_s']:.1f} s and {many['process_s']:.1f} s")
    print_time(one, 1)
    print_time(many, count)
    pairs = [(seconds, many["stages"][key][1]) for key, (_, seconds) in one["stages"].items() if key in many["stages"]]
    if pairs:
        alone, beside = (sum(column) for column in zip(*pairs, strict=True))
        each = statistics.median(100 * (b / a - 1) for a, b in pairs)
        print(f"{'the same stages':30s} {alone:.1f} s alone, {beside:.1f} s beside others; median {each:+.1f} %")
    for metric in COMPARED:
        print_difference(metric, one["metrics"], many["metrics"])
    print(f"speed-up          {speedup:.2f} on {count} GPUs")
    print(f"efficiency {efficiency:.3f} a GPU, target at least {TARGET}: {'met' if efficiency >= TARGET else 'missed'}")
    return 0 if efficiency >= TARGET else 1


def print_time(result: Mapping[str, Any], gpus: int) -> None:
    """Print how much of a sweep its GPUs had a stage, and what went before the first and after the last."""
    spans = list(result["stages"].values())
    first, last = min(start for start, _ in spans), max(start + seconds for start, seconds in spans)
    busy = sum(seconds for _, seconds in spans) / (gpus * result["wall_s"])
    print(
        f"{f'GPUs with a stage, of {gpus}':30s} {100 * busy:.1f} % of the time; {first:.1f} s before the first,"
        f" {result['wall_s'] - last:.1f} s after the last of {len(spans)}"
    )


def print_difference(metric: str, one: Mapping[str, Any], many: Mapping[str, Any]) -> None:
    """Print how far a metric measured beside others is from the same measured alone."""
    pairs = [(one[c].get(metric), many[c].get(metric)) for c in one if c in many]
    changes = [100 * (b / a - 1) for a, b in pairs if a and b]
    if changes:
        print(f"{metric:30s} beside others: median {statistics.median(changes):+.1f} %, furthest {max(changes, key=abs):+.1f} %")


def sweep(arguments: argparse.Namespace, directory: Path, entries: list[str], gpus: int) -> dict[str, Any]:
    """The sweep file of these models on so many GPUs."""
    usual = {"vllm": ("bf16", "gptq-int8", "gptq-int4"), "transformers": ("bf16", "bnb-int8", "bnb-nf4")}[arguments.engine]
    chosen = [p.strip() for p in arguments.precisions.split(",") if p.strip()] or usual
    measure, quantize = arguments.measure_python, arguments.quantize_python
    if arguments.cpu:
        measure = quantize = str(install(arguments, directory))
    return {
        "name": "ray-gpus",
        "models": entries,
        "precisions": [f"{p}@{arguments.engine}" for p in chosen],
        # Rounding random weights well is of no use.
        "quantize": {"calibration": "python-docs", "samples": 16, "max_tokens": 256, "group_size": 64},
        "evaluate": None,
        "profile": {
            "input_tokens": 128,
            "output_tokens": arguments.output_tokens,
            "requests": arguments.requests,
            "warmup": {"min_requests": 5, "max_requests": 10, "tolerance": 0.05},
            "concurrency": [1, 32],
            "throughput_min_s": 0.0,
            "batch": None,
            "amortized_batch8": False,
            "energy": None,
            "cooldown_s": 0.0,
            "peak_bandwidth_gb_s": 1000.0,
        },
        "engines": {
            "vllm": {"max_model_len": 1024, "enforce_eager": not arguments.compiled, "gpu_memory_utilization": 0.5},
            "transformers": {"max_model_len": 1024},
        },
        "interpreters": {"measure": measure, "quantize": quantize},
        "repeats": 1,
        # Fake GPUs are Ray's, so one of them is too.
        "executor": {"name": "ray", "overlap": True} if gpus > 1 or arguments.cpu else {"name": "local"},
    }


def install(arguments: argparse.Namespace, directory: Path) -> Path:
    """The program that sleeps."""
    return stand_in.install(directory, {"profile": arguments.sleep, "quantize": arguments.sleep / 2})


def models(arguments: argparse.Namespace, directory: Path) -> list[str]:
    """`MODELS` models, of a size each, and the one that goes before."""
    if arguments.cpu:
        paths = [directory / "models" / f"m{number}" for number in range(MODELS + 1)]
        return [str(path if path.is_dir() else stand_in.make_model(path.parent, path.name)) for path in paths]
    found = []
    for number in range(MODELS + 1):
        path = directory / f"llama-{arguments.layers + number}-layers.json"
        path.write_text(json.dumps(llama(arguments.layers + number)), encoding="utf-8")
        found.append(f"synthetic:{path}")
    return found


def llama(layers: int) -> dict[str, Any]:
    """A small Llama whose sizes suit every scheme's kernels."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 1024,
        "initializer_range": 0.02,
        "intermediate_size": 4096,
        "max_position_embeddings": 4096,
        "mlp_bias": False,
        "num_attention_heads": 16,
        "num_hidden_layers": layers,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "vocab_size": 32000,
    }


def run(directory: Path, name: str, config: Mapping[str, Any], fake_gpus: int) -> int:
    """Run a sweep in a process of its own, so that neither finds anything of the other's.

    Returns:
        0 when the result is there.
    """
    order = directory / f"{name}-order.json"
    order.write_text(json.dumps({"config": config, "result": str(directory / f"{name}.json"), "fake_gpus": fake_gpus}))
    environment = {**os.environ, "SLIM_HOME": str(directory / "home"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    if config["executor"]["name"] == "local":
        environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ray_gpus", "--child", str(order)], cwd=ROOT, env=environment, check=False
    )
    result = directory / f"{name}.json"
    if not result.exists():
        print(f"the sweep '{name}' failed, exit code {done.returncode}")
        return 1
    values = json.loads(result.read_text(encoding="utf-8"))
    result.write_text(json.dumps({**values, "process_s": time.perf_counter() - start}, indent=2), encoding="utf-8")
    return 0


def run_child(path: Path) -> int:
    """Run the sweep of an order and write its result."""
    order = json.loads(path.read_text(encoding="utf-8"))
    from slim import api, models
    from slim.config import SweepConfig
    from slim.store import TAG

    config = SweepConfig.parse(order["config"])
    if order["fake_gpus"]:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        import ray

        ray.init(
            address="local",
            num_cpus=2 * order["fake_gpus"],
            num_gpus=order["fake_gpus"],
            include_dashboard=False,
            log_to_driver=False,
        )
    # Once for both sweeps, and beside the point.
    for entry in config.models:
        models.materialize(models.resolve(entry))
    result = Path(order["result"])
    database = result.with_name(f"{result.stem}-{int(time.time())}.db")
    start, start_unix_s = time.perf_counter(), time.time()
    store, outcome = api.run(
        config, f"sqlite:///{database}", lambda e: e.message and print(f"  {e.configuration} {e.message}", flush=True)
    )
    wall_s = time.perf_counter() - start
    if not outcome.ok:
        return 1
    runs = {r.name: dict(r.metrics) for r in store.configurations(outcome.run_id)}
    label = store.get(outcome.run_id).params["hardware"]
    stages = {}
    for kind in ("quantize", "profile"):
        for stage in store.search(f"tags.`{TAG.KIND}` = '{kind}'"):
            # A stage's run begins when its engine is open.
            opening_s = stage.metrics.get("timing/engine_start_s", 0.0)
            stages[stage.name] = (stage.start_unix_s - start_unix_s - opening_s, (stage.duration_s or 0.0) + opening_s)
    values = {"wall_s": wall_s, "hardware": label, "metrics": runs, "stages": stages}
    result.write_text(json.dumps(values, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
