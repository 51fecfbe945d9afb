"""The members of a family: their names, their options, and all that each of them depends on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxprune.commands.records.made_from import effective, sources
from onnxprune.errors import OptionError
from onnxprune.graph.model import Model
from onnxprune.planning.options import Options
from onnxprune.planning.targets import UNITS, exact

KINDS = (*UNITS, "ratio")  # what the values of a family can be


@dataclass(frozen=True)
class Member:
    """One model of a family, made or to be made."""

    name: str
    value: Any  # of the target
    options: Options
    made_from: Mapping[str, Any]  # all that it depends on

    @property
    def key(self) -> str:
        """A digest of what the member is made from."""
        return digest_of(self.made_from)

    def evidence_key(self, *, has_data: bool) -> str:
        """Return a digest of what its scores and loss curves depend on; members with the same one share them."""
        timing = {"latency", "provider", "threads", "batch", "profile_seconds"}
        names = {"targets", *timing, *(() if has_data else ("metric",))}
        if not self.options.ratios:  # with globs, the common ratio tells which groups lose the same units
            names.add("ratio")
        without_effect = {"machine", *(f"option {name}" for name in names)}
        return digest_of({name: value for name, value in self.made_from.items() if name not in without_effect})


def digest_of(plain: Any) -> str:
    """Return the SHA-256 of plain values, in hex."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def make_members(model: Model, options: Options, kind: str, values: Sequence[Any], *, data: Any) -> list[Member]:
    """Return a member for each value.

    Raises:
        OptionError: when there are no values, one is repeated, or one is outside its range.
    """
    if not values:
        raise OptionError(f"{kind} needs values, such as 0.8,0.65,0.5")
    if kind in dict(options.targets) or (kind == "ratio" and options.targets):
        raise OptionError("target says the same as the values of the sweep: give one of the two")
    common = sources(model, options, data)
    stem = model.path.stem if model.path is not None else "model"
    members: dict[str, Member] = {}
    for value in values:
        change = {"ratio": value} if kind == "ratio" else {"targets": (*options.targets, (kind, value))}
        member_options = replace(options, **change).checked()
        text = re.sub(r"[^\w.+-]", "_", exact(value) if isinstance(value, float) else str(value))
        name = f"{stem}_{kind}_{text}"
        if name in members:
            raise OptionError(f"{kind} {text} is given twice")
        members[name] = Member(name, value, member_options, {**common, **effective(member_options, data is not None)})
    return list(members.values())
