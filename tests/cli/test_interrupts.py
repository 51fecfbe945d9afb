"""Signals that end the process: what they raise, what becomes of it, and when they are heard."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from onnxprune import __main__ as start
from onnxprune import interrupts
from onnxprune.cli.failing import failing

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture
def heard():
    """Signals are heard, and afterwards treated as before."""
    before, hook = {number: signal.getsignal(number) for number in SIGNALS}, sys.unraisablehook
    interrupts.hear_signals()
    yield
    interrupts._came.clear()
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_raises(heard, number):
    with pytest.raises(KeyboardInterrupt) as caught:
        signal.raise_signal(number)
    assert caught.value.exit_code == interrupts.exit_code() == SIGNALS[number]


class HalfMade:
    """Like an archive whose opening was interrupted."""

    def __del__(self):
        self.never_set.close()


def test_what_is_half_made_says_nothing(heard, capfd):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    HalfMade()
    assert capfd.readouterr().err == ""


def test_signals_that_are_ignored_stay_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupts.hear_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        interrupts.unhear_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Stopped(BaseException):
    """Like what ends a task or a test: no Exception."""


@pytest.mark.parametrize("error", [SystemError("no exception set"), ImportError("numpy"), ValueError(), Stopped()])
def test_what_others_make_of_an_interrupt(heard, error, capsys):
    """Extension modules that are interrupted while they are imported fail in ways of their own."""

    def interrupted():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raise error

    with pytest.raises(SystemExit) as caught, failing(lambda: "nothing was written"):
        interrupted()
    assert caught.value.code == 143
    assert capsys.readouterr().err == "onnxprune: interrupted; nothing was written\n"


@pytest.mark.parametrize("raises", [SystemExit(1), SystemError(), KeyboardInterrupt(), None])
def test_the_exit_code_is_that_of_the_first_signal(heard, monkeypatch, raises):
    def run():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
        raise raises or SystemExit(0)

    monkeypatch.setattr("onnxprune.cli.main", run)
    with pytest.raises(SystemExit) as caught:
        start.main()
    assert caught.value.code == 129


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ZeroDivisionError("by zero"), 4, "cannot start: ZeroDivisionError: by zero; install it again"),
        (asyncio.CancelledError(), 4, "cannot start: CancelledError; install it again"),
        (Stopped("here"), 4, "cannot start: Stopped: here; install it again"),
        (ImportError("no click"), 2, "cannot start: ImportError: no click; install it again"),
    ],
)
def test_what_is_raised_around_the_commands_is_a_sentence(heard, monkeypatch, capsys, error, code, message):
    def run():
        raise error

    monkeypatch.setattr("onnxprune.cli.main", run)
    with pytest.raises(SystemExit) as caught:
        start.main()
    assert caught.value.code == code
    assert capsys.readouterr().err == f"onnxprune: {message}\n"


def test_an_exit_stays_what_it_is(heard, monkeypatch):
    monkeypatch.setattr("onnxprune.cli.main", lambda: sys.exit(7))
    with pytest.raises(SystemExit, match=r"^7$"):
        start.main()


@pytest.mark.parametrize("number", SIGNALS)
def test_at_the_start_there_is_no_traceback(number):
    """Before the command line is imported, and while it is."""
    code = f"""
import builtins, signal
from onnxprune.__main__ import main
plain = builtins.__import__
def interrupted(name, *args, **kwargs):
    if name == "click":
        signal.raise_signal({int(number)})
    return plain(name, *args, **kwargs)
builtins.__import__ = interrupted
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (SIGNALS[number], "", "")
