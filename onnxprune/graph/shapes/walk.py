"""One walk through a graph under one setting of its dynamic dims: shapes, and numbers that follow from sizes.

`graph.shapes.probe` compares walks under several settings. Here is what one of them does: inference node by node,
evaluation of small values, and the bodies and sequences that onnx's inference does not follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import repeat

import numpy as np

from onnxprune.errors import OnnxpruneError
from onnxprune.graph.dims import Choice, FixedDims, dynamic_dims
from onnxprune.graph.files.limits import Allowance
from onnxprune.graph.model import Body, Model, Node
from onnxprune.graph.shapes.demands import contradicts
from onnxprune.graph.shapes.inference import Inference, TensorType, element_type, inferred_shapes, whole
from onnxprune.graph.shapes.operators import outputs_of
from onnxprune.graph.tensors import BOOL, FLOAT, INT64, Array, Shape

VALUE_LIMIT = 4096  # elements up to which a value is computed
STEP_LIMIT = 4 * VALUE_LIMIT**2  # of `graph.shapes.work`, for one value: fractions of a second
MOST_PARTS = 1 << 16  # tensors of a sequence
FLOAT_LIMIT = 8  # the same for constants that may be weights; scales of a Resize are such
# Ops whose unknown dims depend on the values of their inputs, and not on what inference does not see.
_DATA_SIZED = frozenset(("Compress", "NonMaxSuppression", "NonZero", "Range", "TopK", "Unique"))
_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)


class Walk:
    """One walk through the graph under one setting of the dynamic dims."""

    def __init__(self, model: Model, choice: Choice | FixedDims) -> None:
        self._model = model
        self._assumed = choice.assumed
        self._inference = Inference(model)
        self.dims = choice.of(model.inputs)
        self.has_assumed = False
        self.unfit: list[int] = []  # nodes that cannot take the shapes of their inputs; of branches, the one taken
        self.types: dict[str, TensorType] = {}
        self.values: dict[str, Array] = {}
        self.sequences: dict[str, list[TensorType | None]] = {}  # the tensors of each sequence, where they are known
        for port in model.inputs:
            if port.shape is not None and port.dtype is not None:
                keys = dict(dynamic_dims(port))
                shape = tuple(self.dims[keys[i]] if i in keys else int(d or 0) for i, d in enumerate(port.shape))
                self.types[port.name] = element_type(port.dtype), shape
        for name, constant in model.constants.items():
            self.types[name] = constant.tensor.data_type, constant.shape
            limit = FLOAT_LIMIT if constant.is_weight else VALUE_LIMIT
            if constant.count <= limit and name not in model.overridable:
                self.values[name] = model.array(name)

    def graph(self, indices: Sequence[int]) -> None:
        """Walk the nodes of one graph."""
        for node in (self._model.nodes[index] for index in indices):
            if not (node.outputs and node.outputs[0] in self._model.constants):
                self.step(node)

    def step(self, node: Node) -> None:
        """Infer the outputs of one node into `types` and, where they are known, `values`.

        A node, this one or one in its bodies, that cannot take the shapes of its inputs is added to `unfit`, once.
        """
        before = len(self.unfit)
        try:
            self._step(node)
        except (OnnxpruneError, MemoryError):  # of the file or the machine, and not of this node
            raise
        except Exception:  # attributes or bodies that do not fit their node, in a way that nobody foresaw
            self.unfit[before:] = [node.index]

    def _step(self, node: Node) -> None:
        if node.op in _WITH_BODIES and node.bodies:
            _WITH_BODIES[node.op](self, node)
            return
        if node.op in _OF_SEQUENCES:
            _OF_SEQUENCES[node.op](self, node)
            return
        outputs = self._evaluate(node)
        if outputs is not None:
            for name, value in zip(node.outputs, outputs, strict=False):
                self.values[name] = value
                self.types[name] = element_type(value.dtype), value.shape
            return
        names = [name for name in (*node.inputs, *node.captured) if name]
        known = {name: self.types[name] for name in names if name in self.types}
        inferred = self._inference.outputs(node, known, self._known(node))
        known_all = inferred and all(whole(dims) is not None for _, dims in inferred.values())
        shaped = {} if known_all else self._shaped(node)
        for name in filter(None, node.outputs):
            kind, dims = (inferred or {}).get(name, (0, None))
            shape = whole(dims)
            if shape is None and name in shaped:
                kind, shape = shaped[name]
            elif shape is None and name in self._elsewhere:
                kind, shape = self._elsewhere[name]
            elif shape is None and node.op in _DATA_SIZED:
                shape = self._filled(dims)
            if shape is not None:
                self.types[name] = kind, shape
        if inferred == {} or self._is_misshapen(node) or contradicts(node, self._shapes(node)):
            self.unfit.append(node.index)

    def _shapes(self, node: Node) -> list[Shape | None]:
        return [self.types[name][1] if name in self.types else None for name in node.inputs]

    def _filled(self, dims: Sequence[int | None] | None) -> Shape | None:
        """Return a shape whose unknown dims have the size that is assumed for them."""
        if dims is None:
            return None
        self.has_assumed |= None in dims
        return tuple(self._assumed if size is None else size for size in dims)

    def _shaped(self, node: Node) -> dict[str, TensorType]:
        """Return what is known of the outputs of an operator for which onnx has no inference."""
        outputs = outputs_of(node, self.types, self._known(node), self._inference)
        return {name: typed for name, typed in zip(node.outputs, outputs, strict=False) if typed is not None}

    # -- bodies ----------------------------------------------------------------------------------------

    def if_(self, node: Node) -> None:
        """Walk both branches; an output is that of the one taken, or has the dims in which both agree."""
        misfits = {body.attribute: self._unfit_of(body) for body in node.bodies}
        bodies, condition = node.bodies, self.values.get(node.inputs[0])
        if condition is not None and condition.size == 1:
            taken = "then_branch" if condition.item() else "else_branch"
            bodies = tuple(body for body in bodies if body.attribute == taken)
        for index, name in enumerate(node.outputs):
            inner = [body.outputs[index] for body in bodies]
            self._set_common(name, [self.types.get(each) for each in inner])
            if len(inner) == 1 and inner[0] in self.values:
                self.values[name] = self.values[inner[0]]
        self.unfit += [index for body in bodies for index in misfits[body.attribute]]

    def _unfit_of(self, body: Body) -> list[int]:
        """Walk a body; return which of its nodes do not fit, that the caller may count them."""
        before = len(self.unfit)
        self.graph(body.nodes)
        unfit = self.unfit[before:]
        del self.unfit[before:]
        return unfit

    def _set_common(self, name: str, types: Sequence[TensorType | None]) -> None:
        """Give a value what all `types` have in common, and an assumed size where dims differ."""
        known = [typed for typed in types if typed is not None]
        if len(known) < len(types) or len({(kind, len(shape)) for kind, shape in known}) != 1:
            return
        dims = [sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*(s for _, s in known), strict=True)]
        shape = self._filled(dims)
        if shape is not None:
            self.types[name] = known[0][0], shape

    def loop(self, node: Node) -> None:
        """Walk the body of a Loop: states keep their shapes, but for dims that change from turn to turn."""
        (body,) = node.bodies
        turn, going, *states = [port.name for port in body.inputs]
        self.types[turn], self.types[going] = (INT64, ()), (BOOL, ())
        self._settle(body, dict(zip(states, node.inputs[2:], strict=False)), body.outputs[1:])
        count = self._trip_count(node, body)
        for name, inner, state in zip(node.outputs, body.outputs[1:], states, strict=False):
            self._set_common(name, [self.types.get(inner), self.types.get(state)])
        for name, inner in zip(node.outputs[len(states) :], body.outputs[1 + len(states) :], strict=True):
            self._set_stacked(name, inner, count, 0)

    def scan(self, node: Node) -> None:
        """Walk the body of a Scan: as a Loop over slices of its inputs."""
        (body,) = node.bodies
        count = node.attrs["num_scan_inputs"]
        states, scanned = body.inputs[:-count], body.inputs[-count:]
        axes = node.attrs.get("scan_input_axes") or repeat(0)
        length: int | None = None
        for port, outer, axis in zip(scanned, node.inputs[len(states) :], axes, strict=False):
            kind, shape = self.types.get(outer, (0, ()))
            if shape:
                at = axis % len(shape)
                length = shape[at]
                self.types[port.name] = kind, shape[:at] + shape[at + 1 :]
        initial = dict(zip((port.name for port in states), node.inputs, strict=False))
        self._settle(body, initial, body.outputs)
        for name, inner, port in zip(node.outputs, body.outputs, states, strict=False):
            self._set_common(name, [self.types.get(inner), self.types.get(port.name)])
        stacked = list(zip(node.outputs, body.outputs, strict=True))[len(states) :]
        places = node.attrs.get("scan_output_axes", [0] * len(stacked))
        for (name, inner), place in zip(stacked, places, strict=True):
            self._set_stacked(name, inner, length, place)

    def _settle(self, body: Body, initial: Mapping[str, str], results: Sequence[str]) -> None:
        """Walk a body until its states have the shape that they have after a turn, too."""
        self.types.update({state: self.types[name] for state, name in initial.items() if name in self.types})
        while True:
            unfit = self._unfit_of(body)
            loose = [
                (state, self.types[state], self.types.get(result))
                for state, result in zip(initial, results, strict=False)
                if state in self.types and not self._is_kept(self.types[state], self.types.get(result))
            ]
            if not loose:
                self.unfit += unfit
                return
            for state, before, after in loose:
                del self.types[state]
                if after is not None:
                    self._set_common(state, [before, after])
            self._forget(body)

    def _is_kept(self, state: TensorType, result: TensorType | None) -> bool:
        """Whether a turn leaves the type of a state as it is, where its size is not assumed anyway."""
        if result is None or state[0] != result[0] or len(state[1]) != len(result[1]):
            return False
        return all(before in (after, self._assumed) for before, after in zip(state[1], result[1], strict=True))

    def _forget(self, body: Body) -> None:
        for node in (self._model.nodes[index] for index in body.nodes):
            for name in node.outputs:
                if name not in self._model.constants:
                    self.types.pop(name, None)
                    self.values.pop(name, None)
            for inner in node.bodies:
                for port in inner.inputs:
                    self.types.pop(port.name, None)
                self._forget(inner)

    def _trip_count(self, node: Node, body: Body) -> int | None:
        """Return how often a Loop runs, where that is known and nothing ends it before."""
        going = self.values.get(node.inputs[1]) if node.inputs[1] else np.array(True)
        goes_on = self.values.get(body.outputs[0])
        limit = self.values.get(node.inputs[0]) if node.inputs[0] else None
        if limit is None or going is None or goes_on is None or not (going.all() and goes_on.all()):
            return None
        return max(0, int(limit.item()))

    def _set_stacked(self, name: str, inner: str, count: int | None, at: int) -> None:
        """Give an output that collects a value of every turn along a new axis."""
        if inner in self.types:
            kind, shape = self.types[inner]
            at += (len(shape) + 1) * (at < 0)
            filled = self._filled((*shape[:at], count, *shape[at:]))
            if filled is not None:
                self.types[name] = kind, filled

    # -- sequences -------------------------------------------------------------------------------------

    def sequence_empty(self, node: Node) -> None:
        """A sequence of no tensors."""
        self.sequences[node.outputs[0]] = []

    def sequence_construct(self, node: Node) -> None:
        """A sequence of the inputs."""
        self.sequences[node.outputs[0]] = [self.types.get(name) for name in node.inputs]

    def sequence_insert(self, node: Node) -> None:
        """A sequence with one tensor more, at the end or at a known place."""
        tensors, place = self.sequences.get(node.inputs[0]), self._place(node, 2)
        if tensors is not None and place is not None:
            at = len(tensors) if place == len(tensors) else place % (len(tensors) + 1)
            self.sequences[node.outputs[0]] = [*tensors[:at], self.types.get(node.inputs[1]), *tensors[at:]]

    def sequence_erase(self, node: Node) -> None:
        """A sequence without one tensor."""
        tensors, place = self.sequences.get(node.inputs[0]), self._place(node, 1, -1)
        if tensors and place is not None:
            at = place % len(tensors)
            self.sequences[node.outputs[0]] = [*tensors[:at], *tensors[at + 1 :]]

    def sequence_at(self, node: Node) -> None:
        """One tensor of a sequence."""
        tensors, place = self.sequences.get(node.inputs[0]), self._place(node, 1)
        if tensors and place is not None and -len(tensors) <= place < len(tensors):
            typed = tensors[place]
            if typed is not None:
                self.types[node.outputs[0]] = typed

    def sequence_length(self, node: Node) -> None:
        """The number of tensors."""
        self.types[node.outputs[0]] = INT64, ()
        tensors = self.sequences.get(node.inputs[0])
        if tensors is not None:
            self.values[node.outputs[0]] = np.array(len(tensors), np.int64)

    def split_to_sequence(self, node: Node) -> None:
        """The parts of a tensor: of known sizes, of one size, or of size 1."""
        typed = self.types.get(node.inputs[0])
        split = self.values.get(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else np.array(1)
        if typed is None or split is None:
            return
        kind, shape = typed
        axis = node.attrs.get("axis", 0) % max(1, len(shape))
        squeezed = len(node.inputs) == 1 and not node.attrs.get("keepdims", 1)
        parts = [(*shape[:axis], *[size] * (not squeezed), *shape[axis + 1 :]) for size in parts_of(shape[axis], split)]
        self.sequences[node.outputs[0]] = [(kind, part) for part in parts]

    def concat_from_sequence(self, node: Node) -> None:
        """All tensors of a sequence, along an axis of theirs or along a new one."""
        tensors = self.sequences.get(node.inputs[0])
        known = [typed for typed in tensors or () if typed is not None]
        if not known or len(known) < len(tensors or ()) or len({len(shape) for _, shape in known}) > 1:
            return
        kind, first = known[0]
        is_new = node.attrs.get("new_axis", 0)
        axis = node.attrs["axis"] % (len(first) + is_new)
        size = len(known) if is_new else sum(shape[axis] for _, shape in known)
        self.types[node.outputs[0]] = kind, (*first[:axis], size, *first[axis + (not is_new) :])

    def _place(self, node: Node, slot: int, default: int | None = None) -> int | None:
        """Return a known position in a sequence; the end of the sequence where it is left out."""
        if slot >= len(node.inputs) or not node.inputs[slot]:
            return len(self.sequences.get(node.inputs[0], ())) if default is None else default
        value = self.values.get(node.inputs[slot])
        return None if value is None else int(value.item())

    # -- one node --------------------------------------------------------------------------------------

    def _is_misshapen(self, node: Node) -> bool:
        """Whether a Reshape changes the number of elements, which inference does not always see."""
        if node.op != "Reshape" or not {node.inputs[0], node.outputs[0]} <= self.types.keys():
            return False
        before, after = (math.prod(self.types[name][1]) for name in (node.inputs[0], node.outputs[0]))
        return before != after

    @cached_property
    def _elsewhere(self) -> dict[str, TensorType]:
        """What inference over the whole graph (it sees into functions) and, failing that, the file itself say.

        The file comes last: what it states may be stale.
        """
        stated: dict[str, TensorType] = {}
        for name, shape in self._model.value_shapes.items():
            dims = [
                dim if isinstance(dim, int) else self.dims.get(dim or "")
                for dim in ((None,) if shape is None else shape)
            ]
            if None not in dims:
                kind = self._model.value_kinds[name] or FLOAT
                stated[name] = kind, tuple(dim for dim in dims if dim is not None)
        shapes = {name: shape for name, (_, shape) in self.types.items()}
        return {**stated, **inferred_shapes(self._model, shapes)}

    def _known(self, node: Node) -> dict[str, Array]:
        """Return the known values among the inputs of a node."""
        return {name: self.values[name] for name in node.inputs if name in self.values}

    def _evaluate(self, node: Node) -> list[Array] | None:
        """Return the outputs of a node that follows from known values and sizes, None otherwise."""
        if node.op in ("Shape", "Size"):
            typed = self.types.get(node.inputs[0])
            return None if typed is None else [_size_of(node, typed[1])]
        if node.captured or node.op in _RANDOM or not all(name in self.values for name in node.inputs if name):
            return None
        known = {name: self.types[name] for name in node.inputs if name}
        inferred = self._inference.outputs(node, known, self._known(node)) or {}
        shapes = [whole(dims) for _, dims in inferred.values()]
        if not shapes or any(s is not None and np.prod(s, dtype=float) > VALUE_LIMIT for s in shapes):
            return None
        size = None if None in shapes or node.bodies else 0
        allowances = Allowance(16 * VALUE_LIMIT), Allowance(STEP_LIMIT)
        return self._inference.evaluate(node, self._known(node), allowances[0], size, allowances[1])


_WITH_BODIES: Mapping[str, Callable[[Walk, Node], None]] = {"If": Walk.if_, "Loop": Walk.loop, "Scan": Walk.scan}
_OF_SEQUENCES: Mapping[str, Callable[[Walk, Node], None]] = {
    "ConcatFromSequence": Walk.concat_from_sequence,
    "SequenceAt": Walk.sequence_at,
    "SequenceConstruct": Walk.sequence_construct,
    "SequenceEmpty": Walk.sequence_empty,
    "SequenceErase": Walk.sequence_erase,
    "SequenceInsert": Walk.sequence_insert,
    "SequenceLength": Walk.sequence_length,
    "SplitToSequence": Walk.split_to_sequence,
}


def parts_of(size: int, split: Array) -> list[int]:
    """Return the sizes of the parts that SplitToSequence makes of an axis: those of `split`, or one size and the rest.

    >>> parts_of(10, np.array(4)), parts_of(10, np.array([4, 6]))
    ([4, 4, 2], [4, 6])

    Raises:
        ValueError: when they are more than anybody makes of an axis.
    """
    if split.ndim:
        return [int(part) for part in split]
    step = max(1, int(split.item()))
    if size > step * MOST_PARTS:
        raise ValueError(f"more than {MOST_PARTS:,} parts")
    return [min(step, size - start) for start in range(0, size, step)]


def _size_of(node: Node, shape: Shape) -> Array:
    if node.op == "Size":
        return np.array(np.prod(shape, dtype=np.int64))
    start, end = node.attrs.get("start", 0), node.attrs.get("end", len(shape))
    return np.array(shape[start:end], np.int64)
