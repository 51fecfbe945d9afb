"""Rewriting: whole models through the oracle, cuts that can be made again, and nothing else touched."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.edit import Part
from onnxprune.graph.files.checks import problems
from onnxprune.graph.files.read import load
from onnxprune.graph.files.write import write
from onnxprune.graph.view import view
from onnxprune.runtime.session import open_session
from onnxprune.surgery.mask import masked
from onnxprune.surgery.rewrite import new_sizes, rewrite
from tests.dependency.rules.structures import STRUCTURES
from tests.dependency.test_cost import MODELS
from tests.support.build import ROWS, conv, dense, model
from tests.support.oracle import check
from tests.support.paths import MODELS as FOLDER


def planned(proto, share=0.5, seed=0, **units):
    """Return the trace of a model and random kept sets, of all groups or for given numbers of units."""
    traced = trace(view(proto) if isinstance(proto, onnx.ModelProto) else load(proto))
    rng = np.random.default_rng(seed)
    kept = {}
    for group in groups(traced):
        if group.locked is None and group.exact and (not units or group.name in units):
            mask = np.zeros(group.units, bool)
            mask[rng.permutation(group.units)[: max(1, round(share * group.units))]] = True
            kept[group.atom] = mask
    return traced, kept


def bundled(name):
    return f"models/{name}.onnx"


def named(proto):
    return {tensor.name: tensor for tensor in proto.graph.initializer}


# -- whole models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("seed", "share"), [(0, 0.5), (1, 0.8), (2, 0.1), (3, 0.5)])
def test_bundled_models_pass_the_oracle(name, seed, share):
    checked = check(bundled(name), seed=seed, share=share, inner=seed != 3)
    assert len(checked.cut) >= 4


@pytest.mark.parametrize("name", MODELS)
def test_cuts_tell_how_to_make_each_weight_again(name):
    traced, kept = planned(bundled(name))
    rewritten = rewrite(traced, kept)
    assert rewritten.cuts
    after = view(rewritten.proto)
    for target, cut in rewritten.cuts.items():
        array = traced.model.array(cut.source)
        for dim, indices in cut.kept.items():
            array = array.take(indices, axis=dim)
        assert array.tobytes() == after.array(target).tobytes()
        assert array.shape == after.constants[target].shape


@pytest.mark.parametrize("name", MODELS)
def test_what_is_not_cut_stays_byte_for_byte(name):
    traced, kept = planned(bundled(name))
    rewritten = rewrite(traced, kept)
    before, after = traced.model.proto, rewritten.proto
    old = named(before)
    for tensor in after.graph.initializer:
        changed_sizes = tensor.data_type == TensorProto.INT64
        if tensor.name in old and tensor.name not in rewritten.cuts and not changed_sizes:
            assert tensor == old[tensor.name]
    nodes = {node.output[0]: node for node in after.graph.node}
    for index, node in enumerate(before.graph.node):
        if index not in rewritten.nodes:
            assert nodes[node.output[0]] == node
    assert (after.graph.input, after.graph.output) == (before.graph.input, before.graph.output)
    assert (after.opset_import, after.metadata_props) == (before.opset_import, before.metadata_props)
    assert [t.name for t in after.graph.initializer if t.name in old] == [t for t in old if t in named(after)]


@pytest.mark.parametrize("name", MODELS)
def test_the_input_is_never_changed(name):
    traced, kept = planned(bundled(name))
    before = traced.model.proto.SerializeToString(deterministic=True)
    rewrite(traced, kept)
    masked(traced, kept)
    assert traced.model.proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", MODELS)
def test_stated_shapes_are_those_that_onnx_infers(name):
    traced, kept = planned(bundled(name))
    proto = rewrite(traced, kept).proto
    stated = {info.name: info for info in proto.graph.value_info}
    assert problems(proto) is None
    again = onnx.ModelProto()
    again.CopyFrom(proto)
    del again.graph.value_info[:]
    for info in onnx.shape_inference.infer_shapes(again, data_prop=True).graph.value_info:
        if info.name in stated:
            known = [(s.dim_value, i.dim_value) for s, i in zip(dims(stated[info.name]), dims(info), strict=True)]
            assert all(s == i for s, i in known if s and i), info.name


def dims(info):
    return info.type.tensor_type.shape.dim


@pytest.mark.parametrize("name", MODELS)
def test_no_cut_no_change(name):
    traced, _ = planned(bundled(name))
    rewritten = rewrite(traced, {})
    assert rewritten.proto == traced.model.proto
    assert (rewritten.cuts, rewritten.nodes) == ({}, ())
    assert masked(traced, {}) == traced.model.proto


def test_keeping_all_units_masks_nothing():
    traced, kept = planned(dense("b = Relu(a)"), share=1.0)
    assert masked(traced, kept) == traced.model.proto


def test_sizes_of_a_plan():
    traced, kept = planned(dense("b = Relu(a)"))
    assert list(new_sizes(kept).values()) == [4]
    assert set(new_sizes(kept)) == set(kept)
    assert traced.model.params == 96


# -- shared constants ----------------------------------------------------------------------------------------------

TWO = (
    "p = MatMul(x, w1)", "a = Add(p, bias)", "b = Relu(a)", "q = MatMul(b, w2)", "c = Add(q, bias)", "d = Relu(c)",
    "y = MatMul(d, w3)",
)  # fmt: skip


def two(**rest):
    """Two hidden layers of one width whose biases are one tensor."""
    return model(*TWO, x=ROWS, **{"bias": (8,), "w1": (6, 8), "w2": (8, 8), "w3": (8, 5), **rest})


def test_uses_that_differ_get_copies():
    checked = check(two())
    assert len(checked.cut) == 2
    tensors = named(checked.pruned)
    assert list(tensors) == ["bias", "w1", "w2", "w3", "bias_pruned"]
    old = view(two()).array("bias")
    assert not np.array_equal(view(checked.pruned).array("bias"), view(checked.pruned).array("bias_pruned"))
    assert set(view(checked.pruned).array("bias_pruned")) <= set(old)


def test_uses_that_agree_share_one_tensor():
    checked = check(dense("c = Mul(a, g)", "d = Relu(c)", "b = Add(d, g)", g=(8,)))
    assert list(named(checked.pruned)) == ["w1", "b1", "w2", "g"]
    assert checked.shape("g") == [4]


def test_a_use_that_keeps_all_keeps_the_tensor():
    first, second = (group.name for group in groups(trace(view(two()))) if group.locked is None)
    checked = check(two(), only=[second])
    assert named(checked.pruned)["bias"] == named(two())["bias"]
    assert checked.shape("bias_pruned") == [4]
    assert first not in checked.cut


def test_copies_get_names_that_are_free():
    proto = two(bias_pruned=(8,))
    proto.graph.node[5].input[0] = "c2"
    proto.graph.node.insert(5, helper.make_node("Mul", ["c", "bias_pruned"], ["c2"]))
    assert "bias_pruned_2" in named(check(proto).pruned)


def test_a_constant_that_a_branch_reads_stays():
    proto = model(
        "a = MatMul(x, w1)", "b = Add(a, bias)",
        "k = If(c) <then_branch = t () => (float[8] p) { p = Relu(bias) }, "
        "else_branch = e () => (float[8] q) { q = Neg(bias) }>",
        "m = ReduceMax<keepdims = 0>(k)", "d = Mul(b, m)", "y = MatMul(d, w2)",
        x=ROWS + ", bool c", w1=(6, 8), bias=(8,), w2=(8, 5),
    )  # fmt: skip
    checked = check(proto)
    assert checked.cut
    assert named(checked.pruned)["bias"] == named(proto)["bias"]
    assert checked.shape("bias_pruned") == [4]


def test_a_constant_that_size_arithmetic_reads_stays():
    proto = model(
        "a = MatMul(x, w1)", "z = ConstantOfShape(eight)", "b = Add(a, z)", "s = Shape(x)", "n = Gather(s, zero)",
        "to = Concat<axis = 0>(n, eight)", "c = MatMul(b, w2)", "d = Reshape(c, to)", "y = MatMul(d, w3)",
        x=ROWS, w1=(6, 8), w2=(8, 8), w3=(8, 5), eight=[8], zero=[0],
    )  # fmt: skip
    first, second = (group.name for group in groups(trace(view(proto))) if group.locked is None)
    assert view(check(proto, only=[first]).pruned).array("eight").tolist() == [8]
    assert view(check(proto, only=[second]).pruned).array("eight").tolist() == [8]
    assert len(check(proto).cut) == 2


def test_a_dead_node_does_not_break_the_model():
    checked = check(two_with_dead_end())
    assert problems(checked.pruned) is None


def two_with_dead_end():
    """A bias that a live node and a dead one read, over axes that are cut and not cut."""
    return model(
        "p = MatMul(x, w1)", "a = Add(p, bias)", "b = Relu(a)", "y = MatMul(b, w2)", "dead = Add(z, bias)",
        x=ROWS + ", float[n,8] z", w1=(6, 8), bias=(8,), w2=(8, 5),
    )  # fmt: skip


def test_weights_in_constant_nodes_are_cut():
    proto = model(
        "a = MatMul(x, w1)", "b = Relu(a)", "y = MatMul(b, w2)", x=ROWS, y="float[n,5] y", w1=(6, 8), infer=False
    )
    value = numpy_helper.from_array(np.arange(40, dtype=np.float32).reshape(8, 5))
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w2"], value=value))
    checked = check(proto)
    assert view(checked.pruned).constants["w2"].shape == (4, 5)


def test_weights_that_are_listed_as_inputs_are_cut_there_too():
    checked = check(dense("b = Relu(a)", listed=["w1", "b1", "w2"]))
    assert [dim.dim_value for dim in dims(checked.pruned.graph.input[1])] == [6, 4]


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_types_of_weights(dtype):
    short = {"float64": "double", "float16": "float16"}[dtype]
    proto = conv("b = Relu(a)", x=f"{short}[n,3,6,6] x", y=f"{short}[] y", dtype=dtype)
    traced, kept = planned(proto)
    pruned = rewrite(traced, kept).proto
    assert problems(pruned) is None
    assert view(pruned).array("w1").dtype == np.dtype(dtype)
    assert problems(masked(traced, kept)) is None


# -- sizes that nodes state ------------------------------------------------------------------------------------------


def test_a_reshape_follows():
    checked = check(conv("c = Reshape(a, to)", "b = Reshape(c, back)", to=[0, 8, 36], back=[-1, 8, 6, 6]))
    assert view(checked.pruned).array("to").tolist() == [0, 4, 36]
    assert view(checked.pruned).array("back").tolist() == [-1, 4, 6, 6]


def test_one_shape_for_two_reshapes_of_different_cuts():
    proto = model(
        "a = MatMul(x, w1)", "b = Reshape(a, to)", "c = Relu(b)", "d = MatMul(c, w2)", "e = Reshape(d, to)",
        "y = MatMul(e, w3)",
        x=ROWS, w1=(6, 8), w2=(8, 8), w3=(8, 5), to=[-1, 8],
    )  # fmt: skip
    one, *_ = (g.name for g in groups(trace(view(proto))) if g.locked is None)
    checked = check(proto, only=[one])
    shapes = sorted(view(checked.pruned).array(name).tolist() for name in ("to", "to_pruned"))
    assert shapes == [[-1, 4], [-1, 8]]


def test_the_groups_of_a_convolution_follow():
    proto = model(
        "a = Conv(x, w1)",
        "b = Conv<group = 8>(a, w2)",
        "y = Conv(b, w3)",
        w1=(8, 3, 1, 1),
        w2=(8, 1, 3, 3),
        w3=(5, 8, 1, 1),
    )
    assert view(check(proto).pruned).nodes[1].attrs["group"] == 4


def test_a_computed_shape_keeps_its_dynamic_sizes():
    proto = model(
        "a = MatMul(x, w1)", "s = Shape(x)", "n = Gather(s, zero)", "t = Gather(s, one)",
        "to = Concat<axis = 0>(n, t, eight)", "b = Expand(g, to)", "c = Mul(a, b)", "y = MatMul(c, w2)",
        x="float[n,t,6] x", w1=(6, 8), w2=(8, 5), g=(1, 1, 8), zero=[0], one=[1], eight=[8],
    )  # fmt: skip
    assert len(check(proto).cut) == 1


def test_a_computed_shape_is_joined_from_old_and_new_entries():
    proto = model(
        "a = MatMul(x, w1)", "s = Shape(x)", "n = Gather(s, zero)", "t = Gather(s, one)",
        "to = Concat<axis = 0>(n, t, eight)", "z = ConstantOfShape(to)", "c = Add(a, z)", "y = MatMul(c, w2)",
        x="float[n,t,6] x", w1=(6, 8), w2=(8, 5), zero=[0], one=[1], eight=[8],
    )  # fmt: skip
    checked = check(proto)
    ops = [node.op for node in view(checked.pruned).nodes]
    assert len(checked.cut) == 1
    assert ops.count("Concat") >= 1
    assert problems(checked.pruned) is None


def test_split_sizes_replace_the_number_of_outputs():
    proto = model(
        "a = MatMul(x, w1)", "p, q = Split<axis = 1, num_outputs = 2>(a)", "b = MatMul(p, w2)", "c = MatMul(q, w3)",
        "y = Add(b, c)", x=ROWS, w1=(6, 8), w2=(4, 5), w3=(4, 5),
    )  # fmt: skip
    found = [group.name for group in groups(trace(view(proto))) if group.locked is None]
    checked = check(proto, only=found[:1], share=0.25)
    split = view(checked.pruned).nodes[1]
    assert "num_outputs" not in split.attrs
    assert view(checked.pruned).array(split.inputs[1]).tolist() == [1, 4]


def test_a_value_from_sizes_that_is_cut_itself_keeps_its_numbers():
    proto = model(
        "a = MatMul(x, w1)", "s = Shape(w1)", "r = Range(zero, eight, one)", "f = Cast<to = 1>(r)", "b = Add(a, f)",
        "y = MatMul(b, w2)", x=ROWS, w1=(6, 8), w2=(8, 5), zero=0, eight=8, one=1,
    )  # fmt: skip
    check(proto)


def types(proto):
    """Return the element type of every value and constant."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    found = {info.name: info.type.tensor_type.elem_type for info in graph.value_info}
    return {**found, **{tensor.name: tensor.data_type for tensor in graph.initializer}}


