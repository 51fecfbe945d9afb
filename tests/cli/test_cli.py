"""The command line: what is read, what goes to stdout and stderr, and exit codes."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import click
import numpy as np
import pytest

from onnxprune import __main__ as start
from onnxprune import __version__
from onnxprune.cli import main, screen
from onnxprune.cli.group import cli
from onnxprune.data.images import PRESETS
from onnxprune.errors import NothingToPrune
from onnxprune.interrupts import Interrupted
from tests.support.build import dense
from tests.support.cli import invoke
from tests.support.paths import MODELS

RUN = ("model.onnx", "-o", "small.onnx")
PAIR = ("compare", "model.onnx", "small.onnx")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder with a model."""
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(dense("b = Relu(a)", mid=16).SerializeToString())
    return tmp_path


@pytest.fixture
def pair(folder, steady):
    """The same with a pruned model and digits."""
    shutil.copy(MODELS / "vit.onnx", "model.onnx")
    digits = np.load(MODELS / "mnist_test.npz")
    np.savez("test.npz", image=digits["image"][:200], labels=digits["labels"][:200])
    Path("small.onnx").write_bytes(small_vit())
    return folder


@cache
def small_vit():
    """Return the file that the command line makes of the model of `pair` without data."""
    invoke(*RUN, "--quiet")
    return Path("small.onnx").read_bytes()


def python(*args, **options):
    return subprocess.run([sys.executable, *args], capture_output=True, check=False, **options)


# -- in a process of its own -----------------------------------------------------------------------------


def test_heavy_modules_are_imported_when_a_command_runs():
    heavy = ("numpy", "onnx", "onnxruntime", "onnx_graphsurgeon", "rich")
    code = f"import sys, onnxprune.cli; print([name for name in {heavy} if name in sys.modules])"
    done = python("-c", code, text=True)
    assert done.stdout == "[]\n"


