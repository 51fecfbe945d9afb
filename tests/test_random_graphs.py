"""Random small graphs: whatever branches, joins and rearrangements they are made of, the oracle must hold."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxprune.model import view
from tests.oracle import check
from tests.rules.build import model

SIDE = 4  # every image keeps its height and width, so that any two can be joined
examples = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# -- steps: each takes a graph and the name of a value, and adds nodes ------------------------------------------------


def conv(graph, draw, value):
    out = draw(st.integers(2, 9))
    weights = f"{graph.weight((out, graph.values[value], 3, 3))}, {graph.weight((out,))}"
    return graph.node(f"Conv<pads = [1,1,1,1]>({value}, {weights})", out)


def grouped(graph, draw, value):
    channels = graph.values[value]
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    out = groups * draw(st.integers(1, 3))
    weight = graph.weight((out, channels // groups, 1, 1))
    return graph.node(f"Conv<group = {groups}>({value}, {weight})", out)


def norm(graph, _draw, value):
    channels = graph.values[value]
    scale, shift, mean = (graph.weight((channels,)) for _ in range(3))
    variance = graph.weight(np.linspace(0.5, 2, channels, dtype=np.float32))
    return graph.node(f"BatchNormalization({value}, {scale}, {shift}, {mean}, {variance})", channels)


def activation(graph, draw, value):
    return graph.node(f"{draw(st.sampled_from(['Relu', 'Sigmoid', 'HardSwish']))}({value})", graph.values[value])


def bias(graph, _draw, value):
    channels = graph.values[value]
    return graph.node(f"Add({value}, {graph.weight((channels, 1, 1))})", channels)


def pool(graph, draw, value):
    op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    return graph.node(f"{op}<kernel_shape = [3,3], pads = [1,1,1,1]>({value})", graph.values[value])


def gate(graph, draw, value):
    """Squeeze and excite."""
    channels, inner = graph.values[value], draw(st.integers(2, 4))
    mean = graph.node(f"GlobalAveragePool({value})", None)
    squeezed = graph.node(f"Conv({mean}, {graph.weight((inner, channels, 1, 1))})", None)
    excited = graph.node(f"Conv({squeezed}, {graph.weight((channels, inner, 1, 1))})", None)
    return graph.node(f"Mul({value}, {graph.node(f'Sigmoid({excited})', None)})", channels)


def join(graph, draw, value):
    """Add or multiply two values, the other one through a Conv where its channels differ."""
    other = draw(st.sampled_from(images(graph)))
    channels = graph.values[value]
    if graph.values[other] != channels:
        other = graph.node(f"Conv({other}, {graph.weight((channels, graph.values[other], 1, 1))})", channels)
    return graph.node(f"{draw(st.sampled_from(['Add', 'Mul']))}({value}, {other})", channels)


def concat(graph, draw, value):
    other = draw(st.sampled_from(images(graph)))
    return graph.node(f"Concat<axis = 1>({value}, {other})", graph.values[value] + graph.values[other])


def split(graph, draw, value):
    channels = graph.values[value]
    first = draw(st.integers(1, max(1, channels - 1)))
    if first == channels:
        return value
    sizes = graph.weight([first, channels - first])
    names = [graph.name(first), graph.name(channels - first)]
    graph.nodes.append(f"{', '.join(names)} = Split<axis = 1>({value}, {sizes})")
    return names[-1]


def part(graph, draw, value):
    channels = graph.values[value]
    start = draw(st.integers(0, channels - 1))
    end = draw(st.integers(start + 1, channels))
    arguments = ", ".join(graph.weight([number]) for number in (start, end, 1))
    return graph.node(f"Slice({value}, {arguments})", end - start)


def shuffle(graph, draw, value):
    channels = graph.values[value]
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    apart = graph.weight([0, groups, channels // groups, SIDE, SIDE])
    wide = graph.node(f"Reshape({value}, {apart})", None)
    turned = graph.node(f"Transpose<perm = [0,2,1,3,4]>({wide})", None)
    return graph.node(f"Reshape({turned}, {graph.weight([0, channels, SIDE, SIDE])})", channels)


def tokens(graph, draw, value):
    """A layer on channels-last tokens."""
    channels, out = graph.values[value], draw(st.integers(2, 8))
    last = graph.node(f"Transpose<perm = [0,2,3,1]>({value})", None)
    flat = graph.node(f"Reshape({last}, {graph.weight([0, SIDE * SIDE, channels])})", None)
    hidden = graph.node(f"MatMul({flat}, {graph.weight((channels, out))})", None)
    back = graph.node(f"Transpose<perm = [0,2,1]>({hidden})", None)
    return graph.node(f"Reshape({back}, {graph.weight([0, out, SIDE, SIDE])})", out)


STEPS = (conv, grouped, norm, activation, bias, pool, gate, join, concat, split, part, shuffle, tokens)


# -- graphs ------------------------------------------------------------------------------------------------------------


def start():
    """Return an empty graph: nodes as text, weights by name, and the channels of every image."""
    graph = SimpleNamespace(nodes=[], weights={}, values={})

    def weight(content):
        name = f"w{len(graph.weights)}"
        graph.weights[name] = content
        return name

    def name(channels):
        graph.values[new := f"v{len(graph.values)}"] = channels
        return new

    def node(text, channels):
        new = name(channels)
        graph.nodes.append(f"{new} = {text}")
        return new

    graph.weight, graph.name, graph.node = weight, name, node
    return graph


def images(graph):
    return [name for name, channels in graph.values.items() if channels is not None]


def head(graph, draw, value):
    """Two layers that end the graph."""
    channels, hidden = graph.values[value], draw(st.integers(2, 8))
    pooled = draw(st.booleans())
    flat = graph.node(f"Flatten({graph.node(f'GlobalAveragePool({value})', None) if pooled else value})", None)
    wide = channels if pooled else channels * SIDE * SIDE
    first = graph.node(f"Gemm<transB = 1>({flat}, {graph.weight((hidden, wide))}, {graph.weight((hidden,))})", None)
    graph.nodes.append(f"y = MatMul({graph.node(f'Relu({first})', None)}, {graph.weight((hidden, 3))})")


@st.composite
def graphs(draw):
    graph = start()
    graph.node(f"Conv(x, {graph.weight((draw(st.integers(2, 9)), 3, 1, 1))})", next(iter(graph.weights.values()))[0])
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=8)):
        step(graph, draw, draw(st.sampled_from(images(graph)[-3:])))
    text = "\n".join(graph.nodes)
    ends = [name for name in images(graph) if f"{name}," not in text and f"{name})" not in text]
    joined = ends[0]
    if len(ends) > 1:
        joined = graph.node(f"Concat<axis = 1>({', '.join(ends)})", sum(graph.values[name] for name in ends))
    head(graph, draw, joined)
    return model(*graph.nodes, x=f"float[n,3,{SIDE},{SIDE}] x", **graph.weights)


@examples
@given(graphs(), st.integers(0, 99), st.sampled_from([0.2, 0.5, 0.8]), st.booleans())
def test_masked_and_pruned_agree(proto, seed, share, inner):
    checked = check(proto, seed=seed, share=share, inner=inner)
    assert checked.cut
    assert view(checked.pruned).params <= view(proto).params


# -- attention ---------------------------------------------------------------------------------------------------------


def projected(graph, draw, value, parts):
    """Project tokens to axes of the given widths: by one MatMul each, or by one that is split."""
    width = graph.values[value]
    if draw(st.booleans()):
        return [graph.node(f"MatMul({value}, {graph.weight((width, part))})", part) for part in parts]
    fused = graph.node(f"Add({graph.node(f'MatMul({value}, {graph.weight((width, sum(parts)))})', None)}, "
                       f"{graph.weight((sum(parts),))})", None)  # fmt: skip
    names = [graph.name(part) for part in parts]
    graph.nodes.append(f"{', '.join(names)} = Split<axis = 2>({fused}, {graph.weight(list(parts))})")
    return names


def heads(graph, value, count, repeats=1, perm="[0,2,1,3]"):
    """Split an axis into heads, each of them repeated for as many queries."""
    apart = graph.weight([0, -1, count, graph.values[value] // count])
    turned = graph.node(f"Transpose<perm = [0,2,1,3]>({graph.node(f'Reshape({value}, {apart})', None)})", None)
    if repeats > 1:
        size = graph.values[value] // count
        alone = graph.node(f"Unsqueeze({turned}, {graph.weight([2])})", None)
        wide = graph.node(f"Expand({alone}, {graph.weight([1, 1, repeats, 1, 1])})", None)
        turned = graph.node(f"Reshape({wide}, {graph.weight([0, count * repeats, -1, size])})", None)
    return turned if perm == "[0,2,1,3]" else graph.node(f"Transpose<perm = [0,1,3,2]>({turned})", None)


@st.composite
def attentions(draw):
    """Draw one or two layers of attention, where several queries may share keys and values."""
    graph = start()
    width = draw(st.sampled_from([4, 6]))
    value = graph.node(f"MatMul(x, {graph.weight((5, width))})", width)
    for _ in range(draw(st.integers(1, 2))):
        kv, repeats, size = draw(st.sampled_from([(2, 1, 3), (3, 1, 2), (2, 2, 2), (2, 3, 4), (1, 2, 3)]))
        q, k, v = projected(graph, draw, value, (kv * repeats * size, kv * size, kv * size))
        query, key, held = (
            heads(graph, q, kv * repeats),
            heads(graph, k, kv, repeats, "last"),
            heads(graph, v, kv, repeats),
        )
        weights = graph.node(f"Softmax<axis = -1>({graph.node(f'MatMul({query}, {key})', None)})", None)
        mixed = graph.node(f"Transpose<perm = [0,2,1,3]>({graph.node(f'MatMul({weights}, {held})', None)})", None)
        flat = graph.node(f"Reshape({mixed}, {graph.weight([0, -1, kv * repeats * size])})", None)
        out = graph.node(f"MatMul({flat}, {graph.weight((kv * repeats * size, width))})", None)
        value = graph.node(f"Add({value}, {out})", width)
    graph.nodes.append(f"y = MatMul({value}, {graph.weight((width, 3))})")
    return model(*graph.nodes, x="float[n,t,5] x", **graph.weights)


@settings(examples, max_examples=30)
@given(attentions(), st.integers(0, 99), st.sampled_from([0.3, 0.6]), st.booleans())
def test_masked_and_pruned_attention_agree(proto, seed, share, inner):
    checked = check(proto, seed=seed, share=share, inner=inner)
    kinds = {group.kind for group in checked.groups if group.name in checked.cut}
    assert "heads" in kinds or "head dims" in kinds or not inner
