"""Write docs/ops.md, the table of what onnxprune knows of ONNX, from the registry of rules.

python tools/make_docs.py            write it
python tools/make_docs.py --check    exit with 1 when it is not current
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from onnxprune.rules import LOCKED, RULES

TARGET = Path(__file__).resolve().parent.parent / "docs" / "ops.md"
HEAD = """# What onnxprune knows of ONNX

One rule per op says how the axes of its inputs and outputs relate. Written by `tools/make_docs.py` from the registry in
`onnxprune/rules/`; the notation is explained in `onnxprune/pattern.py`. Every other op is locked: its axes are not cut,
the rest of the graph is.

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
    rows = (f"| {entry.op} | {entry.family} | `{entry.text.rstrip('.')}` |" for _, entry in sorted(RULES.items()))
    return HEAD + "\n".join(rows) + f"\n\n{len(RULES)} ops.\n" + locked()


def locked() -> str:
    """Return the ops that are locked on purpose, by their reason."""
    by_reason: dict[str, list[str]] = {}
    for op, reason in LOCKED.items():
        by_reason.setdefault(reason, []).append(op)
    rows = (f"| {', '.join(sorted(ops))} | {reason} |" for reason, ops in sorted(by_reason.items()))
    return LOCKED_HEAD + "\n".join(rows) + "\n"


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        TARGET.write_text(text(), encoding="utf-8")
    elif not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text():
        print(f"{TARGET.name} is not current: run python tools/make_docs.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
