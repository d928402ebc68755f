"""What all entry points do with signals and errors, whatever they are about."""

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from entrypoints import _options as opt
from slim.errors import UserError
from slim.jobs import Spool
from slim.waiting import alone


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _sent(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_in_order(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    ended = []

    @opt.entry_point
    def command() -> None:
        try:
            _sent(number)
        except KeyboardInterrupt as error:
            ended.append(str(error))
            raise

    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with pytest.raises(SystemExit) as caught:
        command()
    assert caught.value.code == 130
    assert ended == [number.name]
    assert "run the same command again" in capsys.readouterr().err


def test_a_terminal_that_is_gone_changes_no_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    @opt.entry_point
    def command() -> None:
        _sent(signal.SIGTERM)

    monkeypatch.setattr("click.echo", gone)
    with pytest.raises(SystemExit) as caught:
        command()
    assert caught.value.code == 130


def test_nohup_is_heeded() -> None:
    ended = []

    @opt.entry_point
    def command() -> None:
        _sent(signal.SIGHUP)
        ended.append("well")

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    command()
    assert ended == ["well"]


def test_an_error_of_the_system_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @opt.entry_point
    def command() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/file")

    with pytest.raises(SystemExit) as caught:
        command()
    assert caught.value.code == 1
    assert capsys.readouterr().err == "Error: [Errno 28] No space left on device: '/a/file'\n"


def test_a_reader_that_has_seen_enough_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    @opt.entry_point
    def command() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        command()
    assert capsys.readouterr().err == ""


def test_a_lock_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    (tmp_path / "sweep.lock").mkdir()
    with pytest.raises(UserError, match=r"sweep\.lock cannot be opened .*SLIM_HOME"), alone(spool):
        pass


def test_a_lock_that_another_sweep_holds_says_so(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with (
        FileLock(tmp_path / "sweep.lock"),
        pytest.raises(UserError, match="another sweep is running"),
        alone(spool),
    ):
        pass
