"""Shapes and size values under several settings of the dynamic dims."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxprune.errors import ModelError
from onnxprune.graph.dims import ATTEMPTS, Choice, dynamic_dims
from onnxprune.graph.files.read import load
from onnxprune.graph.ports import Port
from onnxprune.graph.shapes.probe import probe
from onnxprune.graph.shapes.walk import VALUE_LIMIT
from onnxprune.graph.view import view
from tests.support.build import ROWS, TOKENS, model


def probed(*nodes, **rest):
    return probe(load(model(*nodes, **rest)))


# -- dims ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (("batch", 3, None), [(0, "batch"), (2, "x.2")]),
        ((2, 3), []),
        (None, []),
        (("", 3), [(0, "x.0")]),
    ],
    ids=str,
)
def test_dynamic_dims(shape, expected):
    assert list(dynamic_dims(Port("x", None, shape))) == expected


def test_dims_of_one_name_have_one_size():
    found = probed("y = Add(x, z)", x="float[n,s] x, float[n,s] z")
    assert found.shape("x") == found.shape("z") == found.shape("y")


def test_the_settings_differ_in_every_dynamic_dim_and_in_no_other():
    found = probed("y = Relu(x)", x=TOKENS)
    assert [found.is_static("y", dim) for dim in range(3)] == [False, False, True]
    assert found.shape("y")[2] == 16
    assert len(set(found.shape("y"))) == 3


def test_sides_of_images_are_sizes_that_networks_divide():
    found = probed("y = MaxPool<kernel_shape = [32, 32], strides = [32, 32]>(x)", x="float[n,3,h,w] x")
    assert [setting.shapes["x"][2:] for setting in found.settings] == [(224, 256), (352, 320), (192, 160)]
    assert found.shape("y")[2:] == (7, 8)
    assert all(side % 16 == 0 for attempt in ATTEMPTS for choice in attempt for side in choice.sides)


def test_every_dim_differs_from_every_other_and_from_itself():
    found = probed("y = Concat<axis = 1>(x, x)", x="float[n,3,h,w] x, float[m,s,t] z")
    dims = [setting.dims for setting in found.settings]
    assert [list(one) for one in dims] == [["n", "h", "w", "m", "s", "t"]] * 4
    assert [len(set(one.values())) for one in dims[:2]] == [6, 6]  # in the third, which is small, some are alike
    for key in dims[0]:
        assert len({one[key] for one in dims}) == 4


def test_choices_are_taken_in_turn():
    ports = [Port("x", None, ("n", 3, "h", "w")), Port("y", None, ("m", "s", "h")), Port("z", None, ("k", None))]
    choice = Choice((2, 5), (8, 9), (64, 96))
    assert choice.of(ports) == {"n": 2, "h": 64, "w": 96, "m": 5, "s": 8, "k": 2, "z.1": 9}
    assert choice.alike().of(ports) == {"n": 2, "h": 64, "w": 64, "m": 2, "s": 8, "k": 2, "z.1": 8}
    assert choice.of([Port("s", None, ()), Port("u", None, None)]) == {}


def test_a_clamped_dim_is_not_static():
    found = probed("c = Slice(x, zero, five, one)", "y = Relu(c)", x="float[n,s,6] x", zero=[0], five=[5], one=[1])
    assert [found.is_static("y", dim) for dim in range(3)] == [False, False, True]
    assert [sizes[1] for sizes in (setting.shapes["y"] for setting in found.settings)] == [5, 5, 2, 5]
    assert found.sizes("y")[1:] == [(5, 5, 2, 5), (6, 6, 6, 6)]


def test_a_graph_that_takes_no_short_length_is_probed_without_one():
    found = probed(
        "c = Slice(x, zero, five, one)", "y = Reshape(c, to)", x="float[n,s,6] x", y="float[n,30] y", zero=[0],
        five=[5], one=[1], to=[0, 30],
    )  # fmt: skip
    assert [setting.dims["s"] for setting in found.settings] == [17, 19, 1031]
    assert found.first.misfits == 0
    assert found.is_static("y", 1)


def test_dims_of_two_names_that_must_be_equal_are():
    found = probe(view(model("y = Add(x, z)", x="float[n,s,6] x, float[m,t,6] z", infer=False)))
    assert [setting.misfits for setting in found.settings] == [0, 0, 0]
    for setting in found.settings:
        assert setting.dims["n"] == setting.dims["m"] != setting.dims["s"] == setting.dims["t"]


def test_a_batch_of_groups_of_eight():
    found = probed("y = Reshape(x, to)", x="float[n,16] x", to=[-1, 8, 16])
    assert [setting.misfits for setting in found.settings] == [0, 0]
    assert all(setting.dims["n"] % 24 == 0 for setting in found.settings)
    assert [found.is_static("y", dim) for dim in range(3)] == [False, True, True]


def test_a_size_that_depends_on_data_is_assumed_and_never_static():
    found = probed("i = NonZero(x)", "y = Cast<to = 1>(i)", x="float[2,3,6,6] x", y="float[] y")
    assert found.sizes("y") == [(4, 4, 4), (59, 61, 6)]
    assert [found.is_static("y", dim) for dim in range(2)] == [True, False]
    assert found.value("y") is None


def test_an_image_whose_height_must_be_that_of_a_line_of_text():
    found = probed(
        "p = AveragePool<kernel_shape = [32, 4], strides = [32, 4]>(x)", "q = Squeeze(p, d)",
        "y = Transpose<perm = [0, 2, 1]>(q)", x="float[n,3,h,w] x", d=[2], infer=False,
        y="float[n,t,3] y"
    )  # fmt: skip
    assert [setting.dims["h"] for setting in found.settings] == [48, 32, 48]
    assert found.shape("y") == (11, 80, 3)
    assert not found.is_static("x", 2)


def test_a_value_of_unknown_shape_is_absent():
    found = probe(view(model("y = my.Odd(x)", x=ROWS, imports='"my" : 1', infer=False)))
    assert found.shape("y") is None
    assert found.sizes("y") is None
    assert found.sizes("x") == [(11, 13, 3), (6, 6, 6)]
    assert not found.is_static("y", 0)


def test_the_type_of_a_value():
    assert probed("y = Cast<to = 7>(x)", y="int64[] y", x=ROWS).dtype("y") == np.int64


def test_inputs_without_a_shape_are_left_out():
    proto = model("y = Relu(x)", x="float[n] x", infer=False)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert probe(view(proto)).shape("y") is None


# -- values ------------------------------------------------------------------------------------------------------


def test_sizes_are_computed():
    found = probed(
        "s = Shape(x)",
        "c = Gather(s, one)",
        "f = Cast<to = 1>(c)",
        "r = Sqrt(f)",
        "y = Div(x, r)",
        x="float[n,16] x",
        one=1,
    )
    assert found.static_value("r") == 4
    assert found.is_known("s")
    assert found.static_value("s") is None
    assert found.static_entries("s") == [None, 16]
    assert {"s", "c", "f", "r"} <= found.from_sizes
    assert "y" not in found.from_sizes


def test_a_size_is_the_number_of_elements():
    assert probed("y = Size(x)", x="float[2,3] x", y="int64 y").static_value("y") == 6


def test_the_start_and_end_of_shape_count():
    found = probed("y = Shape<start = 1, end = -1>(x)", x="float[n,3,4,5] x", y="int64[] y")
    assert found.static_entries("y") == [3, 4]


def test_sizes_of_constants_are_not_from_sizes():
    found = probed("s = Shape(w)", "y = Reshape(x, s)", x="float[6] x", w=(2, 3))
    assert found.static_entries("s") == [2, 3]
    assert "s" not in found.from_sizes


def test_unknown_values_have_no_entries():
    found = probed("y = Relu(x)", x=ROWS)
    assert found.static_entries("y") is None
    assert found.static_value("y") is None


def test_large_constants_are_not_read():
    found = probed("y = Add(x, w)", x="float[5000] x", w=(5000,), i=np.arange(5000))
    assert found.value("w") is None
    assert found.value("i") is None
    assert VALUE_LIMIT < 5000


def test_large_results_are_not_computed():
    found = probed("w = ConstantOfShape(s)", "y = Add(x, w)", x="float[100,100] x", s=[100, 100])
    assert found.shape("w") == (100, 100)
    assert found.value("w") is None


def test_random_values_are_not_known():
    found = probed("r = RandomNormal<shape = [6]>()", "y = Add(x, r)", x=ROWS)
    assert found.shape("r") == (6,)
    assert found.value("r") is None


def test_a_value_that_cannot_be_computed_is_not_known():
    found = probe(view(model("s = Shape(x)", "n = Gather(s, nine)", "y = Add(x, x)", x=ROWS, nine=[9], infer=False)))
    assert found.value("s") is not None
    assert found.value("n") is None


def test_a_value_whose_shape_depends_on_sizes_is_not_known():
    found = probed(
        "s = Shape(x)", "l = Gather(s, zero)", "y = Range(zero, l, one)", y="int64[] y", x=ROWS, zero=0, one=1
    )
    assert not found.is_known("y")
    assert not found.is_static("y", 0)


def test_a_shape_that_depends_on_sizes_is_static_where_they_are():
    found = probed(
        "s = Shape(x)", "b = Gather(s, zero)", "t = Concat<axis = 0>(b, rest)", "y = Reshape(x, t)",
        x="float[n,12] x", zero=[0], rest=[3, 4],
    )  # fmt: skip
    assert found.shape("y")[1:] == (3, 4)
    assert [found.is_static("y", dim) for dim in range(3)] == [False, True, True]


# -- ops that ONNX does not know -----------------------------------------------------------------------------------


def test_stated_shapes_serve_custom_ops():
    proto = model("a = my.Odd(x)", "y = Relu(a)", imports='"my" : 1', x=ROWS, infer=False)
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 4]))
    found = probe(view(proto))
    assert found.shape("a") == found.shape("y") == (found.first.dims["n"], 4)
    assert not found.is_static("a", 0)


def test_stated_values_keep_their_type():
    found = probed(
        "a = my.Size(x)", "b = Concat<axis = 0>(a, k)", "y = Reshape(x, b)", imports='"my": 1', x=ROWS, k=[6],
        stated="int64[1] a", y="float[n,6] y", infer=False
    )  # fmt: skip
    assert found.shape("b") == (2,)
    assert found.dtype("a") == np.int64


@pytest.mark.parametrize("dims", [["other", 4], [None, 4], None], ids=["another name", "no name", "no rank"])
def test_stated_shapes_with_unknown_dims_do_not(dims):
    proto = model("a = my.Odd(x)", "y = Relu(a)", imports='"my" : 1', x=ROWS, infer=False)
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, dims))
    assert probe(view(proto)).shape("a") is None


def test_what_onnx_infers_wins_over_what_is_stated():
    proto = model("a = Relu(x)", "y = Relu(a)", x=ROWS, infer=False)
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 99]))
    assert probe(view(proto)).shape("a")[1] == 6


def test_local_functions_are_seen_into():
    proto = model(
        "a = my.Twice(x)",
        "y = MatMul(a, w)",
        imports='"my" : 1',
        functions='<domain: "my", opset_import: ["" : 18]> Twice (p) => (q) { q = Concat<axis = 1>(p, p) }',
        x=ROWS,
        w=(12, 5),
        infer=False,
    )
    found = probe(view(proto))
    assert found.shape("a")[1] == 12
    assert [found.is_static("y", dim) for dim in range(2)] == [False, True]


def test_a_node_that_cannot_take_its_inputs_has_no_shape():
    assert probe(view(model("y = MatMul(x, w)", x=ROWS, w=(7, 5), infer=False))).shape("y") is None


def test_a_batch_that_a_reshape_fixes_is_one():
    found = probe(view(model("f = Reshape(x, to)", "y = Concat<axis = 1>(f, x)", x=ROWS, to=[1, 6], infer=False)))
    assert [setting.dims for setting in found.settings] == [{"n": 1}] * 3
    assert found.first.misfits == 0
    assert found.shape("y") == (1, 12)


def test_a_batch_of_one_is_not_taken_where_it_fits_no_better():
    found = probe(view(model("y = MatMul(x, w)", x=ROWS, w=(7, 5), infer=False)))
    assert found.first.dims == {"n": 11}
    assert found.first.misfits == 1


def test_a_node_that_breaks_the_format_is_named():
    with pytest.raises(ModelError) as caught:
        probe(view(model("y = Relu<odd = 1>(x)", x=ROWS, infer=False)))
    assert str(caught.value).startswith("not a valid ONNX model: Relu 'y': ")


# -- strides -----------------------------------------------------------------------------------------------------------


def test_a_length_that_strides_take_apart_is_probed_long_enough():
    found = probed(
        "a = Conv<strides = [10]>(x, w)", "b = Conv<strides = [8]>(a, v)", "y = Relu(b)", x="float[n,1,t] x",
        y="float[n,6,f] y", w=(4, 1, 10), v=(6, 4, 4),
    )  # fmt: skip
    assert not found.is_static("y", 2)
    assert found.first.misfits == 0


def test_short_lengths_stay_where_nothing_takes_them_apart():
    found = probed("y = Conv(x, w)", x="float[n,1,t] x", y="float[n,4,t] y", w=(4, 1, 1))
    assert found.first.dims["t"] == 17


def test_a_length_that_is_clamped_from_below_is_not_static():
    found = probed(
        "s = Shape<start = 1, end = 2>(x)", "m = Max(s, least)", "c = Concat<axis = 0>(one, m)", "y = Expand(e, c)",
        x="float[n,s,6] x", y="float[a,b] y", least=[64], one=[1], e=(1, 1),
    )  # fmt: skip
    assert found.sizes("y")[1] == (64, 64, 64, 1031)
    assert not found.is_static("y", 1)
