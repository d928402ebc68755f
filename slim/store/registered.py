"""Finding what a reference means: a registered version, a checkpoint, or a configuration's run; and what belongs to it."""

import re
from dataclasses import dataclass
from pathlib import Path

from slim.errors import NotStoredError, UserError
from slim.store import checkpoints
from slim.store.connection import check_address, default_tracking_uri, open_client, sqlite_path, translated
from slim.store.contract import STAGES, TAG, StoredRun
from slim.store.reading import Reader

ALLOWED = (
    "allowed: <name>@<alias>, <name>/<version> (with or without models:/ before it), a checkpoint's id (m-...), or a configuration's "
    "run id"
)
_RUN = re.compile(r"[0-9a-f]{32}")
_MODEL = re.compile(r"m-[0-9a-f]{32}")
_ALIAS = re.compile(r"([^@/:]+)@([\w-]+)")
_VERSION = re.compile(r"([^@/:]+)/(\d+)")


@dataclass(frozen=True)
class Registered:
    """What a reference leads to.

    Attributes:
        reader: of the experiment that holds it.
        name: to serve it under: the registered model's, else the configuration's.
        title: for a person: registered model and version, checkpoint or run.
        configuration: run that measured it; None where no finished one is found.
        model_id: LoggedModel with the weights; None for original weights that were not registered.
        uri: under which MLflow knows it; None for original weights that were not registered.
        params: of the configuration or, without one, of the checkpoint: ``model``, ``revision``, ``precision``, ``engine``, ...
    """

    reader: Reader
    name: str
    title: str
    configuration: StoredRun | None
    model_id: str | None
    uri: str | None
    params: dict[str, str]

    def folder(self, cache: Path) -> Path | None:
        """Return a local directory with the weights, downloaded into ``cache`` from a remote artifact store; None for original weights.

        Raises:
            StoreError: it cannot be fetched.
        """
        if self.model_id is None:
            return None
        with translated(f"fetching the checkpoint {self.model_id}"):
            return checkpoints.local_path(self.reader.client, self.model_id, cache)

    def stage_artifact(self, path: str, cache: Path) -> Path | None:
        """Return a local copy of a file that one of the configuration's stages wrote, the newest one; None where none did.

        Raises:
            StoreError: it cannot be fetched.
        """
        if self.configuration is None:
            return None
        runs = [self.reader.get(run_id) for stage in STAGES for run_id in self.configuration.stage_runs.get(stage, ())]
        for run in sorted(runs, key=lambda run: -run.start_unix_s):
            try:
                return self.reader.artifact(run, path, cache)
            except NotStoredError:
                continue
        return None


def find(reference: str, tracking_uri: str | None = None) -> Registered:
    """Return what a reference leads to.

    Args:
        reference: see `ALLOWED`.
        tracking_uri: MLflow store; None is the default one.

    Raises:
        UserError: it is not of these forms, or there is no such thing.
        StoreError: the store cannot be opened or read.
    """
    address = check_address(tracking_uri or default_tracking_uri())
    path = sqlite_path(address)
    if path is not None and not path.exists():
        raise UserError(
            f"tracking store {address!r} does not exist, so it has no {reference!r}; name another with --tracking-uri"
        )
    word = reference.strip().removeprefix("models:/").removeprefix("runs:/")
    found = next((m for p in (_ALIAS, _VERSION, _MODEL, _RUN) if (m := p.fullmatch(word))), None)
    if found is None:
        raise UserError(f"model {reference!r} is not something that can be looked up; {ALLOWED}")
    reader = Reader(address, "", open_client(address), None)
    if found.re is _RUN:
        return _of_run(reader, word)
    if found.re is _MODEL:
        return _of_model(reader, word)
    return _of_version(reader, found[1], alias=found[2] if found.re is _ALIAS else None, number=found[2])


