"""What a model costs: parameters and multiply-accumulates, from the sizes of its atoms.

Both are polynomials in the sizes of the atoms, so the cost of a plan needs no rewritten model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from onnxprune.axes import Atom, Axes, kept_size, taken, walk
from onnxprune.groups import Group
from onnxprune.trace import Trace


def per_sample(traced: Trace) -> dict[Atom, int]:
    """Return the sizes that make costs those of one sample: dynamic first dims of the inputs become 1."""
    sizes: dict[Atom, int] = {}
    for port in traced.model.inputs:
        axes = traced.values.get(port.name, ())
        for atom in traced.partition.atoms(axes[0]) if axes else ():
            if atom.dynamic:
                sizes[atom] = 1
    return sizes


def macs(traced: Trace, sizes: Mapping[Atom, int] | None = None) -> int:
    """Return the multiply-accumulates of one sample when atoms have the given `sizes` (default: their own).

    Counted are convolutions and matrix products; elementwise ops and normalisations are not. Dynamic dims
    other than the batch have the size that the probe gave them.
    """
    merged = {**per_sample(traced), **(sizes or {})}
    total = 0
    for coupling in traced.couplings.values():
        for axes in coupling.macs:
            total += math.prod(kept_size(traced.partition.resolve(axis), merged) for axis in axes)
    return total


def shares(traced: Trace, found: Sequence[Group]) -> dict[str, float]:
    """Return what each group stands for, by name: its share of the parameters plus its share of the MACs."""
    by_atom = macs_by_atom(traced)
    params, total = max(1, traced.model.params), max(1, macs(traced))
    return {group.name: group.params / params + by_atom.get(group.atom, 0) / total for group in found}


def macs_by_atom(traced: Trace) -> dict[Atom, int]:
    """Return, for every atom, the multiply-accumulates of one sample that its units take part in."""
    sizes = per_sample(traced)
    found: dict[Atom, int] = {}
    for axes in (traced.axes(axes) for coupling in traced.couplings.values() for axes in coupling.macs):
        counts = [kept_size(axis, sizes) for axis in axes]
        for axis, count in zip(axes, counts, strict=True):
            others = math.prod(counts) // max(1, count)
            for atom, part in taken(axis, sizes).items():
                found[atom] = found.get(atom, 0) + others * part
    return found


class Counter:
    """Counts MACs and parameters for many sizes of a few atoms: what a plan costs, over what the original does."""

    def __init__(self, traced: Trace, atoms: Iterable[Atom]) -> None:
        """Sort the products that the atoms take part in from the others.

        Args:
            traced: the model with its axes.
            atoms: those whose sizes will change.
        """
        wanted, self._samples = set(atoms), per_sample(traced)
        macs_of = (traced.axes(axes) for coupling in traced.couplings.values() for axes in coupling.macs)
        known = traced.model.constants
        uses = (use for use in traced.uses if use.constant in known and known[use.constant].is_weight)
        sized = {use.constant: traced.axes(use.axes) for use in uses}
        self._macs, self._fixed_macs = self._sorted(macs_of, wanted)
        self._params, fixed = self._sorted(sized.values(), wanted)
        read = sum(constant.count for name, constant in traced.model.constants.items() if name in sized)
        self._fixed_params = fixed + traced.model.params - read
        self._before = {"macs": self._count("macs", {}), "params": self._count("params", {})}

    def _sorted(self, products: Iterable[Axes], wanted: set[Atom]) -> tuple[list[Axes], int]:
        """Return the products in which a wanted atom takes part, and the sum of the others."""
        moving, fixed = [], 0
        for axes in products:
            if any(atom in wanted for axis in axes for atom in walk(axis)):
                moving.append(axes)
            else:
                fixed += math.prod(kept_size(axis, self._samples) for axis in axes)
        return moving, fixed

    def _count(self, kind: str, sizes: Mapping[Atom, int]) -> int:
        merged = {**self._samples, **sizes}
        moving, fixed = (self._macs, self._fixed_macs) if kind == "macs" else (self._params, self._fixed_params)
        return fixed + sum(math.prod(kept_size(axis, merged) for axis in axes) for axes in moving)

    def fraction(self, kind: str, sizes: Mapping[Atom, int]) -> float:
        """Return the MACs or params of a model whose atoms have the given sizes, over those of the original."""
        return self._count(kind, sizes) / max(1, self._before[kind])
