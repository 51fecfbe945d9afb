"""Rewrite: a trace and a plan become a smaller model.

One sentence: *slice every constant along every axis by the kept indices of that axis*, and let the sizes that
nodes state follow. Everything that no cut touches is copied as it is. The same trace gives the masked model of
the oracle: the dense graph with the removed units zeroed where they are contracted.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.axes import Atom, Axes, Axis, Mask, kept_mask, walk
from onnxprune.model import Array, Content, Edits, Model, Node, Part, Stated, apply_edits, make_node
from onnxprune.rules import Coupling, Write
from onnxprune.rules.site import beside
from onnxprune.trace import SizeFinder, Trace, Use

Kept = Mapping[Atom, Mask]


@dataclass(frozen=True, slots=True)
class Cut:
    """Where an initializer of the output came from."""

    source: str  # its name in the input
    kept: Mapping[int, tuple[int, ...]]  # axis -> original indices


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The pruned model, and what was cut."""

    proto: Any  # onnx.ModelProto
    cuts: Mapping[str, Cut]  # by name in the output
    nodes: tuple[int, ...]  # indices of the nodes whose inputs or attributes changed


def rewrite(traced: Trace, kept: Kept) -> Rewritten:
    """Return the model without the units that `kept` drops.

    Args:
        traced: the model with its axes.
        kept: bool ``[units]`` for every atom that loses units; the atoms must not be locked.
    """
    return _Rewriter(traced, {**kept, **_unread(traced, kept)}).run()


def _unread(traced: Trace, kept: Kept) -> dict[Atom, Mask]:
    """Return what to drop of weights of which several Slices take parts, and that get a copy each.

    A copy then holds the part that its Slice takes, and not what the others do.
    """
    nodes, resolve = traced.model.nodes, traced.partition.atoms
    by_constant: dict[str, list[Use]] = {}
    for use in traced.uses:
        by_constant.setdefault(use.constant, []).append(use)
    parted = [
        use
        for uses in by_constant.values()
        if len(uses) > 1 and all(use.node >= 0 and nodes[use.node].op == "Slice" and use.slot == 0 for use in uses)
        if any(atom in kept for use in uses for axis in use.axes for atom in resolve(axis))
        for use in uses
    ]
    if not parted:
        return {}
    elsewhere = {atom for axes in traced.values.values() for axis in axes for atom in resolve(axis)}
    counts = Counter(atom for use in traced.uses for axis in use.axes for atom in resolve(axis))
    dropped = [atom for use in parted for axis in use.axes for atom in resolve(axis) if counts[atom] == 1]
    free = (atom for atom in dropped if atom not in elsewhere and traced.partition.lock_of(atom) is None)
    return {atom: np.zeros(atom.size, bool) for atom in free}


