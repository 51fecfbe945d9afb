"""Measure what is kept of networks without some of their branches, beside cuts of widths to the same MACs.

    python tools/measure/depth.py networks [DIR]     the bundled networks, and those of DIR that are there
    python tools/measure/depth.py page               docs/measured/depth.md

DIR holds what tools/models/real_models.py makes. Each row is one call of `onnxprune.prune` in a fresh process: by
depth, chosen and refitted; the same branches without refits; those that a likeness to the identity chooses (the cosine
of the stream in front of a branch and behind it, without refits: block influence, Men et al. 2024), and widths to as
many MACs. Results are lines of JSON in ``depth.jsonl`` of the folder ``--results``; what stands there is not measured
again. Samples of calibration and evaluation are disjoint. Seconds are those of the processor; latencies are medians of
interleaved runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.git import differs, package_commit  # noqa: E402
from tools.measure.recovery import figures_text  # noqa: E402
from tools.pages.markdown import table  # noqa: E402

PAGE = ROOT / "docs" / "measured" / "depth.md"
MODELS = ROOT / "models"
DIGITS = "mnist_calibration.npz", "mnist_test.npz"
DEPTH, BARE, ALIKE, WIDTH = "depth", "depth, not refitted", "most alike, not refitted", "widths"
BOTH = "depth, then widths"


@dataclass(frozen=True)
class Subject:
    """A network, and how much of its branches goes."""

    file: str
    share: float
    data: str
    evaluation: str
    bundled: bool = True


SUBJECTS: Mapping[str, Subject] = {
    "vit": Subject("vit.onnx", 0.2, *DIGITS),
    "vit, 0.4": Subject("vit.onnx", 0.4, *DIGITS),
    "resnet_bn": Subject("resnet_bn.onnx", 0.34, *DIGITS),
    "mobilenet": Subject("mobilenet.onnx", 0.4, *DIGITS),
    "minilm": Subject("minilm.onnx", 0.25, "text_calibration.npz", "text_eval.npz", False),
    "efficientnet_lite1": Subject(
        "efficientnet_lite1.onnx", 0.25, "photos_calibration.npz", "photos_eval.npz", False
    ),
    "smollm2": Subject("decoder.onnx", 0.1334, "decoder_calibration_256.npz", "decoder_eval.npz", False),
}  # fmt: skip
WAYS = (DEPTH, BARE, ALIKE, WIDTH, BOTH)


def options(subject: Subject, way: str, folder: Path, done: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a row; those of others follow from the row by depth."""
    if way == DEPTH:
        return {"depth": subject.share}
    if way == BARE:
        return {"without": done["gone"], "reconstruct": False, "batch_norm": False}
    if way == ALIKE:
        return {"without": alike(subject, folder), "reconstruct": False, "batch_norm": False}
    if way == WIDTH:
        return {"targets": {"macs": done["macs"]}}
    return {"depth": subject.share / 2, "targets": {"macs": done["macs"]}}


def alike(subject: Subject, folder: Path) -> list[str]:
    """Return the branches that change the direction of their stream least, up to the share of what all compute."""
    from onnxprune.calibration.batches import batched
    from onnxprune.commands.steps.prepare import part_to_run
    from onnxprune.data.samples import load_data
    from onnxprune.dependency.branches import branches, nodes_of
    from onnxprune.dependency.cost import NodeMacs
    from onnxprune.dependency.trace import trace
    from onnxprune.graph.files.read import load
    from onnxprune.planning.branches.influence import cosines
    from onnxprune.runtime.replay import Replay

    model = part_to_run(load(folder / subject.file), {})
    traced = trace(model)
    found = branches(traced)
    batch = batched(load_data(str(folder / subject.data), model.inputs))[0]
    nearness = {}
    for branch in found:
        stream = model.nodes[branch.node].inputs[branch.other]
        values = next(Replay(model, [batch]).run([stream, branch.value]))
        axis = 1 if values[stream].ndim == 4 else -1
        after = values[stream] + values[branch.value]
        nearness[branch.name] = float(cosines(values[stream], after, axis).mean())
    left, chosen = subject.share * NodeMacs(traced).total(nodes_of(found)), list[str]()
    for branch in sorted(found, key=lambda branch: -nearness[branch.name]):
        if branch.macs <= left:
            left -= branch.macs
            chosen.append(branch.name)
    return chosen


