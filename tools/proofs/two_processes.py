"""Tune by one process and by two of Accelerate, and compare the loss curves and what was written.

    python tools/proofs/two_processes.py --steps 24

It needs the extra `accelerate`. The processes run on the CPU of this machine. The exit code is 1 where a loss of
training or of the held-out samples differs by more than 1e-4.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.proofs.tuned import Subject, subjects  # noqa: E402

LIMIT = 1e-4
LAUNCHED = ("accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no")


def run(program: list[str], **variables: str) -> str:
    """Run a module of Python; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    ended = subprocess.run(
        [sys.executable, "-m", *program], env=environment, check=False, capture_output=True, text=True
    )
    if ended.returncode:
        raise SystemExit(f"{' '.join(program)}: exit code {ended.returncode}\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def tuned(folder: Path, subject: Subject, count: int, steps: int, more: list[str]) -> tuple[dict[str, Any], str]:
    """Return the report of a run by so many processes, and what it printed."""
    target = folder / f"by{count}.onnx"
    options = subject.tune(folder / "small.onnx", target, steps)
    program = ["onnxprune", *options, "--report", f"{target}.json", "--force", *more]
    if count == 1:
        printed = run(program)
    else:
        launch = [*LAUNCHED, "--num_processes", str(count), "--dynamo_backend", "no", "-m"]
        printed = run([*launch, *program], ACCELERATE_USE_CPU="true")
    return json.loads(Path(f"{target}.json").read_text(encoding="utf-8")), printed


def gaps(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float]:
    """Return the largest differences of losses of training and of held-out samples."""
    pairs = list(zip(one["history"], other["history"], strict=True))
    learned = max(abs((a["loss"] or 0) - (b["loss"] or 0)) for a, b in pairs)
    return learned, max(abs(a["held"] - b["held"]) for a, b in pairs)


def main() -> int:
    """Compare runs with several losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    is_good = True
    with tempfile.TemporaryDirectory(prefix="two-processes-") as place:
        folder = Path(place)
        known = subjects(folder)
        features = ["--cut", str(folder / "cut.json"), "--accumulate", "2"]
        ways = [("images", "kl", []), ("images", "features", features), ("text", "written", ["--accumulate", "2"])]
        for name, words, more in ways:
            known[name].cut(folder / "small.onnx", folder / "cut.json", {**os.environ, "PYTHONPATH": str(ROOT)})
            (one, said), (two, said_by_two) = (
                tuned(folder, known[name], count, arguments.steps, more) for count in (1, arguments.processes)
            )
            learned, held = gaps(one, two)
            verdicts = said_by_two.count("held-out loss")
            same = said.count("held-out loss") == verdicts == 1 and two["lesson"]["processes"] == arguments.processes
            is_good &= same and max(learned, held) <= LIMIT
            print(
                f"{words}: {arguments.steps} steps by {arguments.processes} processes and by one: losses of training "
                f"differ by {learned:.1e} at most, those of held-out samples by {held:.1e}; {verdicts} verdict printed"
            )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
