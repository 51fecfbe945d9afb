"""Write docs/measured/zoo.md and a picture: every graph of tests/zoo at a ratio of 0.3, as it is or as others save it.

    python tools/pages/zoo_page.py [--jobs 2] [--cache FILE] [--how ort_extended --how onnxslim]

Each graph is pruned and proven as `onnxprune` does it, without timing. `--cache` keeps finished rows in a file, as
zoo_table.py does, so that a run that was ended goes on; remove it when the rules have changed. What onnxslim saves
again needs onnxslim.
"""

from __future__ import annotations

import argparse
import datetime
import math
import multiprocessing
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxprune.runtime.machine import machine  # noqa: E402
from tests.support import zoo_store  # noqa: E402
from tools.models import zoo_resave  # noqa: E402
from tools.pages.markdown import table  # noqa: E402
from tools.pages.zoo_table import LITTLE, STORED, Row, key_of, known_rows, remember, row  # noqa: E402

RATIO = 0.3
HEAD = """# The zoo

{count} graphs, exported from {sources} by {exporters} exporters and stored without their weights in `tests/zoo`
(refilled from a seed), each pruned at a ratio of {ratio} with default options. *lost* is the share of the parameters
that went; *locked* the share that no group can shrink for another reason than the graph's inputs and outputs or a
normalised axis; *trace* the time of tracing, one thread. Each file that was written passed the oracle, onnx's checker
and strict shape inference, and ran on two settings of its dynamic dims. Written by `tools/pages/zoo_page.py` on {cpu},
ONNX Runtime {runtime}.
"""


def made(task: tuple[str, str]) -> Row:
    """Return what becomes of one graph, after another tool has saved it again."""
    name, how = task
    again: Callable | None = None if how == STORED else lambda proto: zoo_resave.resave(proto, how)
    return row(name, RATIO, again)


def rows_of(tasks: Sequence[tuple[str, str]], jobs: int, cache: Path | None) -> dict[tuple[str, str], Row]:
    """Return a row for every task, by name and tool."""
    keys = {(name, how): key_of(name, RATIO, how) for name, how in tasks}
    known = known_rows(cache)
    left = [task for task in tasks if keys[task] not in known]
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=50) as pool:
        for done, (task, one) in enumerate(zip(left, pool.imap(made, left), strict=True), 1):
            known[keys[task]] = remember(cache, keys[task], one)
            if done % 50 == 0:
                print(f"{done} of {len(left)}", file=sys.stderr, flush=True)
    return {task: known[keys[task]] for task in tasks}


# -- the page ------------------------------------------------------------------------------------------------


def loses(one: Row) -> bool:
    """Whether a graph loses at least half of what the ratio asks for."""
    return one.left <= 1 - LITTLE


def summary(rows_by_tool: dict[str, list[Row]]) -> Iterator[str]:
    """Yield one line for each tool that saved the graphs."""
    for how, rows in rows_by_tool.items():
        able = [one for one in rows if not one.problem]
        params = sum(one.params for one in able) or 1
        locked = sum(one.locked * one.params for one in able) / params
        enough = sum(map(loses, able))
        yield (
            f"| {how} | {len(rows)} | {len(able)} | {enough} ({100 * enough / max(1, len(rows)):.1f} %) | "
            f"{100 * (1 - np.median([one.left for one in able])):.1f} % | {100 * locked:.2f} % | "
            f"{100 * np.mean([one.locked for one in able]):.2f} % |"
        )


def shortfalls(rows: Iterable[Row]) -> Iterator[str]:
    """Yield one line for every graph that is not pruned enough, with its largest reasons."""
    for one in rows:
        if one.problem:
            yield f"| {one.name} | | {one.problem} |"
        elif not loses(one):
            reasons = "; ".join(f"{100 * share:.0f} %: {reason}" for reason, share in one.reasons[:2] if share >= 0.005)
            yield f"| {one.name} | {100 * (1 - one.left):.1f} % | {reasons or 'each use of a weight keeps a copy'} |"


