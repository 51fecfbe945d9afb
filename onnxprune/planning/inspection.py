"""What can be pruned in a model, what cannot, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxprune.dependency.account import Account
from onnxprune.dependency.groups import Group
from onnxprune.graph.model import Model
from onnxprune.planning.choice import why_not


@dataclass(frozen=True)
class Inspection:
    """What can be pruned in a model, what cannot, and why."""

    model: Model
    groups: tuple[Group, ...]
    macs: int  # of one sample
    group_macs: Mapping[str, int]  # by group name: multiply-accumulates that its units take part in
    locked_params: int  # weights that no prunable group can shrink
    unreached: Mapping[str, tuple[str, ...]]  # reason -> names of weights that no prunable group carries
    accounts: tuple[Account, ...]  # of every node with weights

    @property
    def locks(self) -> dict[str, list[Group]]:
        """Groups that cannot be cut, by reason."""
        by_reason: dict[str, list[Group]] = {}
        for group in self.groups:
            reason = why_not(group)
            if reason is not None:
                by_reason.setdefault(reason, []).append(group)
        return by_reason

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        listed = [
            {
                "name": group.name,
                "kind": group.kind,
                "units": group.units,
                "params": group.params,
                "macs": self.group_macs[group.name],
                "exact": group.exact,
                "locked": why_not(group),
                "nodes": list(group.nodes),
                "initializers": list(dict.fromkeys(member.constant for member in group.members)),
            }
            for group in self.groups
        ]
        return {
            "input": {"path": str(path) if (path := self.model.file.path) else None, "sha256": self.model.sha256()},
            "not_run": [each.to_dict() for each in self.model.not_run],
            "params": self.model.stored_params,
            "macs": self.macs,
            "locked_params": self.locked_params,
            "groups": listed,
            "unreached": {reason: list(names) for reason, names in self.unreached.items()},
            "nodes": [account.to_dict() for account in self.accounts],
        }
