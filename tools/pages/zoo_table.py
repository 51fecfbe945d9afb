"""What becomes of every graph of tests/zoo at a ratio of 0.3: one line a graph, then what could not be cut, and why.

    python tools/pages/zoo_table.py [GLOB ...] [--ratio 0.3] [--cache FILE]

prints for each graph nodes, parameters, seconds of tracing, parameters after over before, and the share of the
parameters that no group reaches for other reasons than the graph's inputs and outputs and normalisation. Graphs
that lose less than 15 % or have more than 3 % locked are told with their reasons, largest first. With a cache, graphs
whose files are as they were are not pruned again: remove it when the rules have changed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxprune import prune  # noqa: E402
from onnxprune.dependency.axes import walk  # noqa: E402
from onnxprune.dependency.groups import Group, groups, weights  # noqa: E402
from onnxprune.dependency.trace import Trace, trace  # noqa: E402
from onnxprune.errors import NothingToPrune  # noqa: E402
from onnxprune.graph.files.read import load  # noqa: E402
from tests.support import zoo_store  # noqa: E402

EXPECTED = ("it is part of the graph ",)
LITTLE, MUCH = 0.15, 0.03
STORED = "as exported"


@dataclass(frozen=True)
class Row:
    """What became of one graph."""

    name: str
    nodes: int
    params: int
    trace_s: float
    left: float  # parameters after over before
    locked: float  # share of the parameters that are locked for other reasons than those expected
    reasons: tuple[tuple[str, float], ...]  # with the share that they keep, locks first
    problem: str | None


def row(name: str, ratio: float, again: Callable[[Any], Any] | None = None) -> Row:
    """Prune one graph as the command line does, without timing it; `again` saves it in another form before.

    The graph is traced once more before, for the time that this takes.
    """
    entry = zoo_store.load_zoo()[name]
    start = time.perf_counter()
    try:
        stored = zoo_store.refill(zoo_store.read(entry.path))
        proto = stored if again is None else again(stored)
        model = load(proto)
        start = time.perf_counter()
        traced = trace(model)
    except Exception as error:
        return Row(name, entry.nodes, entry.params, 0.0, 1.0, 1.0, (), f"{type(error).__name__}: {error}"[:200])
    seconds = time.perf_counter() - start
    left, problem = 1.0, None
    try:
        report = prune(proto, ratio, latency=False).report
        left = report["output"]["params"] / report["input"]["params"]
    except NothingToPrune:
        pass
    except Exception as error:
        problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    all_groups = groups(traced)
    locked, mixed = locked_by_reason(traced, all_groups)
    total = sum(constant.count for constant in weights(traced).values()) or 1
    shares = tuple((reason, count / total) for reason, count in (*locked.most_common(), *mixed.most_common()))
    return Row(name, len(model.nodes), model.params, seconds, left, locked.total() / total, shares, problem)


def locked_by_reason(traced: Trace, all_groups: tuple[Group, ...]) -> tuple[Counter[str], Counter[str]]:
    """Return how many parameters no prunable group can shrink, by the reasons of their axes.

    First those that are locked for an unexpected reason; then those with an axis that the rules know well, and that
    some op mixes over, so that removing a unit is not the same as masking it (the hidden width of transformers).
    """
    prunable = {group.atom for group in all_groups if group.prunable}
    everything = weights(traced)
    reached, locked, mixed = set(), {}, {}
    for use in traced.uses:
        if use.constant not in everything or use.node < 0:
            continue
        for atom in (atom for axis in traced.axes(use.axes) for atom in walk(axis)):
            lock, mix = traced.partition.lock_of(atom), traced.partition.mix_of(atom)
            if atom in prunable:
                reached.add(use.constant)
            elif lock is not None and " mixes over it " in lock.reason:
                mixed.setdefault(use.constant, str(lock))
            elif lock is not None and not lock.reason.startswith(EXPECTED):
                locked.setdefault(use.constant, str(lock))
            elif lock is None and mix is not None:
                mixed.setdefault(use.constant, str(mix))
    counted: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for name in everything.keys() - reached:
        reasons = mixed if name in mixed else locked
        if name in reasons:
            counted[reasons is mixed][reasons[name]] += math.prod(everything[name].shape)
    return counted


def details(rows: list[Row]) -> Iterator[str]:
    """Yield the lines on graphs that lose little or have much locked."""
    for one in rows:
        if one.problem:
            yield f"\n{one.name}: NOT VERIFIED: {one.problem}"
        if one.left > 1 - LITTLE or one.locked > MUCH:
            yield f"\n{one.name}: {1 - one.left:.1%} lost, {one.locked:.1%} locked"
            yield from (f"    {share:6.1%}  {reason}" for reason, share in one.reasons[:6])


def key_of(name: str, ratio: float, how: str = STORED) -> str:
    """Return the key of a row in the cache: it holds for one content of the stored file."""
    return f"{name} {how} {ratio} {zlib.crc32(zoo_store.load_zoo()[name].path.read_bytes())}"


def known_rows(cache: Path | None) -> dict[str, Row]:
    """Return the rows of a cache by key."""
    lines = cache.read_text(encoding="utf-8").splitlines() if cache and cache.exists() else []
    return {key: Row(**one) for key, one in map(json.loads, lines)}


def remember(cache: Path | None, key: str, made: Row) -> Row:
    """Add a row to the cache, and return it."""
    if cache:
        with cache.open("a", encoding="utf-8") as file:
            file.write(json.dumps([key, asdict(made)]) + "\n")
    return made


def main() -> None:
    """Print the table, then the graphs that need a look."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("globs", nargs="*", default=["*"])
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    rows, known = [], known_rows(args.cache)
    print(f"{'graph':58} nodes     params  trace   left locked")
    for name in zoo_store.load_zoo():
        if any(fnmatchcase(name, glob) for glob in args.globs):
            key = key_of(name, args.ratio)
            one = known.get(key) or remember(args.cache, key, row(name, args.ratio))
            rows.append(one)
            print(f"{name:58} {one.nodes:5} {one.params:10,} {one.trace_s:6.2f} {one.left:6.3f} {one.locked:6.3f}"
                  f" {one.problem or ''}", flush=True)  # fmt: skip
    print(*details(rows), sep="\n")


if __name__ == "__main__":
    main()
