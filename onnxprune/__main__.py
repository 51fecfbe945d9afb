"""``python -m onnxprune``, and the command ``onnxprune``, are the command line."""

from __future__ import annotations

import os
import sys

from onnxprune.interrupts import exit_code, hear_signals, unhear_signals


def main() -> None:
    """Run the command line; a signal ends it as quietly at its start and end as in between."""
    _fill_streams()
    hear_signals()
    try:
        from onnxprune.cli import main as run  # noqa: PLC0415 - click takes its time

        run()
    except BaseException as error:  # an interrupt, or whatever code of others has made of it
        code = exit_code()
        if code is None:
            if isinstance(error, KeyboardInterrupt):
                sys.exit(130)
            if isinstance(error, (ImportError, MemoryError)):  # of the command line itself: commands say more
                print(f"onnxprune: cannot start: {type(error).__name__}: {error}; install it again", file=sys.stderr)
                sys.exit(2)
            raise
        sys.exit(code)
    finally:
        unhear_signals()


def _fill_streams() -> None:
    """Open nothing in the place of standard streams that are closed: the next file would get their number.

    It would then hold what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


if __name__ == "__main__":
    main()
