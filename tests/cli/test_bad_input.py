"""What a user can get wrong: one table of cases, one line on stderr each, and no file is touched."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from onnxprune.cli.group import cli
from onnxprune.commands import compare, prune
from onnxprune.criteria import importance
from onnxprune.errors import InputError, OptionError
from onnxprune.planning.options import make_options
from tests.support.build import dense, model

OUT = ("-o", "out/small.onnx")
RUN = ("model.onnx", *OUT)
ROWS = np.ones((4, 6), np.float32)
NEWEST = onnx.defs.onnx_opset_version()


# -- what lies in the folder ---------------------------------------------------------------------------


def good():
    """x [n, 6] -> w1, b1 -> Relu -> w2 -> y: one group that can be pruned, 'w1'."""
    return dense("b = Relu(a)", mid=16)


def file(content, name="model.onnx"):
    """Prepare a file of these bytes."""
    return lambda: Path(name).write_bytes(content)


def edited(edit):
    """Prepare the good model after `edit(proto)`."""

    def prepare():
        proto = good()
        edit(proto)
        Path("model.onnx").write_bytes(proto.SerializeToString())

    return prepare


def node(index, **fields):
    """Prepare the good model with fields of one node replaced."""

    def edit(proto):
        for name, value in fields.items():
            if isinstance(value, list):
                getattr(proto.graph.node[index], name)[:] = value
            else:
                setattr(proto.graph.node[index], name, value)

    return edited(edit)


def weight(array=None, **fields):
    """Prepare the good model with another w2 ``[16, 5]``."""

    def edit(proto):
        tensor = next(t for t in proto.graph.initializer if t.name == "w2")
        if array is not None:
            tensor.CopyFrom(numpy_helper.from_array(array, "w2"))
        for name, value in fields.items():
            if isinstance(value, list):
                getattr(tensor, name)[:] = value
            else:
                setattr(tensor, name, value)

    return edited(edit)


def external(location, size=None, **entries):
    """Prepare the good model with w2 (320 bytes) in another file, of `size` bytes if it is given."""

    def edit(proto):
        tensor = next(t for t in proto.graph.initializer if t.name == "w2")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": location, "length": "320", **entries}.items():
            tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
        if size is not None:
            Path(location).write_bytes(bytes(size))

    return edited(edit)


def custom(proto):
    """Put an op that nobody knows in the place of Relu."""
    proto.opset_import.append(helper.make_opsetid("acme", 1))
    proto.graph.node[2].op_type, proto.graph.node[2].domain = "Sparkle", "acme"


def samples(**arrays):
    """Prepare the good model and data."""

    def prepare():
        edited(lambda _: None)()
        np.savez("data.npz", **arrays)

    return prepare


def both(*prepares):
    """Prepare several files."""
    return lambda: [prepare() for prepare in prepares]


GOOD = edited(lambda _: None)
DATA = (*RUN, "--data", "data.npz")
TAKES = "the model takes 'x' float32 [n, 6]"


def set_opset(version):
    return edited(lambda proto: setattr(proto.opset_import[0], "version", version))


# -- the table -----------------------------------------------------------------------------------------

FILES = [  # id, what lies in the folder, arguments, text of the message
    ("no file", lambda: None, RUN, "model.onnx: no such file"),
    ("folder", lambda: Path("model.onnx").mkdir(), RUN, "model.onnx: the folder holds no file that ends in .onnx"),
    ("pipe", lambda: os.mkfifo("model.onnx"), RUN, "model.onnx: is a device or pipe; give the name of a file"),
    ("empty", file(b""), RUN, "model.onnx: the file is empty"),
    ("text", file(b"hello, world"), RUN, "model.onnx: not an ONNX file, or a truncated one"),
    ("archive", file(b"PK\x03\x04" + bytes(99)), RUN, "model.onnx: not an ONNX file, or a truncated one"),
    ("truncated", file(good().SerializeToString()[:-99]), RUN, "not an ONNX file, or a truncated one"),
    ("json", file(b'{"a": 1}', "a.json"), ("a.json", *OUT), "a.json: not an ONNX file, or a truncated one"),
    ("onnxtxt", file(b"hello", "a.onnxtxt"), ("a.onnxtxt", *OUT), "a.onnxtxt: not an ONNX file, or a truncated one"),
    ("no graph", edited(lambda p: p.ClearField("graph")), RUN, "it has no graph or no IR version"),
    ("no IR version", edited(lambda p: p.ClearField("ir_version")), RUN, "it has no graph or no IR version"),
    ("new IR", edited(lambda p: setattr(p, "ir_version", 99)), RUN, "not a valid ONNX model: Your model ir_version 99"),
    ("no opset", edited(lambda p: p.ClearField("opset_import")), RUN, "must specify opset_import"),
    ("old opset", set_opset(6), RUN, f"model.onnx: opset 6 is not supported (known: 7 to {NEWEST}); convert it with "),
    ("new opset", set_opset(999), RUN, f"opset 999 is not supported (known: 7 to {NEWEST})"),
    ("no nodes", edited(lambda p: p.graph.ClearField("node")), RUN, "Graph output 'y' is not an output of any node"),
    ("no outputs", edited(lambda p: p.graph.ClearField("output")), RUN, "model.onnx: the graph has no output"),
    ("output of no node", edited(lambda p: setattr(p.graph.output[0], "name", "q")), RUN, "Graph output 'q' is not"),
    ("unknown attribute", edited(lambda p: p.graph.node[2].attribute.append(helper.make_attribute("foo", 1))), RUN,
     "Unrecognized attribute: foo for operator Relu"),
    ("two inputs for Relu", node(2, input=["a", "a0"]), RUN, "has input size 2 not in range"),
    ("unknown value", node(2, input=["zz"]), RUN, "input 'zz' of node: name: "),
    ("two nodes, one output", node(2, output=["a"]), RUN, "'a' has been used as output names multiple times"),
    ("two weights, one name", edited(lambda p: p.graph.initializer.append(p.graph.initializer[0])), RUN,
     "w1 initializer name is not unique"),
    ("types that do not meet", weight(np.ones((16, 5))), RUN, "model.onnx: not a valid ONNX model: "),
    ("short weight", weight(raw_data=b"1234"), RUN,
     "model.onnx: initializer 'w2' of shape [16, 5] holds 4 bytes, expected 320: the file is damaged"),
    ("negative dims", weight(dims=[-16, 5]), RUN, "initializer 'w2' states the shape [-16, 5], which no"),
    ("unknown element type", weight(data_type=99), RUN, "initializer 'w2' has no known element type (99)"),
    ("weights that are NaN", weight(np.full((16, 5), np.nan, np.float32)), RUN, "not finite"),
    ("custom op without domain", node(2, op_type="Sparkle", domain="acme"), RUN, "No opset import for domain 'acme'"),
    ("external data missing", external("w.bin"), RUN,
     "model.onnx: external data of initializer 'w2' is missing: no file w.bin"),
    ("external data elsewhere", external("../w.bin"), RUN,
     "external data of initializer 'w2' lies outside the model's folder (../w.bin); it is not read"),
    ("external data absolute", external("/etc/passwd"), RUN, "lies outside the model's folder (/etc/passwd)"),
    ("external data by a link", both(lambda: Path("w.bin").symlink_to("/etc/passwd"), external("w.bin")), RUN,
     "lies outside the model's folder (w.bin)"),
    ("external data too short", external("w.bin", 100), RUN,
     "external data of initializer 'w2' ends at byte 320, but w.bin has 100 bytes"),
    ("external data of wrong length", external("w.bin", 320, length="100"), RUN, "external data of initializer 'w2'"),
    ("external data at -5", external("w.bin", 320, offset="-5"), RUN, "external data of initializer 'w2'"),
    ("external data at x", external("w.bin", 320, offset="x"), RUN, "external data of initializer 'w2'"),
]  # fmt: skip

OPTIONS = [  # id, arguments after the input and output, text of the message
    ("ratio 1", ("--ratio", "1"),
     "--ratio must be at least 0 and below 1, got 1: it is the share of units to remove"),
    ("ratio in percent", ("--ratio", "30"), "--ratio must be at least 0 and below 1, got 30"),
    ("ratio negative", ("--ratio=-0.1",), "--ratio must be at least 0 and below 1, got -0.1"),
    ("ratio NaN", ("--ratio", "nan"), "--ratio must be a number, got nan"),
    ("ratio infinite", ("--ratio", "inf"), "--ratio must be at least 0 and below 1, got inf"),
    ("input no shape", ("--input", "x=1,a"), "--input takes NAME=SHAPE such as x=1,3,224,224, got 'x=1,a'"),
    ("input no name", ("--input", "1,3"), "--input takes NAME=SHAPE such as x=1,3,224,224, got '1,3'"),
    ("input empty", ("--input", "x=0"), "inputs: a dim of 'x' must be at least 1, got 0"),
    ("ratio no number", ("--ratio", "abc"), "--ratio takes a number such as 0.3, or GLOB=NUMBER, got 'abc'"),
    ("ratio empty", ("--ratio", ""), "--ratio takes a number such as 0.3, or GLOB=NUMBER, got ''"),
    ("ratio without glob", ("--ratio", "=0.5"), "--ratio takes a number such as 0.3, or GLOB=NUMBER, got '=0.5'"),
    ("ratio 2 of a glob", ("--ratio", "w1*=2"), "ratio of 'w1*' must be at least 0 and below 1, got 2"),
    ("ratio NaN of a glob", ("--ratio", "w1*=nan"), "ratio of 'w1*' must be a number, got nan"),
    ("ratio of nothing", ("--ratio", "zz*=0.5"),
     "'zz*' matches no group, and no node or weight of one; 'onnxprune inspect --json' lists them"),
    ("ignore nothing", ("--ignore", "zz*"), "'zz*' matches no group"),
    ("only nothing", ("--only", "zz*"), "'zz*' matches no group"),
    ("only empty", ("--only", ""), "'' matches no group"),
    ("criterion", ("--criterion", "l3"), "unknown criterion 'l3'; there are: " + ", ".join(importance.CRITERIA)),
    ("bn without BatchNorm", ("--criterion", "bn"),
     "criterion 'bn' finds no weights that it can score: the model has no BatchNormalization"),
    ("scope", ("--scope", "all"), "--scope must be 'group', 'global' or 'loss', got 'all'"),
    ("round to 0", ("--round-to", "0"), "--round-to must be at least 1, got 0"),
    ("a target twice", ("--target", "latency=0.5", "--target", "latency=8ms"),
     "--target latency is given twice, as 0.5 and 8ms: give one"),
    ("a target twice in a list", ("--target", "macs=0.5,macs=0.5"), "--target macs is given twice, as 0.5 and 0.5"),
    ("latency without a unit", ("--target", "latency=1.5"), "or a number with us, ms, s; got '1.5'"),
    ("round to x", ("--round-to", "x"),
     "--round-to must be a whole number or 'auto', got 'x'"),
    ("min units", ("--min-units", "0"), "--min-units must be at least 1, got 0"),
    ("threads", ("--threads", "-1"), "--threads must be at least 0, got -1"),
    ("provider", ("--provider", "gpu"), "unknown provider 'gpu'; there are: cpu, cuda, "),
    ("provider not here", ("--provider", "rocm"), "get it with: pip install onnxruntime-rocm"),
    ("option", ("--rato", "0.3"), "No such option '--rato'"),
    ("second input", ("b.onnx",), "Got unexpected extra argument (b.onnx); see 'onnxprune prune --help'"),
    ("report is the output", ("--report", "out/small.onnx"),
     "out/small.onnx is the output; give the report another name"),
    ("report is the output's data", ("--report", "out/small.onnx.data"),
     "out/small.onnx.data is for weights of the output; give the report another name"),
    ("report is the input", ("--report", "model.onnx", "--force"),
     "model.onnx is the input; give the report another name"),
    ("report is there", ("--report", "there.json"),
     "there.json exists; give another name, or --force (in Python: force=True) to replace it"),
    ("report is a folder", ("--report", "out"), "out is a folder; give a file name, such as out/report.json"),
    ("report in no folder", ("--report", "nowhere/r.json"), "nowhere/r.json: there is no folder nowhere"),
    ("report in a file", ("--report", "model.onnx/r.json"), "model.onnx/r.json: there is no folder model.onnx"),
    ("report in /proc", ("--report", "/proc/r.json"), "/proc"),
]  # fmt: skip

OUTPUTS = [  # id, arguments, text of the message
    ("no output", ("model.onnx",), "Missing option '-o' / '--output'; see 'onnxprune prune --help'"),
    ("output is the input", ("model.onnx", "-o", "model.onnx"),
     "model.onnx is the input; give another name, or --force (in Python: force=True) to replace it"),
    ("output is the input, otherwise written", ("model.onnx", "-o", "out/../model.onnx"), "model.onnx is the input"),
    ("output is a link to the input", ("model.onnx", "-o", "link.onnx"), "link.onnx is the input"),
    ("output is there", ("model.onnx", "-o", "there.json"),
     "there.json exists; give another name, or --force (in Python: force=True) to replace it"),
    ("output is a folder", ("model.onnx", "-o", "out"), "out is a folder; give a file name, such as out/pruned.onnx"),
    ("output is a folder, by force", ("model.onnx", "-o", "out", "--force"), "out is a folder"),
    ("output in no folder", ("model.onnx", "-o", "nowhere/o.onnx"), "nowhere/o.onnx: there is no folder nowhere"),
    ("output in a file", ("model.onnx", "-o", "there.json/o.onnx"), "there.json/o.onnx: there is no folder there.json"),
    ("output in /proc", ("model.onnx", "-o", "/proc/o.onnx"), "/proc"),
    ("misspelt command", ("inpsect", "model.onnx"), "No file or command 'inpsect', did you mean 'inspect'?"),
]  # fmt: skip

SAMPLES = [  # id, what lies in the folder, arguments, text of the message
    ("no function for data", GOOD, (*RUN, "--data", "nowhere:feeds"),
     "nowhere:feeds: there is no module 'nowhere' in the current folder or on sys.path"),
    ("evaluation data missing", GOOD, (*RUN, "--eval-data", "data.npz"), "data.npz: no such file"),
    ("bad preprocess", GOOD, (*RUN, "--preprocess", "size=0"), "preprocess setting 'size' must be at least 1, got 0x0"),
    ("preprocess without data", GOOD, (*RUN, "--preprocess", "unit"),
     "--preprocess has no effect without --data or --eval-data"),
    ("samples without data", GOOD, (*RUN, "--samples", "8"), "--samples has no effect without --data"),
    ("samples of evaluation data", samples(x=ROWS), (*RUN, "--eval-data", "data.npz", "--samples", "8"),
     "--samples has no effect without --data"),
    ("sweeps of nothing", GOOD, (*RUN, "--no-reconstruct", "--sweeps", "2"),
     "--sweeps has no effect with --no-reconstruct"),
    ("sweeps by weights", GOOD, (*RUN, "--criterion", "l2", "--sweeps", "2"), "--sweeps needs data: give samples with"),
    ("bad number of samples", GOOD, (*RUN, "--samples", "-1"), "--samples must be at least 0, got -1"),
    ("data missing", GOOD, DATA, "data.npz: no such file"),
    ("data no archive", both(GOOD, file(b"1, 2", "data.npz")), DATA, "data.npz: not an .npz file; write one with "),
    ("data of another name", samples(image=ROWS), DATA,
     f"data.npz: no array for input 'x'; {TAKES}, the file holds 'image'"),
    ("data with a stranger", samples(x=ROWS, y=ROWS), DATA, "array 'y' is neither an input of the model nor 'labels'"),
    ("data of another width", samples(x=ROWS[:, :5]), DATA,
     "array 'x' has shape [4, 5], expected 'x' float32 [n, 6] with the samples along the first axis"),
    ("data of another rank", samples(x=ROWS[0]), DATA, "array 'x' has shape [6], expected 'x' float32 [n, 6]"),
    ("data of another type", samples(x=np.full((4, 6), "a")), DATA, "array 'x' has type <U1, the input takes float32"),
    ("data of objects", samples(x=np.array([{}])), DATA, "array 'x' holds Python objects, which are not read"),
    ("data with NaN", samples(x=np.where(np.eye(4, 6) > 0, np.nan, 1)), DATA,
     "array 'x' holds 4 NaN or infinite values, the first in sample 0"),
    ("data without samples", samples(x=ROWS[:0]), DATA, "array 'x' of shape [0, 6] holds no samples"),
    ("labels too few", samples(x=ROWS, labels=np.arange(3)), DATA, "array 'labels' has shape [3]"),
    ("labels too large", samples(x=ROWS, labels=np.full(4, 7)), DATA, "output 'y' scores classes 0 to 4"),
]  # fmt: skip

PAIR = ("compare", "model.onnx", "model.onnx")
COMPARE = [  # id, arguments, text of the message
    ("compare with nothing", ("compare", "model.onnx"), "Missing argument 'AFTER'; see 'onnxprune compare --help'"),
    ("compare with no file", ("compare", "model.onnx", "zz.onnx"), "zz.onnx: no such file"),
    ("compare with no model", ("compare", "model.onnx", "there.json"), "there.json: not an ONNX file"),
    ("compare with a stranger", ("compare", "model.onnx", "other.onnx"), "input 'x' differs, float32 ['n', 6] and "),
    ("drop without data", (*PAIR, "--max-drop", "0.1"), "--max-drop needs --data with an array 'labels'"),
    ("drop in points", (*PAIR, "--max-drop", "5"), "--max-drop is a fraction between 0 and 1 (0.01 is one point)"),
    ("drop NaN", (*PAIR, "--max-drop", "nan"), "--max-drop must be a number, got nan"),
    ("speedup NaN", (*PAIR, "--min-speedup", "nan"), "--min-speedup must be a number, got nan"),
    ("speedup 0", (*PAIR, "--min-speedup", "0"), "--min-speedup must be above 0, got 0"),
    ("no seconds", (*PAIR, "--seconds", "0"), "--seconds must be above 0, got 0"),
    ("no batch", (*PAIR, "--batch", "0"), "--batch must be at least 1, got 0"),
    ("compare on no threads", (*PAIR, "--threads", "-1"), "--threads must be at least 0, got -1"),
    ("compare on an unknown provider", (*PAIR, "--provider", "gpu"), "unknown provider 'gpu'; there are: cpu, cuda, "),
    ("compare with preprocess alone", (*PAIR, "--preprocess", "unit"), "--preprocess has no effect without --data"),
    ("compare elsewhere", (*PAIR, "--provider", "cpu", "--provider", "openvino"),
     "provider 'openvino' is not available"),
    ("sensitivity by the clock", ("sensitivity", "model.onnx", "--round-to", "auto"),
     "--round-to auto has no effect here: nothing is timed for a sensitivity; give a number"),
    ("inspect nothing", ("inspect",), "Missing argument 'INPUT'; see 'onnxprune inspect --help'"),
    ("inspect no file", ("inspect", "zz.onnx"), "zz.onnx: no such file"),
    ("inspect no model", ("inspect", "there.json"), "there.json: not an ONNX file"),
]  # fmt: skip

CASES = [
    *FILES,
    *((name, GOOD, (*RUN, *args), text) for name, args, text in OPTIONS),
    *((name, GOOD, args, text) for name, args, text in (*OUTPUTS, *COMPARE)),
    *SAMPLES,
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: out/, a file, a link to the model, another model, and a stale data file."""
    inside = tmp_path / "inside"
    (inside / "out").mkdir(parents=True)
    monkeypatch.chdir(inside)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    Path("there.json").write_text("there")
    Path("link.onnx").symlink_to("model.onnx")
    Path("stale.onnx.data").write_text("stale")
    Path("other.onnx").write_bytes(model("y = Relu(x)").SerializeToString())
    return tmp_path


