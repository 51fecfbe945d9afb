"""Unfitted: the nodes with weights that lost units but cannot be refitted, each with the reason.

They keep the plain cut. Without them in the report, they would look like nodes that needed no fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnxprune.dependency.groups import Group, Member
from onnxprune.graph.linear import is_float, why_no_layer
from onnxprune.graph.model import Model, Node
from onnxprune.recovery.refit import Refitted, parts


def unfitted(
    model: Model, cut: Iterable[Group], pruned: Model, *, linear: bool = True, batch_norm: bool = True
) -> list[Refitted]:
    """Return the nodes that make or consume removed units with a weight and are none of the parts of `refit`.

    What went as a whole, such as the layers of an expert, needs no fit.

    Args:
        model: the original.
        cut: the groups that lost units.
        pruned: what `rewrite` made of it.
        linear: whether linear layers are fitted.
        batch_norm: whether statistics of BatchNormalizations are estimated anew.
    """
    fitted = set(_outputs(pruned, linear, batch_norm))
    after = {node.outputs[0]: node for node in pruned.nodes if node.outputs}
    roles = ("in", "out") * linear + ("scale",) * batch_norm
    outcomes: dict[int, Refitted] = {}
    for member in (member for group in cut for member in group.members if member.role in roles):
        node = model.nodes[member.sink[0]]
        if node.index not in outcomes and node.outputs[0] in after and not fitted.intersection(node.outputs):
            why = _why_not(model, member, after[node.outputs[0]], pruned)
            outcomes[node.index] = Refitted(node.name, node.op, None, None, None, why)
    return [outcomes[index] for index in sorted(outcomes)]


def _outputs(pruned: Model, linear: bool, batch_norm: bool) -> Iterator[str]:
    """Yield the outputs of the parts that are fitted, also those of a normalisation behind a layer."""
    for part in parts(pruned, linear, batch_norm):
        yield from (part.node.outputs[0], part.output)


def _why_not(model: Model, member: Member, node: Node, pruned: Model) -> str:
    if not is_float(model.constants[member.constant].dtype):
        return "its weight is quantized"
    if node.op == "BatchNormalization":
        return "it is inside a body" if node.index not in pruned.top else "its statistics are no constants of its own"
    return why_no_layer(node, pruned)
