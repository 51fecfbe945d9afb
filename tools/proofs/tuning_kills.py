"""Kill a run of tuning at random moments, resume it, and compare the bytes with those of a run that was never killed.

    python tools/proofs/tuning_kills.py --kills 10

The process is ended by SIGKILL: nothing of it cleans up. A checkpoint is written after every step here.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The command line, with a checkpoint after every step.
_PROGRAM = """
import onnxprune.training.saving as saving
saving.Saving.__init__.__defaults__ = (0.0,)
from onnxprune.__main__ import main
main()
"""


def command(target: Path, small: Path, steps: int, *more: str) -> list[str]:
    """Return what tunes a network to a file."""
    return [
        sys.executable, "-c", _PROGRAM, "tune", str(small), "--teacher", str(ROOT / "models/resnet_bn.onnx"),
        "--data", str(ROOT / "models/mnist_calibration.npz"), "--steps", str(steps), "--rate", "0.003",
        "--threads", "1", "--quiet", "-o", str(target), *more,
    ]  # fmt: skip


def main() -> int:
    """Run once in one piece, and then with kills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory(prefix="tuning-kills-") as folder:
        small, whole, pieces = (Path(folder) / f"{name}.onnx" for name in ("small", "whole", "pieces"))
        prune = ["-m", "onnxprune", str(ROOT / "models/resnet_bn.onnx"), "--ratio", "0.5", "--criterion", "l2"]
        prune += ["--no-latency", "--quiet", "-o", str(small)]
        subprocess.run([sys.executable, *prune], env=environment, check=True, capture_output=True)
        start = time.monotonic()
        subprocess.run(command(whole, small, arguments.steps), env=environment, check=True, capture_output=True)
        seconds = time.monotonic() - start
        draw, kills = random.Random(arguments.seed), 0
        while not pieces.exists():
            more = ["--resume"] if Path(f"{pieces}.checkpoint").exists() else []
            process = subprocess.Popen(
                command(pieces, small, arguments.steps, *more),
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            try:
                _, said = process.communicate(
                    timeout=draw.uniform(0.3, 1.0) * seconds if kills < arguments.kills else None
                )
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
                continue
            if process.returncode:
                print(said.decode())
                return 1
        same = whole.read_bytes() == pieces.read_bytes()
        print(f"{kills} kills, {arguments.steps} steps: {'the same bytes' if same else 'OTHER BYTES'}")
        return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
