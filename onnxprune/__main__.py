"""``python -m onnxprune`` is the command line."""

from onnxprune.cli import main

main()
