"""Rotation: a graph whose stream is written in other directions, and which computes what it did.

`dependency.turning` says what has to become of each node; here it is done. Ashkboos et al. 2024, "SliceGPT: Compress
Large Language Models by Deleting Rows and Columns", arXiv 2401.15024: LayerNorm becomes RMSNorm (section 3.1: its
scale and offset go to the layers behind it, its mean is taken from what is written to the stream), and an orthogonal
Q is put between any two layers (Theorem 1): ``RMSNorm(x Q) Qᵀ = RMSNorm(x)``. What stands on a stream that goes on in
other directions is the product of two of them (equation 9).

The proof is not a masked model: the turned graph gives the outputs of the original up to round-off, whatever Q is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.dependency.frames import BIAS_OF_SKIP, NORMS, SIMPLE_SKIP, SKIP, Frames, Shift, Turn
from onnxprune.dependency.trace import Trace
from onnxprune.graph.edit import Edits, make_node
from onnxprune.graph.effective import ConstantValues
from onnxprune.graph.model import Node
from onnxprune.graph.names import FreshNames
from onnxprune.graph.tensors import Array
from onnxprune.surgery.rewrite import Rewritten, edited

_HALF = {"float16": 10, "bfloat16": 16}  # types whose normalisations compute in float32, with their number in ONNX
_AXES_ARE_INPUT = 18  # opset from which ReduceMean takes its axes as an input
_FLOAT = 1  # float32 in ONNX
_ROWS = 4096  # of a constant, that are multiplied at once


def turned(traced: Trace, frames: Frames, bases: Mapping[int, Array], arrays: ConstantValues) -> Rewritten:
    """Return the model with a stream in other directions.

    Args:
        traced: the model with its axes.
        frames: of the stream.
        bases: orthogonal ``[units, units]`` float64 by frame; its columns are the directions that become the units.
        arrays: evaluates what follows from the constants of the model.
    """
    return _Turner(traced, frames, bases, arrays).run()


@dataclass
class _Turner:
    traced: Trace
    frames: Frames
    bases: Mapping[int, Array]
    arrays: ConstantValues
    inputs: dict[tuple[int, int], str] = field(default_factory=dict)
    outputs: dict[tuple[int, int], str] = field(default_factory=dict)
    replaced: dict[str, Array] = field(default_factory=dict)
    added: dict[str, Array] = field(default_factory=dict)
    before: dict[int, list[Any]] = field(default_factory=dict)
    after: dict[int, list[Any]] = field(default_factory=dict)
    extra: dict[tuple[int, int], Array] = field(default_factory=dict)  # what is added to a constant, before it turns
    names: FreshNames = field(init=False)

    def __post_init__(self) -> None:
        self.names = FreshNames(self.traced.model)

    def run(self) -> Rewritten:
        model = self.traced.model
        for name, other in self.frames.instead.items():
            self.inputs |= {place: other for place in model.readers.get(name, ()) if place[1] >= 0}
        for shift in self.frames.shifts:
            self._shift(shift)
        self._turn_constants()
        for step in self.frames.steps:
            self._step(step.node, step.slot, self.bases[step.source].T @ self.bases[step.target])
        for index in self.frames.norms:
            self._norm(model.nodes[index])
        edits = Edits(
            self.inputs, {}, self.replaced, self.added, self.before, {}, self.outputs, self.after,
            {name: len(axes) for name, axes in self.traced.values.items()},
        )  # fmt: skip
        return edited(model, edits, nodes=tuple(sorted({index for index, _ in self.inputs})))

    # -- constants -------------------------------------------------------------------------------------

    def _matrix(self, turn: Turn) -> Array:
        """Return what a constant is multiplied with along its axis, ``[units, units]``."""
        basis = self.bases[turn.frame]
        if self.frames.centred and not turn.reads:
            basis = basis - basis.mean(0)
        return basis if turn.gain is None else turn.gain[:, None] * basis

    def _turn_constants(self) -> None:
        """Write constants in their frames; one that all who read it want alike keeps its name."""
        turns: dict[tuple[int, int], list[Turn]] = {place: [] for place in self.extra}
        for turn in self.frames.turns:
            turns.setdefault((turn.node, turn.slot), []).append(turn)
        variants: dict[str, dict[Any, list[tuple[int, int]]]] = {}
        for place, each in turns.items():
            name = self.traced.model.nodes[place[0]].inputs[place[1]]
            key = (tuple(map(_key, each)), self.extra[place].tobytes() if place in self.extra else b"")
            variants.setdefault(name, {}).setdefault(key, []).append(place)
        for name, by_key in variants.items():
            for places in by_key.values():
                content = self._content(name, places[0], turns[places[0]])
                if name in self.traced.model.constants and {*places} == {*self.traced.model.readers[name]}:
                    self.replaced[name] = content
                else:
                    self.inputs |= dict.fromkeys(places, self._add(f"{name}_turned", content))

    def _content(self, name: str, place: tuple[int, int], turns: list[Turn]) -> Array:
        array = self.arrays.array(name)
        assert array is not None  # `dependency.turning` has looked
        dtype = array.dtype
        if place in self.extra:
            array = array.astype(np.float64) + self.extra[place].reshape(array.shape)
        for number, turn in enumerate(turns, 1):
            array = _multiplied(array, turn.dim, self._matrix(turn), dtype if number == len(turns) else np.float64)
        return array.astype(dtype, copy=False)

    def _add(self, wanted: str, content: Array) -> str:
        name = self.names.fresh(wanted)
        self.added[name] = content
        return name

    def _input(self, node: Node, slot: int) -> str:
        return self.inputs.get((node.index, slot), node.inputs[slot])

    # -- offsets ---------------------------------------------------------------------------------------

    def _shift(self, shift: Shift) -> None:
        """Let what an offset adds behind a layer be a part of its bias, or of the constant that is added next."""
        node = self.traced.model.nodes[shift.node]
        weight = self.arrays.array(node.inputs[shift.slot])
        assert weight is not None
        own = np.tensordot(weight.astype(np.float64), shift.offset, (shift.dim, 0))
        own = own.reshape(len(own), -1).sum(1) if node.op == "Conv" else own
        own = own * float(node.attrs.get("alpha", 1.0)) if node.op in ("Gemm", "com.microsoft.FusedMatMul") else own
        own = own / float(node.attrs.get("beta", 1.0)) if node.op == "Gemm" else own
        place = self._place_to_add(node, own.size)
        if place is not None:
            self.extra[place] = self.extra.get(place, 0) + own
            return
        for turn in self.frames.turns:
            if (turn.node, turn.slot, turn.reads) == (node.index, shift.slot, False):
                own = own @ self._matrix(turn)
        content = own.astype(weight.dtype)
        if node.op not in ("Gemm", "Conv", "com.microsoft.Attention"):
            name = node.outputs[0]
            raw = self.outputs[node.index, 0] = self.names.fresh(f"{name}_unshifted")
            by = self._add(f"{name}_shift", content)
            self.after[node.index] = [make_node("Add", [raw, by], name, name=by)]
        else:
            self.inputs[node.index, 2] = self._add(f"{node.outputs[0]}_bias", content)

    def _place_to_add(self, node: Node, size: int) -> tuple[int, int] | None:
        """Return a constant that is added to all that a layer gives: its bias, or that of a sum behind it."""
        model = self.traced.model
        if node.op in ("Gemm", "Conv", "com.microsoft.Attention"):
            has_bias = len(node.inputs) > 2 and node.inputs[2]
            return (node.index, 2) if has_bias and self._is_constant(node.inputs[2], size) else None
        index, slot = model.only_reader(node.outputs[0]) or (-1, -1)
        if slot < 0 or model.nodes[index].op != "Add":
            return None
        return (index, 1 - slot) if self._is_constant(model.nodes[index].inputs[1 - slot], size) else None

    def _is_constant(self, name: str, size: int) -> bool:
        array = self.arrays.array(name) if name in self.traced.model.fixed else None
        return array is not None and array.size == size == array.shape[-1]

    # -- nodes -----------------------------------------------------------------------------------------

    def _step(self, index: int, slot: int, matrix: Array) -> None:
        """Put a matrix on a stream that goes on in another frame."""
        node = self.traced.model.nodes[index]
        stream = self._input(node, slot)
        dtype = self.traced.probe.dtype(node.inputs[slot])
        by, out = self._add(f"{stream}_turn", matrix.astype(dtype)), self.names.fresh(f"{stream}_turned")
        self.before.setdefault(index, []).append(make_node("MatMul", [stream, by], out))
        self.inputs[index, slot] = out

    def _norm(self, node: Node) -> None:
        """Let a normalisation be a root mean square, without scale and offset."""
        ones = self._ones(node)
        if node.op == "LayerNormalization":
            self._root_mean_square(node, ones)
        elif node.op == SKIP:
            bias = BIAS_OF_SKIP[SKIP]
            names = [self._input(node, 0), self._input(node, 1), ones]
            names += [self._input(node, bias)] if len(node.inputs) > bias and node.inputs[bias] else []
            self._instead(node, [_skip_node(node, names, ones)])
        else:
            self.inputs[node.index, NORMS[node.op].scale] = ones

    def _ones(self, node: Node) -> str:
        dtype = self.traced.probe.dtype(node.inputs[0])
        return self._add(f"{node.outputs[0]}_scale", np.ones(self.frames.atom.size, dtype))

    def _instead(self, node: Node, nodes: list[Any]) -> None:
        """Put nodes that give what a node gave in its place."""
        self.before.setdefault(node.index, []).extend(nodes)
        for at, name in enumerate(node.outputs):
            if name:
                self.outputs[node.index, at] = self.names.fresh(f"{name}_gone")

    def _root_mean_square(self, node: Node, ones: str) -> None:
        """Put ``x / sqrt(mean(x²) + epsilon)`` in the place of a LayerNormalization, in the form that runtimes fuse."""
        out, dtype, source = node.outputs[0], self.traced.probe.dtype(node.inputs[0]), self._input(node, 0)
        nodes, wide, x = list[Any](), np.dtype(np.float32) if dtype.name in _HALF else dtype, source

        def put(op: str, inputs: list[str], what: str, **attributes: Any) -> str:
            name = self.names.fresh(f"{out}_{what}")
            nodes.append(make_node(op, inputs, name, **attributes))
            return name

        if wide != dtype:
            x = put("Cast", [source], "wide", to=_FLOAT)
        squares = put("Pow", [x, self._add(f"{out}_two", np.array(2, wide))], "squares")
        if self.traced.model.opsets.get("", 1) >= _AXES_ARE_INPUT:
            mean = put("ReduceMean", [squares, self._add(f"{out}_axes", np.array([-1]))], "mean", keepdims=1)
        else:
            mean = put("ReduceMean", [squares], "mean", axes=[-1], keepdims=1)
        epsilon = self._add(f"{out}_epsilon", np.array(node.attrs.get("epsilon", 1e-5), wide))
        root = put("Sqrt", [put("Add", [mean, epsilon], "above_zero")], "root")
        normed = put("Div", [x, root], "normed")
        if wide != dtype:
            normed = put("Cast", [normed], "narrow", to=_HALF[dtype.name])
        nodes.append(make_node("Mul", [normed, ones], out, name=ones))
        self._instead(node, nodes)


def _multiplied(array: Array, dim: int, matrix: Array, dtype: Any) -> Array:
    """Return an array times a matrix along a dim, in some type; computed in float64, some rows at a time."""
    last = np.moveaxis(array, dim, -1)
    rows = last.reshape(-1, last.shape[-1])
    product = np.empty(rows.shape, dtype)
    for start in range(0, len(rows), _ROWS):
        product[start : start + _ROWS] = rows[start : start + _ROWS].astype(np.float64) @ matrix
    return np.ascontiguousarray(np.moveaxis(product.reshape(last.shape), -1, dim))


def _skip_node(node: Node, inputs: list[str], name: str) -> Any:
    return make_node(
        SIMPLE_SKIP.rpartition(".")[2], inputs, node.outputs, name=name, domain="com.microsoft",
        epsilon=float(node.attrs.get("epsilon", 1e-12)),
    )  # fmt: skip


def _key(turn: Turn) -> tuple[Any, ...]:
    """Return what is equal for constants that are turned alike."""
    return turn.dim, turn.frame, turn.reads, None if turn.gain is None else turn.gain.tobytes()
