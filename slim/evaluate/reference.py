"""The file in which a baseline keeps its next-token distributions for the configurations that are compared with it later.

Logits stay bit for bit what the engine gave: in 16 bit where each of them is a bfloat16 or a float16, as those of an engine that
runs in 16 bit are, else in 32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slim.errors import Reason, StageError
from slim.evaluate.divergence import Kept, Selection
from slim.evaluate.passage import Passage
from slim.files import replacing

REFERENCE_FILE = "reference_logits.safetensors"
SCHEMA = 1

Encoding = Literal["bfloat16", "float16", "float32"]

_HEADER_BYTES = 4096
"""Names, types and metadata; about a fifth of it is used."""
_ROW_BYTES, _SELECTION_BYTES, _ID_BYTES = 8, 16, 4


@dataclass(frozen=True)
class Reference:
    """An open file.

    Attributes:
        passage: what the distributions were taken over.
        vocab_size: tokens of a whole distribution.
        kept_tokens: tokens kept of each; the whole vocabulary makes the comparison exact.
        encoding: of the logits.
    """

    passage: Passage
    vocab_size: int
    kept_tokens: int
    encoding: Encoding
    _file: Any

    @property
    def is_exact(self) -> bool:
        """Whether whole distributions are kept."""
        return self.kept_tokens == self.vocab_size

    def rows(self, part: slice) -> Kept:
        """What is kept of some positions; only these are read.

        Raises:
            StageError: the file is damaged.
        """
        with _readable():
            values = {name: self._file.get_slice(name)[part.start : part.stop] for name in _names(self.is_exact)}
            logits, log_normalizer = decode(self.encoding, values["logits"]), values["log_normalizer"]
            if self.is_exact:
                return Kept(logits, log_normalizer)
            return Kept(logits, log_normalizer, Selection(values["ids"], values["rest_log_mass"], values["rest_plogp"]))


def _names(is_exact: bool) -> tuple[str, ...]:
    """Tensors with a row a position."""
    return ("logits", "log_normalizer") if is_exact else ("logits", "log_normalizer", "ids", "rest_log_mass", "rest_plogp")


def kept_tokens(positions: int, vocab_size: int, value_bytes: int, budget_bytes: int) -> int:
    """Return how many tokens of each distribution fit into the budget: all, or else the largest number beside their ids.

    Args:
        positions: distributions.
        vocab_size: tokens of each.
        value_bytes: of a logit.
        budget_bytes: of the file.
    """
    free = budget_bytes - _HEADER_BYTES - 4 * (positions + 2) - _ROW_BYTES * positions
    if positions * vocab_size * value_bytes <= free:
        return vocab_size
    return max(0, min(vocab_size - 1, (free // positions - _SELECTION_BYTES) // (value_bytes + _ID_BYTES)))


def fit(kept: Kept, vocab_size: int, budget_bytes: int) -> Kept:
    """Return as much of ``kept`` as fits into the budget once its logits are encoded.

    Raises:
        StageError: not even one token a position fits.
    """
    value_bytes = encode(kept.logits)[1].dtype.itemsize
    count = kept_tokens(len(kept.logits), vocab_size, value_bytes, budget_bytes)
    if count == 0:
        raise StageError(Reason.EVALUATION, f"{budget_bytes >> 20} MiB have no room for {len(kept.logits)} distributions")
    return kept.narrowed(count)


def encode(logits: NDArray[np.float32]) -> tuple[Encoding, NDArray[Any]]:
    """Return the narrowest form that has every value bit for bit; bfloat16 as the upper halves, which numpy has no type for."""
    bits = np.ascontiguousarray(logits).view(np.uint32)
    if not (bits & 0xFFFF).any():
        return "bfloat16", (bits >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        half = logits.astype(np.float16)
    if np.array_equal(half.astype(np.float32).view(np.uint32), bits):
        return "float16", half
    return "float32", np.ascontiguousarray(logits)


def decode(encoding: Encoding, values: NDArray[Any]) -> NDArray[np.float32]:
    """The inverse of `encode`."""
    if encoding == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def write(path: Path, passage: Passage, kept: Kept, vocab_size: int) -> None:
    """Write the file; it is complete or absent."""
    from safetensors.numpy import save_file

    encoding, logits = encode(kept.logits)
    tensors = {
        "tokens": np.asarray(passage.tokens, np.int32),
        "prefix": np.asarray(passage.prefix, np.int32),
        "log_normalizer": kept.log_normalizer,
        "logits": logits,
    }
    if kept.selection is not None:
        tensors |= {
            "ids": np.ascontiguousarray(kept.selection.ids),
            "rest_log_mass": kept.selection.rest_log_mass,
            "rest_plogp": kept.selection.rest_plogp,
        }
    metadata = {
        "schema": SCHEMA,
        "encoding": encoding,
        "kept_tokens": kept.count,
        "vocab_size": vocab_size,
        "window_tokens": passage.window,
    }
    with replacing(path) as aside:
        save_file(tensors, aside, metadata={name: str(value) for name, value in metadata.items()})


@contextmanager
def opened(path: Path) -> Iterator[Reference]:
    """Open a file that `write` made.

    Raises:
        StageError: it is not there, damaged, or of another version of this format.
    """
    from safetensors import safe_open

    with _readable():
        file: Any = safe_open(path, framework="numpy")
        found = file.metadata() or {}
        if found.get("schema") != str(SCHEMA):
            raise StageError(Reason.EVALUATION, f"the reference has schema {found.get('schema')!r}; this is {SCHEMA}")
        reference = Reference(
            Passage(
                tuple(file.get_tensor("tokens").tolist()), tuple(file.get_tensor("prefix").tolist()), int(found["window_tokens"])
            ),
            int(found["vocab_size"]),
            int(found["kept_tokens"]),
            found["encoding"],
            file,
        )
    with file:
        yield reference


@contextmanager
def _readable() -> Iterator[None]:
    """Translate what a damaged file raises."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StageError(Reason.EVALUATION, f"the reference cannot be read: {' '.join(str(error).split())[:200]}") from error
