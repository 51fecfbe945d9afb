"""Targets: what a pruned model may still cost, as a fraction of the original or as an amount."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from onnxprune import check
from onnxprune.errors import OptionError

# kind -> units and what each stands for: milliseconds, bytes, or a plain count
UNITS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "macs": {"K": 1e3, "M": 1e6, "G": 1e9},
        "params": {"K": 1e3, "M": 1e6, "G": 1e9},
        "size": {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9},
        "memory": {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9},
        "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    }
)
MEASURED = ("latency", "memory")  # kinds that are predicted, and measured before anything is promised


@dataclass(frozen=True, slots=True)
class Target:
    """One bound."""

    kind: str  # a key of UNITS
    value: float
    unit: str = ""  # "": a fraction of the original

    @property
    def amount(self) -> float:
        """The bound in milliseconds, bytes or plain counts; a fraction without a unit."""
        return self.value * (UNITS[self.kind][self.unit] if self.unit else 1)

    def fraction(self, original: float) -> float:
        """Return the bound over what the original takes."""
        return self.value if not self.unit else self.amount / max(original, 1e-12)

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}{self.unit}"


def parse(kind: Any, value: Any) -> Target:
    """Return a target of a kind and a fraction, or a text such as ``8ms`` or ``20 MB``.

    >>> parse("latency", "8ms").amount, parse("macs", 0.5)
    (8.0, Target(kind='macs', value=0.5, unit=''))

    Raises:
        OptionError: for an unknown kind or unit, and for a value that is not above 0.
    """
    kind = check.choice("target", kind, UNITS)
    if not isinstance(value, str):
        number, unit = check.fraction(f"target {kind}", value), ""
    else:
        number, unit = _split(kind, value)
    if not number > 0 or not math.isfinite(number):
        raise OptionError(f"target {kind} must be above 0, got {value!r}")
    return Target(kind, number, unit)


def _split(kind: str, text: str) -> tuple[float, str]:
    found = re.fullmatch(r"\s*([0-9.]+(?:e-?[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    known = {name.lower(): name for name in UNITS[kind]}
    try:
        number = float(found[1]) if found else math.nan
    except ValueError:
        number = math.nan
    unit = found[2].lower() if found else ""
    if math.isnan(number) or (unit and unit not in known):
        units = ", ".join(UNITS[kind])
        raise OptionError(f"target {kind} takes a fraction of the original, or a number with {units}; got {text!r}")
    if not unit:
        return check.fraction(f"target {kind}", number), ""
    return number, known[unit]


def parse_all(given: Any) -> tuple[Target, ...]:
    """Return the targets of a dict, of pairs, or of targets; of one kind the last counts.

    Raises:
        OptionError: as `parse`, and for anything else.
    """
    try:
        items = given.items() if isinstance(given, Mapping) else given
        pairs = [(item.kind, item) if isinstance(item, Target) else tuple(item) for item in items]
        found = {kind: value if isinstance(value, Target) else parse(kind, value) for kind, value in pairs}
    except (TypeError, ValueError):
        raise OptionError(f"targets must be a dict such as {{'macs': 0.7, 'latency': '8ms'}}, got {given!r}") from None
    return tuple(found.values())