def _of_version(reader: Reader, name: str, *, alias: str | None, number: str) -> Registered:
    """What a version of a registered model is."""
    from mlflow.exceptions import MlflowException

    what = f"{name}@{alias}" if alias else f"{name}/{number}"
    client, version = reader.client, None
    with translated(f"looking up {what}"):
        try:
            version = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
    if version is None:
        raise UserError(f"model {what!r} is not registered; {_known(reader, name)}")
    title = f"{name} version {version.version}" + (f" ({alias})" if alias else "")
    run_id = version.tags.get(TAG.CONFIGURATION_RUN)
    source = str(version.source or "")
    model_id = getattr(version, "model_id", None) or (
        source.removeprefix("models:/") if source.startswith("models:/m-") else None
    )
    configuration = _measured(reader, run_id) if run_id else None
    if configuration is None and model_id is None:
        raise UserError(
            f"{title} was not registered from a checkpoint or configuration of this platform: its source is {source!r}"
        )
    found = _of_model(reader, model_id, configuration) if model_id else _of_run(reader, str(run_id))
    uri = f"models:/{what}"
    return Registered(
        found.reader, name, title, configuration or found.configuration, model_id or found.model_id, uri, found.params
    )


def _of_model(reader: Reader, model_id: str, configuration: StoredRun | None = None) -> Registered:
    """What a checkpoint is; its configuration is looked for unless it is known."""
    from mlflow.exceptions import MlflowException

    model = None
    with translated(f"looking up {model_id}"):
        try:
            model = reader.client.get_logged_model(model_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    if model is None:
        raise UserError(f"the store has no checkpoint {model_id!r}")
    inside = Reader(reader.tracking_uri, "", reader.client, model.experiment_id)
    if configuration is None and model.source_run_id:
        configuration = _that_used(inside, model.source_run_id)
    params = dict(configuration.params if configuration else model.params)
    if "precision" not in params:
        raise UserError(f"LoggedModel {model_id!r} is not a checkpoint of this platform: it has no param 'precision'")
    name = model.tags.get(TAG.CONFIG) or model.name
    return Registered(inside, str(name), f"checkpoint {model_id}", configuration, model_id, f"models:/{model_id}", params)


def _of_run(reader: Reader, run_id: str) -> Registered:
    """What a configuration's run is."""
    try:
        run = reader.get(run_id)
    except NotStoredError:
        raise UserError(f"the store has no run {run_id!r}; {ALLOWED}") from None
    if run.kind != "configuration":
        raise UserError(f"run {run_id} is a {run.kind or 'foreign'} run, not a configuration; {ALLOWED}")
    quantized = [reader.get(r) for r in run.stage_runs.get("quantize", ())]
    model_id = next((m for r in quantized for m in r.model_ids), None)
    if model_id is None and run.params.get("method") != "none":
        raise UserError(f"configuration {run.name} (run {run_id}) has no checkpoint: its status is {run.status}")
    uri = f"models:/{model_id}" if model_id else None
    return Registered(
        reader, run.tags.get(TAG.CONFIG, run.name), f"configuration {run.name}", run, model_id, uri, dict(run.params)
    )


def _measured(reader: Reader, run_id: str) -> StoredRun | None:
    """A run, None where it was deleted."""
    try:
        return reader.get(run_id)
    except NotStoredError:
        return None


def _that_used(reader: Reader, source_run: str) -> StoredRun | None:
    """The newest finished configuration with a checkpoint, one on vLLM before the others.

    Args:
        reader: of the experiment that holds it.
        source_run: what wrote the checkpoint: a quantize run, or the configuration that original weights were registered for.
    """
    configurations = f"tags.`{TAG.KIND}` = 'configuration' and attributes.status = 'FINISHED'"
    source = _measured(reader, source_run)
    if source is None or source.kind != "configuration":
        runs = reader.search(f"{configurations} and tags.`{TAG.STAGE_RUNS}` LIKE '%{source_run}%'")
    else:
        same = {name: source.params.get(name) for name in ("model", "revision", "precision")}
        runs = reader.search(f"{configurations} and params.precision = '{same['precision']}'")
        runs = [run for run in runs if same.items() <= run.params.items()]
        runs.sort(key=lambda run: run.run_id != source_run)
    return next((run for run in runs if run.params.get("engine") == "vllm"), runs[0] if runs else None)


def _known(reader: Reader, name: str) -> str:
    """What is registered, for an error message."""
    with translated("listing the registered models"):
        models = {m.name: m for m in reader.client.search_registered_models(max_results=100)}
    if name in models:
        aliases = ", ".join(f"{name}@{alias}" for alias in sorted(models[name].aliases)) or "none yet"
        return f"its aliases: {aliases}"
    return f"registered models: {', '.join(sorted(models)[:10]) or 'none'}"
