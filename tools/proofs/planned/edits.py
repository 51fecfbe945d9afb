"""A plan edited as a person would: a few lines of its text change, the rest stays as it was written."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_KEEP, _KEPT = re.compile(r"^keep = .*$", re.MULTILINE), re.compile(r"^kept = .*\n", re.MULTILINE)


@dataclass(frozen=True)
class Edited:
    """The text after the edit, and the groups that it concerns, by name."""

    text: str
    counted: str  # keeps fewer units, the most important ones: `keep` is lowered and `kept` taken out
    whole: str  # stays whole: its table is taken out
    listed: str  # keeps the units that are listed: the first ones


def edit(text: str) -> Edited:
    """Return a plan with an edit of each kind, of the first three groups that it cuts and leaves two units or more.

    Raises:
        SystemExit: for a plan that cuts fewer groups.
    """
    head, *tables = re.split(r"(?m)^(?=\[\[group\]\])", text)
    cut = [place for place, table in enumerate(tables) if 1 < _values(table)["keep"] < _values(table)["units"]]
    if len(cut) < 3:
        raise SystemExit(f"the plan cuts {len(cut)} groups: three are needed, one for each kind of edit")
    counted, whole, listed = cut[:3]
    names = [_values(tables[place])["name"] for place in (counted, whole, listed)]
    tables[counted] = _KEPT.sub("", _KEEP.sub(f"keep = {_fewer(_values(tables[counted])['keep'])}", tables[counted]))
    tables[listed] = _KEPT.sub(f'kept = "0-{_values(tables[listed])["keep"] - 1}"\n', tables[listed])
    return Edited(head + "".join(each for place, each in enumerate(tables) if place != whole), *names)


def planned(text: str) -> Iterator[dict[str, Any]]:
    """Yield the groups that a plan cuts, as its text has them."""
    return (each for each in tomllib.loads(text)["group"] if each["keep"] < each["units"])


def _values(table: str) -> dict[str, Any]:
    values: dict[str, Any] = tomllib.loads(table)["group"][0]
    return values


def _fewer(keep: int) -> int:
    """Return a quarter less than so many, and one less at least.

    >>> _fewer(40), _fewer(2)
    (30, 1)
    """
    return keep - max(1, keep // 4)
