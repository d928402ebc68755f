"""What registering a checkpoint writes and how long it takes, against `mlflow.transformers.log_model`.

    python -m benchmarks.register_copies [--model embedded] [--rounds 3]

Both begin with the same finished checkpoint in a directory (by default the embedded model in 16 bit, 270 MB) and end with a version in
the registry of a SQLite store whose artifacts lie on the same disk. Ours is what a sweep and `register` do: the checkpoint is put into the
artifact store as a LoggedModel, every file's hash is checked, the model card is written, a version and an alias are made. MLflow's
gets the directory, its task and its requirements, so that it need not load the model or guess; nothing of it is checked.

Bytes written are those of new files in the artifact store (a file that is linked to one that was there before is not new), and what the
process wrote in all, as the kernel counts it where it does (write_bytes of /proc/<pid>/io), temporary copies included. Each round
starts with an empty store; the median counts.

The last line holds the verdict: at most 1 % of the bytes, and less time; the exit status is 1 otherwise.
"""

import argparse
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from slim import checkpoint as checkpoints
from slim import layout, models, registry
from slim.config import ModelEntry
from slim.jobs import Spool
from slim.provenance import probe
from slim.records import ModelSource, StageResult
from slim.store import TAG, Store

TARGET_SHARE_PCT = 1.0


@dataclass(frozen=True)
class Cost:
    """What one way cost.

    Attributes:
        kept_bytes: of new files in the artifact store.
        written_bytes: by the process in all; None where the kernel does not count.
        wall_s: time.
    """

    kept_bytes: int
    written_bytes: int | None
    wall_s: float


def main() -> int:
    """Measure, print, compare with the targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="as in a sweep file")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    source = models.resolve(ModelEntry(id=arguments.model))
    directory = models.materialize(source)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="register-copies-") as place:
        made = checkpoint(source, directory, Path(place) / "made")
        size = sum(f.stat().st_size for f in made.iterdir())
        ours: list[Cost] = []
        theirs: list[Cost] = []
        for number in range(arguments.rounds):
            home = Path(place) / str(number)
            ours.append(round_of_ours(home / "ours", source, made))
            theirs.append(round_of_mlflow(home / "theirs", made))
            shutil.rmtree(home)
    print(f"hardware     {probe().hardware.label}")
    print(f"checkpoint   {arguments.model}, {size / 1e6:.1f} MB, {arguments.rounds} rounds")
    show("slim", ours)
    show("log_model", theirs)
    share = 100 * bytes_of(ours) / bytes_of(theirs)
    time_ratio = wall_of(theirs) / wall_of(ours)
    met = share <= TARGET_SHARE_PCT and time_ratio > 1
    print(
        f"bytes {share:.3f} % of log_model's (target at most {TARGET_SHARE_PCT:g} %), {time_ratio:.2f} times as fast (target above 1): "
        + ("met" if met else "missed")
    )
    return 0 if met else 1


def bytes_of(costs: list[Cost]) -> float:
    """Return the bytes that count: all that were written where that is known, else those that were kept."""
    written = [cost.written_bytes for cost in costs if cost.written_bytes]
    return statistics.median(written if len(written) == len(costs) else [cost.kept_bytes for cost in costs])


def wall_of(costs: list[Cost]) -> float:
    """Return the median time."""
    return statistics.median(cost.wall_s for cost in costs)


def show(name: str, costs: list[Cost]) -> None:
    """Print a way's medians."""
    kept = statistics.median(cost.kept_bytes for cost in costs)
    written = [cost.written_bytes for cost in costs if cost.written_bytes is not None]
    in_all = f"{statistics.median(written) / 1e6:.2f} MB" if written else "not counted here"
    walls = ", ".join(f"{cost.wall_s:.2f}" for cost in costs)
    print(f"{name:12} {kept / 1e6:.2f} MB kept, {in_all} written in all, {wall_of(costs):.2f} s ({walls})")


