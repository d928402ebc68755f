"""What all entry points do with signals and errors, whatever they are about."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from entrypoints import _options as opt


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


def test_nohup_is_heeded() -> None:
    ended = []

    @opt.entry_point
    def command() -> None:
        _sent(signal.SIGHUP)
        ended.append("well")

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    command()
    assert ended == ["well"]
