"""Prefill and decode of a language model with a cache, as it was and pruned by width, by depth and by both.

    python tools/measure/decoder_speed.py prune DIR   the pruned models, from DIR/smollm2, into --results
    python tools/measure/decoder_speed.py time DIR    times all that are there, on an idle machine
    python tools/measure/decoder_speed.py page        docs/measured/decoders.md, from what was measured

DIR holds what tools/models/real_models.py makes by `folder` and `decoder`. Prefill runs a text of `PROMPT` tokens with
an empty cache, decode one token behind a cache of as many. Original and pruned model run in turns; figures are medians
and the ratio of these. Each row is a line of JSON; what stands there is not pruned again. Perplexity is that of texts
that calibration has not seen.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.git import differs, package_commit  # noqa: E402
from tools.pages.markdown import table  # noqa: E402

PAGE = ROOT / "docs" / "measured" / "decoders.md"
DATA, EVALUATION, SAMPLES = "decoder_calibration_256.npz", "decoder_eval.npz", 64
PROMPT, THREADS, BUDGET_S = 256, (1, 2), 8.0
BLOCKS = "*layers.1[2-5]*"  # four of thirty: an attention and the feed-forward network behind it each
WAYS: Mapping[str, Mapping[str, Any]] = {
    "width 0.9": {"targets": {"params": 0.9}},
    "blocks 12 to 15 gone": {"without": BLOCKS, "change_io": True},
    "width 0.8": {"targets": {"params": 0.8}},
    "depth 0.27": {"depth": 0.27, "change_io": True},
    "blocks 12 to 15 gone, width to 0.8": {"without": BLOCKS, "targets": {"params": 0.8}, "change_io": True},
}


def prune(folder: Path, results: Path, ways: Sequence[str]) -> None:
    """Write the pruned models that are not there yet, and a row for each."""
    import onnxprune

    results.mkdir(parents=True, exist_ok=True)
    rows = results / "decoders.jsonl"
    for way in ways:
        target = results / f"{way.replace(' ', '_')}.onnx"
        if target.exists():
            continue
        start = time.process_time()
        result = onnxprune.prune(
            folder / "smollm2" / "model.onnx", data=str(folder / DATA), eval_data=str(folder / EVALUATION),
            samples=SAMPLES, latency=False, **WAYS[way],
        )  # fmt: skip
        report = result.report
        row = {
            "way": way,
            "params": report["output"]["params"] / report["input"]["params"],
            "ports": len(report["ports"]),
            "perplexity": [report["fidelity"]["figures"][f"perplexity_{side}"] for side in ("before", "after")],
            "cpu_seconds": round(time.process_time() - start),
            "commit": package_commit() + "+" * differs("onnxprune"),
        }
        result.save(target)
        with rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def feeds_of(path: Path, tokens: int, past: int) -> dict[str, np.ndarray]:
    """Return inputs of a decoder: so many tokens behind a cache of so many."""
    import onnx

    given: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(0)
    for port in onnx.load(path, load_external_data=False).graph.input:
        dims = [dim.dim_value for dim in port.type.tensor_type.shape.dim]
        if port.name == "attention_mask":
            given[port.name] = np.ones((1, past + tokens), np.int64)
        elif port.name == "position_ids":
            given[port.name] = np.arange(past, past + tokens)[None]
        elif port.name == "input_ids":
            given[port.name] = rng.integers(0, 49_152, (1, tokens))
        else:
            given[port.name] = rng.standard_normal((1, dims[1], past, dims[3])).astype(np.float32)
    return given


def timed(before: Path, after: Path) -> Iterator[dict[str, Any]]:
    """Yield the latencies of two models in turns: prefill and decode, by threads."""
    from onnxprune.runtime.session import open_session
    from onnxprune.runtime.timing import time_interleaved

    for threads in THREADS:
        pair = [open_session(path, threads=threads) for path in (before, after)]
        for what, tokens, past in (("prefill", PROMPT, 0), ("decode", 1, PROMPT)):
            fed = [feeds_of(path, tokens, past) for path in (before, after)]
            calls = [session.timed(feeds) for session, feeds in zip(pair, fed, strict=True)]
            one, other = (float(np.median(each)) for each in time_interleaved(calls, budget_s=BUDGET_S))
            yield {"what": what, "threads": threads, "before_ms": one, "after_ms": other, "ratio": one / other}


def cache_bytes(path: Path) -> int:
    """Return the bytes that the cache takes for each token."""
    return sum(array.nbytes for name, array in feeds_of(path, 1, 1).items() if name.startswith("past"))


def times(folder: Path, results: Path) -> None:
    """Time all pruned models that are there."""
    original, rows = folder / "smollm2" / "model.onnx", []
    for way in WAYS:
        target = results / f"{way.replace(' ', '_')}.onnx"
        if target.exists():
            row = {
                "way": way,
                "cache": [cache_bytes(original), cache_bytes(target)],
                "runs": list(timed(original, target)),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    (results / "decoders_timed.json").write_text(json.dumps(rows), encoding="utf-8")


def page(results: Path) -> str:
    """Return the page."""
    lines = (results / "decoders.jsonl").read_text(encoding="utf-8").splitlines()
    known = {row["way"]: row for row in map(json.loads, lines)}
    cells = []
    for row in json.loads((results / "decoders_timed.json").read_text(encoding="utf-8")):
        cut, speed = known[row["way"]], {(run["what"], run["threads"]): run for run in row["runs"]}
        ratios = [
            f"{run['ratio']:.2f} ({run['before_ms']:.1f} -> {run['after_ms']:.1f})"
            for run in (speed[what, threads] for what in ("prefill", "decode") for threads in THREADS)
        ]
        before, after = cut["perplexity"]
        cache = f"{row['cache'][1] / 1024:.1f} KiB ({row['cache'][1] / row['cache'][0]:.2f})"
        cells.append([row["way"], f"{cut['params']:.3f}", f"{after:.1f} ({after / before:.2f})", *ratios, cache])
    commits = ", ".join(dict.fromkeys(f"`{row['commit']}`" for row in known.values()))
    heads = [f"{what}, {count} thread{'s' * (count > 1)}" for what in ("prefill", "decode") for count in THREADS]
    said = (
        f"By tools/measure/decoder_speed.py, on commit {commits}: SmolLM2-135M with a cache, as Optimum exports it "
        f"(perplexity {next(iter(known.values()))['perplexity'][0]:.1f}), pruned on {SAMPLES} texts of 128 tokens "
        f"without training. Speed-up of a text of {PROMPT} tokens (prefill) and of one token behind {PROMPT} others "
        "(decode), both models in turns, with medians in ms; the cache is that of one token, and its share of the "
        "original's. Depth takes caches away with their attentions (`--change-io`)."
    )
    rows = table(["way", "parameters", "perplexity", *heads, "cache"], cells)
    return "\n".join(["# Decoders, measured", "", said, "", *rows, ""])


def main() -> None:
    """Prune, time, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=("prune", "time", "page"))
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "decoders", metavar="FOLDER")
    parser.add_argument("--way", choices=WAYS, action="append", help="only this; repeatable")
    arguments = parser.parse_args()
    if arguments.section == "page":
        PAGE.write_text(page(arguments.results), encoding="utf-8")
    elif arguments.section == "time":
        times(arguments.folder, arguments.results)
    else:
        prune(arguments.folder, arguments.results, arguments.way or list(WAYS))


if __name__ == "__main__":
    main()
