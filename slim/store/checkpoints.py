"""Checkpoints as LoggedModels: written once into the artifact store, linked to the run that made them."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from slim import files, precisions
from slim.checkpoint import MANIFEST
from slim.store import flavour
from slim.store.connection import translated


def write(client: Any, experiment_id: str, run_id: str, source: Path, *, name: str, params: Mapping[str, Any], key: str) -> str:
    """Put a checkpoint directory into the artifact store, as a model that MLflow loads, and return its LoggedModel's id.

    With a local artifact store on the same disk the files are linked, not copied: nothing is written a second time. Nothing is
    written into ``source``.

    Args:
        client: MLflow's.
        experiment_id: of the run.
        run_id: run that made it.
        source: complete checkpoint directory.
        name: of the configuration.
        params: identifying params; ``precision`` says how it is loaded.
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
        with tempfile.TemporaryDirectory() as aside:
            flavour.write(
                Path(aside),
                precisions.get(str(params["precision"])),
                run_id=run_id,
                model_id=model.model_id,
                metadata={"slim.config": name, "slim.key": key},
            )
            if (local := local_directory(model.artifact_location)) is not None:
                _link_tree(source, local)
                _copy_tree(Path(aside), local)
            else:
                client.log_model_artifacts(model.model_id, str(source))
                client.log_model_artifacts(model.model_id, aside)
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    except BaseException:
        client.delete_logged_model(model.model_id)
        raise
    return str(model.model_id)


def exists(client: Any, model_id: str) -> bool:
    """Whether the files of a LoggedModel are there.

    Raises:
        StoreError: nobody can say: the store or its artifacts do not answer.
    """
    with translated(f"looking up checkpoint {model_id}"):
        try:
            model = client.get_logged_model(model_id)
            if str(model.status) != str(LoggedModelStatus.READY):
                return False
            if (local := local_directory(model.artifact_location)) is not None:
                return (local / MANIFEST).exists()
            return any(file.path == MANIFEST for file in client.list_logged_model_artifacts(model_id))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise


def local_path(client: Any, model_id: str, cache: Path) -> Path:
    """Return a local directory with the checkpoint; downloaded into ``cache`` from a remote artifact store."""
    model = client.get_logged_model(model_id)
    if (local := local_directory(model.artifact_location)) is not None:
        return local
    target = files.inside(cache, model_id)
    if not (target / MANIFEST).exists():
        from mlflow.artifacts import download_artifacts

        partial = cache / f".{model_id}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        download_artifacts(artifact_uri=model.artifact_location, dst_path=str(partial), tracking_uri=client.tracking_uri)
        # MLflow puts the last part of the location below the destination.
        inner = partial if (partial / MANIFEST).exists() else next(p.parent for p in partial.rglob(MANIFEST))
        inner.rename(target)
        shutil.rmtree(partial, ignore_errors=True)
    return target


def local_directory(uri: str) -> Path | None:
    """Return the directory of an artifact location on this machine, with or without ``file:``; None for any other."""
    return Path(local_file_uri_to_path(uri)) if is_local_uri(uri, is_tracking_or_registry_uri=False) else None


def _link_tree(source: Path, target: Path) -> None:
    """Hard-link a directory's files into another place, copying where the disk is another one."""

    def link(original: str, copy: str) -> None:
        try:
            # A cache of the Hub holds symbolic links; it is the file that is meant.
            os.link(Path(original).resolve(), copy)
        except OSError:
            shutil.copy2(original, copy)

    shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy a directory's files into another place; a file there that is linked to another one is replaced, not written to."""

    def copy(original: str, file: str) -> None:
        Path(file).unlink(missing_ok=True)
        shutil.copyfile(original, file)

    shutil.copytree(source, target, copy_function=copy, dirs_exist_ok=True)
