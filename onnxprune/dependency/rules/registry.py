"""The registry: one rule per op, with the line or sentence that describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from onnxprune.dependency.pattern import parse
from onnxprune.dependency.rules.site import Site

Rule: TypeAlias = Callable[[Site], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table of what the tool knows of ONNX."""

    op: str
    apply: Rule
    family: str  # "line", "function", or the name of a family
    text: str  # the line of the notation, or the first sentence of the function
    enter: Rule | None = None  # gives the inputs of the node's bodies their axes, before these are traced


RULES: dict[str, Entry] = {}


def rule(*ops: str, family: str = "function", enter: Rule | None = None) -> Callable[[Rule], Rule]:
    """Register a function as the rule of `ops`; `enter` runs before the bodies of the node are traced."""

    def register(function: Rule) -> Rule:
        for op in ops:
            _add(Entry(op, function, family, _first_line(function), enter))
        return function

    return register


def _first_line(function: Rule) -> str:
    """Return what a rule says of itself; nothing where Python was told to leave that out (``-OO``)."""
    return (function.__doc__ or "").strip().partition("\n")[0]


def line(
    op: str,
    text: str,
    macs: str = "",
    *,
    channels: int | None = None,
    adds: tuple[int, ...] = (),
    **sizes: str | int,
) -> None:
    """Register one line of the notation as the rule of `op`; see `Site.match`.

    Args:
        op: the name, after its domain and a dot unless that is the default one.
        text: the line.
        macs: letters whose sizes multiply to the multiply-accumulates.
        channels: of an op that convolves, the dim of the channels.
        adds: slots of what the op adds up, a product that it makes itself aside; see `Site.add`.
        **sizes: sizes that the shapes do not tell, or the attributes that state them.
    """
    parse(text)

    def apply(site: Site) -> None:
        site.match(text, macs, sizes=sizes)
        site.coupling.channels = channels
        site.add(*adds)

    _add(Entry(op, apply, "line", " ".join(text.split())))


def family(name: str, text: str, ops: str | Iterable[str], function: Rule) -> None:
    """Register one function for a family of ops (names separated by blanks)."""
    for op in ops.split() if isinstance(ops, str) else ops:
        _add(Entry(op, function, name, text))


def _add(entry: Entry) -> None:
    if entry.op in RULES:
        raise ValueError(f"op {entry.op} has two rules")
    RULES[entry.op] = entry
