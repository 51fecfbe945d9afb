"""Which part of a model ONNX Runtime can run here: all of it, mostly.

A file may hold plug-ins of other runtimes, operators of libraries that are not installed, or types without a kernel.
The rest of it can be run, calibrated and proven all the same: see `graph.forms.remainder`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from onnxprune.dependency.rules import LOCKED, RULES
from onnxprune.errors import ModelError
from onnxprune.graph.files.checks import is_standard, skeleton
from onnxprune.graph.files.encode import fits_one_message, serialize
from onnxprune.graph.forms.parts import element_types, lone
from onnxprune.graph.forms.remainder import key_of, remainder
from onnxprune.graph.model import Model, Node
from onnxprune.graph.shapes.deduce import deduced_types
from onnxprune.graph.shapes.probe import probe
from onnxprune.runtime.session import open_session

_NO_OPERATOR = ("not a registered function/op", "No Op registered", "not registered")
_NO_KERNEL = "Could not find an implementation"
_OWN_MODEL = "it runs a model of its own, which is pruned and proven by itself"
_NO_SHAPE = "nobody knows the shapes of what it makes"
_KNOWN = RULES.keys() | LOCKED.keys()
_NO_SHAPES: Mapping[str, Sequence[int]] = MappingProxyType({})


def runnable_part(model: Model, shapes: Mapping[str, Sequence[int]] = _NO_SHAPES) -> Model:
    """Return the model itself where ONNX Runtime can run it, else the part of it that it can run.

    A body that no rule leads into, as the decoder of a BeamSearch, becomes part of the rest: what is in it is pruned
    and proven by itself.

    Args:
        model: in plain form.
        shapes: that the caller states for inputs, and for values that nodes make which cannot be run.
    """
    left_out = {key_of(node): _OWN_MODEL for node in model.nodes if _has_own_model(model, node)}
    refused = _refused(model)
    left_out |= _unshaped(model) if not refused else {}
    if not left_out and not refused:
        return model
    part = model
    while True:
        left_out |= refused
        types = deduced_types(model, left_out, shapes)
        part = remainder(model, left_out, types)
        refused = {name: why for name, why in _refused(part).items() if name not in left_out}
        if not refused:
            return part


def _unshaped(model: Model) -> dict[str, str]:
    """Return the custom operators that run here, but of whose outputs nobody knows the shape that others read."""
    custom = [node for node in (model.nodes[i] for i in model.top) if "." in node.op and node.op not in _KNOWN]
    if not custom:
        return {}
    shapes = probe(model)
    unknown = [node for node in custom if any(n in model.readers and shapes.shape(n) is None for n in node.outputs)]
    return {key_of(node): _NO_SHAPE for node in unknown}


def _has_own_model(model: Model, node: Node) -> bool:
    """Whether a node of the main graph has bodies that no rule leads into, with weights inside."""
    entry = RULES.get(node.op)
    if not node.bodies or node.index not in model.top or (entry is not None and entry.enter is not None):
        return False
    return any(_holds_weights(model, index) for body in node.bodies for index in body.nodes)


def _holds_weights(model: Model, index: int) -> bool:
    node = model.nodes[index]
    constants = (model.constants[name] for name in node.inputs if name in model.constants)
    inner = (each for body in node.bodies for each in body.nodes)
    return any(c.is_weight and len(c.shape) > 1 for c in constants) or any(_holds_weights(model, i) for i in inner)


# -- what ONNX Runtime refuses ---------------------------------------------------------------------------


def _refused(model: Model) -> dict[str, str]:
    """Return the nodes of the main graph that ONNX Runtime refuses by themselves, with why; none if it takes the whole.

    The model is tried without its large weights first: that is cheap, and says yes of nearly every file.
    """
    proto = skeleton(model.proto, for_checker=False)
    if not fits_one_message(proto) or _error(serialize(proto)) is None:
        return {}
    kinds = element_types(model)
    errors: dict[bytes, str | None] = {}
    refused: dict[str, str] = {}
    for node in (model.nodes[index] for index in model.top):
        if not key_of(node) or key_of(node) in model.constants:
            continue
        form = _form(model, node, kinds)
        if form not in errors:
            errors[form] = _error(serialize(lone(model, node, kinds)))
        error = errors[form]
        if error is not None and _is_unsupported(error, node, kinds):
            refused[key_of(node)] = _in_words(error, node)
    return refused


def _error(content: bytes) -> str | None:
    """Return what ONNX Runtime says against a model, None if it loads."""
    try:
        open_session(content, optimize=False)
    except ModelError as error:
        return str(error)
    return None


def _form(model: Model, node: Node, kinds: Mapping[str, int]) -> bytes:
    """Return a key that is equal for nodes which ONNX Runtime treats alike: operator, attributes, types."""
    if node.bodies:
        return str(node.index).encode()
    proto = type(model.protos[node.index])()
    proto.CopyFrom(model.protos[node.index])
    proto.name = proto.doc_string = ""
    del proto.input[:], proto.output[:], proto.metadata_props[:]
    types = [(kinds.get(name), name in model.constants) for name in node.inputs]
    return proto.SerializeToString(deterministic=True) + repr((types, len(node.outputs))).encode()


def _is_unsupported(error: str, node: Node, kinds: Mapping[str, int]) -> bool:
    """Whether ONNX Runtime lacks what a node needs; other errors about a standard operator are faults of the file."""
    knows_types = all(name in kinds for name in (*node.inputs, *node.captured) if name)
    return _is_missing(error) or (knows_types and (_NO_KERNEL in error or not is_standard(node.op, node.version)))


def _is_missing(error: str) -> bool:
    return any(text in error for text in _NO_OPERATOR)


def _in_words(error: str, node: Node) -> str:
    """Return as a clause why ONNX Runtime refuses a node."""
    if _is_missing(error) and node.op in RULES and node.bodies:
        return "ONNX Runtime lacks an operator in a body of it"
    if _is_missing(error):
        near = _near(node)
        return "ONNX Runtime has no such operator here" + (f" (did you mean {near}?)" if near else "")
    if _NO_KERNEL in error:
        return "ONNX Runtime has no kernel for its types on the CPU"
    return f"ONNX Runtime refuses it: {error.partition(': ')[2].rpartition(', Error ')[2]}"


def _near(node: Node) -> str | None:
    """Return the operator of the default domain that is spelled nearly as this one."""
    known = [op for op in RULES if "." not in op]
    return None if "." in node.op else next(iter(difflib.get_close_matches(node.op, known, 1, 0.75)), None)