def measure(name: str, way: str, folder: Path, done: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row."""
    import onnxprune

    subject, start = SUBJECTS[name], time.process_time()
    report = onnxprune.prune(
        str(folder / subject.file), data=str(folder / subject.data), eval_data=str(folder / subject.evaluation),
        **options(subject, way, folder, done),
    ).report  # fmt: skip
    depth = report["depth"]
    return {
        "subject": name,
        "way": way,
        "commit": package_commit() + "+" * differs("onnxprune"),
        "gone": [] if depth is None else [each["name"] for each in depth["branches"] if each["removed"]],
        "branches": None if depth is None else len(depth["branches"]),
        "macs": report["output"]["macs"] / report["input"]["macs"],
        "params": report["output"]["params"] / report["input"]["params"],
        "speedup": report["latency"][0]["speedup"],
        "figures": report["fidelity"]["figures"],
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def rows(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what was measured, by network and way."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {(each["subject"], each["way"]): each for each in map(json.loads, lines)}


def missing(path: Path, folder: Path | None) -> Iterator[tuple[str, str, Path]]:
    """Yield the rows that are not there yet: name, way and folder."""
    for name, subject in SUBJECTS.items():
        own = MODELS if subject.bundled else folder
        if own is not None and (own / subject.file).exists():
            yield from ((name, way, own) for way in WAYS if (name, way) not in rows(path))


def page(each: Sequence[Mapping[str, Any]]) -> str:
    """Return the page."""
    commits = ", ".join(dict.fromkeys(f"`{row['commit']}`" for row in each))
    lines = [
        (
            f"`{SUBJECTS[row['subject']].file}`",
            row["way"],
            f"{len(row['gone'])} of {row['branches']}" if row["branches"] else "-",
            f"{row['macs']:.3f}",
            f"{row['params']:.3f}",
            f"{row['speedup']:.2f}",
            figures_text(row["figures"]),
            f"{row['cpu_seconds']:,.0f}",
        )
        for row in sorted(each, key=lambda row: (list(SUBJECTS).index(row["subject"]), WAYS.index(row["way"])))
    ]
    return "\n".join(
        [
            "# Depth, measured",
            "",
            f"By tools/measure/depth.py, on commit {commits}, no training. `{DEPTH}`: branches that `--depth` chose, "
            f"their neighbours and then all layers refitted. `{BARE}`: the same branches, all weights as they were. "
            f"`{ALIKE}`: the branches that change the direction of their stream least (block influence, the rule of "
            f"ShortGPT, Men et al. 2024), weights as they were. `{WIDTH}`: `--target macs` to as much as depth left. "
            f"`{BOTH}`: half of the share by depth, the rest of the MACs by widths. MACs and parameters are what is "
            "left; the speed-up is that of one sample on one thread; figures are of samples that calibration has not "
            "seen; seconds are those of the processor. What the words mean: [depth.md](../depth.md).",
            "",
            *table(["network", "way", "branches gone", "MACs", "parameters", "speed-up", "figures", "seconds"], lines),
            "",
        ]
    )


def main() -> None:
    """Measure what is missing, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=("networks", "page", "row"))
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "depth", metavar="FOLDER")
    parser.add_argument("--name", help="of the network of a row")
    parser.add_argument("--way", help="of a row")
    from onnxprune.errors import NothingToPrune

    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    lines = arguments.results / "depth.jsonl"
    if arguments.section == "page":
        PAGE.write_text(page(list(rows(lines).values())), encoding="utf-8")
        return
    if arguments.section == "row":
        done = rows(lines).get((arguments.name, DEPTH), {})
        try:
            each = measure(arguments.name, arguments.way, arguments.folder, done)
        except NothingToPrune as error:  # half of the share is less than any branch takes
            print(arguments.name, arguments.way, error, flush=True)
            return
        with lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(each) + "\n")
        print(json.dumps(each), flush=True)
        return
    for name, way, folder in missing(lines, arguments.folder):
        command = [sys.executable, __file__, "row", str(folder), "--results", str(arguments.results)]
        subprocess.run([*command, "--name", name, "--way", way], check=False)


if __name__ == "__main__":
    main()
