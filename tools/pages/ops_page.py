"""Write docs/ops.md, the table of what onnxprune knows of ONNX, from the registry of rules.

python tools/pages/ops_page.py            write it
python tools/pages/ops_page.py --check    exit with 1 when it is not current
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxprune.dependency.rules import LOCKED, RULES  # noqa: E402
from tools.pages.made import write_or_check  # noqa: E402

TARGET = ROOT / "docs" / "ops.md"
HEAD = """# What onnxprune knows of ONNX

One rule per op says how the axes of its inputs and outputs relate. Written by `tools/pages/ops_page.py` from the
registry in `onnxprune/dependency/rules/`; the notation is explained in `onnxprune/dependency/pattern.py`. Every other
op is locked: its axes are not cut, the rest of the graph is. Each rule is proven in the tests: masked and pruned models
compute the same. Where ONNX Runtime has no kernel for the CPU, numpy computes some (transforms of signals, crops); of
the others it is checked that the graph is cut and valid.

| op | family | relation |
| --- | --- | --- |
"""
LOCKED_HEAD = """
## Locked on purpose

Such an op ...

| op | ... |
| --- | --- |
"""


def text() -> str:
    """Return the page."""
    rows = (f"| {entry.op} | {entry.family} | `{relation(entry.text)}` |" for _, entry in sorted(RULES.items()))
    return HEAD + "\n".join(rows) + f"\n\n{len(RULES)} ops.\n" + locked()


def relation(said: str) -> str:
    """Return a relation, or the sentence that stands for one; axis letters are small, also where docstrings begin.

    >>> relation("N (g i) *s -> n (g o) *t.")
    'n (g i) *s -> n (g o) *t'
    """
    said = said.rstrip(".")
    return said[0].lower() + said[1:] if re.match(r"[A-Z]\b[^.:]*->", said) else said


def locked() -> str:
    """Return the ops that are locked on purpose, by their reason."""
    by_reason: dict[str, list[str]] = {}
    for op, reason in LOCKED.items():
        by_reason.setdefault(reason, []).append(op)
    rows = (f"| {', '.join(sorted(ops))} | {reason} |" for reason, ops in sorted(by_reason.items()))
    return LOCKED_HEAD + "\n".join(rows) + "\n"


def main() -> int:
    """Write or check the page."""
    return write_or_check("tools/pages/ops_page.py", __doc__, lambda: {TARGET: text()})


if __name__ == "__main__":
    sys.exit(main())
