"""Where the command line starts.

Progress goes to stderr, results to stdout. Heavy modules are imported when a command runs, so that ``--help`` answers
at once. Exit codes: 0 done, 1 a check or bound was missed, 2 bad input or too little memory, 3 nothing to prune,
4 a fault of onnxprune itself; 128 and its number after a signal.
"""

from __future__ import annotations

import sys

from onnxprune.cli.failing import failing
from onnxprune.cli.group import cli


def main() -> None:
    """Run the command line; what a terminal cannot show is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with failing():  # what comes before and behind the steps of a command
        cli(prog_name="onnxprune")
