"""Where the command line starts.

Progress goes to stderr, results to stdout. Heavy modules are imported when a command runs, so that ``--help`` answers
at once. Exit codes: 0 done, 1 a check or bound was missed, 2 bad input or too little memory, 3 nothing to prune,
4 a fault of onnxprune itself.
"""

from __future__ import annotations

from onnxprune.cli.failing import failing, hear_signals
from onnxprune.cli.group import cli


def main() -> None:
    """Run the command line."""
    hear_signals()
    with failing():
        cli(prog_name="onnxprune")
