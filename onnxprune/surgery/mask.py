"""The masked model of the oracle: the dense model with the removed units zeroed where they are consumed.

The oracle is `evaluation.verify`: a pruned model must compute what the masked one computes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.dependency.axes import Axes, Mask, kept_mask, walk
from onnxprune.dependency.branches import Branch
from onnxprune.dependency.rules.coupling import Choice, beside
from onnxprune.dependency.trace import Trace
from onnxprune.graph.edit import Content, Edits, Stated, apply_edits, make_node
from onnxprune.graph.files.deferred import defers
from onnxprune.graph.model import Model, Node
from onnxprune.graph.tensors import Array, Shape
from onnxprune.surgery.depth import silenced
from onnxprune.surgery.rewrite import Cut, Kept, Rewriter, mixed_ratio

_WORST = 6e4  # magnitude of a score beyond all others: the most that half precision holds, nearly


def masked(traced: Trace, kept: Kept, fitted: Mapping[str, Content] | None = None, gone: Sequence[Branch] = ()) -> Any:
    """Return the dense model whose removed units are zeroed where an op contracts them (an onnx.ModelProto).

    This is what the pruned model must compute. An op that mixes over removed units does so over the kept ones: it
    stands there as in the pruned model, between nodes that take the kept indices out and put them back.

    Args:
        traced: the model with its axes.
        kept: bool ``[units]`` for every atom that loses units.
        fitted: constants that hold other numbers than in the model.
        gone: branches that count as zero.
    """
    masker = _Masker(traced, {name: node for node in traced.model.nodes for name in node.outputs})
    mixing = ((index, c) for index, c in traced.couplings.items() if not c.is_exact)
    narrowed = [index for index, coupling in mixing if mixed_ratio(traced, coupling, kept) != 1]
    if narrowed:
        rewriter = Rewriter(traced, kept)
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
        for choice in coupling.chosen:
            axes = coupling.inputs[choice.slot] or ()
            mask = kept_mask(traced.partition.resolve(axes[choice.dim]), kept)
            if not mask.all():
                masker.put_worst(index, choice, mask.reshape(-1, *[1] * (len(axes) - choice.dim - 1)))
    edits = masker.edits()
    if gone:
        edits = silenced(edits, traced.model, gone, traced.probe.dtype)
    return apply_edits(traced.model, dataclasses.replace(edits, replaced={**edits.replaced, **(fitted or {})}))


@dataclass(frozen=True)
class Restored:
    """A constant of the original with other numbers at the kept indices, made when read: `graph.files.deferred`."""

    model: Model  # the original
    cut: Cut
    content: Array  # at the kept indices

    @property
    def shape(self) -> Shape:
        """The sizes in the original."""
        return self.model.constants[self.cut.source].shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the numbers."""
        return self.model.constants[self.cut.source].dtype

    def head(self, rows: int) -> Array:
        """Return the numbers of the first rows."""
        return np.asarray(self)[:rows]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the numbers."""
        whole = self.model.array(self.cut.source).copy()
        kept = [np.array(self.cut.kept.get(dim, range(size)), np.intp) for dim, size in enumerate(whole.shape)]
        whole[np.ix_(*kept)] = self.content
        return whole if dtype is None else whole.astype(dtype, copy=False)


def in_original(model: Model, cuts: Mapping[str, Cut], contents: Mapping[str, Array]) -> dict[str, Content]:
    """Return constants of the original with the contents of the pruned model at the kept indices, else unchanged.

    Args:
        model: the original.
        cuts: where the constants of the pruned model came from.
        contents: by name in the pruned model; no two from one constant of the original.
    """
    restored = (Restored(model, cuts.get(name, Cut(name, {})), content) for name, content in contents.items())
    return {each.cut.source: each if defers() else np.asarray(each) for each in restored}


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
        steps: list[tuple[str, Content, dict[str, Any]]] = []
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
            node = make_node(op, [before, f"{before}_by"], after, name=f"{before}_by", **attributes)
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

    def put_worst(self, index: int, choice: Choice, mask: Mask) -> None:
        """Give the scores of removed units the worst value that there is; `mask` broadcasts to them."""
        coupling = self.traced.couplings[index]
        source = self.inputs.get((index, choice.slot), coupling.node.inputs[choice.slot])
        dtype = self.traced.probe.dtype(coupling.node.inputs[choice.slot])
        name = f"onnxprune_worst_{index}_{choice.slot}"
        self.added[name], self.added[f"{name}_score"] = mask, np.array(-_WORST if choice.largest else _WORST, dtype)
        self.nodes_before.setdefault(index, []).append(
            make_node("Where", [name, source, f"{name}_score"], f"{name}_out")
        )
        self.inputs[index, choice.slot] = f"{name}_out"

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
