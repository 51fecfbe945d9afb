"""Models that a script exports in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import onnx


def exported(script: Path, python: str, name: str, **settings: str) -> onnx.ModelProto:
    """Return one model, made in a process of its own.

    Args:
        script: takes the name of the model, and the file to write.
        python: the variable of the environment that names the Python to run it with.
        name: of the model.
        **settings: further variables of the environment.

    Raises:
        RuntimeError: when the script fails; with the last line that it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        command = [os.environ[python], str(script), name, str(path)]
        result = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(result.stderr.strip().splitlines()[-1])
        return onnx.load(path)
