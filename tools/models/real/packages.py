"""Files of installed packages, and the seed of all choices among them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

SEED = 2024


def installed(relative: str) -> Path:
    """Return where a file or folder of an installed package lies, without importing the package.

    Raises:
        SystemExit: when the package, or the file in it, is not there.
    """
    package, _, inside = relative.partition("/")
    spec = find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(root) / inside).exists():
            return path
    raise SystemExit(f"{relative}: not installed (the packages are in the docstring of real_models.py)")
