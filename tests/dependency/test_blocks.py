"""Blocks: branches that repeat along a stream, whatever they are made of."""

from __future__ import annotations

import pytest

from onnxprune.dependency.blocks import blocks, by_branch, period
from onnxprune.dependency.branches import branches
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from tests.support.build import model
from tests.support.paths import MODELS

D = 8


def attention(stream, number, out=None):
    """Return the nodes of a small attention of one head, and the weights."""
    n = number
    nodes = [f"q{n} = MatMul({stream}, wq{n})", f"k{n} = MatMul({stream}, wk{n})", f"v{n} = MatMul({stream}, wv{n})"]
    nodes += [f"t{n} = Transpose<perm=[0,2,1]>(k{n})", f"l{n} = MatMul(q{n}, t{n})", f"p{n} = Softmax(l{n})"]
    nodes += [f"c{n} = MatMul(p{n}, v{n})", f"{out or f'a{n}'} = MatMul(c{n}, wo{n})"]
    return nodes, {f"w{each}{n}": (D, D) for each in "qkvo"}


def feed_forward(stream, number):
    nodes = [f"h{number} = MatMul({stream}, up{number})", f"r{number} = Relu(h{number})"]
    return [*nodes, f"f{number} = MatMul(r{number}, down{number})"], {f"up{number}": (D, D), f"down{number}": (D, D)}


def found(nodes, last, **weights):
    proto = model(*nodes, f"y = MatMul({last}, head)", x=f"float[n,s,{D}] x", head=(D, 3), **weights)
    traced = trace(load(proto))
    return blocks(traced, branches(traced))


def told(each):
    return [([branch.value for branch in block.branches], block.before, block.behind, block.chain) for block in each]


def transformer(depth, normed=lambda name, out: []):
    """Return the nodes of blocks of attention and feed-forward network, the last value, and the weights."""
    nodes, weights, now = ["s0 = Relu(x)"], {}, "s0"
    for n in range(depth):
        for branch, value in ((attention, "a"), (feed_forward, "f")):
            own, more = branch(now, n)
            total = f"{value}sum{n}"
            nodes += [*own, f"{total} = Add({now}, {value}{n})", *normed(total, f"{total}_n")]
            weights |= more
            now = f"{total}_n" if normed("", "") else total
    return nodes, now, weights


def test_an_attention_and_the_feed_forward_network_behind_it_are_a_block():
    nodes, last, weights = transformer(3)
    assert told(found(nodes, last, **weights)) == [
        (["a0", "f0"], "s0", "fsum0", 0),
        (["a1", "f1"], "fsum0", "fsum1", 0),
        (["a2", "f2"], "fsum1", "fsum2", 0),
    ]


def test_norms_between_sums_do_not_end_a_chain():
    """As in BERT: the stream in front of a block is the normalised one."""
    nodes, last, weights = transformer(
        2, lambda total, out: [f"{out} = LayerNormalization({total}, gain, shift)"] if total else ["-"]
    )
    each = found(nodes, last, gain=(D,), shift=(D,), **weights)
    assert told(each) == [(["a0", "f0"], "s0", "fsum0_n", 0), (["a1", "f1"], "fsum0_n", "fsum1", 0)]


def test_shapes_that_are_computed_do_not_end_a_chain():
    """As in exports of OPT: a Reshape takes sizes that are read off the inputs."""
    nodes, last, weights = transformer(2, lambda total, out: [f"{out} = Reshape({total}, sizes)"] if total else ["-"])
    each = found(["sizes = Shape(x)", *nodes], last, **weights)
    assert told(each) == [(["a0", "f0"], "s0", "fsum0_n", 0), (["a1", "f1"], "fsum0_n", "fsum1", 0)]


def test_residual_branches_of_one_kind_are_a_block_each():
    nodes, weights, now = [], {}, "x"
    for n in range(3):
        own, more = feed_forward(now, n)
        nodes += [*own, f"s{n} = Add({now}, f{n})"]
        weights |= more
        now = f"s{n}"
    assert [branches for branches, *_ in told(found(nodes, now, **weights))] == [["f0"], ["f1"], ["f2"]]


def test_branches_that_are_added_together_are_one_sum():
    """As in GPT-NeoX: an attention beside a feed-forward network."""
    nodes, weights, now = ["s0 = Relu(x)"], {}, "s0"
    for n in range(2):
        (one, first), (two, second) = attention(now, n), feed_forward(now, n)
        nodes += [*one, *two, f"both{n} = Add(a{n}, f{n})", f"s{n + 1} = Add(both{n}, {now})"]
        weights |= first | second
        now = f"s{n + 1}"
    each = told(found(nodes, now, **weights))
    assert [(sorted(values), before, behind) for values, before, behind, _ in each] == [
        (["a0", "f0"], "s0", "s1"),
        (["a1", "f1"], "s1", "s2"),
    ]


def test_a_layer_between_sums_ends_a_chain():
    """As between the stages of a Swin; a chain too short to repeat takes the period of the others."""
    nodes, last, weights = transformer(2)
    own, first = attention("wide", 8)
    more, second = feed_forward("s8", 8)
    nodes += [f"wide = MatMul({last}, merge)", *own, "s8 = Add(wide, a8)", *more, "s9 = Add(s8, f8)"]
    each = told(found(nodes, "s9", merge=(D, D), **weights, **first, **second))
    assert [(values, chain) for values, _, _, chain in each] == [
        (["a0", "f0"], 0),
        (["a1", "f1"], 0),
        (["a8", "f8"], 1),
    ]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [("abab", 2), ("aaa", 1), ("ab", None), ("xbabababab", 2), ("abcabc", 3), ("a", None), ("", None)],
)
def test_periods(kinds, expected):
    assert period(kinds) == expected


def test_blocks_of_a_vision_transformer_and_of_a_residual_network():
    for name, sizes in (("vit.onnx", [2] * 5), ("resnet_bn.onnx", [1] * 3)):
        traced = trace(load(MODELS / name))
        each = blocks(traced, branches(traced))
        assert [len(block.branches) for block in each] == sizes


def test_values_of_blocks_are_those_of_their_branches():
    nodes, last, weights = transformer(2)
    assert by_branch(found(nodes, last, **weights), [1.0, 2.0]) == {
        "a0": 1.0, "f0": 1.0, "a1": 2.0, "f1": 2.0,
    }  # fmt: skip
