"""Damaged models: good ones with wrong bytes, wrong fields, and sizes, names and places that nobody writes by accident.

What is made is a function of the seed. The good ones are the small graphs around every operator of the tests' tables,
and the small ones of the zoo.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tools.proofs.fuzz_bytes import Case

COMMANDS = (
    ("inspect", "model.onnx"),
    ("model.onnx", "--ratio", "0.3", "--criterion", "l2", "--no-latency", "-o", "o.onnx"),
)
LARGEST, LARGEST_EXPORT = 60_000, 200_000  # bytes of a good model that is made here, and of an exported one
EXPORTED = 0.1  # share of the cases that are made of exported models: they take several times as long
NO_TEXT = "\x01\x02\x03NOTEXT"  # in its place come bytes that are no UTF-8
_BAD_BYTES = b"\xff\xfe\x80a\xc3(\x00\x1bxx"[: len(NO_TEXT)]
_INTEGERS = (
    0,
    1,
    2,
    3,
    -1,
    -2,
    7,
    64,
    2**15,
    2**31 - 1,
    -(2**31),
    2**31,
    2**32,
    10**8,
    10**9,
    2**62,
    2**63 - 1,
    -(2**63),
)
_FLOATS = (0.0, -1.0, 1e38, float("nan"), float("inf"), -float("inf"), 1e-40)
_TEXTS = ("", "x", "y", "w1", "a", "NONE", "ai.onnx", "com.microsoft", "..", "%s", "a" * 5000, "\n\x1b[2J", NO_TEXT)

_LOCATIONS = (
    "w.bin",
    "w.bin",
    "link.bin",
    "pipe",
    "sub/../w.bin",
    "../x",
    "/etc/hostname",
    "",
    "sub",
    "/dev/zero",
    "a\0b",
    "*/_ORT_MEM_ADDR_/*",
)


class Models:
    """Makes cases; loads the good models once."""

    def __init__(self) -> None:
        self._good = [(name, proto) for name, proto in good_models() if proto.ByteSize() <= LARGEST]
        self._exported = [(name, proto) for name, proto in exported_models() if proto.ByteSize() <= LARGEST_EXPORT]

    def case(self, seed: int) -> Case:
        """Return the case of a seed."""
        rng = random.Random(seed)
        name, proto = rng.choice(self._exported if rng.random() < EXPORTED else self._good)
        way = rng.choices([_bytes_case, _fields_case, _structured_case], [3, 5, 2])[0]
        return way(rng, name, proto)


def good_models() -> Iterator[tuple[str, ModelProto]]:
    """Yield small models with their names."""
    from tests.dependency.rules.cases import CASES
    from tests.dependency.rules.fused_cases import FUSED
    from tests.support.build import conv, dense

    yield "conv", conv("b = Relu(a)")
    yield "dense", dense("b = Relu(a)", mid=16)
    for case in (*CASES, *FUSED):
        yield str(case), case.proto


def exported_models() -> Iterator[tuple[str, ModelProto]]:
    """Yield the graphs of the zoo that every run of the tests proves, with weights."""
    from tests.support import zoo_cover, zoo_store

    entries = zoo_store.load_zoo()
    for name in sorted(zoo_cover.load_cover() & entries.keys()):
        if entries[name].nodes < 200:
            yield name, zoo_store.refill(zoo_store.read(entries[name].path))


def files_of(content: bytes) -> dict[str, bytes]:
    """Return the files of a case: the model alone."""
    return {"model.onnx": content}


# -- bytes -------------------------------------------------------------------------------------------------------------


def _bytes_case(rng: random.Random, name: str, proto: ModelProto) -> Case:
    """Some bytes are changed, cut out, doubled, or the end is missing."""
    content = bytearray(proto.SerializeToString())
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        _damage(rng, content)
    return Case(f"bytes of {name}", files_of(bytes(content)), COMMANDS)


def _damage(rng: random.Random, content: bytearray) -> None:
    at = rng.randrange(len(content) + 1)
    length = rng.choice((1, 1, 2, 4, 9, 100))
    way = rng.randrange(6)
    if way == 0 and at < len(content):
        content[at] ^= 1 << rng.randrange(8)
    elif way == 1:
        content[at : at + length] = rng.randbytes(length)
    elif way == 2:
        del content[at : at + length]
    elif way == 3:
        content[at:at] = content[at : at + length]
    elif way == 4:
        content[at:at] = rng.choice((b"\x00", b"\xff" * 9 + b"\x01", b"\x80" * 11, b"\x0a\xff\xff\xff\xff\x0f"))
    else:
        del content[max(1, at) :]


# -- fields ------------------------------------------------------------------------------------------------------------


def _fields_case(rng: random.Random, name: str, proto: ModelProto) -> Case:
    """Some fields somewhere in the message hold something else."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    done = [_change(rng, copy) for _ in range(rng.choice((1, 1, 1, 2, 3, 8)))]
    return Case(f"{', '.join(done)} of {name}", files_of(_serialized(copy)), COMMANDS)


