"""What the README promises is run: its commands, its example, its table."""

from __future__ import annotations

import re
import shlex

import pytest
from click.testing import CliRunner

import onnxprune
from onnxprune.cli.group import cli
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands():
    lines = (line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines())
    return [shlex.split(line)[1:] for line in lines if line.startswith("onnxprune ")]


def test_every_command_of_the_readme_works(in_small_clone, steady):
    """With few samples: what a command prints of all of them is tested below."""
    assert len(commands()) >= 5
    for arguments in commands():
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, (arguments, result.output)


def test_the_scripts_of_the_readme_are_there_and_can_be_run():
    for name in ("demo", "docs", "test", "setup", "soak", "versions"):
        path = ROOT / "tools" / name
        assert path.stat().st_mode & 0o111, f"tools/{name} is not executable"


def test_ci_runs_what_the_readme_says():
    if (ROOT / ".ci").exists():
        assert "tools/test" in (ROOT / ".ci" / "run").read_text()
    else:
        assert (ROOT / "PKG-INFO").exists(), "neither a clone nor a source distribution, which has no .ci"


def masked(text):
    """Return the lines of a table without numbers: times, and what loss curves decide, are not the same everywhere."""
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.splitlines() if line.strip()]
    return [re.sub(r"[-+]?[\d.,]*\d", "#", line) for line in lines]


def shares(text):
    """Return what is left of the parameters and MACs in a table."""
    return [float(line.split()[-1]) for line in text.splitlines() if line.startswith(("parameters", "MACs"))]


def test_the_table_of_the_readme_is_what_the_command_prints(in_clone, steady):
    (shown,) = blocks("text")
    command = next(arguments for arguments in commands() if "vit-pruned.onnx" in arguments)
    printed = CliRunner().invoke(cli, command).stdout
    assert shares(printed) == pytest.approx(shares(shown), abs=0.03)
    for line in masked(shown):
        if not line.startswith(("─", "latency", "verified", "vit-pruned", "[")):
            assert line in masked(printed)


def test_the_python_example_uses_what_there_is():
    """It stands on the page that the README sends to."""
    page = (ROOT / "docs" / "howto" / "pipeline.md").read_text(encoding="utf-8")
    assert "](docs/howto/pipeline.md)" in README
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for name in re.findall(r"onnxprune\.(\w+)", example):
        assert name in onnxprune.__all__
    assert len(example.splitlines()) <= 15


def test_every_link_of_the_readme_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_readme_is_one_screen():
    """What goes into more has a page: of options, of how to do something, of what was measured."""
    assert len(README.splitlines()) <= 85
    assert "](docs/options.md)" in README
    assert "](docs/index.md)" in README