def test_prune_and_compare_and_inspect_as_a_user_runs_them(folder):
    done = python("-m", "onnxprune", *RUN, "--report", "r.json", text=True)
    assert (done.returncode, Path("small.onnx").is_file()) == (0, True), done.stderr
    assert done.stderr.splitlines()[0] == "reading model.onnx ..."
    assert done.stdout.splitlines()[-1].startswith("small.onnx: 1.45x fewer MACs; ")
    assert json.loads(Path("r.json").read_text())["verification"]["passed"] is True
    done = python("-m", "onnxprune", *PAIR, "--seconds", "0.01", "--json", text=True)
    assert (done.returncode, done.stderr) == (0, "measuring model.onnx and small.onnx on cpu ...\n")
    assert json.loads(done.stdout)["onnxprune"] == __version__
    done = python("-m", "onnxprune", "inspect", "small.onnx", text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bad_input_as_a_user_meets_it(folder):
    done = python("-m", "onnxprune", "nothing.onnx", "-o", "small.onnx", "--quiet", text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "onnxprune: nothing.onnx: no such file\n")


def test_tables_are_printed_where_only_ascii_can_be(folder):
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = python("-m", "onnxprune", "inspect", "model.onnx", env=env)
    assert done.returncode == 0, done.stderr
    assert b"w1" in done.stdout
    assert done.stdout.isascii()


# -- which command ---------------------------------------------------------------------------------------


def test_options_may_stand_before_the_input(folder, steady):
    invoke("--ratio", "0.5", "-o", "small.onnx", "model.onnx", "--quiet")
    assert Path("small.onnx").is_file()


def test_a_file_named_like_a_command_is_pruned_by_name(folder, steady):
    shutil.copy("model.onnx", "prune")
    invoke("prune", "prune", "-o", "small.onnx", "--quiet")
    shutil.copy("model.onnx", "inspct")
    invoke("inspct", "-o", "small.onnx", "--quiet", "--force")


def test_help_and_version():
    assert "onnxprune model.onnx --ratio 0.3 -o small.onnx" in invoke("--help").stdout
    assert invoke("--version").stdout == f"onnxprune, version {__version__}\n"
    for command in ("prune", "compare", "inspect"):
        assert invoke(command, "-h").stdout.startswith(f"Usage: onnxprune {command} ")
    assert "Usage: onnxprune" in invoke(code=2).stderr


def test_every_option_has_a_help_text():
    for command in cli.commands.values():
        assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_main_runs_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["onnxprune", "--version"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert __version__ in capsys.readouterr().out


# -- prune -----------------------------------------------------------------------------------------------


def test_progress_goes_to_stderr_and_the_result_to_stdout(folder, steady):
    result = invoke(*RUN, "--criterion", "l2")
    assert result.stderr.splitlines() == [
        "reading model.onnx ...",
        "tracing 4 nodes ...",
        "scoring 1 of 3 groups by l2 ...",
        "verifying: masked = pruned ...",
        "measuring latency on cpu ...",
    ]
    assert "..." not in result.stdout
    assert result.stdout.splitlines()[-1] == (
        "small.onnx: 1.45x fewer MACs; 2.00x faster on cpu, 1 thread (95 % interval 2.00 to 2.00)"
    )
    assert result.stdout.count("after / before") == 1


def test_quiet_says_nothing_on_stderr(folder, steady):
    assert invoke(*RUN, "--quiet").stderr == ""


def test_json_on_stdout_is_the_report(folder, steady):
    result = invoke(*RUN, "--json", "--report", "r.json")
    assert json.loads(result.stdout) == json.loads(Path("r.json").read_text())


def test_all_options_reach_the_command(folder, steady):
    options = "--ratio 0.2 --ratio w1=0.5 --ratio a=b=0.4 --criterion l1 --scope global --round-to 2 --min-units 3"
    options += " --ignore i --ignore j --only o --threads 0 --data d.npz --report r.json --force"
    options += " --seed 7 --no-latency --eval-data e:f --preprocess tf --samples 9"
    seen = {}

    def stop(source, target, chosen, data, **rest):
        seen.update(rest, chosen=chosen, data=data)
        raise NothingToPrune("stopped")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxprune.commands.prune.prune_file", stop)
        invoke(*RUN, *options.split(), code=3)
    expected = {"ratio": 0.2, "ratios": (("w1", 0.5), ("a=b", 0.4)), "criterion": "l1", "scope": "global"}
    expected |= {"round_to": 2, "min_units": 3, "ignore": ("i", "j"), "only": ("o",), "threads": 0, "provider": "cpu"}
    expected |= {"seed": 7, "latency": False, "eval_data": "e:f", "preprocess": PRESETS["tf"], "samples": 9}
    assert {name: getattr(seen["chosen"], name) for name in expected} == expected
    assert (seen["data"], seen["report_path"], seen["force"]) == ("d.npz", Path("r.json"), True)


# -- compare ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "code", "last"),
    [
        ((), 0, "speed-up 2.00x (95 % interval 2.00 to 2.00) on cpu, 1 thread, batch 1, 30 runs each; of the 95th "
         "percentiles 2.00x (2.00 to 2.00)"),
        (
            ("--min-speedup", "1.9", "--max-drop", "0.5"),
            0,
            "bounds met: a speed-up of at least 1.90x, an accuracy drop of at most 50.00 points",
        ),
        (("--min-speedup", "2.1"), 1, "the speedup is 2.00x (95 % interval 2.00 to 2.00), asked for at least 2.10x"),
        (("--max-drop", "0.0001"), 1, "the accuracy fell by "),
    ],
    ids=["no bounds", "met", "too slow", "too wrong"],
)  # fmt: skip
def test_bounds_decide_the_exit_code(pair, bounds, code, last):
    data = ("--data", "test.npz", "--batch", "50")
    result = invoke(*PAIR, *data, *bounds, code=code)
    assert result.stdout.splitlines()[-1].startswith(last.replace("batch 1", "batch 50"))
    assert result.stderr == "measuring model.onnx and small.onnx on cpu ...\n"
    missed = json.loads(invoke(*PAIR, *data, *bounds, "--json", code=code).stdout)["comparisons"][0]["missed"]
    assert len(missed) == code


def test_compare_on_several_providers(pair):
    result = invoke(*PAIR, "--provider", "cpu", "--provider", "cpu", "--threads", "2", "--json")
    found = json.loads(result.stdout)["comparisons"]
    assert [(each["provider"], each["threads"]) for each in found] == [("cpu", 2)] * 2


def test_a_sweep_shows_every_combination(pair):
    args = ("--sweep-threads", "1,0", "--sweep-batch", "1,8", "--quiet")
    lines = invoke(*PAIR, *args).stdout.splitlines()
    rows = [re.split(r" {2,}", line) for line in lines]
    assert [row for row in rows if "2.00x" in row] == [
        [threads, batch, rate, double, "2.00x", "2.00 to 2.00"]
        for threads in ("1", "all")
        for batch, rate, double in (("1", "500.0/s", "1,000/s"), ("8", "4,000/s", "8,000/s"))
    ]
    found = json.loads(invoke(*PAIR, *args, "--json").stdout)["comparisons"][0]["sweep"]
    assert [(each["threads"], each["batch"]) for each in found] == [(1, 1), (1, 8), (0, 1), (0, 8)]


@pytest.mark.parametrize("suffix", [".svg", ".HTML"])
def test_compare_writes_a_plot_and_a_report(pair, suffix):
    files = ("--plot", f"p{suffix}", "--report", "r.json")
    printed = invoke(*PAIR, "--sweep-batch", "2", *files, "--json").stdout
    assert json.loads(Path("r.json").read_text()) == json.loads(printed)
    plot = Path(f"p{suffix}").read_text()
    words = (
        "model.onnx and small.onnx: latency on cpu, 1 thread, batch 1",
        "1 thread, batch 2",
        "MatMul",
        "Throughput",
    )
    assert [each for each in words if each not in plot] == []
    assert ("<table>" in plot) == (suffix == ".HTML")
    assert invoke(*PAIR, *files, code=2).stderr.startswith(f"onnxprune: p{suffix} exists")


def test_compare_draws_pixels(pair, monkeypatch):
    invoke(*PAIR, "--plot", "p.PNG", "--quiet")
    assert Path("p.PNG").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "font_roboto", None)
    assert "--plot .png needs more packages: pip install" in invoke(*PAIR, "--plot", "q.png", code=2).stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--sweep-threads", "1;2"), "--sweep-threads takes whole numbers such as 1,2,4, got '1;2'"),
        (("--sweep-threads", "-1"), "--sweep-threads must be at least 0, got -1"),
        (("--sweep-batch", "0"), "--sweep-batch must be at least 1, got 0"),
        (("--provider-option", "x"), "--provider-option takes KEY=VALUE, got 'x'"),
        (("--plot", "p.gif"), "--plot must be a file that ends in .svg, .png or .html, got 'p.gif'"),
        (
            ("--sweep-batch", "2", "--input", "image=1,1,28,28"),
            "--sweep-batch needs an open batch, but the first dim of input 'image' is fixed to 1: export the model "
            "with a dynamic one",
        ),
        (("--plot", "small.onnx"), "--plot must be a file that ends in .svg, .png or .html, got 'small.onnx'"),
        (("--report", "model.onnx", "--force"), "model.onnx is the input; give the report another name"),
    ],
)
def test_compare_refuses(pair, args, message):
    assert invoke(*PAIR, *args, "--quiet", code=2).stderr == f"onnxprune: {message}\n"


