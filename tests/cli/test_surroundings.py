"""Where the command line runs: closed streams, odd names, odd Pythons. What was written stays, the exit code is 0."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from onnxprune.cli import screen
from onnxprune.cli.group import cli
from onnxprune.errors import DataError
from onnxprune.graph.files.read import load
from onnxprune.graph.files.write import write
from onnxprune.runtime.session import open_session
from tests.support.build import dense

POSIX = pytest.mark.skipif(os.name != "posix", reason="names and streams are those of POSIX")
ODD = b"caf\xe9".decode("utf-8", "surrogateescape")  # as an old system writes it


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder with a model and samples."""
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(dense("b = Relu(a)", mid=16).SerializeToString())
    np.savez("data.npz", x=np.random.default_rng(0).standard_normal((12, 6)).astype("f4"))
    return tmp_path


def onnxprune(*args, python=(), shell=None, **options):
    command = [sys.executable, *python, "-m", "onnxprune", *args]
    run = [*command] if shell is None else ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    return subprocess.run(run, capture_output=True, text=True, errors="surrogateescape", check=False, **options)


# -- streams -----------------------------------------------------------------------------------------------


@pytest.fixture
def unread(monkeypatch):
    """Stdout and stderr are pipes that nobody reads any more."""
    streams = []
    for name in ("stdout", "stderr"):
        reading, writing = os.pipe()
        os.close(reading)
        stream = os.fdopen(writing, "w")
        monkeypatch.setattr(sys, name, stream)
        streams.append(stream)
    yield
    for stream in streams:
        stream.close()


@POSIX
@pytest.mark.parametrize("result", [{"a": 1}, ["text\n" * 100_000], ["a", "b"]])
def test_nobody_reads_the_result(unread, result):
    screen.show_result(result)
    sys.stdout.flush()


@POSIX
def test_nobody_reads_the_progress(unread):
    with screen.show_progress(quiet=False) as progress:
        progress("tracing")
        progress("cutting")
    screen.say_error("no such file")


@POSIX
def test_all_streams_are_closed_and_no_file_takes_their_place(folder):
    """What libraries print to descriptors 1 and 2 must not land in a file that got their number."""
    done = onnxprune("model.onnx", "-o", "small.onnx", "--criterion", "l2", "--no-latency", shell="<&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert load(Path("small.onnx")).array("w1").shape[1] < 16


@POSIX
def test_the_reader_leaves(folder):
    script = f"{sys.executable} -m onnxprune inspect model.onnx | true; echo ${{PIPESTATUS}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")
    done = subprocess.run(["bash", "-c", script.replace("inspect model.onnx", "prune --help")], capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_terminal_without_columns(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "0")
    assert screen._wrapped("one two three four five six", 0) == "one two three four\n    five six"
    screen.show_result(["one two"])
    assert capsys.readouterr().out == "one two\n"


def test_long_messages_are_cut(capsys):
    screen.say_error(str(DataError("x" * 10**7)), "nothing was written")
    message = capsys.readouterr().err
    assert 3900 < len(message) < 4200
    assert message.endswith("xxx; nothing was written\n")


# -- names -------------------------------------------------------------------------------------------------


@POSIX
def test_names_that_are_no_utf_8(folder):
    Path(ODD).mkdir()
    shutil.copy("model.onnx", f"{ODD}/{ODD}.onnx")
    shutil.copy("data.npz", f"{ODD}/{ODD}.npz")
    made, report = Path(f"{ODD}/s{ODD}.onnx"), Path(f"{ODD}/r{ODD}.json")
    # An encoding of ASCII, as the locale C means without Python's UTF-8 mode
    done = onnxprune(
        f"{ODD}/{ODD}.onnx", "-o", str(made), "--report", str(report), "--data", f"{ODD}/{ODD}.npz", "--no-latency",
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert made.is_file()
    assert json.loads(report.read_text())["output"]["path"] == str(made)
    assert done.stdout.isascii()
    assert "scaf\\udce9.onnx" in done.stdout


@POSIX
def test_plots_of_models_with_such_names(folder):
    Path("model.onnx").rename(f"{ODD}.onnx")
    args = ("sensitivity", f"{ODD}.onnx", "--data", "data.npz", "--quiet", "--plot", f"{ODD}.html", "--json")
    assert CliRunner().invoke(cli, args).exit_code == 0
    assert "caf\\udce9" in Path(f"{ODD}.html").read_text()


@POSIX
def test_the_runtime_gets_names_that_it_takes(folder, monkeypatch):
    Path(ODD).mkdir()
    model = load(Path("model.onnx"))
    write(model.proto, Path("weights.onnx"), model.folder, external=True)
    for path in folder.glob("weights.onnx*"):
        path.rename(folder / ODD / path.name)
    odd = folder / ODD
    (odd / "weights.onnx").rename(odd / f"{ODD}.onnx")
    feeds = {"x": np.ones((2, 6), np.float32)}
    expected = open_session(folder / "model.onnx").run(feeds)["y"]
    for session in (open_session(odd / f"{ODD}.onnx"), open_session((odd / f"{ODD}.onnx").read_bytes(), folder=odd)):
        np.testing.assert_array_equal(session.run(feeds)["y"], expected)
    monkeypatch.setattr("tempfile.tempdir", str(odd))
    with pytest.raises(Exception, match="ONNX Runtime takes no names that are not UTF-8, also for TMPDIR"):
        open_session(odd / f"{ODD}.onnx")


# -- Pythons -----------------------------------------------------------------------------------------------


def test_without_assertions_and_docstrings(folder):
    done = onnxprune("model.onnx", "-o", "small.onnx", "--quiet", "--no-latency", "--data", "data.npz", python=("-OO",))
    assert done.returncode == 0, done.stderr
    assert "verified: masked = pruned" in done.stdout
