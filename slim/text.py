"""Text that is on every machine: the reference documentation that is installed with Python.

It serves as calibration text, as the workload of profiling and as the passage for perplexity when nothing else is named.
It differs a little between Python versions, so whoever uses it records its digest.
"""

import hashlib
from functools import cache
from pathlib import Path

from slim.errors import ConfigError

BUILTIN = "python-docs"


@cache
def python_docs() -> str:
    """Return Python's reference documentation (the topics of ``help()``), about 0.45 million characters."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name].strip() for name in sorted(topics))


def load(name: str) -> str:
    """Return the text called ``name``: ``python-docs`` or a local UTF-8 file.

    Raises:
        ConfigError: no such file, or not text.
    """
    if name == BUILTIN:
        return python_docs()
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"text {name!r} cannot be read ({error}); allowed: {BUILTIN} or a UTF-8 text file") from None


def digest(text: str) -> str:
    """Return a short SHA-256 of the text, for keys and data set records."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_local(name: str) -> bool:
    """Whether ``name`` is the built-in text or an existing file, rather than a data set of the Hub."""
    return name == BUILTIN or Path(name).is_file()
