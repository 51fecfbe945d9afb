"""Text files beside a model, read within bounds: whoever wrote a folder decides what a reader of it has to hold.

Files that are held at the same time share one bound, that of the folder: seven files of a tokenizer, each just within a
bound of its own, would take seven times the memory. Settings are read one after another, and each has the bound alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from onnxprune.errors import InputError

_LEVELS = 64  # of objects and lists in JSON; tokenizers have ten
# Of files that are read together; the largest known tokenizer (Gemma 3) has 33 million signs and 4 million parts. As
# the smallest lists that there are, so many parts take 0.7 GiB of memory.
_MOST_SIGNS, _MOST_PARTS = 2**26, 2**24


def texts_within(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the texts of files of a folder by their names, of those that are there.

    Raises:
        InputError: when they hold more than is read of a folder, for the file that is too much; and for a file that
            cannot be read, or is no text in UTF-8.
    """
    texts: dict[str, str] = {}
    signs = parts = 0
    for name in names:
        path = folder / name
        if not path.is_file():
            continue
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(_MOST_SIGNS - signs + 1)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InputError(f"{path} does not hold text in UTF-8") from None
        signs, parts = signs + len(text), parts + sum(map(text.count, "[{,\n"))
        together = f" together with {', '.join(texts)}" if texts else ""
        for count, most, what in ((signs, _MOST_SIGNS, "signs"), (parts, _MOST_PARTS, "parts")):
            if count > most:
                raise InputError(f"{path} does not hold at most {most:,} {what}{together}")
        texts[name] = text
    return texts


def json_of(path: Path, text: str) -> Any:
    """Return what JSON holds.

    Args:
        path: of the file, for the error.
        text: what it holds.

    Raises:
        InputError: for more levels than those who walk through it go down.
        ValueError: for what is no JSON.
    """
    try:
        value = json.loads(text)
        is_deep = _is_deep(value)
    except RecursionError:
        is_deep = True
    if is_deep:
        raise InputError(f"{path} does not hold at most {_LEVELS} levels")
    return value


def _is_deep(value: Any) -> bool:
    """Whether JSON has more levels than what walks through it later goes down."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_LEVELS):
        parts = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for part in parts for each in part if isinstance(each, dict | list)]
        if not level:
            return False
    return True
