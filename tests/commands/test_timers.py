"""Timers of the user from end to end, on a board that nobody has."""

from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner

import onnxprune
from onnxprune.cli.group import cli
from onnxprune.errors import OptionError
from onnxprune.latency.bench import FIRST
from tests.support.fake_board import Board, quiet
from tests.support.paths import ROOT
from tests.support.schema import follows_the_schema

VIT, RESNET = ROOT / "models/vit.onnx", ROOT / "models/resnet_bn.onnx"
DATA = ROOT / "models/mnist_calibration.npz"
COMMAND = f"{sys.executable} {ROOT / 'tests/support/fake_board.py'} {{}}"
QUICK = {"criterion": "l2", "profile_seconds": 5.0}


def invoked(*arguments):
    return CliRunner().invoke(cli, [*map(str, arguments), "--quiet"], prog_name="onnxprune")


def test_a_latency_is_met_as_the_timer_tells_it(tmp_path):
    board = Board()
    result = onnxprune.prune(VIT, targets={"latency": 0.7}, timer=board, **QUICK)
    path = result.save(tmp_path / "small.onnx")
    assert 0.95 * 0.7 <= quiet(path) / quiet(VIT) <= 1.015 * 0.7
    (latency,) = result.report["latency"]
    assert latency["timer"] == "Board"
    assert latency["before_ms"] == pytest.approx(quiet(VIT))
    assert latency["after_ms"] == pytest.approx(quiet(path))
    assert board.asked.count("vit.onnx") == FIRST  # a board without noise tells the original's time once and for all
    follows_the_schema(json.loads(json.dumps(result.report)))


def test_what_is_asked_in_milliseconds_is_those_of_the_board(tmp_path):
    asked = 0.8 * quiet(VIT)
    result = onnxprune.prune(VIT, targets={"latency": f"{asked}ms"}, timer=Board(0.003), round_to=1, **QUICK)
    path = result.save(tmp_path / "small.onnx")
    assert 0.93 * asked <= quiet(path) <= 1.03 * asked
    assert result.report["options"]["timer"] == "Board"


def test_steps_are_looked_for_on_the_board():
    board = Board()
    report = onnxprune.prune(RESNET, ratio=0.3, round_to="auto", timer=board, **QUICK).report
    assert report["promise"]["attempts"]
    assert set(report["promise"]["steps"].values()) - {16}  # the board knows no blocks of 16
    assert len(board.asked) > FIRST + len(report["promise"]["attempts"])


def test_a_board_that_is_too_slow_for_the_target_says_so():
    with pytest.raises(OptionError, match=r"target latency=0\.01 \(at best 0\.\d+\) cannot be reached"):
        onnxprune.prune(VIT, targets={"latency": 0.01}, timer=quiet, **QUICK)


def test_compare_asks_the_timer_and_tells_so(tmp_path):
    small = onnxprune.prune(VIT, 0.5, criterion="l2", latency=False).save(tmp_path / "small.onnx")
    ran = invoked("compare", VIT, small, "--timer", COMMAND, "--min-speedup", 1.1)
    assert ran.exit_code == 0, ran.output
    ratio = quiet(VIT) / quiet(small)
    assert f"speed-up {ratio:.2f}x" in ran.output
    assert "on timer /" in ran.output
    assert "1 run each" in ran.output
    missed = invoked("compare", VIT, small, "--timer", COMMAND, "--min-speedup", ratio + 0.1)
    assert missed.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--timer", "./board"], "timer './board' is neither module:function nor a command with {} in the place of"),
        (["--timer", f"{sys.executable} -c 1/0 {{}}"], "it ended with exit code 1; it said last: "),
        (["--timer", "tests.support.fake_board:quiet", "--sweep-threads", "1,2"], "have no effect with a timer"),
        (["--timer-seconds", "3"], "--timer-seconds has no effect without a timer"),
        (["--timer", "a {}", "--provider", "cpu", "--provider", "cpu"], "--timer says where models run: give one"),
    ],
)
def test_compare_says_what_is_wrong_with_a_timer(arguments, message):
    ran = invoked("compare", VIT, VIT, *arguments)
    assert ran.exit_code == 2
    assert message in ran.output


def test_prune_on_the_command_line(tmp_path):
    options = ["--target", "latency=0.75", "--criterion", "l2", "--round-to", "1", "--profile-seconds", "5"]
    ran = invoked("prune", VIT, "-o", tmp_path / "o.onnx", *options, "--timer", "tests.support.fake_board:quiet")
    assert ran.exit_code == 0, ran.output
    assert "latency, timer tests.support.fake_board:quiet" in ran.output
    assert quiet(tmp_path / "o.onnx") <= 0.75 * 1.015 * quiet(VIT)


@pytest.mark.parametrize(
    "timer", ["tests.support.fake_board:quiet", lambda path: 1.0 * quiet(path)], ids=["name", "function"]
)
def test_workers_of_a_sweep_need_no_timer(tmp_path, timer):
    options = {"data": DATA, "samples": 16, "round_to": 1, "profile_seconds": 5.0, "criterion": "l2"}
    folder = tmp_path / "f"
    onnxprune.sweep(RESNET, folder, "latency", [0.8], workers=2, timer=timer, **options)
    (row,) = json.loads((folder / "sweep.json").read_text())["members"]
    assert row["latency"]["before_ms"] == pytest.approx(quiet(RESNET))
    assert row["latency"]["after_ms"] <= 0.8 * 1.015 * quiet(RESNET)


def test_a_sweep_is_timed_on_the_board(tmp_path):
    options = ["--latency", "0.8,0.7", "--criterion", "l2", "--round-to", "1", "--profile-seconds", "5"]
    ran = invoked("sweep", VIT, "-o", tmp_path / "f", *options, "--timer", "tests.support.fake_board:quiet")
    assert ran.exit_code == 0, ran.output
    rows = json.loads((tmp_path / "f/sweep.json").read_text())["members"]
    assert [row["latency"]["timer"] for row in rows] == ["tests.support.fake_board:quiet"] * 2
    assert rows[1]["latency"]["after_ms"] < rows[0]["latency"]["after_ms"]
