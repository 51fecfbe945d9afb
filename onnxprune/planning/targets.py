"""Targets: what a pruned model may still cost, as a fraction of the original or as an amount."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
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
        "kv-cache": {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9},  # for one token
        "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    }
)
COUNTED = (
    "macs",
    "params",
    "size",
    "memory",
    "kv-cache",
)  # kinds of which a whole number above 1 is an amount as it is
_LONGEST = 24  # digits of a number that is written without an exponent
_DIGITS = 6  # of milliseconds that are told
_NOISE = 1e-12  # of an amount, by which arithmetic may miss a whole number
MEASURED = ("latency", "memory")  # kinds that are predicted, and measured before anything is promised


@dataclass(frozen=True, slots=True)
class Target:
    """One bound."""

    kind: str  # a key of UNITS
    value: float
    unit: str = ""  # "": a fraction of the original up to 1, a plain count or bytes above it

    @property
    def is_fraction(self) -> bool:
        """Whether the bound is a fraction of the original."""
        return not self.unit and self.value <= 1

    @property
    def amount(self) -> float:
        """The bound in milliseconds, bytes or plain counts; a fraction as it is."""
        return self.value * (UNITS[self.kind][self.unit] if self.unit else 1)

    def fraction(self, original: float) -> float:
        """Return the bound over what the original takes."""
        return self.value if self.is_fraction else self.amount / max(original, 1e-12)

    @property
    def text(self) -> str:
        """The bound as `parse` reads it again, to the last bit."""
        return f"{exact(self.value)}{self.unit}"

    def __str__(self) -> str:
        return f"{self.kind}={self.text}"


def exact(value: float) -> str:
    """Return the shortest text that is read as the same bits, without an exponent unless it would be very long.

    >>> exact(20000000.0), exact(1e-05), exact(0.1), exact(1e300)
    ('20000000', '0.00001', '0.1', '1e+300')
    """
    number = Decimal(repr(float(value)))
    text = f"{number:f}".removesuffix(".0")
    return text if len(text) <= _LONGEST else repr(float(value))


def measured_amount(kind: str, value: float) -> str:
    """Return an amount in milliseconds or bytes as `parse` reads it: no more than it is, and without digits of noise.

    >>> measured_amount("size", 90881.09999999999), measured_amount("latency", 0.8123456789)
    ('90881B', '0.812345ms')

    Args:
        kind: latency, memory or size.
        value: in ms, or in bytes.
    """
    if kind == "latency":
        unit = 10.0 ** (math.floor(math.log10(value)) - _DIGITS + 1)
        return f"{exact(float(f'{math.floor(value / unit * (1 + _NOISE)) * unit:.{_DIGITS}g}'))}ms"
    return f"{max(1, math.floor(value * (1 + _NOISE)))}B"


def parse(kind: Any, value: Any) -> Target:
    """Return a target of a kind and a fraction, a plain count above 1, or a text such as ``8ms`` or ``20 MB``.

    >>> parse("latency", "8ms").amount, parse("macs", 0.5)
    (8.0, Target(kind='macs', value=0.5, unit=''))

    Raises:
        OptionError: for an unknown kind or unit, and for a value that is not above 0, or neither fraction nor amount.
    """
    kind = check.choice("target", kind, UNITS)
    if isinstance(value, str):
        number, unit = _split(kind, value)
    else:
        number, unit = check.number(f"target {kind}", value), ""
    if not unit and number > 1 and not (kind in COUNTED and number.is_integer()):
        raise _unknown(kind, value)
    if not number > 0 or not math.isfinite(number):
        raise OptionError(f"target {kind} must be above 0, got {value!r}")
    return Target(kind, number, unit)


def _split(kind: str, text: str) -> tuple[float, str]:
    """Return the number and the unit of a text; the unit may be missing."""
    matched = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    known = {"": "", **{name.lower(): name for name in UNITS[kind]}}
    if matched is None or matched[2].lower() not in known:
        raise _unknown(kind, text)
    try:
        return float(matched[1]), known[matched[2].lower()]
    except ValueError:
        raise _unknown(kind, text) from None


def _unknown(kind: str, value: Any) -> OptionError:
    plain = f"a whole number of {'bytes' if 'B' in UNITS[kind] else kind} above 1, " if kind in COUNTED else ""
    units = ", ".join(UNITS[kind])
    return OptionError(
        f"target {kind} takes a fraction of the original up to 1, {plain}or a number with {units}; got {value!r}"
    )


def parse_all(targets: Any) -> tuple[Target, ...]:
    """Return the targets of a dict, of pairs, or of targets; of one kind the last counts.

    Raises:
        OptionError: as `parse`, and for anything else.
    """
    try:
        items = targets.items() if isinstance(targets, Mapping) else targets
        pairs = [(item.kind, item) if isinstance(item, Target) else tuple(item) for item in items]
        by_kind = {kind: value if isinstance(value, Target) else parse(kind, value) for kind, value in pairs}
    except (TypeError, ValueError):
        raise OptionError(
            f"targets must be a dict such as {{'macs': 0.7, 'latency': '8ms'}}, got {targets!r}"
        ) from None
    return tuple(by_kind.values())
