"""Data sets of tasks without a network: where a local copy lies, how one is made, and what it holds. No harness needed."""

import hashlib
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from slim.errors import ConfigError
from slim.files import HashCache, home
from slim.hub import is_offline

_NAMED_AT_MOST = 5


def local_copy(data_set: str, data_dir: Path | None) -> Path | None:
    """Return the directory of a mirror that holds a data set; None where there is none.

    Args:
        data_set: Hub id.
        data_dir: the mirror, laid out ``<organisation>/<name>``; None for none.
    """
    if data_dir is None or ".." in Path(data_set).parts or Path(data_set).is_absolute():
        return None
    path = data_dir.resolve() / data_set
    return path if path.is_dir() else None


def command(data_set: str, data_dir: Path | None) -> str:
    """Return the command that makes a local copy, to be run where there is a network."""
    place = shlex.quote(str(data_dir / data_set)) if data_dir is not None else f"<data_dir>/{data_set}"
    return f"hf download --repo-type dataset {data_set} --local-dir {place}"


def check(data_sets: Mapping[str, str], data_dir: Path | None) -> None:
    """Make sure that the data can be had, as far as that can be known without trying.

    Args:
        data_sets: Hub ids, and for each a task that reads it.
        data_dir: the mirror; None for none.

    Raises:
        ConfigError: ``data_dir`` is no directory; or the Hub must not be asked and a data set is neither in the mirror nor in a
            cache; the message has the commands that mirror it.
    """
    if data_dir is not None and not data_dir.is_dir():
        raise ConfigError(f"evaluate.data_dir: {str(data_dir)!r} is not a directory")
    if not is_offline():
        return
    missing = {one: task for one, task in data_sets.items() if local_copy(one, data_dir) is None and not is_cached(one)}
    if not missing:
        return
    first, task = next(iter(missing.items()))
    others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    commands = " && ".join(command(one, data_dir) for one in list(missing)[:_NAMED_AT_MOST])
    more = " && ..." if len(missing) > _NAMED_AT_MOST else ""
    place = "" if data_dir is not None else ", and name <data_dir> as evaluate.data_dir"
    raise ConfigError(
        f"evaluate.tasks: data set {first!r} of task {task!r}{others} is not on this machine, and HF_HUB_OFFLINE forbids "
        f"asking the Hub; run where there is a network: {commands}{more}{place}"
    )


def fingerprint(data_sets: Mapping[str, str], data_dir: Path | None) -> str:
    """Hash what the mirror holds of the data sets, whatever its files are dated; each file is read once and then remembered.

    Which of its files a task reads only the data set itself knows, so all of them count, hidden ones left out.
    """
    digest = hashlib.sha256()
    hashes = HashCache(home() / "hashes.json")
    for data_set in sorted(data_sets):
        place = local_copy(data_set, data_dir)
        if place is None:
            continue
        digest.update(f"{data_set}\n".encode())
        files = (path for path in place.rglob("*") if path.is_file())
        for name, path in sorted((path.relative_to(place).as_posix(), path) for path in files):
            if not any(part.startswith(".") for part in name.split("/")):
                digest.update(f"{name} {hashes.sha256(path)}\n".encode())
    hashes.save()
    return digest.hexdigest()[:16]


def cache_dir(data_set: str, data_dir: Path | None) -> str | None:
    """Return where the ``datasets`` package is to cache what it reads of a local copy; None where there is none.

    It caches a directory under its last name and its configuration, whatever its files hold: of two copies, or a copy before
    and after a change, it would return the one that it saw first. So each content gets a cache of its own.
    """
    if local_copy(data_set, data_dir) is None:
        return None
    import datasets

    return str(Path(datasets.config.HF_DATASETS_CACHE) / f"mirror-{fingerprint({data_set: ''}, data_dir)}")


def is_cached(data_set: str) -> bool:
    """Whether an earlier download may have left the data set in one of the Hub's caches; which files, only a try tells."""
    from huggingface_hub.constants import HF_HOME, HF_HUB_CACHE

    converted = Path(os.environ.get("HF_DATASETS_CACHE", Path(HF_HOME) / "datasets"))
    plain = data_set.replace("/", "___")
    return (Path(HF_HUB_CACHE) / f"datasets--{data_set.replace('/', '--')}").is_dir() or any(
        _folded(path.name) == _folded(plain) for path in converted.glob("*___*")
    )


def _folded(name: str) -> str:
    return name.lower().replace("-", "_").replace("_", "")
