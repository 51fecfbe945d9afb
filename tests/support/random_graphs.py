"""Random valid graphs, composed of nearly all ops that have a rule; `random_families` holds a part of the steps.

All choices are made by one function, ``draw(count) -> int`` below `count`, so that one generator serves a seed
(`from_seed`, for `tools/proofs/fuzz.py`) and hypothesis (`graphs`, which shrinks what it finds). Small numbers are
simple.

A *step* takes a graph and a value and adds nodes; `STEPS` is the table of them. To add an op, write a step and decorate
it: it raises `Unfit` (by `need`) where the value is not one for it, and returns its result, or several. Sizes are
numbers or, for what is known at run time alone, text such as ``"n"`` and ``"4·n"``.

>>> proto = from_seed(1)
>>> proto == from_seed(1), proto == from_seed(2)
(True, False)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Draw: TypeAlias = Callable[[int], int]
Dim: TypeAlias = "int | str"
Dims: TypeAlias = "tuple[Dim, ...]"

OPSETS = (18, 17, 13, 21, 11, 9, 23, 24)
KINDS = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16}
# Two sets of sizes on which every graph must run; sides and lengths are halved twice at most.
SIZES = ({"n": 2, "s": 8, "t": 5, "h": 8, "w": 16}, {"n": 3, "s": 4, "t": 7, "h": 16, "w": 4})
ABSENT = {
    "float64": "Mean Softplus Clip Elu Celu HardSwish",
    "float16": "Celu",
}  # beside what steps leave out themselves
LARGEST = 3000  # elements of a value, per sample and position


class Unfit(Exception):
    """A step cannot be taken from this value."""


class Value(NamedTuple):
    """A tensor between nodes."""

    name: str
    dims: Dims

    @property
    def rank(self):
        return len(self.dims)


def need(condition):
    if not condition:
        raise Unfit


def times(*dims):
    """Return the product of sizes.

    >>> times(2, "n", 3), times("s", "2·n"), times(2, 3)
    ('6·n', '2·n·s', 6)
    """
    number, names = 1, []
    for part in (part for dim in dims for part in str(dim).split("·")):
        if part.isdigit():
            number *= int(part)
        else:
            names.append(part)
    return "·".join([str(number)] * (number > 1 or not names) + sorted(names)) if names else number


def is_static(*dims):
    return all(isinstance(dim, int) for dim in dims)


def divisors(number):
    return [d for d in range(1, number + 1) if number % d == 0]


def replaced(dims, at, *new):
    """Return dims where the one at `at` is replaced by any number of new ones."""
    return (*dims[:at], *new, *dims[at + 1 :])


# -- the graph that grows ----------------------------------------------------------------------------------------------


class Graph:
    """Nodes, weights and values, and the choices that are made for them."""

    def __init__(self, draw):
        self.draw = draw
        self.opset = self.one_of(OPSETS)
        self.kind = self.one_of(["float32"] * 8 + ["float64", "float16"])
        self.largest = LARGEST
        self.rng = np.random.default_rng(draw(1 << 12))
        self.fixed: list[onnx.NodeProto] = []  # nodes that read constants alone: they come first
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.sparse: set[str] = set()  # weights that may be stored as sparse tensors
        self.values: list[Value] = []  # what steps returned
        self.inputs: list[tuple[Value, int]] = []
        self.outputs: list[Value] = []
        self.functions: list[onnx.FunctionProto] = []
        self.frozen = False  # whether a kernel crashes on weights that are listed as inputs
        self.depth = 0  # of bodies and functions in each other
        self.modern = False  # whether some part asks for a late version of the format
        self._shared: dict[object, str] = {}
        self._count = 0

    # choices

    def between(self, low, high):
        return low + self.draw(high - low + 1)

    def one_of(self, items):
        items = list(items)
        need(items)
        return items[self.draw(len(items))]

    def chance(self, percent):
        return self.draw(100) >= 100 - percent

    def some(self, items, least=1):
        """Return at least `least` of the items, in order."""
        items = list(items)
        need(len(items) >= least)
        chosen = {self.draw(len(items)) for _ in range(self.between(least, max(least, len(items))))}
        chosen |= set(range(max(0, least - len(chosen))))
        return [item for i, item in enumerate(items) if i in chosen]

    def axis(self, x, fits=lambda dim: is_static(dim) and dim > 1):
        """Return an axis of a value; by default one of known size."""
        return self.one_of(i for i, dim in enumerate(x.dims) if fits(dim))

    def signed(self, axis, rank):
        """Return an axis, counted from either end; from the back since opset 11 alone."""
        return axis - rank if self.opset >= 11 and self.chance(40) else axis

    # nodes

    def name(self, letter="v"):
        self._count += 1
        return f"{letter}{self._count}"

    def node(self, op, *inputs, dims=(), **attributes):
        """Add a node of one output and return its value."""
        return self.nodes_of(op, inputs, [dims], **attributes)[0]

    def nodes_of(self, op, inputs, outputs, **attributes):
        """Add a node of several outputs, whose dims are given, and return their values."""
        values = [Value(self.name(), tuple(dims)) for dims in outputs]
        need(op not in ABSENT.get(self.kind, "").split())
        for value in values:
            need(math.prod(dim for dim in value.dims if is_static(dim)) <= self.largest)
        names = [value if isinstance(value, str) else value.name for value in inputs]
        self.nodes.append(helper.make_node(op, names, [value.name for value in values], **attributes))
        return values

    def along(self, op, x, axes, dims, since, **attributes):
        """Add a node that states axes: in an input from opset `since` on, before that in an attribute."""
        rank = len(dims) if op == "Unsqueeze" else x.rank
        axes = [self.signed(axis, rank) for axis in axes]
        if self.opset >= since:
            return self.node(op, x, self.ints(axes), dims=dims, **attributes)
        return self.node(op, x, dims=dims, axes=axes, **attributes)

    # constants

    def constant(self, array):
        """Return the name of a constant: an initializer or the output of a node."""
        name = self.name("c")
        if self.chance(80):
            self.weights[name] = array
        else:
            tensor = numpy_helper.from_array(array, name)
            self.fixed.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def ints(self, values, dtype=np.int64):
        """Return the name of an integer constant; equal ones are often shared, as exporters do."""
        array = np.array(values, dtype)
        key = (array.shape, array.tobytes(), array.dtype.name)
        if key not in self._shared or self.chance(30):
            self._shared[key] = self.constant(array)
        return self._shared[key]

    def number(self, value):
        return self.constant(np.array(value, self.kind))

    def weight(self, *dims, fan=1, zero=False):
        """Return the name of a weight, scaled so that a sum over `fan` of its products stays as large as it was."""
        key = (dims, fan, zero)
        if key not in self._shared or self.chance(90 - 60 * zero):
            array = np.zeros(dims) if zero else self.rng.standard_normal(dims) / math.sqrt(fan)
            self._shared[key] = self._behind(array.astype(self.kind))
        return self._shared[key]

    def positive(self, *dims):
        return self._behind(self.rng.uniform(0.5, 1.5, dims).astype(self.kind), positive=True)

    def bias(self, size):
        return self.weight(size, zero=self.chance(30))

    def _behind(self, array, positive=False):
        """Return the name of a weight, sometimes of what a node makes of it, which may have to be positive, too."""
        way = self.draw(30) - 20
        if way < 0 or array.ndim == 0:
            return self.constant(array)
        name = self.name("w")
        if way == 6 and not positive and array.ndim > 1 and array.shape[0] > 1:
            return random_families.standardised(self, array, name)
        if way == 7 and self.opset >= 10 and self.kind == "float32":
            return random_families.dequantized(self, array, name)
        if way == 8 and not positive:
            self.weights[name] = array * self.rng.integers(0, 2, array.shape).astype(array.dtype)
            self.sparse.add(name)
            return name

        def made(op, *inputs, **attributes):
            self.fixed.append(helper.make_node(op, list(inputs), [name], **attributes))
            return name

        if way == 0:
            order = self.rng.permutation(array.ndim).tolist()
            stored = np.ascontiguousarray(array.transpose(np.argsort(order)))
            return made("Transpose", self.constant(stored), perm=order)
        if way == 1:
            other = "float16" if self.kind == "float32" else "float32"
            return made("Cast", self.constant(array.astype(other)), to=KINDS[self.kind])
        if way == 2:
            scale = self.rng.uniform(0.5, 1.5, [size if self.rng.integers(2) else 1 for size in array.shape])
            return made("Mul", self.constant(array), self.constant(scale.astype(self.kind)))
        if way == 3:
            axis = self.ints([0]) if self.opset >= 13 else None
            stored = self.constant(array[None])
            return made("Squeeze", stored, axis) if axis else made("Squeeze", stored, axes=[0])
        if way == 4:
            return made("Reshape", self.constant(array.reshape(-1)), self.ints(array.shape))
        return made("Identity", self.constant(array))

    # the end

    def proto(self):
        graph = helper.make_graph(
            [*self.fixed, *self.nodes],
            "random",
            [_info(value, kind) for value, kind in self.inputs],
            [_info(value, KINDS[self.kind]) for value in self.outputs],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        version = 3 if self.opset == 9 and not self.modern and self.chance(30) else 8 if self.opset < 21 else 10
        for tensor in graph.initializer if version < 4 else ():
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        if version >= 4 and self.chance(8) and not self.frozen:
            weights = [tensor for tensor in graph.initializer if tensor.data_type != TensorProto.INT64]
            for tensor in self.some(weights) if weights else ():
                graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        domains = [("", self.opset), (random_families.MS, 1), ("my", 1)]
        opsets = [helper.make_opsetid(*domain) for domain in domains]
        _make_sparse(graph, self.sparse if version >= 8 and not graph_inputs(graph) & self.sparse else ())
        model = helper.make_model(graph, opset_imports=opsets, functions=self.functions, ir_version=version)
        if self.chance(40) and not graph.sparse_initializer:  # of which onnx infers no type
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        return model


def graph_inputs(graph):
    return {info.name for info in graph.input}


def _make_sparse(graph, names):
    """Store weights as sparse tensors."""
    for tensor in [tensor for tensor in graph.initializer if tensor.name in names]:
        array = numpy_helper.to_array(tensor)
        places = np.flatnonzero(array)
        values = numpy_helper.from_array(array.ravel()[places], tensor.name)
        made = helper.make_sparse_tensor(values, numpy_helper.from_array(places), array.shape)
        graph.sparse_initializer.append(made)
        graph.initializer.remove(tensor)


def _info(value, kind):
    dims = [dim if is_static(dim) or dim.isalpha() else None for dim in value.dims]
    return helper.make_tensor_value_info(value.name, kind, dims)


# -- sizes that are computed -------------------------------------------------------------------------------------------


def size_of(g, x, axis):
    """Return the size of an axis as int64[1], in one of the ways of exporters."""
    way = g.draw(3 + (g.opset >= 15))
    if way == 3:
        end = axis + 1 if axis + 1 < x.rank or g.chance(50) else None
        return g.node("Shape", x, start=axis, **({} if end is None else {"end": end}))
    shape = g.node("Shape", x)
    if way == 0:
        return g.node("Gather", shape, g.ints([g.signed(axis, x.rank)]))
    if way == 1:
        if g.opset < 10:
            return g.node("Slice", shape, starts=[axis], ends=[axis + 1], axes=[0])
        return g.node("Slice", shape, g.ints([axis]), g.ints([axis + 1]), g.ints([0]))
    return g.along("Unsqueeze", Value(g.node("Gather", shape, g.ints(axis)).name, ()), [0], (1,), since=13)


def computed(g, x, dim):
    """Return a size as int64[1], computed from the sizes of a value; None where it is none of them."""
    ways = [("pick", i, 1) for i, size in enumerate(x.dims) if size == dim]
    ways += [("pair", i, 1) for i in range(x.rank - 1) if times(*x.dims[i : i + 2]) == dim]
    for i, size in enumerate(x.dims):
        if is_static(size, dim) and dim > 0:
            ways += [("divide", i, size // dim)] * (size % dim == 0 and size > dim)
        ways += [("multiply", i, k) for k in (2, 3, 4) if times(size, k) == dim]
    if not ways:
        return None
    way, i, factor = g.one_of(ways)
    size = size_of(g, x, i)
    if way == "pick":
        return size
    if way == "pair":
        return g.node("Mul", size, size_of(g, x, i + 1))
    if way == "multiply":
        return g.node("Mul", size, g.ints([factor]))
    if g.chance(70):
        return g.node("Div", size, g.ints([factor]))
    quotient = g.node("Div", g.node("Cast", size, to=1), g.constant(np.array([factor], np.float32)))
    return g.node("Cast", g.node("Floor", quotient), to=7)


def _shared_front(x, dims):
    """Return how many leading sizes a value has in common with `dims`."""
    return next((i for i, (a, b) in enumerate(zip(x.dims, dims, strict=False)) if a != b), min(x.rank, len(dims)))


def stated(g, x, dims, *, zeros=True, rest=True):
    """Return an input that states `dims`: as numbers, 0, -1, or as sizes computed from those of the value."""

    def same(i):
        return zeros and i < x.rank and x.dims[i] == dims[i]

    at_run_time = g.chance(35)
    entries = _front(g, x, dims) if g.chance(10) else []
    start = _shared_front(x, dims) if entries else 0
    unknown = [i for i, dim in enumerate(dims) if i >= start and not is_static(dim) and not same(i)]
    free = [*unknown, *(range(start, len(dims)) if g.chance(40) else ())] if rest else []
    left = g.one_of(free[:1] if unknown else free) if free else None
    for i, dim in list(enumerate(dims))[start:]:
        must = not is_static(dim) and not same(i)
        size = computed(g, x, dim) if i != left and (must or (at_run_time and g.chance(60))) else None
        if size is None:
            need(i == left or not must)
            keep = same(i) and (not is_static(dim) or g.chance(50))
            size = -1 if i == left else 0 if keep else dim
        entries.append(size)
    if all(isinstance(entry, int) for entry in entries):
        return g.ints(entries)
    return g.node("Concat", *(g.ints([e]) if isinstance(e, int) else e for e in entries), axis=0)


def _front(g, x, dims):
    """Return the leading sizes that stay, as one Slice of the Shape; nothing where there are none."""
    count = _shared_front(x, dims)
    if not count:
        return []
    shape = g.node("Shape", x)
    if g.opset < 10:
        return [g.node("Slice", shape, starts=[0], ends=[count])]
    return [g.node("Slice", shape, g.ints([0]), g.ints([count]), g.ints([0]))]


def reshaped(g, x, *dims):
    if g.opset >= 14 and g.chance(10):
        return g.node("Reshape", x, stated(g, x, dims, zeros=False), dims=dims, allowzero=1)
    return g.node("Reshape", x, stated(g, x, dims), dims=dims)


def transposed(g, x, *order):
    return g.node("Transpose", x, dims=[x.dims[i] for i in order], perm=list(order))


# -- the table of steps ------------------------------------------------------------------------------------------------

STEPS: list[Callable[[Graph, Value], object]] = []


def step(weight=2):
    """Add a function to the table, as often as `weight` says."""

    def add(function):
        STEPS.extend([function] * weight)
        return function

    return add


# products


@step(6)
def conv(g, x):
    need(3 <= x.rank <= 5 and is_static(x.dims[1]) and g.kind != "float64")
    channels = x.dims[1]
    groups = g.one_of([1, 1, 1, channels, *divisors(channels)])
    out = groups * g.between(1, max(1, 8 // groups))
    kernel, attributes, sides = _windows(g, x.dims[2:], strides=True)
    weight = g.weight(out, channels // groups, *kernel, fan=channels // groups * math.prod(kernel))
    more = [g.bias(out)] if g.chance(60) else []
    if groups > 1 or g.chance(10):
        attributes["group"] = groups
    return g.node("Conv", x, weight, *more, dims=(x.dims[0], out, *sides), **attributes)


def _windows(g, sides, strides):
    """Return kernel, attributes and the new sides of a convolution."""
    if g.chance(40):
        return [1] * len(sides), {}, sides
    if strides and g.chance(20) and all(_halves(side) for side in sides):
        count = len(sides)
        return [2] * count, {"strides": [2] * count}, [_halves(side) for side in sides]
    if g.chance(15) and is_static(*sides) and min(sides) >= 3:
        return [2] * len(sides), {"kernel_shape": [2] * len(sides)}, [side - 1 for side in sides]
    if g.chance(15):
        return [3] * len(sides), {"auto_pad": "SAME_UPPER"}, sides
    dilation = g.between(1, 2)
    return [3] * len(sides), {"dilations": [dilation] * len(sides), "pads": [dilation] * 2 * len(sides)}, sides


def _halves(side):
    """Return half of a side, None for those that have none."""
    if is_static(side):
        return side // 2 if side % 2 == 0 and side > 2 else None
    return {"h": "h/2", "w": "w/2", "s": "s/2", "h/2": "h/4", "w/2": "w/4", "2·h": "h", "2·w": "w"}.get(side)


@step()
def conv_transpose(g, x):
    need(3 <= x.rank <= 5 and is_static(x.dims[1]) and g.kind == "float32")
    channels, spatial = x.dims[1], x.rank - 2
    groups = g.one_of([1, 1, channels, *divisors(channels)])
    out = g.between(1, max(1, 8 // groups))
    double = g.chance(30)
    kernel, sides = ([2] * spatial, [times(2, side) for side in x.dims[2:]]) if double else ([1] * spatial, x.dims[2:])
    weight = g.weight(channels, out, *kernel, fan=channels // groups)
    more = [g.bias(groups * out)] if g.chance(60) else []
    attributes = {"strides": [2] * spatial} if double else {}
    return g.node("ConvTranspose", x, weight, *more, dims=(x.dims[0], groups * out, *sides), group=groups, **attributes)


def projection(g, x, out):
    """Return a layer of `out` units on the last axis."""
    return g.node("MatMul", x, g.weight(x.dims[-1], out, fan=x.dims[-1]), dims=(*x.dims[:-1], out))


@step(5)
def matmul(g, x):
    need(x.rank >= 2 and is_static(x.dims[-1]))
    size, out = x.dims[-1], g.between(2, 9)
    batch = g.one_of([(), (), (), (1,)])
    if x.rank >= 3 and is_static(x.dims[-3]) and g.chance(20):  # experts, heads
        batch = (x.dims[-3],)
    if g.chance(8):
        return g.node("MatMul", x, g.weight(size, fan=size), dims=x.dims[:-1])
    dims = (1,) * (len(batch) + 2 - x.rank) + x.dims[:-1]
    product = g.node("MatMul", x, g.weight(*batch, size, out, fan=size), dims=(*dims, out))
    if g.chance(50):
        return product
    operands = [product, g.bias(out)]
    return g.node("Add", *(operands if g.chance(70) else operands[::-1]), dims=product.dims)


@step(2)
def matmul_left(g, x):
    need(x.rank >= 2 and is_static(x.dims[-2]))
    size, out = x.dims[-2], g.between(2, 7)
    if g.chance(10):
        return g.node("MatMul", g.weight(size, fan=size), x, dims=(*x.dims[:-2], x.dims[-1]))
    return g.node("MatMul", g.weight(out, size, fan=size), x, dims=(*x.dims[:-2], out, x.dims[-1]))


@step(3)
def gemm(g, x):
    need(x.rank == 2)
    if g.chance(15):  # the value on the right
        need(is_static(x.dims[0]) or is_static(x.dims[1]))
        turned = is_static(x.dims[1]) and (not is_static(x.dims[0]) or g.chance(50))
        size, rest, out = x.dims[turned], x.dims[not turned], g.between(2, 6)
        more = [g.weight(out, 1)] if g.opset < 11 or g.chance(40) else []
        return g.node("Gemm", g.weight(out, size, fan=size), x, *more, dims=(out, rest), transB=int(turned))
    need(is_static(x.dims[1]))
    size, out = x.dims[1], g.between(2, 9)
    left = {}
    if g.chance(10):
        x, left = transposed(g, x, 1, 0), {"transA": 1}
    turned = g.chance(50)
    weight = g.weight(out, size, fan=size) if turned else g.weight(size, out, fan=size)
    bias = g.one_of([None, (out,), (out,), (1, out), (1,), ()] if g.opset >= 11 else [(out,), (1, out), (1,)])
    more = [] if bias is None else [g.weight(*bias, zero=g.chance(30))]
    rows = x.dims[1] if left else x.dims[0]
    return g.node("Gemm", x, weight, *more, dims=(rows, out), transB=int(turned), **left)


@step(3)
def einsum(g, x):
    need(g.opset >= 12 and 1 <= x.rank <= 5 and g.kind != "float16")
    letters = "abcde"[: x.rank]
    summed = g.some(i for i, dim in enumerate(x.dims) if is_static(dim))[:2]
    way = g.draw(4)
    if way == 3 and len(summed) == 1:  # the sum of one operand
        kept = "".join(c for i, c in enumerate(letters) if i not in summed)
        need(kept)
        order = g.one_of([kept, kept[::-1]])
        return g.node("Einsum", x, dims=[x.dims[letters.index(c)] for c in order], equation=f"{letters}->{order}")
    out, sizes = g.between(2, 6), [x.dims[i] for i in summed]
    inside = "".join(letters[i] for i in summed)
    stays = way == 2  # the letters stay in the output: a scale, no product
    weight = g.weight(*sizes, *([] if stays else [out]), fan=1 if stays else math.prod(sizes))
    kept = letters if stays else "".join(c for c in letters if c not in inside) + "z"
    order = g.one_of([kept, kept, kept[1:] + kept[0], kept[::-1]])
    size_of_letter = {**dict(zip(letters, x.dims, strict=True)), "z": out}
    equation = f"{letters},{inside}{'' if stays else 'z'}->{order}"
    return g.node("Einsum", x, weight, dims=[size_of_letter[c] for c in order], equation=equation)


# elementwise

SAFE = (
    "Relu Sigmoid Tanh Abs Neg Identity Erf LeakyRelu Elu Selu Softplus Softsign HardSigmoid Sin Cos Atan Shrink Asinh"
)
SINCE = {"HardSwish": 14, "Mish": 18, "Gelu": 20, "Celu": 12, "ThresholdedRelu": 10}
PREPARED = {  # ops that need their operand prepared to give finite numbers
    "Exp": "Tanh", "Sinh": "Tanh", "Cosh": "Tanh", "Log": "Cosh", "Sqrt": "Softplus", "Reciprocal": "Cosh",
    "Tan": "Tanh", "Acos": "Sin", "Asin": "Sin", "Atanh": "Sigmoid", "Acosh": "Cosh", "Ceil": "", "Floor": "",
    "Sign": "", "Round": "",
}  # fmt: skip
DOUBLE = set("Relu Sigmoid Tanh Abs Neg Identity Elu Softplus Exp Log Sqrt Reciprocal Sin Cos Sign".split())  # noqa: SIM905


def bounded(g, x, op):
    """Apply an op whose result stays small for any operand."""
    if op == "Cosh":
        x = g.node("Tanh", x, dims=x.dims)
    if op in ("Sin", "Sigmoid"):
        half = g.node("Tanh", x, dims=x.dims)
        return g.node("Mul", half, g.number(0.75 if op == "Sin" else 0.5), dims=x.dims)
    return g.node(op, x, dims=x.dims)


@step(6)
def unary(g, x):
    names = [*SAFE.split(), *(op for op, since in SINCE.items() if g.opset >= since)]
    if g.chance(30):
        names = [op for op in PREPARED if op != "Round" or g.opset >= 11]
    if g.kind == "float64":
        names = [name for name in names if name in DOUBLE]
    op = g.one_of(names)
    before = PREPARED.get(op)
    if before == "Cosh" and g.kind == "float64":  # of which there is no kernel
        x = g.node("Exp", g.node("Tanh", x, dims=x.dims), dims=x.dims)
    elif before:
        x = bounded(g, x, before)
    return g.node(op, x, dims=x.dims)


@step(4)
def switches(g, x):
    """Booleans and integers, cast back to floats."""
    need(g.kind == "float32")
    ways = (
        ["Not", "And", "Or", "Xor", "IsNaN", "Greater", "Less"]
        + ["Equal"] * (g.opset >= 11)
        + ["IsInf"] * (g.opset >= 10)
    )
    ways += ["GreaterOrEqual", "LessOrEqual"] * (g.opset >= 12) + ["BitwiseAnd", "BitwiseOr", "BitwiseNot"] * (
        g.opset >= 18
    )
    op = g.one_of(ways)
    if op in ("IsNaN", "IsInf"):
        found = g.node(op, x, dims=x.dims)
    elif op.startswith("Bitwise"):
        whole = g.node("Cast", x, dims=x.dims, to=6)
        other = [] if op == "BitwiseNot" else [g.ints(g.between(1, 9), np.int32)]
        found = g.node(op, whole, *other, dims=x.dims)
    elif op in ("Not", "And", "Or", "Xor"):
        first = g.node("Cast", g.node("Relu", x, dims=x.dims), dims=x.dims, to=9)
        second = [] if op == "Not" else [g.node("Greater", x, g.number(0.5), dims=x.dims)]
        found = g.node(op, first, *second, dims=x.dims)
    else:
        found = g.node(op, x, g.number(0.25), dims=x.dims)
    return g.node("Mul", x, g.node("Cast", found, dims=x.dims, to=1), dims=x.dims) if g.chance(50) else g.node(
        "Cast", found, dims=x.dims, to=1
    )  # fmt: skip


def broadcast(*shapes):
    """Return the dims of a broadcast; raises Unfit where there is none."""
    rank = max(map(len, shapes))
    result = []
    for column in zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes), strict=True):
        sizes = {dim for dim in column if dim != 1}
        need(len(sizes) <= 1)
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def partner(g, x):
    """Return dims of a constant that can be broadcast with a value, in both directions."""
    dims = [dim if is_static(dim) and dim > 1 and g.chance(45) else 1 for dim in x.dims]
    for i, dim in enumerate(x.dims):
        if dim == 1 and g.chance(15):
            dims[i] = g.between(2, 3)
    while dims and dims[0] == 1 and g.chance(60):
        dims.pop(0)
    if len(dims) == x.rank and x.rank < 5 and g.chance(6):
        dims.insert(0, g.between(1, 2))
    return tuple(dims)


BINARY = ["Add", "Add", "Mul", "Mul", "Sub", "Div", "Max", "Min", "Sum", "Mean", "Pow", "PRelu", "Mod", "Where"]


@step(6)
def with_constant(g, x):
    op, dims = g.one_of(BINARY), partner(g, x)
    out = broadcast(x.dims, dims)
    turned = g.chance(30)
    if op == "Where":
        mask = g.constant(g.rng.integers(0, 2, dims).astype(bool))
        return g.node(op, mask, *([x, g.weight(*partner_of(g, x, out))][:: -1 if turned else 1]), dims=out)
    if op == "PRelu":
        need(out == x.dims and g.kind == "float32")
        return g.node(op, x, g.weight(*dims), dims=out)
    if op == "Pow":
        need(g.kind == "float32")
        return (
            g.node(op, bounded(g, x, "Softplus"), g.one_of([g.number(2.0), g.number(0.5), g.positive(*dims)]), dims=out)
            if dims == () or out == x.dims
            else g.node(op, bounded(g, x, "Softplus"), g.positive(*dims), dims=out)
        )
    if op == "Mod":
        need(g.opset >= 10 and g.kind == "float32")
        return g.node(op, x, g.positive(*dims), dims=out, fmod=1)
    if op == "Div" and turned:
        need(g.kind == "float32")
        return g.node(op, g.weight(*dims), bounded(g, x, "Cosh"), dims=out)
    other = g.positive(*dims) if op == "Div" else g.weight(*dims)
    three = [g.weight(*dims)] if op in ("Max", "Min", "Sum", "Mean") and g.chance(20) else []
    return g.node(op, *([x, other][:: -1 if turned else 1]), *three, dims=out)


def partner_of(g, x, out):
    """Return dims of a constant that do not change a broadcast any more."""
    return tuple(dim if is_static(dim) and g.chance(40) else 1 for dim in out)


@step(6)
def join(g, x):
    """Two values; the other one through a projection where it does not fit."""
    other = g.one_of(fitting(g, x) or projectable(g, x))
    if not fits(x, other):
        other = projected(g, other, x)
    out = broadcast(x.dims, other.dims)
    op = g.one_of(["Add", "Add", "Add", "Mul", "Sub", "Max", "Mean", "Sum"])
    return g.node(op, *([x, other] if g.chance(60) else [other, x]), dims=out)


@step()
def where(g, x):
    other = g.one_of(fitting(g, x))
    out = broadcast(x.dims, other.dims)
    need(g.kind == "float32")
    condition = g.node(g.one_of(["Greater", "Less"]), other, g.number(0.1), dims=other.dims)
    return g.node("Where", condition, x, g.one_of([other, Value(g.number(0.5), ())]), dims=out)


def fits(x, other):
    try:
        broadcast(x.dims, other.dims)
    except Unfit:
        return False
    return True


def fitting(g, x):
    return [value for value in g.values[-8:] if value is not x and fits(x, value)]


def projectable(g, x):
    """Return values that differ from `x` in the size of one axis alone: the last, or the channels."""
    found = []
    for value in g.values[-8:]:
        if value.rank == x.rank:
            wrong = [i for i, (a, b) in enumerate(zip(value.dims, x.dims, strict=True)) if a != b]
            if len(wrong) == 1 and is_static(value.dims[wrong[0]], x.dims[wrong[0]]):
                axis = wrong[0]
                if axis == x.rank - 1 or (axis == 1 and 3 <= x.rank <= 5 and g.kind != "float64"):
                    found.append(value)
    return found


def projected(g, value, like):
    axis = next(i for i, (a, b) in enumerate(zip(value.dims, like.dims, strict=True)) if a != b)
    size, out = value.dims[axis], like.dims[axis]
    if axis == value.rank - 1:
        return g.node("MatMul", value, g.weight(size, out, fan=size), dims=like.dims)
    weight = g.weight(out, size, *[1] * (value.rank - 2), fan=size)
    return g.node("Conv", value, weight, dims=like.dims)


@step()
def clip(g, x):
    low, high = g.number(-0.5), g.number(0.9)
    if g.opset < 11:
        need(g.kind == "float32")
        return g.node("Clip", x, dims=x.dims, **g.one_of([{"min": -0.5, "max": 0.9}, {"max": 0.9}]))
    return g.node("Clip", x, *g.one_of([[low, high], [low], ["", high]]), dims=x.dims)


@step(1)
def passing(g, x):
    """Ops that do nothing at inference."""
    if g.chance(40) or (g.opset < 12 and g.kind == "float16"):
        return g.node("Identity", x, dims=x.dims)
    if g.opset >= 15 and g.chance(30):
        return g.node("CastLike", x, g.number(1.0), dims=x.dims)
    return g.node("Dropout", x, dims=x.dims)


@step(1)
def there_and_back(g, x):
    """A cast to another precision."""
    other = "float64" if g.kind == "float32" else "float32"
    wide = g.node("Cast", x, dims=x.dims, to=KINDS[other])
    return g.node("Cast", g.node("Neg", wide, dims=x.dims), dims=x.dims, to=KINDS[g.kind])


# normalizations, reductions, pools


@step(3)
def batch_norm(g, x):
    need(x.rank >= 2 and is_static(x.dims[1]))
    size = x.dims[1]
    moments = g.positive(size), g.bias(size), g.bias(size), g.positive(size)
    return g.node("BatchNormalization", x, *moments, dims=x.dims)


@step(1)
def instance_norm(g, x):
    need(x.rank >= 3 and is_static(x.dims[1]) and g.kind == "float32")
    return g.node("InstanceNormalization", x, g.positive(x.dims[1]), g.bias(x.dims[1]), dims=x.dims, epsilon=0.1)


@step(1)
def group_norm(g, x):
    need(x.rank >= 3 and is_static(x.dims[1]) and g.kind == "float32")
    groups = g.one_of(divisors(x.dims[1]))
    if g.opset >= 21 and g.chance(50):
        scale, shift = g.positive(x.dims[1]), g.bias(x.dims[1])
        return g.node("GroupNormalization", x, scale, shift, dims=x.dims, num_groups=groups, epsilon=0.1)
    need(groups > 1)
    size = math.prod(dim for dim in x.dims[1:] if is_static(dim)) // groups  # in its own words, as exporters say it
    rest = times(size, *(dim for dim in x.dims[1:] if not is_static(dim)))
    parts = reshaped(g, x, x.dims[0], groups, rest)
    one, zero = g.constant(np.ones(groups, g.kind)), g.weight(groups, zero=True)
    normal = g.node("InstanceNormalization", parts, one, zero, dims=parts.dims, epsilon=0.1)
    back = g.node("Reshape", normal, g.node("Shape", x), dims=x.dims)
    spatial = [1] * (x.rank - 2)
    scaled = g.node("Mul", back, g.positive(x.dims[1], *spatial), dims=x.dims)
    return g.node("Add", scaled, g.weight(x.dims[1], *spatial), dims=x.dims)


@step(1)
def layer_norm(g, x):
    """Over the last axis, or the last two, by one op or in its own words."""
    need(x.rank >= 2 and is_static(x.dims[-1]) and x.dims[-1] > 1)
    first = x.rank - (2 if x.rank > 2 and is_static(x.dims[-2]) and g.chance(20) else 1)
    scale, shift = g.positive(*x.dims[first:]), g.weight(*x.dims[first:])
    if g.opset >= 23 and g.kind == "float32" and g.chance(40):
        return g.node("RMSNormalization", x, scale, dims=x.dims, axis=first, epsilon=0.1)
    if g.opset >= 17 and g.kind == "float32" and g.chance(60):
        return g.node("LayerNormalization", x, scale, shift, dims=x.dims, axis=g.signed(first, x.rank), epsilon=0.1)
    kept = (*x.dims[:-1], 1)
    centred = g.node("Sub", x, g.along("ReduceMean", x, [x.rank - 1], kept, since=18), dims=x.dims)
    square = g.node("Mul", centred, centred, dims=x.dims)
    variance = g.along("ReduceMean", square, [x.rank - 1], kept, since=18)
    deviation = g.node("Sqrt", g.node("Add", variance, g.number(0.1), dims=kept), dims=kept)
    return g.node("Mul", g.node("Div", centred, deviation, dims=x.dims), g.positive(x.dims[-1]), dims=x.dims)


@step(1)
def local_norm(g, x):
    need(g.kind == "float32")
    if g.chance(50):
        need(x.rank == 4 and is_static(x.dims[1]))
        return g.node("LRN", x, dims=x.dims, size=3)
    return g.node("LpNormalization", x, dims=x.dims, axis=g.signed(g.draw(x.rank), x.rank), p=g.between(1, 2))


@step(2)
def softmax(g, x):
    need(x.rank >= 1)
    op = g.one_of(["Softmax", "Softmax", "LogSoftmax", "Hardmax"])
    need(op != "Hardmax" or g.kind == "float32")
    axis = x.rank - 1 if g.chance(60) else g.draw(x.rank)
    return g.node(op, x, dims=x.dims, axis=g.signed(axis, x.rank))


REDUCING = (
    ["ReduceSum"] * 6 + ["ReduceMean"] * 2 + ["ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"]
)
REDUCING += ["ReduceLogSumExp", "ReduceLogSum", "ReduceProd"]


@step(4)
def reduce(g, x):
    need(x.rank >= 2)
    op, axes = g.one_of(REDUCING), g.some(range(x.rank))[: x.rank - 1]
    if op in ("ReduceLogSum", "ReduceProd"):
        x = bounded(g, x, "Cosh" if op == "ReduceLogSum" else "Tanh")
    need(g.kind == "float32" or op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"))
    keep = g.draw(2)
    dims = [1 if i in axes else dim for i, dim in enumerate(x.dims) if keep or i not in axes]
    since = 13 if op == "ReduceSum" else 18
    return g.along(op, x, axes, tuple(dims), since, keepdims=keep)


@step(1)
def index_of_largest(g, x):
    need(x.rank >= 2 and g.kind == "float32")
    axis, keep = g.draw(x.rank), g.draw(2)
    dims = [1 if i == axis else dim for i, dim in enumerate(x.dims) if keep or i != axis]
    found = g.node(g.one_of(["ArgMax", "ArgMin"]), x, dims=dims, axis=axis, keepdims=keep)
    return g.node("Mul", g.node("Cast", found, dims=dims, to=1), g.number(0.2), dims=dims)


@step(1)
def top_k(g, x):
    need(g.kind == "float32")
    axis = g.axis(x)
    size = g.between(1, x.dims[axis] - 1)
    dims = replaced(x.dims, axis, size)
    if g.opset < 10:
        return g.nodes_of("TopK", [x], [dims, dims], axis=axis, k=size)[0]
    return g.nodes_of("TopK", [x, g.ints([size])], [dims, dims], axis=axis)[0]


@step(3)
def pool(g, x):
    need(3 <= x.rank <= 5 and g.kind == "float32")
    spatial, sides = x.rank - 2, x.dims[2:]
    op = g.one_of(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool",
                   "GlobalLpPool"])  # fmt: skip
    need(not op.endswith("LpPool") or g.opset < 22)  # of which ONNX Runtime has no kernel yet
    if op.startswith("Global"):
        return g.node(op, x, dims=(*x.dims[:2], *[1] * spatial))
    if g.chance(40) and all(map(_halves, sides)):
        halves = [_halves(side) for side in sides]
        return g.node(op, x, dims=(*x.dims[:2], *halves), kernel_shape=[2] * spatial, strides=[2] * spatial)
    need(op != "LpPool" or g.opset >= 11)
    return g.node(op, x, dims=x.dims, kernel_shape=[3] * spatial, pads=[1] * 2 * spatial, strides=[1] * spatial)


# rearranging


@step(3)
def transpose(g, x):
    need(x.rank >= 2)
    order = list(range(x.rank))
    i = g.draw(x.rank)
    j = g.draw(x.rank)
    if g.chance(50):
        order.insert(j, order.pop(i))
    else:
        order[i], order[j] = order[j], order[i]
    if order == list(reversed(range(x.rank))) and g.chance(50):
        return g.node("Transpose", x, dims=x.dims[::-1])
    return transposed(g, x, *order)


@step(4)
def merge(g, x):
    """Two adjacent axes, or more, become one."""
    need(x.rank >= 2)
    start = g.draw(x.rank - 1)
    end = g.between(start + 2, x.rank)
    return reshaped(g, x, *x.dims[:start], times(*x.dims[start:end]), *x.dims[end:])


@step(4)
def divide(g, x):
    """One axis becomes two."""
    need(x.rank <= 5)
    axis = g.axis(x)
    outer = g.one_of(d for d in divisors(x.dims[axis]))
    return reshaped(g, x, *replaced(x.dims, axis, outer, x.dims[axis] // outer))


@step(2)
def regroup(g, x):
    """Two adjacent axes become two others."""
    need(x.rank >= 2)
    start = g.one_of(i for i in range(x.rank - 1) if is_static(*x.dims[i : i + 2]))
    count = math.prod(x.dims[start : start + 2])
    outer = g.one_of(divisors(count))
    return reshaped(g, x, *x.dims[:start], outer, count // outer, *x.dims[start + 2 :])


@step(2)
def same_shape(g, x):
    """A Reshape by the shape of the same value, or of another."""
    other = g.one_of([x, *(value for value in g.values[-8:] if value.dims == x.dims)])
    return g.node("Reshape", x, g.node("Shape", other), dims=x.dims)


@step(2)
def apart_and_back(g, x):
    """An axis is split, something is done, and it is one again; both shapes may be shared by several nodes."""
    need(x.rank <= 4)
    axis = g.axis(x)
    outer = g.one_of(divisors(x.dims[axis]))
    wide = reshaped(g, x, *replaced(x.dims, axis, outer, x.dims[axis] // outer))
    middle = g.one_of([unary, with_constant, same_axes_norm, swapped(axis)])(g, wide)
    need(times(*middle.dims) == times(*x.dims))
    if middle.dims == wide.dims and g.chance(30):
        return g.node("Reshape", middle, g.node("Shape", x), dims=x.dims)
    return reshaped(g, middle, *x.dims)


def same_axes_norm(g, x):
    return with_constant(g, x) if x.rank < 2 or not is_static(x.dims[1]) else batch_norm(g, x)


def swapped(axis):
    """Return a step that swaps an axis and the next: the channel shuffle."""

    def swap(g, x):
        order = list(range(x.rank))
        order[axis : axis + 2] = axis + 1, axis
        return transposed(g, x, *order)

    return swap


@step(2)
def flatten(g, x):
    need(x.rank >= 2)
    at = g.between(0, x.rank)
    dims = times(*x.dims[:at]), times(*x.dims[at:])
    return g.node("Flatten", x, dims=dims, axis=at - x.rank if g.opset >= 11 and at < x.rank and g.chance(30) else at)


@step(2)
def squeeze(g, x):
    need(x.rank >= 2)
    ones = [i for i, dim in enumerate(x.dims) if dim == 1]
    need(ones)
    if is_static(*x.dims) and g.chance(20):
        return g.node("Squeeze", x, dims=[dim for dim in x.dims if dim != 1])
    gone = g.some(ones)
    dims = tuple(dim for i, dim in enumerate(x.dims) if i not in gone)
    if g.opset < 13:
        return g.node("Squeeze", x, dims=dims, axes=[g.signed(axis, x.rank) for axis in gone])
    return g.node("Squeeze", x, g.ints([g.signed(axis, x.rank) for axis in gone]), dims=dims)


@step(2)
def unsqueeze(g, x):
    need(x.rank <= 4)
    axis = g.draw(x.rank + 1)
    dims = (*x.dims[:axis], 1, *x.dims[axis:])
    return g.along("Unsqueeze", x, [axis], dims, since=13)


@step(2)
def expand(g, x):
    """Axes of size one grow; what grows is a constant size, or that of another value."""
    if 1 not in x.dims:
        x = unsqueeze(g, x)
    grown = g.some(i for i, dim in enumerate(x.dims) if dim == 1)
    dims = tuple(g.between(2, 3) if i in grown else dim for i, dim in enumerate(x.dims))
    if g.chance(30):
        like = g.one_of(value for value in g.values[-8:] if fits(x, value) and value.rank >= x.rank)
        return g.node("Expand", x, g.node("Shape", like), dims=broadcast(x.dims, like.dims))
    entries = [dim if i in grown else 1 for i, dim in enumerate(dims)]
    if g.opset >= 11 and g.chance(20):  # the way PyTorch exports expand(-1, 3)
        wanted = g.ints([dim if i in grown else -1 for i, dim in enumerate(dims)])
        one = helper.make_tensor("value", TensorProto.INT64, [1], [1])
        ones = g.node("ConstantOfShape", g.node("Shape", wanted), value=one)
        minus = g.node("Mul", ones, g.ints(-1))
        return g.node("Expand", x, g.node("Where", g.node("Equal", wanted, minus), ones, wanted), dims=dims)
    shape = g.ints(entries) if g.chance(60) or not is_static(*dims) else stated(g, x, dims, zeros=False, rest=False)
    return g.node("Expand", x, shape, dims=dims)


@step(1)
def tile(g, x):
    need(g.opset >= 9)
    axis = g.draw(x.rank)
    count = g.between(2, 3)
    repeats = [count if i == axis else 1 for i in range(x.rank)]
    return g.node("Tile", x, g.ints(repeats), dims=replaced(x.dims, axis, times(count, x.dims[axis])))


@step(1)
def filled(g, x):
    """A tensor of one number, of the same shape or one that is broadcast."""
    need(g.kind == "float32")
    value = helper.make_tensor("value", KINDS[g.kind], [1], [0.5])
    dims = x.dims
    if g.chance(50):
        shape = g.node("Shape", x)
    else:
        dims = tuple(dim if is_static(dim) else 1 for dim in x.dims)
        shape = g.ints(dims)
    constant = g.node("ConstantOfShape", shape, dims=dims, value=value)
    return g.node(g.one_of(["Add", "Mul"]), x, constant, dims=x.dims)


# parts


@step(5)
def split(g, x):
    """Two or three parts; both go on, or meet again."""
    axis = g.axis(x)
    size = x.dims[axis]
    count = g.one_of(k for k in (2, 3) if k <= size)
    equal = size % count == 0 and g.chance(70)
    sizes = [size // count] * count if equal else _cut(g, size, count)
    dims = [replaced(x.dims, axis, part) for part in sizes]
    parts = _split(g, x, axis, sizes, dims, equal)
    way = g.draw(4)
    if way == 0 and len(set(sizes[:2])) == 1:
        gate = g.node(g.one_of(["Sigmoid", "Tanh", "Relu"]), parts[1], dims=dims[1])
        return [g.node("Mul", parts[0], gate, dims=dims[0]), *parts[2:]]
    if way == 1:
        order = g.one_of([parts[::-1], parts[1:] + parts[:1]])
        return g.node("Concat", *order, dims=x.dims, axis=axis)
    return parts


def _cut(g, size, count):
    """Return `count` sizes of at least one that add up to `size`."""
    sizes = []
    for left in range(count - 1, 0, -1):
        sizes.append(g.between(1, size - sum(sizes) - left))
    return [*sizes, size - sum(sizes)]


def _split(g, x, axis, sizes, dims, equal):
    axis = g.signed(axis, x.rank)
    if g.opset < 13:
        stated_sizes = {} if equal and g.chance(50) else {"split": sizes}
        return g.nodes_of("Split", [x], dims, axis=axis, **stated_sizes)
    if equal and g.chance(50):
        more = {"num_outputs": len(sizes)} if g.opset >= 18 else {}
        return g.nodes_of("Split", [x], dims, axis=axis, **more)
    if equal and g.chance(30):
        part = computed(g, x, sizes[0])
        if part is not None:
            return g.nodes_of("Split", [x, g.node("Concat", *[part] * len(sizes), axis=0)], dims, axis=axis)
    return g.nodes_of("Split", [x, g.ints(sizes)], dims, axis=axis)


@step(1)
def uneven_split(g, x):
    need(g.opset >= 18)
    axis = g.axis(x, lambda dim: is_static(dim) and dim % 2 and dim > 2)
    first = (x.dims[axis] + 1) // 2
    dims = [replaced(x.dims, axis, part) for part in (first, x.dims[axis] - first)]
    return g.nodes_of("Split", [x], dims, axis=axis, num_outputs=2)


@step(4)
def part(g, x):
    """A Slice of one axis: by positions from either end, by steps, by computed positions."""
    axis = g.axis(x)
    size = x.dims[axis]
    if size % 2 == 0 and g.chance(20) and g.opset >= 10:
        return _sliced(g, x, axis, g.draw(2), size, 2, size // 2)
    start = g.draw(size)
    end = g.between(start + 1, size)
    return _sliced(g, x, axis, start, end, 1, end - start)


def _sliced(g, x, axis, start, end, step_, left):
    size, dims = x.dims[axis], replaced(x.dims, axis, left)
    low = start - size if start and g.chance(20) else start
    high = end if end < size and g.chance(70) else end - size if end < size else g.one_of([end, 2**31 - 1, 2**63 - 1])
    if g.opset < 10:
        return g.node("Slice", x, dims=dims, starts=[low], ends=[high], axes=[axis])
    last = computed(g, x, end) if high == end and g.chance(25) else None
    steps = [] if step_ == 1 and g.chance(70) else [g.ints([step_])]
    return g.node(
        "Slice", x, g.ints([low]), last or g.ints([high]), g.ints([g.signed(axis, x.rank)]), *steps, dims=dims
    )


@step(1)
def parts(g, x):
    """A Slice of several axes, one of them whole."""
    need(x.rank >= 2)
    axes = g.some((i for i, dim in enumerate(x.dims) if is_static(dim) and dim > 1), least=1)
    starts = [g.draw(x.dims[axis]) for axis in axes]
    dims = list(x.dims)
    for axis, start in zip(axes, starts, strict=True):
        dims[axis] -= start
    whole = [i for i in range(x.rank) if i not in axes][:1]
    starts, ends, axes = starts + [0] * len(whole), [2**31 - 1] * (len(axes) + len(whole)), axes + whole
    if g.opset < 10:
        return g.node("Slice", x, dims=dims, starts=starts, ends=ends, axes=axes)
    return g.node("Slice", x, g.ints(starts), g.ints(ends), g.ints(axes), dims=dims)


@step(1)
def halves(g, x):
    """The two halves by Slice, at a computed position, meet again: rotated, or as a gate."""
    need(g.opset >= 10)
    axis = g.axis(x, lambda dim: is_static(dim) and dim % 2 == 0)
    half = x.dims[axis] // 2
    at, zero = computed(g, x, half) or g.ints([half]), g.ints([0])
    place, dims = g.ints([g.signed(axis, x.rank)]), replaced(x.dims, axis, half)
    first = g.node("Slice", x, zero, at, place, dims=dims)
    second = g.node("Slice", x, at, g.ints([2**63 - 1]), place, dims=dims)
    if g.chance(50):
        return g.node("Mul", first, g.node("Sigmoid", second, dims=dims), dims=dims)
    turned = g.node("Concat", g.node("Neg", second, dims=dims), first, dims=x.dims, axis=axis)
    cosine, sine = (g.node("Mul", value, g.positive(half), dims=x.dims) if axis == x.rank - 1 and half == 1 else value
                    for value in (x, turned))  # fmt: skip
    return g.node("Add", cosine, sine, dims=x.dims)


@step(2)
def one_index(g, x):
    need(x.rank >= 2)
    axis = g.axis(x)
    at = g.draw(x.dims[axis])
    at = at - x.dims[axis] if g.chance(30) else at
    kind = g.one_of([np.int64, np.int64, np.int32])
    if g.chance(50):
        return g.node("Gather", x, g.ints(at, kind), dims=replaced(x.dims, axis), axis=axis)
    return g.node("Gather", x, g.ints([at], kind), dims=replaced(x.dims, axis, 1), axis=axis)


@step(1)
def some_indices(g, x):
    """Several indices: on positions, or on channels, which locks them."""
    axis = g.axis(x)
    picked = [g.draw(x.dims[axis]) for _ in range(g.between(2, 3))]
    return g.node("Gather", x, g.ints(picked), dims=replaced(x.dims, axis, len(picked)), axis=axis)


@step(5)
def concat(g, x):
    axis = g.axis(x, lambda dim: True)
    if not is_static(x.dims[axis]):
        others = [x]
    else:
        like = [v for v in g.values[-8:] if v.rank == x.rank and is_static(v.dims[axis])
                and replaced(v.dims, axis) == replaced(x.dims, axis)]  # fmt: skip
        others = [g.one_of([x, *like, *like]) for _ in range(g.between(1, 2))]
    operands = [x, *others] if g.chance(70) else [*others, x]
    if is_static(*x.dims) and g.chance(25):
        size = g.between(1, 3)
        operands.append(Value(g.weight(*replaced(x.dims, axis, size)), replaced(x.dims, axis, size)))
    sizes = [value.dims[axis] for value in operands]
    total = sum(sizes) if is_static(*sizes) else times(len(sizes), sizes[0])
    return g.node("Concat", *operands, dims=replaced(x.dims, axis, total), axis=g.signed(axis, x.rank))


@step(2)
def pad(g, x):
    need(g.kind == "float32")
    axis = g.axis(x)
    low, high = g.between(0, 2), g.between(0, 2)
    mode = g.one_of(["constant"] * 4 + ["edge"])
    need(low + high)
    pads = [low if i == axis else 0 for i in range(x.rank)] + [high if i == axis else 0 for i in range(x.rank)]
    dims = replaced(x.dims, axis, x.dims[axis] + low + high)
    if g.opset < 11:
        return g.node("Pad", x, dims=dims, pads=pads, mode=mode)
    value = [g.number(g.one_of([0.0, 0.5]))] if g.chance(40) else []
    if g.opset >= 18 and g.chance(40):
        return g.node(
            "Pad", x, g.ints([low, high]), *(value or [""]), g.ints([g.signed(axis, x.rank)]), dims=dims, mode=mode
        )
    return g.node("Pad", x, g.ints(pads), *value, dims=dims, mode=mode)


@step(2)
def resize(g, x):
    need(x.rank == 4 and g.kind == "float32")
    dims = (*x.dims[:2], *(times(2, side) for side in x.dims[2:]))
    mode = g.one_of(["nearest", "linear"])
    scales = g.constant(np.array([1, 1, 2, 2], np.float32))
    if g.opset < 11:
        return g.node("Upsample" if g.opset < 10 else "Resize", x, scales, dims=dims, mode=mode)
    more = {"coordinate_transformation_mode": "asymmetric"} if g.chance(50) else {}
    empty = "" if g.opset >= 13 else g.constant(np.zeros(0, np.float32))
    way = g.draw(3)
    if way == 1 and g.opset >= 13:
        sizes = stated(g, x, dims, zeros=False, rest=False)
        return g.node("Resize", x, empty, empty, sizes, dims=dims, mode=mode, **more)
    if way == 2 and g.opset >= 18:
        scales = g.constant(np.array([2, 2], np.float32))
        return g.node("Resize", x, "", scales, dims=dims, mode=mode, axes=[2, 3], **more)
    return g.node("Resize", x, empty, scales, dims=dims, mode=mode, **more)


@step(1)
def depth_to_space(g, x):
    need(x.rank == 4 and is_static(x.dims[1]) and x.dims[1] % 4 == 0 and g.kind == "float32")
    mode = {"mode": g.one_of(["DCR", "CRD"])} if g.opset >= 11 else {}
    dims = (x.dims[0], x.dims[1] // 4, times(2, x.dims[2]), times(2, x.dims[3]))
    return g.node("DepthToSpace", x, dims=dims, blocksize=2, **mode)


@step(1)
def space_to_depth(g, x):
    need(x.rank == 4 and is_static(x.dims[1]) and all(map(_halves, x.dims[2:])) and g.kind == "float32")
    dims = (x.dims[0], 4 * x.dims[1], *map(_halves, x.dims[2:]))
    return g.node("SpaceToDepth", x, dims=dims, blocksize=2)


@step(1)
def by_position(g, x):
    """Ops that give positions a meaning: CumSum, Trilu, EyeLike, GridSample, numbers of positions."""
    need(g.kind == "float32" and x.rank >= 2)
    way = g.draw(4)
    if way == 0 and g.opset >= 11:
        return g.node("Tanh", g.node("CumSum", x, g.ints(g.draw(x.rank)), dims=x.dims), dims=x.dims)
    if way == 1 and g.opset >= 14:
        return g.node("Trilu", x, dims=x.dims, upper=g.draw(2))
    if way == 2 and x.rank == 2:
        return g.node("Add", x, g.node("EyeLike", x, dims=x.dims), dims=x.dims)
    need(g.opset >= 11)
    axis = g.draw(x.rank)
    zero, one = g.ints(0), g.ints(1)
    count = g.node("Squeeze", size_of(g, x, axis), *([g.ints([0])] if g.opset >= 13 else []))
    numbers = g.node("Cast", g.node("Range", zero, count, one), to=1)
    shape = [1] * (x.rank - axis - 1)
    column = g.node("Reshape", numbers, g.ints([-1, *shape]))
    return g.node("Add", x, g.node("Mul", column, g.number(0.05)), dims=x.dims)


# structures


@step(3)
def by_size(g, x):
    """The size of an axis is used as data: the scale of attention."""
    need(g.kind == "float32")
    size = size_of(g, x, g.axis(x, lambda dim: is_static(dim) or g.chance(20)))
    number = g.node("Cast", size, to=1)
    way = g.draw(3)
    if way == 0:
        return g.node("Div", x, g.node("Sqrt", number), dims=x.dims)
    if way == 1:
        return g.node("Mul", x, g.node("Reciprocal", g.node("Sqrt", number)), dims=x.dims)
    return g.node("Div", x, number, dims=x.dims)


@step(2)
def gate(g, x):
    """Squeeze and excite."""
    need(3 <= x.rank <= 4 and is_static(x.dims[1]) and g.kind == "float32")
    channels, inner, ones = x.dims[1], g.between(2, 4), [1] * (x.rank - 2)
    mean = g.node("GlobalAveragePool", x, dims=(*x.dims[:2], *ones))
    if g.chance(60):
        weight, back = g.weight(inner, channels, *ones, fan=channels), g.weight(channels, inner, *ones, fan=inner)
        hidden = g.node(
            "Relu", g.node("Conv", mean, weight, dims=(x.dims[0], inner, *ones)), dims=(x.dims[0], inner, *ones)
        )
        excited = g.node("Conv", hidden, back, g.bias(channels), dims=mean.dims)
    else:
        flat = g.node("Flatten", mean, dims=x.dims[:2])
        hidden = g.node("MatMul", flat, g.weight(channels, inner, fan=channels), dims=(x.dims[0], inner))
        wide = g.node(
            "MatMul", g.node("Relu", hidden, dims=hidden.dims), g.weight(inner, channels, fan=inner), dims=x.dims[:2]
        )
        excited = reshaped(g, wide, *mean.dims)
    return g.node("Mul", x, g.node("Sigmoid", excited, dims=mean.dims), dims=x.dims)


@step(2)
def shuffle(g, x):
    """The channel shuffle, by a runtime shape or a constant one."""
    need(x.rank >= 3 and is_static(x.dims[1]))
    groups = g.one_of(divisors(x.dims[1]))
    wide = reshaped(g, x, *replaced(x.dims, 1, groups, x.dims[1] // groups))
    turned = transposed(g, wide, 0, 2, 1, *range(3, wide.rank))
    return reshaped(g, turned, *x.dims)


@step(2)
def channels_last(g, x):
    """A section on the channels-last layout."""
    need(x.rank >= 3 and is_static(x.dims[1]))
    last = transposed(g, x, 0, *range(2, x.rank), 1)
    made = g.one_of([matmul, layer_norm, unary, with_constant, expanded_layer])(g, last)
    need(made.rank == x.rank)
    return transposed(g, made, 0, made.rank - 1, *range(1, made.rank - 1))


@step(2)
def channels_first(g, x):
    """A convolution between two Transposes."""
    need(3 <= x.rank <= 5 and is_static(x.dims[-1]))
    first = transposed(g, x, 0, x.rank - 1, *range(1, x.rank - 1))
    made = g.one_of([conv, batch_norm, pool])(g, first)
    return transposed(g, made, 0, *range(2, made.rank), 1)


@step(3)
def expanded_layer(g, x):
    """An FFN, with a residual connection or a gate."""
    need(x.rank >= 2 and is_static(x.dims[-1]))
    size, inner = x.dims[-1], g.between(2, 10)
    wide = (*x.dims[:-1], inner)
    hidden = g.node("MatMul", x, g.weight(size, inner, fan=size), dims=wide)
    active = g.node(g.one_of(["Relu", "Sigmoid", "Tanh"]), hidden, dims=wide)
    if g.chance(40):
        active = g.node("Mul", active, g.node("MatMul", x, g.weight(size, inner, fan=size), dims=wide), dims=wide)
    back = g.node("MatMul", active, g.weight(inner, size, fan=inner), dims=x.dims)
    return g.node("Add", x, back, dims=x.dims) if g.chance(70) else back


@step(2)
def tied(g, x):
    """A weight is used in both directions."""
    need(x.rank >= 2 and is_static(x.dims[-1]))
    size, inner = x.dims[-1], g.between(2, 8)
    weight = g.weight(size, inner, fan=size)
    hidden = g.node("Relu", g.node("MatMul", x, weight, dims=(*x.dims[:-1], inner)), dims=(*x.dims[:-1], inner))
    between = g.node("MatMul", hidden, g.weight(inner, inner, fan=inner), dims=hidden.dims) if g.chance(50) else hidden
    turned = g.node("Transpose", weight, perm=[1, 0])
    return g.node("MatMul", between, turned, dims=x.dims)


@step(2)
def windows(g, x):
    """Tokens in windows, and back."""
    need(x.rank == 3 and is_static(*x.dims[1:]) and x.dims[1] > 1)
    size = g.one_of(d for d in divisors(x.dims[1]) if d > 1)
    inside = reshaped(g, x, times(x.dims[0], x.dims[1] // size), size, x.dims[2])
    made = g.one_of([attention, expanded_layer, with_constant])(g, inside)
    need(made.dims == inside.dims)
    return g.node("Reshape", made, g.ints([-1, *x.dims[1:]]), dims=x.dims)


@step(4)
def attention(g, x):
    """Attention over the second axis: heads, shared keys and values, fused projections, rotations, a mask."""
    need(x.rank == 3 and is_static(x.dims[-1]))
    kv, repeats, size = g.one_of([(2, 1, 3), (3, 1, 2), (2, 1, 4), (2, 2, 2), (2, 3, 4), (1, 2, 3), (1, 3, 2)])
    query, key, value = _projections(g, x, kv, repeats, size)
    if size % 2 == 0 and g.chance(30):
        query, key = _rotated(g, query), _rotated(g, key)
    if kv == 1 and g.chance(50):
        repeats = 1  # one head of keys and values is broadcast
    key, value = (_repeated(g, v, repeats) for v in (key, value))
    logits = g.node("MatMul", query, transposed(g, key, 0, 1, 3, 2), dims=(*query.dims[:-1], key.dims[2]))
    scaled = g.one_of([_by_constant, _by_head_dim])(g, logits, query)
    if g.chance(30):
        scaled = g.node("Add", scaled, g.weight(query.dims[1], 1, 1), dims=scaled.dims)
    weights = g.node("Softmax", scaled, dims=scaled.dims, axis=-1 if g.opset >= 13 else 3)
    mixed = g.node("MatMul", weights, value, dims=query.dims)
    merged = transposed(g, mixed, 0, 2, 1, 3)
    width = query.dims[1] * size
    flat = reshaped(g, merged, *x.dims[:2], width)
    out = g.node("MatMul", flat, g.weight(width, x.dims[-1], fan=width), dims=x.dims)
    return g.node("Add", x, out, dims=x.dims) if g.chance(70) else out


def _projections(g, x, kv, repeats, size):
    """Return queries, keys and values as [n, heads, s, size]."""
    width, heads = x.dims[-1], (kv * repeats, kv, kv)
    way = g.draw(4)
    if way == 0 and repeats == 1:  # (3 h d), picked by Gather
        fused = g.node("MatMul", x, g.weight(width, 3 * kv * size, fan=width), dims=(*x.dims[:2], 3 * kv * size))
        wide = reshaped(g, fused, *x.dims[:2], 3, kv, size)
        turned = transposed(g, wide, 2, 0, 3, 1, 4)
        return [g.node("Gather", turned, g.ints(i), dims=turned.dims[1:], axis=0) for i in range(3)]
    if way == 1 and repeats == 1:  # (h 3 d), split
        fused = g.node("MatMul", x, g.weight(width, 3 * kv * size, fan=width), dims=(*x.dims[:2], 3 * kv * size))
        wide = transposed(g, reshaped(g, fused, *x.dims[:2], kv, 3 * size), 0, 2, 1, 3)
        return _split(g, wide, 3, [size] * 3, [(*wide.dims[:3], size)] * 3, equal=True)
    if way == 2:  # one product, split into three
        sizes = [count * size for count in heads]
        fused = g.node("MatMul", x, g.weight(width, sum(sizes), fan=width), dims=(*x.dims[:2], sum(sizes)))
        fused = g.node("Add", fused, g.bias(sum(sizes)), dims=fused.dims)
        flat = _split(g, fused, 2, sizes, [(*x.dims[:2], part) for part in sizes], equal=len(set(sizes)) == 1)
    else:
        flat = [
            g.node("MatMul", x, g.weight(width, count * size, fan=width), dims=(*x.dims[:2], count * size))
            for count in heads
        ]
    return [
        transposed(g, reshaped(g, v, *x.dims[:2], count, size), 0, 2, 1, 3)
        for v, count in zip(flat, heads, strict=True)
    ]


def _rotated(g, x):
    """Rotate halves of the last axis."""
    half = x.dims[-1] // 2
    dims = (*x.dims[:-1], half)
    first, second = _split(g, x, 3, [half, half], [dims, dims], equal=True)
    turned = g.node("Concat", g.node("Neg", second, dims=dims), first, dims=x.dims, axis=-1 if g.opset >= 11 else 3)
    angle = np.tile(np.arange(1, half + 1), 2)
    cosine = g.node("Mul", x, g.constant(np.cos(angle).astype(g.kind)), dims=x.dims)
    return g.node(
        "Add", cosine, g.node("Mul", turned, g.constant(np.sin(angle).astype(g.kind)), dims=x.dims), dims=x.dims
    )


def _repeated(g, x, repeats):
    """Repeat each head."""
    if repeats == 1:
        return x
    wide = g.along("Unsqueeze", x, [2], (*x.dims[:2], 1, *x.dims[2:]), since=13)
    dims = (*x.dims[:2], repeats, *x.dims[2:])
    if g.chance(70):
        grown = g.node("Expand", wide, g.ints([1, 1, repeats, 1, 1]), dims=dims)
    else:
        grown = g.node("Concat", *[wide] * repeats, dims=dims, axis=2)
    return reshaped(g, grown, x.dims[0], x.dims[1] * repeats, *x.dims[2:])


def _by_constant(g, logits, _query):
    return g.node("Mul", logits, g.number(0.5), dims=logits.dims)


def _by_head_dim(g, logits, query):
    need(g.kind == "float32")
    root = g.node("Sqrt", g.node("Cast", size_of(g, query, 3), to=1))
    return g.node("Div", logits, root, dims=logits.dims)


# -- whole graphs ------------------------------------------------------------------------------------------------------


def entrance(g):
    """Add an input, and the layer that reads it."""
    batch, length = g.one_of(["n", "n", "n", 1, 2, 3]), g.one_of(["s", "s", "t", 4, 6])
    way = g.one_of(["image", "image", "image", "rows", "rows", "tokens", "tokens", "tokens", "signal", "ids", "volume"])
    if g.kind == "float64" and way in ("signal", "volume", "image"):
        way = "tokens"
    sides = [g.one_of(["h", "h", 4, 6]), g.one_of(["w", "w", 4, 6])] if g.chance(50) else [4, 4]
    if way == "ids":
        x = Value(g.name("x"), (batch, length))
        g.inputs.append((x, TensorProto.INT64))
        size = g.between(2, 8)
        count = g.between(3, 12)
        table = g.weight(count, size)
        embedded = g.node("Gather", table, x, dims=(*x.dims, size))
        if g.chance(30):
            hidden = expanded_layer(g, embedded)
            logits = g.node("MatMul", hidden, g.node("Transpose", table, perm=[1, 0]), dims=(*x.dims, count))
            g.outputs.append(logits)
        return embedded
    dims = {
        "image": (batch, g.between(1, 4), *sides),
        "rows": (batch, g.between(2, 6)),
        "tokens": (batch, length, g.between(2, 6)),
        "signal": (batch, g.between(1, 4), length),
        "volume": (batch, g.between(1, 3), 2, 4, 4),
    }[way]
    x = Value(g.name("x"), dims)
    g.inputs.append((x, KINDS[g.kind]))
    if way in ("image", "signal", "volume"):
        return conv(g, x)
    return gemm(g, x) if way == "rows" and g.chance(50) else projection(g, x, g.between(3, 9))


def advance(g):
    """Take one step from one of the latest values."""
    for _ in range(12):
        nodes, values = len(g.nodes), g.values[-3:] if g.chance(75) else g.values
        try:
            made = g.one_of(STEPS)(g, g.one_of(values))
        except Unfit:
            del g.nodes[nodes:]
            continue
        g.values.extend([made] if isinstance(made, Value) else made)
        return


def leave(g):
    """Give every value that nothing reads a last layer; some are outputs as they are, some are left dead."""
    g.largest = math.inf
    read = {name for node in g.nodes for name in node.input}
    ends = [value for value in g.values if value.name not in read]
    for i, value in enumerate(ends):
        dead = i + 1 < len(ends) and g.chance(6)
        if not dead:
            g.outputs.append(value if g.chance(4) else head(g, value))
    middle = [value for value in g.values if value.name in read and value.rank]
    if middle and g.chance(5):
        g.outputs.append(g.one_of(middle))
    g.outputs = list(dict.fromkeys(g.outputs))


def head(g, x):
    """Add a last layer: mostly one that sums over all axes of known size, so that none is part of an output."""
    known = [i for i, dim in enumerate(x.dims) if is_static(dim) and dim > 1]
    if not known:
        return g.node("Identity", x, dims=x.dims)
    if is_static(*x.dims[1:]) and x.rank > 2 and g.chance(50):
        x = g.node("Flatten", x, dims=(x.dims[0], times(*x.dims[1:])), axis=1)
        known = [1]
    axis = known[-1] if g.chance(50) else g.one_of(known)
    left = len(known) > 1 and g.chance(85)
    if left and g.opset >= 12 and g.kind != "float16" and g.chance(40):
        return _by_einsum(g, x, known)
    out, made = last_layer(g, x, axis)
    if made == out.rank - 1 and g.chance(65):  # a hidden layer more
        out = projection(g, g.node(g.one_of(["Relu", "Tanh", "Sigmoid"]), out, dims=out.dims), 3)
    rest = [i for i, dim in enumerate(out.dims) if is_static(dim) and dim > 1 and i != made]
    if not left or not rest:
        return out
    keep = g.draw(2)
    dims = [1 if i in rest else dim for i, dim in enumerate(out.dims) if keep or i not in rest]
    return g.along("ReduceSum", out, rest, tuple(dims), since=13, keepdims=keep)


def _by_einsum(g, x, known):
    letters = "abcdefgh"[: x.rank]
    inside = "".join(letters[i] for i in known)
    outside = "".join(c for c in letters if c not in inside)
    sizes = [x.dims[i] for i in known]
    weight = g.weight(*sizes, 3, fan=math.prod(sizes))
    dims = [x.dims[letters.index(c)] for c in outside]
    return g.node("Einsum", x, weight, dims=(*dims, 3), equation=f"{letters},{inside}z->{outside}z")


def last_layer(g, x, axis):
    """Sum over one axis, by a layer of few outputs; return its value and where they are."""
    if axis == 1 and 3 <= x.rank <= 5 and g.kind != "float64":
        weight = g.weight(3, x.dims[1], *[1] * (x.rank - 2), fan=x.dims[1])
        return g.node("Conv", x, weight, dims=replaced(x.dims, 1, 3)), 1
    if axis != x.rank - 1:
        x = transposed(g, x, *(i for i in range(x.rank) if i != axis), axis)
    return projection(g, x, g.between(3, 5)), x.rank - 1


def random_graph(draw):
    """Return a random valid graph, whose choices are made by `draw`."""
    g = Graph(draw)
    for _ in range(g.one_of([1, 1, 1, 2, 2, 3])):
        g.values.append(entrance(g))
    for _ in range(g.between(2, 12)):
        advance(g)
    leave(g)
    return g.proto()


def from_seed(seed):
    """Return the random graph of a seed."""
    rng = np.random.default_rng(seed)
    return random_graph(lambda count: int(rng.integers(count)))


def choices(seed):
    """Return how the oracle cuts the graph of a seed: inner factors in two of three, what ops mix over in two of five.

    >>> choices(0)["inner"], choices(0)["width"], choices(2)["inner"], choices(2)["width"]
    (False, True, True, False)
    """
    return {"share": None, "inner": seed % 3 > 0, "at": SIZES, "quick": True, "width": seed % 5 < 2}


@st.composite
def graphs(draw):
    """Draw random graphs for hypothesis."""
    return random_graph(lambda count: draw(st.integers(0, count - 1)))


from tests.support import random_families  # noqa: E402  its steps are those of this table
