"""The tutorial: its commands run in their order, and what it shows of their output is what they print."""

from __future__ import annotations

import re
import shlex

import pytest
from click.testing import CliRunner

from onnxprune.cli.group import cli
from tests.house.test_readme import masked
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^```sh\n(.*?)^```\n\n```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SHARE = re.compile(r"^MACs per sample .* ([\d.]+)$", re.MULTILINE)  # ratios and targets fix it, also on few samples


def commands(block):
    return [shlex.split(line, comments=True)[1:] for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def shown(text):
    """Return the lines that are shown as printed: not those in brackets, nor rules, which are as wide as columns."""
    return "\n".join(line for line in text.splitlines() if not line.startswith(("[", "─")))


def raced(lines):
    """Return lines without what depends on how busy the machine is: how many plans were raced, and how sure that is."""
    return [re.sub(r" \+- # %", "", re.sub(r"# plans? raced", "# plans raced", line)) for line in lines]


def printed(arguments):
    """Return what a command prints; None where others took the cores, so that a target of latency was missed."""
    result = CliRunner().invoke(cli, arguments)
    if "target missed" in result.output and any("latency=" in each for each in arguments):
        return None
    assert result.exit_code == 0, (arguments, result.output)
    return result.stdout


@pytest.mark.generated
def test_the_tutorial_shows_what_its_commands_print(in_small_clone, steady):
    assert len(STEPS) == len(re.findall("^```sh", PAGE, re.MULTILINE)) >= 6
    compared = 0
    for block, text in STEPS:
        found = [printed(arguments) for arguments in commands(block)]
        if None in found:
            continue
        compared += 1
        outputs = "\n".join(found)
        lines = raced(masked(outputs))
        for line in raced(masked(shown(text))):
            assert any(each.startswith(line) for each in lines), (block, line, outputs)  # a verdict may follow
        for share, got in zip(SHARE.findall(text), SHARE.findall(outputs), strict=False):
            assert float(got) == pytest.approx(float(share), abs=0.03), block
    assert compared >= len(STEPS) - 1  # one asks for a latency


def test_the_tutorial_uses_every_command_that_a_newcomer_needs():
    used = {arguments[0] for block, _ in STEPS for arguments in commands(block)}
    assert {"inspect", "compare", "sensitivity", "models/resnet_bn.onnx"} <= used