def checkpoint(source: ModelSource, directory: Path, target: Path) -> Path:
    """Return a checkpoint of its own with the model's files, as a quantize stage leaves one."""
    target.mkdir()
    for file in [directory / layout.CONFIG, *layout.weight_files(directory), *layout.side_files(directory)]:
        shutil.copyfile(file.resolve(), target / file.name)
    checkpoints.write_manifest(target, "made", checkpoints.describe(directory).parameters)
    return target


def measured(home: Path, work: Callable[[], None]) -> Cost:
    """Return what some work cost that writes below ``home``."""
    known = {(f.stat().st_dev, f.stat().st_ino) for f in home.parents[1].rglob("*") if f.is_file()}
    before, begin_s = written_bytes(), time.perf_counter()
    work()
    wall_s, after = time.perf_counter() - begin_s, written_bytes()
    new = {}
    for file in home.rglob("*"):
        status = file.stat()
        # The database is the same for both and not what is compared.
        if file.is_file() and not file.name.startswith("mlflow.db") and (status.st_dev, status.st_ino) not in known:
            new[status.st_dev, status.st_ino] = status.st_size
    written = None if before is None or after is None or after == before else after - before
    return Cost(sum(new.values()), written, wall_s)


def written_bytes() -> int | None:
    """Return what this process has written, temporary files included; None where the kernel does not say."""
    try:
        return int(psutil.Process().io_counters().write_bytes)
    except (AttributeError, psutil.Error):
        return None


def round_of_ours(home: Path, source: ModelSource, made: Path) -> Cost:
    """Put a checkpoint into a store and register it, as a sweep, a study and `register` do."""
    store = opened(home)
    name = f"{source.short_name}/bnb-nf4@transformers"
    params = {
        "model": source.reference,
        "revision": source.fingerprint,
        "precision": "bnb-nf4",
        "method": "bitsandbytes",
        "engine": "transformers",
        "hardware": probe().hardware.label,
    }
    spool = Spool(home / "spool")
    with spool.writing("made") as draft:
        # The worker writes its checkpoint here; that is quantizing, not registering.
        shutil.copytree(made, draft.checkpoint, copy_function=os.link)
        draft.finish(StageResult("quantize", "made", has_checkpoint=True))

    def work() -> None:
        spooled = spool.find("made")
        assert spooled is not None
        run = store.begin("configuration", name, params=params, tags={TAG.KEY: "c", TAG.CONFIG: name})
        stage = store.log_stage(spooled, name=name, parent=run, params=params, tags={})
        stages = {"quantize": [stage.run_id]}
        store.log(run, metrics={"accuracy/mean": 0.5}, tags={TAG.STAGE_RUNS: json.dumps(stages)})
        store.finish(run)
        answers = [{"request": "balanced", "choice": {"run_id": run}, "sentences": [""]}]
        with tempfile.TemporaryDirectory() as files:
            row = {"runs": [run], "stage_runs": stages, "baseline": None, "validity": None, "metrics": {}}
            said = {"rows": {run: row}, "recommendations": answers, "by_model": {}}
            (Path(files) / "recommendations.json").write_text(json.dumps(said), encoding="utf-8")
            study = store.log_study(Path(files), name="study", params={}, recommended={"balanced": run})
        done = registry.register(registry.Question(study.run_id), store.tracking_uri)
        assert [each.version for each in done.versions] == [1], done

    return measured(home, work)


def round_of_mlflow(home: Path, made: Path) -> Cost:
    """Register the same checkpoint with MLflow's own flavour; what it imports is imported before."""
    import mlflow
    import mlflow.transformers
    import torch  # noqa: F401
    import transformers  # noqa: F401

    store = opened(home)
    mlflow.set_tracking_uri(store.tracking_uri)
    mlflow.set_experiment(store.experiment)

    def work() -> None:
        with mlflow.start_run():
            mlflow.transformers.log_model(
                transformers_model=str(made),
                name="model",
                task="text-generation",
                registered_model_name="theirs",
                pip_requirements=["transformers", "torch"],
            )

    return measured(home, work)


def opened(home: Path) -> Store:
    """Return an empty SQLite store."""
    home.mkdir(parents=True)
    store = Store.open(f"sqlite:///{home / 'mlflow.db'}", "slim")
    assert store is not None
    return store


if __name__ == "__main__":
    sys.exit(main())