def _serialized(proto: ModelProto) -> bytes:
    return proto.SerializeToString().replace(NO_TEXT.encode(), _BAD_BYTES)


def _change(rng: random.Random, proto: ModelProto) -> str:
    messages = list(_messages(proto))
    message = rng.choice(messages)
    descriptors = message.DESCRIPTOR.fields
    present = [descriptor for descriptor, _ in message.ListFields()]
    descriptor = rng.choice(present if present and rng.random() < 0.8 else descriptors)
    if descriptor.name == "raw_data":
        return "nothing"
    (_change_list if descriptor.is_repeated else _change_one)(rng, message, descriptor, messages)
    return f"{message.DESCRIPTOR.name}.{descriptor.name}"


def _messages(message: Any) -> Iterator[Any]:
    """Yield a message and all that are inside of it."""
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type and not descriptor.message_type.GetOptions().map_entry:
            for inner in value if descriptor.is_repeated else (value,):
                yield from _messages(inner)


def _value(rng: random.Random, descriptor: Any) -> Any:
    kind = descriptor.cpp_type
    if kind == descriptor.CPPTYPE_STRING:
        text = rng.choice(_TEXTS)
        return text.encode() if descriptor.type == descriptor.TYPE_BYTES else text
    if kind in (descriptor.CPPTYPE_FLOAT, descriptor.CPPTYPE_DOUBLE):
        return rng.choice(_FLOATS)
    return rng.choice(_INTEGERS)


def _fits(action: Callable[[], object]) -> None:
    try:
        action()
    except (ValueError, TypeError, OverflowError):  # a value that the field does not take
        return


def _change_one(rng: random.Random, message: Message, descriptor: Any, messages: Sequence[Any]) -> None:
    if rng.random() < 0.3:
        message.ClearField(descriptor.name)
    elif descriptor.message_type:
        others = [m for m in messages if descriptor.message_type == m.DESCRIPTOR]
        target = getattr(message, descriptor.name)
        if others and rng.random() < 0.7:
            content = rng.choice(others).SerializeToString()
            _fits(lambda: target.ParseFromString(content))
        else:
            target.SetInParent()
    else:
        _fits(lambda: setattr(message, descriptor.name, _value(rng, descriptor)))


def _change_list(rng: random.Random, message: Message, descriptor: Any, messages: Sequence[Any]) -> None:
    values = getattr(message, descriptor.name)
    way = rng.randrange(6)
    if way == 0:
        message.ClearField(descriptor.name)
    elif way == 1 and values:
        del values[rng.randrange(len(values))]
    elif way == 2 and values:
        values.extend([values[rng.randrange(len(values))]])
    elif descriptor.message_type:
        others = [m for m in messages if descriptor.message_type == m.DESCRIPTOR]
        if way == 3 or not others:
            values.add()
        else:
            values.add().ParseFromString(rng.choice(others).SerializeToString())
    elif values and way == 3:
        at = rng.randrange(len(values))
        _fits(lambda: values.__setitem__(at, _value(rng, descriptor)))
    else:
        _fits(lambda: values.append(_value(rng, descriptor)))


# -- sizes, places, nesting --------------------------------------------------------------------------------------------


def _structured_case(rng: random.Random, name: str, proto: ModelProto) -> Case:
    """One of the ways in which few bytes ask for much, or for something else."""
    way = rng.choice(_WAYS)
    return way(rng, name, proto)