def test_runtime_sizes_of_a_slice_stay_int32():
    proto = dense(
        "s = Shape<end = 1>(x)", "n = Cast<to = 6>(s)", "e = Concat<axis = 0>(n, five)", "b = Slice(a, z, e, d)",
        five=np.array([5], np.int32), z=np.zeros(2, np.int32), d=np.array([0, 1], np.int32), out=5,
    )  # fmt: skip
    checked = check(proto)
    assert len(checked.cut) == 2
    _, starts, ends, _ = next(node.input for node in checked.pruned.graph.node if node.op_type == "Slice")
    assert ends != "e"
    assert (types(checked.pruned)[starts], types(checked.pruned)[ends]) == (TensorProto.INT32, TensorProto.INT32)


def test_runtime_sizes_of_a_reshape_stay_int64():
    proto = dense(
        "s = Shape(a)", "n = Gather(s, zero)", "i = Cast<to = 6>(n)", "c = Mul(i, one)", "m = Cast<to = 7>(c)",
        "to = Concat<axis = 0>(one64, m, heads)", "r = Reshape(a, to)", "g = Relu(r)", "b = Reshape(g, back)",
        zero=[0], one=np.array([1], np.int32), one64=[1], heads=[2, 4], back=[-1, 8],
    )  # fmt: skip
    checked = check(proto)
    assert len(checked.cut) == 2
    sizes = next(node.input[1] for node in checked.pruned.graph.node if node.output[0] == "r")
    assert types(checked.pruned)[sizes] == TensorProto.INT64


