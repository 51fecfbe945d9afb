"""The command line, one file a command; `main` runs it."""

from onnxprune.cli import apply, compare, inspect, plan, prune, run, sensitivity, sweep, tune
from onnxprune.cli.start import main

__all__ = ["apply", "compare", "inspect", "main", "plan", "prune", "run", "sensitivity", "sweep", "tune"]
