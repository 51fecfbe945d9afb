"""Kill a run of tuning at random moments, resume it, and compare the bytes with those of a run that was never killed.

    python tools/proofs/tuning_kills.py --kills 10                   of a network of images
    python tools/proofs/tuning_kills.py --kills 10 --subject text    of a decoder, along text that it writes itself

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
sys.path.insert(0, str(ROOT))

from tools.proofs.tuned import subjects  # noqa: E402

# The command line, with a checkpoint after every step.
_PROGRAM = """
import onnxprune.training.tuning.saving as saving
saving.Saving.__init__.__defaults__ = (0.0,)
from onnxprune.__main__ import main
main()
"""


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


def written(path: Path) -> dict[str, bytes]:
    """Return the bytes of a model and of its weights beside it, by name."""
    return {each.name: each.read_bytes() for each in path.parent.iterdir() if each.suffix in {".onnx", ".data"}}


def main() -> int:
    """Run once in one piece, and then with kills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--subject", choices=("images", "text"), default="images")
    arguments = parser.parse_args()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory(prefix="tuning-kills-") as folder:
        small, whole, pieces = (Path(folder) / name / "model.onnx" for name in ("small", "whole", "pieces"))
        for path in (small, whole, pieces):
            path.parent.mkdir()
        subject = subjects(Path(folder))[arguments.subject]
        subject.cut(small, Path(folder) / "cut.json", environment)
        program = [sys.executable, "-c", _PROGRAM]
        once = [*program, *subject.tune(small, whole, arguments.steps)]
        subprocess.run(once, env=environment, check=True, capture_output=True)
        draw, kills = random.Random(arguments.seed), 0
        while not pieces.exists():
            saved = Path(f"{pieces}.checkpoint")
            more = ["--resume"] if saved.exists() else []
            run = [*program, *subject.tune(small, pieces, arguments.steps), *more]
            process = subprocess.Popen(run, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            if kills < arguments.kills and wait_for_steps(process, saved, draw):
                process.send_signal(signal.SIGKILL)
                kills += 1
            _, said = process.communicate()
            if process.returncode not in (0, -signal.SIGKILL):
                print(said.decode())
                return 1
        same = written(whole) == written(pieces)
        print(f"{subject.name}: {kills} kills, {arguments.steps} steps: {'the same bytes' if same else 'OTHER BYTES'}")
        return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
