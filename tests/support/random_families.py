"""Steps of the random graphs for whole families: control flow, functions, recurrent layers, sequences, gathering and
scattering, quantized ops, and the ops of ONNX Runtime.

`random_graphs` imports this module at its end; the steps stand in its table.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.support.random_graphs import (
    KINDS,
    Unfit,
    Value,
    _info,
    apart_and_back,
    attention,
    batch_norm,
    channels_last,
    divisors,
    expanded_layer,
    gate,
    is_static,
    need,
    passing,
    projection,
    replaced,
    reshaped,
    shuffle,
    size_of,
    step,
    times,
    transposed,
    unary,
    with_constant,
)

MS = "com.microsoft"
DEEPEST = 3  # bodies and functions in each other


def ms(g, op, *inputs, dims, **attributes):
    """Add a node of ONNX Runtime's own domain."""
    while inputs and inputs[-1] == "":
        inputs = inputs[:-1]
    return g.node(op, *inputs, dims=dims, domain=MS, **attributes)


def single(g):
    need(g.kind == "float32")


def ending(inputs):
    """Return inputs without the absent ones at the end."""
    inputs = list(inputs)
    while inputs and inputs[-1] == "":
        inputs.pop()
    return inputs


def tokens(g, x):
    """Return a value of three axes, the last of known size."""
    single(g)
    need(x.rank in (2, 3) and is_static(x.dims[-1]))
    if x.rank == 2:
        need(g.chance(30))
        return g.along("Unsqueeze", x, [0], (1, *x.dims), since=13)
    return x


# -- bodies ------------------------------------------------------------------------------------------------------------


def kept(g, x):
    """Take one step or two that keep all sizes."""
    if g.chance(30):
        x = kept(g, x)
    ways = [unary, with_constant, with_constant, expanded_layer, expanded_layer, batch_norm, gate, attention]
    ways += [apart_and_back, channels_last, shuffle, passing, if_, if_]
    for _ in range(6):
        nodes = len(g.nodes)
        try:
            made = g.one_of(ways)(g, x)
            need(isinstance(made, Value) and made.dims == x.dims)
        except Unfit:
            del g.nodes[nodes:]
            continue
        return made
    raise Unfit


def body(g, inputs, make, loose=False):
    """Return a graph and the values of its outputs, which `make` returns; its constants lie inside or outside.

    With `loose`, some outputs are stated without a shape.
    """
    own = g.chance(40)
    need(g.depth < DEEPEST)
    saved = g.nodes, g.fixed, g.weights, g._shared
    g.nodes, g.depth = [], g.depth + 1
    if own:
        g.fixed, g.weights, g._shared, g.modern = [], {}, dict(g._shared), True
    try:
        results = list(make())
        inside = {name for node in g.nodes for name in node.output}
        for i, (value, kind) in enumerate(results):
            if value.name not in inside or value.name in {v.name for v, _ in results[:i]}:
                results[i] = (g.node("Identity", value, dims=value.dims), kind)
        graph = helper.make_graph(
            [*(g.fixed if own else ()), *g.nodes],
            g.name("body"),
            [_info(value, kind) for value, kind in inputs],
            [
                _info(value, kind)
                if not loose or g.chance(70)
                else helper.make_tensor_value_info(value.name, kind, None)
                for value, kind in results
            ],
            [numpy_helper.from_array(array, name) for name, array in g.weights.items()] if own else [],
        )
    finally:
        g.nodes, g.fixed, g.weights, g._shared = saved
        g.depth -= 1
    return graph, [value for value, _ in results]


def condition(g, x):
    """Return a boolean: an input, a constant, or what depends on a dynamic size."""
    way = g.draw(4)
    if way == 0:
        return Value(g.constant(np.array(bool(g.draw(2)))), ())
    if way == 1 and x.rank and x.dims[0] == "n":
        size = g.node("Gather", g.node("Shape", x), g.ints(0))
        return g.node("Greater", size, g.ints(2))
    found = Value(g.name("x"), ())
    g.inputs.append((found, TensorProto.BOOL))
    return found


@step(4)
def if_(g, x):
    """Two branches that read what stands outside, and may read another value."""
    kind = KINDS[g.kind]
    out = g.between(2, 6) if x.rank >= 2 and is_static(x.dims[-1]) and g.chance(40) else None
    two = g.chance(20)

    def branch():
        y = kept(g, x)
        first = y if out is None else projection(g, y, out)
        return [(first, kind), *([(kept(g, x), kind)] if two else [])]

    first, results = body(g, [], branch, loose=True)
    second, _ = body(g, [], branch, loose=True)
    switch = condition(g, x)
    made = g.nodes_of("If", [switch], [v.dims for v in results], then_branch=first, else_branch=second)
    return made if two else made[0]


@step(3)
def loop(g, x):
    """A state; a state and what each turn gives; or a state that grows."""
    need(x.rank and g.opset >= 11)
    kind, turns = KINDS[g.kind], g.between(1, 3)
    way = g.draw(3)
    state = Value(g.name("s"), x.dims)
    before = x
    if way == 2:
        need(x.rank <= 4)
        before = g.along("Unsqueeze", x, [1], (*x.dims[:1], 1, *x.dims[1:]), since=13)
        state = Value(g.name("s"), replaced(before.dims, 1, "grown"))
    number, going = Value(g.name("i"), ()), Value(g.name("b"), ())

    def turn():
        again = g.node("Identity", going)
        if way == 2:
            grown = g.node("Concat", state, before, dims=state.dims, axis=1)
            return [(again, TensorProto.BOOL), (grown, kind)]
        made = g.node("Tanh", kept(g, state), dims=x.dims)
        given = [(kept(g, made), kind)] if way == 1 else []
        return [(again, TensorProto.BOOL), (made, kind), *given]

    ports = [(number, TensorProto.INT64), (going, TensorProto.BOOL), (state, kind)]
    graph, _ = body(g, ports, turn)
    count = g.ints(turns) if g.chance(80) else ""
    on = g.constant(np.array(True)) if count == "" or g.chance(60) else ""
    if count == "":
        need(way == 0)
        count = g.ints(turns)
    if way == 1:
        last, stacked = g.nodes_of("Loop", [count, on, x], [x.dims, (turns, *x.dims)], body=graph)
        return [last, g.along("ReduceSum", stacked, [0], x.dims, since=13, keepdims=0)]
    if way == 2:
        grown = g.node("Loop", count, on, before, dims=replaced(before.dims, 1, turns + 1), body=graph)
        return g.along("ReduceSum", grown, [1], x.dims, since=13, keepdims=0)
    return g.node("Loop", count, on, x, dims=x.dims, body=graph)