def exponent(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the exponent and factor of seconds against nodes, by least squares on logarithms."""
    nodes = np.log([one.nodes for one in rows])
    slope, offset = np.polyfit(nodes, np.log([max(one.trace_s, 1e-4) for one in rows]), 1)
    return float(slope), float(math.exp(offset))


def plot(rows: Sequence[Row], slope: float, factor: float) -> str:
    """Return an SVG of seconds of tracing against nodes, both logarithmic, with the fitted line."""
    width, height, edge = 640, 400, 50
    low_x, high_x, low_y, high_y = 1.0, 4.3, -3.3, 1.0

    def at(nodes: float, seconds: float) -> tuple[float, float]:
        x = (math.log10(nodes) - low_x) / (high_x - low_x)
        y = (math.log10(max(seconds, 5e-4)) - low_y) / (high_y - low_y)
        return edge + x * (width - 2 * edge), height - edge - y * (height - 2 * edge)

    def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="12" fill="#444">{words}</text>'

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">']
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for power in range(1, 5):
        x, _ = at(10**power, 1)
        parts.append(f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{edge}" y2="{height - edge}" stroke="#ddd"/>')
        parts.append(text(x, height - edge + 18, f"{10**power:,}"))
    for power in range(-3, 2):
        _, y = at(10, 10**power)
        parts.append(f'<line x1="{edge}" x2="{width - edge}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>')
        parts.append(text(edge - 6, y + 4, f"{10.0**power:g}", "end"))
    for one in rows:
        x, y = at(one.nodes, one.trace_s)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="#1f6f8b" fill-opacity="0.5"/>')
    (x1, y1), (x2, y2) = (at(nodes, factor * nodes**slope) for nodes in (12, 10_000))
    line = f'x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}"'
    parts.append(f'<line {line} stroke="#c0392b" stroke-width="1.5"/>')
    parts.append(text(width / 2, height - 12, "nodes"))
    parts.append(text(edge - 6, edge - 14, "seconds of tracing", "start"))
    parts.append(text(width - edge, edge - 14, f"fitted: nodes^{slope:.2f}", "end"))
    return "\n".join([*parts, "</svg>", ""])


def page(rows_by_tool: dict[str, list[Row]]) -> Iterator[str]:
    """Yield the lines of docs/measured/zoo.md."""
    zoo, here = zoo_store.load_zoo(), machine()
    bases = rows_by_tool[STORED]
    sources = Counter(zoo[one.name].source for one in bases)
    exporters = Counter(zoo[one.name].exporter for one in bases)
    listed = ", ".join(f"{source} ({count})" for source, count in sources.most_common())
    yield HEAD.format(
        count=len(bases), sources=listed, exporters=len(exporters), ratio=RATIO, cpu=here["cpu"],
        runtime=here["onnxruntime"],
    )  # fmt: skip
    headings = (
        "saved by", "graphs", "pruned and proven", f"lose at least {LITTLE:.0%}", "lost, median",
        "locked, of all parameters", "locked, mean of the graphs",
    )  # fmt: skip
    yield from table(headings, ())
    yield from summary(rows_by_tool)
    yield "\n## Tracing time\n"
    rows = [one for one in bases if not one.problem]
    slope, factor = exponent(rows)
    slowest, largest = max(rows, key=lambda one: one.trace_s), max(rows, key=lambda one: one.nodes)
    yield (
        f"Fitted exponent of seconds against nodes: {slope:.2f}. Largest graph: {largest.name}, {largest.nodes:,} "
        f"nodes, {largest.trace_s:.2f} s; slowest: {slowest.name}, {slowest.trace_s:.2f} s.\n\n"
        "![seconds of tracing](zoo.svg)"
    )
    (ROOT / "docs" / "measured" / "zoo.svg").write_text(plot(rows, slope, factor), encoding="utf-8")
    for how, rows in rows_by_tool.items():
        yield f"\n## Graphs {how if how == STORED else f'saved by {how}'} that lose less than {LITTLE:.0%}\n"
        yield from table(("graph", "lost", "kept by"), ())
        yield from shortfalls(rows)
    yield "\n## All graphs, as exported\n"
    by_source: dict[str, list[Row]] = defaultdict(list)
    for one in bases:
        by_source[zoo[one.name].source].append(one)
    for source, rows in by_source.items():
        yield f"\n### {source}\n"
        yield from table(("graph", "nodes", "parameters", "lost", "locked", "trace s"), map(cells, rows))


def cells(one: Row) -> Sequence[str]:
    """Return the cells of one graph."""
    lost, locked = f"{100 * (1 - one.left):.1f} %", f"{100 * one.locked:.1f} %"
    return one.name, f"{one.nodes:,}", f"{one.params:,}", lost, locked, f"{one.trace_s:.3f}"


def main() -> None:
    """Make the rows and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--how", action="append", choices=zoo_resave.HOWS)
    args = parser.parse_args()
    started = datetime.datetime.now()
    names = [name for name, entry in zoo_store.load_zoo().items() if "+" not in entry.exporter]
    rows_by_tool = {}
    for how in (STORED, *(args.how or ("ort_extended", "onnxslim"))):
        rows_by_tool[how] = list(rows_of([(name, how) for name in names], args.jobs, args.cache).values())
    (ROOT / "docs" / "measured" / "zoo.md").write_text("\n".join(page(rows_by_tool)) + "\n", encoding="utf-8")
    print(f"{datetime.datetime.now() - started}", file=sys.stderr)


if __name__ == "__main__":
    main()
