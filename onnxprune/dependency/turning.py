"""Finds the frames of a stream: how each value is written once the stream is turned, and what that asks of each node.

One walk through the graph says for every node that touches the stream what has to become of it, by what it computes:

| what a node does | what becomes of it |
| --- | --- |
| a layer, or a table, that makes units | its weight and bias are written in the frame |
| a layer that sums over units | its weight undoes the frame, and takes over the scale and offset in front of it |
| sums, copies, other axes, factors that all units share | nothing; constants are written in the frame |
| a sum of squares over the units | nothing: it is the same in every frame |
| a normalisation | without scale and offset; its mean is taken from all that is written to the stream instead |
| a scale or an offset of each unit | none is left: layers behind it take it over, or the layer in front of it |
| anything else | refused, with the node and why: it would compute something else in another frame |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.dependency.axes import Atom, Axes
from onnxprune.dependency.frames import BIAS_OF_SKIP, NORMS, Frames, Joins, Shift, Signal, State, Step, Turn
from onnxprune.dependency.rules import Coupling
from onnxprune.dependency.trace import Trace
from onnxprune.errors import CannotTurn
from onnxprune.graph.effective import ConstantValues
from onnxprune.graph.model import Node
from onnxprune.graph.tensors import Array

_LAYERS = frozenset(("MatMul", "Gemm", "Conv", "Einsum", "com.microsoft.FusedMatMul", "com.microsoft.Attention"))
_SUMS = frozenset(("Add", "Sub", "Sum"))
_MOVES = frozenset(("Cast", "Concat", "Dropout", "Expand", "Flatten", "Gather", "GlobalAveragePool", "Identity")) | {
    "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
_POWERS = frozenset(("ReduceL2", "ReduceSumSquare"))
_MEANS = frozenset(("ReduceMean", "ReduceSum"))
_SIZES = frozenset(("Shape", "Size"))
_QUANTIZED = "reads weights that are quantized: prune the float model, then quantize it"


def frames_of(traced: Trace, atom: Atom, parted: Mapping[int, int], arrays: ConstantValues) -> Frames:
    """Return what becomes of a graph when the stream whose units are `atom` is turned.

    Args:
        traced: the model with its axes.
        atom: the units.
        parted: node -> slot, of the sums behind which the stream goes on in another frame, and where the stream enters
            them; none where there is one frame for all.
        arrays: evaluates what follows from the constants of the model.

    Raises:
        CannotTurn: with the node, and why.
    """
    return _Walk(traced, atom, parted, arrays).run()


@dataclass(frozen=True)
class _Touch:
    """A node that touches the stream."""

    node: Node
    coupling: Coupling
    read: Mapping[int, list[int]]  # input slot -> the dims along which units lie
    made: Mapping[int, int]  # output -> the dim
    runtime: tuple[int, ...]  # the slots of `read` that are values in a frame; the others are constants
    fixed: tuple[int, ...]

    def name(self, slot: int) -> str:
        """Return the value in a slot."""
        return self.node.inputs[slot]


class _Walk:
    """One walk through the main graph; see the table of this module."""

    def __init__(self, traced: Trace, atom: Atom, parted: Mapping[int, int], arrays: ConstantValues) -> None:
        self._traced, self._model, self._atom = traced, traced.model, atom
        self._parted, self._arrays = parted, arrays
        self._found, self._joins = Frames(atom), Joins()
        self._states: dict[str, State] = {}
        self._means: dict[str, str] = {}  # by the mean over the units, of which value
        self._sees_mean: Node | None = None
        self._makers = {name: node for node in traced.model.nodes for name in node.outputs if name}

    def run(self) -> Frames:
        """Return what was found.

        Raises:
            CannotTurn: as `frames_of`.
        """
        for index in self._model.top:
            self._step(self._model.nodes[index])
        lock = self._traced.partition.lock_of(self._atom)
        if lock is not None:
            raise CannotTurn(f"its units cannot go: {lock}")
        if self._found.centred and self._sees_mean is not None:
            raise CannotTurn(f"{self._sees_mean} reads it with its mean, which a LayerNormalization takes from it")
        return self._joins.finish(self._found)

    # -- one node --------------------------------------------------------------------------------------

    def _step(self, node: Node) -> None:
        """Say what becomes of a node, all nodes before it having been looked at."""
        coupling = self._traced.couplings.get(node.index)
        if coupling is None or node.op in _SIZES or all(name in self._model.fixed for name in node.outputs if name):
            return
        if node.op != "Sub" and any(name in self._means for name in node.inputs):
            raise CannotTurn(f"{node} reads the mean over the units, which no frame keeps")
        if node.bodies and any(self._dims(self._traced.values.get(name), node) for name in node.captured):
            raise CannotTurn(f"{node} reads it inside a branch or a loop")
        t = self._touch(node, coupling)
        if not t.read and not t.made:
            return
        steps = (
            (self._norm, node.op in NORMS),
            (self._power, node.op in _POWERS | _MEANS and not t.made),
            (self._layer, node.op in _LAYERS or (node.op == "Gather" and not t.runtime)),
            (self._factor, node.op in ("Mul", "Div", "Pow")),
            (self._sum, node.op in _SUMS),
            (self._move, node.op in _MOVES or node.op in _MEANS),
        )
        step = next((step for step, is_it in steps if is_it), None)
        if step is None:
            raise CannotTurn(f"{node} does not treat all units alike, as far as is known: it would give something else")
        step(t)
        for name, dim in ((node.outputs[at], dim) for at, dim in t.made.items()):
            state = self._states.get(name)
            if state is not None and state.is_plain and name not in self._found.instead:
                self._found.values.setdefault(state.frame, (name, dim))

    def _touch(self, node: Node, coupling: Coupling) -> _Touch:
        """Return a node with the places of the units.

        Raises:
            CannotTurn: where an input carries units, and is neither a value in a frame nor made of constants.
        """
        if coupling.encodings and any(map(self._has, (*coupling.inputs, *coupling.outputs))):
            raise CannotTurn(f"{node} {_QUANTIZED}")
        read = {slot: dims for slot, axes in enumerate(coupling.inputs) if (dims := self._dims(axes, node))}
        made = {at: dims[0] for at, axes in enumerate(coupling.outputs) if (dims := self._dims(axes, node))}
        for slot, dims in read.items():
            name = node.inputs[slot]
            if name in self._states:
                if len(dims) > 1:
                    raise CannotTurn(f"{node} has its units on two axes of {name!r}")
            elif name not in self._model.fixed:
                raise CannotTurn(f"{node} reads {name!r}, whose units no layer makes")
            elif self._is_quantized(name):
                raise CannotTurn(f"{node} {_QUANTIZED}")
        runtime = tuple(slot for slot in read if node.inputs[slot] in self._states)
        return _Touch(node, coupling, read, made, runtime, tuple(slot for slot in read if slot not in runtime))

    def _has(self, axes: Axes | None) -> bool:
        return any(self._atom in self._traced.partition.atoms(axis) for axis in axes or ())

    def _is_quantized(self, name: str) -> bool:
        """Whether a value that follows from constants is made of numbers of few bits."""
        waiting, seen = [name], {name}
        while waiting:
            constant = self._model.constants.get(waiting[-1])
            if constant is not None and constant.is_weight and constant.dtype.kind in "iu":
                return True
            maker = self._makers.get(waiting.pop())
            new = {*maker.inputs} - seen - {""} if maker is not None else set()
            seen |= new
            waiting += new
        return False

    def _dims(self, axes: Axes | None, node: Node) -> list[int]:
        """Return the dims along which units lie.

        Raises:
            CannotTurn: where they lie beside other indices.
        """
        dims = []
        for dim, axis in enumerate(axes or ()):
            if self._traced.partition.resolve(axis) is self._atom:
                dims.append(dim)
            elif self._atom in self._traced.partition.atoms(axis):
                raise CannotTurn(f"{node} has its units on one axis with others")
        return dims

    # -- states and constants --------------------------------------------------------------------------

    def _plain(self, t: _Touch, slot: int) -> State:
        """Return the state of an input that has to be a plain vector.

        Raises:
            CannotTurn: where it is none.
        """
        state = self._states[t.name(slot)]
        if state.squared:
            raise CannotTurn(f"{t.node} reads the squares of the units, and does not sum over them")
        if not state.is_plain:
            raise CannotTurn(
                f"{t.node} takes {t.name(slot)!r} with a scale or an offset for each unit, which a normalisation in "
                "front of it gives: networks can be turned that normalise in front of layers, not behind sums"
            )
        return state

    def _pass(self, t: _Touch, state: State) -> None:
        """Let all that a node gives have a state."""
        self._states.update((t.node.outputs[at], state) for at in t.made if t.node.outputs[at])

    def _bypass(self, t: _Touch, slot: int, state: State) -> None:
        """Let what a node gives be one of its inputs."""
        name = t.name(slot)
        self._found.instead[t.node.outputs[0]] = self._found.instead.get(name, name)
        self._states[t.node.outputs[0]] = state

    def _sees(self, node: Node, *states: State) -> None:
        """Note a node whose result depends on the mean over the units, if it does."""
        if any(state.has_mean for state in states):
            self._sees_mean = node

    def _array(self, t: _Touch, slot: int) -> Array:
        """Return a constant input, float64.

        Raises:
            CannotTurn: where it cannot be evaluated.
        """
        array = self._arrays.array(t.name(slot)) if t.name(slot) in self._model.fixed else None
        if array is None:
            raise CannotTurn(f"{t.node} reads {t.name(slot)!r}, which has to be a constant")
        return array.astype(np.float64)

    def _vector(self, t: _Touch, slot: int) -> Array:
        """Return a constant that has one number for each unit: ``[units]``.

        Raises:
            CannotTurn: where it has others.
        """
        array = self._array(t, slot)
        if array.size != array.shape[t.read[slot][0]]:
            raise CannotTurn(f"{t.node} scales or shifts units differently by place: {t.name(slot)!r}")
        return array.reshape(-1)

    def _is_zero(self, t: _Touch, slot: int) -> bool:
        return t.name(slot) in self._model.fixed and not np.any(self._array(t, slot))

    def _write(self, t: _Touch, slot: int, frame: int, dims: Sequence[int] | None = None) -> tuple[int, ...]:
        """Let a constant be written in a frame; return the numbers of its turns."""
        first = len(self._found.turns)
        dims = t.read[slot] if dims is None else dims
        self._found.turns += [Turn(t.node.index, slot, dim, frame, reads=False) for dim in dims]
        return tuple(range(first, len(self._found.turns)))

    # -- normalisations --------------------------------------------------------------------------------

    def _norm(self, t: _Touch) -> None:
        """A normalisation, perhaps of a sum: scale and offset are left to those who read it."""
        form, last = NORMS[t.node.op], len(t.coupling.inputs[0] or ()) - 1
        bias = BIAS_OF_SKIP.get(t.node.op)
        first = last if bias is not None else t.node.attrs.get("axis", -1) % (last + 1)
        if t.read.get(0) != [last] or first != last:
            raise CannotTurn(f"{t.node} normalises over other axes as well")
        frame = self._added(t, [0] if bias is None else [0, 1])
        if bias is not None and bias in t.read:
            self._write(t, bias, frame)
        gain = self._vector(t, form.scale) if form.scale in t.read else None
        offset = self._vector(t, form.offset) if form.offset is not None and form.offset in t.read else None
        self._found.norms.append(t.node.index)
        self._found.centred |= form.centres
        self._sees(t.node, State(frame, has_mean=not form.centres))
        self._pass(t, State(frame))  # a sum
        self._states[t.node.outputs[0]] = State(frame, gain, offset, has_mean=not form.centres)

    def _power(self, t: _Touch) -> None:
        """A sum of squares, or a mean, over the units."""
        state = self._states[t.name(0)]
        if state.squared or (t.node.op in _POWERS and state.is_plain):
            self._sees(t.node, state)
            return
        self._plain(t, 0)
        if t.node.op != "ReduceMean":
            raise CannotTurn(f"{t.node} adds up the units themselves")
        self._means[t.node.outputs[0]] = t.name(0)

    # -- layers ----------------------------------------------------------------------------------------

    def _layer(self, t: _Touch) -> None:
        """A layer: it sums over units, makes units, or both; or it mixes other axes."""
        summed = {(slot, dim) for slot, dim in t.coupling.contracted if dim in t.read.get(slot, ())}
        weights = [place for place in sorted(summed) if place[0] in t.fixed]
        if summed and not weights:
            weights = [(slot, t.read[slot][0]) for slot in t.fixed[:1]]
        added = [slot for slot in t.runtime if slot in t.coupling.addends]
        factors = [slot for slot in t.runtime if slot not in added]
        frame = self._joins.join([self._plain(t, slot).frame for slot in added])
        if summed:
            self._read(t, factors, weights)
        elif factors:
            state = self._states[t.name(factors[0])]
            if len(factors) > 1 or t.fixed or state.offset is not None or state.squared:
                raise CannotTurn(f"{t.node} multiplies units with one another, or each with a number of its own")
            self._pass(t, replace(state, makers=()))
            return
        turns = list[int]()
        for slot in t.fixed:
            turns += self._write(t, slot, frame, [dim for dim in t.read[slot] if (slot, dim) not in weights])
        for slot in t.coupling.addends if t.made else ():
            if slot not in t.read and not self._is_zero(t, slot):
                raise CannotTurn(f"{t.node} adds one number to all units")
        self._pass(t, State(frame, makers=() if added else tuple(turns)))

    def _read(self, t: _Touch, factors: Sequence[int], weights: Sequence[tuple[int, int]]) -> None:
        """A layer that sums over units."""
        states = [self._states[t.name(slot)] for slot in factors]
        if not weights and len(factors) == 2:  # a product of two vectors is the same in every frame
            self._joins.join([self._plain(t, slot).frame for slot in factors])
            self._sees(t.node, *states)
            return
        if len(weights) != 1 or len(factors) != 1 or states[0].squared:
            raise CannotTurn(f"{t.node} sums over the units of something else than a value and a weight")
        (slot, dim), state, name = weights[0], states[0], t.name(factors[0])
        self._found.turns.append(Turn(t.node.index, slot, dim, state.frame, reads=True, gain=state.gain))
        if state.offset is not None and np.any(state.offset):
            if t.node.op == "Einsum" or (t.node.op == "Conv" and any(t.node.attrs.get("pads", ()))):
                raise CannotTurn(f"{t.node} sums over units with an offset for each, which no bias of it can take over")
            self._found.shifts.append(Shift(t.node.index, slot, dim, state.offset))
        each = self._found.signals.setdefault(state.frame, [])
        if name not in {signal.value for signal in each}:
            each.append(Signal(name, t.read[factors[0]][0], state.gain, state.offset))
        self._sees(t.node, state)

    # -- arithmetic ------------------------------------------------------------------------------------

    def _factor(self, t: _Touch) -> None:
        """A product, quotient or power of numbers."""
        if self._is_square(t):
            self._states[t.node.outputs[0]] = replace(self._plain(t, 0), squared=True, makers=())
            return
        if t.node.op == "Pow" or len(t.runtime) != 1 or (t.node.op == "Div" and t.runtime[0] == 1):
            raise CannotTurn(f"{t.node} multiplies units with one another, or bends each of them")
        state, other = self._states[t.name(t.runtime[0])], 1 - t.runtime[0]
        if state.squared:
            self._plain(t, t.runtime[0])
        if other in t.read:
            self._scale(t, t.runtime[0], self._vector(t, other) ** (-1 if t.node.op == "Div" else 1))
        elif state.offset is not None:
            raise CannotTurn(f"{t.node} scales what has an offset for each unit")
        else:
            self._pass(t, replace(state, makers=()))

    def _is_square(self, t: _Touch) -> bool:
        if t.node.op == "Mul":
            return t.name(0) == t.name(1)
        exponent = self._arrays.array(t.name(1)) if t.node.op == "Pow" and t.runtime == (0,) else None
        return exponent is not None and exponent.size == 1 and float(exponent.item()) == 2

    def _scale(self, t: _Touch, slot: int, vector: Array) -> None:
        """A number for each unit: the layer that makes the value takes it over, else those that read it."""
        state = self._states[t.name(slot)]
        if state.makers and self._model.only_reader(t.name(slot)) is not None:
            for number in state.makers:
                turn = self._found.turns[number]
                self._found.turns[number] = replace(turn, gain=_times(turn.gain, vector))
            self._bypass(t, slot, state)
            return
        offset = None if state.offset is None else state.offset * vector
        self._bypass(t, slot, replace(state, gain=_times(state.gain, vector), offset=offset, makers=()))

    def _sum(self, t: _Touch) -> None:
        """A sum: of values in one frame, with constants, or with the mean that is subtracted."""
        others = [slot for slot in range(len(t.node.inputs)) if slot not in t.read]
        means = [slot for slot in others if t.name(slot) in self._means]
        if means == [1] and t.node.op == "Sub" and self._means[t.name(1)] == t.name(0):
            self._found.centred = True
            self._bypass(t, 0, replace(self._states[t.name(0)], makers=(), has_mean=False))
            return
        if not all(self._is_zero(t, slot) for slot in others):
            raise CannotTurn(f"{t.node} adds one number to all units")
        state = self._states[t.name(t.runtime[0])] if len(t.runtime) == 1 else None
        if state is not None and not state.is_plain and not state.squared and (t.node.op != "Sub" or t.runtime == (0,)):
            vectors = [self._vector(t, slot) * (-1 if t.node.op == "Sub" else 1) for slot in t.fixed]
            offset = np.sum(vectors if state.offset is None else [*vectors, state.offset], axis=0)
            self._bypass(t, t.runtime[0], replace(state, offset=offset))
            return
        frame = self._added(t, t.runtime)
        makers = self._alone(t) if len(t.runtime) < 2 else None
        turns = [number for slot in t.fixed for number in self._write(t, slot, frame)]
        self._pass(t, State(frame, makers=() if makers is None else (*makers, *turns)))

    def _alone(self, t: _Touch) -> tuple[int, ...] | None:
        """Return the turns that make the only value that is added to constants; None where others read it as well."""
        for name in map(t.name, t.runtime):
            makers = self._states[name].makers
            return makers if makers and self._model.only_reader(name) is not None else None
        return ()

    def _added(self, t: _Touch, slots: Sequence[int]) -> int:
        """Return the frame of a sum; where the stream goes on in another one, a matrix stands on it."""
        stream = self._parted.get(t.node.index)
        states = {slot: self._plain(t, slot) for slot in slots}
        frame = self._joins.join([state.frame for slot, state in states.items() if slot != stream])
        if stream is not None and stream in states:
            if t.read[stream][0] != len(t.coupling.inputs[stream] or ()) - 1:
                raise CannotTurn(
                    f"{t.node} adds to a stream whose units are not on the last axis: no matrix fits there"
                )
            self._found.steps.append(Step(t.node.index, stream, states[stream].frame, frame))
        return frame

    def _move(self, t: _Touch) -> None:
        """What is done alike to all units: moved, copied, cast, put beside others, averaged along other axes."""
        if t.node.op == "Where":
            if 0 in t.read:
                raise CannotTurn(f"{t.node} chooses by unit")
            if not all(slot in t.read or self._is_zero(t, slot) for slot in (1, 2)):
                raise CannotTurn(f"{t.node} puts one number in the place of all units")
        if len(t.runtime) == 1 and not t.fixed:
            state = self._states[t.name(t.runtime[0])]
            if state.offset is not None and t.node.op in ("ReduceSum", "Where"):
                self._plain(t, t.runtime[0])
            self._pass(t, replace(state, makers=()))
            return
        states = [self._plain(t, slot) for slot in t.runtime]
        frame = self._joins.join([state.frame for state in states])
        for slot in t.fixed:
            self._write(t, slot, frame)
        self._pass(t, State(frame, has_mean=bool(t.fixed) or any(state.has_mean for state in states)))


def _times(gain: Array | None, vector: Array) -> Array:
    return vector if gain is None else gain * vector
