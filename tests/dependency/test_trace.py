"""The driver: what gives axes, what is locked with which words, and sizes used as data."""

from __future__ import annotations

import onnx
import pytest

from onnxprune.dependency import rules
from onnxprune.dependency.axes import Atom, walk
from onnxprune.dependency.groups import groups
from onnxprune.dependency.rules import Entry
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from tests.support.build import ROWS, conv, dense, model
from tests.support.oracle import check


def traced(proto):
    return trace(view(proto))


def shown(found, name):
    return [found.partition.show(axis) for axis in found.values[name]]


def locks(found, name):
    """Return the reason and node of each axis of a value, None for those that are free."""
    axes = [found.partition.atoms(axis) for axis in found.values[name]]
    told = [found.partition.lock_of(atoms[0]) if atoms else None for atoms in axes]
    return [lock and (lock.reason, lock.node) for lock in told]


# -- where axes come from ------------------------------------------------------------------------------------------


def test_inputs_are_locked_and_share_named_dims():
    found = traced(model("y = Add(x, z)", x="float[n,6] x, float[n,6] z"))
    assert found.values["x"][0] is found.values["z"][0]
    assert locks(found, "x") == [
        ("it is part of the graph input 'x'", "x"),
        ("it is part of the graph input 'z'", "z"),  # the atom of z stands for both
    ]


def test_outputs_are_locked():
    found = traced(dense("b = Relu(a)"))
    assert locks(found, "y")[1] == ("it is part of the graph output 'y'", "y")


def test_each_use_of_a_constant_has_axes_of_its_own():
    found = traced(dense("c = Add(a, b1)", "b = Relu(c)"))
    uses = [use for use in found.uses if use.constant == "b1"]
    assert [found.model.nodes[use.node].name for use in uses] == ["a", "c"]
    assert uses[0].axes[0] is not uses[1].axes[0]


def test_nodes_that_compute_sizes_alone_are_not_traced():
    found = traced(
        model("s = Shape(x)", "a = Reshape(x, s)", "y = MatMul(a, w)", x=ROWS, w=(6, 5)),
    )
    assert sorted(found.couplings) == [1, 2]
    assert "s" not in found.values


def test_axes_are_given_in_normal_form():
    found = traced(dense("c = Reshape(a, to)", "b = Reshape(c, back)", to=[-1, 2, 4], back=[-1, 8]))
    assert shown(found, "b")[1] == "(x:2 x:4)"
    assert found.axes(found.values["b"])[1] == found.axes(found.values["a"])[1]


def test_inputs_of_unknown_rank_have_no_axes():
    proto = dense("b = Relu(a)", infer=False)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    found = traced(proto)
    assert "x" not in found.values
    assert [group.locked for group in groups(found)] == ["the shape of 'x' is unknown (at a0)"] * 2 or groups(
        found
    ) == ()


# -- refusals ------------------------------------------------------------------------------------------------------


def reasons(proto, name="a"):
    """Return why the channels of a value are locked."""
    found = traced(proto)
    return {lock for lock in locks(found, name)[1:2] if lock}


def test_an_op_that_is_locked_on_purpose():
    assert reasons(conv("b = Unique<axis=1>(a)", infer=False)) == {("Unique finds values that are alike", "b")}


def test_an_op_of_another_domain():
    assert reasons(conv("b = my.Odd(a)", imports='"my" : 1', infer=False)) == {("my.Odd has no rule", "b")}


def test_an_unknown_op_with_a_body():
    proto = dense(
        "b = my.If(c) <then_branch = t () => (float[n,8] p) { p = Relu(a) }, "
        "else_branch = e () => (float[n,8] q) { q = Neg(a) }>",
        x=ROWS + ", bool c",
        imports='"my" : 1',
        infer=False,
    )
    assert reasons(proto) == {("my.If reads it inside a branch or loop", "b")}


def test_a_constant_that_an_unknown_body_captures_keeps_its_axes():
    proto = dense(
        "k = my.If(c) <then_branch = t () => (float[8] p) { p = Relu(b1) }, "
        "else_branch = e () => (float[8] q) { q = Neg(b1) }>",
        "b = Add(a, k)",
        x=ROWS + ", bool c",
        imports='"my" : 1',
        stated="float[8] k",
    )
    assert all(group.locked for group in groups(traced(proto)))


def test_values_that_steer_are_locked():
    proto = dense("t, i = TopK(a, k)", "b = Relu(t)", k=[8])
    assert reasons(proto) == {("TopK returns its indices", "t")}


