"""Cases of control flow: If, Loop and Scan, with weights outside of their bodies and inside.

Rows of the same form as in `cases`.
"""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from tests.support.build import ROWS, array, dense, model

SWITCH = f"{ROWS}, bool c"
N8 = "8 neurons"
WEIGHTED = "8 neurons, 7 neurons"  # outside of the bodies, and inside


def _if(then, otherwise, shape="float[n,8]"):
    """Return an If of two nodes, which give t and f."""
    return (
        f"b = If(c) <then_branch = yes () => ({shape} t) {{ {then} }}, "
        f"else_branch = no () => ({shape} f) {{ {otherwise} }}>"
    )


def with_inner_weights(proto, **weights):
    """Return a model whose nodes keep some of their weights inside of their bodies."""
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                for name, value in weights.items():
                    if any(name in inner.input for inner in attribute.g.node):
                        attribute.g.initializer.append(numpy_helper.from_array(array(name, value), name))
    return proto


def with_inner_constant(proto, name, value):
    """Return a model whose first body begins with a Constant node."""
    graph = next(node for node in proto.graph.node if node.op_type == "If").attribute[0].g
    node = graph.node.add(op_type="Constant", output=[name])
    attribute = node.attribute.add(name="value", type=4)
    attribute.t.CopyFrom(numpy_helper.from_array(array(name, value)))
    nodes = [node, *list(graph.node)[:-1]]
    copies = [type(node).FromString(each.SerializeToString()) for each in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return proto


def _ifs(row):
    yield row("If", "plain", dense(_if("t = Relu(a)", "f = Neg(a)"), x=SWITCH), N8)
    yield row(
        "If", "weights",
        dense(
            "b = If(c) <then_branch = yes () => (float[n,8] t) { p = MatMul(a, w3)  q = Relu(p)  t = MatMul(q, w4) }, "
            "else_branch = no () => (float[n,8] f) { f = Mul(a, s) }>",
            x=SWITCH, w3=(8, 7), w4=(7, 8), s=(8,)
        ),
        WEIGHTED
    )  # fmt: skip
    inside = dense(
        "b = If(c) <then_branch = yes () => (float[n,8] t) { p = MatMul(a, w3)  q = Relu(p)  t = MatMul(q, w4) }, "
        "else_branch = no () => (float[n,8] f) { f = Neg(a) }>",
        x=SWITCH, y="float[n,5] y", infer=False
    )  # fmt: skip
    yield row("If", "weights-inside", with_inner_weights(inside, w3=(8, 7), w4=(7, 8)), WEIGHTED)
    constant = dense(_if("t = Mul(a, k)", "f = Neg(a)"), x=SWITCH, y="float[n,5] y", infer=False)
    yield row("If", "constant-inside", with_inner_constant(constant, "k", (8,)), N8)
    # the same name in both branches, and outside
    yield row(
        "If", "namesakes",
        dense(
            "b = If(c) <then_branch = yes () => (float[n,8] t) { p = Relu(a)  t = MatMul(p, w3) }, "
            "else_branch = no () => (float[n,8] t) { p = Neg(a)  t = MatMul(p, w4) }>",
            x=SWITCH, w3=(8, 8), w4=(8, 8), y="float[n,5] y", infer=False
        ),
        "8 neurons, 8 neurons"
    )  # fmt: skip
    yield row(
        "If", "weight-of-both-sides",
        dense("d = Mul(a, s)", _if("t = Mul(d, s)", "f = Neg(d)"), x=SWITCH, s=(8,)), N8
    )  # fmt: skip
    yield row(
        "If", "nested",
        dense(
            "b = If(c) <then_branch = yes () => (float[n,8] t) { "
            "u = If(c) <then_branch = yy () => (float[n,7] v) { v = MatMul(a, w3) }, "
            "else_branch = yn () => (float[n,7] w) { r = Relu(a)  w = MatMul(r, w3) }>  t = MatMul(u, w4) }, "
            "else_branch = no () => (float[n,8] f) { f = Neg(a) }>",
            x=SWITCH, w3=(8, 7), w4=(7, 8), y="float[n,5] y", infer=False
        ),
        WEIGHTED
    )  # fmt: skip
    yield row(
        "If", "reshape-inside",
        dense(
            "b = If(c) <then_branch = yes () => (float[n,8] t) { r = Reshape(a, to)  s = Softmax<axis=1>(r)  "
            "m = MatMul(s, v)  t = Reshape(m, back) }, else_branch = no () => (float[n,8] f) { f = Neg(a) }>",
            x=SWITCH, to=[-1, 2, 4], v=(4, 4), back=[-1, 8], y="float[n,5] y", infer=False
        ),
        "4 neurons",
        inexact=("Softmax normalises over it",)
    )  # fmt: skip
    yield row(
        "If", "branches-of-other-sizes",
        dense(
            "d0 = If(c) <then_branch = yes () => (float[n,k] t) { t = Relu(a) }, "
            "else_branch = no () => (float[n,m] f) { f = Slice(a, zero, four, one) }>",
            "d1 = ReduceSum<keepdims=1>(d0, one)", "b = Mul(d1, a)",
            x=SWITCH, zero=[0], four=[4], one=[1], y="float[n,5] y", infer=False
        ),
        "", locks=("the branches of If give it different sizes",)
    )  # fmt: skip
    yield row(
        "If", "constant-condition",
        dense(_if("p = MatMul(a, w3)  t = Relu(p)", "f = Neg(a)"), w3=(8, 8), c=True), N8
    )  # fmt: skip
    yield row(
        "If", "fixed-result",
        dense(_if("t = Relu(k)", "f = Neg(k)", "float[8]").replace("b =", "d ="), "b = Mul(a, d)", x=SWITCH, k=(8,)),
        N8
    )  # fmt: skip
    yield row(
        "If", "constant-as-result",
        dense(_if("t = Identity(a)", "f = Expand(k, e)"), x="float[2,6] x, bool c", k=(2, 8), e=[2, 8]), N8
    )  # fmt: skip


LOOP = "<body = body (int64 i, bool g, {states}) => (bool h, {results}) {{ {nodes} }}>"


def _loops(row):
    turns = {"count": 3, "on": True}
    yield row(
        "Loop", "state",
        dense(
            "b = Loop(count, on, a) "
            + LOOP.format(states="float[n,8] s", results="float[n,8] r", nodes="h = Identity(g)  r = Relu(s)"),
            y="float[n,5] y", infer=False, **turns
        ),
        N8
    )  # fmt: skip
    yield row(
        "Loop", "weights",
        dense(
            "b = Loop(count, on, a) "
            + LOOP.format(
                states="float[n,8] s", results="float[n,8] r",
                nodes="h = Identity(g)  p = MatMul(s, w3)  q = Tanh(p)  t = MatMul(q, w4)  r = Add(s, t)"
            ),
            y="float[n,5] y", infer=False, w3=(8, 7), w4=(7, 8), **turns
        ),
        WEIGHTED
    )  # fmt: skip
    yield row(
        "Loop", "stacked",
        dense(
            "s1, st = Loop(count, on, a) "
            + LOOP.format(
                states="float[n,8] s", results="float[n,8] r, float[n,8] e",
                nodes="h = Identity(g)  r = Mul(s, half)  e = Tanh(r)"
            ),
            "b0 = ReduceSum<keepdims=0>(st, zero)", "b = Add(b0, s1)",
            y="float[n,5] y", infer=False, half=0.5, zero=[0], **turns
        ),
        N8
    )  # fmt: skip
    yield row(
        "Loop", "growing-state",
        dense(
            "u = Unsqueeze(a, one)",
            "g1 = Loop(count, on, u) "
            + LOOP.format(
                states="float[n,t,8] s", results="float[n,k,8] r", nodes="h = Identity(g)  r = Concat<axis=1>(s, u)"
            ),
            "b = ReduceSum<keepdims=0>(g1, one)", y="float[n,5] y", infer=False, one=[1], **turns
        ),
        N8
    )  # fmt: skip
    yield row(
        "Loop", "initial-weight",
        dense(
            "d = Loop(count, on, k) "
            + LOOP.format(states="float[1,8] s", results="float[1,8] r", nodes="h = Identity(g)  r = Sin(s)"),
            "b = Mul(a, d)", y="float[n,5] y", infer=False, k=(1, 8), **turns
        ),
        N8
    )  # fmt: skip


def _scans(row):
    step = "<num_scan_inputs = 1, body = body (float[n,8] s, float[n,6] e) => (float[n,8] r, float[n,8] o) {{ {} }}>"
    cell = "p = MatMul(e, w1)  q = MatMul(s, w3)  t = Add(p, q)  r = Tanh(t)  o = Identity(r)"
    yield row(
        "Scan", "recurrent",
        model(
            f"last, all = Scan {step.format(cell)}(zero, x)", "y = MatMul(all, w2)",
            x="float[t,2,6] x", y="float[t,2,5] y", zero=np.zeros((2, 8), "f"), w1=(6, 8), w3=(8, 8), w2=(8, 5),
            infer=False
        ),
        N8
    )  # fmt: skip
    yield row(
        "Scan", "along-the-middle",
        model(
            "a = MatMul(x, w1)",
            "all = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1], "
            "body = body (float[n,8] e) => (float[n,8] r) { r = Relu(e) }>(a)",
            "y = MatMul(all, w2)", x="float[n,t,6] x", y="float[n,t,5] y", w1=(6, 8), w2=(8, 5), infer=False
        ),
        N8
    )  # fmt: skip
    yield row(
        "Scan", "along-the-neurons",
        dense(
            "total, all = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1], "
            "body = body (float[n] s, float[n] e) => (float[n] r, float[n] o) { r = Add(s, e)  o = Identity(r) }>"
            "(zero, a)", "b = Relu(all)", x="float[3,6] x", y="float[3,5] y", zero=np.zeros(3, "f"), infer=False
        ),
        "", locks=("Scan goes along it", "its size is computed by Scan")
    )  # fmt: skip


def control_cases(row):
    """Yield the rows; `row` makes one of op, variant, model, cut, locks and inexact."""
    yield from _ifs(row)
    yield from _loops(row)
    yield from _scans(row)
