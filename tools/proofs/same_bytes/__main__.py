"""Proof that two checkouts of the project do the same: equal runs give equal files, reports, texts and exit codes.

    python tools/proofs/same_bytes record --checkout OLD --out before.json
    python tools/proofs/same_bytes record --checkout NEW --out after.json
    python tools/proofs/same_bytes compare before.json after.json

`record` performs the runs of the tables in runs.py with the package of a checkout, through its command line and its
public functions alone, so that the inside of the package may look as it likes. It goes on where it stopped: a run
that was recorded from the same commit, files and commands stays. It exits with 1 where a step ends with another exit
code than its table says, which is recorded all the same. `compare` prints a line for each run that differs, with the
first place where it does, and exits with 1 if any does.

What may differ between two runs of one checkout is taken out before anything is compared: times, versions, temporary
paths. The rest must be equal to the last bit. That needs one machine, and the same releases of numpy and ONNX Runtime.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from comparing import compare
from python_runs import CALLS
from recording import Checkout, record


def main() -> int:
    """Run a command of this script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="perform the runs with the package of a checkout")
    recording.add_argument("--checkout", type=Path, required=True)
    recording.add_argument("--out", type=Path, required=True, help="a JSON file")
    recording.add_argument("--workers", type=int, default=2, help="runs at the same time")
    recording.add_argument("--again", action="store_true", help="record again what is recorded")
    recording.add_argument("--only", default="*", metavar="GLOB", help="runs of these names alone")
    comparing = commands.add_parser("compare", help="tell where two records differ")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    calling = commands.add_parser("call", help="what record starts for the runs in Python")
    calling.add_argument("name", choices=CALLS)
    options = parser.parse_args()
    if options.command == "call":
        sys.path[0] = str(Path.cwd())  # as `python -m` has it
        CALLS[options.name]()
        return 0
    if options.command == "compare":
        return compare(options.before, options.after)
    sys.dont_write_bytecode = True  # of the checkout
    return record(Checkout.at(options.checkout), options.out, options.workers, options.again, options.only)


if __name__ == "__main__":
    sys.exit(main())
