"""How much memory may be taken for what a file merely states.

A few bytes of a file can stand for gigabytes: a shape, a count of repeats, an index into a sparse tensor. What a file
*holds* may be read whole; what it *states* beyond that is compared with a limit before anything is allocated. The
limit is 1 GiB, or what the environment variable ``ONNXPRUNE_MAX_BYTES`` says.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from onnxprune.errors import OptionError

VARIABLE = "ONNXPRUNE_MAX_BYTES"
DEFAULT = 2**30  # bytes
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def most_bytes(held: int = 0) -> int:
    """Return how many bytes may be allocated for what a file states.

    Args:
        held: bytes that the file itself holds; they come on top.

    Raises:
        OptionError: when ``ONNXPRUNE_MAX_BYTES`` is no number of bytes.
    """
    stated = bytes_stated_by(VARIABLE)
    return (DEFAULT if stated is None else stated) + held


def bytes_of(shape: Iterable[int], itemsize: int) -> int:
    """Return the bytes of an array, in exact numbers: sizes that a file states may overflow 64 bits.

    >>> bytes_of((2**40, 2**40), 4) == 2**82
    True
    """
    return math.prod(map(int, shape)) * itemsize


def excess(what: str, needed: int, held: int = 0) -> str | None:
    """Return why something is not allocated: a sentence with what to do; None where it is within the limit.

    Args:
        what: words for the thing, the subject of the sentence.
        needed: the bytes that it would take.
        held: bytes that the file itself holds.
    """
    if needed <= most_bytes(held):
        return None
    return (
        f"{what} would take {amount(needed)} of memory, more than the {amount(most_bytes(held))} that are allowed for "
        f"what a file states; set {VARIABLE} to allow more"
    )


def amount(size: int) -> str:
    """Return a number of bytes in words.

    >>> amount(0), amount(1_500_000), amount(10**30)
    ('0 bytes', '1.5 MB', '1e+18 TB')
    """
    if size < 1000:
        return f"{size} bytes"
    for unit, scale in (("kB", 10**3), ("MB", 10**6), ("GB", 10**9)):
        if size < scale * 1000:
            return f"{size / scale:.3g} {unit}"
    return f"{size / 10**12:.3g} TB"


@dataclass(slots=True)
class Allowance:
    """What is left of a limit that several allocations share."""

    left: int  # bytes

    def take(self, needed: int) -> bool:
        """Whether so many bytes are left; if so, they are taken."""
        if needed > self.left:
            return False
        self.left -= needed
        return True


def bytes_stated_by(variable: str) -> int | None:
    """Return the bytes that an environment variable states, such as ``4GB``; None where it is not set.

    Raises:
        OptionError: when it is no number of bytes.
    """
    text = os.environ.get(variable, "")
    if not text.strip():
        return None
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([kmg]?i?b)?\s*", text, re.IGNORECASE | re.ASCII)
    unit = (match[2] or "").upper() if match else "?"
    if match is None or unit not in _UNITS:
        raise OptionError(f"{variable} must be a number of bytes such as 4GB, got {text!r}")
    return int(float(match[1]) * _UNITS[unit])
