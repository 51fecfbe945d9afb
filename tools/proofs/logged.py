"""Commands that take long: run with all that they print in a file, summed up in a line."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.git import ROOT, differs, git

READ = ("onnxprune", "tests", "models", "tools", "pyproject.toml")  # what the outcome of a proof depends on


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    passed: bool
    seconds: float
    summary: str  # the last line of what it printed that counts what passed and failed


def run(command: Sequence[str], log: Path) -> Ended:
    """Run a command at the root of the repository; what it prints goes to the file `log`."""
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    summary = next((line for line in reversed(lines) if re.search(r"\d+ (passed|failed|error)", line)), "no summary")
    return Ended(code == 0, round(time.monotonic() - start, 1), summary.strip(" ="))


def state() -> tuple[str, bool]:
    """Return the commit, and whether files that proofs depend on differ from it."""
    return git("rev-parse", "--short", "HEAD"), differs(*READ)


def named(commit: str, dirty: bool) -> str:
    """Return a commit as pages name it."""
    return commit + " and changes" * dirty