@dataclass(slots=True)
class _Rewriter:
    traced: Trace
    kept: Kept
    inputs: dict[tuple[int, int], str] = field(default_factory=dict)
    attributes: dict[tuple[int, str], Stated] = field(default_factory=dict)
    replaced: dict[str, Content] = field(default_factory=dict)
    added: dict[str, Content] = field(default_factory=dict)
    nodes_before: dict[int, list[Any]] = field(default_factory=dict)
    cuts: dict[str, Cut] = field(default_factory=dict)
    contents: dict[tuple[int, int], Array] = field(default_factory=dict)  # new content of an input
    factors: dict[tuple[int, int], float] = field(default_factory=dict)  # by which an input is multiplied
    outputs: dict[tuple[int, int], str] = field(default_factory=dict)
    nodes_after: dict[int, list[Any]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def run(self) -> Rewritten:
        edits = self.edits()
        touched = {index for index, _ in (*self.inputs, *self.attributes)}
        return Rewritten(apply_edits(self.traced.model, edits), self.cuts, tuple(sorted(touched)))

    def edits(self) -> Edits:
        """Return what changes in the model."""
        graph_names = (name for node in self.traced.model.nodes for name in (*node.inputs, *node.outputs))
        self.names.update(graph_names, self.traced.model.constants, (port.name for port in self.traced.model.inputs))
        bodies = (body for node in self.traced.model.nodes for body in node.bodies)
        self.names.update(port.name for body in bodies for port in body.inputs)
        finder = SizeFinder(self.traced.model, self.traced.probe, self.traced.values)
        self._write_sizes(finder)
        self._compensate()
        self._slice_constants(finder)
        self._scale_inputs()
        return Edits(
            inputs=self.inputs,
            attributes=self.attributes,
            replaced=self.replaced,
            added=self.added,
            nodes_before=self.nodes_before,
            shapes=dict(self._shapes()),
            outputs=self.outputs,
            nodes_after=self.nodes_after,
            ranks={name: len(axes) for name, axes in self.traced.values.items()},
        )

    # -- helpers ---------------------------------------------------------------------------------------

    def _is_cut(self, axis: Axis) -> bool:
        return any(atom in self.kept for atom in walk(self.traced.partition.resolve(axis)))

    def _mask(self, axis: Axis) -> Mask:
        return kept_mask(self.traced.partition.resolve(axis), self.kept)

    def _size(self, axis: Axis) -> int:
        return int(self._mask(axis).sum()) if self._is_cut(axis) else axis.size

    def _fresh_name(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.names:
            number += 1
            name = f"{wanted}_{number}"
        self.names.add(name)
        return name

    # -- sizes that nodes state ------------------------------------------------------------------------

    def _write_sizes(self, finder: SizeFinder) -> None:
        """Write what the nodes state wherever an axis behind it is cut, or one that it was computed from."""
        for index, coupling in self.traced.couplings.items():
            for write in coupling.writes:
                stated = [size for size in write.sizes if size is not None and not isinstance(size, (int, float))]
                sources: frozenset[Axis] = frozenset()
                if isinstance(write.target, int) and write.target < len(coupling.node.inputs):
                    sources = finder.axes(coupling.node.inputs[write.target])
                cut = [axis for axis in (*stated, *write.follows, *sources) if self._is_cut(axis)]
                if any(self._size(axis) == 1 for axis in cut) if write.if_single else cut:
                    self._write(index, write)

    def _write(self, index: int, write: Write) -> None:
        node = self.traced.model.nodes[index]
        if isinstance(write.target, str):
            old = node.attrs.get(write.target)
            before = old if isinstance(old, list) else [old] * len(write.sizes)
            entries = self._entries(write, before)
            numbers = [entry or 0 for entry in entries]
            self.attributes[index, write.target] = numbers[0] if write.scalar else numbers
            return
        if write.drop in node.attrs and write.drop is not None:
            self.attributes[index, write.drop] = None
        name = node.inputs[write.target] if write.target < len(node.inputs) else ""
        if write.absent:
            self.inputs[index, write.target] = ""
            return
        if write.index is not None:
            self.contents[index, write.target] = self._positions(write, self.traced.probe.dtype(name))
            return
        known = self.traced.probe.static_entries(name) if name else None
        entries = self._entries(write, known or [None] * len(write.sizes))
        if None in entries:
            self._write_runtime(index, write.target, entries)
            return
        value = self.traced.probe.value(name) if name else None
        content = np.array(entries, np.int64 if value is None else value.dtype)
        self.contents[index, write.target] = content if value is None else content.reshape(value.shape)

    def _entries(self, write: Write, old: list[Any]) -> list[int | float | None]:
        """Return the new entries, None where only the running model knows them."""
        return [
            before if size is None else size if isinstance(size, (int, float)) else self._size(size)
            for size, before in zip(write.sizes, old, strict=True)
        ]

    def _positions(self, write: Write, dtype: Any) -> Array:
        """Return the indices of kept units, counted among the kept units."""
        axis = next(axis for axis in write.sizes if axis is not None and not isinstance(axis, (int, float)))
        mask, index = self._mask(axis), np.array(write.index)
        positions: Array = np.cumsum(mask)[index[mask[index]]] - 1
        return positions.astype(dtype)

    def _write_runtime(self, index: int, slot: int, entries: list[int | float | None]) -> None:
        """Take dynamic entries from the old input and put the static ones beside them."""
        node = self.traced.model.nodes[index]
        old = node.inputs[slot]
        dtype = self.traced.probe.dtype(old)
        parts = []
        for i, entry in enumerate(entries):
            part = self._fresh_name(f"{node.outputs[0]}_size_{i}")
            if entry is None:
                at = self._fresh_name(f"{node.outputs[0]}_index_{i}")
                self.added[at] = np.array([i], np.int64)
                self.nodes_before.setdefault(index, []).append(make_node("Gather", [old, at], part, axis=0))
            else:
                self.added[part] = np.array([entry], dtype)
            parts.append(part)
        joined = self._fresh_name(f"{node.outputs[0]}_sizes")
        self.nodes_before.setdefault(index, []).append(make_node("Concat", parts, joined, axis=0))
        self.inputs[index, slot] = joined

    # -- normalisations --------------------------------------------------------------------------------

    def _compensate(self) -> None:
        """Keep what is divided by a count of units divided by the original one; see `Compensation`."""
        for index, coupling in self.traced.couplings.items():
            how, ratio = coupling.compensation, mixed_ratio(self.traced, coupling, self.kept)
            if how is None or ratio == 1:
                continue
            if how.epsilon is not None:
                self.attributes[index, "epsilon"] = coupling.node.attrs.get("epsilon", how.epsilon) * ratio
            if how.slot is None:
                self._scale_output(index, ratio**how.power)
            else:
                self.factors[index, how.slot] = ratio**how.power

    def _scale_output(self, index: int, factor: float) -> None:
        name = self.traced.model.nodes[index].outputs[0]
        raw, by = self._fresh_name(f"{name}_of_kept"), self._fresh_name(f"{name}_share")
        self.added[by] = np.array(factor, self.traced.probe.dtype(name))
        self.outputs[index, 0] = raw
        self.nodes_after[index] = [make_node("Mul", [raw, by], name)]

    def _scale_inputs(self) -> None:
        """Multiply the inputs that are to be, where they are no constants that have been."""
        constants = {(use.node, use.slot) for use in self.traced.uses if use.constant in self.traced.model.constants}
        for (index, slot), factor in self.factors.items():
            if (index, slot) not in constants:
                source = self.inputs.get((index, slot), self.traced.model.nodes[index].inputs[slot])
                by, scaled = self._fresh_name(f"{source}_factor"), self._fresh_name(f"{source}_scaled")
                self.added[by] = np.array(factor, self.traced.probe.dtype(self.traced.model.nodes[index].inputs[slot]))
                self.nodes_before.setdefault(index, []).append(make_node("Mul", [source, by], scaled))
                self.inputs[index, slot] = scaled

    # -- constants ---------------------------------------------------------------------------------------

    def _slice_constants(self, finder: SizeFinder) -> None:
        by_constant: dict[str, list[Use]] = {}
        elsewhere = self._read_elsewhere()
        for use in self.traced.uses:
            by_constant.setdefault(use.constant, []).append(use)
        for name, uses in by_constant.items():
            if name in self.traced.model.constants:
                self._slice_constant(name, uses, name in elsewhere)
            else:
                self._keep_number(name, uses, finder)
        for (index, slot), content in self.contents.items():
            if (index, slot) not in self.inputs:  # an input that was computed, or absent
                self._add(f"{self.traced.model.nodes[index].outputs[0]}_sizes", content, [(index, slot)])

    def _keep_number(self, name: str, uses: list[Use], finder: SizeFinder) -> None:
        """Fix a value that was computed from sizes which change: the original model's number stays."""
        value = self.traced.probe.static_value(name)
        if value is None:
            return
        changes = any(self._is_cut(axis) for axis in finder.axes(name))
        for use in uses:
            place = (use.node, use.slot)
            is_free = use.node >= 0 and place not in self.contents and place not in self.inputs
            if is_free and (changes or any(self._is_cut(axis) for axis in use.axes)):
                self._add(f"{name}_kept", self._sliced(value, use), [place])

    def _slice_constant(self, name: str, uses: list[Use], is_read_elsewhere: bool) -> None:
        """Give each use its slice; uses that agree share one tensor, and the first of them the name."""
        variants: dict[Any, list[Use]] = {}
        for use in uses:
            variants.setdefault(self._variant(use), []).append(use)
        if list(variants) == [None]:
            return
        whole = None in variants or is_read_elsewhere
        for key, same in variants.items():
            if key is None:
                continue
            content = self._content(same[0])
            places = [(use.node, use.slot) for use in same]
            target = name if not whole else self._add(f"{name}_pruned", content, places)
            if not whole:
                self.replaced[name] = content
                self.inputs.update(dict.fromkeys(places, name))
                whole = True
            self._record(target, same[0])

    def _variant(self, use: Use) -> Any:
        """Return a key that is equal for uses with equal new content, None for an unchanged one."""
        content = self.contents.get((use.node, use.slot))
        if content is not None:
            return content.tobytes()
        factor = self.factors.get((use.node, use.slot))
        if factor is None and not any(self._is_cut(axis) for axis in use.axes):
            return None
        return factor, *(self._mask(axis).tobytes() for axis in use.axes)

    def _content(self, use: Use) -> Content:
        content = self.contents.get((use.node, use.slot))
        if content is not None:
            return content
        kept = {dim: self._mask(axis) for dim, axis in enumerate(use.axes) if self._is_cut(axis)}
        return Part(self.traced.model, use.constant, kept, self.factors.get((use.node, use.slot), 1.0))

    def _read_elsewhere(self) -> set[str]:
        """Return the names that some place outside of the trace (size arithmetic, a body) reads as they are."""
        traced = {(use.node, use.slot) for use in self.traced.uses}
        found = {name for node in self.traced.model.nodes for body in node.bodies for name in body.outputs}
        for node in self.traced.model.nodes:
            found.update(name for slot, name in enumerate(node.inputs) if (node.index, slot) not in traced)
        return found

    def _sliced(self, array: Array, use: Use) -> Array:
        for dim, axis in enumerate(use.axes):
            if self._is_cut(axis):
                array = array.compress(self._mask(axis), axis=dim)
        return array

    def _add(self, wanted: str, content: Content, places: list[tuple[int, int]]) -> str:
        name = self._fresh_name(wanted)
        self.added[name] = content
        self.inputs.update(dict.fromkeys(places, name))
        return name

    def _record(self, name: str, use: Use) -> None:
        kept = {
            dim: tuple(np.flatnonzero(self._mask(axis)).tolist())
            for dim, axis in enumerate(use.axes)
            if self._is_cut(axis)
        }
        if kept:
            self.cuts[name] = Cut(use.constant, kept)

    # -- shapes that the file states ---------------------------------------------------------------------

    def _shapes(self) -> Iterator[tuple[str, tuple[int | None, ...]]]:
        for name, array in self.replaced.items():
            yield name, array.shape
        for use in self.traced.uses:  # a dead node may still make what was computed from sizes
            if use.constant not in self.traced.model.constants and any(map(self._is_cut, use.axes)):
                yield use.constant, tuple(None if self._is_cut(axis) else 0 for axis in use.axes)
        for name, axes in self.traced.values.items():
            if any(self._is_cut(axis) for axis in axes):
                yield name, tuple(self._stated(name, dim, axis) for dim, axis in enumerate(axes))

    def _stated(self, name: str, dim: int, axis: Axis) -> int | None:
        """Return the new size of a dim, 0 if it stays as it is stated, None if it is known at run time alone."""
        if not self._is_cut(axis):
            return 0
        return self._size(axis) if self.traced.probe.is_static(name, dim) else None


def mixed_ratio(traced: Trace, coupling: Coupling, kept: Kept) -> float:
    """Return how many indices the axes that an op mixes over have before a cut for one after it."""
    axes = [traced.partition.resolve(axis) for axis in coupling.mixed]
    sizes = [(axis.size, int(kept_mask(axis, kept).sum())) for axis in axes if any(atom in kept for atom in walk(axis))]
    return math.prod(before / after for before, after in sizes)


def masked(traced: Trace, kept: Kept, fitted: Mapping[str, Array] | None = None) -> Any:
    """Return the dense model whose removed units are zeroed where an op contracts them (an onnx.ModelProto).

    This is what the pruned model must compute. An op that mixes over removed units does so over the kept ones: it
    stands there as in the pruned model, between nodes that take the kept indices out and put them back.

    Args:
        traced: the model with its axes.
        kept: bool ``[units]`` for every atom that loses units.
        fitted: constants that hold other numbers than in the model.
    """
    masker = _Masker(traced, {name: node for node in traced.model.nodes for name in node.outputs})
    narrowed = [index for index, c in traced.couplings.items() if mixed_ratio(traced, c, kept) != 1]
    if narrowed:
        rewriter = _Rewriter(traced, kept)
        edits = rewriter.edits()
        for index in narrowed:
            masker.narrow(index, edits, rewriter.factors, kept)
    for index, coupling in traced.couplings.items():
        places = dict.fromkeys((*coupling.contracted, *coupling.hidden)) if index not in narrowed else ()
        for slot, dim in places:
            axes = coupling.inputs[slot] or ()
            mask = kept_mask(traced.partition.resolve(axes[dim]), kept)
            if not mask.all():
                masker.put(index, slot, dim, mask.reshape(-1, *[1] * (len(axes) - dim - 1)))
    edits = masker.edits()
    return apply_edits(traced.model, dataclasses.replace(edits, replaced={**edits.replaced, **(fitted or {})}))


def in_original(model: Model, cuts: Mapping[str, Cut], contents: Mapping[str, Array]) -> dict[str, Array]:
    """Return new contents of constants of the pruned model at their places in the original, as it was elsewhere.

    Args:
        model: the original.
        cuts: where the constants of the pruned model came from.
        contents: by name in the pruned model; no two from one constant of the original.
    """
    found: dict[str, Array] = {}
    for name, content in contents.items():
        cut = cuts.get(name, Cut(name, {}))
        whole = model.array(cut.source).copy()
        kept = [np.array(cut.kept.get(dim, range(size)), np.intp) for dim, size in enumerate(whole.shape)]
        whole[np.ix_(*kept)] = content
        found[cut.source] = whole
    return found


@dataclass(slots=True)
class _Masker:
    """Puts masks in front of inputs: what is removed becomes zero, or what stands for zero where it is quantized."""

    traced: Trace
    producers: Mapping[str, Node]  # by name of the output
    inputs: dict[tuple[int, int], str] = field(default_factory=dict)
    added: dict[str, Content] = field(default_factory=dict)
    nodes_before: dict[int, list[Any]] = field(default_factory=dict)
    nodes_after: dict[int, list[Any]] = field(default_factory=dict)
    outputs: dict[tuple[int, int], str] = field(default_factory=dict)
    attributes: dict[tuple[int, str], Stated] = field(default_factory=dict)

    def edits(self) -> Edits:
        """Return what masks change in the model."""
        return Edits(
            inputs=self.inputs,
            attributes=self.attributes,
            replaced={},
            added=self.added,
            nodes_before=self.nodes_before,
            shapes={},
            outputs=self.outputs,
            nodes_after=self.nodes_after,
        )

    def narrow(self, index: int, edits: Edits, factors: Mapping[tuple[int, int], float], kept: Kept) -> None:
        """Let a node work on the kept indices alone, as it does in the pruned model with its `edits`."""
        coupling = self.traced.couplings[index]
        self.attributes.update({key: value for key, value in edits.attributes.items() if key[0] == index})
        for slot, name in enumerate(coupling.node.inputs):
            new = edits.inputs.get((index, slot), name)
            constant = edits.replaced.get(new, edits.added.get(new))
            if constant is not None:
                self.added[f"onnxprune_narrow_{index}_{slot}"] = constant
                self.inputs[index, slot] = f"onnxprune_narrow_{index}_{slot}"
            elif name:
                self._take(index, slot, coupling.inputs[slot] or (), kept)
                if (index, slot) in factors:
                    self._scale(index, slot, factors[index, slot])
        for place, name in enumerate(coupling.node.outputs):
            if name:
                factor = edits.added[edits.nodes_after[index][0].input[1]] if (index, place) in edits.outputs else None
                self._put_back(index, place, factor, kept)

    def _take(self, index: int, slot: int, axes: Axes, kept: Kept) -> None:
        """Take the kept indices of an input."""
        for dim, mask in self._cut_dims(axes, kept):
            name = f"onnxprune_take_{index}_{slot}_{dim}"
            source = self.inputs.get((index, slot), self.traced.model.nodes[index].inputs[slot])
            self.added[name] = np.flatnonzero(mask)
            self.nodes_before.setdefault(index, []).append(make_node("Gather", [source, name], f"{name}_out", axis=dim))
            self.inputs[index, slot] = f"{name}_out"

    def _scale(self, index: int, slot: int, factor: float) -> None:
        name = f"onnxprune_factor_{index}_{slot}"
        source = self.inputs.get((index, slot), self.traced.model.nodes[index].inputs[slot])
        self.added[name] = np.array(factor, self.traced.probe.dtype(self.traced.model.nodes[index].inputs[slot]))
        self.nodes_before.setdefault(index, []).append(make_node("Mul", [source, name], f"{name}_out"))
        self.inputs[index, slot] = f"{name}_out"

    def _put_back(self, index: int, place: int, factor: Content | None, kept: Kept) -> None:
        """Put the indices of an output back where they were, zero between them."""
        name = self.traced.couplings[index].node.outputs[place]
        axes = self.traced.values.get(name, ())
        steps: list[tuple[str, Content, dict[str, int]]] = []
        if factor is not None:
            steps.append(("Mul", factor, {}))
        for dim, mask in self._cut_dims(axes, kept):
            places, dtype = np.maximum(np.cumsum(mask) - 1, 0), self.traced.probe.dtype(name)
            steps.append(("Gather", places, {"axis": dim}))
            if dtype.kind not in "biu":  # what integers stand for zero, a later mask says
                zeros = mask.astype(dtype).reshape(-1, *[1] * (len(axes) - dim - 1))
                steps.append(("Mul", zeros, {}))
        values = [name, *(f"onnxprune_back_{index}_{place}_{i}" for i in range(len(steps)))][::-1]
        for (op, constant, attributes), before, after in zip(steps, values, values[1:], strict=False):
            self.added[f"{before}_by"] = constant
            node = make_node(op, [before, f"{before}_by"], after, **attributes)
            self.nodes_after.setdefault(index, []).append(node)
        if steps:
            self.outputs[index, place] = values[0]

    def _cut_dims(self, axes: Axes, kept: Kept) -> Iterator[tuple[int, Mask]]:
        for dim, axis in enumerate(map(self.traced.partition.resolve, axes)):
            if any(atom in kept for atom in walk(axis)):
                yield dim, kept_mask(axis, kept)

    def put(self, index: int, slot: int, dim: int, mask: Mask) -> None:
        """Mask an input; `mask` broadcasts to it."""
        coupling = self.traced.couplings[index]
        source = self.inputs.get((index, slot), coupling.node.inputs[slot])
        dtype = self.traced.probe.dtype(coupling.node.inputs[slot])
        name = f"onnxprune_mask_{index}_{slot}_{dim}"
        encoding = coupling.encodings.get(slot)
        if encoding is None:
            if self._put_before(index, slot, name, mask):
                return
            self.added[name] = mask.astype(dtype)
            self._node(index, slot, "Mul", [source, name])
            return
        zero = None if encoding.zero is None else coupling.node.inputs[encoding.zero]
        rank = len(coupling.inputs[slot] or ())
        stored, of_zero = self._constant(source), np.zeros((), dtype) if zero is None else self._constant(zero)
        if stored is not None and of_zero is not None:  # few kernels work on 8-bit integers: do it here
            self.added[f"{name}_out"] = np.where(mask, stored, beside(of_zero, encoding.dim, rank)).astype(dtype)
            self.inputs[index, slot] = f"{name}_out"
            return
        self.added[name] = mask
        if zero is None:
            zero = f"{name}_zero"
            self.added[zero] = np.zeros((), dtype)
        elif len(self.traced.probe.shape(zero) or ()) == 1:
            zero = self._beside(index, name, zero, [-1, *[1] * (rank - encoding.dim - 1)])
        self._node(index, slot, "Where", [name, source, zero])

    def _put_before(self, index: int, slot: int, name: str, mask: Mask) -> bool:
        """Mask the integers of a weight that is dequantized here; return whether there are such.

        A product behind the dequantization would keep ONNX Runtime from computing in integers, and then the masked
        and the pruned model would round differently.
        """
        source = self.traced.model.nodes[index].inputs[slot]
        node = self.producers.get(source)
        if (index, slot) in self.inputs or node is None or node.op != "DequantizeLinear":
            return False
        stored = self._constant(node.inputs[0])
        scale, zero = (self._constant(name) for name in (*node.inputs[1:], "")[:2])
        if stored is None or scale is None or scale.ndim > 1 or (zero is None and len(node.inputs) > 2):
            return False
        dim = node.attrs.get("axis", 1) % max(1, stored.ndim)
        of_zero = np.zeros((), stored.dtype) if zero is None else beside(zero, dim, stored.ndim)
        self.added[name] = np.where(mask, stored, of_zero).astype(stored.dtype)
        again = make_node(node.op, [name, *node.inputs[1:]], f"{name}_out", **node.attrs)
        self.nodes_before.setdefault(index, []).append(again)
        self.inputs[index, slot] = f"{name}_out"
        return True

    def _constant(self, name: str) -> Array | None:
        model = self.traced.model
        if name in self.added:
            return np.asarray(self.added[name])
        return model.array(name) if name in model.constants else None

    def _node(self, index: int, slot: int, op: str, inputs: list[str]) -> None:
        name = f"{inputs[1] if op == 'Mul' else inputs[0]}_out"
        self.nodes_before.setdefault(index, []).append(make_node(op, inputs, name))
        self.inputs[index, slot] = name

    def _beside(self, index: int, name: str, zero: str, shape: list[int]) -> str:
        """Return the name of a vector of zero points, such that it broadcasts to the input that it belongs to."""
        self.added[f"{name}_shape"] = np.array(shape, np.int64)
        node = make_node("Reshape", [zero, f"{name}_shape"], f"{name}_zero")
        self.nodes_before.setdefault(index, []).append(node)
        return f"{name}_zero"


def new_sizes(kept: Kept) -> dict[Atom, int]:
    """Return the size of every cut atom, for `cost`."""
    return {atom: int(mask.sum()) for atom, mask in kept.items()}
