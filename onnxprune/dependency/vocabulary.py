"""The vocabulary of a model: the tables that ids of tokens are looked up in, and the outputs that score every token.

Nothing has to be known of architectures. An input whose integers index a table of the model holds ids; where several
inputs do (tokens, segments, places), the *vocabulary* is the table with the most rows. An output of floats whose last
axis has as many entries, and is not made of the width of the table, scores them.

Rows of the table and entries of the scores are axes like any other once they need not stay as they are: the trace of
`opened` leaves them free, so that all that hangs on them (a tied head, its bias, scales of blocks) is known by the
rules of the operators.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnxprune.dependency.axes import Atom, Axis
from onnxprune.dependency.trace import Trace, trace
from onnxprune.errors import OptionError
from onnxprune.graph.model import Model, Node
from onnxprune.graph.ports import Role
from onnxprune.graph.shapes.probe import Probe, probe

# Operators that look indices up: by slot of the indices, the slot of the table, and the attribute of the axis, if any.
_LOOKUPS: Mapping[str, Mapping[int, tuple[int, str | None]]] = {
    "Gather": {1: (0, "axis")},
    "com.microsoft.GatherBlockQuantized": {1: (0, "gather_axis")},
    "com.microsoft.EmbedLayerNormalization": {0: (2, None), 1: (4, None)},
}
# Operators that give ids as they get them, in another arrangement or type.
_COPIES = frozenset(
    ("Cast", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
)
_SIZES = frozenset(("Shape", "Size"))  # look at no id
_ORDER = frozenset(("ArgMax", "ArgMin"))  # look at the order of ids alone, which renumbering keeps


@dataclass(frozen=True)
class Vocabulary:
    """Where a model has one number for each token."""

    size: int  # tokens
    inputs: tuple[str, ...]  # that hold ids
    outputs: tuple[str, ...]  # that score every token, in their last axis
    compared: tuple[tuple[int, int], ...]  # node and slot of constants that ids are compared with
    traced: Trace = field(repr=False)  # in which it may be cut
    atoms: tuple[Atom, ...] = field(repr=False)  # of all these axes


@dataclass
class _Ids:
    """What becomes of the ids of one input."""

    name: str
    tables: dict[tuple[int, int], int] = field(default_factory=dict)  # node and slot -> the axis that is indexed
    rows: set[int] = field(default_factory=set)
    compared: list[tuple[int, int]] = field(default_factory=list)
    other: Node | None = None  # that reads ids in another way
    output: str | None = None  # that gives them back


def vocabulary(model: Model, scored: int | None = None) -> Vocabulary:
    """Return the vocabulary of a model.

    Args:
        model: in plain form.
        scored: how many tokens it scores whose ids it does not take; None where it takes ids.

    Raises:
        OptionError: when no input holds ids, when something else depends on them, and when the tables or the scores
            cannot be cut; says why.
    """
    probed = probe(model)
    followed = [_followed(model, probed, port.name) for port in model.inputs if port.role is not Role.POSITIONS]
    found = [ids for ids in followed if ids.rows]
    if scored is not None:
        return _scored(model, probed, scored)
    if not found:
        named = ", ".join(port.name for port in model.inputs)
        raise OptionError(f"vocabulary: no input of the model ({named}) holds indices into a table of it")
    size = most_rows(max(ids.rows) for ids in found)
    own = [ids for ids in found if size in ids.rows]
    for ids in own:
        _check_followed(ids)
    return _opened(model, probed, size, own)


def most_rows(rows: Iterable[int]) -> int:
    """Return how many tokens there are, by the rows of the tables that inputs index: other tables have fewer."""
    return max(rows, default=0)


def _scored(model: Model, probed: Probe, size: int) -> Vocabulary:
    """Return the vocabulary of a model that scores tokens, and takes something else than their ids."""
    wide = next((port.name for port in model.inputs if (probed.shape(port.name) or (0,))[-1] == size), None)
    if wide is not None:
        raise OptionError(
            f"vocabulary: input {wide!r} is as wide as there are tokens, {size}: which outputs score tokens cannot be "
            "told"
        )
    words = _opened(model, probed, size, ())
    if not words.outputs:
        raise OptionError(f"vocabulary: no output of the model scores {size} tokens")
    return words


def _followed(model: Model, probed: Probe, name: str) -> _Ids:
    """Return what reads the values of an input, as far as they are ids."""
    ids, waiting, seen = _Ids(name), [name], {name}
    outputs = {port.name for port in model.outputs}
    while waiting:
        ids.output = waiting[-1] if waiting[-1] in outputs else ids.output
        for index, slot in model.readers.get(value := waiting.pop(), ()):
            node = model.nodes[index]
            table = _LOOKUPS.get(node.op, {}).get(slot)
            if slot < 0 or node.op in _SIZES or node.op in _ORDER:
                continue
            if table is not None and node.inputs[table[0]] in model.fixed:
                shape = probed.shape(node.inputs[table[0]]) or ()
                axis = node.attrs.get(table[1], 0) % max(1, len(shape)) if table[1] else 0
                ids.tables[index, table[0]] = axis
                ids.rows.update(shape[axis : axis + 1])
            elif node.op in _COPIES and slot == 0:
                waiting.extend(set(node.outputs) - seen)
                seen.update(node.outputs)
            elif node.op == "Equal" and node.inputs[1 - slot] in model.constants:
                ids.compared.append((index, 1 - slot))
            else:
                ids.other = ids.other or (node if value != "" else None)
    return ids


def _check_followed(ids: _Ids) -> None:
    """Raise OptionError where more than looking up depends on ids."""
    if ids.other is not None:
        raise OptionError(
            f"vocabulary: {ids.other} computes with the ids of input {ids.name!r}, which new ones would change; only "
            "what is looked up in tables, or compared with known ids, can be renumbered"
        )
    if ids.output is not None:
        raise OptionError(
            f"vocabulary: output {ids.output!r} gives the ids of input {ids.name!r} back, which would be others"
        )
    if len(ids.rows) > 1:
        sizes = ", ".join(map(str, sorted(ids.rows)))
        raise OptionError(f"vocabulary: input {ids.name!r} indexes tables of {sizes} rows: give it tables of one size")


def _opened(model: Model, probed: Probe, size: int, own: Sequence[_Ids]) -> Vocabulary:
    """Return the vocabulary in a trace in which it may be cut."""
    tables = {place: axis for ids in own for place, axis in ids.tables.items()}
    scores = [port.name for port in model.outputs if port.dtype is not None and port.dtype.kind in "fV"]
    scores = [name for name in scores if (probed.shape(name) or (0,))[-1] == size]
    traced = trace(model, renumbered=tables, narrowed=scores)
    rows, widths = dict[Atom, None](), set[Atom]()
    for (index, slot), axis in tables.items():
        axes = traced.axes(traced.couplings[index].inputs[slot] or ())
        rows[_atom(traced, axes[axis], f"the table of {model.nodes[index]}")] = None
        widths.update(atom for dim, each in enumerate(axes) if dim != axis for atom in traced.partition.atoms(each))
    outputs, kept = [], {cache.present for cache in traced.caches}
    for name in (name for name in scores if name not in kept):
        last = traced.axes(traced.values[name])[-1]
        if widths.isdisjoint(traced.partition.atoms(last)):
            if any(atom.size == size for atom in widths):
                raise OptionError(
                    f"vocabulary: the table has as many columns as rows, {size}: whether output {name!r} scores tokens "
                    "cannot be told"
                )
            rows[_atom(traced, last, f"output {name!r}")] = None
            outputs.append(name)
    if len(outputs) < len(scores):  # what is no score is locked again
        traced = trace(model, renumbered=tables, narrowed=outputs)
        rows = dict.fromkeys(_again(traced, tables, outputs))
    _check_summed(traced, rows)
    compared = tuple(place for ids in own for place in ids.compared)
    return Vocabulary(size, tuple(ids.name for ids in own), tuple(outputs), compared, traced, tuple(rows))


def _check_summed(traced: Trace, rows: Collection[Atom]) -> None:
    """Raise OptionError where a node sums over tokens: of those that go, their part would be missing."""
    for coupling in traced.couplings.values():
        axes = [(coupling.inputs[slot] or ())[dim] for slot, dim in coupling.contracted]
        if any(atom in rows for axis in axes for atom in traced.partition.atoms(axis)):
            raise OptionError(
                f"vocabulary: {coupling.node} sums over all tokens: fewer of them would change its result"
            )


def _again(traced: Trace, tables: Mapping[tuple[int, int], int], outputs: Sequence[str]) -> Iterator[Atom]:
    """Yield the atoms of tables and outputs."""
    for (index, slot), axis in tables.items():
        axes = traced.axes(traced.couplings[index].inputs[slot] or ())
        yield _atom(traced, axes[axis], f"the table of {traced.model.nodes[index]}")
    for name in outputs:
        yield _atom(traced, traced.axes(traced.values[name])[-1], f"output {name!r}")


def _atom(traced: Trace, axis: Axis, where: str) -> Atom:
    """Return the one atom of an axis.

    Raises:
        OptionError: when there is more than one, or it is locked or normalised over.
    """
    if not isinstance(axis, Atom):
        raise OptionError(f"vocabulary: {where} is made of parts, {traced.partition.show(axis)}: it cannot be cut")
    why = traced.partition.lock_of(axis) or traced.partition.mix_of(axis)
    if why is not None:
        raise OptionError(f"vocabulary: {where} cannot be cut: {why}")
    return axis
