"""The house rules, as tests: formatting, lint, types, walls, sizes, public names, and pages that name what there is."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import cache

import click
import pytest

import onnxprune
from onnxprune.cli.group import cli
from onnxprune.criteria.importance import CRITERIA
from onnxprune.metrics.kinds import KINDS
from onnxprune.metrics.words import headline
from onnxprune.planning.methods import METHODS
from onnxprune.report.words import LOSSES
from tests.support.house import PACKAGE, modules, size
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")

OPTIONS = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")

SCHEMA = (ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8")

MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_FILES_AT_THE_TOP = 500, 60, 8
HOMES = {  # finer than the contracts: one file where it is one, and `onnxprune/__init__.py` is held to it, too
    "onnx": "graph/",
    "onnx_graphsurgeon": "graph/files/read.py",
    "onnxruntime": "runtime/",
    "torch": "training/",
    "click": "cli/",
    "PIL": "data/images.py",
    "distributed": "runtime/cluster.py",
    "resvg_py": "report/plot.py",
    "font_roboto": "report/plot.py",
    "jinja2": "report/page/render.py",
    "markupsafe": "report/page/render.py",
}


def run_python(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)],
    ids=["lint", "format", "types"],
)
def test_the_tree_is_clean(command):
    result = run_python("-m", *command)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_walls_stand():
    """The contracts of import-linter in pyproject.toml."""
    result = run_python("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", result.stdout), result.stdout


def test_modules_and_functions_are_small():
    """The three figures are printed at the end of every run, see tests/conftest.py."""
    measured = size()
    assert measured.module_lines <= MOST_LINES, measured
    assert measured.function_lines <= MOST_LINES_OF_A_FUNCTION, measured
    assert len(measured.top_files) <= MOST_FILES_AT_THE_TOP, measured


@cache
def imports():
    """Return the packages that each module imports, for type checkers too."""
    return {name: {*imported(tree)} for name, tree in modules().items()}


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize(("library", "home"), HOMES.items())
def test_boundary_libraries_have_one_home(library, home):
    users = [name for name, packages in imports().items() if library in packages]
    assert users
    assert [name for name in users if not name.startswith(home)] == []


def names_of_tests():
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("test_*.py"))
    return {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_what_contributing_names_is_there():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:onnxprune|tests|tools|docs)/[\w/.-]+)", page)
    tests = re.findall(r"\btest_\w+", page)
    assert len(paths) > 20
    assert len(tests) > 10
    assert [path for path in paths if "NAME" not in path and not (ROOT / path).exists()] == []
    known = names_of_tests() | {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert [name for name in tests if name not in known] == []


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


@pytest.mark.parametrize("script", ["ops_page.py", "architecture_page.py", "errors_page.py", "theory_pictures.py"])
def test_the_pages_that_scripts_make_are_current(script):
    command = [sys.executable, f"tools/pages/{script}", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_option_of_prune_is_told():
    """In the table of options, by one of its names."""
    rows = [line.split(" | ")[0] for line in OPTIONS.splitlines() if line.startswith("| `--")]
    told = {name for row in rows for name in re.findall(r"--[\w-]+", row)}
    options = [each for each in cli.commands["prune"].params if isinstance(each, click.Option)]
    assert len(options) > 30
    assert [each.opts for each in options if not told & {*each.opts, *each.secondary_opts}] == []
    assert told <= {name for each in options for name in (*each.opts, *each.secondary_opts)}


def test_every_criterion_is_told():
    """In the table of options, in the help of the command line and in the schema of the report."""
    row = next(line for line in OPTIONS.splitlines() if line.startswith("| `--criterion`"))
    (option,) = (option for option in cli.commands["prune"].params if option.name == "criterion")
    for name in CRITERIA:
        assert f"`{name}`" in row
        assert re.search(rf"\b{name}\b", option.help), name
        assert re.search(rf"How units were scored:[^\"]*\b{name}\b", SCHEMA), name


def test_every_method_is_told():
    """In the table of options, in the help of the command line, in the schema of the report and on its own page."""
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    row = next(line for line in OPTIONS.splitlines() if line.startswith("| `--method NAME`"))
    (option,) = (option for option in cli.commands["prune"].params if option.name == "method")
    enum = json.loads(SCHEMA)["$defs"]["options"]["properties"]["method"]["enum"]
    assert enum == [*METHODS, None]
    for name, method in METHODS.items():
        assert f"`{name}`" in row
        assert re.search(rf"\b{name}\b", option.help), name
        section = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert " ".join(method.source.split()) in " ".join(section.split()), name


def test_every_metric_has_words():
    """Its loss in tables, its figures in sentences, its name among options, the page of the report and its schema."""
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    row = next(line for line in OPTIONS.splitlines() if line.startswith("| `--metric`"))
    assert set(LOSSES) == set(KINDS)
    for name, kind in KINDS.items():
        assert f"`{name}`" in page
        assert f"`{name.replace(' ', '-')}`" in row
        assert f'"{name}"' in SCHEMA
        assert headline({kind.name: 1.0, "perplexity_before": 1.0}).split()[0] not in ("", kind.name)


def test_every_command_is_told_and_has_its_files():
    for name in cli.commands:
        assert f"onnxprune {name} " in README or name == "prune"
        for room in ("cli", "commands"):
            assert (PACKAGE / room / f"{name}.py").is_file(), f"{room}/{name}.py"
