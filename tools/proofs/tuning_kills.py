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


def wait_for_steps(process: subprocess.Popen[bytes], saved: Path, draw: random.Random) -> bool:
    """Wait until a few checkpoints have been written, and a moment longer; return whether the process still runs."""
    left, last = draw.randint(1, 3), stamp(saved)
    while left and process.poll() is None:
        time.sleep(0.002)
        if stamp(saved) != last:
            left, last = left - 1, stamp(saved)
    time.sleep(draw.uniform(0, 0.1))
    return process.poll() is None


def stamp(path: Path) -> int:
    """Return when a file was written, 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


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
        subprocess.run(command(whole, small, arguments.steps), env=environment, check=True, capture_output=True)
        draw, kills = random.Random(arguments.seed), 0
        while not pieces.exists():
            saved = Path(f"{pieces}.checkpoint")
            more = ["--resume"] if saved.exists() else []
            run = command(pieces, small, arguments.steps, *more)
            process = subprocess.Popen(run, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            if kills < arguments.kills and wait_for_steps(process, saved, draw):
                process.send_signal(signal.SIGKILL)
                kills += 1
            _, said = process.communicate()
            if process.returncode not in (0, -signal.SIGKILL):
                print(said.decode())
                return 1
        same = whole.read_bytes() == pieces.read_bytes()
        print(f"{kills} kills, {arguments.steps} steps: {'the same bytes' if same else 'OTHER BYTES'}")
        return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
