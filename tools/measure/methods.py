"""Measure published methods by name beside the default, by width and by depth, at the same parameters.

    python tools/measure/methods.py run [DIR]     the bundled network, and the language model of DIR if it is there
    python tools/measure/methods.py page          docs/measured/methods.md

DIR holds what tools/models/real_models.py makes: decoder.onnx, decoder_calibration.npz and decoder_eval.npz. Each row
is one call of `onnxprune.prune` in a fresh process: its seconds are those of the processor, and its peak of memory is
its own. Methods that remove blocks get the least share of depth at which so many parameters go; the target shape of
`sheared` is the same share of all units. Results are lines of JSON in ``methods.jsonl`` of the folder ``--results``;
what stands there is not measured again, also where it could not be done. Samples of calibration and evaluation are
disjoint. Nothing is trained but what a method learns itself: the masks of `sheared`, for ``--masks``.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxprune.errors import InputError  # noqa: E402
from onnxprune.planning.methods import METHODS  # noqa: E402
from tools.git import differs, package_commit  # noqa: E402
from tools.measure.recovery import figures_text  # noqa: E402
from tools.pages.markdown import table  # noqa: E402

PAGE = ROOT / "docs" / "measured" / "methods.md"
MODELS = ROOT / "models"
WIDTH, DEPTH, BOTH = "default, widths", "default, depth", "default, depth and widths"
FRACTIONS = (0.9, 0.8)  # of the parameters that are left


@dataclass(frozen=True)
class Subject:
    """A network, and its samples."""

    file: str
    data: str
    evaluation: str
    bundled: bool
    loss: str  # the figure by which rows are compared: less is better


SUBJECTS: Mapping[str, Subject] = {
    "smollm2": Subject("decoder.onnx", "decoder_calibration.npz", "decoder_eval.npz", False, "perplexity_after"),
    "vit": Subject("vit.onnx", "mnist_calibration.npz", "mnist_test.npz", True, "kl"),
}
WAYS = (WIDTH, DEPTH, BOTH, *METHODS)
# What papers say of two methods: the better one, the other one, and where that is said.
CLAIMS = (
    ("shortgpt", "laco", "Men et al. 2024: benchmarks of Llama 2 and Baichuan 2"),
    ("shortgpt", "llm-pruner", "Men et al. 2024: the same"),
    ("laco", "llm-pruner", "Yang et al. 2024: benchmarks of Llama 2 and Baichuan 2"),
    ("flap", "llm-pruner", "An et al. 2023: perplexity of LLaMA without training"),
    ("shortgpt", "slicegpt", "Men et al. 2024: benchmarks of Llama 2 and Baichuan 2"),
    ("laco", "slicegpt", "Yang et al. 2024: benchmarks of Llama 2 and Baichuan 2"),
)


def options(subject: Subject, way: str, fraction: float, folder: Path, masks: str) -> dict[str, Any]:
    """Return the options of a row."""
    target, path = {"targets": {"params": fraction}}, folder / subject.file
    if way == WIDTH:
        return target
    if way == DEPTH:
        return {"depth": share_of(path, fraction)}
    if way == BOTH:
        return {**target, "depth": share_of(path, fraction) / 2}
    method = METHODS[way]
    needs = {"depth": lambda: share_of(path, fraction), "shape": lambda: shape_of(path, fraction)}
    given = {key: needs[key]() for key in method.needs} or target
    return {"method": way, **given, **({"masks": masks} if method.masks else {})}


def share_of(path: Path, fraction: float) -> float:
    """Return the least share of depth with which whole blocks go that hold so many parameters."""
    from onnxprune.commands.steps.prepare import part_to_run
    from onnxprune.dependency.blocks import blocks
    from onnxprune.dependency.branches import branches, nodes_of
    from onnxprune.dependency.cost import NodeMacs
    from onnxprune.dependency.trace import trace
    from onnxprune.graph.files.read import load

    model = part_to_run(load(path), {})
    traced = trace(model)
    found = branches(traced)
    each = blocks(traced, found)
    usual = sum(branch.params for branch in found) / len(each)
    count = math.ceil((1 - fraction) * model.stored_params / usual)
    macs, largest = NodeMacs(traced), 0
    for block in each:
        largest = max(largest, macs.total(nodes_of(block.branches)))
    return min(0.99, 1.001 * count * largest / macs.total(nodes_of(found)))


def shape_of(path: Path, fraction: float) -> dict[str, int]:
    """Return a target shape in which every group keeps the same share of its units, and so many parameters are left."""
    from onnxprune.commands.steps.prepare import part_to_run
    from onnxprune.dependency.cost import Counter
    from onnxprune.dependency.groups import groups
    from onnxprune.dependency.trace import trace
    from onnxprune.graph.files.read import load

    traced = trace(part_to_run(load(path), {}))
    able = [group for group in groups(traced) if group.prunable and group.exact and not group.inner]
    counter = Counter(traced)
    for share in range(99, 0, -1):
        kept = {group.name: max(1, round(share / 100 * group.units)) for group in able}
        if counter.fraction("params", {group.atom: kept[group.name] for group in able}) <= fraction:
            break
    return kept


def measure(name: str, way: str, fraction: float, folder: Path, masks: str) -> dict[str, Any]:
    """Return a row; where the method cannot do it, with what it says."""
    import onnxprune
    from onnxprune.runtime.memory import peak_resident_bytes

    subject, start = SUBJECTS[name], time.process_time()
    row = {
        "subject": name,
        "way": way,
        "fraction": fraction,
        "commit": package_commit() + "+" * differs("onnxprune"),
    }
    try:
        report = onnxprune.prune(
            str(folder / subject.file), data=str(folder / subject.data), eval_data=str(folder / subject.evaluation),
            **options(subject, way, fraction, folder, masks),
        ).report  # fmt: skip
    except InputError as error:
        return {**row, "why_not": str(error)}
    depth = report["depth"]
    return {
        **row,
        "branches": None if depth is None else sum(each["removed"] for each in depth["branches"]),
        "macs": report["output"]["macs"] / report["input"]["macs"],
        "params": report["output"]["params"] / report["input"]["params"],
        "speedup": report["latency"][0]["speedup"],
        "figures": report["fidelity"]["figures"],
        "cpu_seconds": round(time.process_time() - start, 1),
        "peak_bytes": peak_resident_bytes(),
    }


Key = tuple[str, str, float]


def rows(path: Path) -> dict[Key, dict[str, Any]]:
    """Return what was measured, by network, way and fraction."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {(each["subject"], each["way"], each["fraction"]): each for each in map(json.loads, lines)}


