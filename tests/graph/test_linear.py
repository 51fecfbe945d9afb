"""Linear layers as matrices: rows times weight plus bias is what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.graph.files.read import load
from onnxprune.graph.linear import layers, norms
from onnxprune.runtime.session import open_session
from tests.support.build import ROWS, TOKENS, model

RNG = np.random.default_rng(0)
LINE, IMAGE, CUBE = "float[n,4,9] x", "float[n,4,7,6] x", "float[n,4,5,4,6] x"
NORM = {"s": (6,), "o": (6,), "m": (6,), "v": np.linspace(0.5, 2, 6).astype(np.float32)}


def seen(proto, *names):
    """Return values of a model between its nodes, by name."""
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    have = {output.name for output in wide.graph.output}
    wide.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    session = open_session(wide.SerializeToString(), threads=1, optimize=False)
    feeds = {}
    for port in load(proto).inputs:
        shape = [{"n": 3, "s": 5}.get(dim, dim) for dim in port.shape]
        feeds[port.name] = RNG.standard_normal(shape).astype(port.dtype)
    return {**feeds, **session.run(feeds)}


def found(proto):
    loaded = load(proto)
    return loaded, list(layers(loaded))


def agrees(proto, bias="b", output="y"):
    """Assert that the one layer of a model is what it computes, and that its weight is stored as it was."""
    loaded, (layer,) = found(proto)
    values = seen(proto, layer.input, layer.output)
    assert (layer.output, layer.bias) == (output, bias)
    at = layer.places(values[layer.output].shape, 10**9, RNG)
    weight = loaded.array(layer.weight)
    matrix = layer.matrix(weight)
    given = layer.rows(values[layer.input], at) @ matrix.transpose(0, 2, 1)
    if bias is not None:
        stored = loaded.array(bias)
        given = given + layer.added(stored)[:, None]
        back = layer.stored_bias(layer.added(stored), stored)
        assert (back.shape, back.dtype) == (stored.shape, stored.dtype)
        np.testing.assert_allclose(back, stored, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(given, layer.targets(values[layer.output], at), rtol=1e-4, atol=1e-4)
    back = layer.stored(matrix, weight)
    assert back.dtype == weight.dtype
    np.testing.assert_array_equal(back, weight)
    few = layer.places(values[layer.output].shape, 4, RNG)
    assert list(few) == sorted(set(few.tolist()))
    assert len(few) == min(4, len(at))
    np.testing.assert_array_equal(layer.rows(values[layer.input], few), layer.rows(values[layer.input], at)[:, few])
    none = layer.rows(values[layer.input], at[:0]), layer.targets(values[layer.output], at[:0])
    assert [each.shape for each in none] == [(layer.groups, 0, matrix.shape[2]), (layer.groups, 0, matrix.shape[1])]
    return layer


@pytest.mark.parametrize(
    ("x", "attributes", "weight"),
    [
        (LINE, "", (6, 4, 3)),
        (LINE, "strides=[2], pads=[2,1], dilations=[2]", (6, 4, 3)),
        (IMAGE, "", (6, 4, 1, 1)),
        (IMAGE, "strides=[2,1], pads=[1,0,2,1]", (6, 4, 3, 2)),
        (IMAGE, "dilations=[2,1], pads=[0,1,1,0]", (6, 4, 2, 3)),
        (IMAGE, "group=2, pads=[1,1,1,1]", (6, 2, 3, 3)),
        (IMAGE, "group=4, pads=[1,1,1,1]", (8, 1, 3, 3)),
        (IMAGE, 'auto_pad="VALID", strides=[3,2]', (6, 4, 3, 3)),
        (CUBE, "strides=[1,2,2], pads=[1,0,1,0,1,0]", (6, 4, 3, 2, 2)),
    ],
)
@pytest.mark.parametrize("bias", ["b", None])
def test_a_convolution(x, attributes, weight, bias):
    inputs = "x, w, b" if bias else "x, w"
    weights = {"w": weight, **({"b": weight[:1]} if bias else {})}
    layer = agrees(
        model(f"y = Conv<{attributes}>({inputs})" if attributes else f"y = Conv({inputs})", x=x, **weights), bias
    )
    assert layer.groups == int(("group=2" in attributes) * 2 or ("group=4" in attributes) * 4 or 1)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("attributes", ["", ", strides=[2,3]", ", strides=[3,1]", ", group=2"])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 5)])
def test_padding_that_depends_on_the_input(auto, attributes, kernel):
    weight = (6, 2 if "group" in attributes else 4, *kernel)
    agrees(model(f'y = Conv<auto_pad="{auto}"{attributes}>(x, w, b)', x=IMAGE, w=weight, b=(6,)))


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER"])
def test_padding_where_strides_are_wider_than_the_window(auto):
    agrees(model(f'y = Conv<auto_pad="{auto}", strides=[4]>(x, w)', x=LINE, w=(6, 4, 2)), None)


@pytest.mark.parametrize("shape", [(5,), (1, 5)])
@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm(shape, transposed):
    weight = (5, 6) if transposed else (6, 5)
    agrees(model(f"y = Gemm<transB={transposed}>(x, w, b)", x=ROWS, w=weight, b=shape))
    agrees(model(f"y = Gemm<transB={transposed}>(x, w)", x=ROWS, w=weight), None)


def test_a_gemm_of_another_form_is_left_out():
    assert found(model("y = Gemm<transA=1>(x, w, b)", x="float[6,6] x", w=(6, 5), b=(5,)))[1] == []


@pytest.mark.parametrize("attributes", ["alpha=0.5", "beta=2.0", "alpha=0.25, beta=-0.5, transB=1"])
def test_a_gemm_with_factors(attributes):
    weight = (5, 6) if "transB" in attributes else (6, 5)
    agrees(model(f"y = Gemm<{attributes}>(x, w, b)", x=ROWS, w=weight, b=(5,)))
    agrees(model(f"y = Gemm<{attributes}>(x, w)", x=ROWS, w=weight), None)
    agrees(model(f"a = Gemm<{attributes}>(x, w)", "y = Add(a, b)", x=ROWS, w=weight, b=(5,)))


@pytest.mark.parametrize("attributes", ["alpha=0.5", "beta=2.0", "alpha=0.25, beta=-0.5", "beta=0.0"])
def test_a_gemm_with_factors_and_its_normalisation(attributes):
    nodes = (f"a = Gemm<{attributes}>(x, w, c)", "y = BatchNormalization(a, s, o, m, v)")
    agrees(model(*nodes, x="float[n,8] x", w=(8, 6), c=(6,), **NORM), "o")


def test_a_bias_of_which_nothing_is_added_is_not_fitted():
    agrees(model("y = Gemm<beta=0.0>(x, w, b)", x=ROWS, w=(6, 5), b=(5,)), None)
    agrees(model("y = Gemm<alpha=0.0>(x, w, b)", x=ROWS, w=(6, 5), b=(5,)))


@pytest.mark.parametrize("shape", [(1,), (3, 1), (3, 5), ()])
def test_what_differs_from_row_to_row_is_no_bias(shape):
    value = RNG.standard_normal(shape).astype(np.float32)
    assert found(model("y = Gemm(x, w, b)", x="float[3,6] x", w=(6, 5), b=value))[1] == []


def test_a_bias_that_is_computed_leaves_the_layer_out():
    assert found(model("c = Relu(b)", "y = Gemm(x, w, c)", x=f"{ROWS}, float[5] b", w=(6, 5)))[1] == []
    nodes = ("a = Conv(x, w, b)", "y = BatchNormalization(a, s, o, m, v)")
    assert found(model(*nodes, x=f"{IMAGE}, float[6] b", w=(6, 4, 1, 1), **NORM))[1] == []


@pytest.mark.parametrize("x", [ROWS, TOKENS, "float[n,2,s,16] x"])
@pytest.mark.parametrize("add", ["y = Add(a, b)", "y = Add(b, a)"])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (1, 1, 5)])
def test_a_matmul(x, add, shape):
    ins = 6 if x == ROWS else 16
    agrees(model("a = MatMul(x, w)", add, x=x, w=(ins, 5), b=shape))


@pytest.mark.parametrize("perm", ["", "<perm=[1,0]>"])
def test_a_matmul_with_a_transposed_weight(perm):
    nodes = (f"t = Transpose{perm}(w)", "a = MatMul(x, t)", "y = Add(a, b)")
    layer = agrees(model(*nodes, x=TOKENS, w=(5, 16), b=(5,)))
    assert layer.weight == "w"


@pytest.mark.parametrize(
    ("nodes", "y"),
    [
        (("t = Transpose(w)", "a = MatMul(x, t)", "y = MatMul(a, t)"), "float[] y"),
        (("t = Transpose(w)", "a = MatMul(x, t)", "y = MatMul(a, w)"), "float[] y"),
        (("t = Transpose(w)", "y = MatMul(x, t)"), "float[] y, float[6,6] t"),
        (("t = Transpose<perm=[0,1]>(w)", "y = MatMul(x, t)"), "float[] y"),
        (("k = Relu(w)", "t = Transpose(k)", "y = MatMul(x, t)"), "float[] y"),
    ],
    ids=["twice", "also as it is", "an output", "no swap", "computed"],
)
def test_a_transposed_weight_that_others_read(nodes, y):
    _, layers_found = found(model(*nodes, x=ROWS, y=y, w=(6, 6)))
    assert "w" not in [layer.weight for layer in layers_found]


@pytest.mark.parametrize(
    "nodes",
    [
        ("y = MatMul(x, w)",),
        ("y = MatMul(x, w)", "z = Add(y, b)"),  # y is an output itself
        ("y = MatMul(x, w)", "z = Add(y, y)"),
        ("y = MatMul(x, w)", "z = Add(y, k)"),
        ("y = MatMul(x, w)", "z = Sub(y, b)"),
    ],
)
def test_a_matmul_alone(nodes):
    y = "float[] y, float[] z" if nodes[-1] == "z = Add(y, b)" else "float[] z" if len(nodes) > 1 else "float[] y"
    agrees(model(*nodes, x=ROWS, y=y, w=(6, 5), b=(5,), k=(1,)), None)


def test_a_matrix_for_each_sample_is_no_layer():
    assert found(model("y = MatMul(x, w)", x="float[2,3,6] x", w=(2, 6, 5)))[1] == []
    assert found(model("y = MatMul(w, x)", x="float[6,n] x", w=(5, 6)))[1] == []


@pytest.mark.parametrize("bias", ["", ", c"])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-2])
def test_a_convolution_with_its_normalisation(bias, epsilon):
    nodes = (f"a = Conv<pads=[1,1,1,1]>(x, w{bias})", f"y = BatchNormalization<epsilon={epsilon}>(a, s, o, m, v)")
    layer = agrees(model(*nodes, x=IMAGE, w=(6, 4, 3, 3), c=(6,), **NORM), "o")
    assert layer.gain is not None


@pytest.mark.parametrize("op", ["Conv(x, w)", "Gemm(x, w)"])
def test_an_output_that_is_multiplied_by_zero_keeps_its_weights(op):
    scale = RNG.standard_normal(6).astype(np.float32)
    scale[2] = 0
    x, weight = (IMAGE, (6, 4, 1, 1)) if "Conv" in op else ("float[n,8] x", (8, 6))
    layer = agrees(
        model(f"a = {op}", "y = BatchNormalization(a, s, o, m, v)", x=x, w=weight, **{**NORM, "s": scale}), "o"
    )
    assert not layer.matrix(RNG.standard_normal(weight))[0, 2].any()


def test_a_normalisation_of_another_axis_is_none_of_the_layer():
    """Six tokens of six features: the channels of the normalisation are the tokens."""
    nodes = ("a = MatMul(x, w)", "y = BatchNormalization(a, s, o, m, v)")
    loaded, (layer,) = found(model(*nodes, x="float[n,6,16] x", w=(16, 6), **NORM))
    assert (layer.output, layer.bias, layer.gain) == ("a", None, None)
    assert [norm.output for norm in norms(loaded)] == ["y"]


@pytest.mark.parametrize(
    ("nodes", "options"),
    [
        (("a = MatMul(x, w)", "y = MatMul(a, w)"), {}),
        (("y = MatMul(x, w)",), {"listed": ["w"], "ir": 8}),
        (("y = MatMul(x, w)",), {"y": "float[] y, float[6,6] w"}),
        (("y = MatMul(x, w)", "z = Mul(y, w)"), {"y": "float[] z"}),
    ],
    ids=["shared", "overridable", "an output", "read as it is"],
)
def test_a_weight_that_is_not_the_layers_own(nodes, options):
    weights = {"w": (6, 6), "other": (2,)}
    assert found(model(*nodes, x="float[6,6] x", **weights, **options))[1] == []


@pytest.mark.parametrize("op", ["Conv", "Gemm"])
def test_a_bias_that_others_read_is_fixed(op):
    if op == "Conv":
        nodes, x, weights = ("a = Conv(x, w, b)", "y = Conv(a, w2, b)"), IMAGE, {"w": (6, 4, 1, 1), "w2": (6, 6, 1, 1)}
    else:
        nodes, x, weights = ("a = Gemm(x, w, b)", "y = Gemm(a, w2, b)"), ROWS, {"w": (6, 6), "w2": (6, 6)}
    proto = model(*nodes, x=x, b=(6,), **weights)
    loaded, both = found(proto)
    for layer in both:
        values = seen(proto, layer.input, layer.output)
        at = layer.places(values[layer.output].shape, 10**9, RNG)
        rows, targets = layer.rows(values[layer.input], at), layer.targets(values[layer.output], at)
        assert layer.bias is None
        given = rows @ layer.matrix(loaded.array(layer.weight)).transpose(0, 2, 1)
        np.testing.assert_allclose(given, targets, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_types(dtype):
    name = {"float16": "float16", "float64": "double"}[dtype]
    proto = model(
        "a = MatMul(x, w)", "y = Add(a, b)", x=f"{name}[n,6] x", y=f"{name}[] y", w=(6, 5), b=(5,), dtype=dtype
    )
    loaded, (layer,) = found(proto)
    weight = loaded.array("w")
    assert layer.matrix(weight).dtype == np.float64
    assert layer.stored(layer.matrix(weight), weight).dtype == weight.dtype


# -- normalisations ----------------------------------------------------------------------------------------------------


def test_statistics_are_those_of_a_gain():
    loaded = load(model("y = BatchNormalization(x, s, o, m, v)", x="float[n,6,4] x", **NORM))
    (norm,) = norms(loaded)
    stored = [loaded.array(name) for name in norm.constants]
    gain, offset = norm.multiplied(*stored)
    values = seen(loaded.proto, "x", "y")
    at = norm.places(values["y"].shape, 10**9, RNG)
    given = norm.rows(values["x"], at) * gain[:, None, None] + offset[:, None, None]
    np.testing.assert_allclose(given, norm.targets(values["y"], at), rtol=1e-4, atol=1e-4)
    for back, was in zip(norm.statistics(gain, offset), stored, strict=True):
        np.testing.assert_allclose(back, was, rtol=1e-5, atol=1e-6)
    assert (np.abs(gain) <= norm.most).all()


@pytest.mark.parametrize(
    "node",
    [
        "y, p, q = BatchNormalization<training_mode=1>(x, s, o, m, v)",
        "y = BatchNormalization(x, s, o, m, m2)",
    ],
)
def test_normalisations_that_are_left_out(node):
    nodes = (node, "z = Add(y, y)") if "training" in node else (node,)
    weights = {**NORM, "m2": np.ones(6, np.float32)}
    options = {"listed": ["m2"], "ir": 8} if "m2" in node else {}
    y = "float[] z" if "training" in node else "float[] y"
    assert list(norms(load(model(*nodes, x="float[n,6,4] x", y=y, **weights, **options)))) == []
