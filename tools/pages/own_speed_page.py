"""Write docs/measured/own_speed.md, of what tools/measure/own_speed.py has measured.

    python tools/pages/own_speed_page.py DIR [--rows ROWS.jsonl] [--page docs/measured/own_speed.md]

DIR is what tools/models/export_large.py writes: sizes of files are read there. Medians are told. Without `--page` it is
printed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.measure.own_speed import STEPS, TITLES, read  # noqa: E402


def page(folder: Path, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the page."""
    import onnx

    from onnxprune.runtime.machine import machine

    here = machine()
    yield "# What pruning itself takes"
    yield ""
    yield (
        f"Written by `tools/pages/own_speed_page.py` on {here['cpu']}, onnx {onnx.__version__}. "
        "Random weights; the criterion is"
    )
    yield "`l2`, so that no model runs but in verification. The floor is `onnx.load` and `onnx.save` of the same file."
    yield "Medians of fresh processes, in turn; ratios carry over to other machines, seconds do not. Imports are not in"
    yield "the seconds; Python and its packages are in the peak."
    yield ""
    yield "| model | file MB | " + " | ".join(f"{step} s" for step in STEPS) + " | all s | floor s | all / floor |"
    yield "|" + " --- |" * (len(STEPS) + 5)
    for name in TITLES:
        yield from _time_row(folder, name, rows)
    yield ""
    yield "Peak memory, and by how much of the file's size it is above the floor's (0 where it is below); verification"
    yield "runs the masked and the pruned model in ONNX Runtime, which has copies of its own."
    yield ""
    yield "| model | peak MB | floor MB | above the floor / file | verify s | peak with verification MB |"
    yield "|" + " --- |" * 6
    for name in TITLES:
        yield from _memory_row(folder, name, rows)
    yield from _peers(rows)


def _of(rows: list[dict[str, Any]], name: str, kind: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["model"] == name and row["kind"] == kind and "failed" not in row]


def _middle(rows: list[dict[str, Any]], *keys: str) -> float:
    return statistics.median(sum(row[key] for key in keys) for row in rows)


def _size(folder: Path, name: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"{name}.onnx*"))


def _time_row(folder: Path, name: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    ours, least = _of(rows, name, "own"), _of(rows, name, "floor")
    if ours and least:
        steps = " | ".join(f"{_middle(ours, step):.2f}" for step in STEPS)
        total, bound = _middle(ours, *STEPS), _middle(least, "load", "save")
        size = _size(folder, name) / 1e6
        yield f"| {TITLES[name]} | {size:.0f} | {steps} | {total:.2f} | {bound:.2f} | {total / bound:.2f} |"


def _memory_row(folder: Path, name: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    ours, least, proven = (_of(rows, name, kind) for kind in ("own", "floor", "verify"))
    if ours and least:
        peak, bound = _middle(ours, "peak_bytes"), _middle(least, "peak_bytes")
        above = max(0.0, (peak - bound) / _size(folder, name))
        rest = f"{_middle(proven, 'verify'):.1f} | {_middle(proven, 'peak_bytes') / 1e6:.0f}" if proven else "- | -"
        yield f"| {TITLES[name]} | {peak / 1e6:.0f} | {bound / 1e6:.0f} | {above:.2f} | {rest} |"


def _peers(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the table of other pruners, if they were run."""
    tools = {"own": "onnxprune", "onnxsim": "onnxsim", "torch_pruning": "Torch-Pruning"}
    if not any(row["kind"] in ("onnxsim", "torch_pruning") for row in rows):
        return
    yield ""
    yield "## Beside other pruners"
    yield ""
    yield "At a ratio of 0.3, by magnitude: `onnxsim.apply_structured_pruning_cpp` from file to file, `MagnitudePruner`"
    yield "from a network of torchvision in memory to the file of `torch.save`. None of them verifies what it made."
    yield ""
    yield "| model | tool | s | peak MB |"
    yield "|" + " --- |" * 4
    for name, (kind, tool) in itertools.product(TITLES, tools.items()):
        runs = _of(rows, name, kind)
        failed = [row["failed"] for row in rows if (row["model"], row["kind"]) == (name, kind) and "failed" in row]
        if runs:
            took = _middle(runs, *(STEPS if kind == "own" else ("seconds",)))
            yield f"| {TITLES[name]} | {tool} | {took:.2f} | {_middle(runs, 'peak_bytes') / 1e6:.0f} |"
        elif failed:
            yield f"| {TITLES[name]} | {tool} | failed: {failed[0]} | |"


def main() -> None:
    """Print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--rows", type=Path, default=Path("own_speed.jsonl"))
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    text = "\n".join(page(arguments.folder, read(arguments.rows))) + "\n"
    if arguments.page:
        arguments.page.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
