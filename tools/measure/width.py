"""Seconds and memory of pruning wide layers, and what fits by rows cost in quality.

    python tools/measure/width.py [--rows ROWS.jsonl] [--page docs/measured/width.md] [--only cost|quality]

Cost: two MatMuls with so many units between them, 256 samples, ``onnxprune FILE --data`` in a fresh process: seconds of
all its cores (user and system) and the peak of its memory beyond the size of the file. Quality: one layer whose rows
lie near a subspace, as activations do; units are removed and the others fitted, by all products and by fewer rows.
What is in ROWS.jsonl is not measured again. The page and two charts are written of it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxprune.report.plot import Series, line_chart  # noqa: E402
from tools.git import check_same_commit  # noqa: E402
from tools.pages.markdown import table  # noqa: E402

WIDTHS = (4_096, 8_192, 16_384, 32_768)
OUTS = (64, 256)
SAMPLES = 256
TIMEOUT_S = 900
QUALITY = tuple((ins, rows) for ins in (2_048, 8_192) for rows in (512, 1_024, 2_048))
REMOVED = 0.3


# -- cost --------------------------------------------------------------------------------------------------------------


def write_model(path: Path, width: int, outs: int) -> None:
    """Write two MatMuls with `width` units between them, and 256 samples beside them."""
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {
        name: (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        for name, shape in (("w1", (outs, width)), ("w2", (width, outs)))
    }
    steps = (("MatMul", ["x", "w1"], "a"), ("Relu", ["a"], "b"), ("MatMul", ["b", "w2"], "y"))
    ports = [helper.make_tensor_value_info(name, 1, ["n", outs]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, [output]) for op, inputs, output in steps],
        "wide",
        ports[:1],
        ports[1:],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    samples = rng.standard_normal((SAMPLES, 12)) @ rng.standard_normal((12, outs))
    samples += 0.3 * rng.standard_normal(samples.shape)
    np.savez(path.with_suffix(".npz"), x=samples.astype(np.float32))


def cost(width: int, outs: int) -> dict[str, Any]:
    """Prune a model of this width in a fresh process; return seconds and bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wide.onnx"
        write_model(path, width, outs)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        code = (
            "import resource, sys\nfrom onnxprune.cli import main\ntry:\n    main()\nexcept SystemExit as done:\n"
            "    assert not done.code, done.code\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        arguments = [path, "-o", path.with_name("out.onnx"), "--data", path.with_suffix(".npz"), "--no-latency"]
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        peak = int(done.stdout.split()[-1]) * 1024
        return {"seconds": seconds, "peak_bytes": peak, "file_bytes": path.stat().st_size}


# -- quality -----------------------------------------------------------------------------------------------------------


def activations(rows: int, ins: int, seed: int) -> np.ndarray:
    """Return rows near a subspace of falling variance, behind a ReLU: ``[rows, ins]``."""
    rank = 256
    directions = np.random.default_rng(1).standard_normal((rank, ins)) / (1 + np.arange(rank))[:, None] ** 0.5
    drawn = np.random.default_rng(seed)
    values = drawn.standard_normal((rows, rank)) @ directions + 0.3 * drawn.standard_normal((rows, ins))
    return np.maximum(values, 0).astype(np.float32)


def quality(ins: int, rows: int) -> dict[str, Any]:
    """Remove units of a layer and fit the others, to so many rows; return errors on rows that nothing has seen."""
    from onnxprune.algebra.quadratic import Gram, Rows
    from onnxprune.criteria.elimination import Consumer, greedy
    from onnxprune.recovery.moments import Moments, error
    from onnxprune.recovery.reconstruct import fit

    outs = 64
    weight = np.random.default_rng(2).standard_normal((outs, ins)) / np.sqrt(ins)
    x, test = activations(rows, ins, 3), activations(1_024, ins, 4)
    y, wanted = (each @ weight.T.astype(np.float32) for each in (x, test))
    centred, counts, units = x - x.mean(0), np.ones(outs), np.arange(ins)[:, None]
    forms = {"rows": Rows(centred), **({"gram": Gram(centred.T.astype(float) @ centred / rows)} if ins < 4096 else {})}
    errors: dict[str, Any] = {}
    for form, seen in forms.items():
        gone = greedy([Consumer(weight, seen, seen, counts, units)], int(REMOVED * ins))
        kept, cut = np.setdiff1d(np.arange(ins), gone), rows * 3 // 4
        parts = [Moments(1, len(kept), outs) for _ in range(3)]
        pairs = ((x[:cut], y[:cut]), (x[cut:], y[cut:]), (test, wanted))
        for moments, (inputs, outputs) in zip(parts, pairs, strict=True):
            moments.add(inputs[None][:, :, kept], outputs[None])
            if form == "gram":
                moments._sum()
        fitted = fit(parts[0], parts[1], weight[None][:, :, kept], np.zeros((1, outs)))
        errors[form] = error(parts[2], fitted.weight, fitted.bias)
        errors["plain"] = error(parts[2], weight[None][:, :, kept], np.zeros((1, outs)))
    return errors


# -- the page ----------------------------------------------------------------------------------------------------------


def runs(only: str | None) -> Iterator[tuple[str, int, int]]:
    """Yield what is measured: its kind, the width, and outputs or rows."""
    if only != "quality":
        yield from (("cost", width, outs) for outs in OUTS for width in WIDTHS)
    if only != "cost":
        yield from (("quality", *each) for each in QUALITY)


def measure(path: Path, only: str | None) -> None:
    """Measure what is not in the file yet."""
    rows = read(path)
    done = {tuple(row["run"]) for row in rows}
    commit = check_same_commit(path, rows[-1].get("commit", "") if rows else "")
    for run in runs(only):
        if run in done:
            continue
        kind, width, other = run
        row = {"run": run, "commit": commit, **(cost(width, other) if kind == "cost" else quality(width, other))}
        print(row, flush=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows that have been measured."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def page(rows: list[dict[str, Any]], docs: Path) -> Iterator[str]:
    """Yield the lines of the page; charts are written beside it."""
    commits = ", ".join(sorted({row.get("commit", "unknown") for row in rows}))
    yield from (
        "# Wide layers",
        "",
        f"Written by `tools/measure/width.py`, on commit {commits}, while other work shared the cores.",
        "Seconds are those of all cores together (user and system); memory is the peak of the process less the size of",
        "the file, in MB.",
        "",
        f"Two MatMuls with so many units between them, {SAMPLES} samples, the default with `--data`:",
        "",
    )
    costs = {(row["run"][1], row["run"][2]): row for row in rows if row["run"][0] == "cost"}
    shown = [outs for outs in OUTS if all((width, outs) in costs for width in WIDTHS)]

    def beyond(row: dict[str, Any]) -> float:
        return (row["peak_bytes"] - row["file_bytes"]) / 2**20

    cells = [
        [outs, *(f"{costs[width, outs]['seconds']:.1f} s, {beyond(costs[width, outs]):.0f} MB" for width in WIDTHS)]
        for outs in shown
    ]
    yield from table(["inputs and outputs", *(f"{width:,} units" for width in WIDTHS)], cells)
    figures = (("seconds", "seconds", lambda row: row["seconds"]), ("memory", "MB beyond the file", beyond))
    for name, label, of in figures:
        lines = [
            Series(f"{outs} inputs and outputs", [(width, of(costs[width, outs])) for width in WIDTHS])
            for outs in shown
        ]
        chart = line_chart(lines, "units between two layers", label, log_x=True, log_y=True)
        (docs / f"width_{name}.svg").write_text(chart, encoding="utf-8")
        yield from ("", f"![{label}, by units](width_{name}.svg)")
    yield from (
        "",
        f"One layer of 64 outputs loses {REMOVED:.0%} of its inputs, and the others are fitted: squared error over the",
        "variance of the outputs, on rows that nothing has seen. *Plain* is the same cut without a fit. Both forms see",
        "the same rows; beyond 5,120 inputs there are rows alone.",
        "",
    )
    fits = [row for row in rows if row["run"][0] == "quality"]
    errors = ((*row["run"][1:], *(row.get(form) for form in ("plain", "gram", "rows"))) for row in fits)
    cells = [[f"{ins:,}", f"{seen:,}", *("" if e is None else f"{e:.4f}" for e in each)] for ins, seen, *each in errors]
    yield from table(["inputs", "rows", "plain", "by products", "by rows"], cells)


def main() -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=Path("width.jsonl"))
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "measured" / "width.md")
    parser.add_argument("--only", choices=("cost", "quality"))
    arguments = parser.parse_args()
    measure(arguments.rows, arguments.only)
    lines = page(read(arguments.rows), arguments.page.parent)
    arguments.page.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
