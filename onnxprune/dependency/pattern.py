"""The notation that says how an op relates the axes of its inputs and outputs.

::

    n (g i) *s, (g o) i *k, (g o)?  ->  n (g o) *t          Conv, group = g

=========  ==========================================================================================
``n``      a letter is one axis; the same letter is the same axis
``(g i)``  a product, row-major
``[a+b]``  a sum: concatenation
``*s``     any number of axes, broadcast where it occurs in several inputs
``1``      an axis of size 1
``_``      an input whose values steer the op; its axes are not part of the relation (and are locked)
``?``      after an input: it may be absent
``c~``     the op mixes over this axis (normalises, takes a maximum): cutting it is inexact
``c!``     the op gives positions on this axis a meaning: it is locked
=========  ==========================================================================================

A letter of several inputs that is in no output is *contracted*: that is where a removed unit must be zero for
masking and pruning to agree. A letter of one input alone is consumed by the op in a way the line does not
tell (kernel positions, pooled pixels), a letter of the outputs alone is made by it: both are locked.

>>> print(parse("n (g i) *s, (g o) i *k, (g o)? -> n (g o) *t"))
n (g i) *s, (g o) i *k, (g o)? -> n (g o) *t
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Letter:
    """A named axis; `name` is ``"1"`` for an axis of size one."""

    name: str
    mixed: bool = False
    locked: bool = False

    def __str__(self) -> str:
        return self.name + "~" * self.mixed + "!" * self.locked


@dataclass(frozen=True, slots=True)
class Spread:
    """Any number of axes under one name."""

    name: str
    mixed: bool = False
    locked: bool = False

    def __str__(self) -> str:
        return "*" + self.name + "~" * self.mixed + "!" * self.locked


@dataclass(frozen=True, slots=True)
class Group:
    """A product ``( )`` or a sum ``[ + ]`` of terms."""

    terms: tuple[Term, ...]
    is_sum: bool

    def __str__(self) -> str:
        if self.is_sum:
            return "[" + " + ".join(map(str, self.terms)) + "]"
        return "(" + " ".join(map(str, self.terms)) + ")"


Term: TypeAlias = Letter | Group
Entry: TypeAlias = Letter | Group | Spread


@dataclass(frozen=True, slots=True)
class Operand:
    """The axes of one input or output; `entries` is None for ``_``."""

    entries: tuple[Entry, ...] | None
    optional: bool = False

    def __str__(self) -> str:
        body = "_" if self.entries is None else " ".join(map(str, self.entries))
        return body + "?" * self.optional


@dataclass(frozen=True, slots=True)
class Pattern:
    """A parsed line."""

    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]

    def __str__(self) -> str:
        return " -> ".join(", ".join(map(str, side)) for side in (self.inputs, self.outputs))


_TOKEN = re.compile(r"\s*(\*?[A-Za-z][A-Za-z0-9]*[~!]?|1|_|[()\[\]+?])")


@cache
def parse(text: str) -> Pattern:
    """Return the parsed form of a line.

    Raises:
        ValueError: when the text is not in the notation; names the place.
    """
    sides = text.split("->")
    if len(sides) != 2:
        raise ValueError(f"pattern {text!r}: expected exactly one '->'")
    inputs, outputs = ([_operand(part, text) for part in side.split(",")] for side in sides)
    return Pattern(tuple(inputs), tuple(outputs))


def letters(operand: Operand) -> Iterator[Letter | Spread]:
    """Yield the letters and ellipses of an operand, left to right, size-1 axes left out."""
    stack: list[Entry] = list(reversed(operand.entries or ()))
    while stack:
        entry = stack.pop()
        if isinstance(entry, Group):
            stack.extend(reversed(entry.terms))
        elif entry.name != "1":
            yield entry


def _operand(text: str, whole: str) -> Operand:
    tokens = _tokens(text, whole)
    optional = bool(tokens) and tokens[-1] == "?"
    if optional:
        tokens.pop()
    if tokens == ["_"]:
        return Operand(None, optional)
    entries: list[Entry] = []
    while tokens:
        entries.append(_entry(tokens, whole))
    return Operand(tuple(entries), optional)


def _tokens(text: str, whole: str) -> list[str]:
    tokens, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"pattern {whole!r}: cannot read {text[at:].strip()!r}")
        tokens.append(match.group(1))
        at = match.end()
    return tokens


def _entry(tokens: list[str], whole: str) -> Entry:
    token = tokens.pop(0)
    if token in ("(", "["):
        return Group(tuple(_terms(token, tokens, whole)), is_sum=token == "[")
    if not (token[0].isalpha() or token[0] in "*1"):
        raise ValueError(f"pattern {whole!r}: unexpected {token!r}")
    name = token.strip("*~!")
    kind = Spread if token.startswith("*") else Letter
    return kind(name, mixed=token.endswith("~"), locked=token.endswith("!"))


def _terms(opening: str, tokens: list[str], whole: str) -> Iterator[Term]:
    """Yield the terms up to the closing bracket, which is taken too."""
    close, first = {"(": ")", "[": "]"}[opening], True
    while tokens and tokens[0] != close:
        if opening == "[" and not first and tokens.pop(0) != "+":
            raise ValueError(f"pattern {whole!r}: terms of a sum stand without '+' between them")
        if not tokens:
            break
        term = _entry(tokens, whole)
        if isinstance(term, Spread):
            raise ValueError(f"pattern {whole!r}: '{term}' cannot stand inside brackets")
        yield term
        first = False
    if not tokens:
        raise ValueError(f"pattern {whole!r}: '{opening}' is not closed")
    tokens.pop(0)
