"""The file of a baseline: bit for bit, within its size, and refused when it is not whole."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save_file

from slim.errors import StageError
from slim.evaluate.divergence import keep
from slim.evaluate.passage import Passage
from slim.evaluate.perplexity import window_requests
from slim.evaluate.reference import decode, encode, fit, kept_tokens, opened, write

HALF = st.floats(width=16, allow_nan=False)
SINGLE = st.floats(width=32, allow_nan=False)
BRAIN = st.integers(0, 0xFFFF).map(lambda upper: float(np.array([upper << 16], np.uint32).view(np.float32)[0]))
PASSAGE = Passage((5, 6, 7, 8, 9, 10), (1,), 2)


def bits(values: np.ndarray) -> list[int]:
    return np.ascontiguousarray(values).view(np.uint32).ravel().tolist()


@pytest.mark.parametrize(
    ("elements", "name", "width"),
    [(BRAIN.filter(lambda v: not math.isnan(v)), "bfloat16", 2), (HALF, "float16", 2), (SINGLE, "float32", 4)],
)
def test_logits_come_back_bit_for_bit(elements: st.SearchStrategy[float], name: str, width: int) -> None:
    # One value that needs the encoding, the others as they come.
    first = {"bfloat16": 2.0**100, "float16": 1 + 2.0**-10, "float32": float(np.float32(math.pi))}[name]

    @given(arrays(np.float32, (2, 5), elements=elements))
    def check(values: np.ndarray) -> None:
        values[0, 0] = first
        encoding, encoded = encode(values)
        assert (encoding, encoded.dtype.itemsize) == (name, width)
        assert bits(decode(encoding, encoded)) == bits(values)

    check()


def test_zeros_keep_their_sign_and_infinities_stay() -> None:
    values = np.array([[0.0, -0.0, -math.inf, 1.5]], np.float32)
    encoding, encoded = encode(values)
    assert encoding == "bfloat16"
    assert bits(decode(encoding, encoded)) == bits(values)


@given(st.integers(1, 5000), st.integers(2, 300_000), st.sampled_from([2, 4]), st.integers(1, 200))
def test_as_many_tokens_are_kept_as_fit(positions: int, vocab_size: int, value_bytes: int, budget_mib: int) -> None:
    budget = budget_mib << 20
    kept = kept_tokens(positions, vocab_size, value_bytes, budget)
    assert 0 <= kept <= vocab_size
    overhead = 4096 + 4 * (positions + 2) + 8 * positions
    if kept == vocab_size:
        assert overhead + positions * vocab_size * value_bytes <= budget
        return
    assert overhead + positions * vocab_size * value_bytes > budget
    row = 16 + (value_bytes + 4) * kept
    assert kept == 0 or overhead + positions * row <= budget
    assert kept == vocab_size - 1 or overhead + positions * (row + value_bytes + 4) > budget


@pytest.mark.parametrize("encoding", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("budget", [6 << 10, 8 << 10, 64 << 10])
def test_a_file_is_within_its_budget_and_read_as_written(tmp_path: Path, encoding: str, budget: int) -> None:
    source = np.random.default_rng(3).normal(size=(5, 1000)).astype(np.float32)
    logits = {
        "bfloat16": (source.view(np.uint32) & 0xFFFF0000).view(np.float32),
        "float16": source.astype(np.float16).astype(np.float32),
        "float32": source,
    }[encoding]
    whole = keep(logits, 1000)
    kept = fit(whole, 1000, budget)
    assert (kept.count == 1000) == (budget == 64 << 10)
    write(tmp_path / "reference", PASSAGE, kept, 1000)
    size = (tmp_path / "reference").stat().st_size
    assert size <= budget
    assert kept.count == 1000 or size > budget - 4096 - 5 * 8
    with opened(tmp_path / "reference") as found:
        assert (found.passage, found.vocab_size, found.kept_tokens, found.encoding) == (PASSAGE, 1000, kept.count, encoding)
        some = found.rows(slice(1, 4))
        assert bits(some.logits) == bits(kept.logits[1:4])
        assert (some.log_normalizer == kept.log_normalizer[1:4]).all()
        assert (some.selection is None) == found.is_exact == (kept.selection is None)
        if some.selection is not None and kept.selection is not None:
            assert (some.selection.ids == kept.selection.ids[1:4]).all()
            assert (some.selection.rest_log_mass == kept.selection.rest_log_mass[1:4]).all()
            assert (some.selection.rest_plogp == kept.selection.rest_plogp[1:4]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["reference"]


def test_whole_rows_that_need_32_bits_are_narrowed() -> None:
    logits = np.random.default_rng(3).normal(size=(50, 1000)).astype(np.float32)
    budget = 4096 + 50 * (12 + 2500)
    assert kept_tokens(50, 1000, 2, budget) == 1000
    assert fit(keep(logits, 1000), 1000, budget).count == kept_tokens(50, 1000, 4, budget) == 310


def test_no_room_at_all_is_refused() -> None:
    with pytest.raises(StageError, match="no room for 50 distributions"):
        fit(keep(np.zeros((50, 1000), np.float32), 4), 1000, 4096)


@given(st.integers(2, 60), st.sampled_from([(), (7,)]), st.integers(3, 20))
def test_windows_are_those_of_perplexity(count: int, prefix: tuple[int, ...], max_len: int) -> None:
    tokens = tuple(range(100, 100 + count))
    passage = Passage.of(tokens, prefix, max_len)
    requests = window_requests(passage)
    places = []
    windows = list(passage.windows())
    assert len(windows) == len(requests)
    for sequence, part in windows:
        assert len(sequence) <= max_len
        assert sequence[len(prefix) + 1 :] == tokens[part.start + 1 : part.stop + 1]
        assert sequence[: len(prefix) + 1] == (*prefix, tokens[part.start])
        places += range(part.start, part.stop)
    assert places == list(range(count - 1))


def test_a_file_that_is_no_reference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="cannot be read"), opened(tmp_path / "absent"):
        pass
    path = tmp_path / "reference"
    write(path, PASSAGE, keep(np.zeros((5, 4), np.float32), 2), 4)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StageError, match="cannot be read"), opened(path):
        pass
    save_file({"tokens": np.zeros(3, np.int32)}, path, metadata={"schema": "99"})
    with pytest.raises(StageError, match="schema '99'; this is 1"), opened(path):
        pass
    save_file({"tokens": np.zeros(3, np.int32)}, path, metadata={"schema": "1"})
    with pytest.raises(StageError, match="cannot be read"), opened(path):
        pass
