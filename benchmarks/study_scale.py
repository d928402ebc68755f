"""How long reading a store of 10,000 configurations takes, against MLflow's own search for the same runs.

    python -m benchmarks.study_scale [--runs 10000] [--later-runs 3]

Makes a SQLite store. Its first hundred configurations are written by `slim.store.Store`, with as many params, tags and metrics as a
configuration of a real sweep (profile and evaluation) has; the others are copies of them within SQLite, table by table (``runs``,
``params``, ``tags``, ``metrics``, ``latest_metrics``), each with a run id of its own and values that differ a little. Logging each
through MLflow would take much longer and leave the same rows.

The peer is ``MlflowClient.search_runs``, page by page, which is all that MLflow offers; nothing is made of what it returns. Ours ends
in a frame of one row a configuration, `analysis.selection`'s work on it included. Both run in this process, one after the other, MLflow's
first, with the client open. First read: no copy on this machine. Later reads: of a store that did not change, and of one in which a run
was added, one was changed and one was deleted since; the slowest counts.

The last line holds the verdict: the first read takes at most as long as MLflow's search (2 % allowed for noise), the later ones less
than 2 s; the exit status is 1 otherwise.
"""

import argparse
import json
import os
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from analysis import cache, selection
from slim.provenance import probe
from slim.store import TAG, Store
from slim.store.tables import SETTLED_S

TARGET_RATIO = 1.02
TARGET_LATER_S = 2.0
_ORIGINALS = 100
_METRICS = (
    *(f"latency/{name}_{s}_ms" for name in ("ttft", "tpot", "itl", "e2e") for s in ("mean", "p50", "p95", "p99")),
    *(
        f"latency/{name}_{s}_ms{end}"
        for name in ("ttft", "tpot", "itl", "e2e")
        for s in ("mean", "p95")
        for end in ("_ci_low", "_ci_high")
    ),
    *("throughput/output_tokens_per_s", "throughput/total_tokens_per_s", "throughput/requests_per_s", "throughput/max_batch"),
    *("memory/weights_mib", "memory/kv_capacity_tokens", "memory/peak_mib", "memory/mean_mib", "memory/required_mib"),
    *("energy/gross_j_per_query", "energy/net_j_per_query", "energy/net_j_per_output_token", "energy/net_kwh", "energy/idle_w"),
    *("energy/mean_power_w", "energy/counter_ratio", "gpu/utilization_mean_pct", "size/checkpoint_gb", "size/parameters"),
    *("size/bits_per_weight", "quantize/duration_s", "quantize/peak_mib", "quantize/energy_j", "efficiency/mbu", "accuracy/mean"),
    *(f"accuracy/{t}{end}" for t in ("gsm8k", "mmlu", "hellaswag") for end in ("", "_stderr", "_ci_low", "_ci_high")),
    *("accuracy/mmlu_stem", "accuracy/mmlu_humanities", "accuracy/mmlu_social_sciences", "accuracy/mmlu_other"),
    *(
        "fidelity/kl_divergence_nats",
        "fidelity/top1_agreement",
        "fidelity/flip_rate",
        "fidelity/perplexity",
        "fidelity/mcnemar_p",
    ),
    *("impact/speedup", "impact/energy_reduction_pct", "impact/size_reduction_pct", "validity/ok"),
    *(f"impact/{t}_drop_pct" for t in ("gsm8k", "mmlu", "hellaswag", "mmlu_stem", "mmlu_other", "mean")),
)


def main() -> int:
    """Make, measure, print, compare with the targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--later-runs", type=int, default=3, help="times that each later read is taken; the slowest counts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        os.environ["SLIM_HOME"] = str(Path(directory) / "home")
        path = Path(directory) / "mlflow.db"
        store = make(path, arguments.runs)
        settle()
        print(f"hardware         {probe().hardware.label}")
        print(
            f"store            {arguments.runs} configurations, {path.stat().st_size / 2**20:.0f} MiB, {len(_METRICS)} metrics each"
        )
        peer_s, found = timed(lambda: search(store))
        first_s, frame = timed(lambda: read(store))
        print(f"MLflow's search  {peer_s:8.2f} s, {found} runs")
        print(f"first read       {first_s:8.2f} s, {frame} rows")
        later_s = max(timed(lambda: read(store))[0] for _ in range(arguments.later_runs))
        print(f"later read       {later_s:8.2f} s, nothing changed")
        changed_s, noticed = 0.0, True
        for _ in range(arguments.later_runs):
            change(store)
            settle()
            one_s, rows = timed(lambda: read(store))
            # One came and one went; the one that was changed, the same each time, is flagged and so left out.
            changed_s, noticed = max(changed_s, one_s), noticed and rows == arguments.runs - 1
        print(
            f"later read       {changed_s:8.2f} s, a run added, one changed, one deleted: {'noticed' if noticed else 'NOT NOTICED'}"
        )
    ratio = first_s / peer_s
    met = ratio <= TARGET_RATIO and max(later_s, changed_s) < TARGET_LATER_S and noticed and found == frame == arguments.runs
    told = f"first read {ratio:.2f}x of MLflow's search (target 1.00x), later {max(later_s, changed_s):.2f} s (target {TARGET_LATER_S:.0f} s)"
    print(f"{told}: {'met' if met else 'missed'}")
    return 0 if met else 1


def timed(call: Callable[[], int]) -> tuple[float, int]:
    """Return wall seconds, and what the call returns."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def search(store: Store) -> int:
    """MLflow's search for the configurations; return how many it found."""
    found, token = 0, None
    while True:
        page = store.client.search_runs(
            [store.experiment_id], f"tags.`{TAG.KIND}` = 'configuration'", max_results=1000, page_token=token
        )
        found += len(page)
        token = page.token
        if not token:
            return found


