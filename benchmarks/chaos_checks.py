"""What must hold after a sweep that was killed and started again until it was done."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow.tracking import MlflowClient

from slim import checkpoint as checkpoints
from slim.errors import StageError
from slim.evaluate import had_reference, has_reference
from slim.jobs import Spool
from slim.store import TAG, Store, StoredRun
from slim.store.checkpoints import local_directory

STAGES = ("quantize", "profile", "evaluate")
DETERMINISTIC = ("accuracy/", "fidelity/", "size/", "memory/weights_mib")
"""Beginnings of the keys of metrics that two undisturbed runs have in common to the last digit."""


@dataclass
class Finished:
    """Stages that were seen finished, and when: work on them that began later was wasted.

    Attributes:
        seen_s: wall clock at which each key was first seen finished.
    """

    seen_s: dict[str, float] = field(default_factory=dict)

    def look(self, spool: Spool, store: Store, now_s: float) -> None:
        """Note what is finished in the store or in the spool."""
        keys = [run.tags[TAG.KEY] for run in _stage_runs(store) if _is_whole(run)]
        for spooled in filter(None, map(spool.find, spool.keys())):
            if spooled.result.failure is None and (spooled.result.stage != "evaluate" or _compares(spooled.result.params)):
                keys.append(spooled.result.key)
        for key in keys:
            self.seen_s.setdefault(key, now_s)

    def again(self, spool: Spool) -> Iterator[str]:
        """Yield what was begun although it had been seen finished."""
        for path in spool.root.glob("jobs/*/job.json"):
            begun_s = path.stat().st_mtime
            for order in json.loads(path.read_text(encoding="utf-8"))["orders"]:
                if begun_s > self.seen_s.get(order["key"], float("inf")):
                    yield f"{order['stage']} {order['key'][:8]} was begun again although it had finished"


def misses(store: Store, spool: Spool, finished: Finished, reference: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return what is not as it should be.

    Args:
        store: of the sweep.
        spool: of the sweep.
        finished: what was seen on the way.
        reference: deterministic metrics by configuration, of an undisturbed run.
    """
    found = [*_configurations(store, reference), *_stages(store), *finished.again(spool), *_checkpoints(store)]
    found += [f"run {run.name} is left {run.status}" for run in store.search("attributes.status = 'RUNNING'")]
    found += [f"{len(waiting)} results are left in the spool"] if (waiting := spool.keys()) else []
    left = [p.name for p in (*spool.root.glob("pieces/*"), *spool.root.glob(".*"))]
    found += [f"left in the spool: {', '.join(left)}"] if left else []
    return found


def deterministic(run: StoredRun) -> dict[str, float]:
    """Return the metrics of a configuration that must come out the same."""
    return {k: v for k, v in run.metrics.items() if k.startswith(DETERMINISTIC)}


def _configurations(store: Store, reference: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    # What ended while its baseline had failed is superseded by what was compared with it, as in a study.
    done = [run for run in store.configurations() if run.status == "FINISHED" and _compares(run.params)]
    counts = Counter(run.tags[TAG.CONFIG] for run in done)
    for name, metrics in reference.items():
        if counts[name] != 1:
            yield f"{name} finished {counts[name]} times"
        for run in (r for r in done if r.tags[TAG.CONFIG] == name):
            measured = deterministic(run)
            wrong = sorted(k for k in metrics.keys() | measured.keys() if metrics.get(k) != measured.get(k))
            if wrong:
                yield f"{name}: other than undisturbed: {', '.join(wrong)}"
            if "seed" not in run.params or not any(k.startswith("engine_options.") for k in run.params):
                yield f"{name}: params are missing"


def _stages(store: Store) -> Iterator[str]:
    counts = Counter((run.kind, run.tags[TAG.KEY]) for run in _stage_runs(store) if _is_whole(run))
    for (kind, key), count in counts.items():
        if count != 1:
            yield f"{kind} {key[:8]} finished {count} times"


def _checkpoints(store: Store) -> Iterator[str]:
    client = MlflowClient(store.tracking_uri)
    models = client.search_logged_models([store.experiment_id])
    owners = {m for run in store.search(f"tags.`{TAG.KIND}` = 'quantize'") if run.status == "FINISHED" for m in run.model_ids}
    for model in models:
        if model.model_id not in owners:
            yield f"checkpoint {model.model_id} ({model.status}) belongs to no finished run"
    for model_id in owners:
        path = local_directory(client.get_logged_model(model_id).artifact_location)
        assert path is not None
        try:
            checkpoints.load(path, verify=True)
        except StageError as error:
            yield f"a finished run's checkpoint is not whole: {error}"


def _stage_runs(store: Store) -> list[StoredRun]:
    return [run for kind in STAGES for run in store.search(f"tags.`{TAG.KIND}` = '{kind}'")]


def _is_whole(run: StoredRun) -> bool:
    """Whether nothing is missing: what was evaluated while its baseline was not is evaluated once more."""
    return run.status == "FINISHED" and (run.kind != "evaluate" or _compares(run.params))


def _compares(params: Mapping[str, Any]) -> bool:
    return has_reference(params) or had_reference(params)
