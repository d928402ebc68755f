"""The paths that a sweep file names, made absolute: workers run in another directory than whoever asked for the sweep."""

import os
from pathlib import Path
from typing import Any

from slim import text
from slim.config import SweepConfig


def absolute(config: SweepConfig) -> SweepConfig:
    """Return the sweep with every path absolute, from the working directory, ``~`` replaced by the home directory.

    Texts and prompts are paths where such a file exists, else names of data sets; an interpreter without a slash is looked up on
    ``PATH``. Models are left as they are written, since their sources have absolute paths of their own.

    Raises:
        ConfigError: a path that is too long once it is absolute, or a directory above it has a name that cannot be shown.
    """
    values = config.model_dump()
    quantize, evaluate, profile, interpreters = (values[s] for s in ("quantize", "evaluate", "profile", "interpreters"))
    quantize["calibration"] = _text(quantize["calibration"])
    if evaluate is not None:
        evaluate |= {"data_dir": _path(evaluate["data_dir"]), "perplexity_text": _text(evaluate["perplexity_text"])}
    if profile is not None:
        prompts = profile["prompts"]
        profile["prompts"] = {**prompts, "source": _text(prompts["source"]), "data_dir": _path(prompts["data_dir"])}
    for worker, name in interpreters.items():
        interpreters[worker] = _path(name) if name is not None and (os.sep in name or name.startswith("~")) else name
    return SweepConfig.parse(values)


def _path(name: str | None) -> str | None:
    # Links stay: an interpreter of a virtual environment is one, and is told by its place.
    return None if name is None else str(Path(os.path.expanduser(name)).absolute())  # noqa: PTH111 - an unknown user is no error


def _text(name: str | None) -> Any:
    path = _path(name)
    return path if path is not None and name != text.BUILTIN and text.is_local(path) else name
