"""The house rules, as tests: formatting, lint, types, layers, public names, documented registry."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import onnxprune

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "onnxprune"

# The pipeline, top to bottom: a module imports only what stands above it (docs/architecture.md).
LAYERS = (
    "_version",
    "errors",
    "check",
    "targets",
    "progress",
    "plot",
    "boxes",
    "fidelity",
    "publish",
    "axes",
    "pattern",
    "plain",
    "order",
    "model",
    "shapes_quantized",
    "shapes",
    "probe",
    "rules.site",
    "rules.registry",
    "rules.table",
    "rules.broadcast",
    "rules.reshape",
    "rules.select",
    "rules.control",
    "rules.recurrent",
    "rules.quantized",
    "rules.fused",
    "rules.locked",
    "rules.scatter",
    "rules.sequence",
    "rules",
    "trace",
    "effective",
    "groups",
    "account",
    "cost",
    "importance",
    "allocate",
    "elimination",
    "knapsack",
    "reconstruct",
    "rewrite",
    "linear",
    "columns",
    "fitting",
    "archive",
    "feeds",
    "images",
    "folder",
    "data",
    "runtime",
    "kernels",
    "latency",
    "profile",
    "executors",
    "replay",
    "statistics",
    "generated",
    "punished",
    "speed",
    "options",
    "choice",
    "calibrate",
    "curves",
    "planning",
    "promise",
    "refit",
    "unfitted",
    "sensitive",
    "verify",
    "measure",
    "report",
    "charts",
    "pipeline",
    "family",
    "cli",
    "__main__",
)
NUMPY_ALONE = (
    "axes",
    "boxes",
    "fidelity",
    "importance",
    "allocate",
    "elimination",
    "knapsack",
    "reconstruct",
)  # no graph is known here
BOUNDARIES = {
    "onnx": {"plain", "order", "model"},
    "onnx_graphsurgeon": {"model"},
    "onnxruntime": {"runtime"},
    "click": {"cli"},
    "PIL": {"images"},
    "distributed": {"executors"},
}


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)],
    ids=["lint", "format", "types"],
)
def test_the_tree_is_clean(command):
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def modules():
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE).with_suffix("")
        names[".".join(relative.parts).removesuffix(".__init__")] = path
    return names


def imports(path, runtime_only=True):
    """Yield the modules that a file imports, without those for type checkers."""
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if runtime_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped.update(id(child) for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_a_layer():
    assert set(modules()) - {"__init__"} == set(LAYERS)


def listed():
    """Yield the modules in the table of docs/architecture.md."""
    for line in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `") and line.split("`")[1].endswith((".py", "/")):
            prefix = "rules." if "`rules/`" in line else ""
            cells = line if prefix else line.split("|")[1]
            yield from (prefix + name for name in re.findall(r"`(\w+)\.py`", cells))


def test_the_table_of_the_docs_has_every_module():
    assert sorted(listed()) == sorted(name for name in LAYERS if name != "rules" and not name.startswith("_"))


@pytest.mark.parametrize("name", [name for name in LAYERS if not name.startswith("_")])
def test_modules_import_only_what_stands_above(name):
    above = set(LAYERS[: LAYERS.index(name)])
    known = {f"onnxprune.{module}": module for module in LAYERS}
    used = {known[module] for module in imports(modules()[name]) if module in known}
    below = used - above - {name}
    assert not below, f"{name} imports {sorted(below)}, which stand below it"


@pytest.mark.parametrize(("library", "home"), BOUNDARIES.items())
def test_boundary_libraries_have_one_home(library, home):
    users = {
        name
        for name, path in modules().items()
        if any(module.split(".")[0] == library for module in imports(path, runtime_only=False))
    }
    assert users == home


@pytest.mark.parametrize("name", NUMPY_ALONE)
def test_the_mathematics_knows_no_graph(name):
    foreign = {"onnxprune.model", "onnxprune.trace", "onnxprune.groups", "onnxprune.probe", "onnxprune.runtime"}
    assert not foreign & set(imports(modules()[name], runtime_only=False))


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


def test_the_op_table_of_the_docs_is_current():
    result = subprocess.run(
        [sys.executable, "tools/make_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