def test_bounds_need_labels(pair):
    np.savez("images.npz", image=np.load("test.npz")["image"][:8])
    message = "onnxprune: --max-drop needs labels: give data with an array 'labels' of class indices\n"
    assert invoke(*PAIR, "--data", "images.npz", "--max-drop", "0.1", "--quiet", code=2).stderr == message


# -- inspect ---------------------------------------------------------------------------------------------


def test_inspect_lists_groups_and_every_lock(folder):
    lines = invoke("inspect", "model.onnx").stdout.splitlines()
    assert lines[0].startswith("model.onnx: 4 nodes, 192 parameters, 176 MACs per sample, 0.0% of the parameters")
    assert lines[-4:] == [
        "not pruned, by reason:",
        "  it is part of the graph input 'x': w1:in (6 neurons)",
        "  it is part of the graph output 'y': w2 (5 neurons)",
        "3 of 3 nodes with weights can lose units",
    ]


def test_inspect_takes_the_sizes_of_inputs(folder):
    assert invoke("inspect", "model.onnx", "--input", "x=2,6").stdout == invoke("inspect", "model.onnx").stdout
    message = "onnxprune: --input 'x': shape [2, 7] does not fit, the model takes 'x' float32 [n, 6]\n"
    assert invoke("inspect", "model.onnx", "--input", "x=2,7", code=2).stderr == message


