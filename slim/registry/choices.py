"""What a study recommends, read from its run."""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from slim.errors import ConfigError, NotStoredError, StoreError
from slim.files import home
from slim.registry.words import Choice, Row
from slim.store import TAG, Store, StoredRun, default_tracking_uri
from slim.store.connection import check_address, open_client, sqlite_path, translated

RECOMMENDATIONS = "recommendations.json"
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)


def open_study(run_id: str, tracking_uri: str | None) -> Store:
    """Open the store at the experiment that a study lies in.

    Args:
        run_id: of the study.
        tracking_uri: MLflow store; None is ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working directory.

    Raises:
        ConfigError: there is no such run, or it is no finished study.
        StoreError: the store cannot be read.
    """
    uri = check_address(tracking_uri or default_tracking_uri())
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise ConfigError(f"study {run_id!r}: there is no store {uri}; run a sweep and a study first")
    # The store answers other words with an error of its own.
    if _RUN_ID.fullmatch(run_id) is None:
        raise ConfigError(f"study {run_id!r} is no run id; allowed: the 32 hexadecimal digits that `study` prints")
    store = Store(uri, "", open_client(uri), None)
    try:
        run = store.get(run_id)
    except NotStoredError:
        raise ConfigError(
            f"study {run_id!r}: there is no such run in {store.address}; `study` prints the id of its run"
        ) from None
    if run.kind != "study":
        what = f"a run of kind {run.kind!r}" if run.kind else "not a run of this program"
        raise ConfigError(f"study {run_id!r} is {what}; allowed: the id that `study` prints")
    if run.status != "FINISHED":
        raise ConfigError(f"study {run_id!r} is {run.status}; run the study again")
    with translated("looking up the experiment"):
        experiment_id = store.client.get_run(run_id).info.experiment_id
        return Store(uri, str(store.client.get_experiment(experiment_id).name), store.client, experiment_id)


def read(
    store: Store, study: StoredRun, objectives: Sequence[str] = (), *, each_model: bool = False
) -> tuple[list[Choice], dict[str, str]]:
    """Return what a study recommends, one entry a configuration, and the deployments for which it recommends nothing, with the reason.

    Args:
        store: where it lies.
        study: its run.
        objectives: names of deployments; empty is all deployments that the study was asked about. The user's own objectives of a study
            are called ``as-asked`` and taken only when named.
        each_model: what is recommended for each model alone, not over all of them.

    Raises:
        ConfigError: an objective that the study does not answer, or tags and file of the study that disagree.
        StoreError: the study's file cannot be fetched or read.
    """
    file = store.artifact(study, RECOMMENDATIONS, home() / "artifacts")
    try:
        said: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        overall = _by_deployment(said["recommendations"])
        alone = [_by_deployment(answers) for answers in said["by_model"].values()]
        rows = _rows(said)
    except _UNREADABLE as error:
        raise StoreError(f"study {study.run_id}: {RECOMMENDATIONS} cannot be read ({error})") from None
    for name, answer in overall.items():
        told = study.tags.get(f"{TAG.RECOMMENDED}{name}")
        chosen = answer["choice"]["run_id"] if answer["choice"] else None
        if told != chosen:
            raise ConfigError(
                f"study {study.run_id}: its tag recommends {told} for {name} and its {RECOMMENDATIONS} {chosen}; run the study again"
            )
    unknown = [name for name in objectives if name not in overall]
    if unknown:
        raise ConfigError(f"objective {unknown[0]!r} is not among what the study answers; allowed: {', '.join(overall)}")
    # A study of one model has no answers by model: they would be the same.
    answers = alone if each_model and alone else [overall]
    wanted = list(objectives) or [name for name in overall if name != "as-asked"]
    chosen_for: dict[str, list[str]] = {}
    unanswered: dict[str, str] = {}
    for answer in answers:
        for name in wanted:
            choice = answer[name]["choice"]
            if choice is not None:
                chosen_for.setdefault(str(choice["run_id"]), []).append(name)
            else:
                unanswered[name] = str(answer[name]["sentences"][0])
    if objectives and not chosen_for:
        raise ConfigError(f"the study recommends nothing to register: {'; '.join(unanswered.values())}")
    unnamed = next((run_id for run_id in chosen_for if run_id not in rows), None)
    if unnamed is not None:
        raise ConfigError(f"study {study.run_id} does not say which runs are behind {unnamed}; run the study again")
    chosen = [Choice(rows[run_id], rows.get(rows[run_id].baseline or ""), tuple(names)) for run_id, names in chosen_for.items()]
    return chosen, unanswered


def row_of(store: Store, study: str, run_id: str) -> tuple[Row, Row | None]:
    """Return a configuration and its baseline as a study saw them; where that is not to be found out, the run alone.

    Args:
        store: where they lie.
        study: id of the study's run.
        run_id: of the configuration.

    Raises:
        NotStoredError: there is no such configuration.
        StoreError: the store cannot be read.
    """
    rows: dict[str, Row] = {}
    if _RUN_ID.fullmatch(study):
        with contextlib.suppress(NotStoredError, *_UNREADABLE):
            file = store.artifact(store.get(study), RECOMMENDATIONS, home() / "artifacts")
            rows = _rows(json.loads(file.read_text(encoding="utf-8")))
    found = rows.get(run_id) or _alone(store.get(run_id))
    return found, rows.get(found.baseline or "")


def _alone(run: StoredRun) -> Row:
    return Row((run.run_id,), run.stage_runs, run.tags.get(TAG.BASELINE))


def _rows(said: Mapping[str, Any]) -> dict[str, Row]:
    """The configurations of a study's file by run id; studies of earlier versions name none."""
    rows = [
        Row(
            (str(run_id), *(str(each) for each in found["runs"] if each != run_id)),
            {str(stage): tuple(map(str, run_ids)) for stage, run_ids in found["stage_runs"].items()},
            found["baseline"],
            found["validity"],
            {str(key): None if value is None else float(value) for key, value in found["metrics"].items()},
        )
        for run_id, found in said.get("rows", {}).items()
    ]
    return {row.run_id: row for row in rows}


def _by_deployment(answers: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {str(answer["request"]).replace(" ", "-"): answer for answer in answers}
