"""The tests with the oldest and the newest versions that pyproject.toml allows, and docs/measured/versions.md.

    tools/versions                 both sets
    tools/versions --set oldest    one of them
    tools/versions --tests tests/graph tests/runtime    some tests alone

The oldest set pins each run-time dependency and each extra that the tests use to the lower bound that pyproject.toml
states; the newest set is what pip takes today. Both use the Python that runs this script. Development tools (linters,
pytest) are those that pip took when the environment was made. The exit code is 1 when a set fails; what it printed lies
in build/versions/.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.proofs import logged  # noqa: E402

BUILD, PAGE = ROOT / "build" / "versions", ROOT / "docs" / "measured" / "versions.md"
EXTRAS = ("images", "dask", "png")  # that belong to the package, and that the tests use
SETS = ("oldest", "newest")
# Formatting and types are those of the newest tools; what the README shows is what they print.
LEFT_OUT = ("--ignore", "tests/house")


@dataclass(frozen=True)
class Outcome:
    """What became of one set."""

    name: str
    passed: bool
    summary: str
    seconds: float
    versions: dict[str, str]


def settings() -> dict[str, list[str]]:
    """Return the requirements of the package by the extra that they belong to; its own under an empty name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def requirements() -> list[str]:
    """Return what the package and the extras that the tests use depend on."""
    by_extra = settings()
    return [*by_extra[""], *(each for extra in EXTRAS for each in by_extra[extra])]


def pinned(requirement: str) -> str:
    """Return a requirement at its lower bound.

    >>> pinned("onnx>=1.21"), pinned("numpy>=1.26,<3")
    ('onnx==1.21', 'numpy==1.26')
    """
    name, bound = re.fullmatch(r"([\w.-]+)>=([\w.]+).*", requirement).groups()
    return f"{name}=={bound}"


def environment(name: str) -> Path:
    """Make an environment with one set of versions; return its interpreter."""
    place = BUILD / name
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    wanted = [pinned(each) for each in requirements()] if name == "oldest" else requirements()
    upgrade = ["--upgrade", "--upgrade-strategy", "eager"] if name == "newest" else []
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *upgrade]
    subprocess.run([*command, *wanted, "--editable", ".[test]"], cwd=ROOT, check=True)
    return python


def installed(python: Path) -> dict[str, str]:
    """Return the versions that an environment has, by package of `requirements`."""
    names = [re.match(r"[\w.-]+", each)[0] for each in requirements()]
    code = f"from importlib.metadata import version\nfor name in {names!r}: print(name, version(name))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())


def run(name: str, tests: list[str]) -> Outcome:
    """Run the tests in the environment of a set."""
    python = environment(name)
    command = [str(python), "-m", "pytest", "-n", "auto", "--dist", "worksteal", "-p", "no:cacheprovider"]
    ended = logged.run([*command, *LEFT_OUT, *tests], BUILD / f"{name}.log")
    return Outcome(name, ended.passed, ended.summary, ended.seconds, installed(python))


def page(outcomes: list[Outcome], commit: str, tests: list[str]) -> str:
    """Return the page."""
    which = f"`{' '.join(tests)}`" if tests else "all tests but those of formatting and of the README"
    lines = [
        "# Versions",
        "",
        "`tools/versions` runs the tests with the oldest versions that `pyproject.toml` allows, and with the newest.",
        "",
        f"Commit {commit}, Python {platform.python_version()}, {which}.",
        "",
        "| package | " + " | ".join(outcome.name for outcome in outcomes) + " |",
        "| --- |" + " --- |" * len(outcomes),
    ]
    for package in outcomes[0].versions:
        lines.append(f"| {package} | " + " | ".join(outcome.versions[package] for outcome in outcomes) + " |")
    for label, cell in (
        ("result", lambda each: "passed" if each.passed else "**failed**"),
        ("tests", lambda each: each.summary),
    ):
        lines.append(f"| {label} | " + " | ".join(cell(outcome) for outcome in outcomes) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the sets and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", choices=SETS, help="one set alone: the page is not written then")
    parser.add_argument("--tests", nargs="*", default=[], help="tests to run instead of all")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    outcomes = [run(name, options.tests) for name in options.set or SETS]
    for outcome in outcomes:
        print(f"{outcome.name}: {'passed' if outcome.passed else 'FAILED'}: {outcome.summary}")
    if not options.set:
        PAGE.write_text(page(outcomes, logged.named(*logged.state()), options.tests), encoding="utf-8")
    return int(not all(outcome.passed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
