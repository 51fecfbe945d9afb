"""A model in which every If of the main graph is replaced by the branch that runs.

Merged decoders hold the whole network twice, in the branches of an If: for a text from its first token on, and for a
token behind a cache (https://onnx.ai/onnx/operators/onnx__If.html). What looks at layers one after the other sees none
of them inside of a body. For inputs that all take the same branch, the model without the If computes the same, value
by value and under the same names, and its layers lie in the main graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnx import GraphProto, ModelProto, NodeProto, helper

from onnxprune.graph.bodies import copy_fields
from onnxprune.graph.model import Model, Node
from onnxprune.graph.ports import Role
from onnxprune.graph.view import view

_BRANCH = {True: "then_branch", False: "else_branch"}


def switches(model: Model) -> list[Node]:
    """Return the Ifs of the main graph that have weights of two dims and more inside, in order."""
    matrices = {name for name, constant in model.constants.items() if constant.is_weight and len(constant.shape) > 1}
    tops = (model.nodes[index] for index in model.top)
    inside = {name for name in matrices if any(at not in model.top for at, _ in model.readers.get(name, ()))}
    return [node for node in tops if node.op == "If" and _reads(model, node, inside)]


def _reads(model: Model, node: Node, names: set[str]) -> bool:
    """Whether a node in a body of a node, at any depth, reads one of some values."""
    inner = (model.nodes[index] for body in node.bodies for index in body.nodes)
    return any(not names.isdisjoint(each.inputs) or _reads(model, each, names) for each in inner)


def straight(model: Model, taken: Mapping[str, bool]) -> Model:
    """Return a model whose Ifs are replaced by the nodes of the branch that runs; inputs and outputs are the same.

    Args:
        model: in plain form, so that no two values of it, in whichever graph, have one name.
        taken: the condition of each If of the main graph that is replaced, by the name of its first output. The
            condition is not looked at any more, nor is the other branch.
    """
    proto = ModelProto()
    copy_fields(model.proto, proto, skip={"graph"})
    copy_fields(model.proto.graph, proto.graph, skip={"node"})
    for node in model.proto.graph.node:
        condition = next((taken[name] for name in node.output if name in taken), None)
        if node.op_type != "If" or condition is None:
            proto.graph.node.append(node)
        else:
            _replace(node, condition, proto.graph)
    seen = view(proto, folder=model.folder, is_plain=True)
    return replace(
        seen, inputs=model.inputs, overridable=model.overridable, sizes=model.sizes, fits=model.fits,
        changes_io=model.changes_io, handed_on=model.handed_on, stamps=model.stamps,
    )  # fmt: skip


def begins_apart(model: Model) -> bool:
    """Whether an If whose bodies have layers asks for a past: texts run one of them from their first token on."""
    return bool(_without_past(model))


def begun(model: Model) -> Model:
    """Return a model as texts run it from their first token on, without the inputs that are read behind a past alone.

    Args:
        model: in plain form, that `begins_apart`.
    """
    body = straight(model, _without_past(model))
    unread = {port.name for port in body.inputs if model.readers.get(port.name) and not body.readers.get(port.name)}
    for info in [info for info in body.proto.graph.input if info.name in unread]:
        body.proto.graph.input.remove(info)
    return replace(body, inputs=tuple(port for port in body.inputs if port.name not in unread))


def _without_past(model: Model) -> dict[str, bool]:
    """Return the conditions where there is no past of the Ifs that ask for one, by the first output of each."""
    flags = {port.name for port in model.inputs if port.role is Role.BRANCH}
    return {node.outputs[0]: False for node in switches(model) if node.inputs[0] in flags}


def _replace(node: NodeProto, condition: bool, graph: GraphProto) -> None:
    """Append the nodes of a branch of an If to a graph, and what gives its outputs their names."""
    body = next(attribute.g for attribute in node.attribute if attribute.name == _BRANCH[condition])
    graph.node.extend(body.node)
    graph.initializer.extend(body.initializer)
    graph.value_info.extend(body.value_info)
    for inner, outer in zip(body.output, node.output, strict=True):
        if outer:
            graph.node.append(helper.make_node("Identity", [inner.name], [outer], name=f"{node.name}:{outer}"))