def read(store: Store) -> int:
    """Our reading, to the frame; return its rows."""
    return len(selection.select(store, selection.Filters()).frame)


def settle() -> None:
    """Wait until the store's file counts as unchanging."""
    time.sleep(SETTLED_S + 0.1)


def change(store: Store) -> None:
    """Add a run, change one and delete one."""
    runs = cache.runs(store)
    old = next(run for run in runs if run.kind == "configuration")
    added = store.begin(
        "configuration", old.name, params={**old.params, "model": f"added-{time.time_ns()}"}, tags={TAG.CONFIG: old.name}
    )
    store.log(added, metrics=old.metrics)
    store.finish(added)
    store.log(runs[-2].run_id, tags={TAG.VALIDITY: f"changed_{len(runs)}"})
    store.client.delete_run(runs[-3].run_id)


def make(path: Path, runs: int) -> Store:
    """Return a store of that many configurations."""
    store = Store.open(f"sqlite:///{path}", "slim")
    assert store is not None
    sweep = store.begin("sweep", "scale")
    for index in range(min(_ORIGINALS, runs)):
        _write(store, sweep, index)
    store.finish(sweep)
    copies = -(-(runs - _ORIGINALS) // _ORIGINALS)
    with sqlite3.connect(path) as connection:
        originals = [
            row[0]
            for row in connection.execute("SELECT run_uuid FROM tags WHERE key = ? AND value = 'configuration'", [TAG.KIND])
        ]
        connection.execute("CREATE TEMP TABLE copy (old TEXT, new TEXT, number INTEGER)")
        pairs = [(old, uuid.uuid4().hex, n) for n in range(1, copies + 1) for old in originals][: max(0, runs - len(originals))]
        connection.executemany("INSERT INTO copy VALUES (?, ?, ?)", pairs)
        for table in ("runs", "params", "tags", "metrics", "latest_metrics"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            values = ", ".join(_copied(table, column) for column in columns)
            connection.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM copy JOIN {table} t ON t.run_uuid = copy.old"
            )
    connection.close()
    return store


def _copied(table: str, column: str) -> str:
    """The SQL expression of a column of a copy."""
    if column == "run_uuid":
        return "copy.new"
    if column == "value" and table in ("metrics", "latest_metrics"):
        return "t.value * (1 + 0.0001 * copy.number)"
    if table == "params" and column == "value":
        # Another model, so that a copy is a configuration of its own.
        return "CASE t.key WHEN 'model' THEN t.value || '-' || copy.number ELSE t.value END"
    if table == "tags" and column == "value":
        return "CASE t.key WHEN 'slim.key' THEN t.value || '-' || copy.number ELSE t.value END"
    return f't."{column}"'


def _write(store: Store, sweep: str, index: int) -> None:
    """Log a configuration as the ledger does."""
    name = f"model-{index}/gptq-int4@vllm"
    params = {
        "model": f"model-{index}",
        "revision": f"sha256:{index:064x}",
        "precision": "gptq-int4",
        "method": "gptq",
        "engine": "vllm",
        "hardware": "1x NVIDIA H200",
        "engine_version": "0.26.0",
        "dtype": "bfloat16",
        "seed": 42,
        **{f"engine_options.option_{n}": n for n in range(6)},
        **{f"quantize.setting_{n}": n for n in range(12)},
        **{f"evaluate.setting_{n}": n for n in range(20)},
        **{f"profile.setting_{n}": n for n in range(28)},
    }
    tags = {
        TAG.CONFIG: name,
        TAG.KEY: f"{index:032x}",
        TAG.SWEEP: "scale",
        TAG.STAGE_RUNS: json.dumps({"profile": [f"{index:032x}"]}),
    }
    run_id = store.begin("configuration", name, parent=sweep, params=params, tags=tags)
    # Accuracies are fractions, and what could not be one would be left out.
    bases = (0.3 if key.startswith("accuracy/") else 1.0 for key in _METRICS)
    store.log(
        run_id, metrics={key: b * (1 + 0.01 * n + 0.001 * index) for n, (key, b) in enumerate(zip(_METRICS, bases, strict=True))}
    )
    store.finish(run_id)


if __name__ == "__main__":
    sys.exit(main())