def test_inspect_as_json(folder):
    found = json.loads(invoke("inspect", "model.onnx", "--json").stdout)
    group = next(group for group in found["groups"] if group["locked"] is None)
    assert group == {
        "name": "w1",
        "kind": "neurons",
        "units": 16,
        "params": 192,
        "macs": 176,
        "exact": True,
        "locked": None,
        "nodes": ["a0", "a", "y"],
        "initializers": ["w1", "b1", "w2"],
    }


# -- in a terminal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 120])
def test_sentences_are_broken_between_words(width):
    long = "left alone: blocks.0.attention.qkv:head_dims, a-name/with.parts-and-hyphens: " + 30 * "some words "
    lines = screen._wrapped(long + "\nshort", width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line.startswith("    ") for line in lines[1:-1])
    assert lines[-1] == "short"
    assert " ".join(" ".join(lines[:-1]).split()) == long.strip()


def test_names_are_never_broken():
    assert screen._wrapped("x " + 90 * "n", 40).splitlines() == ["x", "    " + 90 * "n"]


def test_a_terminal_gets_wrapped_sentences(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "50")
    screen.show_result(["word " * 20])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 50


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Progress goes to a terminal of 50 columns."""
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "50")


def steps(progress):
    progress("reading [bold]m.onnx\x1b and a name that is longer than the terminal is wide")
    for step in (1, 2, 3):
        progress("fitting", step, 3)


def test_a_terminal_gets_one_line_in_place(terminal, capsys):
    with screen.show_progress(False) as progress:
        steps(progress)
    told = capsys.readouterr().err
    line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told).replace("━", "").split("\r")
    assert "[bold]m.onnx\\x1b" in told
    assert "1 of 3" in told
    assert max(map(len, line)) <= 50
    assert told.count("\n") == 1  # and back up: what stood in the line is erased
    assert told.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_leaves_the_terminal_clean(terminal, capsys, error):
    def fail():
        with screen.show_progress(False) as progress:
            progress("fitting", 1, 3)
            raise error

    with pytest.raises(error):
        fail()
    assert capsys.readouterr().err.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")


@pytest.mark.parametrize(
    ("quiet", "term", "lines"),
    [(True, "xterm", 0), (False, "dumb", 2)],
    ids=["quiet", "dumb"],
)
def test_no_line_in_place(terminal, monkeypatch, capsys, quiet, term, lines):
    monkeypatch.setenv("TERM", term)
    with screen.show_progress(quiet) as progress:
        steps(progress)
    told = capsys.readouterr().err
    assert len(told.splitlines()) == lines
    assert "\x1b" not in told


# -- what the system reports -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "onnxprune: No space left on device\n"),
        (FileNotFoundError(errno.ENOENT, "gone", "m.onnx"), 2, "onnxprune: m.onnx: gone\n"),
        (KeyboardInterrupt(), 130, "onnxprune: interrupted\n"),
        (Interrupted(15), 143, "onnxprune: interrupted\n"),
    ],
    ids=["disk", "file", "Ctrl-C", "SIGTERM"],
)
def test_errors_of_the_system(folder, monkeypatch, error, code, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("onnxprune.commands.inspect.inspect", fail)
    assert invoke("inspect", "model.onnx", code=code).stderr == message


@pytest.mark.parametrize("step", ["resolve_command", "make_context"])
def test_an_interrupt_between_the_steps_of_click_is_said_in_one_line(folder, monkeypatch, step):
    def fail(*_, **__):
        raise Interrupted(15)

    monkeypatch.setattr(click.Group, step, fail)
    assert invoke("inspect", "model.onnx", code=143).stderr == "onnxprune: interrupted\n"


def test_what_was_written_is_said(folder, steady, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxprune.cli.prune.show_result", fail)
    assert invoke(*RUN, "--quiet", code=130).stderr == "onnxprune: interrupted; small.onnx was written\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_result_that_cannot_be_printed(folder):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "onnxprune", *RUN, "--quiet", "--no-latency"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "onnxprune: No space left on device; small.onnx was written\n")


def test_nothing_is_printed_where_stdout_is_closed(folder, steady, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    screen.show_result(["text"])


def test_an_interrupt_at_the_start_has_no_traceback(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxprune.cli.main", interrupted)
    with pytest.raises(SystemExit, match="130"):
        start.main()


def test_a_closed_pipe_of_others_is_an_error(folder, monkeypatch):
    def fail(*_, **__):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("onnxprune.commands.inspect.inspect", fail)
    assert invoke("inspect", "model.onnx", code=2).stderr == "onnxprune: Broken pipe\n"
