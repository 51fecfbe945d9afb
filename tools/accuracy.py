"""Measure what pruned networks still do, without training, on data that calibration did not see.

    python tools/accuracy.py models                bundled networks: accuracy at bounds, beside magnitude
    python tools/accuracy.py photos DIR            EfficientNet-Lite1: agreement with the original on unseen photos
    python tools/accuracy.py sentences DIR         MiniLM: cosine to the original's embeddings
    python tools/accuracy.py decoder DIR           SmolLM2: perplexity
    python tools/accuracy.py ablation [DIR]        each ingredient off, one at a time; and without data
    python tools/accuracy.py curves [DIR]          against the number of samples and the MACs that are left
    python tools/accuracy.py cost [DIR]            seconds and memory, also against samples and the width of layers
    python tools/accuracy.py page                  docs/accuracy.md and its plots, of what was measured

DIR holds what tools/real_models.py makes. Each measurement is one call of `onnxprune.prune` in a fresh process, so that
seconds and peak memory are its own. Results are lines of JSON in ``measurements.jsonl`` of the folder ``--results``;
what stands there for the same state of the package is not measured again, so that a run that was ended goes on.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

Record = dict[str, Any]

# What is asked of `prune` beside the MACs and data; every name is used in the page.
WAYS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "default": {},
        "importance off": {"criterion": "l2", "scope": "loss"},
        "allocation off": {"scope": "group"},
        "reconstruction off": {"reconstruct": False},
        "BatchNorm off": {"batch_norm": False},
        "reconstruction and BatchNorm off": {"reconstruct": False, "batch_norm": False},
        "l2": {"criterion": "l2", "scope": "group", "reconstruct": False, "batch_norm": False},
        "l2, BatchNorm re-estimated": {"criterion": "l2", "scope": "group", "reconstruct": False},
        "wanda": {"criterion": "wanda", "scope": "group", "reconstruct": False, "batch_norm": False},
        "no data": {},
    }
)
WITHOUT_DATA = ("no data",)


@dataclass(frozen=True)
class Subject:
    """A network with its data."""

    title: str
    file: str
    calibration: tuple[tuple[str, int], ...]  # files and how many samples they hold, the smallest first
    evaluation: tuple[str, ...]  # what bounds are about comes first
    samples: int  # what bounds are about
    studied: int  # in ablations and by MACs, fewer where a run is long
    batch_norm: bool = False  # whether BatchNormalization is kept in the file
    folder: Path | None = None  # None: what tools/real_models.py makes


def _digits(title: str, name: str, *, batch_norm: bool = False) -> Subject:
    data = (("mnist_calibration.npz", 512),)
    return Subject(title, f"{name}.onnx", data, ("mnist_test.npz",), 256, 256, batch_norm, ROOT / "models")


SUBJECTS: Mapping[str, Subject] = MappingProxyType(
    {
        "resnet_bn": _digits("ResNet, BatchNorm kept", "resnet_bn", batch_norm=True),
        "resnet_folded": _digits("ResNet, BatchNorm folded", "resnet_folded"),
        "mobilenet": _digits("MobileNetV3-style", "mobilenet"),
        "vit": _digits("Vision transformer", "vit"),
        "cnn": _digits("Plain CNN", "cnn"),
        "photos": Subject(
            "EfficientNet-Lite1",
            "efficientnet_lite1.onnx",
            (("photos_calibration.npz", 256), ("photos_calibration_aug.npz", 768)),
            ("photos_eval.npz", "photos_eval_centre.npz", "photos_labelled.npz"),
            256,
            64,
        ),
        "sentences": Subject(
            "MiniLM",
            "minilm.onnx",
            (("text_calibration.npz", 64), ("text_calibration_256.npz", 256)),
            ("text_eval.npz",),
            64,
            64,
        ),
        "decoder": Subject(
            "SmolLM2-135M",
            "decoder.onnx",
            (("decoder_calibration.npz", 32), ("decoder_calibration_256.npz", 256)),
            ("decoder_eval.npz",),
            32,
            32,
        ),
    }
)
DIGITS = ("resnet_bn", "resnet_folded", "mobilenet", "vit", "cnn")
SYNTHETIC = ("ffn", "conv")  # networks of two layers, of any width between them


@dataclass(frozen=True)
class Run:
    """One measurement: a network, how many of its MACs may be left, and by what."""

    subject: str  # a key of SUBJECTS, or of SYNTHETIC with a width: "ffn-1024"
    macs: float
    way: str = "default"  # a key of WAYS
    samples: int | None = None  # of calibration; None: as many as bounds are about


# -- what is measured --------------------------------------------------------------------------------------

RESNET_MACS, MOBILENET_MACS, VIT_MACS, CNN_MACS = (0.48, 0.25), (0.6,), (0.6,), (0.4,)
MACS: Mapping[str, tuple[float, ...]] = MappingProxyType(  # those of bounds
    {
        "resnet_bn": RESNET_MACS,
        "resnet_folded": RESNET_MACS,
        "mobilenet": MOBILENET_MACS,
        "vit": VIT_MACS,
        "cnn": CNN_MACS,
        "photos": (0.8, 0.7),
        "sentences": (0.8, 0.7),
        "decoder": (0.9, 0.8),
    }
)
AUGMENTED = 768  # views of the 256 calibration photos
SAMPLES = (16, 64, 256)
COSTED = (16, 32, 64, 128, 256)
RATIOS = (0.9, 0.8, 0.7, 0.6, 0.5)
WIDTHS = (256, 512, 1024, 2048, 4096)
CURVED = ("resnet_bn", "mobilenet", "vit", "cnn")  # the ResNet with folded BatchNorm is the same network


def bounded(subject: str, *ways: str) -> Iterator[Run]:
    """Yield what bounds are about, and the same by other ways."""
    yield from (Run(subject, macs, way) for way in ("default", *ways) for macs in MACS[subject])


def models(_: Sequence[str]) -> Iterator[Run]:
    """Yield the bundled networks, beside magnitude."""
    for name in DIGITS:
        yield from bounded(name, "l2", *["l2, BatchNorm re-estimated"] * SUBJECTS[name].batch_norm)


def photos(_: Sequence[str]) -> Iterator[Run]:
    """Yield EfficientNet-Lite1, beside magnitude and with several views of each photo."""
    yield from bounded("photos", "l2")
    yield from (Run("photos", macs, samples=AUGMENTED) for macs in MACS["photos"])


def sentences(_: Sequence[str]) -> Iterator[Run]:
    """Yield MiniLM, beside magnitude."""
    yield from bounded("sentences", "l2")


def decoder(_: Sequence[str]) -> Iterator[Run]:
    """Yield SmolLM2, beside magnitude and activation-aware magnitude; and without data, where least is cut."""
    yield from bounded("decoder", "l2", "wanda")
    yield Run("decoder", MACS["decoder"][0], "no data")


def switched(subject: str) -> tuple[str, ...]:
    """Return the ways of an ablation."""
    norms = ("BatchNorm off", "reconstruction and BatchNorm off", "l2, BatchNorm re-estimated")
    ways = ("default", "importance off", "allocation off", "reconstruction off")
    return (*ways, *(norms if SUBJECTS[subject].batch_norm else ()), "l2", "no data")


def ablation(subjects: Sequence[str]) -> Iterator[Run]:
    """Yield each ingredient off, one at a time, and all of them; and without data."""
    for name in (*DIGITS, *(name for name in ("sentences", "photos") if name in subjects)):
        yield from ablated(name)


def ablated(subject: str) -> list[Run]:
    """Return the runs of an ablation, at MACs where there is something to lose."""
    macs = MACS[subject][-1] if subject in DIGITS else MACS[subject][0]
    return [studied(subject, macs, way) for way in switched(subject)]


def studied(subject: str, macs: float, way: str = "default") -> Run:
    """Return a run with the number of samples of studies."""
    samples = SUBJECTS[subject].studied
    plain = way in ("l2", *WITHOUT_DATA)  # their result depends on no samples
    return Run(subject, macs, way, None if plain or samples == SUBJECTS[subject].samples else samples)


def by_samples(subject: str) -> list[Run]:
    """Return runs of more and more samples, at the MACs of the last bound."""
    usual = SUBJECTS[subject].samples
    return [Run(subject, MACS[subject][-1], samples=None if n == usual else n) for n in SAMPLES]


def by_macs(subject: str) -> list[Run]:
    """Return runs of fewer and fewer MACs."""
    return [studied(subject, macs) for macs in (*RATIOS, *[0.3] * (subject in DIGITS))]


def curves(subjects: Sequence[str]) -> Iterator[Run]:
    """Yield runs of more samples, and of fewer MACs."""
    for name in (*CURVED, *(name for name in ("sentences", "photos") if name in subjects)):
        yield from itertools.chain(by_samples(name), by_macs(name))


def costed(subject: str) -> list[Run]:
    """Return runs of more and more samples, of which seconds and memory are shown."""
    usual = SUBJECTS[subject].samples
    return [Run(subject, MACS[subject][-1], samples=None if n == usual else n) for n in COSTED]


def by_width(kind: str) -> list[Run]:
    """Return synthetic networks of wider and wider layers."""
    return [Run(f"{kind}-{width}", 0.7) for width in WIDTHS]


def cost(subjects: Sequence[str]) -> Iterator[Run]:
    """Yield runs whose seconds and memory are bounded or plotted."""
    real = [name for name in ("photos", "sentences") if name in subjects]
    yield from (Run("photos", MACS["photos"][-1], samples=128) for name in real if name == "photos")
    yield from itertools.chain.from_iterable(map(by_width, SYNTHETIC))
    yield from itertools.chain.from_iterable(map(costed, reversed(real)))


SECTIONS = {
    "photos": photos,
    "sentences": sentences,
    "decoder": decoder,
    "models": models,
    "cost": cost,
    "ablation": ablation,
    "curves": curves,
}


# -- one measurement ---------------------------------------------------------------------------------------


def measure(run: Run, folder: Path | None) -> Record:
    """Prune once and return what came of it; call it in a fresh process, for the peak memory is that of the process.

    Args:
        run: what is measured.
        folder: of what tools/real_models.py makes; None where the run needs none of it.
    """
    import onnxprune
    from onnxprune.runtime.memory import peak_resident_bytes

    with tempfile.TemporaryDirectory(prefix="accuracy-") as scratch:
        path, data, evaluation = sources(run, folder, Path(scratch))
        start = time.perf_counter()
        try:
            result = onnxprune.prune(
                path,
                targets={"macs": run.macs},
                data=None if run.way in WITHOUT_DATA else data,
                eval_data=evaluation[0],
                samples=None if run.way in WITHOUT_DATA else 0 if run.samples == AUGMENTED else sample_count(run),
                latency=False,
                **WAYS[run.way],
            )
        except onnxprune.OnnxpruneError as error:
            return {"error": str(error)}
        seconds, peak = time.perf_counter() - start, peak_resident_bytes()
        figures = {evaluation[0].name: result.report["fidelity"]["figures"]}
        for more in evaluation[1:]:
            found = onnxprune.compare(path, result.model, data=more, budget_s=1e-3, memory=False, threads=0, batch=16)
            figures[more.name] = dict(found.fidelity.figures)
    return {"seconds": seconds, "peak_bytes": peak, "figures": figures, **summary(result.report)}


def summary(report: Mapping[str, Any]) -> Record:
    """Return what is kept of a report beside figures."""
    before, after, fits = report["input"], report["output"], report["reconstruction"]
    return {
        "macs": after["macs"] / before["macs"],
        "params": after["params"] / before["params"],
        "calibration": report["calibration"],
        "layers": {
            "refitted": sum(fit["strength"] is not None for fit in fits),
            "left": sum(fit["strength"] is None and fit["why_not"] is None for fit in fits),
            "not fitted": sum(fit["why_not"] is not None for fit in fits),
        },
    }


def sample_count(run: Run) -> int:
    """Return how many samples of calibration a run takes."""
    if run.samples is not None:
        return run.samples
    return SUBJECTS[run.subject].samples if run.subject in SUBJECTS else 64


def sources(run: Run, folder: Path | None, scratch: Path) -> tuple[Path, Path, tuple[Path, ...]]:
    """Return the network, data of calibration and of evaluation.

    Raises:
        SystemExit: when they lie in a folder that was not given.
    """
    if run.subject not in SUBJECTS:
        kind, _, width = run.subject.partition("-")
        return synthetic(kind, int(width), scratch)
    subject = SUBJECTS[run.subject]
    home = subject.folder or folder
    if home is None:
        raise SystemExit(f"{run.subject}: give the folder that tools/real_models.py has written")
    enough = next(name for name, count in subject.calibration if count >= sample_count(run))
    return home / subject.file, home / enough, tuple(home / name for name in subject.evaluation)


def synthetic(kind: str, width: int, folder: Path) -> tuple[Path, Path, tuple[Path, ...]]:
    """Write a network of two layers with `width` units between them, and data whose dims are correlated.

    Args:
        kind: "ffn", on 64 tokens of 256 dims; or "conv", 3x3, on 16 channels of 16x16.
        width: units between the layers.
        folder: where files are written.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    is_conv = kind == "conv"
    shape, dims = ((16, 16, 16), 16) if is_conv else ((64, 256), 256)
    sizes = [(width, dims, 3, 3), (dims, width, 3, 3)] if is_conv else [(dims, width), (width, dims)]
    weights = [rng.standard_normal(size) * (2 / np.prod(size[1:] if is_conv else size[:1])) ** 0.5 for size in sizes]
    op, fields = ("Conv", {"pads": [1, 1, 1, 1]}) if is_conv else ("MatMul", {})
    nodes = [
        helper.make_node(op, ["x", "first"], ["hidden"], "first", **fields),
        helper.make_node("Relu", ["hidden"], ["active"], "relu"),
        helper.make_node(op, ["active", "second"], ["y"], "second", **fields),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]) for name in ("x", "y")]
    named = zip(weights, ("first", "second"), strict=True)
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for array, name in named]
    graph = helper.make_graph(nodes, kind, ports[:1], ports[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "net.onnx")
    mixing = rng.standard_normal((dims, dims)) * np.exp(-np.arange(dims) / dims * 4)
    paths = [folder / "calibration.npz", folder / "evaluation.npz"]
    for path, count in zip(paths, (64, 8), strict=True):
        values = rng.standard_normal((count, *shape))
        mixed = np.einsum("ij,nj...->ni...", mixing, values) if is_conv else values @ mixing
        np.savez(path, x=mixed.astype(np.float32))
    return folder / "net.onnx", paths[0], (paths[1],)


# -- results -----------------------------------------------------------------------------------------------


def read(results: Path) -> list[Record]:
    """Return the lines of a folder of results; one that was cut off is left out."""
    path = results / "measurements.jsonl"
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def latest(records: Iterable[Record]) -> dict[Run, Record]:
    """Return the last record of each run."""
    return {Run(**record["run"]): record for record in records}


def missing(runs: Iterable[Run], records: Iterable[Record], state: str) -> list[Run]:
    """Return the runs that were not measured at this state of the package, or failed, each once."""
    done = {Run(**record["run"]) for record in records if record["commit"] == state and "error" not in record}
    return [run for run in dict.fromkeys(runs) if run not in done]


@functools.cache
def package_state() -> str:
    """Return the last commit that changed the package, with a plus where files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", "onnxprune")
    return (git("log", "-1", "--format=%h", "--", "onnxprune") or "unknown") + "+" * bool(changed)


def fresh(run: Run, folder: Path | None) -> Record:
    """Measure in a fresh process."""
    given = [json.dumps(asdict(run)), *([str(folder)] if folder else [])]
    command = [sys.executable, __file__, "once", *given]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        last = (process.stderr.strip().splitlines() or [f"ended with {process.returncode}"])[-1]
        return {"error": last}
    return dict(json.loads(process.stdout.strip().splitlines()[-1]))


def measure_all(runs: Sequence[Run], folder: Path | None, results: Path, seconds: float) -> None:
    """Measure what is missing, one after the other, and append it; none is begun after so many seconds."""
    from onnxprune.runtime.machine import machine

    results.mkdir(parents=True, exist_ok=True)
    begun, here = time.monotonic(), machine()
    left = missing(runs, read(results), package_state())
    for number, run in enumerate(left, 1):
        if time.monotonic() - begun > seconds:
            print(f"out of time: {len(left) - number + 1} of {len(left)} runs are left")
            return
        record = {"run": asdict(run), "commit": package_state(), "machine": here, **fresh(run, folder)}
        with (results / "measurements.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
        told = {name: record[name] for name in ("error", "macs", "seconds", "peak_bytes", "figures") if name in record}
        print(f"{number} of {len(left)}: {run}: {told}", flush=True)


def main() -> None:
    """Measure a section, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=(*SECTIONS, "page", "once"))
    parser.add_argument("given", nargs="*", metavar="DIR", help="what tools/real_models.py makes")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "accuracy", metavar="FOLDER")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", metavar="FOLDER", help="where the page goes")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no measurement after so many")
    parser.add_argument("--subject", help="measure this one alone, such as photos, sentences or vit")
    given = parser.parse_args()
    if given.command == "once":
        folder = Path(given.given[1]) if len(given.given) > 1 else None
        print(json.dumps(measure(Run(**json.loads(given.given[0])), folder)))
        return
    if given.command == "page":
        import accuracy_page

        accuracy_page.write(latest(read(given.results)), given.docs)
        return
    folder = Path(given.given[0]) if given.given else None
    subjects = tuple(SUBJECTS) if folder else DIGITS
    runs = [run for run in SECTIONS[given.command](subjects) if given.subject in (None, run.subject)]
    measure_all(runs, folder, given.results, 60 * given.minutes)


if __name__ == "__main__":
    import accuracy  # as the page imports it: a `Run` of this module under another name would equal none of its runs

    accuracy.main()