@pytest.mark.parametrize(("index", "shape"), [(5, ()), ([5], (1,)), ([[5]], (1, 1)), ([[[-3]]], (1, 1, 1))], ids=str)
def test_the_index_of_a_gather_keeps_its_shape(index, shape):
    proto = model(
        "a = MatMul(x, w1)", "g = Gather<axis = 1>(a, i)", "z = Relu(g)", "y = MatMul(a, w2)",
        x=ROWS, y="float[] y, float[] z", w1=(6, 8), w2=(8, 5), i=index,
    )  # fmt: skip
    checked = check(proto)
    assert [checked.group(name).units for name in checked.cut] == [5, 2]
    node = next(node for node in checked.pruned.graph.node if node.op_type == "Gather")
    array = view(checked.pruned).array(node.input[1])
    assert (array.shape, array.ravel().tolist()) == (shape, [2])


# -- sizes of one tensor as the shape of another ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "q", "sizes"),
    [
        ("z = Reshape(q, s)", "float[n,2,4] q", [0, 8]),
        ("z = Reshape(q, s)", "float[n,8] q", [0, 8]),
        ("z = Expand(q, s)", "float[n,1] q", None),
        ("z = Expand(q, s)", "float[n,8] q", [1, 1]),
        ("v = ConstantOfShape(s)", "float[n,8] q", None),
    ],
    ids=["reshape", "reshape-to-itself", "expand", "expand-of-nothing", "zeros"],
)
def test_the_shape_of_a_tensor_that_is_not_cut_stays(op, q, sizes):
    ending = () if op.startswith("z") else ("z = Add(q, v)",)
    proto = dense("b = Relu(a)", "s = Shape(b)", op, *ending, x=f"{ROWS}, {q}", y="float[] y, float[n,8] z")
    for at in ({"n": 1}, {"n": 4}):
        checked = check(proto, at=[at])
        assert [checked.group(name).units for name in checked.cut] == [8]
    node = next(node for node in checked.pruned.graph.node if node.output[0] == op[0])
    assert node.input[-1] != "s"
    if sizes is not None:
        found = view(checked.pruned)
        assert found.array(node.input[1]).tolist() in (sizes, [-1, 8])


