"""What follows for values that unknown operators make from those that read them: the type, and often the rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx

from onnxprune.graph.forms.parts import element_types
from onnxprune.graph.forms.remainder import Dims, ValueType, remainder
from onnxprune.graph.model import Model
from onnxprune.graph.shapes.probe import probe

_RANKS = range(6)  # that are tried
_MOST = 8  # values whose rank is looked for
_LIKELY = ("float", "int64", "int32", "bool", "float16", "double", "string")  # where an operator takes several types


def deduced_types(
    model: Model, left_out: Mapping[str, str], shapes: Mapping[str, Sequence[int]]
) -> dict[str, ValueType]:
    """Return the types of values of unknown shape, which nodes that are left out make and others read.

    The element type is one that all readers take. The rank is that of the shape which the caller states, or the only
    one with which all nodes behind can take their inputs and which gives the values behind the shapes that the file
    states. A size is known where a reader multiplies the value with a constant.

    Args:
        model: in plain form.
        left_out: as for `remainder`.
        shapes: that the caller states, by name.
    """
    types: dict[str, ValueType] = {}
    kinds = element_types(model)
    part = remainder(model, left_out)
    for name in unknown_values(part)[:_MOST]:
        kind = _kind(model, name, kinds)
        stated = shapes.get(name)
        tried: list[Dims] = [*_by_rank(model, name)]
        if stated is not None:
            tried = [[None, *stated[1:]], list(stated), [None] * len(stated)]
        fitting = [dims for dims in tried if _fits(model, left_out, {**types, name: (kind, dims)}, part)]
        if stated is not None or len(fitting) == 1:
            types[name] = kind, (fitting or tried[1:])[0]
            part = remainder(model, left_out, types)
    return types


def _by_rank(model: Model, name: str) -> list[list[int | None]]:
    """Return dims of every rank that is tried, with the sizes that readers say: None for an unknown one."""
    known = [pair for index, slot in model.readers.get(name, ()) if (pair := _multiplied(model, index, slot))]
    shapes: list[list[int | None]] = [[None] * rank for rank in _RANKS]
    for at, size in known:
        for shape in shapes:
            if -len(shape) <= at < len(shape):
                shape[at] = size
    return shapes


def _multiplied(model: Model, index: int, slot: int) -> tuple[int, int] | None:
    """Return dim and size of a value that a node multiplies with a constant of known shape; None for other nodes."""
    node = model.nodes[index]
    weight = model.constants.get(node.inputs[1]) if slot == 0 and len(node.inputs) > 1 else None
    if weight is None or len(weight.shape) < 2:
        return None
    if node.op == "Conv":
        return 1, weight.shape[1] * int(node.attrs.get("group", 1))
    if node.op == "Gemm":
        return (0 if node.attrs.get("transA", 0) else 1), weight.shape[1 if node.attrs.get("transB", 0) else 0]
    return (-1, weight.shape[-2]) if node.op == "MatMul" else None


def unknown_values(part: Model) -> list[str]:
    """Return the values of unknown shape that nodes make which are left out for their own sake, and others read."""
    if part.whole is None:
        return []
    made = {name for each in part.whole.causes for name in each.makes}
    reads = [name for each in part.whole.left_out if not each.is_cause for name in each.reads]
    return [name for name in dict.fromkeys(reads) if name in made]


def _fits(model: Model, left_out: Mapping[str, str], types: Mapping[str, ValueType], before: Model) -> bool:
    """Whether all nodes behind values of these types can take their inputs, and give the outputs that are stated."""
    part = remainder(model, left_out, types)
    if len(part.nodes) <= len(before.nodes):
        return False
    probed = probe(part)
    if any(setting.misfits for setting in probed.settings):
        return False
    stated = {port.name: port.shape for port in model.outputs} | model.value_shapes
    for name in (name for node in part.nodes for name in node.outputs if name):
        shape, sizes = stated.get(name), probed.sizes(name)
        if shape is None or sizes is None:
            continue
        static = [(dim, size[0]) for dim, size in zip(shape, sizes, strict=False) if len(set(size)) == 1]
        if len(shape) != len(sizes) or any(isinstance(dim, int) and dim != size for dim, size in static):
            return False
    return True


def _kind(model: Model, name: str, kinds: Mapping[str, int]) -> int:
    """Return an ONNX element type that all readers of a value take: float32 where that is one."""
    if name in kinds:
        return kinds[name]
    allowed: set[str] | None = None
    for index, slot in model.readers.get(name, ()):
        own = set(_allowed(model, index, slot, kinds))
        allowed = own if allowed is None or not own else (allowed & own or allowed)
    likely = next((each for each in _LIKELY if f"tensor({each})" in (allowed or ())), "float")
    return int(onnx.TensorProto.DataType.Value(likely.upper()))


def _allowed(model: Model, index: int, slot: int, kinds: Mapping[str, int]) -> Iterator[str]:
    """Yield the types that an operator takes in a slot, as onnx writes them; of its other inputs, where it says so."""
    proto, node = model.protos[index], model.nodes[index]
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    try:
        schema = onnx.defs.get_schema(proto.op_type, node.version, domain)
    except onnx.defs.SchemaError:
        return
    formal = [schema.inputs[min(place, len(schema.inputs) - 1)].type_str for place in range(len(node.inputs))]
    if slot < 0 or not schema.inputs:
        return
    alike = [each for each, text in zip(node.inputs, formal, strict=True) if text == formal[slot]]
    peers = [kinds[each] for each in alike if each in kinds]
    if peers:
        yield f"tensor({onnx.TensorProto.DataType.Name(peers[0]).lower()})"
        return
    constraint = next((each for each in schema.type_constraints if each.type_param_str == formal[slot]), None)
    yield from [formal[slot]] if constraint is None else constraint.allowed_type_strs
