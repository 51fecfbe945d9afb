"""What proofs of tuning tune: a network of images by its outputs, a decoder along text that it writes itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Subject:
    """A model, samples, and the options of `tune` for it."""

    name: str
    teacher: Path
    data: Path
    options: Sequence[str] = ()

    def cut(self, small: Path, report: Path, environment: Mapping[str, str]) -> None:
        """Write the model at half of its parameters, and the report of that."""
        prune = [sys.executable, "-m", "onnxprune", str(self.teacher), "--ratio", "0.5", "--criterion", "l2"]
        prune += ["--no-latency", "--quiet", "--report", str(report), "--force", "-o", str(small)]
        subprocess.run(prune, env=dict(environment), check=True, capture_output=True)

    def tune(self, small: Path, target: Path, steps: int) -> list[str]:
        """Return what `onnxprune` is called with to tune the smaller model, on one thread."""
        files = [str(small), "--teacher", str(self.teacher), "--data", str(self.data), "-o", str(target)]
        return ["tune", *files, "--steps", str(steps), "--rate", "0.003", "--threads", "1", "--quiet", *self.options]


def subjects(folder: Path) -> dict[str, Subject]:
    """Return them by name; the decoder, of random weights, is written to a folder."""
    decoder = folder / "decoder.onnx"
    made = [sys.executable, str(ROOT / "tools/models/big_decoder.py"), str(decoder)]
    subprocess.run([*made, "--size", "tiny", "--samples", "64", "--length", "24"], check=True, capture_output=True)
    models = ROOT / "models"
    images = Subject("images", models / "resnet_bn.onnx", models / "mnist_calibration.npz")
    written = ["--loss", "written", "--reuse", "3", "--batch", "4"]
    return {each.name: each for each in (images, Subject("text", decoder, decoder.with_suffix(".npz"), written))}
