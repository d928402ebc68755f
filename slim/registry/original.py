"""Original weights as a LoggedModel: written once, when a configuration that serves them is registered first, and found again."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from slim import checkpoint, layout, models
from slim.errors import ModelError, StageError, UserError
from slim.files import home
from slim.records import ModelSource
from slim.registry.subject import Subject
from slim.store import TAG, Store, checkpoints
from slim.store.connection import translated


def find(store: Store, subject: Subject) -> str | None:
    """Return the LoggedModel with a configuration's original weights, to be loaded at its precision; None where there is none yet."""
    with translated("looking up original weights"):
        found = store.client.search_logged_models([store.experiment_id], f"tags.`{TAG.KEY}` = '{subject.fingerprint}'")
    same = (m for m in found if m.params.get("precision") == subject.precision.name)
    return next((str(m.model_id) for m in same if checkpoints.exists(store.client, m.model_id)), None)


def source(subject: Subject) -> ModelSource:
    """Return where a configuration's weights are, made sure that they are those that were measured.

    Raises:
        UserError: they are not there any more, or are others.
    """
    entry = subject.entry
    found = models.resolve(entry)
    if found.fingerprint != subject.fingerprint and found.kind == "local":
        # Where its own code was allowed, that is part of what identifies the model. It is compared here, never run.
        found = models.resolve(entry.model_copy(update={"trust_remote_code": True}))
    if found.fingerprint != subject.fingerprint:
        raise ModelError(f"the weights of {entry.id!r} are not those that were measured ({subject.fingerprint})")
    return found


def write(store: Store, subject: Subject, weights: ModelSource) -> str:
    """Put original weights into the artifact store and return their LoggedModel's id.

    What this program downloaded, converted or made is linked into a local artifact store on the same disk; a user's own directory is copied,
    since whoever edits a file there would edit the registered one.

    Args:
        store: where to.
        subject: configuration that serves them.
        weights: what `source` returned.

    Raises:
        UserError: they cannot be fetched.
        StoreError: they cannot be written; nothing is left then.
    """
    try:
        with _quietly(weights):
            directory = models.materialize(weights)
        parameters = checkpoint.describe(directory).parameters
    except StageError as error:
        raise UserError(error.message) from error
    files = [directory / layout.CONFIG, *layout.weight_files(directory)]
    files += [f for f in (directory / layout.INDEX, *directory.glob("LICENSE*")) if f.is_file()]
    files += layout.side_files(directory, with_code=weights.trust_remote_code)
    with translated(f"writing the weights of {subject.model_name}"), _staging(store) as staging:
        for file in files:
            _place(file, staging / file.name, link=weights.kind != "local")
        checkpoint.write_manifest(staging, subject.fingerprint, parameters)
        return checkpoints.write(
            store.client,
            str(store.experiment_id),
            subject.run.run_id,
            staging,
            name=f"{subject.model_name}/{subject.precision.name}",
            params={name: subject.run.params[name] for name in ("model", "revision", "precision", "method")},
            key=subject.fingerprint,
        )


def _quietly(weights: ModelSource) -> AbstractContextManager[None]:
    """Without the bars that a conversion shows, where there is one to do."""
    if weights.kind not in ("gguf", "embedded") or models.materialized(weights) is not None:
        return nullcontext()
    from slim.quantize.writing import few_words

    return few_words()


@contextmanager
def _staging(store: Store) -> Iterator[Path]:
    """Give a directory on the disk of a local artifact store, else of this program's cache."""
    location = store.client.get_experiment(store.experiment_id).artifact_location
    root = checkpoints.local_directory(location) or home()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".original-") as directory:
        yield Path(directory)


def _place(file: Path, target: Path, *, link: bool) -> None:
    # The Hub's cache holds links to the files themselves.
    real = file.resolve()
    if link:
        try:
            os.link(real, target)
            return
        except OSError:
            pass
    shutil.copyfile(real, target)
