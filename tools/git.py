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


def measured_commit() -> str:
    """Return what figures are measured on: the commit of the package, with a plus where files differ from it."""
    return package_commit() + "+" * differs("onnxprune")


def check_same_commit(place: object, stored: str) -> str:
    """Return what figures are measured on now, where earlier ones at a place were measured on the same.

    Raises:
        SystemExit: where they were not: figures of several commits do not go together.
    """
    now = measured_commit()
    if stored and stored != now:
        raise SystemExit(f"{place}: measured on {stored}, and the package is {now}; move it away to begin anew")
    return now


def package_commit() -> str:
    """Return the last commit that changed the package: figures of two pages with the same one can be held together."""
    return git("log", "-1", "--format=%h", "--", "onnxprune") or "unknown"
