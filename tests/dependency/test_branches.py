"""Branches: what is added to a stream that it is computed from, whatever the network is called."""

from __future__ import annotations

import pytest

from onnxprune.dependency.branches import Branch, branches, nodes_of
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from tests.support.build import IMAGE, ROWS, TOKENS, model


def found(proto) -> list[Branch]:
    return branches(trace(load(proto)))


def of(proto) -> dict[str, tuple[str, int, str | None]]:
    """Return by name of the branch what is added, how many nodes go with it, and why it stays."""
    return {each.name: (each.value, len(each.nodes), each.locked) for each in found(proto)}


def test_a_residual_block_is_a_branch_with_all_that_nobody_else_needs():
    proto = model(
        "a = Conv(x, w1)", "b = Relu(a)", "c = Conv(b, w2)", "y = Add(x, c)", w1=(8, 3, 1, 1), w2=(3, 8, 1, 1)
    )
    (branch,) = found(proto)
    assert (branch.name, branch.value, branch.slot, branch.other) == ("c", "c", 1, 0)
    assert (len(branch.nodes), branch.locked) == (3, None)
    assert (branch.macs, branch.params) == (2 * 36 * 24, 48)


def test_the_addends_may_stand_in_either_order():
    proto = model("a = Conv(x, w1)", "y = Add(a, x)", w1=(3, 3, 1, 1))
    (branch,) = found(proto)
    assert (branch.slot, branch.other) == (0, 1)


def test_what_others_need_does_not_go_with_a_branch():
    proto = model(
        "n = Relu(x)", "a = Conv(n, w1)", "s = Add(x, a)", "b = Conv(n, w2)", "y = Add(s, b)",
        w1=(3, 3, 1, 1), w2=(3, 3, 1, 1),
    )  # fmt: skip
    assert {name: count for name, (_, count, _) in of(proto).items()} == {"a": 1, "b": 1}


def test_an_attention_and_a_feed_forward_network_side_by_side_are_two_branches():
    proto = model(
        "n = Relu(x)", "a = MatMul(n, w1)", "h = MatMul(n, w2)", "f = MatMul(h, w3)", "s = Add(a, f)", "y = Add(s, x)",
        x=TOKENS, w1=(16, 16), w2=(16, 8), w3=(8, 16),
    )  # fmt: skip
    assert of(proto) == {"a": ("a", 1, None), "f": ("f", 2, None)}


def test_branches_lie_inside_of_branches():
    proto = model(
        "a = Conv(x, w1)", "b = Conv(a, w2)", "c = Add(a, b)", "d = Conv(c, w3)", "y = Add(x, d)",
        w1=(3, 3, 1, 1), w2=(3, 3, 1, 1), w3=(3, 3, 1, 1),
    )  # fmt: skip
    each = found(proto)
    assert [(branch.name, len(branch.nodes)) for branch in each] == [("b", 1), ("d", 4)]
    assert NodeMacs(trace(load(proto))).total(nodes_of(each)) == 3 * 36 * 9  # what is in both counts once


@pytest.mark.parametrize(
    "nodes",
    [
        ("a = Conv(x, w1)", "b = Conv(x, w2)", "y = Add(a, b)"),  # neither is computed from the other
        ("a = Conv(x, w1)", "y = Mul(x, a)"),  # no sum
        ("a = Relu(x)", "y = Add(x, a)"),  # holds no layer
        ("a = Conv(x, w1)", "b = GlobalAveragePool(a)", "y = Add(x, b)"),  # of another shape
        ("a = Conv(x, w1)", "s = Add(x, a)", "b = Relu(a)", "y = Add(s, b)"),  # read elsewhere, too
    ],
)
def test_what_is_no_branch(nodes):
    used = {name: (3, 3, 1, 1) for name in ("w1", "w2") if any(name in node for node in nodes)}
    assert found(model(*nodes, **used)) == []


def test_scores_to_which_a_bias_of_positions_is_added_are_no_branch():
    """The bias is computed from the stream by another layer, as all that comes later is."""
    proto = model(
        "q = MatMul(x, w1)", "bias = MatMul(q, w4)", "s = Add(x, q)",
        "k = MatMul(s, w2)", "scores = MatMul(k, w3)", "biased = Add(scores, bias)", "y = MatMul(biased, w5)",
        x=TOKENS, w1=(16, 16), w2=(16, 16), w3=(16, 8), w4=(16, 8), w5=(8, 16),
    )  # fmt: skip
    assert [branch.name for branch in found(proto)] == []


def test_a_fused_sum_hands_its_stream_on_beside_what_it_normalises():
    skip = "com.microsoft.SkipSimplifiedLayerNormalization"
    proto = model(
        "a = MatMul(x, w1)", f"n1, e1, e2, s1 = {skip}(x, a, g)", "b = MatMul(n1, w2)", f"y = {skip}(s1, b, g)",
        x=TOKENS, y="float[n,s,16] y", imports='"com.microsoft" : 1', w1=(16, 16), w2=(16, 16), g=(16,), infer=False,
    )  # fmt: skip
    assert list(of(proto)) == ["a", "b"]


def test_what_the_model_gives_as_an_output_keeps_its_branch():
    proto = model(
        "k = MatMul(x, w1)", "a = MatMul(k, w2)", "y = Add(x, a)",
        x=TOKENS, y="float[] y, float[] k", w1=(16, 8), w2=(8, 16),
    )  # fmt: skip
    reason = "it computes 'k', which the model gives as outputs"
    assert of(proto) == {"a": ("a", 1, reason)}


def test_types_that_change_on_the_way_hide_no_stream():
    proto = model("h = Cast<to=1>(x)", "d = Cast<to=1>(x)", "a = MatMul(d, w1)", "y = Add(h, a)", x=TOKENS, w1=(16, 16))
    assert list(of(proto)) == ["a"]


def test_nodes_of_bodies_belong_to_their_node():
    one = "then_branch = t () => (float[n,6] p) { p = MatMul(x, w1) }"
    body = f"{one}, else_branch = e () => (float[n,6] q) {{ q = Relu(x) }}"
    proto = model(
        "c = Cast<to=9>(one)",
        f"a = If<{body}>(c)",
        "y = Add(x, a)",
        x=ROWS,
        y="float[n,6] y",
        w1=(6, 6),
        one=1,
        infer=False,
    )
    loaded = load(proto)
    inner = [node.index for node in loaded.nodes if node.index not in loaded.top]
    assert {loaded.owners[index] for index in inner} == {next(n.index for n in loaded.nodes if n.op == "If")}


def test_images_have_branches_that_add_to_normalised_streams():
    proto = model(
        "a = Conv(x, w1)", "s = Add(x, a)", "r = Relu(s)", "b = Conv(r, w2)", "t = Add(r, b)", "y = Relu(t)",
        x=IMAGE, w1=(3, 3, 1, 1), w2=(3, 3, 1, 1),
    )  # fmt: skip
    assert list(of(proto)) == ["a", "b"]
