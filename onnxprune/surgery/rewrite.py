"""Rewrite: a trace and a plan become a smaller model.

One sentence: *slice every constant along every axis by the kept indices of that axis*, and let the sizes that
nodes state follow. Everything that no cut touches is copied as it is. The same trace gives the masked model,
which must compute the same: see `surgery.mask`.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxprune.dependency.apart import gone_nodes, removed_units, weights_apart
from onnxprune.dependency.axes import Atom, Axes, Axis, Mask, kept_mask, walk
from onnxprune.dependency.rules import Coupling, Write
from onnxprune.dependency.rules.coupling import Position
from onnxprune.dependency.trace import SizeFinder, Trace, Use
from onnxprune.errors import CutError, OnnxpruneError
from onnxprune.graph.edit import Content, Edits, Part, Stated, apply_edits, make_node
from onnxprune.graph.forms.remainder import back
from onnxprune.graph.model import Model
from onnxprune.graph.names import FreshNames
from onnxprune.graph.scopes import given
from onnxprune.graph.tensors import Array

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
    whole: Any = None  # where the model is a part of another one, that one with the same cuts: an onnx.ModelProto


def edited(
    model: Model, edits: Edits, cuts: Mapping[str, Cut] = MappingProxyType({}), nodes: tuple[int, ...] = ()
) -> Rewritten:
    """Return a model with edits, and the one that it is a part of with the same; the rest is as of `Rewritten`."""
    whole = None if model.whole is None else apply_edits(model.whole.model, back(model.whole, edits))
    return Rewritten(apply_edits(model, edits), cuts, nodes, whole)


def rewrite(traced: Trace, kept: Kept) -> Rewritten:
    """Return the model without the units that `kept` drops.

    Args:
        traced: the model with its axes.
        kept: bool ``[units]`` for every atom that loses units; the atoms must not be locked.
    """
    return Rewriter(traced, {**kept, **_unread(traced, kept)}).run()


def _unread(traced: Trace, kept: Kept) -> dict[Atom, Mask]:
    """Return the atoms to drop of weights that several Slices take parts of.

    Each Slice gets a copy of the weight, which then holds the part that this Slice takes and no other.
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
class Rewriter:
    """Collects the edits that cut a model to the kept units."""

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
    gone: frozenset[int] = frozenset()  # nodes that go with removed units
    names: FreshNames = field(init=False)

    def __post_init__(self) -> None:
        """Note the names that are taken."""
        self.names = FreshNames(self.traced.model)

    def run(self) -> Rewritten:
        """Return the smaller model, and where its initializers come from."""
        edits = self.edits()
        touched = {index for index, _ in (*self.inputs, *self.attributes)}
        return edited(self.traced.model, edits, self.cuts, tuple(sorted(touched)))

    def edits(self) -> Edits:
        """Return what changes in the model."""
        finder = SizeFinder(self.traced.model, self.traced.probe, self.traced.values)
        self._drop_units()
        self._write_sizes(finder)
        self._compensate()
        self._slice_constants(finder)
        self._pass_by_units()
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

    # -- what removed units had alone ------------------------------------------------------------------

    def _drop_units(self) -> None:
        """Note what goes with removed units: nodes of the main graph, and weights."""
        self.gone = gone_nodes(self.traced.apart, self.kept)
        alone = weights_apart(self.traced.model, self.traced.apart)
        for atom in self.traced.apart:
            names = (name for unit in removed_units(atom, self.kept) for name in alone[atom][unit])
            self.cuts.update((name, Cut(name, {0: ()})) for name in names if self.traced.model.constants[name].shape)

    def _pass_by_units(self) -> None:
        """Let whoever reads what removed units are added to read what it is without them.

        That may be such a value itself, of these or of other units: what is passed by first is closest to the inputs.
        """
        dropped = (drop for atom, apart in self.traced.apart.items()
                   for drop in apart.dropped(removed_units(atom, self.kept)))  # fmt: skip
        left: dict[str, str] = {}
        for drop in sorted(dropped, key=lambda drop: drop.node):
            place = drop.node, drop.source
            source = self.inputs.get(place, self.traced.model.nodes[drop.node].inputs[drop.source])
            left[drop.output] = source
            readers = self.traced.model.readers.get(drop.output, ())
            self.inputs.update((reader, source) for reader in readers if reader[1] >= 0)
        for name in left.keys() & given(self.traced.model):
            self._write_as(name, left[name])

    def _write_as(self, name: str, source: str) -> None:
        """Give a value to whoever finds it by the name of another one, which a node made before."""
        index = next(node.index for node in self.traced.model.nodes if name in node.outputs)
        self.outputs[index, self.traced.model.nodes[index].outputs.index(name)] = self.names.fresh(f"{name}_gone")
        self.nodes_before.setdefault(index, []).append(make_node("Identity", [source], name))

    # -- sizes that nodes state ------------------------------------------------------------------------

    def _write_sizes(self, finder: SizeFinder) -> None:
        """Write what the nodes state wherever an axis behind it is cut, or one that it was computed from."""
        for index, coupling in self.traced.couplings.items():
            for write in coupling.writes if index not in self.gone else ():
                sources: frozenset[Axis] = frozenset()
                if isinstance(write.target, int) and write.target < len(coupling.node.inputs):
                    sources = finder.axes(coupling.node.inputs[write.target])
                cut = [axis for axis in (*write.axes, *write.follows, *sources) if self._is_cut(axis)]
                if any(self._size(axis) == 1 for axis in cut) if write.if_single else cut:
                    with cutting(str(coupling.node)):
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
            before if size is None else size if isinstance(size, (int, float)) else self._stated_size(size)
            for size, before in zip(write.sizes, old, strict=True)
        ]

    def _stated_size(self, size: Axis | Position) -> int:
        """Return the new size of an axis, or the new position of an index."""
        return int(self._mask(size.axis)[: size.index].sum()) if isinstance(size, Position) else self._size(size)

    def _positions(self, write: Write, dtype: Any) -> Array:
        """Return the indices of kept units, counted among the kept units."""
        (axis,) = write.axes
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
            part = self.names.fresh(f"{node.outputs[0]}_size_{i}")
            if entry is None:
                at = self.names.fresh(f"{node.outputs[0]}_index_{i}")
                self.added[at] = np.array([i], np.int64)
                self.nodes_before.setdefault(index, []).append(make_node("Gather", [old, at], part, axis=0))
            else:
                self.added[part] = np.array([entry], dtype)
            parts.append(part)
        joined = self.names.fresh(f"{node.outputs[0]}_sizes")
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
        raw, by = self.names.fresh(f"{name}_of_kept"), self.names.fresh(f"{name}_share")
        self.added[by] = np.array(factor, self.traced.probe.dtype(name))
        self.outputs[index, 0] = raw
        self.nodes_after[index] = [make_node("Mul", [raw, by], name, name=by)]

    def _scale_inputs(self) -> None:
        """Multiply the inputs that have a factor; those that are constants have been multiplied when they were cut."""
        constants = {(use.node, use.slot) for use in self.traced.uses if use.constant in self.traced.model.constants}
        for (index, slot), factor in self.factors.items():
            if (index, slot) not in constants:
                source = self.inputs.get((index, slot), self.traced.model.nodes[index].inputs[slot])
                by, scaled = self.names.fresh(f"{source}_factor"), self.names.fresh(f"{source}_scaled")
                self.added[by] = np.array(factor, self.traced.probe.dtype(self.traced.model.nodes[index].inputs[slot]))
                self.nodes_before.setdefault(index, []).append(make_node("Mul", [source, by], scaled))
                self.inputs[index, slot] = scaled

    # -- constants ---------------------------------------------------------------------------------------

    def _slice_constants(self, finder: SizeFinder) -> None:
        by_constant: dict[str, list[Use]] = {}
        elsewhere = self._read_elsewhere()
        for use in self.traced.uses:
            if use.node not in self.gone:
                by_constant.setdefault(use.constant, []).append(use)
        for name, uses in by_constant.items():
            with cutting(f"{name!r}"):
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
        names = {name for node in self.traced.model.nodes for body in node.bodies for name in body.outputs}
        for node in self.traced.model.nodes:
            names.update(name for slot, name in enumerate(node.inputs) if (node.index, slot) not in traced)
        whole = self.traced.model.whole
        return names.union(*(each.reads for each in whole.left_out)) if whole else names

    def _sliced(self, array: Array, use: Use) -> Array:
        for dim, axis in enumerate(use.axes):
            if self._is_cut(axis):
                array = array.compress(self._mask(axis), axis=dim)
        return array

    def _add(self, wanted: str, content: Content, places: list[tuple[int, int]]) -> str:
        name = self.names.fresh(wanted)
        self.added[name] = content
        self.inputs.update(dict.fromkeys(places, name))
        return name

    def kept_of(self, use: Use) -> dict[int, tuple[int, ...]]:
        """Return the indices that stay for a use, by the axes that lose any."""
        return self.kept_along(use.axes)

    def kept_along(self, axes: Axes) -> dict[int, tuple[int, ...]]:
        """Return the indices that stay, by the axes that lose any."""
        return {
            dim: tuple(np.flatnonzero(self._mask(axis)).tolist()) for dim, axis in enumerate(axes) if self._is_cut(axis)
        }

    def _record(self, name: str, use: Use) -> None:
        kept = self.kept_of(use)
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


@contextlib.contextmanager
def cutting(what: str) -> Iterator[None]:
    """Name the node or weight that is cut in an exception that nobody foresaw.

    The plan is made by then, so that a lock would come too late: which groups to leave alone is for the user to say.
    """
    try:
        yield
    except (OnnxpruneError, MemoryError, OSError):
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
        hint = "leave it alone with --ignore NAME, and please report this fault of onnxprune with the file"
        raise CutError(f"{what} cannot be cut ({said}); {hint}") from error


def mixed_ratio(traced: Trace, coupling: Coupling, kept: Kept) -> float:
    """Return how many indices the axes that an op mixes over have before a cut for one after it."""
    axes = [traced.partition.resolve(axis) for axis in coupling.mixed]
    sizes = [(axis.size, int(kept_mask(axis, kept).sum())) for axis in axes if any(atom in kept for atom in walk(axis))]
    return math.prod(before / after for before, after in sizes)


def new_sizes(kept: Kept) -> dict[Atom, int]:
    """Return the size of every cut atom, as `dependency.cost` takes it."""
    return {atom: int(mask.sum()) for atom, mask in kept.items()}