def test_zeros_beside_what_they_are_like_are_cut_apart():
    proto = dense(
        "r = Relu(a)", "s = Shape(r)", "o = ConstantOfShape<value = float[1] {1.0}>(s)", "b = Concat<axis = 1>(r, o)",
        out=16,
    )  # fmt: skip
    first, second = (group.name for group in groups(trace(view(proto))) if group.locked is None)
    assert check(proto, only=[first]).shape("w2") == [12, 5]
    assert check(proto, only=[second]).shape("w2") == [12, 5]
    assert check(proto).shape("w2") == [8, 5]


# -- IR 3, where every initializer is an input too -------------------------------------------------------------------


def listed(proto):
    return {info.name: [dim.dim_value for dim in dims(info)] for info in proto.graph.input}


def test_an_old_model_lists_the_copies_of_a_shared_bias():
    checked = check(two(ir=3, opset=8))
    assert len(checked.cut) == 2
    assert checked.pruned.ir_version == 3
    tensors = {name: list(tensor.dims) for name, tensor in named(checked.pruned).items()}
    assert "bias_pruned" in tensors
    assert {name: sizes for name, sizes in listed(checked.pruned).items() if name != "x"} == tensors


def test_an_old_model_lists_the_sizes_that_are_added():
    proto = conv(
        "s = Shape(x)", "n = Gather(s, zero)", "to = Concat<axis = 0>(n, eight, rest)", "c = Reshape(a, to)",
        "t = Shape(a)", "b = Reshape(c, t)", zero=[0], eight=[8], rest=[36], ir=3, opset=8, y="float[n,5,6,6] y",
    )  # fmt: skip
    checked = check(proto)
    assert len(checked.cut) == 1
    assert {"c_sizes", "b_sizes"} <= set(listed(checked.pruned))
    assert set(named(checked.pruned)) == set(listed(checked.pruned)) - {"x"}
    kinds = {info.name: info.type.tensor_type.elem_type for info in checked.pruned.graph.input}
    assert {kinds[name] for name in ("c_sizes", "b_sizes")} == {TensorProto.INT64}


