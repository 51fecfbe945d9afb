"""The size of the house: its longest module, its longest function, the files at its top."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache

from tests.support.paths import ROOT

PACKAGE = ROOT / "onnxprune"


@dataclass(frozen=True)
class Size:
    """The three figures, and where the longest things are."""

    module: str
    module_lines: int
    function: str
    function_lines: int
    top_files: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"house: longest module {self.module}, {self.module_lines} lines; longest function {self.function}, "
            f"{self.function_lines} lines; {len(self.top_files)} files at the top"
        )


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of every module, by its path in the package."""
    return {
        str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def size() -> Size:
    """Measure the package."""
    trees = modules()
    lines = {name: len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) for name in trees}
    functions = {
        f"{name}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    module, function = max(lines, key=lines.__getitem__), max(functions, key=functions.__getitem__)
    top = tuple(sorted(path.name for path in PACKAGE.iterdir() if path.is_file()))
    return Size(module, lines[module], function, functions[function], top)
