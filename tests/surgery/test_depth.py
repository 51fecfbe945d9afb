"""Without branches a model computes what it does where they count as zero."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.commands.steps.prepare import part_to_run
from onnxprune.dependency.branches import branches
from onnxprune.dependency.trace import trace
from onnxprune.evaluation.verify import verify
from onnxprune.graph.files.checks import problems
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.runtime.replay import Replay
from onnxprune.surgery.depth import gated, without
from tests.support.build import IMAGE, TOKENS, model
from tests.support.zoo_store import load_zoo, read, refill

SKIP = "com.microsoft.SkipSimplifiedLayerNormalization"
MICROSOFT = '"com.microsoft" : 1'
SQUARES = dict.fromkeys(("w1", "w2", "w3"), (3, 3, 1, 1))
MATRICES = dict.fromkeys(("w1", "w2", "w3"), (16, 16))


def shortened(proto, *names):
    """Take branches out (all that can go, without names), prove it, and return the nodes that are left."""
    model_ = part_to_run(load(proto), {})
    traced = trace(model_)
    found = [each for each in branches(traced) if each.locked is None and (not names or each.name in names)]
    assert [each.name for each in found] == list(names or [each.name for each in found])
    cut = without(model_, found, traced.probe.dtype).rewritten
    after = view(cut.proto, folder=model_.folder)
    proof = verify(traced, {}, after, gone=found)
    assert proof.passed, proof.problem
    assert problems(cut.proto) is None or problems(model_.proto) is not None
    read_ = {name for node in cut.proto.graph.node for name in node.input}
    assert {each.name for each in cut.proto.graph.initializer} <= read_
    return [(node.op_type, list(node.input), list(node.output)) for node in cut.proto.graph.node]


def test_the_layer_in_front_of_a_gap_writes_the_stream_behind_it():
    proto = model("s = Conv(x, w1)", "a = Conv(s, w2)", "t = Add(s, a)", "y = Conv(t, w3)", **SQUARES)
    assert shortened(proto) == [("Conv", ["x", "w1"], ["t"]), ("Conv", ["t", "w3"], ["y"])]


def test_a_stream_that_others_read_keeps_its_name():
    proto = model(
        "s = Conv(x, w1)", "a = Conv(s, w2)", "t = Add(s, a)", "u = Conv(t, w3)", "y = Concat<axis=1>(s, u)", **SQUARES
    )
    assert shortened(proto) == [
        ("Conv", ["x", "w1"], ["s"]),
        ("Conv", ["s", "w3"], ["u"]),
        ("Concat", ["s", "u"], ["y"]),
    ]


def test_a_stream_that_is_an_input_is_read_as_it_is():
    proto = model("a = Conv(x, w1)", "t = Add(a, x)", "y = Conv(t, w2)", w1=(3, 3, 1, 1), w2=(3, 3, 1, 1))
    assert shortened(proto) == [("Conv", ["x", "w2"], ["y"])]


def test_an_input_that_is_all_that_is_left_of_an_output_is_copied():
    proto = model("a = Conv(x, w1)", "y = Add(a, x)", w1=(3, 3, 1, 1))
    assert shortened(proto) == [("Identity", ["x"], ["y"])]


def test_several_gaps_in_a_row_are_one():
    proto = model(
        "s = Conv(x, w1)",
        "a = Conv(s, w2)",
        "t = Add(s, a)",
        "b = Conv(t, w3)",
        "u = Add(t, b)",
        "y = Relu(u)",
        **SQUARES,
    )
    assert shortened(proto) == [("Conv", ["x", "w1"], ["u"]), ("Relu", ["u"], ["y"])]


def parallel():
    return model(
        "n = Relu(x)", "a = MatMul(n, w1)", "f = MatMul(n, w2)", "s = Add(a, f)", "t = Add(s, x)", "y = MatMul(t, w3)",
        x=TOKENS, **MATRICES,
    )  # fmt: skip


def test_of_two_side_by_side_one_may_go():
    assert shortened(parallel(), "a") == [
        ("Relu", ["x"], ["n"]),
        ("MatMul", ["n", "w2"], ["s"]),
        ("Add", ["s", "x"], ["t"]),
        ("MatMul", ["t", "w3"], ["y"]),
    ]


def test_where_both_go_their_sum_does():
    assert shortened(parallel()) == [("MatMul", ["x", "w3"], ["y"])]


def test_a_branch_goes_with_those_inside_of_it():
    proto = model(
        "a = Conv(x, w1)",
        "b = Conv(a, w2)",
        "c = Add(a, b)",
        "d = Conv(c, w3)",
        "s = Add(x, d)",
        "y = Relu(s)",
        **SQUARES,
    )
    assert shortened(proto, "b", "d") == [("Relu", ["x"], ["y"])]
    assert [op for op, _, _ in shortened(proto, "b")] == ["Conv", "Conv", "Add", "Relu"]


@pytest.mark.parametrize("gone", [("a",), ("b",), ("a", "b")])
def test_a_fused_sum_adds_two_halves_of_its_stream(gone):
    proto = model(
        "a = MatMul(x, w1)", f"n1, e1, e2, s1 = {SKIP}(x, a, g)", "b = MatMul(n1, w2)", f"n2 = {SKIP}(s1, b, g)",
        "y = MatMul(n2, w3)",
        x=TOKENS, y="float[n,s,16] y", imports=MICROSOFT, infer=False, g=(16,), **MATRICES,
    )  # fmt: skip
    ops = [op for op, _, _ in shortened(proto, *gone)]
    assert ops.count("Mul") == len(gone)
    assert ops.count("MatMul") == 3 - len(gone)


def test_plain_and_fused_sums_of_one_stream_go_together():
    proto = model(
        "s = MatMul(x, w1)", "a = MatMul(s, w2)", "t = Add(s, a)", "b = MatMul(t, w3)", f"y = {SKIP}(t, b, g)",
        x=TOKENS, y="float[n,s,16] y", imports=MICROSOFT, infer=False, g=(16,), **MATRICES,
    )  # fmt: skip
    ops = shortened(proto)
    assert [op for op, _, _ in ops] == ["MatMul", "Mul", "SkipSimplifiedLayerNormalization"]


def test_gates_that_are_shut_are_what_the_mask_says():
    proto = model("s = Conv(x, w1)", "a = Conv(s, w2)", "t = Add(s, a)", "y = Conv(t, w3)", x=IMAGE, **SQUARES)
    model_ = load(proto)
    traced = trace(model_)
    found = branches(traced)
    with_gates, names = gated(model_, found, traced.probe.dtype)
    feeds = [{"x": np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)}]
    replay = Replay(view(with_gates), feeds)
    (open_,) = replay.run(["y"])
    (shut,) = replay.run(["y"], contents={names["a"]: np.zeros((), np.float32)})
    (whole,) = Replay(model_, feeds).run(["y"])
    (short,) = Replay(view(without(model_, found, traced.probe.dtype).rewritten.proto), feeds).run(["y"])
    np.testing.assert_array_equal(open_["y"], whole["y"])
    np.testing.assert_allclose(shut["y"], short["y"], atol=1e-5)
    assert np.abs(shut["y"] - open_["y"]).max() > 0.1


STEPS = ("block", "pre", "nested", "side by side", "skip", "relu")


@st.composite
def residual_networks(draw):
    """Draw a chain of residual blocks of all kinds, in which streams are read again later."""
    lines, weights, numbers, streams = [], {}, itertools.count(1), ["x"]

    def layer(source):
        number = next(numbers)
        weights[f"w{number}"] = (16, 16)
        lines.append(f"v{number} = MatMul({source}, w{number})")
        return f"v{number}"

    def add(one, other):
        name = f"s{next(numbers)}"
        lines.append(f"{name} = Add({one}, {other})" if draw(st.booleans()) else f"{name} = Add({other}, {one})")
        return name

    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=6)):
        now = streams[-1]
        if step == "relu":
            name = f"r{next(numbers)}"
            lines.append(f"{name} = Tanh({now})")
            streams.append(name)
        elif step == "block":
            streams.append(add(now, layer(now)))
        elif step == "pre":
            name = f"n{next(numbers)}"
            lines.append(f"{name} = Tanh({now})")
            streams.append(add(now, layer(layer(name))))
        elif step == "nested":
            inner = layer(now)
            streams.append(add(now, layer(add(inner, layer(inner)))))
        elif step == "side by side":
            streams.append(add(now, add(layer(now), layer(now))))
        else:
            streams.append(add(now, layer(draw(st.sampled_from(streams)))))
    lines.append(f"y = MatMul({streams[-1]}, last)")
    return model(*lines, x=TOKENS, last=(16, 16), **weights)


@settings(max_examples=25, deadline=None)
@given(residual_networks(), st.data())
def test_any_branches_of_any_residual_network_can_go(proto, data):
    names = [each.name for each in branches(trace(load(proto))) if each.locked is None]
    gone = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    if gone:
        shortened(proto, *[name for name in names if name in gone])


# Of each kind of exporter and network: convolutions, transformers of all orders of norms, fused sums, caches, halves.
GRAPHS = (
    "genai_llama_fp32.genai", "genai_gemma2_fp16.genai", "genai_phi3_int4.genai", "hf_bert.torchscript",
    "hf_bert.torchscript.ort_extended", "hf_gpt2.dynamo", "hf_bart.torchscript", "optimum_gptj.optimum",
    "optimum_t5_first.optimum", "timm_convnext_atto.torchscript", "timm_efficientnet_b0.torchscript",
    "timm_fastvit_t8.dynamo", "tv_resnet_basic.torchscript", "tv_swin.torchscript", "tv_vit.dynamo",
)  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_branches_of_networks_of_the_zoo_go(name):
    shortened(refill(read(load_zoo()[name].path)))


def test_casts_that_change_nothing_hide_no_gap():
    proto = model(
        "s = Conv(x, w1)", "c = Cast<to=1>(s)", "a = Conv(c, w2)", "t = Add(c, a)", "d = Cast<to=1>(t)",
        "b = Conv(d, w3)", "u = Add(d, b)", "y = Relu(u)", **SQUARES,
    )  # fmt: skip
    assert shortened(proto) == [("Conv", ["x", "w1"], ["u"]), ("Relu", ["u"], ["y"])]


def test_a_cast_that_others_read_stays():
    proto = model(
        "s = Conv(x, w1)", "c = Cast<to=1>(s)", "a = Conv(c, w2)", "t = Add(c, a)", "y = Concat<axis=1>(c, t)",
        w1=(3, 3, 1, 1), w2=(3, 3, 1, 1),
    )  # fmt: skip
    ops = [op for op, _, _ in shortened(proto)]
    assert ops == ["Conv", "Cast", "Concat"]


def test_the_layer_in_front_of_a_fused_gap_writes_the_stream_behind_it():
    proto = model(
        "a = MatMul(x, w1)", f"n1, e1, e2, s1 = {SKIP}(x, a, g)", "b = MatMul(n1, w2)",
        f"n2, f1, f2, s2 = {SKIP}(s1, b, g)", "c = MatMul(n2, w3)", "y = Add(s2, c)",
        x=TOKENS, y="float[n,s,16] y", imports=MICROSOFT, infer=False, g=(16,), **MATRICES,
    )  # fmt: skip
    nodes = shortened(proto, "b")
    assert next(outputs for op, _, outputs in nodes if op.startswith("Skip"))[3] == "s2"
    assert nodes[-1] == ("Add", ["s2", "c"], ["y"])


def test_a_stream_behind_a_fused_gap_that_nobody_reads_has_its_name_in_front_of_it():
    proto = model(
        "a = MatMul(x, w1)", f"n1, e1, e2, s1 = {SKIP}(x, a, g)", "b = MatMul(n1, w2)",
        f"n2, f1, f2, s2 = {SKIP}(s1, b, g)", "y = MatMul(n2, w3)",
        x=TOKENS, y="float[n,s,16] y", imports=MICROSOFT, infer=False, g=(16,), **MATRICES,
    )  # fmt: skip
    first, *_ = [outputs for op, _, outputs in shortened(proto, "b") if op.startswith("Skip")]
    assert first[3] == "s2"
