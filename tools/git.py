"""What a measurement or a proof says of the files that it ran on: the commit, and whether they differ from it."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def git(*arguments: str) -> str:
    """Return what git prints; nothing where there is no repository."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def differs(*paths: str) -> bool:
    """Whether files below these paths differ from the commit, or are not part of it."""
    return bool(git("status", "--porcelain", "--", *paths))


def package_commit() -> str:
    """Return the last commit that changed the package: figures of two pages with the same one can be held together."""
    return git("log", "-1", "--format=%h", "--", "onnxprune") or "unknown"