def test_an_old_model_lists_the_entries_of_runtime_sizes():
    proto = dense(
        "s0 = Shape(x)", "s = Gather(s0, zero)",
        "to = Concat<axis = 0>(s, eight)", "z = ConstantOfShape(to)", "b = Add(a, z)",
        zero=[0], eight=[8], ir=3, opset=9,
    )  # fmt: skip
    checked = check(proto)
    assert len(checked.cut) == 1
    assert set(named(checked.pruned)) == set(listed(checked.pruned)) - {"x"}
    assert problems(checked.pruned) is None


# -- width -------------------------------------------------------------------------------------------------------------


def normed(op, attributes="", opset=18, **weights):
    """Return two layers around a norm over 8 units, and the kept units of a cut to five."""
    scales = ", ".join(weights)
    proto = model(
        "a = MatMul(x, w1)", f"n = {op}{attributes}(a, {scales})", "y = MatMul(n, w2)", x=ROWS, opset=opset,
        w1=(6, 8), w2=(8, 4), **weights,
    )  # fmt: skip
    traced = trace(view(proto))
    (group,) = [group for group in groups(traced) if group.units == 8]
    return traced, {group.atom: np.array([1, 0, 1, 1, 0, 0, 1, 1], bool)}


def run(proto, **feeds):
    return open_session(proto.SerializeToString()).run(feeds)["y"]


