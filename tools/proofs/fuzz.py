"""Random graphs through the oracle, by the thousand.

    python tools/proofs/fuzz.py --count 20000 --seed 7 --jobs 2    graphs of seeds 7, 8, ...; exits with 1 on a failure
    python tools/proofs/fuzz.py --only 1234             one graph: prints its nodes, its groups and the traceback
    python tools/proofs/fuzz.py --only 1234 --reduce    the same, reduced to few nodes that fail alike

Every graph of `tests/support/random_graphs.py` is a function of its seed. What fails is written to
build/fuzz/SEED.onnx, with the traceback beside it. The summary counts the graphs that have an op, and those where a
cut goes through it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import onnx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxprune.errors import ModelError  # noqa: E402
from onnxprune.graph.files.read import load  # noqa: E402
from onnxprune.graph.view import view  # noqa: E402
from onnxprune.runtime.random_feeds import random_feeds  # noqa: E402
from onnxprune.runtime.session import open_session  # noqa: E402
from tests.support import random_families, random_graphs  # noqa: E402
from tests.support.oracle import Checked, check  # noqa: E402

CHUNK = 25  # seeds that a worker takes at a time
AGAIN = 10  # every so many graphs the pruned one is pruned again


@dataclass(frozen=True)
class Outcome:
    """What one graph gave."""

    seed: int
    nodes: int = 0
    cut: int = 0  # groups
    locked: int = 0  # groups that cannot be cut, or not exactly
    difference: float = 0.0
    ops: tuple[str, ...] = ()
    ops_cut: tuple[str, ...] = ()  # those with an axis that lost units
    problem: str = ""  # the traceback


def examine(seed: int) -> Outcome:
    """Run the graph of a seed through the oracle."""
    try:
        proto = random_graphs.from_seed(seed)
        checked = verdict(proto, seed)
        if seed % AGAIN == 0:
            verdict(checked.pruned, seed)
    except Exception:
        return Outcome(seed, problem=traceback.format_exc())
    return Outcome(
        seed,
        nodes=len(proto.graph.node),
        cut=len(checked.cut),
        locked=len(checked.groups) - len(checked.cut),
        difference=checked.max_rel_diff,
        ops=tuple({node.op for node in checked.traced.model.nodes}),
        ops_cut=tuple(cut_ops(checked)),
    )


def verdict(proto: onnx.ModelProto, seed: int) -> Checked:
    """Cut random units of a graph, a random share of every group; inner factors, or width, in a part of the graphs."""
    return check(proto, seed=seed, **random_graphs.choices(seed))


def cut_ops(checked: Checked) -> set[str]:
    """Return the ops that have an axis of which units were cut."""
    atoms = {group.atom for group in checked.groups if group.name in checked.cut}
    traced = checked.traced
    ops = set()
    for coupling in traced.couplings.values():
        axes = [axis for value in (*coupling.inputs, *coupling.outputs) for axis in value or ()]
        if any(atom in atoms for axis in axes for atom in traced.partition.atoms(axis)):
            ops.add(coupling.node.op)
    return ops


def examine_all(seeds: list[int]) -> list[Outcome]:
    """Run several graphs, in a worker."""
    return [examine(seed) for seed in seeds]


def outcomes(seeds: Iterable[int], jobs: int) -> Iterator[Outcome]:
    """Yield what each graph gave, in order."""
    chunks = iter(lambda: list(itertools.islice(seeds, CHUNK)), [])
    seeds = iter(seeds)
    with ProcessPoolExecutor(jobs) as pool:
        for chunk in pool.map(examine_all, chunks):
            yield from chunk


def keep(outcome: Outcome, folder: Path) -> None:
    """Write a counterexample and what happened; there may be no graph if the generator itself failed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{outcome.seed}.txt").write_text(outcome.problem)
    with contextlib.suppress(random_graphs.Unfit):
        onnx.save(random_graphs.from_seed(outcome.seed), folder / f"{outcome.seed}.onnx")


def last_line(problem: str) -> str:
    """Return the sentence at the end of a traceback."""
    return next(
        (line for line in problem.strip().splitlines() if re.match(r"\w*(\.\w+)*(Error|Exception|Unfit)", line)), "?"
    )


def run(first: int, count: int, jobs: int, folder: Path) -> int:
    """Run many graphs; return how many failed."""
    started, failed, empty, groups, locked, nodes, worst = time.time(), 0, 0, 0, 0, 0, 0.0
    ops: Counter[str] = Counter()
    ops_cut: Counter[str] = Counter()
    for number, outcome in enumerate(outcomes(range(first, first + count), jobs), 1):
        nodes, groups, locked = nodes + outcome.nodes, groups + outcome.cut, locked + outcome.locked
        worst = max(worst, outcome.difference)
        ops.update(outcome.ops)
        ops_cut.update(outcome.ops_cut)
        if outcome.problem:
            failed += 1
            keep(outcome, folder)
            print(f"seed {outcome.seed}: {last_line(outcome.problem)[:150]}", flush=True)
        elif not outcome.cut:
            empty += 1
        if number % 500 == 0 or number == count:
            print(f"{number} graphs, {failed} failed, {time.time() - started:.0f} s", flush=True)
    print("\nop: graphs with it, graphs with a cut through it")
    for op, count_with in sorted(ops.items()):
        print(f"  {op:24}{count_with:8}{ops_cut[op]:8}")
    print(
        f"\n{count} graphs, {nodes} nodes, {groups} groups cut, {locked} groups left, {len(ops)} ops, {failed} failed"
    )
    print(f"no group can be cut in {empty} graphs ({empty / count:.1%}); worst relative difference {worst:.1e}")
    return failed


