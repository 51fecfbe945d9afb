"""Ports: what a cut changes of the inputs and outputs of a model, which are its caches (see `dependency.caches`).

The masked model keeps the ports of the original, so that both are fed apart: what the pruned model takes is the kept
part of what the masked one takes, and what it gives is the kept part of what that one gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from onnxprune.dependency.axes import Mask, kept_mask
from onnxprune.dependency.branches import Branch
from onnxprune.dependency.trace import Trace
from onnxprune.graph.ports import Port
from onnxprune.graph.tensors import Array
from onnxprune.surgery.rewrite import Kept


@dataclass(frozen=True)
class PortChanges:
    """What the ports of a model lose."""

    kept: Mapping[str, Mapping[int, Mask]] = field(
        default_factory=dict
    )  # by port: bool ``[size]`` of dims that are cut
    gone: frozenset[str] = frozenset()  # ports that the model lacks

    def __bool__(self) -> bool:
        """Whether any port changes."""
        return bool(self.kept or self.gone)

    def of(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return what is left of arrays, by the names of ports; those of other names stay as they are."""
        left = {name: array for name, array in arrays.items() if name not in self.gone}
        return {name: self._cut(name, array) for name, array in left.items()}

    def _cut(self, name: str, array: Array) -> Array:
        for dim, mask in self.kept.get(name, {}).items():
            array = array.compress(mask, axis=dim)
        return array

    def ports(self, ports: Iterable[Port]) -> tuple[Port, ...]:
        """Return inputs or outputs as they are after the cut."""
        return tuple(self._port(port) for port in ports if port.name not in self.gone)

    def _port(self, port: Port) -> Port:
        counts = {dim: int(mask.sum()) for dim, mask in self.kept.get(port.name, {}).items()}
        shape = port.shape and tuple(counts.get(dim, size) for dim, size in enumerate(port.shape))
        return replace(port, shape=shape)


UNCHANGED = PortChanges()


def port_changes(traced: Trace, kept: Kept, gone: Iterable[Branch] = ()) -> PortChanges:
    """Return what a cut changes of the ports of a model.

    Args:
        traced: the model with its axes.
        kept: bool ``[units]`` by atom that loses units.
        gone: branches that the pruned model lacks.
    """
    lost = frozenset(name for branch in gone for name in branch.ports)
    return PortChanges(dict(_kept(traced, kept, lost)), lost)


def _kept(traced: Trace, kept: Kept, gone: frozenset[str]) -> Iterator[tuple[str, dict[int, Mask]]]:
    for port in (*traced.model.inputs, *traced.model.outputs):
        axes = traced.axes(traced.values.get(port.name, ()))
        masks = {dim: kept_mask(axis, kept) for dim, axis in enumerate(axes)}
        cut = {dim: mask for dim, mask in masks.items() if not mask.all()}
        if cut and port.name not in gone:
            yield port.name, cut
