"""Values of options: each function returns its value as a plain Python type, or raises an OptionError that names it."""

from __future__ import annotations

import difflib
import importlib
import math
import numbers
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from onnxprune.errors import OptionError, code_of_others, said


def number(name: str, value: Any) -> float:
    """Return a number that is not NaN.

    >>> number("ratio", "0.3")
    Traceback (most recent call last):
    ...
    onnxprune.errors.OptionError: ratio must be a number, got '0.3'
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or math.isnan(value):
        raise OptionError(f"{name} must be a number, got {value!r}")
    return float(value)


def positive(name: str, value: Any) -> float:
    """Return a finite number above 0."""
    real = number(name, value)
    if not 0 < real < math.inf:
        raise OptionError(f"{name} must be above 0, got {real:g}")
    return real


def ratio(name: str, value: Any) -> float:
    """Return a share of units to remove."""
    share = number(name, value)
    if not 0 <= share < 1:
        raise OptionError(f"{name} must be at least 0 and below 1, got {share:g}: it is the share of units to remove")
    return share


def fraction(name: str, value: Any) -> float:
    """Return a share from 0 to 1, of which people may think in percent."""
    share = number(name, value)
    if not 0 <= share <= 1:
        raise OptionError(f"{name} is a fraction between 0 and 1 (0.01 is one point), got {share:g}")
    return share


def count(name: str, value: Any, least: int) -> int:
    """Return a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise OptionError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise OptionError(f"{name} must be at least {least}, got {value}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise OptionError(f"{name} must be True or False, got {value!r}")
    return value


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """Return one of the known names."""
    listed = list(known)
    if not isinstance(value, str) or value not in listed:
        raise OptionError(f"unknown {name} {value!r}; there are: {', '.join(listed)}")
    return value


def keys(where: str, found: Iterable[str], known: Iterable[str]) -> None:
    """Raise OptionError for the first key that is not known; says what is near.

    >>> keys("plan.toml", ["kepp"], ["name", "keep"])
    Traceback (most recent call last):
    ...
    onnxprune.errors.OptionError: plan.toml: unknown key 'kepp', did you mean 'keep'?
    """
    listed = list(known)
    for name in found:
        if name not in listed:
            near = difflib.get_close_matches(name, listed, 1, 0.5)
            hint = f", did you mean {near[0]!r}?" if near else f"; there are: {', '.join(listed)}"
            raise OptionError(f"{where}: unknown key {name!r}{hint}")


def globs(name: str, value: Any) -> tuple[str, ...]:
    """Return a glob, or several, as a tuple."""
    listed = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(item, str) for item in listed):
        raise OptionError(f"{name} must be a glob or a list of globs, got {value!r}")
    return listed


def shapes(name: str, value: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return pairs of input and shape, from a dict or from pairs.

    >>> shapes("inputs", {"x": [1, 3, 8, 8]})
    (('x', (1, 3, 8, 8)),)
    """
    try:
        pairs = [(str(key), tuple(dims)) for key, dims in (value.items() if isinstance(value, Mapping) else value)]
    except (TypeError, ValueError):
        raise OptionError(f"{name} must be a dict from input to shape, got {value!r}") from None
    return tuple((key, tuple(count(f"{name}: a dim of {key!r}", dim, 1) for dim in dims)) for key, dims in pairs)


def function(name: str, value: str) -> Callable[..., Any]:
    """Return the function that ``module:function`` names; modules of the current folder are found, too.

    >>> function("metric", "math:floor")(1.5)
    1
    """
    module, _, attribute = value.partition(":")
    if not module or not attribute:
        raise OptionError(f"{name} must be MODULE:FUNCTION, got {value!r}")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    refusal = f"{name} {value!r}: module {module!r} cannot be imported: "
    try:
        with code_of_others(lambda error: OptionError(refusal + said(error))):
            loaded = getattr(importlib.import_module(module), attribute, None)
    finally:
        sys.path.remove(here)
    if not callable(loaded):
        raise OptionError(f"{name} {value!r}: module {module!r} has no function {attribute!r}")
    checked: Callable[..., Any] = loaded
    return checked
