"""The command line, one file a command; `main` runs it."""

from onnxprune.cli import compare, inspect, prune, report, sensitivity, sweep, tune
from onnxprune.cli.start import main

__all__ = ["compare", "inspect", "main", "prune", "report", "sensitivity", "sweep", "tune"]