def _bomb(rng: random.Random, _: str, __: ModelProto) -> Case:
    """A constant of gigabytes that few bytes ask for, in front of a small network."""
    from tests.support.build import dense

    size = int(10 ** rng.uniform(4, 12))
    op, nodes, constants = rng.choice(_bombs(size))
    weights = {key: np.asarray(value) for key, value in constants.items()}
    reduce = rng.choice(("s = ReduceSum(big, axes)", "s = ReduceMax(big)", "s = Shape(big)"))
    try:
        proto = dense(
            *nodes, reduce, "f = Cast <to: int = 1> (s)", "k = ReduceMean(f)", "c = Add(a, k)", "b = Relu(c)",
            infer=False, axes=np.array([0]), **weights,
        )  # fmt: skip
    except onnx.parser.ParseError as error:
        raise AssertionError(nodes) from error
    return Case(f"{op} of {size}", files_of(proto.SerializeToString()), COMMANDS)


def _bombs(size: int) -> list[tuple[str, tuple[str, ...], dict[str, Any]]]:
    side = max(2, int(size**0.5))
    one, vector = np.ones(1, np.float32), np.ones(8, np.float32)
    return [
        ("Expand", ("big = Expand(one, n)",), {"one": one, "n": np.array([size])}),
        ("Tile", ("big = Tile(vector, n)",), {"vector": vector, "n": np.array([size // 8])}),
        ("Range", ("big = Range(zero, n, step)",), {"zero": np.int64(0), "n": np.int64(size), "step": np.int64(1)}),
        (
            "Range of floats",
            ("big = Range(zero, n, step)",),
            {"zero": np.float32(0), "n": np.float32(1), "step": np.float32(1 / size)},
        ),
        ("ConstantOfShape", ("big = ConstantOfShape(n)",), {"n": np.array([side, side])}),
        ("Pad", ("big = Pad(vector, n)",), {"vector": vector, "n": np.array([0, size])}),
        (
            "Resize",
            ("big = Resize(image, , , n)",),
            {"image": np.ones((1, 1, 2, 2), np.float32), "n": np.array([1, 1, side, side])},
        ),
        (
            "OneHot",
            ("big = OneHot(index, n, pair)",),
            {"index": np.array([1, 2]), "n": np.int64(size), "pair": np.float32([0, 1])},
        ),
        (
            "product",
            ("big = MatMul(left, right)",),
            {"left": np.ones((min(side, 2000), 1), np.float32), "right": np.ones((1, 2000), np.float32)},
        ),
        (
            "square of whole numbers",
            ("z = ConstantOfShape(n)", "big = MatMul(z, z)"),
            {"n": np.array([min(side, 10_000), min(side, 10_000)])},
        ),
        (
            "square of halves",
            ("z = ConstantOfShape(n)", "h = Cast <to: int = 10> (z)", "big = MatMul(h, h)"),
            {"n": np.array([min(side, 10_000), min(side, 10_000)])},
        ),
        (
            "letters",
            ('e = Einsum <equation = "a,b,c,d->"> (vector, vector, vector, vector)', "big = Expand(e, n)"),
            {"vector": np.arange(min(side, 4096)), "n": np.array([8])},
        ),
        ("EyeLike", ("z = ConstantOfShape(n)", "big = EyeLike(z)"), {"n": np.array([side, side])}),
        ("window", ("big = HannWindow(n)",), {"n": np.int64(size)}),
        (
            "two steps",
            ("t = Expand(one, n)", "t2 = Unsqueeze(t, axes)", "u = Unsqueeze(t, right)", "big = Mul(t2, u)"),
            {"one": one, "n": np.array([side]), "right": np.array([1])},
        ),
        (
            "mel",
            ("big = MelWeightMatrix(m, n, r, lo, hi)",),
            {"m": np.int64(8), "n": np.int64(size), "r": np.int64(8000), "lo": np.float32(0), "hi": np.float32(4000)},
        ),
    ]


def _sparse(rng: random.Random, _: str, __: ModelProto) -> Case:
    """A sparse weight that is huge when it is made dense."""
    from tests.support.build import dense

    proto = dense("c = Add(a, k)", "b = Relu(c)", infer=False, k=np.ones(1, np.float32))
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == "k")
    proto.graph.initializer.remove(tensor)
    dims = rng.choice(([10**9], [10**10], [2**40, 2**40], [-1], [0], [1, 8], [3, 3]))
    indices = numpy_helper.from_array(np.array([rng.choice((0, 5, -1, 10**9, 2**62))]), "")
    proto.graph.sparse_initializer.add(values=tensor, indices=indices, dims=dims)
    return Case(f"sparse weight of {dims}", files_of(proto.SerializeToString()), COMMANDS)


def _wide_input(rng: random.Random, name: str, proto: ModelProto) -> Case:
    """Inputs of sizes that no memory holds, or of very many dynamic dims."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    for info in copy.graph.input:
        dims = info.type.tensor_type.shape.dim
        if rng.random() < 0.3:
            for i in range(rng.choice((3, 10, 40))):
                dims.add(dim_param=f"d{i}")
        elif dims:
            rng.choice(dims).dim_value = int(10 ** rng.uniform(3, 14))
    return Case(f"wide input of {name}", files_of(copy.SerializeToString()), COMMANDS)


def _functions(rng: random.Random, _: str, __: ModelProto) -> Case:
    """Functions that call each other twice, or in a circle."""
    from tests.support.build import dense

    depth, circle = rng.choice((2, 10, 20, 40, 200)), rng.random() < 0.2
    proto = dense("b = f0(a)" if rng.random() < 0.5 else "b = my.f0(a)", infer=False, imports='"my": 1')
    proto.graph.node[2].domain = "my"
    for i in range(depth):
        called = f"f{i + 1}" if i + 1 < depth else "f0"
        nodes = [helper.make_node(called, [x], [y], domain="my") for x, y in ("tu", "uv")]
        if i + 1 == depth and not circle:
            nodes = [helper.make_node("Relu", ["t"], ["v"])]
        imports = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
        proto.functions.append(helper.make_function("my", f"f{i}", ["t"], ["v"], nodes, imports))
    return Case(f"{depth} functions{' in a circle' * circle}", files_of(proto.SerializeToString()), COMMANDS)


def _nested(rng: random.Random, _: str, __: ModelProto) -> Case:
    """Branches in branches, or one of very many nodes."""
    from tests.support.build import dense

    depth, length = rng.choice(((1, 3000), (8, 1), (24, 1), (30, 1), (31, 1), (6, 20)))
    proto = dense("b = Relu(a)", infer=False, yes=np.array(True))
    inner = [helper.make_node("Relu", ["a"], ["r0"])]
    inner += [helper.make_node("Relu", [f"r{i}"], [f"r{i + 1}"]) for i in range(length - 1)]
    graph = helper.make_graph(inner, "g", [], [helper.make_tensor_value_info(inner[-1].output[0], 1, None)])
    for level in range(depth):
        node = helper.make_node("If", ["yes"], [f"n{level}"], then_branch=graph, else_branch=_leaf(level))
        if level + 1 < depth:
            graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info(f"n{level}", 1, None)])
    node.output[0] = "b"
    proto.graph.node[2].CopyFrom(node)
    return Case(f"{depth} branches of {length} nodes", files_of(proto.SerializeToString()), COMMANDS)


def _leaf(level: int) -> onnx.GraphProto:
    node = helper.make_node("Neg", ["a"], [f"e{level}"])
    return helper.make_graph([node], "e", [], [helper.make_tensor_value_info(f"e{level}", 1, None)])


def _external(rng: random.Random, name: str, proto: ModelProto) -> Case:
    """Contents that lie in other files, or are said to lie in odd places."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    tensors = [message for message in _messages(copy) if isinstance(message, TensorProto)]
    if not tensors:
        return _wide_input(rng, name, proto)
    tensor = rng.choice(tensors)
    content = tensor.raw_data or b"\0" * 64
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    location = rng.choice(_LOCATIONS)
    offset = rng.choice(("0", "-1", "8", "zero", str(2**63)))
    entries = {"location": location, "offset": offset, "length": str(len(content))}
    for key in rng.sample(sorted(entries), rng.choice((3, 3, 2))):
        tensor.external_data.add(key=key, value=entries[key])
    files = {**files_of(copy.SerializeToString()), "w.bin": content[: rng.choice((len(content), 10))], "sub/inner": b""}
    links = {"link.bin": rng.choice(("/etc/hostname", "w.bin", "nowhere", "link.bin", "/dev/zero")), "pipe": "|"}
    return Case(f"external {location!r} of {name}", files, COMMANDS, links)


_WAYS = (_bomb, _bomb, _sparse, _wide_input, _functions, _nested, _external)
