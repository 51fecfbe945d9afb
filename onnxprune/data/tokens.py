"""Tokens that a vocabulary is to keep, as they are given: a file of ids, a list of ids, of tokens, or of both."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import OptionError

_FORMS = "one id a line (ids.txt), or a JSON list of ids and tokens (tokens.json)"


def read_tokens(value: Any) -> tuple[int | str, ...]:
    """Return ids, and tokens as text, in the order in which they are given, each once.

    Args:
        value: the path of a file, or ids and tokens.

    Raises:
        OptionError: for a file that cannot be read, and for anything else.
    """
    named = isinstance(value, (str, os.PathLike))
    given = _of_file(Path(value)) if named else value
    where = f"vocabulary {value}" if named else "vocabulary"
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes, dict)):
        raise OptionError(f"{where}: expected {_FORMS}, got {type(given).__name__}")
    tokens = tuple(dict.fromkeys(_token(where, each) for each in given))
    if not tokens:
        raise OptionError(f"{where}: it is empty: expected {_FORMS}")
    return tokens


def _of_file(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise OptionError(f"vocabulary {path}: cannot be read: {reason}") from None
    if path.suffix.lower() == ".json":
        try:
            return json.loads(text)
        except ValueError as error:
            raise OptionError(f"vocabulary {path}: it is no JSON: {error}") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    wrong = next(((number, line) for number, line in lines if not (line.isascii() and line.isdecimal())), None)
    if wrong is not None:
        raise OptionError(f"vocabulary {path}: line {wrong[0]} is {wrong[1][:40]!r}: expected {_FORMS}")
    return [int(line) for _, line in lines]


def _token(where: str, value: Any) -> int | str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 0:
        return int(value)
    raise OptionError(f"{where}: {value!r} is neither an id nor a token: expected {_FORMS}")
