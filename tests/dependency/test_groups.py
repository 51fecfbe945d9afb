"""Groups: names, kinds, members, roles; the bundled models as golden expectations."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.dependency.axes import kept_mask
from onnxprune.dependency.groups import carriers, groups, weights
from onnxprune.dependency.matrices import matrices
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from tests.dependency.test_cost import MHA, MODELS, WEIGHTS
from tests.support.build import ROWS, TOKENS, conv, dense, model
from tests.support.oracle import check


def grouped(proto):
    return groups(trace(view(proto)))


def free(proto):
    return [group for group in grouped(proto) if group.locked is None]


def bundled(name):
    return trace(load(f"models/{name}.onnx"))


def roles(group):
    return [(member.constant, member.dim, member.role) for member in group.members]


# -- the bundled models ------------------------------------------------------------------------------------------

RESNET = [("channels", 32)] * 3 + [("channels", 64)] * 3 + [("channels", 128)] * 2
MOBILENET = [
    ("channels", units)
    for units in (16, 32, 8, 16, 64, 24, 96, 96, 24, 40, 160, 40, 160, 40, 48, 192, 48, 192)
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cnn", [("channels", 32), ("channels", 64), ("channels", 64), ("neurons", 128)]),
        ("resnet_bn", RESNET),
        ("resnet_folded", RESNET),
        ("mobilenet", [*MOBILENET, ("neurons", 128)]),
        ("vit", [("heads", 5), ("neurons", 320)] * 5),
    ],
)
def test_prunable_groups_of_the_bundled_models(name, expected):
    found = [(group.kind, group.units) for group in groups(bundled(name)) if group.prunable]
    assert Counter(found) == Counter(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cnn", {("neurons", 7): 2, ("neurons", 10): 1}),
        ("resnet_bn", {("neurons", 10): 1}),
        ("mobilenet", {("neurons", 10): 1}),
        ("vit", {("neurons", 10): 1, ("hidden width", 80): 1, ("head dims", 16): 5, ("positions", 7): 2}),
    ],
)
def test_the_other_groups_of_the_bundled_models(name, expected):
    assert Counter((group.kind, group.units) for group in groups(bundled(name)) if not group.prunable) == expected


def test_a_hidden_width_says_what_mixes_over_it():
    (width,) = [group for group in groups(bundled("vit")) if group.kind == "hidden width"]
    assert width.locked is None
    assert not width.exact
    assert "LayerNormalization normalises over it (at " in width.inexact


def test_head_dims_are_inside_heads():
    found = {group.kind: group for group in groups(bundled("vit"))}
    assert found["head dims"].inner
    assert not found["heads"].inner
    assert {m.constant for m in found["head dims"].members} == {m.constant for m in found["heads"].members}


def test_the_folded_and_the_unfolded_network_have_the_same_groups():
    one, other = (
        {(g.name, g.units) for g in groups(bundled(name)) if g.prunable} for name in ("resnet_bn", "resnet_folded")
    )
    assert one == other


# -- any model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_names_are_unique_and_stable(name):
    names = [group.name for group in groups(bundled(name))]
    assert len(set(names)) == len(names)
    assert [group.name for group in groups(bundled(name))] == names


@pytest.mark.parametrize("name", MODELS)
def test_params_are_the_elements_that_a_cut_of_all_units_removes(name):
    traced = bundled(name)
    for group in groups(traced):
        none = {group.atom: np.zeros(group.units, bool)}
        expected = 0
        for constant in dict.fromkeys(member.constant for member in group.members):
            alive = np.ones(traced.model.constants[constant].shape, bool)
            for member in group.members:
                if member.constant == constant:
                    shape = [-1 if dim == member.dim else 1 for dim in range(alive.ndim)]
                    alive &= kept_mask(member.axis, none).reshape(shape)
            expected += int((~alive).sum())
        assert group.params == expected, group.name


@pytest.mark.parametrize("name", MODELS)
def test_matrices_have_a_row_for_each_unit(name):
    traced = bundled(name)
    for group in groups(traced):
        found = list(matrices(group, traced))
        assert [role for role, _ in found] == [member.role for member in group.members]
        for _, matrix in found:
            assert matrix.shape[0] == group.units
            assert matrix.dtype == np.float32


@pytest.mark.parametrize("name", MODELS)
def test_carriers_and_weights(name):
    traced = bundled(name)
    found = groups(traced)
    carried = carriers(found)
    assert set(carried) <= set(weights(traced))
    assert all(group in carried[member.constant] for group in found for member in group.members)
    assert sum(constant.count for constant in weights(traced).values()) <= traced.model.params


# -- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ("layer1.conv.weight", "layer1.conv"),
        ("dense/kernel", "dense/kernel"),
        ("dense.kernel", "dense"),
        ("dense_kernel", "dense"),
        ("w", "w"),
        ("onnx::Conv_123", "first"),
        ("val_12", "first"),
        ("const_fold_opt__7", "first"),
        ("/model/node", "first"),
        ("123", "first"),
    ],
)
def test_a_group_is_called_after_its_weight_or_its_node(weight, expected):
    proto = conv("b = Relu(a)", x="float[n,1,6,6] x", w1=(8, 1, 1, 1))
    proto.graph.initializer[0].name = weight
    proto.graph.node[0].input[1] = weight
    proto.graph.node[0].name = "first"
    (found,) = [group for group in grouped(proto) if group.locked is None]
    assert found.name == expected


def test_groups_of_one_weight_are_told_apart():
    proto = model("a = MatMul(x, w)", "p, q = Split<axis = 1>(a, parts)", "y = MatMul(p, u)", "z = MatMul(q, v)",
                  x=ROWS, y="float[n,3] y, float[n,3] z", w=(6, 10), parts=[4, 6], u=(4, 3), v=(6, 3))  # fmt: skip
    names = [group.name for group in grouped(proto)]
    assert len(set(names)) == len(names)
    assert all(name.startswith(("w:", "u", "v")) for name in names)


@pytest.mark.parametrize("taken", ["a:neurons.1", "a:neurons.2", "a:neurons"])
def test_a_number_that_a_weight_has_in_its_name_is_not_given_again(taken):
    proto = halves(taken)
    traced = trace(view(proto))
    found = [group for group in groups(traced) if group.locked is None]
    names = [group.name for group in groups(traced)]
    assert len(set(names)) == len(names)
    (own,) = [group.name for group in found if roles(group) == [(f"{taken}.weight", 1, "out"), ("v3", 0, "in")]]
    assert own == (taken if taken != "a:neurons" else "a:neurons.3")
    for group in found:
        checked = check(proto, only=[group.name])
        assert checked.cut == (group.name,)
        assert cut_constants(checked.pruned, proto) == {member.constant for member in group.members}


@pytest.mark.parametrize("taken", ["a:neurons.1", "a:neurons.2"])
def test_the_group_that_is_named_is_the_one_that_is_cut(taken):
    result = onnxprune.prune(halves(taken), ratio=0.5, only=[taken], latency=False, round_to=1)
    assert cut_constants(result.model, halves(taken)) == {f"{taken}.weight", "v3"}


def halves(taken):
    """Two groups of one weight `a.weight`, behind one of them a weight whose name is like the name of a group."""
    proto = model(
        "h = MatMul(x, aw)", "r = Relu(h)", "p, q = Split<axis = 1>(r, parts)", "b = MatMul(p, bw)", "c = Relu(b)",
        "d = MatMul(c, v3)", "e = MatMul(q, v2)", "y = Add(d, e)",
        x=ROWS, aw=(6, 16), bw=(6, 5), v2=(10, 3), v3=(5, 3), parts=[6, 10],
    )  # fmt: skip
    new = {"aw": "a.weight", "bw": f"{taken}.weight"}
    for item in (*proto.graph.initializer, *proto.graph.value_info):
        item.name = new.get(item.name, item.name)
    for node in proto.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
    return proto


def cut_constants(pruned, proto):
    """Return the names of float weights that have another shape than before."""
    before = {t.name: list(t.dims) for t in proto.graph.initializer}
    return {t.name for t in pruned.graph.initializer if t.name != "parts" and list(t.dims) != before[t.name]}


# -- kinds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (conv("b = Relu(a)"), ["channels"]),
        (dense("b = Relu(a)"), ["neurons"]),
        (model(*MHA, x="float[n,10,16] x", **WEIGHTS), ["heads", "head dims", "heads", "head dims"]),
        (dense("b = LayerNormalization(a, s)", s=(8,)), ["hidden width"]),
    ],
    ids=["channels", "neurons", "attention", "hidden width"],
)
def test_kinds(proto, expected):
    kinds = [group.kind for group in free(proto)]
    assert sorted(set(kinds)) == sorted(set(expected))


def test_values_have_head_dims_of_their_own():
    found = free(model(*MHA, x="float[n,10,16] x", **WEIGHTS))
    dims = {tuple(sorted(member.constant for member in group.members)) for group in found if group.kind == "head dims"}
    assert dims == {("wk", "wq"), ("wo", "wv")}


def test_a_weight_behind_a_transpose_is_no_activation():
    proto = model(
        "t1 = Transpose<perm = [1,0]>(w1)", "a = MatMul(x, t1)", "b = Relu(a)", "y = MatMul(b, w2)",
        x=ROWS, w1=(8, 6), w2=(8, 5),
    )  # fmt: skip
    assert [group.kind for group in free(proto)] == ["neurons"]


def test_lanes_are_the_channels_of_a_unit():
    proto = model("a = Conv(x, w1)", "b = Conv<group = 4>(a, w2)", "y = Conv(b, w3)",
                  w1=(8, 3, 1, 1), w2=(8, 2, 1, 1), w3=(5, 8, 1, 1))  # fmt: skip
    lanes = {(group.units, group.lanes, group.inner) for group in free(proto)}
    assert lanes == {(4, 2, False), (2, 4, True)}


def test_lanes_are_what_all_channels_have_in_common():
    """A depthwise convolution that doubles the channels: its units are one channel before it and two after it."""
    proto = model("a = Conv(x, w1)", "b = Conv<group = 8>(a, w2)", "y = Conv(b, w3)",
                  w1=(8, 3, 1, 1), w2=(16, 1, 1, 1), w3=(5, 16, 1, 1))  # fmt: skip
    assert (8, 1) in {(group.units, group.lanes) for group in free(proto)}


def test_no_convolution_no_lanes():
    assert {group.lanes for group in grouped(dense("b = Relu(a)"))} == {0}


# -- members and roles ---------------------------------------------------------------------------------------------


def test_roles_around_a_convolution():
    norm = "b = BatchNormalization(a, s, t, m, v)"
    (found,) = free(conv(norm, s=(8,), t=(8,), m=(8,), v=np.ones(8, np.float32)))
    assert roles(found) == [
        ("w1", 0, "out"),
        ("b1", 0, "vector"),
        ("s", 0, "scale"),
        ("t", 0, "vector"),
        ("m", 0, "vector"),
        ("v", 0, "vector"),
        ("w2", 1, "in"),
    ]
    assert found.nodes == ("a", "b", "y")


def test_roles_are_told_through_ops_between_a_weight_and_its_use():
    proto = model(
        "t1 = Transpose<perm = [1,0]>(w1)", "a = MatMul(x, t1)", "b = Relu(a)",
        "h2 = Cast<to = 1>(w2)", "t2 = Transpose<perm = [1,0]>(h2)", "y = MatMul(b, t2)",
        x=ROWS, w1=(8, 6), w2=np.ones((5, 8), np.float16),
    )  # fmt: skip
    (found,) = free(proto)
    assert roles(found) == [("w1", 0, "out"), ("w2", 1, "in")]


def test_a_group_carries_biases_and_gates():
    (found,) = free(dense("b = Mul(a, g)", g=(8,)))
    assert roles(found) == [("w1", 1, "out"), ("b1", 0, "vector"), ("g", 0, "vector"), ("w2", 0, "in")]


def test_a_shared_weight_is_counted_once():
    (found,) = free(dense("c = Add(a, b1)", "b = Relu(c)"))
    assert found.params == 6 * 8 + 8 + 8 * 5


def test_axes_inside_one_weight_are_no_groups():
    proto = model("k = MatMul(u, v)", "y = MatMul(x, k)", x=ROWS, u=(6, 7), v=(7, 5))
    assert not [group for group in grouped(proto) if group.units == 7]


def test_indices_are_no_members():
    proto = model("e = Gather(table, x)", "y = MatMul(e, w)", x="int64[n,s] x", table=(30, 16), w=(16, 5))
    assert {member.constant for group in grouped(proto) for member in group.members} == {"table", "w"}


def test_a_matrix_of_a_composed_axis_collects_all_that_belongs_to_a_unit():
    traced = trace(view(model(
        "a = MatMul(x, w)", "r = Reshape(a, to)", "t = ReduceSum(r, one)", "y = MatMul(t, u)",
        x=ROWS, w=np.arange(72, dtype=np.float32).reshape(6, 12), to=[-1, 3, 4], one=[1], u=(1, 4, 5),
    )))  # fmt: skip
    (found,) = [g for g in groups(traced) if g.units == 4 and g.locked is None]
    array = traced.model.array("w")
    (matrix,) = [m.matrix(array) for m in found.members if m.constant == "w"]
    assert sorted(matrix[1]) == sorted(array[:, [1, 5, 9]].ravel())


def test_half_weights_are_widened():
    proto = conv("b = Relu(a)", x="float16[n,3,6,6] x", y="float16[] y", dtype="float16")
    traced = trace(view(proto))
    (found,) = [group for group in groups(traced) if group.locked is None]
    assert {matrix.dtype.name for _, matrix in matrices(found, traced)} == {"float32"}


def test_locks_tell_reason_and_place():
    (found,) = [group for group in grouped(dense("b = Relu(a)")) if group.units == 5]
    assert found.locked == "it is part of the graph output 'y'"
    assert not found.prunable


def test_weights_leave_out_what_is_not_used():
    proto = dense("b = Relu(a)")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "spare"))
    assert set(weights(trace(view(proto)))) == {"w1", "b1", "w2"}


def test_tied_embeddings_are_one_group():
    proto = model(
        "e = Gather(table, x)", "h = MatMul(e, w)", "t = Transpose<perm = [1,0]>(table)", "y = MatMul(h, t)",
        x="int64[n,s] x", table=(30, 16), w=(16, 16),
    )  # fmt: skip
    assert isinstance(proto, onnx.ModelProto)
    assert [(group.units, group.kind) for group in free(proto)] == [(16, "neurons"), (16, "neurons")]


def test_tokens_have_neurons_too():
    assert [g.kind for g in free(dense("b = Relu(a)", x=TOKENS, w1=(16, 8)))] == ["neurons"]


def test_groups_and_their_nodes_are_in_graph_order():
    """Also where a weight is transposed, or cast, long before it is used."""
    proto = model(
        "t = Transpose<perm=[1, 0]>(w3)", "a = MatMul(x, w1)", "b = MatMul(a, w2)", "y = MatMul(b, t)",
        x=ROWS, w1=(6, 8), w2=(8, 7), w3=(5, 7),
    )  # fmt: skip
    found = onnxprune.inspect(proto).groups
    assert [(group.name, group.nodes) for group in found] == [
        ("w1:in", ("a",)), ("w1", ("a", "b")), ("w2", ("b", "y")), ("w3", ("y",))
    ]  # fmt: skip
