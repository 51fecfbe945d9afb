"""Trace a model: give every tensor its axes by applying the rule of every node.

The driver. It looks up the rule of each op, runs it on the axes of the inputs, checks what it returned against
the shapes that ONNX infers, and turns every refusal into a lock with one reason and the node's name.

Constants are traced like any other tensor, with one difference: each *use* of a constant gets axes of its own,
because exporters share one tensor between unrelated nodes. Values that follow from sizes alone
(``Shape -> Gather -> Sqrt``) count as constants too: the number of the original model is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.dependency import rules
from onnxprune.dependency.apart import Apart, units_apart
from onnxprune.dependency.axes import Atom, Axes, Axis, Lock, fresh
from onnxprune.dependency.caches import Cache, caches
from onnxprune.dependency.partition import Partition
from onnxprune.dependency.rules import Coupling, Site
from onnxprune.dependency.rules.coupling import Positions
from onnxprune.dependency.streams import streams
from onnxprune.errors import CannotUnify, OnnxpruneError
from onnxprune.graph.dims import dynamic_dims
from onnxprune.graph.model import Body, Model, Node
from onnxprune.graph.ports import Role
from onnxprune.graph.shapes.probe import Probe, probe
from onnxprune.graph.tensors import Shape

REASON_LENGTH = 200  # characters of an exception's message that a reason repeats
# Operators that give integers as they get them, in another arrangement or type; and those that look at sizes alone.
_ARRANGING = frozenset(
    ("Cast", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose",
     "Unsqueeze")
)  # fmt: skip
_SIZES = frozenset(("Shape", "Size"))
_SHARES = frozenset(("Softmax", "LogSoftmax"))  # shares of a whole, by scores
_MISFITS = (IndexError, TypeError, ValueError, ZeroDivisionError)  # what broken attributes and sizes raise in a rule


@dataclass(frozen=True, slots=True)
class Use:
    """One place where a constant, or a value that sizes alone determine, enters the traced graph."""

    node: int  # index of the consumer, -1 for a graph output or a subgraph
    slot: int  # its input
    constant: str
    axes: Axes


@dataclass(frozen=True, slots=True)
class Trace:
    """A model with the axes of all its tensors."""

    model: Model
    probe: Probe
    partition: Partition
    values: Mapping[str, Axes]  # runtime tensors; those of unknown shape are absent
    couplings: Mapping[int, Coupling]  # by node index; nodes that compute sizes alone are absent
    uses: tuple[Use, ...]
    caches: tuple[Cache, ...] = ()  # what the model keeps from one run to the next
    apart: Mapping[Atom, Apart] = field(
        default_factory=dict
    )  # what units of an axis have alone, such as layers of experts

    def axes(self, axes: Axes) -> Axes:
        """Return `axes` in normal form."""
        return tuple(self.partition.resolve(axis) for axis in axes)


def trace(model: Model, *, renumbered: Collection[tuple[int, int]] = (), narrowed: Collection[str] = ()) -> Trace:
    """Return the axes of every tensor of `model`.

    Never fails on a graph that ONNX can read: what is not understood is locked, with its reason.

    Args:
        model: in plain form.
        renumbered: tables, as node and input slot, whose rows may be cut: who calls the model gives other indices then.
        narrowed: outputs of the graph whose last axis may be cut.
    """
    return _Tracer(model, probe(model), renumbered, narrowed).run()


class _Tracer:
    def __init__(
        self, model: Model, probed: Probe, renumbered: Collection[tuple[int, int]], narrowed: Collection[str]
    ) -> None:
        self.model = model
        self.probe = probed
        self.renumbered = renumbered
        self.narrowed = narrowed
        self.partition = Partition()
        self.values: dict[str, Axes] = {}
        self.sequences: dict[str, tuple[Axes, ...]] = {}  # the axes of each tensor
        self.couplings: dict[int, Coupling] = {}
        self.positions: dict[str, Positions] = {}
        self.uses: list[Use] = []
        bodies = [body for node in model.nodes for body in node.bodies]
        self.read = {*model.readers, *(name for body in bodies for name in body.outputs)}
        self.read.update(port.name for port in model.outputs)

    def run(self) -> Trace:
        self._inputs()
        self._graph(self.model.top)
        found = caches(self.model, self.values, self.partition.resolve)
        carried = {dim for cache in found for name in (cache.past, cache.present) for dim in _each(name, cache.dims)}
        self._ends(carried | {(name, len(self.values[name]) - 1) for name in self.narrowed if name in self.values})
        self._settle_choices()
        apart = self._units_apart()
        self._contract_dynamic()
        self._read_sizes()
        if not self.model.changes_io:
            self._keep(found)
        self._mix_streams()
        uses = tuple(self.uses)
        return Trace(self.model, self.probe, self.partition, self.values, self.couplings, uses, found, apart)

    def _graph(self, indices: Sequence[int]) -> None:
        """Trace the nodes of the main graph or of a body, each after the bodies inside of it."""
        for node in (self.model.nodes[index] for index in indices):
            if self._is_traced(node):
                self.couplings[node.index] = self._couple(node)

    # -- where axes come from ------------------------------------------------------------------------

    def _inputs(self) -> None:
        shared: dict[str, Axis] = {}
        for port in self.model.inputs:
            shape = self.probe.shape(port.name)
            if shape is None:
                continue
            keys = dict(dynamic_dims(port))
            axes = []
            for dim, size in enumerate(shape):
                key = keys.get(dim)
                axis = fresh(size, key or "s", dynamic=key is not None)
                if key is not None:
                    axis = shared.setdefault(key, axis)
                if port.role is not Role.PAST or key is not None:  # else it is looked at when its output is known
                    self.partition.lock(axis, self._port_lock(port.name, "input"))
                axes.append(axis)
            self.values[port.name] = tuple(axes)

    def _ends(self, carried: Container[tuple[str, int]]) -> None:
        """Lock the axes of outputs, and of the inputs that are not yet: all but those that a cache carries."""
        for port in self.model.outputs:
            for axes in (self._axes(port.name, -1, 0), *self.sequences.get(port.name, ())):
                self._lock_port(port.name, "output", axes, carried)
        for port in self.model.inputs:
            self._lock_port(port.name, "input", self.values.get(port.name), carried)

    def _lock_port(self, name: str, kind: str, axes: Axes | None, carried: Container[tuple[str, int]]) -> None:
        for dim, axis in enumerate(axes or ()):
            if (name, dim) not in carried:
                self.partition.lock(axis, self._port_lock(name, kind))

    def _port_lock(self, name: str, kind: str) -> Lock:
        return Lock(self._end(name) or f"it is part of the graph {kind} {name!r}", name)

    def _keep(self, found: Sequence[Cache]) -> None:
        """Lock what caches carry: whoever runs the model makes inputs of these sizes."""
        for cache in found:
            lock = Lock("it is part of a cache, which the model takes and gives back", cache.past)
            for dim in cache.dims:
                self.partition.lock(self.values[cache.past][dim], lock)

    def _end(self, name: str) -> str | None:
        """Return why no axis of a value is cut at which a part of a model ends, None for any other."""
        return None if self.model.whole is None else self.model.whole.ends.get(name)

    def _is_traced(self, node: Node) -> bool:
        outputs = [name for name in node.outputs if name]
        return bool(node.bodies) or not all(self._is_constant(name) for name in outputs)

    def _is_constant(self, name: str) -> bool:
        return name in self.model.constants or (name in self.probe.from_sizes and self.probe.is_known(name))

    def _axes(self, name: str, node: int, slot: int) -> Axes | None:
        """Return the axes of an input; constants get new ones for every use."""
        if name in self.values:
            return self.values[name]
        constant = self.model.constants.get(name)
        shape = constant.shape if constant else self.probe.shape(name)
        if shape is None or not (constant or self._is_constant(name)):
            return None
        axes = tuple(fresh(size, "w") for size in shape)
        if name in self.model.overridable:
            for axis in axes:
                self.partition.lock(axis, Lock(f"it is part of the graph input {name!r}, which has a default", name))
        self.uses.append(Use(node, slot, name, axes))
        return axes

    def _inner(self, name: str) -> Axes | None:
        """Return the axes of a value inside a body, for the node that has the body; a constant there stays whole."""
        known = name in self.values
        axes = self._axes(name, -1, 0)
        if not known:
            for axis in axes or ():
                self.partition.lock(axis, Lock("it is a fixed result of a branch or a loop", name))
        return axes

    # -- one node --------------------------------------------------------------------------------------

    def _couple(self, node: Node) -> Coupling:
        inputs = [self._axes(name, node.index, slot) if name else None for slot, name in enumerate(node.inputs)]
        unread = [name for name in node.outputs if name not in self.read]
        renumbered = [slot for index, slot in self.renumbered if index == node.index]
        site = Site(
            node, inputs, self.partition, self.probe,
            look_up=self._inner, sequences=self.sequences, unread=unread, renumbered=renumbered,
            positions=self.positions,
        )  # fmt: skip
        try:
            self._apply(site)
        except CannotUnify as refusal:
            self._refuse(site, str(refusal))
        except (OnnxpruneError, MemoryError):  # of the file or the machine, and not of this node
            raise
        except Exception as error:  # what no rule foresaw: one node that is not understood locks itself alone
            self._refuse(site, _failure(node, error))
        for name, axes in zip(node.outputs, site.coupling.outputs, strict=True):
            if name and axes is not None:
                self.values[name] = axes
        self._follow(node, site.followed)
        for slot, axes in enumerate(inputs):
            if slot not in site.coupling.read:
                self._lock(axes, f"its values steer {node.op}", node)
        return site.coupling

    def _follow(self, node: Node, followed: Collection[int]) -> None:
        """Hand positions on through nodes that only arrange them, and lock their axis where others read them."""
        for slot, name in enumerate((*node.inputs, *node.captured)):
            found = self.positions.get(name)
            if found is None or slot in followed or node.op in _SIZES:
                continue
            if node.op in _ARRANGING and slot == 0 and self._tells_apart(node.outputs, found.axis.size):
                self.positions.update(dict.fromkeys(node.outputs, found))
            else:
                self.partition.lock(found.axis, found.lock)

    def _tells_apart(self, names: Iterable[str], count: int) -> bool:
        """Whether values are of types that hold all numbers from 0 to a count, as bool and small floats do not."""
        types = {self.probe.dtype(name) for name in names if name}
        numbers = np.arange(count)
        return all(each.kind in "iufV" and (numbers.astype(each).astype(np.int64) == numbers).all() for each in types)

    def _apply(self, site: Site) -> None:
        node = site.node
        entry = rules.RULES.get(node.op)
        if entry is None or (node.bodies and entry.enter is None):
            why = rules.LOCKED.get(node.op, "has no rule")
            raise CannotUnify(f"{node.op} {'reads it inside a branch or loop' if node.captured else why}")
        for name, axes in zip(node.inputs, site.coupling.inputs, strict=True):
            if name and axes is None and name not in self.sequences:
                raise CannotUnify(f"the shape of {name!r} is unknown")
        if entry.enter is not None:
            entry.enter(site)
            self.values.update(site.body_inputs)
            for body in node.bodies:
                self._graph(body.nodes)
        entry.apply(site)
        for name, axes in zip(node.outputs, site.coupling.outputs, strict=True):
            shape = self.probe.shape(name)
            if name and shape is not None and tuple(a.size for a in axes or ()) != shape:
                raise CannotUnify(f"its rule gives {self._sizes(axes)} for {name!r} of shape {shape}")

    def _sizes(self, axes: Axes | None) -> Shape | None:
        return None if axes is None else tuple(axis.size for axis in axes)

    def _refuse(self, site: Site, reason: str) -> None:
        """Lock every axis that the node touches, and give its outputs new locked axes."""
        node = site.node
        coupling = site.coupling
        outer = (name for name in node.captured if not any(map(self._was_entered, node.bodies)))
        inner = [name for body in node.bodies for name in (*(port.name for port in body.inputs), *body.outputs)]
        captured = [self._axes(name, -1, 0) for name in outer]
        for axes in (*coupling.inputs, *coupling.outputs, *captured, *(self.values.get(name) for name in inner)):
            self._lock(axes, reason, node)
        coupling.writes.clear()
        coupling.chosen.clear()
        coupling.spread, coupling.alone = (), None
        site.followed.clear()
        for name in (*node.inputs, *node.captured, *inner, *node.outputs):
            for axes in self.sequences.get(name, ()):
                self._lock(axes, reason, node)
        coupling.contracted.clear()
        coupling.mixed.clear()
        coupling.is_exact = False
        coupling.hidden.clear()
        coupling.macs.clear()
        coupling.read.update(range(len(node.inputs)))
        for index, name in enumerate(node.outputs):
            shape = self.probe.shape(name)
            if shape is None:
                coupling.outputs[index] = None
                continue
            dynamic = [not self.probe.is_static(name, dim) for dim in range(len(shape))]
            axes = tuple(fresh(size, "u", flag) for size, flag in zip(shape, dynamic, strict=True))
            self._lock(axes, reason, node)
            coupling.outputs[index] = axes

    def _was_entered(self, body: Body) -> bool:
        """Whether some node of a body has been traced: it has taken part in what the body reads."""
        return any(index in self.couplings for index in body.nodes)

    def _lock(self, axes: Axes | None, reason: str, node: Node) -> None:
        for axis in axes or ():
            self.partition.lock(axis, Lock(reason, node.name))

    def _contract_dynamic(self) -> None:
        """Lock what is summed or mixed over as one axis with a dynamic size: no constant mask can tell its units."""
        for coupling in self.couplings.values():
            summed = [(coupling.inputs[slot] or ())[dim] for slot, dim in coupling.contracted]
            for verb, axes in (("sums", summed), ("mixes", coupling.mixed)):
                for axis in axes:
                    if any(atom.dynamic for atom in self.partition.atoms(axis)):
                        reason = f"{coupling.node.op} {verb} over it and a dynamic size at once"
                        self._lock((axis,), reason, coupling.node)

    def _settle_choices(self) -> None:
        """Lock what is picked from where that is no axis of its own; a share among all of it then is no mixture.

        A softmax over scores of which some are the worst that there are gives these nothing: it goes over the others.
        """
        chosen: set[Atom] = set()
        for coupling in self.couplings.values():
            for choice in coupling.chosen:
                axis = self.partition.resolve((coupling.inputs[choice.slot] or ())[choice.dim])
                if isinstance(axis, Atom):
                    chosen.add(axis)
                else:
                    reason = f"{coupling.node.op} picks from {self.partition.show(axis)}, which is no axis of its own"
                    self._lock((axis,), reason, coupling.node)
        others = (each for each in self.couplings.values() if each.node.op not in _SHARES)
        mixed = {atom for each in others for axis in each.mixed for atom in self.partition.atoms(axis)}
        for atom in chosen - mixed:
            self.partition.unmix(atom)

    def _units_apart(self) -> dict[Atom, Apart]:
        """Return what units of each axis have alone; lock axes where that is not understood."""
        all_apart = units_apart(self.model, self.probe, self.partition, self.couplings)
        for atom, each in all_apart.items():
            if isinstance(each, Lock):
                self.partition.lock(atom, each)
        return {atom: each for atom, each in all_apart.items() if isinstance(each, Apart)}

    def _mix_streams(self) -> None:
        """Let what is averaged over in a stream be cut only when that is asked for; elsewhere it is exact."""
        averaged = {atom: lock for atom, lock in self.partition.averaged().items() if not self.partition.lock_of(atom)}
        for atom in streams(self.model, self.partition, self.values, self.couplings, averaged):
            self.partition.mix(atom, averaged[atom])

    # -- sizes used as data ----------------------------------------------------------------------------

    def _read_sizes(self) -> None:
        """Lock the axes whose sizes enter the data in a way that no number can replace.

        That is together with a dynamic size, or as an output of the graph, or inside a branch or loop.
        """
        finder = SizeFinder(self.model, self.probe, self.values)
        for use in self.uses:
            name = use.constant
            inside = use.node >= 0
            if name in self.model.constants or (inside and self.probe.static_value(name) is not None):
                continue
            coupling = self.couplings.get(use.node)
            if coupling is not None and any(write.target == use.slot for write in coupling.writes):
                continue
            why = (
                "used as data together with a dynamic size" if inside else "read by a graph output, a branch or a loop"
            )
            lock = Lock(f"its size is {why}", self.model.nodes[use.node].name if inside else name)
            for axis in finder.axes(name):
                self.partition.lock(axis, lock)


def _each(name: str, dims: Iterable[int]) -> Iterator[tuple[str, int]]:
    return ((name, dim) for dim in dims)


def _failure(node: Node, error: Exception) -> str:
    """Return the reason that an exception inside a rule is; see `_MISFITS`."""
    fault = (
        f"the attributes of {node.op} do not fit its inputs"
        if isinstance(error, _MISFITS)
        else (f"the rule of {node.op} failed")
    )
    return f"{fault} ({type(error).__name__}: {' '.join(str(error).split())[:REASON_LENGTH] or 'no message'})"


class SizeFinder:
    """Finds the axes whose sizes a value is computed from."""

    def __init__(self, model: Model, probed: Probe, values: Mapping[str, Axes]) -> None:
        self._producer = {name: node for node in model.nodes for name in node.outputs if name}
        self._probe = probed
        self._values = values
        self._found: dict[str, frozenset[Axis]] = {}

    def axes(self, name: str) -> frozenset[Axis]:
        """Return the axes of runtime tensors whose sizes determine the value `name`."""
        if name not in self._found:
            pending = [name]
            while pending:  # an explicit stack: size arithmetic can be thousands of nodes deep
                missing = [i for i in self._sources(pending[-1]) if i not in self._found]
                if missing:
                    pending.extend(missing)
                else:
                    self._found[pending[-1]] = self._here(pending[-1])
                    pending.pop()
        return self._found[name]

    def _sources(self, name: str) -> list[str]:
        node = self._producer.get(name)
        if node is None or name not in self._probe.from_sizes or self._picked(node) is not None:
            return []
        return [] if node.op in ("Shape", "Size") else [i for i in node.inputs if i]

    def _here(self, name: str) -> frozenset[Axis]:
        node = self._producer.get(name)
        if node is None or name not in self._probe.from_sizes:
            return frozenset()
        picked = self._picked(node)
        if picked is not None:
            return frozenset(picked)
        if node.op in ("Shape", "Size"):
            return frozenset(self._measured(node))
        return frozenset().union(*(self._found[i] for i in node.inputs if i))

    def _measured(self, node: Node) -> Axes:
        """Return the axes whose sizes a Shape or Size reads."""
        return self._values.get(node.inputs[0], ())[node.attrs.get("start", 0) : node.attrs.get("end")]

    def _picked(self, node: Node) -> Sequence[Axis] | None:
        """Return the axes that a Gather or Slice of a Shape picks, None for any other node."""
        shape = self._producer.get(node.inputs[0]) if node.inputs else None
        if shape is None or shape.op != "Shape" or shape.inputs[0] not in self._values:
            return None
        axes = self._measured(shape)
        if node.op == "Slice" and node.version < 10:
            return axes[node.attrs["starts"][0] : node.attrs["ends"][0]]
        steering = [self._probe.static_value(name) for name in node.inputs[1:]]
        if node.op == "Gather" and steering[0] is not None:
            return [axes[int(i)] for i in steering[0].ravel()]
        whole = node.op != "Slice" or (len(node.inputs) != 3 and any(node.inputs[4:]))  # with steps: any of them
        if whole or steering[0] is None or steering[1] is None:
            return None
        return axes[int(steering[0].item()) : int(steering[1].item())]
