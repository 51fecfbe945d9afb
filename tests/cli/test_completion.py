"""What a shell completes, as click's scripts ask for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT


def complete(words, at):
    env = {**os.environ, "_ONNXPRUNE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    program = "import sys; sys.argv[0] = 'onnxprune'; from onnxprune.__main__ import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    return [line.partition(",")[2] for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "at", "found"),
    [
        ("onnxprune com", 1, "compare"),
        ("onnxprune sens", 1, "sensitivity"),
        ("onnxprune compare --min", 2, "--min-speedup"),
        ("onnxprune prune m.onnx --tar", 3, "--target"),
    ],
)
def test_commands_and_options_are_completed(words, at, found):
    assert found in complete(words, at)
