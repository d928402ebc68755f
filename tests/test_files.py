"""Directories that are complete or absent, and remembered hashes."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from slim import files


def test_a_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with files.written_aside(target) as aside:
        (aside / "a").write_text("1")
        (aside / "sub").mkdir()
        (aside / "sub" / "b").write_text("2")
        assert list(target.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert (target / "sub" / "b").read_text() == "2"


def test_of_a_long_log_the_ends_are_kept(tmp_path: Path) -> None:
    log, copy = tmp_path / "log", tmp_path / "copy"
    log.write_bytes(b"begin" + b"x" * 100 + b"finis")
    files.copy_ends(log, copy, limit=10)
    assert copy.read_bytes() == b"begin\n[100 bytes left out]\nfinis"
    files.copy_ends(log, copy, limit=110)
    assert copy.read_bytes() == log.read_bytes()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.written_aside(tmp_path / "out") as aside:
        (aside / "a").write_text("1")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "old").write_text("1")
    with files.written_aside(tmp_path / "out"):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_a_directory_with_content_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("1")
    with pytest.raises(FileExistsError), files.written_aside(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "a").read_text() == "1"


def test_hashes_are_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, store = tmp_path / "weights", tmp_path / "cache" / "hashes.json"
    file.write_bytes(b"one")
    hashes = files.HashCache(store)
    assert hashes.sha256(file) == hashlib.sha256(b"one").hexdigest()
    hashes.save()
    with monkeypatch.context() as patched:
        patched.setattr(files, "sha256", lambda _: pytest.fail("read again"))
        assert files.HashCache(store).sha256(file) == hashlib.sha256(b"one").hexdigest()
    status = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert files.HashCache(store).sha256(file) == hashlib.sha256(b"two").hexdigest()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}', "\x00"])
def test_a_damaged_memory_costs_time_only(tmp_path: Path, content: str) -> None:
    file, store = tmp_path / "weights", tmp_path / "hashes.json"
    file.write_bytes(b"one")
    store.write_text(content)
    hashes = files.HashCache(store)
    assert hashes.sha256(file) == hashlib.sha256(b"one").hexdigest()
    hashes.save()
    assert hashlib.sha256(b"one").hexdigest() in json.loads(store.read_text()).values()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLIM_HOME": "/a/slim", "XDG_CACHE_HOME": "/b"}, "/a/slim"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/slim"),
        ({"HOME": "/c"}, "/c/.cache/slim"),
    ],
)
def test_home(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLIM_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert files.home() == Path(expected)


def tree(directory: Path) -> dict[str, str]:
    return {file.relative_to(directory).as_posix(): file.read_text() for file in directory.rglob("*") if file.is_file()}


def test_files_replace_earlier_ones_and_leave_others(tmp_path: Path) -> None:
    target = tmp_path / "a" / "out"
    with files.replacing_files(target) as aside:
        (aside / "sub").mkdir()
        (aside / "sub" / "old").write_text("1")
        (aside / "both").write_text("1")
        assert [path for path in target.iterdir() if path != aside] == []
    (target / "sub" / "mine").write_text("mine")
    with files.replacing_files(target, ["sub/old", "both", "gone"]) as aside:
        (aside / "both").write_text("2")
    assert tree(target) == {"sub/mine": "mine", "both": "2"}


@pytest.mark.parametrize("fault", ["error", "directory", "file"])
def test_files_that_cannot_all_be_replaced_leave_everything_as_it_was(tmp_path: Path, fault: str) -> None:
    target = tmp_path / "out"
    (target / "taken").mkdir(parents=True)
    (target / "taken" / "mine").write_text("mine")
    (target / "a").write_text("1")
    before = tree(target)
    with pytest.raises(FileExistsError), files.replacing_files(target, ["a"]) as aside:
        (aside / "a").write_text("2")
        if fault == "directory":
            (aside / "taken").write_text("2")
        elif fault == "file":
            (aside / "taken" / "mine").mkdir(parents=True)
            (aside / "taken" / "mine" / "deep").write_text("2")
        else:
            raise FileExistsError
    assert tree(target) == before
    with pytest.raises(KeyboardInterrupt), files.replacing_files(tmp_path / "new") as aside:
        raise KeyboardInterrupt
    assert not (tmp_path / "new").exists()
