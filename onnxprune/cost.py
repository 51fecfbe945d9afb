"""What a model costs: parameters and multiply-accumulates, from the sizes of its atoms.

Both are polynomials in the sizes of the atoms, so the cost of a plan needs no rewritten model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnxprune.axes import Atom, kept_size, taken
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
