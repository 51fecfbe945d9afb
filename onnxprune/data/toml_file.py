"""Files of TOML that people write: plans, recipes, defaults."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from onnxprune.errors import InputError


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a file of TOML holds.

    Raises:
        InputError: when it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no TOML: {error}") from None
