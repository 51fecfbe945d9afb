"""What the inputs of a model mean: indices into a table, words, a scale, the past of a text.

Most meanings are found by going backwards from the operators that reveal them, through those that leave the contents of
a tensor as they are. What is kept of the past is found so, or by its name: exporters agree on those of decoders
(https://huggingface.co/docs/optimum/exporters/onnx, https://onnxruntime.ai/docs/genai/reference/config.html). A meaning
lies in a field of `Port`; `runtime.random_feeds` makes values that suit it.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from onnxprune.graph.model import Constant, Node
from onnxprune.graph.ports import Port, Role, length_axis
from onnxprune.graph.tensors import Shape

_REARRANGING = frozenset(
    ("Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
)
# Attributes that list the words which an operator knows.
_WORDS = ("keys_strings", "cats_strings", "string_vocabulary", "pool_strings", "classlabels_strings")
_OF_WORDS = frozenset(("LabelEncoder", "CategoryMapper", "OneHotEncoder", "DictVectorizer", "TfIdfVectorizer"))
# Slots of what is kept of the past.
_PASTS: Mapping[str, tuple[int, ...]] = {
    "Attention": (4, 5),
    "com.microsoft.Attention": (4,),
    "com.microsoft.DecoderMaskedMultiHeadAttention": (5, 6),
    "com.microsoft.GroupQueryAttention": (3, 4),
    "com.microsoft.MultiHeadAttention": (6, 7),
}
_NAMES: Sequence[tuple[re.Pattern[str], Role]] = [
    (re.compile(text), role)
    for text, role in (
        (r"past_(key|value).*[._](encoder|cross)[._].*", Role.BESIDE),
        (r"past_(key|value)(_values)?[._].*", Role.PAST),
        (r"(decoder_)?attention_mask", Role.MASK),
        (r"position_ids|cache_position", Role.POSITIONS),
        (r"use_cache_branch", Role.BRANCH),
    )
]
_OF_CACHE = re.compile(r"(?:past|present)(?:_key_values)?[._](.+)")
# Operators that look indices up: the slot whose size tells how many entries there are, and the attribute of the axis.
_TABLES: Mapping[str, tuple[int, str]] = {
    "Gather": (0, "axis"),
    "com.microsoft.GatherBlockQuantized": (2, "gather_axis"),
}
_FORMS = frozenset(
    ("Cast", "DequantizeLinear", "Identity", "Reshape", "Transpose")
)  # of a constant, such as a tied table
_SCALES: Mapping[str, int] = {"Resize": 2, "Upsample": 1}  # op -> slot of its scales


def part_of_cache(name: str) -> str | None:
    """Return what an input or output is of a cache, by its name, alike for what is given and taken; None for no cache.

    >>> [part_of_cache(name) for name in ("past_key_values.0.encoder.key", "present.0.encoder.key", "logits")]
    ['0.encoder.key', '0.encoder.key', None]
    """
    found = _OF_CACHE.fullmatch(name)
    return None if found is None else found[1]


def with_meanings(
    inputs: Iterable[Port], nodes: Sequence[Node], constants: Mapping[str, Constant], outputs: Iterable[str] = ()
) -> tuple[Port, ...]:
    """Return inputs with what the nodes tell of them; `outputs` are those of the model."""
    inputs = tuple(inputs)
    bounds, words, scales = _index_bounds(nodes, constants), _words(nodes), _scales(nodes)
    tokens = {dim for port in inputs if port.name in bounds for dim in port.shape or ()}
    pasts = _pasts(nodes) | set(_grown(inputs, nodes, outputs, tokens) if tokens else ())
    lengths = {dim for port in inputs for dim in (port.shape or ())[1:]}
    return tuple(
        replace(
            port,
            below=bounds.get(port.name),
            words=words.get(port.name, ()),
            is_scale=port.name in scales,
            role=_role(port, pasts, lengths),
        )
        for port in inputs
    )


def _role(port: Port, pasts: frozenset[str], lengths: Container[int | str | None]) -> Role | None:
    """Return what an input is to a network that goes on with a text; None where it is nothing of that kind.

    Args:
        port: the input.
        pasts: values that attention takes as the past, or that come back longer.
        lengths: dims of inputs behind the first: places in one row are as many as tokens, not as samples.
    """
    if port.dtype is None or port.shape is None:
        return None
    named = next((role for name, role in _NAMES if name.fullmatch(port.name)), None)
    kept = (Role.PAST, Role.BESIDE)
    if port.dtype.kind == "f" or port.dtype.name == "bfloat16":
        found = named if named in kept else Role.PAST if port.name in pasts else None
        return found if len(port.shape) > 2 else None
    if named is Role.BRANCH:
        return named if port.dtype.kind == "b" else None
    if named is Role.POSITIONS and len(port.shape) == 1 and port.shape[0] not in lengths:
        return None
    return None if named in kept else named


def _pasts(nodes: Sequence[Node]) -> frozenset[str]:
    """Return the values that attention takes as the past."""
    pasts: set[str] = set()
    for node in reversed(nodes):
        if node.op in _PASTS:
            pasts.update(node.inputs[slot] for slot in _PASTS[node.op] if slot < len(node.inputs))
        elif node.op in _REARRANGING and node.inputs and not pasts.isdisjoint(node.outputs):
            pasts.add(node.inputs[0])
    return frozenset(pasts)


def _grown(
    ports: Sequence[Port], nodes: Sequence[Node], outputs: Iterable[str], tokens: Container[int | str | None]
) -> Iterator[str]:
    """Yield the inputs that come back longer, as outputs: along a dim of their own that counts no tokens of others."""
    given, kept = {port.name: port for port in ports}, set(outputs)
    for node in nodes:
        if node.op != "Concat" or len(node.inputs) != 2 or kept.isdisjoint(node.outputs):
            continue
        port = given.get(node.inputs[0])
        axis = None if port is None else length_axis(port)
        if port is not None and port.shape is not None and axis is not None:
            along = node.attrs.get("axis", 0)
            if along in (axis, axis - len(port.shape)) and port.shape[axis] not in tokens:
                yield port.name


def _index_bounds(nodes: Sequence[Node], constants: Mapping[str, Constant]) -> dict[str, int]:
    """Return for values that are indices into constants (token ids) how many entries the smallest of these has."""
    bounds: dict[str, int] = {}
    shapes = _shapes_of_tables(nodes, constants)
    for node in reversed(nodes):
        bound = min((bounds[name] for name in node.outputs if name in bounds), default=None)
        source = None
        slot, key = _TABLES.get(node.op, (0, ""))
        if key and slot < len(node.inputs) and node.inputs[0] in shapes:
            shape, axis = shapes.get(node.inputs[slot]) or (), node.attrs.get(key, 0)
            source, bound = node.inputs[1], shape[axis] if -len(shape) <= axis < len(shape) else None
        elif node.op in _REARRANGING and node.inputs:
            source = node.inputs[0]
        if source and bound is not None:
            bounds[source] = min(bound, bounds.get(source, bound))
    return bounds


def _shapes_of_tables(nodes: Sequence[Node], constants: Mapping[str, Constant]) -> dict[str, Shape | None]:
    """Return the shapes of constants, and of what they are in another form; None for one that is not known."""
    shapes: dict[str, Shape | None] = {name: constant.shape for name, constant in constants.items()}
    for node in nodes:
        others = (name for name in node.inputs[1:] if name)
        if node.op in _FORMS and node.inputs and node.inputs[0] in shapes and all(name in constants for name in others):
            shapes[node.outputs[0]] = _in_form(node, shapes[node.inputs[0]])
    return shapes


def _in_form(node: Node, shape: Shape | None) -> Shape | None:
    """Return the shape of a constant behind a node that gives it another form."""
    if node.op == "Reshape":
        return None
    perm = node.attrs.get("perm", ()) if node.op == "Transpose" and shape is not None else None
    if shape is None or perm is None:
        return shape
    return tuple(shape[dim] for dim in perm) if sorted(perm) == list(range(len(shape))) else None


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
