"""Where two recordings differ."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contents import unpacked
from masks import parsed


def compare(before: Path, after: Path) -> int:
    """Print a line for each run that differs, then a summary; return an exit code."""
    old, new = (json.loads(path.read_text(encoding="utf-8"))["runs"] for path in (before, after))
    names = list(dict.fromkeys((*old, *new)))
    lines = [line for name in names if (line := difference(name, old.get(name), new.get(name))) is not None]
    print(*lines, sep="\n", end="\n" * bool(lines))
    files = len({(name, part) for runs in (old, new) for name in runs for part in written(runs[name])})
    same = "all the same" if not lines else f"{len(lines)} runs differ"
    print(f"{len(names)} runs, {files} files: {same}")
    return int(bool(lines) or not names)


def written(run: Mapping[str, Any]) -> list[str]:
    """Return the parts of a run that are files which it has written."""
    return [part for part in run["parts"] if part.startswith("file ")]


def difference(name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> str | None:
    """Return in a line where two records of a run differ first, None where they do not."""
    if old is None or new is None:
        return f"{name}: recorded {'after' if old is None else 'before'} alone"
    if old["key"] != new["key"]:
        return f"{name}: recorded with other commands"
    parts = list(dict.fromkeys((*old["parts"], *new["parts"])))
    differing = [part for part in parts if _digest_of(old, part) != _digest_of(new, part)]
    if not differing:
        return None
    first, *others = sorted(differing, key=lambda part: not part.startswith("input "))  # these explain the others
    more = f"; also {', '.join(others[:3])}" + f" and {len(others) - 3} more" * (len(others) > 3) if others else ""
    return f"{name}: {first}: {place(old['parts'].get(first), new['parts'].get(first))}{more}"


def _digest_of(run: Mapping[str, Any], part: str) -> str | None:
    checksum: str | None = run["parts"].get(part, {}).get("sha256")
    return checksum


def place(old: Mapping[str, str] | None, new: Mapping[str, str] | None) -> str:
    """Return where two records of a part differ first."""
    if old is None or new is None:
        return f"is there {'after' if old is None else 'before'} alone"
    if "shown" not in old or "shown" not in new:
        return "the bytes differ"
    one, other = unpacked(old["shown"]), unpacked(new["shown"])
    trees = parsed(one), parsed(other)
    if None not in trees and (position := first_in_trees(*trees)) is not None:
        return position
    return first_in_lines(one, other) or "the bytes differ, though not in what is told of them"


def first_in_trees(one: Any, other: Any, path: str = "$") -> str | None:
    """Return the path in JSON where two values differ first, and both; None where they are equal.

    >>> first_in_trees({"a": [1, 2]}, {"a": [1, 3]})
    '$.a[1]: 2 | 3'
    """
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = [(f"{path}.{key}", one.get(key), other.get(key)) for key in dict.fromkeys((*one, *other))]
    elif isinstance(one, list) and isinstance(other, list):
        pairs = [(f"{path}[{number}]", *each) for number, each in enumerate(itertools.zip_longest(one, other))]
    else:
        return None if one == other and type(one) is type(other) else f"{path}: {_cut(one)} | {_cut(other)}"
    return next((position for place, a, b in pairs if (position := first_in_trees(a, b, place)) is not None), None)


def first_in_lines(one: str, other: str) -> str | None:
    """Return the line where two texts differ first, from shortly before the place; None where they are equal."""
    for number, (old, new) in enumerate(itertools.zip_longest(one.split("\n"), other.split("\n")), 1):
        if old != new:
            pairs = zip(old or "", new or "", strict=False)
            start = max(0, sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)) - 30)
            return f"line {number}: {_cut(old and old[start:])} | {_cut(new and new[start:])}"
    return None


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 90 else f"{text[:87]}..."
