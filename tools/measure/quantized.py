"""Measure pruning and quantization together.

    python tools/measure/quantized.py run LAYOUT.json [--results quantized.jsonl] [--only NAME]
    python tools/measure/quantized.py page [--results quantized.jsonl] [--docs docs/measured]

LAYOUT.json names the files of each network: {"EfficientNet": {"model": ..., "data": ..., "eval_data": ...}, ...}; a
network without data has random weights, and its latency alone says anything; "target" is another latency than `TARGET`.
For each network there are two rows: `int8`, pruned to that share of the original's latency and quantized, with the
original in eight bits beside it; and `pruned`, pruned in float32 to the latency that the first one has. A row that is
there for the same commit is not measured again. Latencies are those of `compare`, runs interleaved with
the original's, one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.git import measured_commit  # noqa: E402

TARGET = 0.35  # of the original's latency
KINDS = ("int8", "pruned")
_FILES = {
    "alone": "int8 alone",
    "both": "pruned, int8",
    "pruned": "pruned alone, to the same latency",
}
Record = dict[str, Any]


def read(results: Path) -> list[Record]:
    """Return the rows of a file of results; none where there is none."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return [json.loads(line) for line in lines]


def measure(kind: str, files: Mapping[str, str], target: float) -> Record:
    """Prune one network to a latency, and return what came of it; or why it cannot be reached."""
    import onnxprune

    start = time.perf_counter()
    options: Record = {} if "data" in files else {"criterion": "l2", "reconstruct": False}
    options |= {name: files[name] for name in ("data", "eval_data") if name in files}
    options |= {"quantize": "int8"} if kind == "int8" else {}
    try:
        report = onnxprune.prune(files["model"], targets={"latency": target}, **options).report
    except (onnxprune.OptionError, onnxprune.NothingToPrune) as error:
        return {"target": target, "error": str(error), "seconds": time.perf_counter() - start}
    latency = report["latency"][0]
    return {
        "target": target,
        "fraction": 1 / latency["speedup"],
        "interval": sorted(1 / bound for bound in latency["speedup_interval"]),
        "before_ms": latency["before_ms"],
        "macs": report["output"]["macs"] / report["input"]["macs"],
        "size": report["output"]["size_bytes"] / report["input"]["size_bytes"],
        "fidelity": report["fidelity"],
        "quantization": report.get("quantization"),
        "attempts": len(report["promise"]["attempts"]),
        "seconds": time.perf_counter() - start,
    }


def run(layout: Mapping[str, Mapping[str, str]], results: Path, only: str | None) -> None:
    """Measure the rows that are missing, one after the other; those in float32 need the latency of those in int8."""
    from onnxprune.runtime.machine import machine

    here, commit = machine(), measured_commit()
    where = f"{here['cpu']}, {here['logical_cores']} cores, ONNX Runtime {here['onnxruntime']}"
    for name, files in layout.items():
        for kind in KINDS if only in (None, name) else ():
            rows = {(row["name"], row["kind"]): row for row in read(results) if row["commit"] == commit}
            first = rows.get((name, "int8"), {})
            if (name, kind) in rows or (kind == "pruned" and "fraction" not in first):
                continue
            target = float(files.get("target", TARGET)) if kind == "int8" else round(first["fraction"], 3)
            record = measure(kind, files, target)
            row = {"name": name, "kind": kind, "data": "data" in files, "commit": commit, "machine": where, **record}
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{name} {kind}: {record.get('fraction', record.get('error'))}", file=sys.stderr, flush=True)


# -- the page ------------------------------------------------------------------------------------------------------


def lines(rows: list[Record], note: str) -> Iterator[str]:
    """Yield the page of these rows, the last of each kind; a note says what else is to be known of them."""
    last = {(row["name"], row["kind"]): row for row in rows}
    machines, commits = ("; ".join(sorted({row[key] for row in last.values()})) for key in ("machine", "commit"))
    yield "# Pruned and quantized, measured"
    yield ""
    yield f"By `tools/measure/quantized.py` on {machines}, at {commits}."
    yield "Latencies are fractions of the original's, one thread, batch 1, runs interleaved, with the 95 % interval;"
    yield "those of int8 alone are of a comparison of their own. Fidelity is against the original, on samples that"
    yield f"neither the cut nor any range has seen. {note}".rstrip()
    for name in dict.fromkeys(name for name, _ in last):
        yield from ("", f"## {name}", "", *_table(last.get((name, "int8"), {}), last.get((name, "pruned"), {})))


def _table(int8: Record, pruned: Record) -> Iterator[str]:
    from onnxprune.report.words import plural

    if "error" in int8:
        yield f"`--target latency={int8['target']} --quantize int8`: {int8['error']}"
        return
    told, given = int8["quantization"], int8["data"]
    asked = f"`--target latency={int8['target']} --quantize int8`: {told['form']}"
    races = f"{plural(int8['attempts'], 'plan')} raced, {int8['seconds']:.0f} s"
    yield f"{asked}; the original takes {int8['before_ms']:.1f} ms; {races}."
    yield ""
    yield "| | latency x | measured / requested | file size x | MACs x | fidelity |"
    yield "| --- | --- | --- | --- | --- | --- |"
    before, alone, both = (told["files"][name] for name in ("original", "alone", "both"))
    sizes = [each["size_bytes"] / before["size_bytes"] for each in (alone, both)]
    yield _row(_FILES["alone"], f"{alone['fraction']:.3f}", "", sizes[0], 1.0, _figures(alone["figures"], given))
    yield _row(_FILES["both"], *_measured(int8), sizes[1], int8["macs"], _figures(both["figures"], given))
    if "fraction" in pruned:
        figures = _figures(pruned["fidelity"] and pruned["fidelity"]["figures"], given)
        yield _row(_FILES["pruned"], *_measured(pruned), pruned["size"], pruned["macs"], figures)
    elif "error" in pruned:
        yield f"| {_FILES['pruned']} | {pruned['error']} | | | | |"


def _row(*cells: str | float) -> str:
    return f"| {' | '.join(cell if isinstance(cell, str) else f'{cell:.3f}' for cell in cells)} |"


def _measured(record: Record) -> tuple[str, str]:
    low, high = record["interval"]
    return f"{record['fraction']:.3f} ({low:.3f} to {high:.3f})", f"{record['fraction'] / record['target']:.3f}"


def _figures(figures: Mapping[str, float] | None, given: bool) -> str:
    from onnxprune.metrics.words import headline

    return (headline(figures) if figures else "-") if given else "random weights"


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs, pages = (commands.add_parser(name) for name in ("run", "page"))
    runs.add_argument("layout", type=Path)
    runs.add_argument("--only", metavar="NAME", help="measure this network alone")
    pages.add_argument("--docs", type=Path, default=ROOT / "docs" / "measured")
    pages.add_argument("--note", default="", help="a sentence for the head of the page, such as what else was running")
    for each in (runs, pages):
        each.add_argument("--results", type=Path, default=Path("quantized.jsonl"))
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(json.loads(arguments.layout.read_text(encoding="utf-8")), arguments.results, arguments.only)
    else:
        text = "\n".join(lines(read(arguments.results), arguments.note)) + "\n"
        (arguments.docs / "quantized.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
