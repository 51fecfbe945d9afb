"""The command line, one file a command; `main` runs it."""

from onnxprune.cli import compare, inspect, prune, quantize, sensitivity, sweep, tune
from onnxprune.cli.start import main

__all__ = ["compare", "inspect", "main", "prune", "quantize", "sensitivity", "sweep", "tune"]