def missing(path: Path, folder: Path | None, ways: Sequence[str]) -> Iterator[tuple[Key, Path]]:
    """Yield the rows that are not there yet, and the folder of each."""
    for name, subject in SUBJECTS.items():
        own = MODELS if subject.bundled else folder
        if own is not None and (own / subject.file).exists():
            for fraction in FRACTIONS:
                yield from (
                    ((name, way, fraction), own) for way in ways if (name, way, fraction) not in rows(path)
                )  # fmt: skip


def page(measured: Mapping[Key, Mapping[str, Any]]) -> str:
    """Return the page."""
    commits = ", ".join(dict.fromkeys(f"`{row['commit']}`" for row in measured.values()))
    order = sorted(measured, key=lambda key: (list(SUBJECTS).index(key[0]), -key[2], WAYS.index(key[1])))
    done = [measured[key] for key in order if "why_not" not in measured[key]]
    refused = [measured[key] for key in order if "why_not" in measured[key]]
    headings = ["network", "parameters asked", "way", "parameters", "MACs", "speed-up", "figures", "seconds", "memory"]
    return "\n".join(
        [
            "# Published methods, measured",
            "",
            f"By tools/measure/methods.py, on commit {commits}. Each method by its name, beside the default: widths, "
            "whole branches, and half of the depth with widths for the rest. No training but of the masks of "
            "`sheared`. Parameters and MACs are what is left; the speed-up is that of one sample on one thread; "
            "figures are of samples that calibration has not seen; seconds are those of the processor, memory is the "
            "most that the process held. What each method does: [methods.md](../methods.md).",
            "",
            *table(headings, [_cells(row) for row in done]),
            "",
            *map(_refusal, refused),
            "## What papers say",
            "",
            "Whether the network and the measure here bear out what was published of other, larger networks:",
            "",
            *table(["the better one", "the other", "said in", "network", "parameters", "here"], _verdicts(measured)),
            "",
        ]
    )  # fmt: skip


def _refusal(row: Mapping[str, Any]) -> str:
    """Return a paragraph that says why a row could not be measured."""
    return f"`{SUBJECTS[row['subject']].file}`, {row['fraction']:g}, {row['way']}: {row['why_not']}\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        f"`{SUBJECTS[row['subject']].file}`",
        f"{row['fraction']:g}",
        row["way"],
        f"{row['params']:.3f}",
        f"{row['macs']:.3f}",
        f"{row['speedup']:.2f}",
        figures_text(row["figures"]),
        f"{row['cpu_seconds']:,.0f}",
        f"{row['peak_bytes'] / 2**30:.1f} GiB",
    ]


def _verdicts(measured: Mapping[Key, Mapping[str, Any]]) -> Iterator[list[str]]:
    """Yield a row for each comparison that was published and measured here."""
    for better, other, source in CLAIMS:
        for name, subject in SUBJECTS.items():
            for fraction in FRACTIONS:
                pair = [measured.get((name, way, fraction), {}).get("figures") for way in (better, other)]
                if all(pair):
                    one, two = (each[subject.loss] for each in pair)
                    verdict = "confirmed" if one < two else "contradicted"
                    loss = subject.loss.removesuffix("_after")
                    here = f"{verdict}: {loss} {one:.4g} and {two:.4g}"
                    yield [better, other, source, f"`{subject.file}`", f"{fraction:g}", here]


def main() -> None:
    """Measure what is missing, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=("run", "page", "row"))
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "methods", metavar="FOLDER")
    parser.add_argument("--masks", default="20m", metavar="TIME", help="for which `sheared` learns")
    parser.add_argument("--way", choices=WAYS, action="append", help="only this; repeatable")
    parser.add_argument("--name", choices=SUBJECTS, help="of the network, only this one")
    parser.add_argument("--fraction", type=float, choices=FRACTIONS, help="only this")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    lines = arguments.results / "methods.jsonl"
    if arguments.section == "page":
        PAGE.write_text(page(rows(lines)), encoding="utf-8")
        return
    if arguments.section == "row":
        (way,) = arguments.way
        row = measure(arguments.name, way, arguments.fraction, arguments.folder, arguments.masks)
        with lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        return
    for (name, way, fraction), folder in missing(lines, arguments.folder, arguments.way or WAYS):
        if arguments.name in (None, name) and arguments.fraction in (None, fraction):
            command = [sys.executable, __file__, "row", str(folder), "--results", str(arguments.results)]
            command += ["--masks", arguments.masks, "--name", name, "--way", way, "--fraction", str(fraction)]
            ended = subprocess.run(command, check=False).returncode
            if ended:
                print(f"{name}, {way}, {fraction:g}: no row, its process ended with {ended}", file=sys.stderr)


if __name__ == "__main__":
    main()
