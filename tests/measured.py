"""A store of real measurements, small enough to lie beside the tests.

    python -m tests.measured sqlite:///mlflow.db tests/data/h200

writes a store's runs and what its profiles measured request by request to two files, beside those of other stores that are there
already; `restored` makes a store of them again. Left out are checkpoints, traces and logs, and who measured where.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunStatus, RunTag

_PRIVATE = ("mlflow.user", "mlflow.source", "mlflow.log-model", "slim.host", "slim.pid", "slim.heartbeat", "slim.commit")
_REQUESTS = "requests.parquet"


def export(uri: str, directory: Path) -> None:
    """Add the runs of the experiment ``slim`` and the requests of its profiles to what the directory holds, oldest first.

    Runs that it holds already are written anew.
    """
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("slim")
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    found = {
        run.info.run_id: {
            "run_id": run.info.run_id,
            "name": run.info.run_name,
            "status": run.info.status,
            "start_ms": run.info.start_time,
            "end_ms": run.info.end_time,
            "params": run.data.params,
            "metrics": {k: float(f"{v:.7g}") for k, v in run.data.metrics.items()},
            "tags": {k: v for k, v in run.data.tags.items() if not k.startswith(_PRIVATE)},
        }
        for run in runs
    }
    parts = []
    if directory.exists():
        found = {row["run_id"]: row for row in rows(directory)} | found
        kept = pd.read_parquet(directory / _REQUESTS)
        parts.append(kept[~kept["run_id"].isin([run.info.run_id for run in runs])])
    for run in runs:
        if any(f.path == _REQUESTS for f in client.list_artifacts(run.info.run_id)):
            part = pd.read_parquet(client.download_artifacts(run.info.run_id, _REQUESTS))
            # From the submission on, in microseconds: a third of the size, and no rounding that matters.
            part["token_us"] = [
                [round(1e6 * (t - start)) for t in times]
                for start, times in zip(part["submitted_s"], part["token_times_s"], strict=True)
            ]
            parts.append(part.drop(columns="token_times_s").assign(run_id=run.info.run_id))
    directory.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, sort_keys=True) for row in sorted(found.values(), key=lambda row: row["start_ms"])]
    (directory / "runs.jsonl").write_text("\n".join(lines) + "\n")
    pd.concat(parts).to_parquet(directory / _REQUESTS, compression="zstd", index=False)


def rows(directory: Path) -> list[dict[str, Any]]:
    """Return the exported runs, oldest first."""
    return [json.loads(line) for line in (directory / "runs.jsonl").read_text().splitlines()]


def restored(directory: Path, uri: str, artifacts: Path) -> dict[str, str]:
    """Write the runs into the experiment ``slim`` of an empty store and return their new ids by the old ones."""
    client = MlflowClient(uri)
    experiment = client.create_experiment("slim", artifacts.as_uri())
    exported = rows(directory)
    ids: dict[str, str] = {}
    for row in exported:
        ids[row["run_id"]] = client.create_run(experiment, row["start_ms"], run_name=row["name"]).info.run_id
    for row in exported:
        tags = dict(row["tags"])
        for old, new in ids.items():
            tags = {k: v.replace(old, new) for k, v in tags.items()}
        client.log_batch(
            ids[row["run_id"]],
            [Metric(k, v, row["end_ms"], 0) for k, v in row["metrics"].items()],
            [Param(k, v) for k, v in row["params"].items()],
            [RunTag(k, v) for k, v in tags.items()],
        )
        client.set_terminated(ids[row["run_id"]], row["status"], row["end_ms"])
        assert RunStatus.is_terminated(RunStatus.from_string(row["status"]))
    for old, part in pd.read_parquet(directory / _REQUESTS).groupby("run_id"):
        part["token_times_s"] = [
            [start + 1e-6 * t for t in times] for start, times in zip(part["submitted_s"], part["token_us"], strict=True)
        ]
        target = artifacts / ids[str(old)] / "artifacts" / _REQUESTS
        target.parent.mkdir(parents=True, exist_ok=True)
        part.drop(columns=["run_id", "token_us"]).to_parquet(target, index=False)
    return ids


if __name__ == "__main__":
    export(sys.argv[1], Path(sys.argv[2]))