def found(folder):
    """Return every file below, hidden ones too, with its contents."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def invoke(*args):
    return CliRunner().invoke(cli, args, prog_name="onnxprune")


def refused(folder, *args):
    """Run, assert that nothing was written and that it ended as planned; return exit code and message."""
    before = found(folder)
    result = invoke(*args, *(["--quiet"] if args[0] not in ("inspect", "inpsect") else []))
    assert isinstance(result.exception, SystemExit), result.exception
    assert found(folder) == before
    assert result.stdout == ""
    assert result.stderr.startswith("onnxprune: ")
    assert len(result.stderr.splitlines()) <= 2
    return result.exit_code, result.stderr


@pytest.mark.parametrize(("prepare", "args", "text"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_bad_input(folder, prepare, args, text):
    prepare()
    code, message = refused(folder, *args)
    assert text in message
    assert code == 2


NOTHING = [  # id, what lies in the folder, options, text of the message
    ("ratio 0", GOOD, ("--ratio", "0"), "nothing to prune. w1: its ratio is 0; "),
    ("too few units", GOOD, ("--min-units", "99"), "no smaller count is allowed by --ratio, --round-to"),
    ("all ignored", GOOD, ("--ignore", "*"), "w1: left out by --ignore or --only"),
    ("locked", GOOD, ("--only", "w1:in"), "w1:in: it is part of the graph input 'x'"),
    ("no weights", edited(lambda p: p.CopyFrom(model("y = Relu(x)"))), (), "the model has no weights that meet"),
    ("unknown op between", edited(custom), (), "acme.Sparkle reads it, which is not run (at a)"),
    ("unknown op", node(2, op_type="Rleu"), (),
     "not run, as ONNX Runtime has no such operator here (did you mean Relu?): Rleu 'b'. It stays as it is"),
    ("many reasons", edited(lambda p: p.CopyFrom(dense("b = Softmax(a)"))), (), "Softmax normalises over it"),
]  # fmt: skip


@pytest.mark.parametrize(("prepare", "options", "text"), [row[1:] for row in NOTHING], ids=[row[0] for row in NOTHING])
def test_nothing_to_prune(folder, prepare, options, text):
    prepare()
    code, message = refused(folder, *RUN, *options)
    assert text in message
    assert message.startswith("onnxprune: nothing to prune")
    assert code == 3


# -- what the system can refuse (root may write everywhere) ---------------------------------------------


def test_a_folder_that_cannot_be_written(folder, monkeypatch):
    GOOD()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "out")
    code, message = refused(folder, *RUN)
    assert (code, message) == (2, "onnxprune: out/small.onnx: the folder out cannot be written\n")


@pytest.mark.parametrize("options", [(), ("--report", "report.json")], ids=["model", "report"])
def test_a_disk_that_is_full(folder, monkeypatch, options):
    GOOD()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/small.onnx")

    def fail(*_, **__):
        raise full

    if options:
        monkeypatch.setattr(Path, "write_bytes", fail)
    else:
        monkeypatch.setattr("onnxprune.graph.files.write.write", fail)
    code, message = refused(folder, *RUN, *options)
    assert code == 2
    assert "No space left on device" in message


def test_the_data_of_the_input_is_not_overwritten(folder):
    """The input keeps its weights in small.onnx.data, the name that the output's data would have."""
    external("small.onnx.data", 320)()
    code, message = refused(folder, "model.onnx", "-o", "small.onnx", "--force")
    assert code == 2
    assert "small.onnx.data" in message


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ratoi": 0.3}, "unknown option 'ratoi'; there are: ratio, ratios, targets, criterion"),
        ({"ratio": float("nan")}, "ratio must be a number, got nan"),
        ({"ratio": "0.3"}, "ratio must be a number, got '0.3'"),
        ({"ratio": True}, "ratio must be a number, got True"),
        ({"ratios": {"a": "x"}}, "ratio of 'a' must be a number, got 'x'"),
        ({"ratios": {5: 0.3}}, "ratios must be a glob or a list of globs, got [5]"),
        ({"ratios": 0.3}, "ratios must be a dict from glob to ratio, got 0.3"),
        ({"ratios": ["abc"]}, "ratios must be a dict from glob to ratio, got ['abc']"),
        ({"ignore": None}, "ignore must be a glob or a list of globs, got None"),
        ({"only": ["a", 5]}, "only must be a glob or a list of globs, got ['a', 5]"),
        ({"round_to": 8.5}, "round_to must be a whole number, got 8.5"),
        ({"round_to": "8"}, "round_to must be a whole number or 'auto', got '8'"),
        ({"min_units": 2.5}, "min_units must be a whole number, got 2.5"),
        ({"criterion": ["l1"]}, "unknown criterion ['l1']; there are: "),
        ({"scope": ["group"]}, "scope must be 'group', 'global' or 'loss', got ['group']"),
        ({"provider": None}, "unknown provider None; there are: cpu, "),
        ({"latency": "no"}, "latency must be True or False, got 'no'"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"data": 5}, "data must be a path, the name module:function, arrays, or an iterable of feeds, got int"),
        ({"threads": -1}, "threads must be at least 0, got -1"),
        ({"threads": "1"}, "threads must be a whole number, got '1'"),
        ({"samples": 8}, "samples has no effect without --data"),
        ({"preprocess": "unit"}, "preprocess has no effect without --data or --eval-data"),
    ],
    ids=str,
)
def test_bad_options_in_python(options, text):
    with pytest.raises(InputError, match=re.escape(text)):
        prune.prune(good(), **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"nope": 1}, "unknown option 'nope'; there are: provider, threads, batch, budget_s, rounds, seed, memory"),
        ({"budget_s": float("nan")}, "budget_s must be a number, got nan"),
        ({"budget_s": float("inf")}, "budget_s must be above 0, got inf"),
        ({"batch": 1.5}, "batch must be a whole number, got 1.5"),
        ({"threads": "1"}, "threads must be a whole number, got '1'"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"memory": 1}, "memory must be True or False, got 1"),
        ({"provider": ["cpu"]}, "unknown provider ['cpu']; there are: cpu, "),
    ],
    ids=str,
)
def test_bad_options_of_compare_in_python(options, text):
    with pytest.raises(OptionError, match=re.escape(text)):
        compare.compare(good(), good(), **options)


def test_numbers_of_numpy_are_numbers():
    found = make_options(ratio=np.float32(0.5), round_to=np.int64(8), ratios=[("w1", np.float64(0.25))])
    assert [type(found.ratio), type(found.round_to), found.ratios] == [float, int, (("w1", 0.25),)]


def test_a_source_that_is_no_model():
    with pytest.raises(InputError, match=r"expected a path, an onnx\.ModelProto, a torch ONNXProgram"):
        prune.prune(5)
