"""Files arrive whole or not at all, and nothing is handed out or written that was not meant."""

from pathlib import Path

import pytest

from slim.cluster import transfer
from slim.cluster.transfer import Chunk, Receiver, Shelf
from slim.errors import StageError
from slim.jobs import Spool
from slim.records import StageResult


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 10)
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))


def result(spool: Spool, key: str) -> Path:
    with spool.writing(key) as draft:
        draft.checkpoint.mkdir()
        (draft.checkpoint / "weights").write_bytes(bytes(range(95)))
        (draft.artifacts / "empty").write_bytes(b"")
        draft.finish(StageResult("quantize", key, {"quantize/duration_s": 1.0}, has_checkpoint=True))
    found = spool.find(key)
    assert found is not None
    return found.path


def test_a_result_arrives_as_it_was(tmp_path: Path) -> None:
    there, here = Spool(tmp_path / "there"), Spool(tmp_path / "here")
    path = result(there, "k")
    receiver = Receiver(here, "k", transfer.listing(path).sizes)
    for chunk in transfer.chunks(path):
        assert len(chunk.data) <= 10
        assert here.find("k") is None
        receiver.take(chunk)
    receiver.finish()
    found = here.find("k")
    assert found is not None
    assert found.checkpoint is not None
    assert (found.checkpoint / "weights").read_bytes() == bytes(range(95))
    assert (found.artifacts / "empty").read_bytes() == b""
    assert found.result.metrics == {"quantize/duration_s": 1.0}


def test_a_result_that_comes_short_is_none(tmp_path: Path) -> None:
    there, here = Spool(tmp_path / "there"), Spool(tmp_path / "here")
    path = result(there, "k")
    receiver = Receiver(here, "k", transfer.listing(path).sizes)
    for chunk in list(transfer.chunks(path))[:-1]:
        receiver.take(chunk)
    with pytest.raises(ValueError, match="without all of"):
        receiver.finish()
    receiver.drop()
    assert here.find("k") is None
    assert list(here.root.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x"])
def test_a_name_cannot_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not announced"):
        Receiver(Spool(tmp_path / "a"), "k", {"b": 1}).take(Chunk(name, 0, b"x"))
    with pytest.raises(ValueError, match="leads elsewhere"):
        Receiver(Spool(tmp_path / "b"), "k", {name: 1}).take(Chunk(name, 0, b"x"))
    assert not (tmp_path / "x").exists()


def test_a_directory_and_a_file_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "driver" / "model"
    (model / "inner").mkdir(parents=True)
    (model / "inner" / "weights").write_bytes(bytes(range(50)))
    (model / "config").write_bytes(b"c")
    shelf = Shelf()
    directory, file = shelf.put([str(model), str(model / "config")])
    reads: list[int] = []

    def read(path: str, name: str, offset: int) -> bytes:
        reads.append(offset)
        return shelf.read(path, name, offset)

    # The same disk: nothing is read.
    assert transfer.fetch(directory, read) == model
    assert reads == []

    # Another one.
    content = {p: (model / p).read_bytes() for p in ("inner/weights", "config")}
    monkeypatch.setattr(transfer, "listing", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)))
    got = transfer.fetch(directory, read)
    assert got != model
    assert {p: (got / p).read_bytes() for p in content} == content
    assert transfer.fetch(file, read).read_bytes() == b"c"
    seen = len(reads)
    assert transfer.fetch(directory, read) == got
    assert len(reads) == seen


def test_a_file_that_shrank_meanwhile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(30))
    listed = transfer.listing(path)
    path.write_bytes(bytes(5))
    with pytest.raises(StageError, match="became shorter"):
        transfer.fetch(listed, lambda *_: b"")


def test_only_what_was_put_out_is_handed_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (tmp_path / "out").mkdir()
    shelf = Shelf()
    shelf.put([str(tmp_path / "out")])
    with pytest.raises(PermissionError):
        shelf.read(str(tmp_path / "secret"), "", 0)
    with pytest.raises(ValueError, match="elsewhere"):
        shelf.read(str(tmp_path / "out"), "../secret", 0)
