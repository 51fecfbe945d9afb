"""Measure what tuning gives back: cut networks before and after, beside training of the same shape from scratch.

    python tools/measure/recovery.py digits DIR      the bundled ResNets at a tenth of their MACs
    python tools/measure/recovery.py photos DIR      EfficientNet-Lite1 at half of its MACs
    python tools/measure/recovery.py sentences DIR   MiniLM at half of its MACs
    python tools/measure/recovery.py heads DIR       MiniLM without 5 of its 12 heads in every layer
    python tools/measure/recovery.py words DIR       SmolLM2-135M at 0.8 of its 134.5 million parameters, by two losses
    python tools/measure/recovery.py page            docs/measured/recovery.md, from all of these

DIR holds what tools/models/real_models.py makes. Cuts and tuned models are kept in ``--results``, each with its report;
what is there is not made again, and a run of tuning that was ended goes on from its checkpoint (its seconds are not
told). Samples of calibration and tuning are never those of evaluation, and the cut sees none of those that decide
while it is tuned. Each figure is of the evaluation samples alone;
seconds are those of the processor, because other programs may run beside it. ``recovery.jsonl`` there has a line for
each run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.git import differs, package_commit  # noqa: E402
from tools.pages.markdown import table  # noqa: E402

NOT_TUNED, TUNED, SCRATCH = "cut", "tuned", "from scratch"


@dataclass(frozen=True)
class Subject:
    """A network, how it is cut, and how that is tuned."""

    file: str
    cut: Mapping[str, Any]  # options of `prune` that say what goes
    data: str  # as many samples as this file holds are calibrated on
    more: str  # to tune on, and what is learned from of these is calibrated on
    evaluation: str
    steps: int
    batch: int
    ways: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {TUNED: {}})  # further options of `tune`
    fewer: Mapping[str, int] = field(default_factory=lambda: {})  # steps of a way whose steps take longer, by way
    precision: str = "float32"
    from_scratch: bool = True  # whether the same shape is tuned from random weights, too


DIGITS = "mnist_calibration.npz", "mnist_tuning.npz", "mnist_test.npz"
TEXTS = "text_calibration_256.npz", "text_tuning.npz", "text_eval.npz"
SUBJECTS: Mapping[str, Mapping[str, Subject]] = {
    "digits": {
        "resnet_bn": Subject(
            "resnet_bn.onnx", {"targets": {"macs": 0.1}}, *DIGITS, 16000, 32,
            ways={TUNED: {}, "statistics of batches": {"statistics": "batch"}},
        ),
        "resnet_folded": Subject("resnet_folded.onnx", {"targets": {"macs": 0.1}}, *DIGITS, 16000, 32),
    },
    "photos": {
        "photos": Subject(
            "efficientnet_lite1.onnx", {"targets": {"macs": 0.5}}, "photos_calibration.npz",
            "photos_tuning.npz", "photos_eval.npz", 4800, 16, precision="auto",
        ),
    },
    "sentences": {
        "sentences": Subject("minilm.onnx", {"targets": {"macs": 0.5}}, *TEXTS, 3200, 16, precision="auto"),
    },
    "heads": {
        "heads": Subject(
            "minilm.onnx", {"shape": "heads=7"}, *TEXTS, 2000, 16, precision="auto", from_scratch=False,
        ),
    },
    "words": {
        "words": Subject(
            "decoder.onnx", {"targets": {"params": "107.6M"}, "tie": True}, "decoder_calibration_256.npz",
            "decoder_tuning.npz", "decoder_eval.npz", 1750, 4,
            ways={"forward KL": {"loss": {"kl": 1.0}}, "reverse KL": {"loss": {"written": 1.0}}},
            fewer={"reverse KL": 240}, precision="auto", from_scratch=False,
        ),
    },
}  # fmt: skip


def measure(name: str, subject: Subject, folder: Path, results: Path, threads: int) -> Iterator[dict[str, Any]]:
    """Yield a record of the cut, of it tuned, and of its shape tuned from random weights."""
    cut, report = results / f"{name}.cut.onnx", results / f"{name}.cut.json"
    if not (cut.exists() and report.exists()):
        prune(folder, subject, cut, report)
        yield record(name, NOT_TUNED, json.loads(report.read_text())["fidelity"]["figures"])
    ways = [(way, cut, more) for way, more in subject.ways.items()]
    if subject.from_scratch:
        ways.append((SCRATCH, drawn(cut, results / f"{name}.random.onnx"), {}))
    for way, source, more in ways:
        path, told = (results / f"{name}.{way.replace(' ', '_')}.{kind}" for kind in ("onnx", "json"))
        if path.exists() and told.exists():
            continue
        start, resumed = time.process_time(), path.with_name(f"{path.name}.checkpoint").exists()
        taken = replace(subject, steps=subject.fewer.get(way, subject.steps))
        tune(folder, taken, source, path, told, report if source == cut else None, threads, more)
        values = json.loads(told.read_text())
        yield {
            **record(name, way, values["fidelity"]["after"]),
            "steps": values["steps"],
            "rate": values["rate"],
            "precision": values["precision"],
            "cpu_seconds": None if resumed else round(time.process_time() - start, 1),
            "wall_seconds": values["seconds"],
        }


def prune(folder: Path, subject: Subject, cut: Path, report: Path) -> None:
    """Cut a network."""
    from onnxprune.commands.prune import prune_file
    from onnxprune.planning.options import make_options
    from onnxprune.progress import silent

    options = make_options(**subject.cut, eval_data=str(folder / subject.evaluation), latency=False, samples=0)
    data = seen(folder, subject)
    prune_file(folder / subject.file, cut, options, data, report_path=report, force=True, progress=silent)


def seen(folder: Path, subject: Subject) -> dict[str, Any]:
    """Return the samples that a cut is calibrated on: among those that tuning learns from, and not those that decide.

    A cut looks better on samples that it has seen, and then no step of tuning seems to help.
    """
    import numpy as np

    from onnxprune.data.samples import Data
    from onnxprune.training.tuning.order import held_out

    with np.load(folder / subject.data) as few, np.load(folder / subject.more) as more:
        count, arrays = len(next(iter(few.values()))), dict(more)
    learned, _ = held_out(Data({}, None, len(next(iter(arrays.values())))))
    rows = np.arange(learned.count) if learned.rows is None else learned.rows
    return {name: array[rows[:count]] for name, array in arrays.items()}


def tune(  # noqa: PLR0917 - files in the order in which they are used
    folder: Path,
    subject: Subject,
    source: Path,
    path: Path,
    report: Path,
    cut: Path | None,
    threads: int,
    more: Mapping[str, Any],
) -> None:
    """Tune a network; a run that was ended goes on."""
    from onnxprune.commands.tune import TuneFiles, tune_file
    from onnxprune.progress import silent
    from onnxprune.training.settings import make_tune_options

    options = make_tune_options(
        steps=subject.steps, batch=subject.batch, threads=threads, precision=subject.precision,
        eval_data=str(folder / subject.evaluation), **more,
    )  # fmt: skip
    files = TuneFiles(teacher=folder / subject.file, cut=cut, report=report)
    resume = path.with_name(f"{path.name}.checkpoint").exists()
    tune_file(
        source, path, options, str(folder / subject.more), files=files, resume=resume, force=True, progress=silent
    )


def drawn(cut: Path, path: Path) -> Path:
    """Write a network of the same shape with random weights (He et al. 2015), and return its path."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    proto, rng = onnx.load(cut), np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim > 1:
            fan = array.size // len(array) if array.ndim > 2 else len(array)
            random = rng.standard_normal(array.shape) * np.sqrt(2 / fan)
            tensor.CopyFrom(numpy_helper.from_array(random.astype(np.float32), tensor.name))
    onnx.save(proto, path)
    return path


