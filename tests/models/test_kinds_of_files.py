"""Kinds of files that people have: each is inspected, pruned by weights and by the default command, and compared."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import onnxprune
from tests.support.build import ROWS, model

LAYERS = {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "w3": (16, 5)}
STEM = ("a = Conv<pads=[1,1,1,1]>(x, w1)", "b = Relu(a)", "c = Conv<pads=[1,1,1,1]>(b, w2)", "d = Relu(c)")
HALVED = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (8, 5)}


def fixed_batch(*tail, **more):
    """A network whose batch is fixed at 1, as most exports have it."""
    return model(*STEM, *tail, x="float[1,3,6,6] x", **LAYERS, **more)


def gap():
    return fixed_batch("p = GlobalAveragePool(d)", "f = Flatten(p)", "y = MatMul(f, w3)")


def constant_shape():
    tail = ("p = GlobalAveragePool(d)", "f = Reshape(p, shape)", "y = MatMul(f, w3)")
    return fixed_batch(*tail, shape=np.array([1, 16]))


def batch_of_four():
    proto = gap()
    for port in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        port.type.tensor_type.shape.dim[0].dim_value = 4
    return proto


def overlapping(frames=40):
    """A signal cut into overlapping frames, each by a Slice, and joined again."""
    slices = [f"s{n} = Slice(x, from{n}, to{n}, axis)" for n in range(frames)]
    bounds = {f"{end}{n}": np.array([2 * n + more]) for n in range(frames) for end, more in (("from", 0), ("to", 6))}
    joined = ", ".join(f"u{n}" for n in range(frames))
    return model(
        *slices, *(f"u{n} = Unsqueeze(s{n}, axis)" for n in range(frames)), f"j = Concat<axis = 1>({joined})",
        "a = MatMul(j, w1)", "b = Relu(a)", "y = MatMul(b, w2)",
        x=f"float[n,{2 * frames + 4}] x", axis=np.array([1]), w1=(6, 16), w2=(16, 5), **bounds,
    )  # fmt: skip


def dropout_with_its_mask():
    """Opset 7, with an output that nobody reads and whose shape is not stated."""
    nodes = ("a = Gemm(x, w1, b1)", "r = Relu(a)", "b, mask = Dropout<ratio = 0.5>(r)", "y = Gemm(b, w2, b2)")
    return model(*nodes, x=ROWS, opset=7, infer=False, y="float[n,5] y", w1=(6, 16), b1=(16,), w2=(16, 5), b2=(5,))


def fourier():
    """Convolutions around a DFT over rows, as in LaMa: channels are a batch there."""
    nodes = (
        "a = Conv(x, w1)", "b = Relu(a)", "u = Unsqueeze(b, last)", "f = DFT<axis = 3, onesided = 1>(u)",
        "m = Mul(f, f)", "r = ReduceSum<keepdims = 0>(m, last)", "y = Conv(r, w2)",
    )  # fmt: skip
    return model(*nodes, last=np.array([-1]), w1=(16, 3, 1, 1), w2=(5, 16, 1, 1))


def state_of_one():
    """A GRU whose initial state has the batch 1 beside a dynamic one."""
    nodes = ("a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)",
             "d, e = GRU<hidden_size = 8>(c, gw, gr, , , h)", "f = Squeeze(e, zero)", "y = MatMul(f, w3)")  # fmt: skip
    weights = {"w1": (6, 16), "w2": (16, 8), "gw": (1, 24, 8), "gr": (1, 24, 8), "w3": (8, 5), "zero": np.array([0])}
    return model(*nodes, x="float[s,n,6] x, float[1,1,8] h", infer=False, y="float[n,5] y", **weights)


def plugin(op):
    """A plug-in of another runtime, in the domain of ONNX."""
    nodes = ("a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)", f"y = {op}(c)")
    return model(*nodes, x=ROWS, y="float[n,5] y", infer=False, w1=(6, 16), w2=(16, 5))


def non_maximum_suppression():
    """A detector whose last node is a plug-in with several outputs and attributes."""
    nodes = ("a = MatMul(x, w1)", "b = Relu(a)", "boxes = MatMul(b, w2)", "scores = MatMul(b, w3)")
    proto = model(*nodes, "num = Identity(boxes)", x="float[n,9,6] x", y="int32[n,1] num, float[n,10,4] kept",
                  infer=False, w1=(6, 16), w2=(16, 4), w3=(16, 7))  # fmt: skip
    node = helper.make_node("EfficientNMS_TRT", ["boxes", "scores"], ["num", "kept"], score_threshold=0.25,
                            plugin_version="1", background_class=-1)  # fmt: skip
    proto.graph.node[-1].CopyFrom(node)
    return proto


def tokenizer():
    """An operator of onnxruntime-extensions in front, which makes numbers of text."""
    nodes = ("ids = ai.onnx.contrib.Tokenizer(x)", "e = Gather(table, ids)", "a = MatMul(e, w1)", "b = Relu(a)",
             "y = MatMul(b, w2)")  # fmt: skip
    return model(*nodes, x="string[n] x", stated="int64[n,t] ids", y="float[n,t,5] y", infer=False,
                 imports='"ai.onnx.contrib": 1', table=(20, 6), w1=(6, 16), w2=(16, 5))  # fmt: skip


def odd_names():
    """Brackets, spaces, letters of all scripts, and nodes without a name."""
    nodes = ("a = MatMul(x, w1)", "b = Relu(a)", "y = MatMul(b, w2)")
    proto = model(*nodes, x=ROWS, w1=(6, 16), w2=(16, 5))
    names = {"a": "Модель/[1]/NNCF[0]", "b": "a b*c?", "w1": "Ünïcode[weight]", "w2": "w[2]"}
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        node.name = ""
    for named in (*proto.graph.initializer, *proto.graph.value_info):
        named.name = names.get(named.name, named.name)
    return proto


def text():
    """A string input that becomes a number, and an MLP."""
    nodes = ("k = ai.onnx.ml.LabelEncoder<keys_strings = [\"a\", \"b\"], values_floats = [0.5, 2.0]>(s)",
             "c = Concat<axis = 1>(k, x)", "a = MatMul(c, w1)", "b = Relu(a)", "y = MatMul(b, w2)")  # fmt: skip
    return model(*nodes, x="string[n,1] s, float[n,5] x", imports='"ai.onnx.ml": 3', infer=False, y="float[n,5] y",
                 w1=(6, 16), w2=(16, 5))  # fmt: skip


def response_norm():
    """A global response normalisation inside of a block, as in ConvNeXt V2: its mean over channels is compensated."""
    nodes = (
        "a = Conv(x, w1)", "b = Relu(a)", "s = ReduceL2<keepdims = 1>(b, places)",
        "m = ReduceMean<keepdims = 1>(s, one)",
        "e = Add(m, tiny)", "q = Div(s, e)", "g = Mul(b, q)", "y = Conv(g, w2)",
    )  # fmt: skip
    return model(*nodes, places=np.array([2, 3]), one=np.array([1]), tiny=1e-6, w1=(16, 3, 1, 1), w2=(5, 16, 1, 1))


MLP = {"w1": (6, 8), "w2": (8, 5)}
KINDS = {
    "batch fixed at 1": (gap(), HALVED),
    "batch fixed at 1, constant shape": (constant_shape(), HALVED),
    "batch fixed at 4": (batch_of_four(), HALVED),
    "overlapping frames": (overlapping(), MLP),
    "dropout with its mask, opset 7": (dropout_with_its_mask(), {**MLP, "b1": (8,)}),
    "DFT": (fourier(), {"w1": (8, 3, 1, 1), "w2": (5, 8, 1, 1)}),
    "a state of batch 1": (state_of_one(), {"w1": (6, 8), "w2": (8, 4), "gw": (1, 24, 4)}),
    "plug-in": (plugin("SomePlugin_TRT"), MLP),
    "plug-in of several outputs": (non_maximum_suppression(), {"w1": (6, 8), "w2": (8, 4), "w3": (8, 7)}),
    "tokenizer": (tokenizer(), {"table": (20, 3), "w1": (3, 8), "w2": (8, 5)}),
    "odd names": (odd_names(), {"Ünïcode[weight]": (6, 8), "w[2]": (8, 5)}),
    "text": (text(), MLP),
    "response norm": (response_norm(), {"w1": (8, 3, 1, 1), "w2": (5, 8, 1, 1)}),
}
WHOLE = [kind for kind in KINDS if "plug-in" not in kind and kind != "tokenizer"]


def sizes(proto):
    return {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_inspected_and_halved_by_its_weights(kind):
    proto, halved = KINDS[kind]
    assert any(group.prunable for group in onnxprune.inspect(proto).groups)
    result = onnxprune.prune(proto, 0.5, criterion="l2", latency=False, round_to=1)
    assert result.report["verification"]["passed"]
    after = sizes(result.model)
    assert {name: after[name] for name in halved} == halved


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_command_prunes_it(kind):
    proto, _ = KINDS[kind]
    report = onnxprune.prune(proto, 0.3, latency=False, round_to=1).report
    assert report["verification"]["passed"]
    assert report["output"]["params"] < report["input"]["params"]


@pytest.mark.parametrize("kind", WHOLE)
def test_it_is_timed_and_compared(kind):
    proto, _ = KINDS[kind]
    found = onnxprune.compare(proto, proto, budget_s=0.01, memory=False)
    assert found.difference.max_abs_diff == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_family_is_made_of_it(kind, tmp_path):
    proto, _ = KINDS[kind]
    family = onnxprune.sweep(proto, tmp_path, "params", (0.7,), criterion="l2", latency=False, round_to=1)
    (member,) = family.members
    assert member.stat().st_size < len(proto.SerializeToString())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("batch fixed")])
def test_all_samples_are_counted_where_the_batch_is_fixed(kind):
    proto, _ = KINDS[kind]
    data = {"x": np.random.default_rng(0).standard_normal((30, 3, 6, 6)).astype(np.float32)}
    found = onnxprune.sensitivity(proto, data=data, levels=2, round_to=1)
    assert found.samples == (28 if kind.endswith("4") else 30)  # whole runs: copies would count between the nodes
    assert found.measured == found.losses > 0
    report = onnxprune.prune(proto, 0.3, data=data, latency=False, round_to=1).report
    assert report["calibration"]["source"] == "data"
    assert report["verification"]["passed"]
