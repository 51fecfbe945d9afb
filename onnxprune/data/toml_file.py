"""Files of TOML: plans, recipes, defaults. Python reads TOML; what is written are flat tables with comments.

No library is needed for these, and none that writes comments is small.
"""

from __future__ import annotations

import json
import numbers
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnxprune.data.opening import open_ordinary
from onnxprune.errors import InputError

_MOST_BYTES = 16 * 2**20
_BARE = re.compile(r"[A-Za-z0-9_-]+")  # keys that need no quotes


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a file of TOML holds.

    Raises:
        InputError: when it cannot be read, is no TOML, too large or too deep, and for a device, pipe or folder.
    """
    try:
        with open_ordinary(path) as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise InputError(
                f"{path}: has more than {_MOST_BYTES:,} bytes, which no plan, recipe or table of options has"
            )
        return tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise InputError(
            f"{path}: is nested too deeply: plans, recipes and tables of options have few levels"
        ) from None
    except ValueError as error:  # of TOML, of UTF-8, of a number with thousands of digits
        raise InputError(f"{path}: is no TOML: {error}") from None


def toml_text(text: str) -> str:
    """Return text as a string of TOML in one line; halves of a pair, which are no Unicode, are written as escapes.

    >>> toml_text("layer.1"), len(toml_text(chr(127)))
    ('"layer.1"', 8)
    """
    plain = text.encode(errors="backslashreplace").decode()
    return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_value(value: Any) -> str:
    """Return a bool, number, text, or a list or dict of such, as TOML.

    >>> toml_value([1, True, 0.5]), toml_value({"stage3*": 0.5})
    ('[1, true, 0.5]', '{"stage3*" = 0.5}')

    Raises:
        InputError: for what TOML does not hold.
    """
    if isinstance(value, str):
        return toml_text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_key(key)} = {toml_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, Iterable):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, numbers.Integral):
        return repr(int(value))
    if isinstance(value, numbers.Real):
        return repr(float(value))
    raise InputError(f"{value!r} is a {type(value).__name__}: TOML holds text, numbers, true, false, lists and tables")


def toml_key(key: str) -> str:
    """Return a key, in quotes where it needs some."""
    return key if _BARE.fullmatch(key) else toml_text(key)


def toml_lines(values: Mapping[str, Any]) -> list[str]:
    """Return a line for each key of a table; those without a value are left out, as TOML has none."""
    return [f"{toml_key(key)} = {toml_value(value)}" for key, value in values.items() if value is not None]


def comment_lines(text: str, width: int = 100) -> list[str]:
    """Return text as lines of comments; its own lines stay lines."""
    lines: list[str] = []
    for part in text.splitlines():
        line = "#"
        for word in part.split():
            if len(line) + len(word) >= width:
                lines.append(line)
                line = "#"
            line += f" {word}"
        lines.append(line)
    return lines
