"""What tools/measure/accuracy.py measures: networks, ways to prune them, runs of both; and the file of results."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

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
    folder: Path | None = None  # None: what tools/models/real_models.py makes


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


def sample_count(run: Run) -> int:
    """Return how many samples of calibration a run takes."""
    if run.samples is not None:
        return run.samples
    return SUBJECTS[run.subject].samples if run.subject in SUBJECTS else 64


# -- results -----------------------------------------------------------------------------------------------


def read(results: Path) -> list[Record]:
    """Return the lines of a folder of results; one that was cut off is left out."""
    path = results / "measurements.jsonl"
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def latest(records: Iterable[Record]) -> dict[Run, Record]:
    """Return the last record of each run."""
    return {Run(**record["run"]): record for record in records}


def missing(runs: Iterable[Run], records: Iterable[Record], state: str) -> list[Run]:
    """Return the runs that were not measured at this state of the package, or failed, each once."""
    done = {Run(**record["run"]) for record in records if record["commit"] == state and "error" not in record}
    return [run for run in dict.fromkeys(runs) if run not in done]
