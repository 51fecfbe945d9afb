"""``python -m onnxprune``, and the command ``onnxprune``, are the command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C and broken packages while it is still being imported end it as quietly as later."""
    try:
        from onnxprune.cli import main as run  # noqa: PLC0415 - click takes its time

        run()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ImportError, MemoryError) as error:
        print(f"onnxprune: cannot start: {type(error).__name__}: {error}; install it again", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
