"""The house rules, as tests: formatting, lint, types, layers, public names, documented registry."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

import onnxprune
from onnxprune.cli.group import cli
from onnxprune.criteria.importance import CRITERIA
from onnxprune.metrics.kinds import KINDS
from onnxprune.metrics.words import headline
from onnxprune.report.words import LOSSES
from tests.support.paths import ROOT

PACKAGE = ROOT / "onnxprune"
README = (ROOT / "README.md").read_text(encoding="utf-8")

MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_FILES_AT_THE_TOP = 500, 60, 8


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",), ("importlinter.cli", "lint-imports")],
    ids=["lint", "format", "types", "walls"],
)
def test_the_tree_is_clean(command):
    """Walls are the contracts of import-linter in pyproject.toml."""
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def modules():
    """Return the syntax tree of every module, by its path in the package."""
    return {
        str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def test_modules_and_functions_are_small(capsys):
    """The three figures are printed: the longest module, the longest function, the files at the top of the package."""
    lines = {name: len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) for name in modules()}
    functions = {
        f"{name}:{node.name}": node.end_lineno - node.lineno + 1
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    module, function = max(lines, key=lines.get), max(functions, key=functions.get)
    top = sorted(path.name for path in PACKAGE.iterdir() if path.is_file())
    with capsys.disabled():
        print(
            f"\nhouse: longest module {module}, {lines[module]} lines; longest function {function}, "
            f"{functions[function]} lines; {len(top)} files at the top"
        )
    assert lines[module] <= MOST_LINES
    assert functions[function] <= MOST_LINES_OF_A_FUNCTION
    assert len(top) <= MOST_FILES_AT_THE_TOP, top


def test_every_room_says_what_it_is_for():
    rooms = {name: ast.get_docstring(tree) for name, tree in modules().items() if name.endswith("__init__.py")}
    assert [name for name, text in rooms.items() if not text] == []
    assert [name for name, tree in modules().items() if not ast.get_docstring(tree)] == []


def test_public_names_exist_and_are_documented():
    for name in onnxprune.__all__:
        thing = getattr(onnxprune, name)
        assert name == "__version__" or thing.__doc__, name
    assert sorted(onnxprune.__all__) == onnxprune.__all__


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'onnxprune' has no attribute 'prone'"):
        _ = onnxprune.prone


def test_compare_stays_a_function_after_use():
    """A submodule of the same name would shadow it."""
    assert callable(onnxprune.compare)
    assert callable(onnxprune.prune)
    assert callable(onnxprune.inspect)


@pytest.mark.parametrize("script", ["ops_page.py", "architecture_page.py"])
def test_the_pages_that_scripts_make_are_current(script):
    command = [sys.executable, f"tools/pages/{script}", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_criterion_is_told():
    """In the table of the README and in the help of the command line."""
    row = next(line for line in README.splitlines() if line.startswith("| `--criterion`"))
    (option,) = (option for option in cli.commands["prune"].params if option.name == "criterion")
    for name in CRITERIA:
        assert f"`{name}`" in row
        assert re.search(rf"\b{name}\b", option.help), name


def test_every_metric_has_words():
    """Its loss in tables, its figures in sentences, its name in the page of the report."""
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    assert set(LOSSES) == set(KINDS)
    for name, kind in KINDS.items():
        assert name in page
        assert headline({kind.name: 1.0, "perplexity_before": 1.0}).split()[0] not in ("", kind.name)


def test_every_command_is_told_and_has_its_files():
    for name in cli.commands:
        assert f"onnxprune {name} " in README or name == "prune"
        for room in ("cli", "commands"):
            assert (PACKAGE / room / f"{name}.py").is_file(), f"{room}/{name}.py"