@step(3)
def scan(g, x):
    """A recurrence along an axis, as a Scan."""
    need(x.rank >= 2)
    kind, axis = KINDS[g.kind], g.draw(x.rank - 1)
    rest = replaced(x.dims, axis)
    start = g.along("ReduceMean", x, [axis], rest, since=18, keepdims=0)
    state, part = Value(g.name("s"), rest), Value(g.name("s"), rest)

    def turn():
        read = kept(g, part)
        old = projection(g, state, rest[-1]) if is_static(rest[-1]) and len(rest) > 1 else state
        new = g.node("Tanh", g.node("Add", old, read, dims=rest), dims=rest)
        return [(new, kind), (g.node("Identity", new, dims=rest), kind)]

    graph, _ = body(g, [(state, kind), (part, kind)], turn)
    attributes = {"scan_input_axes": [axis], "scan_output_axes": [axis]} if axis or g.chance(30) else {}
    if g.chance(20):
        attributes["scan_input_directions"] = [1]
    dims = [rest, x.dims]
    last, whole = g.nodes_of("Scan", [start, x], dims, body=graph, num_scan_inputs=1, **attributes)
    return [last, whole] if g.chance(50) else whole


def read_inside(nodes):
    """Return the names that nodes, and those of their bodies, read from outside."""
    found, made = [], set()
    for node in nodes:
        inner = []
        for attribute in node.attribute:
            if attribute.HasField("g"):
                own = {t.name for t in (*attribute.g.initializer, *attribute.g.input)}
                inner += [name for name in read_inside(attribute.g.node) if name not in own]
        found += [name for name in (*node.input, *inner) if name and name not in made]
        made.update(node.output)
    return list(dict.fromkeys(found))


@step(3)
def function(g, x):
    """A call of a model-local function, or two of them; functions call others."""
    need(g.depth < DEEPEST)
    saved, g.nodes, g.modern, g.depth = g.nodes, [], True, g.depth + 1
    try:
        made = g.one_of([kept, kept, function, expanded_layer, if_])(g, x)
        need(isinstance(made, Value))
        nodes = g.nodes
    finally:
        g.nodes, g.depth = saved, g.depth - 1
    inputs = read_inside(nodes)
    need(x.name in inputs and nodes and made.name in {name for node in nodes for name in node.output})
    name = g.name("Function")
    opsets = [helper.make_opsetid("", g.opset), helper.make_opsetid("my", 1), helper.make_opsetid(MS, 1)]
    g.functions.append(helper.make_function("my", name, inputs, [made.name], nodes, opsets))
    result = g.node(name, *inputs, dims=made.dims, domain="my")
    if made.dims == x.dims and g.chance(40):
        again = [result.name if given == x.name else given for given in inputs]
        result = g.node(name, *again, dims=made.dims, domain="my")
    return result


# -- recurrent layers --------------------------------------------------------------------------------------------------


@step(5)
def recurrent(g, x):
    """LSTM, GRU and RNN: three directions, initial states of zeros, learned, or constant; the last state as well."""
    x = tokens(g, x)
    if g.chance(50):
        x = transposed(g, x, 1, 0, 2)
    op = g.one_of(["LSTM", "GRU", "RNN"])
    gates, hidden = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], g.between(2, 6)
    direction = g.one_of(["forward", "forward", "reverse", "bidirectional"])
    both, (length, batch, size) = 1 + (direction == "bidirectional"), x.dims
    inputs = [x, g.weight(both, gates * hidden, size, fan=size), g.weight(both, gates * hidden, hidden, fan=hidden)]
    inputs += [g.weight(both, 2 * gates * hidden) if g.chance(70) else "", ""]
    if g.chance(50):
        inputs += [_state(g, x, both, hidden) for _ in range(1 + (op == "LSTM"))]
    attributes = {"hidden_size": hidden} | ({"direction": direction} if direction != "forward" else {})
    if op == "GRU":
        attributes["linear_before_reset"] = g.draw(2)
    last = (both, batch, hidden)
    made = g.nodes_of(op, ending(inputs), [(length, both, batch, hidden), last, *[last] * (op == "LSTM")], **attributes)
    if both == 1:
        whole = g.along("Squeeze", made[0], [1], (length, batch, hidden), since=13)
        if g.chance(60):
            return whole
        return [whole, g.along("Squeeze", g.one_of(made[1:]), [0], (batch, hidden), since=13)]
    if g.chance(30):
        return g.along("ReduceSum", made[0], [1], (length, batch, hidden), since=13, keepdims=0)
    turned = transposed(g, made[0], 0, 2, 1, 3)
    return reshaped(g, turned, length, batch, 2 * hidden)


def _state(g, x, both, hidden):
    """Return an initial state ``[directions, batch, hidden]``."""
    batch = x.dims[1]
    if is_static(batch) and g.chance(60):
        return g.weight(both, batch, hidden)
    if g.chance(50):
        shape = g.node("Concat", g.ints([both]), size_of(g, x, 1), g.ints([hidden]), axis=0)
        return g.node("ConstantOfShape", shape, dims=(both, batch, hidden))
    shape = g.node("Concat", g.ints([1]), size_of(g, x, 1), g.ints([1]), axis=0)
    return g.node("Expand", g.weight(both, 1, hidden), shape, dims=(both, batch, hidden))


# -- sequences ---------------------------------------------------------------------------------------------------------


