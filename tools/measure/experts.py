"""Measure what is kept of language models with fewer experts and fewer tokens.

    python tools/measure/experts.py experts DIR      the mixture that tools/models/train_experts.py writes to DIR
    python tools/measure/experts.py unrolled DIR     the same with a loop over experts that the exporter unrolled
    python tools/measure/experts.py vocabulary DIR   that, and DIR/real/decoder.onnx, if it is there
    python tools/measure/experts.py page             docs/measured/vocabulary.md

Each row is one call of `onnxprune.prune`. Results are lines of JSON in the file ``--results``; what stands there is not
measured again. Samples of calibration and evaluation are disjoint, perplexities are of evaluation. Tokens that are kept
are those of both: what is left out of a real vocabulary is what a text never uses. Latencies are medians of interleaved
runs on one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import onnxprune  # noqa: E402
from tools.git import measured_commit  # noqa: E402
from tools.pages.markdown import table  # noqa: E402

PAGE = ROOT / "docs" / "measured" / "vocabulary.md"
RESULTS = ROOT / "build" / "experts.jsonl"
LEFT = (7, 6, 5, 4, 3, 2)  # experts of eight
RANKED = {"output": "obs", "load": "apoz", "norms": "l2", "random": "random"}


def experts(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield names and options of rows: experts of the mixture, by what ranks them and how many are left."""
    for rank, criterion in RANKED.items():
        for left in LEFT if rank == "output" else (6, 4):
            cut = {
                "shape": {"experts": left},
                "criterion": criterion,
                "reconstruct": None if rank == "output" else False,
            }
            yield f"experts {left}, by {rank}", {**of_mixture(folder), **cut}
    whole = {**of_mixture(folder), "shape": {"experts": 4}, "reconstruct": False}
    yield "experts 4, by output, not refitted", whole
    yield "target 0.7 of params", {**of_mixture(folder), "targets": {"params": 0.7}}