def test_rms_norm_of_fewer_units_is_that_of_the_others_at_zero():
    """The statement of docs/architecture.md, with the mask put in front of the norm by hand."""
    traced, kept = normed("RMSNormalization", "<epsilon = 0.3>", opset=23, g=(8,))
    (mask,) = kept.values()
    dense = onnx.ModelProto()
    dense.CopyFrom(traced.model.proto)
    weight = next(tensor for tensor in dense.graph.initializer if tensor.name == "w1")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * mask, "w1"))
    x = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
    np.testing.assert_allclose(run(rewrite(traced, kept).proto, x=x), run(dense, x=x), rtol=1e-5)


def test_layer_norm_of_fewer_units_divides_by_the_original_count():
    traced, kept = normed("LayerNormalization", "<epsilon = 0.3>", g=(8,), c=(8,))
    (mask,) = kept.values()
    w1, w2, g, c = (traced.model.array(name) for name in ("w1", "w2", "g", "c"))
    x = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
    a = x @ w1[:, mask]
    centred = a - a.mean(axis=1, keepdims=True)
    deviation = np.sqrt((centred**2).sum(axis=1, keepdims=True) / 8 + 0.3)
    expected = (centred / deviation * g[mask] + c[mask]) @ w2[mask]
    np.testing.assert_allclose(run(rewrite(traced, kept).proto, x=x), expected, rtol=1e-4)


def test_a_mean_of_fewer_units_is_divided_by_the_original_count():
    proto = model("a = MatMul(x, w1)", "m = ReduceMean<keepdims = 1>(a, one)", "c = Sub(a, m)", "y = MatMul(c, w2)",
                  x=ROWS, w1=(6, 8), w2=(8, 4), one=[1])  # fmt: skip
    traced = trace(view(proto))
    (group,) = [group for group in groups(traced) if group.units == 8]
    mask = np.array([1, 0, 1, 1, 0, 0, 1, 1], bool)
    w1, w2 = traced.model.array("w1"), traced.model.array("w2")
    x = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)
    a = x @ w1[:, mask]
    expected = (a - a.sum(axis=1, keepdims=True) / 8) @ w2[mask]
    np.testing.assert_allclose(run(rewrite(traced, {group.atom: mask}).proto, x=x), expected, rtol=1e-4)


