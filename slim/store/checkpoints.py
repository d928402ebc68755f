"""Checkpoints as LoggedModels: written once into the artifact store, linked to the run that made them."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.utils.file_utils import local_file_uri_to_path

from slim.checkpoint import MANIFEST


def write(client: Any, experiment_id: str, run_id: str, source: Path, *, name: str, params: Mapping[str, Any], key: str) -> str:
    """Put a checkpoint directory into the artifact store and return its LoggedModel's id.

    With a local artifact store on the same disk the files are linked, not copied: nothing is written a second time.

    Args:
        client: MLflow's.
        experiment_id: of the run.
        run_id: quantize run that made it.
        source: complete checkpoint directory.
        name: of the configuration.
        params: identifying params.
        key: of the quantize stage.
    """
    model = client.create_logged_model(
        experiment_id,
        name=name.replace("/", "-").replace("@", "-").replace(":", "-").replace(".", "_"),
        source_run_id=run_id,
        tags={"slim.key": key, "slim.config": name},
        params={k: str(v) for k, v in params.items() if v is not None},
        model_type="checkpoint",
    )
    try:
        Model(run_id=run_id, model_id=model.model_id).save(str(source / "MLmodel"))
        if model.artifact_location.startswith("file:"):
            _link_tree(source, Path(local_file_uri_to_path(model.artifact_location)))
        else:
            client.log_model_artifacts(model.model_id, str(source))
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    except Exception:
        client.delete_logged_model(model.model_id)
        raise
    return str(model.model_id)


def exists(client: Any, model_id: str) -> bool:
    """Whether the files of a LoggedModel are there."""
    try:
        model = client.get_logged_model(model_id)
        if str(model.status) != str(LoggedModelStatus.READY):
            return False
        if model.artifact_location.startswith("file:"):
            return (Path(local_file_uri_to_path(model.artifact_location)) / MANIFEST).exists()
        return any(file.path == MANIFEST for file in client.list_logged_model_artifacts(model_id))
    except MlflowException:
        return False


def local_path(client: Any, model_id: str, cache: Path) -> Path:
    """Return a local directory with the checkpoint; downloaded into ``cache`` from a remote artifact store."""
    model = client.get_logged_model(model_id)
    if model.artifact_location.startswith("file:"):
        return Path(local_file_uri_to_path(model.artifact_location))
    target = cache / model_id
    if not (target / MANIFEST).exists():
        from mlflow.artifacts import download_artifacts

        partial = cache / f".{model_id}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        download_artifacts(artifact_uri=f"models:/{model_id}", dst_path=str(partial), tracking_uri=client.tracking_uri)
        partial.rename(target)
    return target


def _link_tree(source: Path, target: Path) -> None:
    """Hard-link a directory's files into another place, copying where the disk is another one."""

    def link(original: str, copy: str) -> None:
        try:
            os.link(original, copy)
        except OSError:
            shutil.copy2(original, copy)

    shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)
