"""What the runtime punishes is counted, and told with what to do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnxprune.graph.files.read import load
from onnxprune.graph.punished import denormals, punished


def model(weight=(1.0, 2.0), listed=False, ir_version=8, dtype=np.float32):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [helper.make_tensor_value_info("x", kind, ["n", 2])]
    inputs += [helper.make_tensor_value_info("w", kind, [2])] * (listed or ir_version < 4)
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", kind, ["n", 2])]
    weights = [numpy_helper.from_array(np.array(weight, dtype), "w")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=ir_version))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, ()),
        ({"ir_version": 3}, ()),  # there every initializer is listed, and none may be replaced
        ({"weight": (1e-39, 1.0), "dtype": np.float64}, ()),
        ({"weight": (1e-6, 1.0), "dtype": np.float16}, ()),  # denormal, but it is computed with as float32
        (
            {"listed": True},
            (
                "1 of 1 initializers are listed as graph inputs, so that ONNX Runtime folds no constants and uses no "
                "blocked layouts for them; take them off the inputs with 'python -m "
                "onnxruntime.tools.remove_initializer_from_input --input IN.onnx --output OUT.onnx'",
            ),
        ),
        (
            {"weight": (1e-39, 0.0)},
            (
                "denormal weights (nonzero, below 1.18e-38), slow on a CPU: 1, most of them in 'w'; make them 0 in the "
                "file, or let ONNX Runtime do so with the session entry 'session.set_denormal_as_zero'",
            ),
        ),
    ],
    ids=["good", "old", "double", "half", "listed", "denormal"],
)
def test_what_is_told(options, told):
    assert punished(model(**options)) == told


@given(st.lists(st.floats(width=32) | st.floats(-(2.0**-125), 2.0**-125, width=32)))
def test_denormals_are_counted(values):
    array = np.array(values, np.float32)
    with np.errstate(invalid="ignore"):
        expected = np.count_nonzero((array != 0) & (np.abs(array) < np.finfo(np.float32).tiny))
    assert denormals(array) == expected


def test_arrays_of_any_form_and_length():
    array = np.zeros((3, 200_000), np.float32)
    array[:, ::50_000] = 1e-40
    assert denormals(array) == denormals(array.T) == 12
    assert denormals(np.float32(1e-40)) == 1