def unrolled(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield names and options of rows: experts that have nodes of their own."""
    loop = of_mixture(folder, "unrolled.onnx")
    for left in (7, 6, 4, 2):
        yield f"unrolled, experts {left}, by output", {**loop, "shape": {"experts": left}}
    yield "unrolled, experts 4, by load", {**loop, "shape": {"experts": 4}, "criterion": "apoz", "reconstruct": False}
    yield "unrolled, target 0.7 of params", {**loop, "targets": {"params": 0.7}}


def of_mixture(folder: Path, file: str = "experts.onnx") -> dict[str, Any]:
    """Return the model and the samples of the mixture."""
    paths = {"source": folder / file, "data": folder / "calibration.npz", "eval_data": folder / "eval.npz"}
    return {**{name: str(path) for name, path in paths.items()}, "metric": "language-model"}


def vocabulary(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield names and options of rows: the tokens that texts use, and these with fewer units."""
    mixture = of_mixture(folder)
    kept = used(mixture)
    yield "mixture, bytes of the texts", {**mixture, "vocabulary": kept}
    yield "mixture, bytes of the texts, 0.7 of params", {**mixture, "vocabulary": kept, "targets": {"params": 0.7}}
    real = folder / "real"
    if (real / "decoder.onnx").exists():
        names = {"source": "decoder.onnx", "data": "decoder_calibration.npz", "eval_data": "decoder_eval.npz"}
        smollm = {name: str(real / file) for name, file in names.items()}
        yield "SmolLM2-135M, tokens of the texts", {**smollm, "vocabulary": used(smollm)}


KINDS = {"experts": experts, "unrolled": unrolled, "vocabulary": vocabulary}


def used(options: Mapping[str, Any]) -> list[int]:
    """Return the tokens of the samples."""
    ids = [np.load(options[name])["input_ids"].ravel() for name in ("data", "eval_data")]
    return np.unique(np.concatenate(ids)).tolist()


def measured(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return one row."""
    start, given = time.process_time(), dict(options)
    report = onnxprune.prune(given.pop("source"), **given).report
    figures = report["fidelity"]["figures"]
    words, latency = report["vocabulary"], report["latency"][0]
    return {
        "name": name,
        "commit": measured_commit(),
        "seconds": time.process_time() - start,
        "params": [report[side]["params"] for side in ("input", "output")],
        "macs": [report[side]["macs"] for side in ("input", "output")],
        "bytes": [report[side]["size_bytes"] for side in ("input", "output")],
        "tokens": None if words is None else [words["before"], words["after"], words["left_out"], words["samples"]],
        "experts": [[each["units"], each["kept"]] for each in report["groups"] if each["kind"] == "experts"],
        "perplexity": [figures["perplexity_before"], figures["perplexity_after"]],
        "agreement": figures["agreement"],
        "speedup": [latency["speedup"], *latency["speedup_interval"]],
        "proof": report["verification"]["max_rel_diff"],
    }


def page(rows: list[dict[str, Any]]) -> str:
    """Return the page."""
    of_tokens = [row for row in rows if row["tokens"] is not None]
    of_experts = [row for row in rows if row["tokens"] is None and not row["name"].startswith("unrolled")]
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    lines = [
        "# Fewer tokens, fewer experts: measured",
        "",
        f"Made by `tools/measure/experts.py` on {commits}. The mixture is a language model on bytes: two layers of",
        "causal attention and of eight experts, of which two answer each byte, trained by",
        "`tools/models/train_experts.py` on text of Python's library. SmolLM2-135M is the trained decoder with a",
        "cache that `tools/models/real_models.py` exports. Calibration, evaluation and training are disjoint texts;",
        "nothing is trained after a cut. Perplexity is of the original and of the pruned model, where tokens went",
        "among the kept tokens on both sides.",
        "",
        "## Experts",
        "",
        *table(
            [
                "cut",
                "experts kept, by layer",
                "params",
                "MACs",
                "perplexity",
                "agreement",
                "speed-up",
                "proof",
                "seconds",
            ],
            map(_of_experts, of_experts),
        ),
        "",
        "What ranks experts: output (weight times norm of the answer) or load (weight alone) on samples, norms of",
        "weights, or chance. By output with refits is the default with samples; the others leave weights as they were.",
        "",
        "## Tokens",
        "",
        *table(
            ["cut", "tokens", "params", "MACs", "file", "perplexity", "speed-up", "proof", "seconds"],
            map(_of_tokens, of_tokens),
        ),
        "",
        "Tokens that no text uses go. The proof is the largest difference from the original behind the map of ids,",
        "over the range of the scores. The texts whose tokens stay are those of calibration and those of evaluation:",
        "where only tokens of other texts stay, evaluation leaves out what holds more.",
        "",
    ]
    return "\n".join(lines)


def _of_experts(row: Mapping[str, Any]) -> list[str]:
    kept = ", ".join(str(after) for _, after in row["experts"])
    return [row["name"], kept, *_share(row, "params"), *_share(row, "macs"), _perplexity(row),
            f"{row['agreement']:.1%}", _speed(row), f"{row['proof']:.0e}", f"{row['seconds']:.0f}"]  # fmt: skip


def _of_tokens(row: Mapping[str, Any]) -> list[str]:
    before, after, *_ = row["tokens"]
    costs = [*_share(row, "params"), *_share(row, "macs"), *_share(row, "bytes")]
    rest = _perplexity(row), _speed(row), f"{row['proof']:.0e}", f"{row['seconds']:.0f}"
    return [row["name"], f"{before:,} -> {after:,}", *costs, *rest]


def _share(row: Mapping[str, Any], name: str) -> list[str]:
    before, after = row[name]
    return [f"{after / before:.3f}"]


def _perplexity(row: Mapping[str, Any]) -> str:
    before, after = row["perplexity"]
    return f"{before:.3f} -> {after:.3f}"


def _speed(row: Mapping[str, Any]) -> str:
    speedup, low, high = row["speedup"]
    return f"{speedup:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Measure what is missing, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*KINDS, "page"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    lines = arguments.results.read_text(encoding="utf-8").splitlines() if arguments.results.exists() else []
    rows = [json.loads(line) for line in lines]
    if arguments.what == "page":
        PAGE.write_text(page(rows), encoding="utf-8")
        return
    known = {row["name"] for row in rows}
    for name, options in KINDS[arguments.what](arguments.folder):
        if name not in known:
            row = measured(name, options)
            with arguments.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
