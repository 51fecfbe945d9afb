"""What nobody foresaw: one sentence with the step and the node, exit code 4, and nothing written."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune import __main__ as start
from onnxprune.cli import main, unexpected
from onnxprune.cli.group import cli
from onnxprune.graph.files.read import load
from tests.support.build import dense
from tests.support.cli import invoke

RUN = ("model.onnx", "-o", "small.onnx")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder with a model."""
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(dense("b = Relu(a)", mid=16).SerializeToString())
    return tmp_path


class Stopped(BaseException):
    """Like what ends a task or a test: no Exception."""


class Unprintable(Exception):
    def __str__(self):
        raise ValueError


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            ValueError("bad\nthing"),
            4,
            "unexpected ValueError while tracing, at MatMul 'a0': bad thing. This is a fault of",
        ),
        (RecursionError(), 4, "unexpected RecursionError while tracing, at MatMul 'a0': (no message). This is a fault"),
        (Unprintable(), 4, "unexpected Unprintable while tracing, at MatMul 'a0': (no message)."),
        (Stopped("here"), 4, "unexpected Stopped while tracing, at MatMul 'a0': here. This is a fault of onnxprune"),
        (KeyError("x" * 999), 4, f"MatMul 'a0': '{'x' * 299} .... This is a fault"),
        (
            MemoryError(),
            2,
            "out of memory while tracing, at MatMul 'a0': close other programs, or ask for less: smaller",
        ),
        (
            ImportError("no q"),
            2,
            "a package that is needed cannot be imported while tracing, at MatMul 'a0': no q; install",
        ),
    ],
    ids=["ValueError", "RecursionError", "unprintable", "stopped", "long", "memory", "import"],
)
def test_what_nobody_foresaw_is_a_sentence(folder, monkeypatch, error, code, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("onnxprune.dependency.trace.Site", fail)
    told = invoke(*RUN, "--quiet", code=code).stderr
    assert message in told
    assert told.endswith("; nothing was written\n")
    assert len(told.splitlines()) == 1
    assert not Path("small.onnx").exists()


@pytest.mark.parametrize(
    ("args", "less"),
    [
        (RUN, "smaller shapes with --input, fewer samples with --effort quick"),
        ((*RUN, "--data", "d.npz"),
         "smaller shapes with --input, fewer samples with --samples, less with --effort quick"),
        (("sensitivity", "model.onnx", "--data", "d.npz"),
         "smaller shapes with --input, fewer samples with --samples, less with --effort quick"),
        (("sweep", "model.onnx", "--macs", "0.8", "-o", "family"),
         "smaller shapes with --input, fewer samples with --effort quick"),
    ],
    ids=["prune", "data", "sensitivity", "sweep"],
)  # fmt: skip
def test_out_of_memory_names_options_that_help(folder, monkeypatch, args, less):
    """--samples has no effect without --data, and would end the next run."""

    def fail(*_, **__):
        raise MemoryError

    np.savez("d.npz", x=np.zeros((8, 6), np.float32))
    monkeypatch.setattr("onnxprune.dependency.trace.Site", fail)
    told = invoke(*args, "--quiet", code=2).stderr
    assert f"at MatMul 'a0': close other programs, or ask for less: {less}" in told
    assert told.split(less)[1] in ("\n", "; nothing was written\n", "; members that are finished stay\n")


def test_out_of_memory_in_a_command_that_can_ask_for_smaller_inputs_alone(folder, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("onnxprune.dependency.trace.Site", fail)
    message = "at MatMul 'a0': close other programs, or ask for less: smaller shapes with --input\n"
    assert invoke("inspect", "model.onnx", code=2).stderr.endswith(message)


def test_debug_shows_the_traceback(folder, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("onnxprune.dependency.trace.Site", fail)
    told = invoke("inspect", "model.onnx", "--debug", code=4).stderr
    assert told.startswith("Traceback (most recent call last):\n")
    assert "raise ZeroDivisionError" in told
    assert "onnxprune: unexpected ZeroDivisionError while tracing, at MatMul 'a0'" in told.splitlines()[-1]


def test_a_fault_of_the_command_line_itself(monkeypatch, capsys):
    monkeypatch.setattr(cli, "main", lambda **_: {}["x"])
    with pytest.raises(SystemExit, match="4"):
        main()
    assert capsys.readouterr().err.startswith("onnxprune: unexpected KeyError: 'x'. This is a fault of onnxprune")


def test_a_node_whose_name_is_no_text():
    whole = onnx.NodeProto(op_type="Relu", name="abc").SerializeToString()
    namespace = {}
    code = "def reads(node):\n    raise LookupError"
    exec(compile(code, inspect.getfile(load), "exec"), namespace)
    with pytest.raises(LookupError) as caught:
        namespace["reads"](onnx.NodeProto.FromString(whole.replace(b"abc", b"a\xffc")))
    assert unexpected.place_of(caught.value) == r" while reading the model, at Relu b'a\xffc'"


def test_packages_that_are_broken_at_the_start(monkeypatch, capsys):
    def broken():
        raise ImportError("no click")

    monkeypatch.setattr("onnxprune.cli.main", broken)
    with pytest.raises(SystemExit, match="2"):
        start.main()
    assert capsys.readouterr().err == "onnxprune: cannot start: ImportError: no click; install it again\n"


def test_help_names_the_exit_codes():
    assert "4 a fault of onnxprune" in " ".join(invoke("--help").stdout.split())
