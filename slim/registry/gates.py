"""What a configuration has to pass before it is registered."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.artifacts import download_artifacts

from slim import checkpoint
from slim.errors import StageError
from slim.files import home
from slim.layout import CONFIG
from slim.registry.subject import Subject
from slim.store import TAG, Store, checkpoints
from slim.store.connection import translated


def doubts(subject: Subject) -> list[str]:
    """Return what the store says against a configuration; empty when nothing does."""
    run = subject.run
    found = []
    for one in (run, *subject.older):
        if one.status != "FINISHED":
            why = f": {one.tags[TAG.FAILURE]}" if TAG.FAILURE in one.tags else ""
            found.append(f"its run is {one.status}{why}")
    if flagged := run.tags.get(TAG.VALIDITY):
        found.append(f"its measurement did not pass every check ({flagged})")
    if run.metrics.get("validity/ok", 1.0) < 1 and not flagged:
        found.append("its measurement did not pass every check")
    # Of every run behind it: a newer evaluation that cannot tell does not take back an older one that could.
    inferior = sorted({task for one in (run, *subject.older) for task, verdict in one.verdicts.items() if verdict == "inferior"})
    if inferior:
        found.append(f"it is inferior to its baseline on {', '.join(inferior)}")
    if subject.precision.is_quantized and subject.quantize is not None:
        found += [f"its quantize run is {r.status}" for r in subject.stages["quantize"] if r.status != "FINISHED"]
    return found


@contextmanager
def fetched(store: Store, model_id: str) -> Iterator[Path | None]:
    """Give the directory that the artifact store holds now for a LoggedModel; None when its files are gone.

    A local store's own directory is given as it is. From a remote one everything is fetched anew: a copy that this machine kept says
    nothing about what others would load.
    """
    with translated(f"looking up the files of {model_id}"):
        location = store.client.get_logged_model(model_id).artifact_location
        local = checkpoints.local_directory(location)
        is_there = (
            (local / CONFIG).is_file()
            if local is not None
            else any(file.path == CONFIG for file in store.client.list_logged_model_artifacts(model_id))
        )
    if local is not None or not is_there:
        yield local if is_there else None
        return
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home(), prefix=".registering-") as aside:
        with translated(f"fetching the files of {model_id}"):
            path = download_artifacts(artifact_uri=location, dst_path=aside, tracking_uri=store.tracking_uri)
        yield Path(path)


def mismatch(directory: Path, key: str) -> str | None:
    """Return what shows that a checkpoint is not the one that was measured; None when every file's hash is as it was written.

    Args:
        directory: with the manifest.
        key: of the quantize stage that made it, or the original weights' fingerprint.
    """
    try:
        found = checkpoint.load(directory, verify=True)
    except StageError as error:
        return "its files are not those that were measured" + error.message.partition(str(directory))[2]
    if found.fingerprint != key:
        return f"its files are not those that were measured: the manifest is that of {found.fingerprint}"
    return None
