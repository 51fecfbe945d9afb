"""Sizes of inputs that belong together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.data.samples import with_shapes
from onnxprune.graph.dims import FIRST, SECOND
from onnxprune.graph.ports import Port, with_batches
from onnxprune.graph.shapes.demands import Demand, is_known
from onnxprune.graph.shapes.fit import Conflict, fit, fit_inputs
from onnxprune.graph.shapes.probe import probe, settled, with_sizes
from onnxprune.graph.view import view
from tests.support.build import dense, model

LENGTHS = {"last": np.array([0], np.int32), "total": np.array(9, np.int32)}
GRU = {"w": (1, 12, 6), "r": (1, 12, 4)}
CELL = ("e = GRU<hidden_size = 4>(x, w, r, , , h)", "y = Neg(e)")


def fitted(*nodes, at=FIRST, **rest):
    loaded = view(model(*nodes, infer=False, **rest))
    return fit(loaded, at.of(loaded.inputs))


def shapes(*nodes, **rest):
    return {port.name: port.shape for port in settled(view(model(*nodes, infer=False, **rest))).inputs}


# -- what belongs together -------------------------------------------------------------------------------------


def test_sizes_that_fit_stay():
    loaded = view(model("y = Add(x, z)", x="float[n,s] x, float[n,s] z"))
    dims = FIRST.of(loaded.inputs)
    assert fit(loaded, dims).dims == dims


def test_a_state_is_as_large_as_what_it_is_added_to():
    halved = "a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w)"
    for at in (FIRST, SECOND):
        found = fitted(halved, "y = Add(a, r)", x="float[n,3,h,w] x, float[n,rc,rh,rw] r", w=(8, 3, 3, 3), at=at)
        assert found.conflict is None
        dims = found.dims
        assert (dims["rc"], dims["rh"], dims["rw"]) == (8, dims["h"] // 2, dims["w"] // 2)


def test_a_state_that_is_expanded_is_as_large_as_what_it_is_expanded_to():
    nodes = "a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w)", "s = Shape(a)", "e = Expand(r, s)"
    found = fitted(*nodes, "y = Concat<axis = 1>(a, e)", x="float[n,3,h,w] x, float[m,c,p,q] r", w=(8, 3, 3, 3))
    assert found.conflict is None
    assert found.dims == {"n": 11, "h": 224, "w": 256, "m": 11, "c": 8, "p": 112, "q": 128}


def test_two_dims_of_a_fixed_ratio_neither_of_which_is_seen_as_it_is():
    quartered = "a = Conv<strides = [4, 4]>(x, v)", "b = Conv<strides = [2, 2]>(z, w)"
    weights = {"v": (8, 3, 4, 4), "w": (8, 3, 2, 2)}
    found = fitted(*quartered, "y = Add(a, b)", x="float[n,3,h,w] x, float[n,3,p,q] z", **weights)
    assert found.conflict is None
    assert (found.dims["h"], found.dims["w"]) == (2 * found.dims["p"], 2 * found.dims["q"])


def test_sizes_that_are_joined_give_what_a_weight_takes():
    found = fitted("a = Concat<axis = 1>(x, z)", "y = MatMul(a, w)", x="float[n,6] x, float[n,k] z", w=(16, 3))
    assert found.conflict is None
    assert found.dims["k"] == 10


def test_a_length_that_halves_and_doubles_is_a_multiple():
    nodes = (
        "a = Conv<strides = [2], pads = [0, 0], kernel_shape = [2]>(x, v)",
        "b = Conv<strides = [2], pads = [0, 0], kernel_shape = [2]>(a, v)",
        "c = ConvTranspose<strides = [2], kernel_shape = [2]>(b, v)",
        "d = ConvTranspose<strides = [2], kernel_shape = [2]>(c, v)",
        "y = Add(d, x)",
    )
    found = fitted(*nodes, x="float[n,4,t] x", v=(4, 4, 2))
    assert found.conflict is None
    assert found.dims["t"] % 4 == 0


@pytest.mark.parametrize(
    ("nodes", "x", "weights", "expected"),
    [
        (CELL, "float[s,n,6] x, float[1,1,4] h", GRU, (1, 1, 4)),
        (CELL, "float[s,n,6] x, float[1,5,4] h", GRU, (1, 5, 4)),
        (CELL, "float[s,n,6] x, float[1,m,k] h", GRU, (1, "n", 4)),
        (
            ("e, f, g = LSTM<hidden_size = 4>(x, w, r, , , h, c)", "y = Add(f, g)"),
            "float[s,n,6] x, float[1,m,4] h, float[1,o,4] c",
            {"w": (1, 16, 6), "r": (1, 16, 4)},
            (1, "n", 4),
        ),
        (
            ("k = Concat<axis = 2>(past, x)", "t = Transpose<perm = [0, 1, 3, 2]>(k)", "y = MatMul(x, t)"),
            "float[n,2,s,8] x, float[m,2,past,d] past",
            {},
            ("n", 2, "past", 8),
        ),
        (
            (
                "o, k, v = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 2>"
                "(x, , , past, values, last, total)",
                "y = Neg(o)",
            ),
            "float[n,s,128] x, float[n,2,p,d] past, float[n,2,p,d] values",
            LENGTHS,
            ("n", 2, "p", 16),
        ),
        (
            (
                "o, k, v = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 2, local_window_size = 6, "
                "sliding_window_cache = 1>(x, , , past, values, last, total)",
                "y = Neg(o)",
            ),
            "float[n,s,128] x, float[n,2,p,d] past, float[n,2,p,d] values",
            LENGTHS,
            ("n", 2, 6, 16),
        ),
        (
            (
                "o, k, v = com.microsoft.MultiHeadAttention<num_heads = 4>(x, x, x, , , , past, values)",
                "y = Neg(o)",
            ),
            "float[n,s,32] x, float[m,h,p,d] past, float[m,h,q,d] values",
            {},
            ("n", 4, "p", 8),
        ),
        (("a = Mul(x, mask)", "y = Neg(a)"), "float[n,s,6] x, float[m,t,1] mask", {}, ("n", "t", 1)),
    ],
    ids=["state of one", "state of five", "state", "two states", "cache", "grouped", "window", "heads", "mask"],
)  # fmt: skip
def test_states_caches_and_masks_follow_what_they_belong_to(nodes, x, weights, expected):
    first, *_ = (
        model_of := settled(view(model(*nodes, x=x, imports='"com.microsoft" : 1', infer=False, **weights)))
    ).inputs
    second = model_of.inputs[1]
    wanted = tuple("n" if dim == "n" else dim for dim in expected)
    assert probe(model_of).conflict is None
    assert len(second.shape) == len(wanted)
    for dim, want in zip(second.shape, wanted, strict=True):
        if isinstance(want, int):
            assert dim == want
        else:
            assert isinstance(dim, str)
    assert first.shape[0] in ("n", "s")


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5))
def test_any_stride_and_channels_are_found(stride, pad, channels):
    conv = f"a = Conv<strides = [{stride}, {stride}], pads = [{pad}, {pad}, {pad}, {pad}]>(x, w)"
    found = fitted(
        conv, "y = Add(a, r)", x="float[n,3,h,w] x, float[m,rc,rh,rw] r", w=(channels, 3, 3, 3)
    )  # fmt: skip
    assert found.conflict is None
    size = (found.dims["h"] + 2 * pad - 3) // stride + 1
    assert found.dims["rh"] in (size, 1)
    assert found.dims["m"] in (found.dims["n"], 1)


def test_sizes_that_are_held_stay():
    loaded = view(model("y = Add(x, z)", x="float[n,s] x, float[n,t] z"))
    ports = with_shapes(loaded.inputs, {"z": (4, 9)})
    assert fit_inputs(loaded, ports, FIRST.of(loaded.inputs)).dims == {"n": 4, "s": 9, "t": 9}


def test_sizes_in_a_body_are_found_too():
    then = "then_branch = t () => (a) { a = Add(x, z) }"
    other = "else_branch = e () => (b) { b = Sub(x, z) }"
    found = fitted(f"y = If<{then}, {other}>(c)", x="float[n,s] x, float[n,t] z, bool c")
    assert found.conflict is None
    assert found.dims["s"] == found.dims["t"]


# -- contradictions --------------------------------------------------------------------------------------------


def test_a_contradiction_names_both_inputs_and_what_to_do():
    loaded = view(model("y = Add(x, z)", x="float[n,7] x, float[n,9] z", infer=False))
    expected = (
        "inputs 'x' [11, 7] and 'z' [11, 9] do not fit together at Add 'y', where 7 meets 9; give sizes that do "
        "with --input x=SHAPE --input z=SHAPE"
    )
    assert probe(loaded).conflict == expected


def test_a_contradiction_of_one_input_names_it():
    loaded = view(model("a = Reshape(x, to)", "y = Neg(a)", x="float[n,7] x", to=[5, 4, 3, 2], infer=False))
    said = probe(loaded).conflict
    assert said.startswith("[")
    assert said.endswith("for input 'x' do not fit at Reshape 'a'; give sizes that do with --input x=SHAPE")


@pytest.mark.parametrize(
    ("node", "known"),
    [
        ("y = Concat<axis = 1>(x, z)", True),
        ("y = MatMul(x, z)", True),
        ("y = Where(z, x, x)", True),
        ("y = GatherElements(x, z)", False),
        ("y = Split<axis = 1>(x, z)", False),
    ],
)
def test_of_which_operators_the_demands_are_known(node, known):
    """Of others it is a guess that dims in the same places are equal, good enough to search by."""
    assert is_known(view(model(node, x="float[5,7] x, int64[5,9] z", infer=False)).nodes[0]) == known


def test_a_guess_is_not_said_as_a_fact():
    loaded = view(model("y = MatMulInteger(x, z)", x="uint8[n,7] x, uint8[9,4] z", y="int32[n,4] y", infer=False))
    expected = (
        "inputs 'x' [9, 7] and 'z' [9, 4] do not fit together at MatMulInteger 'y'; give sizes that do with "
        "--input x=SHAPE --input z=SHAPE"
    )
    assert probe(loaded).conflict == expected


def test_a_reshape_of_nothing_with_an_open_dim_is_no_fault_of_ours():
    nodes = ("a = Reshape(z, to)", "s = ReduceSum<keepdims = 0>(a)", "y = Add(x, s)")
    loaded = view(model(*nodes, x="float[n,6] x, float[n,0,4] z", to=[0, 0, -1], infer=False))
    found = probe(loaded)
    assert found.first.misfits == 1
    assert found.conflict.endswith("do not fit at Reshape 'a'; give sizes that do with --input z=SHAPE")


def test_whatever_a_demand_divides_by_is_unknown():
    def read(_, __):
        return 1 // 0, 1

    assert Demand((0, 1), read).sizes((), ()) is None


SWITCH = ("s = Shape(x)", "d = Gather(s, two)", "c = Equal(d, one)")
BRANCHES = "then_branch = t () => (a) { a = Squeeze(x, at) }, else_branch = e () => (b) { b = Identity(x) }"


def test_a_branch_that_is_not_taken_does_not_stand_in_the_way():
    rest = {"x": "float[s,n,6] x, float[1,1,4] h", "one": [1], "two": [2], "at": [2], **GRU}
    nodes = (*SWITCH, f"q = If<{BRANCHES}>(c)", "e = GRU<hidden_size = 4>(q, w, r, , , h)", "y = Neg(e)")
    loaded = view(model(*nodes, infer=False, **rest))
    assert probe(loaded).conflict is None
    assert settled(loaded).inputs[0].shape == ("s", 1, 6)


def test_a_body_that_is_walked_again_counts_once():
    loaded = view(model("o = Loop<body = t (int64 i, bool g, float[k,4] s) => (g2, s2) { g2 = Identity(g) "
                        "m = MatMul(s, w) s2 = Concat<axis = 0>(s, s) }>(count, , x)", "y = Neg(o)",
                        x="float[n,4] x", w=(5, 4), count=np.int64(2), infer=False))  # fmt: skip
    assert probe(loaded).first.misfits == 1


def test_a_sequence_that_cannot_be_made_is_named():
    nodes = ("q = SplitToSequence<axis = 1>(x, one)", "y = SequenceAt(q, zero)")
    loaded = view(model(*nodes, x="float[n,100000] x", one=np.int64(1), zero=np.int64(0), infer=False))
    found = probe(loaded)
    assert found.first.misfits == 1
    assert found.conflict.endswith(
        "[11, 100000] for input 'x' do not fit at SplitToSequence 'q'; give sizes that do with --input x=SHAPE"
    )


def test_stated_sizes_are_taken_where_none_are_found():
    nodes = ("a = Reshape(x, to)", "y = MatMul(a, w)")
    loaded = view(model(*nodes, x="float[n,t,u] x", to=[-1, 6 * 35], w=(210, 3), infer=False))
    stated = with_sizes(loaded, with_shapes(loaded.inputs, {"x": (2, 14, 15)}))
    assert stated.sizes == {"n": 2, "t": 14, "u": 15}
    assert probe(stated).conflict is None
    assert probe(stated).shape("a") is not None


# -- samples ---------------------------------------------------------------------------------------------------


def test_a_batch_that_a_reshape_fixes_is_one():
    assert shapes("f = Reshape(x, to)", "y = MatMul(f, w)", x="float[n,6] x", to=[1, 6], w=(6, 5)) == {"x": (1, 6)}


def test_an_open_batch_stays_open():
    assert shapes("y = Neg(x)", x="float[n,6] x") == {"x": ("n", 6)}


def test_a_state_counts_samples_along_its_second_axis():
    weights = {"w": (2, 12, 6), "r": (2, 12, 4)}
    nodes = 'e = GRU<hidden_size = 4, direction = "bidirectional">(t, w, r, , , h)', "y = Neg(e)"
    turned = "t = Transpose<perm = [1, 0, 2]>(x)"
    x, h = settled(view(model(turned, *nodes, x="float[n,s,6] x, float[2,m,4] h", infer=False, **weights))).inputs
    assert (x.batch, h.batch) == (0, 1)
    assert h.shape == (2, "n", 4)
    x, h = settled(view(model(turned, *nodes, x="float[1,s,6] x, float[2,1,4] h", infer=False, **weights))).inputs
    assert (x.batch, h.batch) == (0, 1)


def test_what_is_fixed_beside_an_open_batch_is_shared():
    x, table = settled(view(model("y = MatMul(x, t)", x="float[n,6] x, float[6,3] t", infer=False))).inputs
    assert (x.batch, table.batch) == (0, None)


def test_what_is_fixed_counts_as_the_batch_where_nothing_tells_otherwise():
    x, table = Port("x", np.dtype("f4"), ("n", 3)), Port("t", np.dtype("f4"), (6, 3))
    assert [port.batch for port in with_batches([x, table])] == [0, 0]


def test_sizes_of_inputs_that_have_no_type_are_not_known():
    node = view(dense("b = Relu(a)")).nodes[0]
    said = Conflict(node, None, (("x",), ("x",))).sentence({})
    assert said.startswith("of unknown type or shape for input 'x' do not fit at MatMul 'a0'; give sizes that do with")