def test_a_rule_that_gives_other_shapes_is_refused(monkeypatch):
    def drops_an_axis(x):
        x.output(x.axes(0)[1:])

    monkeypatch.setitem(rules.RULES, "Relu", Entry("Relu", drops_an_axis, "function", "wrong"))
    found = traced(dense("b = Relu(a)"))
    n = found.probe.shape("b")[0]
    assert locks(found, "a")[1] == (f"its rule gives (8,) for 'b' of shape ({n}, 8)", "b")
    assert not found.couplings[2].macs
    assert found.couplings[2].outputs[0] is not None


def test_a_rule_that_gives_nothing_is_refused(monkeypatch):
    monkeypatch.setitem(rules.RULES, "Relu", Entry("Relu", lambda _: None, "function", "wrong"))
    found = traced(dense("b = Relu(a)"))
    assert "its rule gives None for 'b'" in locks(found, "a")[1][0]


def test_a_refusal_forgets_what_the_rule_had_recorded(monkeypatch):
    def half(x):
        x.contract(0, 1)
        x.macs(*x.axes(0))
        x.write("axis", x.axes(0)[1])
        x.output(x.axes(0)[:1])

    monkeypatch.setitem(rules.RULES, "Relu", Entry("Relu", half, "function", "wrong"))
    coupling = traced(dense("b = Relu(a)")).couplings[2]
    assert (coupling.contracted, coupling.macs, coupling.writes) == ([], [], [])


def test_inputs_that_a_rule_did_not_read_are_locked(monkeypatch):
    def first_alone(x):
        x.output(x.axes(0))

    monkeypatch.setitem(rules.RULES, "Sub", Entry("Sub", first_alone, "function", "wrong"))
    found = traced(dense("c = Mul(a, s)", "b = Sub(a, c)", s=(8,)))
    assert locks(found, "c")[1] == ("its values steer Sub", "b")


def test_unknown_shapes_downstream_do_not_fail():
    nodes = ("i = my.Odd(x)", "t = Transpose(i)", "y = GatherND(x, t)")
    found = traced(model(*nodes, x=ROWS, imports='"my" : 1', infer=False))
    assert set(found.values) == {"x"}
    assert found.couplings[2].outputs == [None]


@pytest.mark.parametrize(
    "node",
    [
        "b = Transpose<perm = [0, 2]>(a)",
        "b = Transpose<perm = [0]>(a)",
        "b = Softmax<axis = 4>(a)",
        "b = ReduceSum(a, nine)",
        "b = ArgMax<axis = 4>(a)",
        "b, i = TopK<axis = 4>(a, nine)",
        "b = LayerNormalization<axis = 4>(a, g)",
        "b = Concat<axis = 4>(a, a)",
        "b = Gather<axis = 4>(a, nine)",
        "p, b = Split<axis = 4>(a)",
        "b = Slice(a, zero, nine, nine)",
        "b = Slice(a, zero, nine, zero, zero)",
        "b = Slice(a, pair, nine)",
        "b = Slice(a, zero, pair)",
        "b = Squeeze(a, nine)",
        "b = Unsqueeze(a, nine)",
        "b = Pad(a, pair)",
        "b = Pad(a, pair, , nine)",
        "b = Resize(a, , g)",
        "b = Tile(a, nine)",
        "b = Flatten<axis = 9>(a)",
        "b = DepthToSpace<blocksize = 0>(u)",
        "b = DepthToSpace<blocksize = -2>(u)",
        "b = Conv<group = 0>(u, k)",
        'b = Einsum<equation = "abc->a">(a)',
        'b = Einsum<equation = "ab->c">(a)',
    ],
)
@pytest.mark.parametrize("shape", ["", "float[n,8] b", "float[n,8,1,1] b", "float[n,3] b"])
def test_a_broken_node_locks_and_does_not_raise(node, shape):
    proto = dense(
        "u = Unsqueeze(a, dims)", node, nine=[9], zero=[0], pair=[0, 0], g=(8,), k=(8, 8, 1, 1), dims=[2, 3],
        stated=shape, infer=False,
    )  # fmt: skip
    found = groups(traced(proto))
    assert [group.locked is not None for group in found if group.units == 8]


@pytest.mark.parametrize("op", ["Softmax", "ArgMax", "LogSoftmax", "ReduceSum", "CumSum"])
def test_an_op_on_a_scalar_does_not_raise(op):
    more = ", zero" if op == "CumSum" else ""
    traced(dense(f"s = {op}(k{more})", "b = Relu(a)", x=f"{ROWS}, float k", zero=0, infer=False))


