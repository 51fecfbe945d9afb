"""Files of docs/ that a script makes: written, or held against what stands there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path


def write_or_check(script: str, doc: str | None, make: Callable[[], Mapping[Path, str]]) -> int:
    """Write the files of a script; with ``--check`` write none, and return 1 where one is not current.

    Args:
        script: its path from the root of the repository, for the message.
        doc: what its help says.
        make: gives the text of each file.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 when they are not current")
    check = parser.parse_args().check
    for path, text in make().items():
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{path.name} is not current: run python {script}", file=sys.stderr)
            return 1
    return 0
