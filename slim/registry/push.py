"""A checkpoint with its card on the Hugging Face Hub. Nothing is sent unless it is asked for and a token is there."""

import json
import re
from pathlib import Path

from slim.checkpoint import MANIFEST
from slim.errors import ConfigError, StoreError
from slim.registry.words import CARD

_OWNER = re.compile(r"[A-Za-z0-9][\w.-]*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check(target: str, checkpoints: int) -> None:
    """Refuse a target or a missing token before anything is written.

    Args:
        target: an owner, or a repository's id.
        checkpoints: how many are to be pushed.

    Raises:
        ConfigError: the target is neither, is one repository for several checkpoints, or there is no token.
    """
    from huggingface_hub import get_token

    if _OWNER.fullmatch(target) is None and _REPOSITORY.fullmatch(target) is None:
        raise ConfigError(f"push_to_hub {target!r} is neither an owner nor a repository; allowed: <owner> or <owner>/<name>")
    if "/" in target and checkpoints > 1:
        raise ConfigError(f"push_to_hub {target!r} is one repository for {checkpoints} checkpoints; give the owner alone")
    if get_token() is None:
        raise ConfigError("push_to_hub needs a token of the Hub; log in with `hf auth login`, or set HF_TOKEN")


def repository(target: str, model: str, precision: str) -> str:
    """Return the id of the repository that a checkpoint goes to: ``<owner>/<model>-<precision>`` unless one was named."""
    return target if "/" in target else f"{target}/{model}-{precision}"


def push(folder: Path, card: str, to: str, *, public: bool) -> str:
    """Upload a checkpoint's files and its card and return the commit's address; again, it makes no commit where nothing changed.

    Args:
        folder: checkpoint with its manifest; only what that names is sent.
        card: text of the model card.
        to: repository's id; made when absent.
        public: whether a repository that is made is public.

    Raises:
        StoreError: the Hub refused or was out of reach.
    """
    import httpx
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    names = [*json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"], MANIFEST]
    # One commit, so that nobody sees weights without their card, or half of them.
    files = [CommitOperationAdd(name, folder / name) for name in names if name != CARD]
    files.append(CommitOperationAdd(CARD, card.encode()))
    api = HfApi()
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        api.create_repo(to, private=not public, exist_ok=True)
        return str(api.create_commit(to, files, commit_message="Checkpoint and model card, by slim").commit_url)
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        line = " ".join(str(error).split())[:300]
        raise StoreError(
            f"pushing to {to} failed: {line}; what is registered stays registered, so run the same command again"
        ) from error
    finally:
        if shown:
            enable_progress_bars()