# -- one graph ---------------------------------------------------------------------------------------------------------


def explain(seed: int, folder: Path, shrink: bool) -> int:
    """Print the graph of a seed and what goes wrong with it; return 1 if something does."""
    proto = random_graphs.from_seed(seed)
    outcome = examine(seed)
    if outcome.problem and shrink:
        keep(outcome, folder)
        proto = reduced(load(proto).proto, seed, last_line(outcome.problem))
        onnx.save(proto, folder / f"{seed}-reduced.onnx")
    print(text(proto))
    print(outcome.problem or f"{outcome.cut} groups cut, {outcome.difference:.1e} apart")
    return int(bool(outcome.problem))


def text(proto: onnx.ModelProto) -> str:
    """Return the graph with the shapes of its weights, and the values of integers alone."""
    lines = [f"opset {proto.opset_import[0].version}, ir {proto.ir_version}"]
    for info in proto.graph.input:
        dims = [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]
        lines.append(f"input {info.name} {onnx.TensorProto.DataType.Name(info.type.tensor_type.elem_type)} {dims}")
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        lines.append(
            f"{tensor.name} = {array.tolist() if array.dtype.kind in 'iu' else (array.dtype.name, array.shape)}"
        )
    lines += [
        re.sub(r"(<value: tensor = \w+\[.{120}).*", r"\1...", onnx.printer.to_text(node)) for node in proto.graph.node
    ]
    return "\n".join([*lines, f"outputs {[info.name for info in proto.graph.output]}"])


def reduced(proto: onnx.ModelProto, seed: int, sentence: str) -> onnx.ModelProto:
    """Return a smaller graph that fails with the same sentence (numbers aside)."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in shorter(proto):
            if is_valid(candidate) and fails_alike(candidate, seed, sentence):
                proto, smaller = candidate, True
                break
    return proto


def shorter(proto: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Yield graphs with one output less, an earlier value as output, or one node bypassed."""
    for i in range(len(proto.graph.output) if len(proto.graph.output) > 1 else 0):
        candidate = copied(proto)
        del candidate.graph.output[i]
        yield cleaned(candidate)
    for index in reversed(range(len(proto.graph.node))):
        for source in proto.graph.node[index].input:
            for target in proto.graph.node[index].output:
                yield cleaned(bypassed(proto, index, source, target))


def copied(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy."""
    candidate = onnx.ModelProto()
    candidate.CopyFrom(proto)
    del candidate.graph.value_info[:]
    return candidate


def bypassed(proto: onnx.ModelProto, index: int, source: str, target: str) -> onnx.ModelProto:
    """Return a graph where a node's output is replaced by one of its inputs."""
    candidate = copied(proto)
    del candidate.graph.node[index]
    for node in candidate.graph.node:
        for slot, name in enumerate(node.input):
            if name == target:
                node.input[slot] = source
    for info in candidate.graph.output:
        if info.name == target:
            info.name = source
            info.type.tensor_type.ClearField("shape")
    return candidate


def cleaned(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Remove nodes and constants that nothing reads."""
    live = {info.name for info in proto.graph.output}
    for node in reversed(list(proto.graph.node)):
        if live & set(node.output):
            live.update(random_families.read_inside([node]))
        else:
            proto.graph.node.remove(node)
    for field in (proto.graph.initializer, proto.graph.input):
        for thing in [thing for thing in field if thing.name not in live]:
            field.remove(thing)
    return proto


def is_valid(proto: onnx.ModelProto) -> bool:
    """Whether a graph runs on both sizes."""
    try:
        session = open_session(load(proto).proto.SerializeToString(), threads=1, optimize=False)
        for dims in random_graphs.SIZES:
            session.run(random_feeds(view(proto).inputs, dims, 0))
    except (ModelError, RuntimeError):
        return False
    return True


def fails_alike(proto: onnx.ModelProto, seed: int, sentence: str) -> bool:
    """Whether a graph fails with the same sentence, for one of a few kept sets."""
    for number in range(seed, seed + 6):
        try:
            verdict(proto, number)
        except Exception:
            other = last_line(traceback.format_exc())
            if re.sub(r"[\d.e+-]+", "", other)[:40] == re.sub(r"[\d.e+-]+", "", sentence)[:40]:
                return True
    return False


def main() -> int:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="how many graphs")
    parser.add_argument("--seed", type=int, default=0, help="of the first graph")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", type=int, metavar="SEED", help="one graph, explained")
    parser.add_argument("--reduce", action="store_true", help="with --only: look for a smaller graph that fails alike")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fuzz", help="where counterexamples go")
    arguments = parser.parse_args()
    if arguments.only is not None:
        return explain(arguments.only, arguments.out, arguments.reduce)
    return int(run(arguments.seed, arguments.count, arguments.jobs, arguments.out) > 0)


if __name__ == "__main__":
    sys.exit(main())
