"""Models of the Hugging Face Hub: an id and a revision become a commit, a commit becomes a directory."""

import os
import re
from pathlib import Path

from slim import layout
from slim.config import ModelEntry
from slim.errors import ModelError, Reason, StageError
from slim.files import home
from slim.records import ModelSource, OnProgress, Progress

PATTERNS = (layout.CONFIG, layout.INDEX, "*.safetensors", "*.model", *layout.SIDE_FILES)
"""What is downloaded; never pickled weights."""

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MIRROR = "give a local directory that holds it instead"
_TIMEOUT_S = 20.0
_TRUE = {"1", "ON", "YES", "TRUE"}


def is_offline() -> bool:
    """Whether the user forbade to ask the Hub."""
    return any(os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))


def is_id(reference: str) -> bool:
    """Whether ``reference`` has a Hub id's form, ``org/name``."""
    return _ID.fullmatch(reference) is not None


def resolve(entry: ModelEntry) -> ModelSource:
    """Resolve a Hub id to the commit that its revision means now: asked at the Hub, else taken from the local Hub cache.

    Raises:
        ModelError: no such model or revision, no access, not a causal language model in safetensors, or no network and
            nothing in the cache.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"model {entry.id!r}"
    try:
        info = HfApi().model_info(entry.id, revision=entry.revision, timeout=_TIMEOUT_S)
    except GatedRepoError:
        raise ModelError(f"{name} is gated on the Hub: accept its terms there and log in with `hf auth login`") from None
    except RevisionNotFoundError:
        raise ModelError(f"{name} has no revision {entry.revision!r} on the Hub") from None
    except RepositoryNotFoundError:
        raise ModelError(f"{name} is neither on the Hub, as far as you may see, nor a local directory") from None
    except HFValidationError as error:
        raise ModelError(f"{name} is not a Hub id: {' '.join(str(error).split())}") from None
    except (OfflineModeIsEnabled, httpx.HTTPError, HfHubHTTPError, OSError):
        commit = _cached_commit(entry.id, entry.revision or "main")
        if commit is None:
            raise ModelError(f"{name}: unknown model or no network; {_MIRROR}") from None
        return _source(entry, commit)
    if info.sha is None:
        raise ModelError(f"{name}: the Hub names no commit for revision {entry.revision!r}")
    _check(info.config, [s.rfilename for s in info.siblings or []], entry.id)
    return _source(entry, info.sha)


def check_access(source: ModelSource) -> None:
    """Make sure that a model that is gated on the Hub is so for others only. Without a network nothing is said here.

    Raises:
        StageError: ``model_unavailable``: its terms were not accepted, or nobody is logged in.
    """
    import httpx
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        return
    try:
        HfApi().auth_check(source.reference)
    except GatedRepoError:
        raise StageError(
            Reason.MODEL_UNAVAILABLE,
            f"model {source.reference!r} is gated on the Hub: accept its terms there and log in with `hf auth login`, or set HF_TOKEN",
        ) from None
    except RepositoryNotFoundError:
        raise StageError(
            Reason.MODEL_UNAVAILABLE, f"model {source.reference!r} is not on the Hub, as far as you may see"
        ) from None
    except (httpx.HTTPError, HfHubHTTPError, OSError):
        return


def downloaded(source: ModelSource) -> Path | None:
    """Return the directory of a commit that the local Hub cache holds whole, else None."""
    path = _snapshot(source.reference, source.revision or "")
    # A download that was cut off looks whole when only a small file is missing, so a finished one leaves a mark.
    if not _mark(source).exists():
        return None
    try:
        layout.check_directory(path, source.reference)
    except ModelError:
        return None
    return path


def download(source: ModelSource, on_progress: OnProgress) -> Path:
    """Download a commit's configuration, tokenizer and weights and return their directory.

    Raises:
        StageError: ``model_unavailable``.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    patterns = [*PATTERNS, *(layout.CODE_FILES if source.trust_remote_code else ())]
    on_progress(Progress(f"download {source.short_name}", 0, None, "files"))
    try:
        path = Path(
            snapshot_download(
                source.reference,
                revision=source.revision,
                allow_patterns=patterns,
                ignore_patterns=["consolidated*", "original/*"],
            )
        )
        layout.check_directory(path, source.reference)
        mark = _mark(source)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        return path
    except ModelError as error:
        raise StageError(Reason.MODEL_UNAVAILABLE, str(error)) from error
    except (httpx.HTTPError, HfHubHTTPError, OSError, ValueError) as error:
        raise StageError(
            Reason.MODEL_UNAVAILABLE,
            f"model {source.reference!r} cannot be downloaded ({type(error).__name__}); {_MIRROR}",
        ) from error


def _check(config: dict[str, object] | None, files: list[str], reference: str) -> None:
    """What can be told before a download; the rest shows when the files are here."""
    if config and config.get("architectures"):
        layout.check_config(dict(config), reference)
    if files and not any(f.endswith(".safetensors") and "/" not in f for f in files):
        raise ModelError(f"model {reference!r} has no safetensors weights on the Hub; allowed: safetensors")


def _source(entry: ModelEntry, commit: str) -> ModelSource:
    name = layout.short(entry.id.rpartition("/")[2])
    # With its own code the same weights may compute something else.
    fingerprint = f"hub:{commit}{'+code' if entry.trust_remote_code else ''}"
    return ModelSource(entry.id, "hub", commit, fingerprint, name, None, entry.trust_remote_code)


def _cached_commit(repository: str, revision: str) -> str | None:
    if _COMMIT.fullmatch(revision):
        return revision if _snapshot(repository, revision).is_dir() else None
    try:
        commit = (_cache(repository) / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if _snapshot(repository, commit).is_dir() else None


def _mark(source: ModelSource) -> Path:
    # Where the user allowed the model's own code, that was downloaded too.
    return home() / "downloads" / f"{source.revision}{'-code' if source.trust_remote_code else ''}"


def _snapshot(repository: str, commit: str) -> Path:
    return _cache(repository) / "snapshots" / commit


def _cache(repository: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
