"""``python -m onnxprune``, and the command ``onnxprune``, are the command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends it as quietly as later."""
    try:
        from onnxprune.cli import main as run  # noqa: PLC0415 - click takes its time

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