def test_a_vit_loses_width():
    vit = FOLDER / "vit.onnx"
    result = onnxprune.prune(vit, ratio=0.25, width=True, latency=False)
    cut = {group["name"]: group for group in result.report["groups"] if not group["exact"]}
    assert cut["patches"]["kept"] == 56  # of 80, in multiples of 8
    assert result.report["verification"]["passed"]
    plain = onnxprune.prune(vit, ratio=0.25, latency=False)
    assert result.report["output"]["params"] < 0.85 * plain.report["output"]["params"]


def test_a_copy_of_a_weight_holds_the_part_that_is_read():
    proto = next(case.proto for case in STRUCTURES if str(case) == "parts-at-a-computed-place")
    traced = trace(view(proto))
    first, second = (group for group in groups(traced) if group.lock is None)
    halves = {first.atom: np.arange(6) < 3, second.atom: np.arange(6) < 2}
    sizes = {t.name: list(t.dims) for t in rewrite(traced, halves).proto.graph.initializer if t.name.startswith("w")}
    assert sizes == {"w": [3, 6], "w_pruned": [2, 6], "w1": [3, 4], "w2": [2, 4]}


def test_a_default_that_a_caller_may_replace_keeps_its_shape():
    proto = dense("b = Mul(a, k)", k=(8,), listed=["k"])
    assert check(proto).cut == ()
    reasons = {group.lock.reason for group in groups(trace(view(proto))) if group.lock}
    assert "it is part of the graph input 'k', which has a default" in reasons


def test_a_stated_shape_of_another_rank_is_left_out():
    proto = dense("b = Relu(a)", infer=False, y="float[n,5] y")
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 8, 1]))
    assert check(proto).cut


# -- memory --------------------------------------------------------------------------------------------------------


def chained(path, layers=16, width=1024):
    """Write a chain of products with half-precision weights beside the model; return the bytes of one of them."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((width, width)).astype(np.float16) for _ in range(layers)]
    nodes = []
    for i in range(layers):
        nodes.append(helper.make_node("MatMul", [f"r{i - 1}" if i else "x", f"w{i}"], [f"y{i}"]))
        nodes.append(helper.make_node("Relu", [f"y{i}"], [f"r{i}"]))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT16, ["n", width]) for n in ("x", f"r{layers - 1}")]
    tensors = [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, path, save_as_external_data=True, location="chain.data")
    return weights[0].nbytes


def test_weights_outside_are_cut_one_at_a_time(tmp_path):
    one = chained(tmp_path / "chain.onnx")
    tracemalloc.start()
    try:
        traced, kept = planned(tmp_path / "chain.onnx", 0.9)
        assert tracemalloc.get_traced_memory()[1] < one  # reading and tracing look at no weight
        rewritten = rewrite(traced, kept)
        assert len(rewritten.cuts) == 16
        write(rewritten.proto, tmp_path / "out.onnx", tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * one  # of 16: what is left of one, and as the bytes that onnx makes of it
    kept_indices = rewritten.cuts["w3"].kept
    expected = traced.model.array("w3")[np.ix_(kept_indices[0], kept_indices[1])]
    assert np.array_equal(load(tmp_path / "out.onnx").array("w3"), expected)


def test_a_part_of_a_constant_is_cut_when_it_is_asked_for():
    found = load(bundled("cnn"))
    name = next(n for n, c in found.constants.items() if len(c.shape) == 4)
    whole = found.array(name)
    mask = np.arange(whole.shape[0]) % 2 == 0
    part = Part(found, name, {0: mask}, 0.5)
    assert part.shape == (mask.sum(), *whole.shape[1:])
    assert np.array_equal(np.asarray(part), (whole[mask] * 0.5).astype(whole.dtype))
    assert np.asarray(part, np.float64).dtype == np.float64
