"""Timers of the user: commands and functions, what they may print, and how they fail."""

from __future__ import annotations

import math
import os
import pickle
import shlex
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from onnxprune.errors import DataError, OptionError
from onnxprune.latency.timer import Timer, make_timer
from tests.support import fake_board
from tests.support.paths import ROOT

MODEL = ROOT / "models/vit.onnx"


def saying(text, then=""):
    """Return a command that prints a text, and then does something."""
    return f"{sys.executable} -c {shlex.quote(f'import sys; print({text!r}); {then}')} {{}}"


def asked(source, **options):
    return make_timer(source, **options).ms(MODEL)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("12.5", 12.5),
        ("a\nlatency: 3 ms\n\n", 3.0),
        ("mean=0.5 s", 500.0),
        ("p50: 3 ms, mean: 4 ms", 4.0),
        ("t = 8e2us", 0.8),
        ("12 µs", 0.012),
    ],
)
def test_the_last_line_ends_with_milliseconds(text, ms):
    assert asked(saying(text)) == pytest.approx(ms)


def test_the_path_stands_for_each_pair_of_braces_and_no_shell_sees_it(tmp_path):
    odd = tmp_path / "a; echo 7 $(id).onnx"
    odd.write_bytes(b"x" * 11)
    code = "import os, sys; print(os.path.getsize(sys.argv[1]) + len(sys.argv) + sys.argv[2].startswith('--f=/'))"
    assert make_timer(f"{sys.executable} -c {shlex.quote(code)} {{}} --f={{}}").ms(odd) == 15


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (saying("warm\n12 runs"), r"the last line, such as '12\.5', .*; its last line is '12 runs'"),
        (saying("0:12.5"), r"the last line, such as '12\.5', .*; its last line is '0:12.5'"),
        (saying("took 3 s 200 ms"), "its last line is 'took 3 s 200 ms'"),
        (saying("3 12.5"), "its last line is '3 12.5'"),
        (saying("model7 passed in v3"), "its last line is 'model7 passed in v3'"),
        (saying(""), "it printed nothing"),
        (saying("nan"), "its last line is 'nan'"),
        (saying("-3 ms"), r"expected milliseconds above 0, got -3 for vit\.onnx"),
        (saying("0"), "expected milliseconds above 0, got 0"),
        (saying("1", "sys.exit(7)"), "ended with exit code 7; it said last: 1$"),
        (saying("1", "sys.exit('no device\\nplug it in')"), r"exit code 1; it said last: no device \| plug it in"),
        ("/no/such/board {}", "cannot start /no/such/board: No such file or directory"),
    ],
)
def test_what_a_command_does_wrong_is_told(command, message):
    with pytest.raises(OptionError, match=message):
        asked(command)


def test_a_command_that_takes_too_long_is_ended_with_what_it_started():
    start = time.monotonic()
    then = "import subprocess; sys.stdout.flush(); subprocess.run(['sleep', '60'])"
    with pytest.raises(OptionError, match=r"did not end within 0\.5 s \(more with --timer-seconds\); it said last: up"):
        asked(saying("up", then), seconds=0.5)
    assert time.monotonic() - start < 30  # its child holds what it prints to: were that waited for, this took a minute


def test_what_a_command_leaves_behind_in_a_session_of_its_own_holds_nobody_up(tmp_path):
    start, pid = time.monotonic(), tmp_path / "pid"
    then = (
        "import subprocess, time; child = subprocess.Popen(['sleep', '60'], start_new_session=True); "
        f"print(child.pid, file=open({str(pid)!r}, 'a')); sys.stdout.flush(); "
    )
    try:
        assert asked(saying("3", then)) == 3.0
        with pytest.raises(
            OptionError, match=r"did not end within 1 s \(more with --timer-seconds\); it said last: up"
        ):
            asked(saying("up", f"{then}time.sleep(60)"), seconds=1.0)
        assert time.monotonic() - start < 30
    finally:
        for each in pid.read_text().split():
            os.kill(int(each), signal.SIGKILL)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("trtexec --onnx=model", r"neither module:function nor a command with \{\} in the place of the file"),
        ("{}", "neither module:function nor a command"),
        ("a '{}", "no closing quotation"),
        (3, "timer must be a command, module:function or a function, got int"),
    ],
)
def test_what_is_no_timer(source, message):
    with pytest.raises(OptionError, match=message):
        make_timer(source)


def test_functions_by_name_and_as_they_are():
    by_name = make_timer("tests.support.fake_board:quiet")
    assert by_name.ms(MODEL) == fake_board.quiet(MODEL) == make_timer(fake_board.quiet).ms(MODEL)
    assert (by_name.name, make_timer(fake_board.quiet).name) == ("tests.support.fake_board:quiet", "quiet")
    assert make_timer(by_name) is by_name
    assert make_timer(None) is None
    assert make_timer(lambda path: np.float32(2)).ms(MODEL) == 2.0


def test_a_function_gets_an_absolute_path_and_links_stay_as_they_are(monkeypatch, tmp_path):
    """Weights lie beside the link: beside the file that it points to, they may not."""
    monkeypatch.chdir(tmp_path)
    seen = []
    (tmp_path / "blob").write_bytes(b"x")
    (tmp_path / "m.onnx").symlink_to(tmp_path / "blob")
    Timer("t", lambda path: seen.append(path) or 1.0).ms(Path("m.onnx"))
    assert seen == [tmp_path / "m.onnx"]


def test_workers_get_what_can_be_pickled_of_a_timer():
    by_name = make_timer("tests.support.fake_board:quiet", 7.0)
    assert pickle.loads(pickle.dumps(by_name)) == by_name
    assert pickle.loads(pickle.dumps(by_name)).ms(MODEL) == fake_board.quiet(MODEL)
    sent = pickle.loads(pickle.dumps(make_timer(lambda path: 1.0)))
    assert sent.source is None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda path: None, r"expected milliseconds, a number, got None for vit\.onnx"),
        (lambda path: True, "a number, got True"),
        (lambda path: [1.0], r"a number, got \[1\.0\]"),
        (lambda path: math.nan, "expected milliseconds above 0, got nan"),
        (lambda path: math.inf, "expected milliseconds above 0, got inf"),
        (lambda path: 1 / 0, r"it raised ZeroDivisionError: division by zero \(test_timer\.py, line \d+\)"),
    ],
)
def test_what_a_function_does_wrong_is_told(function, message):
    with pytest.raises(OptionError, match=message):
        asked(function)


def test_functions_that_are_not_there():
    with pytest.raises(DataError, match=r"module 'tests\.support\.fake_board' has no function 'loud'"):
        make_timer("tests.support.fake_board:loud")
    with pytest.raises(DataError, match="expected a function that takes a path and returns milliseconds"):
        make_timer("tests.support.fake_board:RATE")
