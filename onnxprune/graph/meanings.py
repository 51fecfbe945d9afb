"""What the inputs of a model mean, as far as the nodes that read them tell: indices into a table, words, a scale.

Each meaning is found by going backwards from the operators that reveal it, through those that leave the contents of a
tensor as they are. It lies in a field of `Port`; `runtime.random_feeds` makes values that suit it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from onnxprune.graph.model import Constant, Node
from onnxprune.graph.ports import Port

_REARRANGING = frozenset(
    ("Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
)
# Attributes that list the words which an operator knows.
_WORDS = ("keys_strings", "cats_strings", "string_vocabulary", "pool_strings", "classlabels_strings")
_OF_WORDS = frozenset(("LabelEncoder", "CategoryMapper", "OneHotEncoder", "DictVectorizer", "TfIdfVectorizer"))
_SCALES: Mapping[str, int] = {"Resize": 2, "Upsample": 1}  # op -> slot of its scales


def with_meanings(inputs: Iterable[Port], nodes: Sequence[Node], constants: Mapping[str, Constant]) -> tuple[Port, ...]:
    """Return inputs with what the nodes tell of them."""
    bounds, words, scales = _index_bounds(nodes, constants), _words(nodes), _scales(nodes)
    return tuple(
        replace(port, below=bounds.get(port.name), words=words.get(port.name, ()), is_scale=port.name in scales)
        for port in inputs
    )


def _index_bounds(nodes: Sequence[Node], constants: Mapping[str, Constant]) -> dict[str, int]:
    """Return for values that are indices into constants (token ids) how many entries the smallest of these has."""
    bounds: dict[str, int] = {}
    for node in reversed(nodes):
        bound = min((bounds[name] for name in node.outputs if name in bounds), default=None)
        source = None
        if node.op == "Gather" and node.inputs[0] in constants:
            shape, axis = constants[node.inputs[0]].shape, node.attrs.get("axis", 0)
            source, bound = node.inputs[1], shape[axis] if -len(shape) <= axis < len(shape) else None
        elif node.op in _REARRANGING and node.inputs:
            source = node.inputs[0]
        if source and bound is not None:
            bounds[source] = min(bound, bounds.get(source, bound))
    return bounds


def _words(nodes: Sequence[Node]) -> dict[str, tuple[str, ...]]:
    """Return for values that are text the words that the operators which read them know."""
    words: dict[str, tuple[str, ...]] = {}
    for node in reversed(nodes):
        own = next((words[name] for name in node.outputs if name in words), ())
        if node.op.rsplit(".", maxsplit=1)[-1] in _OF_WORDS:
            own = next((tuple(node.attrs[name]) for name in _WORDS if node.attrs.get(name)), ())
        elif node.op not in (*_REARRANGING, "Concat", "StringNormalizer"):
            own = ()
        for name in node.inputs if own else ():
            words[name] = tuple(dict.fromkeys((*words.get(name, ()), *own)))
    return words


def _scales(nodes: Sequence[Node]) -> frozenset[str]:
    """Return the values that say how many times as large a Resize makes its input."""
    scales: set[str] = set()
    for node in reversed(nodes):
        slot = _SCALES.get(node.op)
        if slot is not None and slot < len(node.inputs):
            scales.add(node.inputs[slot])
        elif node.op in (*_REARRANGING, "Concat") and not scales.isdisjoint(node.outputs):
            scales.update(_numbers(node))
    return frozenset(scales)


def _numbers(node: Node) -> Iterator[str]:
    """Yield the inputs whose contents a node only rearranges."""
    yield from node.inputs if node.op == "Concat" else node.inputs[:1]
