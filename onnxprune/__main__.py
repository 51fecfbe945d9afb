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
        if code is None and isinstance(error, SystemExit):
            raise
        sys.exit(_failed(error) if code is None else code)
    finally:
        unhear_signals()


def _failed(error: BaseException) -> int:
    """Say what keeps the command line itself from running, and return the exit code; commands say more."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    from onnxprune.errors import said  # noqa: PLC0415 - an interrupt of the start does not wait for it

    print(f"onnxprune: cannot start: {said(error)}; install it again", file=sys.stderr)
    return 2 if isinstance(error, (ImportError, MemoryError)) else 4


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