# -- sizes used as data --------------------------------------------------------------------------------------------


def scaled(*size):
    """MatMul -> a value times a number that follows from its own sizes -> MatMul."""
    return dense("s = Shape(a)", *size, "f = Cast<to = 1>(z)", "b = Mul(a, f)", zero=[0], one=[1], two=[2], twelve=[12])


def cut_units(checked):
    return [checked.group(name).units for name in checked.cut]


def test_a_static_size_is_kept_as_a_number():
    proto = scaled("z = Gather(s, one)")
    checked = check(proto)
    assert cut_units(checked) == [8]
    assert view(checked.pruned).array("f_kept").tolist() == [8.0]


@pytest.mark.parametrize(
    "size",
    [
        ("z = ReduceProd<keepdims = 0>(s)",),
        ("p = Gather(s, zero)", "q = Gather(s, one)", "z = Mul(p, q)"),
        ("t = Identity(s)", "p = Gather(t, zero)", "q = Gather(t, one)", "z = Mul(p, q)"),
        ("p = Slice(s, zero, one)", "q = Slice(s, one, two)", "z = Mul(p, q)"),
        ("n = Size(a)", "z = Identity(n)"),
        ("n = Gather(s, zero)", "p = Div(n, twelve)", "z = Gather(s, p)"),
    ],
    ids=["product", "gathered", "through Identity", "sliced", "Size", "gathered somewhere"],
)
def test_a_size_beside_a_dynamic_one_locks(size):
    proto = scaled(*size)
    assert reasons(proto) == {("its size is used as data together with a dynamic size", "b")}
    assert check(proto).cut == ()


def test_a_dynamic_size_alone_locks_nothing_else():
    assert cut_units(check(scaled("z = Gather(s, zero)"))) == [8]


def test_a_slice_of_a_shape_picks_its_axes_alone():
    assert cut_units(check(scaled("z = Slice(s, zero, one)"))) == [8]


@pytest.mark.parametrize(
    ("size", "units"),
    [
        ("z = Slice(s, one, two, zero)", [8]),
        ("z = Slice(s, zero, one, zero, one)", []),  # with steps any of them could be meant
        ("z = Slice(s, last, before, , last)", [8]),
        ("z = Slice(s, last, far, , last)", []),  # both sizes, backwards
    ],
    ids=["axes", "steps", "last", "all backwards"],
)
def test_a_slice_of_a_shape_in_other_words(size, units):
    proto = dense(
        "s = Shape(a)", size, "f = Cast<to = 1>(z)", "p = ReduceProd<keepdims = 0>(f)", "b = Mul(a, p)",
        zero=[0], one=[1], two=[2], last=[-1], before=[-2], far=[-9],
    )  # fmt: skip
    assert cut_units(check(proto)) == units


def test_the_start_of_shape_counts():
    proto = dense("z = Shape<end = 1>(a)", "f = Cast<to = 1>(z)", "b = Mul(a, f)")
    assert cut_units(check(proto)) == [8]


def test_deep_size_arithmetic_does_not_recurse():
    steps = ["s0 = Size(a)", *(f"s{i} = Add(s{i - 1}, one)" for i in range(1, 1500))]
    proto = dense(*steps, "f = Cast<to = 1>(s1499)", "b = Mul(a, f)", one=1, infer=False)
    assert all(group.locked for group in groups(traced(proto)))


# -- whole models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "mobilenet", "resnet_bn", "resnet_folded", "vit"])
def test_every_tensor_of_a_model_has_axes_of_its_shape(name):
    found = trace(load(f"models/{name}.onnx"))
    for value, axes in found.values.items():
        assert tuple(axis.size for axis in axes) == found.probe.shape(value)
    for use in found.uses:
        assert all(isinstance(atom, Atom) for axis in found.axes(use.axes) for atom in walk(axis))


def test_a_model_is_not_changed_by_its_trace():
    proto = onnx.load("models/vit.onnx")
    before = proto.SerializeToString(deterministic=True)
    groups(trace(view(proto)))
    assert proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("count", [2**63 - 1, 2**40, 5, -1])
def test_a_scan_over_more_inputs_than_there_are_locks(count):
    """And takes no memory for them."""
    body = "body = step (float s, float[n] e) => (float[n] r, float[n] o) { r = Add(s, e)  o = Identity(r) }"
    proto = dense(
        f"total, b = Scan<num_scan_inputs = {count}, {body}>(zero, a)",
        zero=(1,), infer=False,
    )  # fmt: skip
    assert [group.locked is not None for group in groups(traced(proto)) if group.units == 8]
