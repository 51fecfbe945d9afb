"""The action for GitHub: its shell step runs as it stands, with the variables that a workflow sets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import MODELS, ROOT

ACTION = (ROOT / "tools" / "integrations" / "compare" / "action.yml").read_text(encoding="utf-8")
INPUTS = re.findall(r"^        ([A-Z_]+): \$\{\{ inputs\.([a-z-]+) \}\}$", ACTION, re.MULTILINE)


def script():
    """Return the last step's script, without its indentation."""
    return "\n".join(line[8:] for line in ACTION.rpartition("run: |\n")[2].splitlines())


def run(folder, **given):
    values = {name: "" for name, _ in INPUTS} | {"REPORT": "report.json"} | given
    (folder / "bin").mkdir(exist_ok=True)
    command = folder / "bin" / "onnxprune"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onnxprune "$@"\n')
    command.chmod(0o755)
    env = {**os.environ, **values, "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    env |= {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run(["bash", "-c", script()], cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_every_input_reaches_the_step():
    listed = re.findall(r"^  ([a-z-]+):$", ACTION.partition("inputs:\n")[2].partition("\nruns:")[0], re.MULTILINE)
    assert sorted(listed) == sorted(name for _, name in INPUTS)
    assert {name for name, _ in INPUTS} <= set(re.findall(r"[A-Z_]{4,}", script()))


@pytest.mark.parametrize(("bound", "code"), [("0.01", 0), ("100", 1)])
def test_the_step_passes_and_fails(tmp_path, bound, code):
    model = str(MODELS / "resnet_bn.onnx")
    result = run(tmp_path, BEFORE=model, AFTER=model, MIN_SPEEDUP=bound, OPTIONS="--seconds 0.2")
    assert result.returncode == code, result.stdout + result.stderr
    assert json.loads((tmp_path / "report.json").read_text())["comparisons"]
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("```text\n")
    assert "latency" in summary


def test_names_with_blanks_are_one_argument(tmp_path):
    folder = tmp_path / "my models"
    folder.mkdir()
    path = Path(folder / "a b.onnx")
    path.write_bytes((MODELS / "resnet_bn.onnx").read_bytes())
    assert run(tmp_path, BEFORE=str(path), AFTER=str(path), OPTIONS="--seconds 0.2").returncode == 0
