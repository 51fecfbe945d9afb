"""Measure what pruning costs against the depth of a decoder, and write docs/size.md.

    python tools/measure/depth_cost.py run DIR     decoders of 8 to 64 blocks, each in a fresh process
    python tools/measure/depth_cost.py page DIR    docs/size.md, of DIR/depth_cost.jsonl and DIR/size.jsonl

DIR/size.jsonl holds the rows that tools/measure/size_steps.py wrote of large models. What stands in
DIR/depth_cost.jsonl is not measured again. Seconds are those of the processor, which other processes on the machine do
not change much.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from tools.pages.markdown import table  # noqa: E402

PAGE = ROOT / "docs" / "size.md"
DEPTHS = (8, 16, 32, 64)
STEPS: Mapping[str, str] = {  # how a step is told at the screen, by its column
    "loss curves": "measuring loss curves",
    "refits": "refitting layers",
    "proof": "verifying: masked = pruned",
    "all": "",
}
HEAD = """\
# Large models

What a run takes does not grow with the whole model, but with its largest piece. A model whose sessions would not fit
the memory is run *piece by piece*: it is divided where few values are alive, each piece is opened, run on all samples
up to the next place, and closed. Values between pieces are in memory up to 256 MiB, beyond that in temporary files.
So run

- the calibration, the loss curves and the refits, which replay the original and the pruned model block by block;
- the proof: the masked and the pruned model, both from the same feeds to their outputs. It is the same comparison of
  the same outputs under the same tolerance as of whole models, so it is as strong. Half precision rounds at the ends
  of pieces, where a session of the whole may leave that out; that stays far below the tolerance;
- the comparison of outputs and the latency: one piece of each model is open at a time, and the times of the pieces
  are added up. Copies between them are not in it.

Weights are mapped from the file. What is cut of them is made when it is written, one tensor at a time, and weights
that were fitted lie in temporary files until then, about as large as the result (`TMPDIR` says where).

Which models that are follows from the memory that is free when a run begins: those of which ten times the weights are
more than half of it (a session in half precision holds each weight in half and in single precision, and once more
packed, and several are open at a time). The environment variable `ONNXPRUNE_MAX_MEMORY` states another limit
(`ONNXPRUNE_MAX_MEMORY=12GB onnxprune ...`).

What needs a whole session is refused in words: targets of `latency` and `memory`, and `--round-to auto`. `compare`
leaves out the memory of a run, the times of single operators and sweeps.

## Measured

By tools/measure/size_steps.py, on models of tools/models/big_decoder.py: random weights in half precision, external
data, the table of tokens stored once for both ends. Resident memory counts pages of weights that are mapped, which
the system takes back when it needs memory; anonymous memory is what a run must have.
"""


def run(folder: Path) -> None:
    """Measure the depths that are not in the rows yet."""
    rows = folder / "depth_cost.jsonl"
    done = {row["model"] for row in lines_of(rows)}
    for depth in DEPTHS:
        path = folder / f"depth_{depth}.onnx"
        if path.name in done:
            continue
        make = [sys.executable, "tools/models/big_decoder.py", str(path), "--size", "tiny", "--layers", str(depth)]
        subprocess.run(make, cwd=ROOT, check=True)
        out = folder / "out" / path.name
        out.parent.mkdir(exist_ok=True)
        command = [sys.executable, "tools/measure/size_steps.py", str(path), "-o", str(out)]
        options = ["--option", 'targets={"params": 0.8}', "--option", "latency=false"]
        data = ["--data", str(path.with_suffix(".npz")), "--rows", str(rows)]
        subprocess.run([*command, *options, *data], cwd=ROOT, check=True)


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file; none where it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def depth_of(row: Mapping[str, Any]) -> int:
    """Return the number of blocks of the decoder that a row is of."""
    return int(row["model"].removeprefix("depth_").removesuffix(".onnx"))


def seconds_of(row: Mapping[str, Any], step: str) -> float:
    """Return the seconds of the processor of a step of a row; of all steps for an empty name."""
    return float(sum(each["cpu_seconds"] for each in row["steps"] if step in ("", each["name"])))


def exponent(counts: Sequence[int], costs: Sequence[float]) -> float:
    """Return the slope of a line through the logarithms: costs grow as this power of the counts.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    return float(np.polyfit(np.log(counts), np.log(costs), 1)[0])


def depth_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table of costs against depth."""
    depths = [depth_of(row) for row in rows]
    costs = {name: [seconds_of(row, step) for row in rows] for name, step in STEPS.items()}
    cells = [[depth, *(f"{costs[name][at]:.1f}" for name in STEPS)] for at, depth in enumerate(depths)]
    fitted = ["exponent", *(f"{exponent(depths, costs[name]):.2f}" for name in STEPS)]
    yield from table(["blocks", *STEPS], [*cells, fitted])


def step_table(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the table of the steps of a row."""
    names = ("seconds", "cpu_seconds", "resident_bytes", "anonymous_bytes")

    def cells(values: Sequence[float]) -> list[str]:
        return [*(f"{value:.0f}" for value in values[:2]), *(f"{value / 2**30:.2f}" for value in values[2:])]

    steps = [(step["name"], [step[name] for name in names]) for step in row["steps"] if step["seconds"] >= 0.5]
    total = [*(sum(step[name] for step in row["steps"]) for name in names[:2])]
    peaks = [max(step[name] for step in row["steps"]) for name in names[2:]]
    rows = [[name.partition(" /")[0], *cells(values)] for name, values in steps]
    yield from table(
        ["step", "seconds", "of the processor", "resident, GiB", "anonymous, GiB"],
        [*rows, ["all", *cells([*total, *peaks])]],
    )


def page(folder: Path) -> Iterator[str]:
    """Yield the lines of docs/size.md."""
    yield from HEAD.splitlines()
    yield ""
    for row in lines_of(folder / "size.jsonl"):
        before, after = row["params"]
        proof = row["verification"]
        yield f"### {before / 1e9:.2f}e9 parameters"
        yield ""
        limit = f", `ONNXPRUNE_MAX_MEMORY={row['limit']}`" if row.get("limit") else ""
        yield f"`{row['model']}`, options `{json.dumps(row['options'])}`{limit}, on commit `{row['commit']}`:"
        yield f"{before:,} parameters became {after:,}, and masked = pruned to {proof['max_rel_diff']:.1e} of the"
        yield f"output's range in {len(proof['runs'])} runs."
        yield ""
        yield from step_table(row)
        yield ""
    rows = sorted(lines_of(folder / "depth_cost.jsonl"), key=depth_of)
    yield "## Cost against depth"
    yield ""
    yield "Decoders of width 128 (`big_decoder.py --size tiny --layers N`), `--target params=0.8`, `--effort normal`,"
    yield f"24 samples of 128 tokens, on commit `{rows[-1]['commit']}`; seconds of the processor. The last row has the"
    yield "exponents of a power law fitted to each column."
    yield ""
    yield from depth_table(rows)


def main() -> int:
    """Measure, or write the page."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("section", choices=("run", "page"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.section == "run":
        run(arguments.folder)
    else:
        PAGE.write_text("\n".join(page(arguments.folder)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