def record(name: str, way: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a run that was made now."""
    commit = package_commit() + "+" * differs("onnxprune")
    return {"subject": name, "way": way, "commit": commit, "figures": dict(figures)}


def cut_text(options: Mapping[str, Any]) -> str:
    """Return what a cut was asked for, in words."""
    asked = {key: value for key, value in options.items() if key not in {"targets", "tie"}} | options.get("targets", {})
    parts = [*(f"{key} {value}" for key, value in asked.items()), *["table stored once"] * bool(options.get("tie"))]
    return ", ".join(parts)


def page(lines: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the page: a row for each network and way, the last that was measured."""
    last = {(each["subject"], each["way"]): each for each in lines}
    rows = [
        (
            f"`{known[name].file}`",
            cut_text(known[name].cut),
            f"{way}{', bfloat16' * (each.get('precision') == 'bfloat16')}",
            each.get("steps", ""),
            f"{each['cpu_seconds']:,.0f}" if each.get("cpu_seconds") else "",
            f"{each['rate']:.2g}" if each.get("rate") else "",
            figures_text(each["figures"]),
            f"`{each['commit']}`",
        )
        for known in SUBJECTS.values()
        for (name, way), each in last.items()
        if name in known
    ]
    return "\n".join(
        [
            "# What tuning gives back, measured",
            "",
            "By tools/measure/recovery.py. Each network is cut on calibration samples (refitted, as always), and tuned "
            "with the original as its teacher, with the losses that suit its outputs unless the row says another; "
            "`statistics of batches` is `--statistics batch`; "
            "`from scratch` is the same shape with kernels and matrices from random numbers (biases, scales and "
            "statistics stay), with the same teacher, for the steps of its row. Figures are of samples that neither "
            "cut nor tuning has seen; seconds are those of the processor, of tuning and its comparison. What the words "
            "mean: [tuning.md](../tuning.md).",
            "",
            *table(["network", "cut", "way", "steps", "seconds", "rate", "figures", "commit"], rows),
            "",
            *(found_text(found) if found else ()),
        ]
    )


def found_text(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the section on passages that encoders find, of what tools/measure/retrieval.py measured."""
    last = {(each["part"], each["model"]): each for each in found}
    rows = [
        (
            model,
            f"{each['queries']:,} of {each['passages']:,}, {each['articles']}",
            f"{each['found']:.3f}",
            f"{each['kept']:.3f} ({each['low']:.3f} to {each['high']:.3f})",
            f"`{each['commit']}`",
        )
        for (_, model), each in sorted(last.items(), key=lambda item: item[0][0])
    ]
    return [
        "## What a sentence encoder is for",
        "",
        "By tools/measure/retrieval.py: whether the nearest passage of 128 tokens is of the same article; `kept` is "
        "the share of the original's hits, with a 95 % interval. Cosines above say how alike embeddings are, which is "
        "more than most uses ask for.",
        "",
        *table(["network", "queries, passages, articles", "found", "kept", "commit"], rows),
        "",
    ]


def figures_text(figures: Mapping[str, Any]) -> str:
    """Return the figures of a comparison that a reader looks for first.

    >>> figures_text({"accuracy_before": 0.99, "accuracy_after": 0.98, "agreement": 0.985, "kl": 0.0123})
    'accuracy 0.98 (of 0.99), agreement 0.985, kl 0.0123'
    """
    parts = []
    for name in ("accuracy", "perplexity"):
        if figures.get(f"{name}_after") is not None:
            parts.append(f"{name} {figures[f'{name}_after']:.4g} (of {figures[f'{name}_before']:.4g})")
    known = ((name, figures.get(name)) for name in ("agreement", "kl", "cosine"))
    return ", ".join([*parts, *(f"{name} {value:.3g}" for name, value in known if value is not None)])


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file, none where it is not there."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def main() -> None:
    """Measure a section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=(*SUBJECTS, "page"))
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="what tools/models/real_models.py makes")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "recovery", metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of all ways, instead of those of the page")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    if arguments.section == "page":
        told, found = (lines_of(arguments.results / f"{name}.jsonl") for name in ("recovery", "retrieval"))
        (ROOT / "docs" / "measured" / "recovery.md").write_text(page(told, found), encoding="utf-8")
        return
    for name, subject in SUBJECTS[arguments.section].items():
        if arguments.folder is None:
            raise SystemExit(f"{name}: give the folder that tools/models/real_models.py has written")
        asked = {} if arguments.steps is None else {"steps": arguments.steps, "fewer": {}}
        taken = replace(subject, **asked)
        for each in measure(name, taken, arguments.folder, arguments.results, arguments.threads):
            with (arguments.results / "recovery.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(each) + "\n")
            print(json.dumps(each), flush=True)


if __name__ == "__main__":
    main()
