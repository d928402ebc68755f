"""Secrets taken out of text before it is kept or shown: params, tags, logs, artifacts, errors.

What is taken out: the values of environment variables whose names say that they are secret, the token that ``hf auth login`` left
behind, user name and password of an address, and whatever looks like a token of the Hub, GitHub, a cloud, or an HTTP header.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"(?:TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|API_?KEY|ACCESS_?KEY|CREDENTIALS?|PRIVATE_?KEY)$", re.IGNORECASE
)
_ALWAYS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_SHORTEST, _SHORT = 4, 8
"""Characters of a secret at least: of a variable that can hold nothing else, and of one whose name only sounds like it.

A shorter value would be found in every other word.
"""
_PASSWORD = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#:@]*:([^\s/?#@]+)@")
_USER_INFO = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#'\"<>]*@")
_PARAMETER = re.compile(
    r"(?P<name>[?&;](?:[\w.-]*(?:token|password|passwd|secret|signature|sig|api_?key|access_?key)))=[^\s&;'\"<>]+", re.IGNORECASE
)
_HEADER = re.compile(r"(?P<name>\b(?:authorization\W{1,4})?(?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{6,}", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}|dapi[0-9a-f]{32})\b"
)

_Value = TypeVar("_Value")


def redact(text: str) -> str:
    """Return a text with every secret in it replaced by ``***``."""
    return _without(text, _secrets())


def _without(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = _USER_INFO.sub(rf"\g<scheme>{HIDDEN}@", text) if "@" in text else text
    text = _PARAMETER.sub(rf"\g<name>={HIDDEN}", text) if "=" in text else text
    return _SHAPES.sub(HIDDEN, _HEADER.sub(rf"\g<name>{HIDDEN}", text))


def redacted(values: Mapping[str, _Value]) -> dict[str, _Value]:
    """Return a mapping whose texts, also those inside lists and mappings, hold no secrets."""
    # Looked up once for all of them: a run has hundreds.
    secrets = _secrets()
    return {key: _inside(value, secrets) for key, value in values.items()}


def scrub(file: Path) -> None:
    """Take secrets out of a text file; one that holds none, or that is not there, is left alone.

    Bytes that are no UTF-8 stay as they are.
    """
    try:
        before = file.read_text(encoding="utf-8", errors="surrogateescape")
        after = redact(before)
        if after != before:
            file.write_text(after, encoding="utf-8", errors="surrogateescape")
    except OSError:
        return


def _inside(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        return _without(value, secrets)
    if isinstance(value, Mapping):
        return {key: _inside(one, secrets) for key, one in value.items()}
    return type(value)(_inside(one, secrets) for one in value) if type(value) in (list, tuple) else value


def _secrets() -> list[str]:
    """What is secret here and now, also as an address would spell it, the longest first."""
    known = [value for name, value in os.environ.items() if name in _ALWAYS and len(value) >= _SHORTEST]
    known += [value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORT]
    known += [found[1] for value in os.environ.values() if (found := _PASSWORD.search(value)) and len(found[1]) >= _SHORTEST]
    known += [token for token in (_hub_token(),) if len(token) >= _SHORT]
    stripped = {value.strip() for value in known} - {""}
    return sorted({form for value in stripped for form in (value, quote(value, safe=""))}, key=len, reverse=True)


def has_hub_token() -> bool:
    """Whether there is a token of the Hub, in the environment or from ``hf auth login``."""
    return bool(os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or _hub_token())


def _hub_token() -> str:
    """What ``hf auth login`` wrote; empty where nobody logged in."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    directory = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    try:
        return Path(os.environ.get("HF_TOKEN_PATH") or f"{directory}/token").expanduser().read_text(encoding="utf-8").strip()
    except (OSError, RuntimeError, UnicodeDecodeError):
        return ""