@step(3)
def split_to_sequence(g, x):
    """Parts of equal or of stated sizes, taken out one by one or put together again."""
    need(g.opset >= 11 and x.rank)
    single(g)
    axis = g.axis(x)
    size = x.dims[axis]
    equal = g.chance(70)
    if equal:
        part = g.one_of(d for d in divisors(size) if d < size)
        sizes, stated = [part] * (size // part), g.ints(part)
    else:
        first = g.between(1, size - 1)
        sizes, stated = [first, size - first], g.ints([first, size - first])
    sequence = g.node("SplitToSequence", x, stated, axis=axis)
    if not equal or g.chance(40):  # ONNX Runtime infers one shape for all parts
        return g.node("ConcatFromSequence", sequence, dims=x.dims, axis=axis)
    places = g.some(range(len(sizes)))[:2]
    return [_at(g, sequence, i, len(sizes), replaced(x.dims, axis, sizes[i])) for i in places]


def _at(g, sequence, place, count, dims):
    return g.node("SequenceAt", sequence, g.ints(place - count if g.chance(30) else place), dims=dims)


@step(3)
def sequence_(g, x):
    """Tensors are put in a sequence, moved in it, and taken out or joined."""
    need(g.opset >= 11)
    single(g)
    others = [v for v in g.values[-8:] if v.dims == x.dims]
    items = [g.one_of([x, kept(g, x), *others]) for _ in range(g.between(1, 3))]
    if g.chance(40):
        sequence = g.node("SequenceEmpty")
        for item in items:
            sequence = g.node("SequenceInsert", sequence, item)
    else:
        sequence = g.node("SequenceConstruct", *items)
    if g.chance(40):
        sequence = g.node("SequenceInsert", sequence, x, *([g.ints(0)] if g.chance(60) else []))
        items.append(x)
    if len(items) > 1 and g.chance(30):
        sequence = g.node("SequenceErase", sequence, *([g.ints(0)] if g.chance(60) else []))
        items.pop()
    way = g.draw(4)
    if way == 0 and x.rank:
        axis = g.axis(x)
        dims = replaced(x.dims, axis, x.dims[axis] * len(items))
        return g.node("ConcatFromSequence", sequence, dims=dims, axis=axis)
    if way == 1 and x.rank <= 4:
        dims = (*x.dims[:1], len(items), *x.dims[1:]) if x.rank else (len(items),)
        stacked = g.node("ConcatFromSequence", sequence, dims=dims, axis=min(1, x.rank), new_axis=1)
        return g.along("ReduceSum", stacked, [min(1, x.rank)], x.dims, since=13, keepdims=0)
    if way == 2:
        length = g.node("Cast", g.node("SequenceLength", sequence), to=1)
        return g.node("Mul", _at(g, sequence, 0, len(items), x.dims), length, dims=x.dims)
    return _at(g, sequence, g.draw(len(items)), len(items), x.dims)


# -- gathering and scattering ------------------------------------------------------------------------------------------


@step(3)
def gather_blocks(g, x):
    """Blocks of an axis in another order: rotated halves, repeated parts, some of them."""
    axis = g.axis(x)
    size = x.dims[axis]
    count = g.one_of(d for d in divisors(size) if d > 1)
    order = [g.draw(count) for _ in range(g.between(1, count))] if g.chance(40) else g.rng.permutation(count).tolist()
    block = size // count
    index = [b * block + i for b in order for i in range(block)]
    if g.chance(30):
        index = [i - size for i in index]
    kind = g.one_of([np.int64, np.int32])
    return g.node("Gather", x, g.ints(index, kind), dims=replaced(x.dims, axis, len(index)), axis=axis)


@step(2)
def gather_elements(g, x):
    need(g.opset >= 11 and x.rank)
    single(g)
    axis = g.axis(x)
    if is_static(*x.dims) and g.chance(60):
        count = g.between(1, x.dims[axis])
        index = g.rng.integers(0, x.dims[axis], replaced(x.dims, axis, count))
        return g.node("GatherElements", x, g.ints(index), dims=index.shape, axis=g.signed(axis, x.rank))
    dims = replaced(x.dims, axis, g.between(1, x.dims[axis] - 1))
    best = g.nodes_of("TopK", [x, g.ints([dims[axis]])], [dims, dims], axis=axis)
    return g.node("GatherElements", kept(g, x), best[1], dims=dims, axis=axis)


def _rows(g, x):
    """Return places along the first axis, or the first two, that every size has."""
    need(x.rank >= 2 and x.dims[0] != 1)
    two = x.rank >= 3 and x.dims[1] != 1 and g.chance(50)
    return [[g.draw(2), g.draw(2)] if two else [g.draw(2)] for _ in range(g.between(1, 3))], 1 + two


@step(1)
def gather_nd(g, x):
    need(g.opset >= 11)
    single(g)
    rows, depth = _rows(g, x)
    return g.node("GatherND", x, g.ints(rows), dims=(len(rows), *x.dims[depth:]))


@step(2)
def scatter(g, x):
    """Some rows, or some elements, are replaced."""
    single(g)
    if g.chance(50):
        need(g.opset >= 11)
        rows, depth = _rows(g, x)
        rows = [list(row) for row in dict.fromkeys(map(tuple, rows))]
        dims = (len(rows), *x.dims[depth:])
        new = Value(g.weight(*dims), dims) if is_static(*dims) else g.node("GatherND", x, g.ints(rows[::-1]), dims=dims)
        return g.node("ScatterND", x, g.ints(rows), new, dims=x.dims)
    need(is_static(*x.dims) and x.rank)
    axis = g.axis(x)
    at = g.rng.permutation(x.dims[axis])[: g.between(1, x.dims[axis])]
    dims = replaced(x.dims, axis, len(at))
    index = np.broadcast_to(at.reshape(-1, *[1] * (x.rank - axis - 1)), dims)
    more = {"reduction": "add"} if g.opset >= 16 and g.chance(40) else {}
    op = "ScatterElements" if g.opset >= 11 else "Scatter"
    return g.node(op, x, g.ints(index), g.weight(*dims), dims=x.dims, axis=axis, **more)


@step(3)
def picked(g, x):
    """Compress, CenterCropPad, ReverseSequence, NonZero of a constant."""
    single(g)
    need(x.rank)
    axis = g.axis(x)
    size = x.dims[axis]
    way = g.draw(4)
    if way == 0:
        mask = g.rng.integers(0, 2, size).astype(bool)
        mask[0] = True
        dims = replaced(x.dims, axis, int(mask.sum()))
        return g.node("Compress", x, g.constant(mask), dims=dims, axis=axis)
    if way == 1 and g.opset >= 18:
        wanted = g.between(max(1, size - 3), size + 3)
        return g.node("CenterCropPad", x, g.ints([wanted]), dims=replaced(x.dims, axis, wanted), axes=[axis])
    if way == 2 and g.opset >= 10 and x.rank >= 2 and is_static(*x.dims[:2]):
        batch = g.draw(2)
        lengths = [g.between(1, x.dims[1 - batch]) for _ in range(x.dims[batch])]
        return g.node("ReverseSequence", x, g.ints(lengths), dims=x.dims, batch_axis=batch, time_axis=1 - batch)
    if way == 3:
        mask = g.rng.integers(0, 2, size).astype(bool)
        mask[0] = True
        found = g.node("NonZero", g.constant(mask), dims=(1, int(mask.sum())))
        flat = g.along("Squeeze", found, [0], found.dims[1:], since=13)
        return g.node("Gather", x, flat, dims=replaced(x.dims, axis, int(mask.sum())), axis=axis)
    raise Unfit


@step(3)
def cache(g, x):
    """TensorScatter: a token is written into a cache."""
    single(g)
    need(g.opset >= 24 and x.rank >= 3 and x.dims[1] != 1)
    cut = g.node("Slice", x, g.ints([0]), g.ints([1]), g.ints([1]), dims=replaced(x.dims, 1, 1))
    places = [g.ints([g.draw(2) for _ in range(x.dims[0])])] if is_static(x.dims[0]) and g.chance(60) else []
    return g.node("TensorScatter", x, cut, *places, dims=x.dims, axis=1)


@step(2)
def by_bits(g, x):
    """OneHot, BitShift, BitwiseXor, Size as data, Swish."""
    single(g)
    way = g.draw(5)
    if way == 0 and 1 <= x.rank <= 4:
        classes = g.node("Cast", g.node("Relu", x, dims=x.dims), dims=x.dims, to=7)
        dims = (*x.dims, 3)
        hot = g.node("OneHot", classes, g.ints(3), g.constant(np.array([0, 1], np.float32)), dims=dims, axis=-1)
        return g.node("Add", x, g.along("ReduceSum", hot, [x.rank], x.dims, since=13, keepdims=0), dims=x.dims)
    if way == 1 and g.opset >= 11:
        whole = g.node("Cast", g.node("Relu", x, dims=x.dims), dims=x.dims, to=12)
        moved = g.node("BitShift", whole, g.constant(np.array(1, np.uint32)), dims=x.dims, direction="LEFT")
        return g.node("Add", x, g.node("Cast", moved, dims=x.dims, to=1), dims=x.dims)
    if way == 2 and g.opset >= 18:
        whole = g.node("Cast", x, dims=x.dims, to=6)
        turned = g.node("BitwiseXor", whole, g.ints(1, np.int32), dims=x.dims)
        return g.node("Add", x, g.node("Cast", turned, dims=x.dims, to=1), dims=x.dims)
    if way == 3:
        count = g.node("Cast", g.node("Size", g.node("Relu", x, dims=x.dims)), to=1)
        return g.node("Mul", x, g.node("Reciprocal", g.node("Sqrt", count)), dims=x.dims)
    need(g.opset >= 24)
    return g.node("Swish", x, dims=x.dims)


# -- images ------------------------------------------------------------------------------------------------------------


@step(5)
def sampled(g, x):
    """GridSample, AffineGrid, DeformConv, Col2Im, RoiAlign, MaxRoiPool, MeanVarianceNormalization."""
    single(g)
    need(x.rank >= 3 and is_static(x.dims[1]))
    channels, ways = x.dims[1], []
    if x.rank == 4:
        ways += [_by_grid] * 2 * (g.opset >= 16) + [_by_affine_grid] * 2 * (g.opset >= 20) + [_rois]
        ways += [_deformed] * 2 * (g.opset >= 19) + [_by_variance]
    if x.rank == 3 and is_static(x.dims[2]) and g.opset >= 18:
        ways += [_columns]
    return g.one_of(ways)(g, x, channels)


def _by_grid(g, x, channels):
    grid = g.weight(1, 3, 2, 2)
    if x.dims[0] != 1:
        grid = g.node("Expand", grid, g.node("Concat", size_of(g, x, 0), g.ints([3, 2, 2]), axis=0))
    if g.chance(50):
        return ms(g, "GridSample", x, grid, dims=(*x.dims[:2], 3, 2))
    return g.node("GridSample", x, grid, dims=(*x.dims[:2], 3, 2))


def _by_affine_grid(g, x, channels):
    theta, size = g.weight(1, 2, 3, fan=4), g.ints([x.dims[0], channels, 3, 2]) if is_static(x.dims[0]) else None
    if size is None:
        size = g.node("Concat", size_of(g, x, 0), g.ints([channels, 3, 2]), axis=0)
    theta = g.node("Expand", theta, g.node("Concat", size_of(g, x, 0), g.ints([2, 3]), axis=0))
    grid = g.node("AffineGrid", theta, size, dims=(x.dims[0], 3, 2, 2))
    return g.node("GridSample", x, grid, dims=(*x.dims[:2], 3, 2))


def _rois(g, x, channels):
    boxes, count = np.array([[0, 0, 3, 3], [1, 1, 3, 2], [0, 1, 2, 3]], np.float32), g.between(1, 3)
    need(g.opset < 22)
    if g.opset >= 10 and g.chance(60):
        index = g.ints([0] * count)
        more = {"output_height": 2, "output_width": 2, "sampling_ratio": 2}
        return g.node("RoiAlign", x, g.constant(boxes[:count]), index, dims=(count, channels, 2, 2), **more)
    rois = g.constant(np.pad(boxes[:count], ((0, 0), (1, 0))))
    return g.node("MaxRoiPool", x, rois, dims=(count, channels, 2, 2), pooled_shape=[2, 2])


def _deformed(g, x, channels):
    groups, parts = g.one_of(divisors(channels)), g.one_of(divisors(channels))
    out = groups * g.between(1, 3)
    shift = g.node("Conv", x, g.weight(2 * parts, channels, 1, 1, fan=channels), dims=replaced(x.dims, 1, 2 * parts))
    inputs = [x, g.weight(out, channels // groups, 1, 1, fan=channels // groups), shift]
    inputs += [g.bias(out)] if g.chance(50) else []
    attributes = {"group": groups, "offset_group": parts}
    return g.node("DeformConv", *inputs, dims=replaced(x.dims, 1, out), **attributes)


def _by_variance(g, x, channels):
    axes = g.one_of([[0, 2, 3], [2, 3], [1, 2], [1, 2, 3]])  # never over one unit alone: it divides by zero
    dims = tuple(dim if is_static(dim) else 1 for dim in x.dims)
    need(math.prod(dims[axis] for axis in axes) > 1)  # else they may all be one number
    moved = g.node("Add", x, g.constant(g.rng.standard_normal(dims).astype(np.float32)), dims=x.dims)
    return g.node("MeanVarianceNormalization", moved, dims=x.dims, axes=axes)


def _columns(g, x, channels):
    width = g.one_of(divisors(channels))
    image = x.dims[2] + width - 1
    dims = (x.dims[0], channels // width, 1, image)
    return g.node("Col2Im", x, g.ints([1, image]), g.ints([1, width]), dims=dims)


# -- quantized ---------------------------------------------------------------------------------------------------------


def scale(g, low=0.03, high=0.08):
    return g.constant(np.array(g.rng.uniform(low, high), np.float32))


def zero(g, kind=np.uint8):
    return g.constant(np.array(g.rng.integers(100, 140) if kind is np.uint8 else g.rng.integers(-20, 20), kind))


def integers(g, *dims, kind=np.int8):
    low, high = (-100, 100) if kind is np.int8 else (0, 255)
    return g.constant(g.rng.integers(low, high, dims).astype(kind))


def quantized(g, x):
    """Return integers, and their scale and zero point."""
    single(g)
    need(g.opset >= 10)
    by = scale(g), zero(g)
    return g.node("QuantizeLinear", x, *by, dims=x.dims), by


def real(g, x, by):
    return g.node("DequantizeLinear", x, *by, dims=x.dims)


@step(3)
def through_integers(g, x):
    """QuantizeLinear and DequantizeLinear of an activation, per tensor or per channel."""
    single(g)
    need(g.opset >= 10 and x.rank)
    more, domain = {}, {"domain": MS} if g.chance(15) else {}
    if g.opset >= 13 and not domain and g.chance(40):
        axis = g.axis(x)
        size = x.dims[axis]
        by = [g.constant(g.rng.uniform(0.03, 0.08, size).astype(np.float32)), integers(g, size, kind=np.uint8)]
        more = {"axis": g.signed(axis, x.rank)}
    else:
        by = [scale(g), zero(g, g.one_of([np.uint8, np.int8]))]
    stored = g.node("QuantizeLinear", x, *by, dims=x.dims, **more, **domain)
    if g.chance(30) and not more:
        stored = transposed(g, stored, *range(x.rank - 1, -1, -1))
    return g.node("DequantizeLinear", stored, *by, dims=stored.dims, **more, **domain)


@step(4)
def integer_product(g, x):
    """QLinearMatMul, MatMulInteger, QGemm and their like, on quantized activations."""
    need(x.rank >= 2 and is_static(x.dims[-1]))
    size, out = x.dims[-1], g.between(2, 6)
    dims = (*x.dims[:-1], out)
    way = g.draw(8)
    weight, by_column = integers(g, size, out), g.chance(50)
    ks = g.constant(g.rng.uniform(0.005, 0.02, [out] * by_column).astype(np.float32))
    kz = g.constant(g.rng.integers(-9, 9, [out] * by_column).astype(np.int8))
    if way == 0:
        single(g)
        return ms(g, "DynamicQuantizeMatMul", x, weight, ks, kz if g.chance(60) else "", dims=dims)
    if way == 1 and g.opset >= 11:
        single(g)
        whole, s, z = g.nodes_of("DynamicQuantizeLinear", [x], [x.dims, (), ()])
        product = g.node("MatMulInteger", whole, weight, z, kz, dims=dims)
        return g.node("Mul", g.node("Cast", product, dims=dims, to=1), g.node("Mul", s, ks), dims=dims)
    stored, by = quantized(g, x)
    if way == 2:
        product = g.node("MatMulInteger", stored, weight, by[1], *([kz] if g.chance(60) else []), dims=dims)
        return g.node("Mul", g.node("Cast", product, dims=dims, to=1), g.number(0.001), dims=dims)
    if way == 3:
        return ms(g, "MatMulIntegerToFloat", stored, weight, by[0], ks, by[1], kz, dims=dims)
    after = scale(g, 0.05, 0.15), zero(g)
    if way in (4, 5) and x.rank == 2:
        inputs = [stored, *by, weight, ks, kz]
        if g.chance(50):
            return ms(g, "QGemm", *inputs, dims=dims)
        return real(
            g,
            ms(g, "QGemm", *inputs, g.constant(g.rng.integers(-99, 99, out).astype(np.int32)), *after, dims=dims),
            after,
        )
    kz = g.constant(np.zeros([out] * by_column, np.int8))
    return real(g, g.node("QLinearMatMul", stored, *by, weight, ks, kz, *after, dims=dims), after)


@step(6)
def integer_image(g, x):
    """QLinearConv, ConvInteger, and the pools, sums and activations on integers."""
    need(x.rank == 4 and is_static(x.dims[1]))
    channels = x.dims[1]
    way = g.draw(10)
    stored, by = quantized(g, x)
    after = scale(g, 0.08, 0.15), zero(g)
    both = [stored, *by, *after]
    if way <= 1:
        groups = g.one_of([1, 1, channels])
        out = groups * g.between(1, max(1, 6 // groups))
        dims = replaced(x.dims, 1, out)
        kind = np.uint8 if way else g.one_of([np.int8, np.uint8])
        weight = integers(g, out, channels // groups, 1, 1, kind=kind)
        if way == 1 and groups == 1:
            product = g.node("ConvInteger", stored, weight, by[1], zero(g, kind), dims=dims)
            return g.node("Mul", g.node("Cast", product, dims=dims, to=1), g.number(0.001), dims=dims)
        by_channel = kind is np.int8 and g.chance(50)
        ks = g.constant(g.rng.uniform(0.005, 0.02, [out] * by_channel).astype(np.float32))
        kz = g.constant(np.zeros(out, np.int8)) if by_channel else zero(g, kind)
        made = g.node("QLinearConv", *both[:3], weight, ks, kz, *after, dims=dims, group=groups)
        return real(g, made, after)
    if way == 2:
        op = g.one_of(["QLinearSigmoid", "QLinearLeakyRelu"])
        return real(g, ms(g, op, *both, dims=x.dims), after)
    if way in (3, 4):
        other = [integers(g, channels, 1, 1, kind=np.uint8), *by] if g.chance(50) else both[:3]
        op = g.one_of(["QLinearAdd", "QLinearMul"])
        return real(g, ms(g, op, stored, *by, *other, *after, dims=x.dims), after)
    if way == 5:
        g.frozen = True
        mask = g.constant(g.rng.integers(0, 2, (1, channels, 1, 1)).astype(bool))
        other = [integers(g, channels, 1, 1, kind=np.uint8), *by]
        return real(g, ms(g, "QLinearWhere", mask, stored, *by, *other, *after, dims=x.dims), after)
    if way == 6:
        last = g.constant(np.array(1 / 256, np.float32)), g.constant(np.array(0, np.uint8))
        made = ms(g, "QLinearSoftmax", stored, *by, *last, dims=x.dims, axis=g.draw(4), opset=13)
        return real(g, made, last)
    if way == 7:
        made = ms(g, "QLinearGlobalAveragePool", *both, dims=(*x.dims[:2], 1, 1))
        return real(g, made, after)
    if way == 8:
        more = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}
        if g.chance(50):
            return real(g, ms(g, "QLinearAveragePool", *both, dims=x.dims, **more), after)
        turned = transposed(g, stored, 0, 2, 3, 1)
        made = ms(g, "NhwcMaxPool", turned, dims=turned.dims, **more)
        return real(g, transposed(g, made, 0, 3, 1, 2), by)
    other, more = quantized(g, kept(g, x))
    dims = replaced(x.dims, 1, 2 * channels)
    made = ms(g, "QLinearConcat", *after, stored, *by, other, *more, dims=dims, axis=1)
    return real(g, made, after)


@step(2)
def packed(g, x):
    """MatMulNBits: blocks of few bits."""
    single(g)
    need(x.rank in (2, 3) and is_static(x.dims[-1]))
    size, out = 16 * g.between(1, 3), g.between(2, 6)
    x = g.node("Relu", projection(g, x, size), dims=(*x.dims[:-1], size))
    bits = g.one_of([4, 4, 8])
    blocks = size // 16
    inputs = [x, integers(g, out, blocks, 2 * bits, kind=np.uint8)]
    inputs.append(g.constant(g.rng.uniform(0.002, 0.01, out * blocks).astype(np.float32)))
    if bits == 8 and g.chance(50):
        inputs.append(integers(g, out * blocks, kind=np.uint8))
    attributes = {"K": size, "N": out, "bits": bits, "block_size": 16}
    return ms(g, "MatMulNBits", *inputs, dims=(*x.dims[:-1], out), **attributes)


@step(1)
def looked_up(g, x):
    """Embeddings by a new input: GatherBlockQuantized, or those of BERT."""
    single(g)
    need(g.opset < 22)
    batch, length = g.one_of(["n", 2]), g.one_of(["s", "t", 3])
    ids = Value(g.name("x"), (batch, length))
    if g.chance(50):
        g.inputs.append((ids, TensorProto.INT64))
        inputs = [integers(g, 9, 16, kind=np.uint8), ids]
        inputs.append(g.constant(g.rng.uniform(0.01, 0.05, (9, 2)).astype(np.float32)))
        attributes = {"block_size": 16, "bits": 4, "quantize_axis": 1}
        return ms(g, "GatherBlockQuantized", *inputs, dims=(batch, length, 32), **attributes)
    g.inputs.append((ids, TensorProto.INT32))
    size = g.between(3, 8)
    inputs = [ids, "", g.weight(9, size), g.weight(9, size), "", g.positive(size), g.bias(size)]
    made = [(batch, length, size), (batch,)]
    return g.nodes_of("EmbedLayerNormalization", inputs, made, domain=MS, epsilon=0.1)[0]


@step(1)
def integer_layer(g, x):
    """QAttention, DynamicQuantizeLSTM."""
    x = tokens(g, x)
    size = x.dims[-1]
    if g.chance(50):
        heads, head = g.one_of([(2, 2), (3, 2), (2, 4)])
        width = heads * head
        stored, by = quantized(g, x)
        ks = g.constant(g.rng.uniform(0.005, 0.02, 3 * width).astype(np.float32))
        kz = g.constant(np.zeros(3 * width, np.int8))
        inputs = [stored, integers(g, size, 3 * width), g.bias(3 * width), by[0], ks, "", by[1], kz]
        return ms(g, "QAttention", *inputs, dims=(*x.dims[:2], width), num_heads=heads)
    hidden = g.between(2, 4)
    inputs = [x, integers(g, 1, size, 4 * hidden), integers(g, 1, hidden, 4 * hidden), g.weight(1, 8 * hidden)]
    for _ in range(2):
        inputs += [
            g.constant(np.full((1, 4 * hidden), 0.01, np.float32)),
            g.constant(np.zeros((1, 4 * hidden), np.int8)),
        ]
    inputs[4:4] = ["", "", "", ""]
    dims = (x.dims[0], 1, x.dims[1], hidden)
    made = ms(g, "DynamicQuantizeLSTM", *inputs, dims=dims, hidden_size=hidden)
    return g.along("Squeeze", made, [1], replaced(dims, 1), since=13)


# -- fused ops ---------------------------------------------------------------------------------------------------------


@step(4)
def fused_product(g, x):
    """FusedMatMul, FusedGemm, TransposeMatMul, CDist, MoE, and the gelus with a bias."""
    single(g)
    need(x.rank >= 2 and is_static(x.dims[-1]))
    size, out = x.dims[-1], g.between(2, 6)
    dims = (*x.dims[:-1], out)
    way = g.draw(8)
    if way <= 1:
        turned = g.draw(2)
        weight = g.weight(out, size, fan=size) if turned else g.weight(size, out, fan=size)
        op = g.one_of(["FusedMatMul", "TransposeMatMul"])
        return ms(g, op, x, weight, dims=dims, transB=turned, alpha=g.one_of([1.0, 0.5]))
    if way <= 3 and x.rank == 2:
        turned = g.draw(2)
        weight = g.weight(out, size, fan=size) if turned else g.weight(size, out, fan=size)
        activation = g.one_of(["Relu", "LeakyRelu", "Tanh", "Sigmoid"])
        more = {"activation_alpha": 0.1} if activation == "LeakyRelu" else {}
        return ms(g, "FusedGemm", x, weight, g.bias(out), dims=dims, transB=turned, activation=activation, **more)
    if way == 2 and x.rank == 3:
        return ms(g, "FusedMatMul", x, x, dims=(*x.dims[:2], x.dims[1]), transB=1, alpha=0.3)
    if way == 3 and x.rank == 3 and is_static(x.dims[1]):
        return ms(g, "FusedMatMul", x, g.weight(x.dims[1], out, fan=x.dims[1]), dims=(x.dims[0], size, out), transA=1)
    if way == 4 and x.rank == 2:
        metric = g.one_of(["euclidean", "sqeuclidean"])
        return ms(g, "CDist", x, g.weight(out, size), dims=dims, metric=metric)
    if way == 5:
        gates = projection(g, x, 1)
        return ms(g, "GatedAdd", x, kept(g, x), gates, dims=x.dims)
    if way == 6 and x.rank <= 3:
        return _experts(g, x, size)
    return ms(g, g.one_of(["BiasGelu", "FastGelu"]), x, g.bias(size), dims=x.dims)


def _experts(g, x, size):
    inner, kind = g.between(2, 5), g.one_of(["relu", "gelu", "swiglu"])
    fused = 1 if kind == "swiglu" else 0
    flat = reshaped(g, x, times(*x.dims[:-1]), size) if x.rank == 3 else x
    scores = projection(g, flat, 3)
    inputs = [x, scores, g.weight(3, inner * (1 + fused), size, fan=size), "", g.weight(3, size, inner, fan=inner)]
    attributes = {"k": 2, "activation_type": kind, "swiglu_fusion": fused, "normalize_routing_weights": 1}
    return ms(g, "MoE", *inputs, dims=x.dims, **attributes)


@step(3)
def fused_plain(g, x):
    """Elementwise ops of ONNX Runtime, and those on positions."""
    single(g)
    way = g.draw(7)
    if way <= 2:
        return ms(g, g.one_of(["Gelu", "QuickGelu", "FastGelu", "ScaledSiLU"]), x, dims=x.dims)
    need(x.rank >= 2)
    if way == 3:
        return ms(g, "Trilu", x, dims=x.dims, upper=g.draw(2))
    if way == 4 and x.rank <= 4:
        axis = g.draw(x.rank + 1)
        place = g.constant(np.array(axis, np.int32))
        return ms(g, "ExpandDims", x, place, dims=(*x.dims[:axis], 1, *x.dims[axis:]))
    if way == 5:
        axis = g.axis(x)
        low, high = g.between(0, 2), g.between(1, 2)
        pads = [low if i == axis else 0 for i in range(x.rank)] + [high if i == axis else 0 for i in range(x.rank)]
        return ms(g, "Pad", x, g.ints(pads), dims=replaced(x.dims, axis, x.dims[axis] + low + high))
    need(is_static(x.dims[-1]) and x.rank <= 3)
    size = x.dims[-1]
    small = g.node("Tanh", x, dims=x.dims)
    turned = transposed(g, small, *range(x.rank - 2), x.rank - 1, x.rank - 2)
    square = g.node("MatMul", turned, small, dims=(*x.dims[:-2], size, size))
    solid = g.node("Add", square, g.constant(np.eye(size, dtype=np.float32)), dims=square.dims)
    return ms(g, "Inverse", solid, dims=solid.dims)


@step(2)
def fused_conv(g, x):
    single(g)
    if x.rank == 3 and is_static(x.dims[1]) and g.chance(60):
        inputs = [x, g.weight(x.dims[1], 1, 3, fan=3), g.bias(x.dims[1])]
        return g.nodes_of("CausalConvWithState", inputs, [x.dims, (*x.dims[:2], 2)], domain=MS)[0]
    need(x.rank == 4 and is_static(x.dims[1]))
    channels = x.dims[1]
    groups = g.one_of([1, 1, *divisors(channels)])
    same = g.chance(40)
    out = channels if same else groups * g.between(1, max(1, 8 // groups))
    inputs = [x, g.weight(out, channels // groups, 1, 1, fan=channels // groups), g.bias(out), *([x] * same)]
    attributes = {"group": groups, "activation": g.one_of(["Relu", "LeakyRelu", "Tanh", "Sigmoid"])}
    if attributes["activation"] == "LeakyRelu":
        attributes["activation_params"] = [0.1]
    return ms(g, "FusedConv", *inputs, dims=replaced(x.dims, 1, out), **attributes)


@step(3)
def fused_norm(g, x):
    """SkipLayerNormalization and its like."""
    single(g)
    need(x.rank == 3 and is_static(x.dims[-1]) and x.dims[-1] > 1)
    size, way = x.dims[-1], g.draw(5)
    if way == 0:
        return g.node("SimplifiedLayerNormalization", x, g.positive(size), dims=x.dims, axis=-1, epsilon=0.1)
    if way == 1:
        head = g.one_of(divisors(size))
        gates = g.node("Sigmoid", kept(g, x), dims=x.dims)
        return ms(g, "GatedRMSNorm", x, g.positive(head), gates, dims=x.dims, epsilon=0.1)
    simple = g.chance(50)
    op = "SkipSimplifiedLayerNormalization" if simple else "SkipLayerNormalization"
    vectors = [g.positive(size), *([] if simple else [g.bias(size)]), *([g.bias(size)] if g.chance(50) else [])]
    inputs = [x, kept(g, x), *vectors]
    if g.chance(40):
        names = [g.name(), "", "", g.name()]
        g.nodes.append(
            helper.make_node(op, [v if isinstance(v, str) else v.name for v in inputs], names, domain=MS, epsilon=0.1)
        )
        return [Value(names[0], x.dims), Value(names[3], x.dims)]
    return ms(g, op, *inputs, dims=x.dims, epsilon=0.1)


# -- attention ---------------------------------------------------------------------------------------------------------


def _heads(g, x, count, size):
    """Return a projection as ``[n, heads, s, size]``."""
    flat = projection(g, x, count * size)
    return transposed(g, reshaped(g, flat, *x.dims[:2], count, size), 0, 2, 1, 3)


@step(6)
def fused_attention(g, x):
    """The attentions of ONNX and of ONNX Runtime, with rotary embeddings, biases and shared keys."""
    x = tokens(g, x)
    ways = [_multi_head, _multi_head, _whole, _whole, _grouped, _one_token, _linear, _linear]
    out = g.one_of(ways + [_standard] * 6 * (g.opset >= 23))(g, x)
    made = projection(g, out, x.dims[-1])
    return g.node("Add", x, made, dims=x.dims) if g.chance(50) and made.dims == x.dims else made


def _standard(g, x):
    """Attention of opset 23, on three axes or four."""
    kv, repeats, size, value = g.one_of([(2, 1, 2, 2), (2, 2, 4, 2), (1, 3, 2, 3), (3, 1, 4, 4)])
    more = {"is_causal": 1} if g.chance(20) else {}
    more |= {"scale": 0.4} if g.chance(30) else {}
    if g.chance(40):
        query, key, values = _heads(g, x, kv * repeats, size), _heads(g, x, kv, size), _heads(g, x, kv, value)
        if is_static(*x.dims[:2]) and size == 4 and g.chance(60):
            query, key = (_turned(g, v, x) for v in (query, key))
        length = x.dims[1]
        mask = [g.weight(1, kv * repeats, length, length)] if is_static(length) and g.chance(50) else []
        out = g.node("Attention", query, key, values, *mask, dims=(*query.dims[:3], value), **more)
        return reshaped(g, transposed(g, out, 0, 2, 1, 3), *x.dims[:2], kv * repeats * value)
    parts = [projection(g, x, n) for n in (kv * repeats * size, kv * size, kv * value)]
    if is_static(*x.dims[:2]) and size == 4 and g.chance(60):
        parts[0] = _turned(g, parts[0], x, kv * repeats)
        parts[1] = _turned(g, parts[1], x, kv)
    attributes = {"q_num_heads": kv * repeats, "kv_num_heads": kv, **more}
    return g.node("Attention", *parts, dims=(*x.dims[:2], kv * repeats * value), **attributes)


def _turned(g, v, x, heads=0):
    """Rotate heads of 4 dims, all of them or the first two."""
    batch, length = x.dims[:2]
    part = {"rotary_embedding_dim": 2} if g.chance(30) else {}
    half = 1 if part else 2
    more = {**part, "interleaved": g.draw(2), **({"num_heads": heads} if heads else {})}
    if g.chance(50):
        return g.node("RotaryEmbedding", v, g.weight(batch, length, half), g.weight(batch, length, half), dims=v.dims,
                      **more)  # fmt: skip
    places = g.ints([list(range(length))] * batch)
    return g.node("RotaryEmbedding", v, g.weight(64, half), g.weight(64, half), places, dims=v.dims, **more)


def _multi_head(g, x):
    heads, size, value = g.one_of([(2, 2, 2), (3, 4, 4), (2, 4, 2)])
    if g.chance(30):
        query = projection(g, x, heads * size)
        key, values = _heads(g, x, heads, size), _heads(g, x, heads, size)
        return ms(g, "MultiHeadAttention", query, key, values, dims=query.dims, num_heads=heads)
    parts = [projection(g, x, n) for n in (heads * size, heads * size, heads * value)]
    if size == 4 and g.chance(60):
        places = g.ints([0])
        more = {"interleaved": g.draw(2)}
        tables = [g.constant(table) for table in g.rng.standard_normal((2, 64, 2)).astype(np.float32)]
        parts[:2] = (
            ms(g, "RotaryEmbedding", v, places, *tables, dims=v.dims, num_heads=heads, **more) for v in parts[:2]
        )
    bias = [g.bias(heads * (2 * size + value))] if g.chance(40) else []
    dims = (*x.dims[:2], heads * value)
    return ms(g, "MultiHeadAttention", *parts, *bias, dims=dims, num_heads=heads, unidirectional=g.draw(2))


def _whole(g, x):
    heads, size, value = g.one_of([(2, 2, 2), (3, 4, 4), (2, 4, 2)])
    width = heads * (2 * size + value)
    sizes = {"qkv_hidden_sizes": [heads * size] * 2 + [heads * value]} if size != value or g.chance(30) else {}
    inputs = [x, g.weight(x.dims[-1], width, fan=x.dims[-1]), g.bias(width)]
    more = {"num_heads": heads, "unidirectional": g.draw(2), **sizes}
    return ms(g, "Attention", *inputs, dims=(*x.dims[:2], heads * value), **more)


def _grouped(g, x):
    need(is_static(*x.dims[:2]))
    batch, length = x.dims[:2]
    kv, repeats, size = g.one_of([(1, 2, 16), (2, 1, 16), (2, 2, 16)])
    parts = [projection(g, x, n * size) for n in (kv * repeats, kv, kv)]
    lengths = [g.constant(np.full(batch, length - 1, np.int32)), g.constant(np.array(length, np.int32))]
    more, tables = {}, []
    if g.chance(50):
        more, tables = (
            {"do_rotary": 1, "rotary_interleaved": g.draw(2)},
            [g.constant(t) for t in g.rng.standard_normal((2, 8, size // 2)).astype(np.float32)],
        )
    inputs = [*parts, "", "", *lengths, *tables]
    attributes = {"num_heads": kv * repeats, "kv_num_heads": kv, **more}
    dims = (batch, length, kv * repeats * size)
    return ms(g, "GroupQueryAttention", *inputs, dims=dims, **attributes)


def _one_token(g, x):
    heads, size = g.one_of([(2, 2), (3, 4)])
    x = g.along("ReduceMean", x, [1], replaced(x.dims, 1, 1), since=18, keepdims=1)
    query = projection(g, x, heads * size)
    key, values = _heads(g, x, heads, size), _heads(g, x, heads, size)
    return ms(g, "DecoderMaskedMultiHeadAttention", query, key, values, dims=query.dims, num_heads=heads)


def _linear(g, x):
    kv, repeats, size = g.one_of([(1, 2, 2), (2, 1, 4), (2, 2, 2)])
    parts = [projection(g, x, n * size) for n in (kv * repeats, kv, kv)]
    more = {"q_num_heads": kv * repeats, "kv_num_heads": kv, "update_rule": "linear"}
    dims = (*x.dims[:2], kv * repeats * size)
    state = (x.dims[0], kv, size, size)
    return g.nodes_of("LinearAttention", parts, [dims, state], domain=MS, **more)[0]


# -- weights -----------------------------------------------------------------------------------------------------------


def standardised(g, array, name):
    """Add nodes that standardise a weight per unit of its first axis, as ReduceMean or as a BatchNormalization."""
    stored, axes = g.constant(array), list(range(1, array.ndim))

    def fixed(op, *inputs, output=None, **attributes):
        output = output or g.name("w")
        g.fixed.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    if g.opset >= 14 and g.chance(40):
        size = array.shape[0]
        flat = fixed("Reshape", stored, g.ints([1, size, -1]))
        ones, zeros = g.constant(np.ones(size, g.kind)), g.constant(np.zeros(size, g.kind))
        more = {"training_mode": 1, "epsilon": 0.1}
        made = fixed("BatchNormalization", flat, ones, zeros, zeros, ones, **more)
        g.fixed[-1].output.extend([g.name("w"), g.name("w")])
        return fixed("Reshape", made, g.ints(array.shape), output=name)

    def mean(source):
        if g.opset >= 18:
            return fixed("ReduceMean", source, g.ints(axes), keepdims=1)
        return fixed("ReduceMean", source, axes=axes, keepdims=1)

    centred = fixed("Sub", stored, mean(stored))
    variance = fixed("Add", mean(fixed("Mul", centred, centred)), g.number(0.1))
    return fixed("Div", centred, fixed("Sqrt", variance), output=name)


def dequantized(g, array, name):
    """Add a node that makes a weight of integers, per tensor or along an axis."""
    axis = g.draw(array.ndim) if g.opset >= 13 and g.chance(60) else None
    largest = np.abs(array).max(initial=1e-3) / 100
    size = [] if axis is None else [array.shape[axis]]
    by = g.rng.uniform(1.0, 1.2, size).astype(np.float32) * largest
    beside = by if axis is None else by.reshape(-1, *[1] * (array.ndim - axis - 1))
    stored = np.clip(np.round(array / beside), -127, 127).astype(np.int8)
    inputs = [g.constant(stored), g.constant(np.array(by, np.float32))]
    if g.chance(40):
        inputs.append(g.constant(g.rng.integers(-9, 9, size).astype(np.int8)))
    more = {} if axis is None else {"axis": axis}
    g.fixed.append(helper.make_node("DequantizeLinear", inputs, [name], **more))
    return name
