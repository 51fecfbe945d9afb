"""What is computed of constants: within a limit that is compared before anything is allocated."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

from onnxprune.graph.effective import ConstantValues
from onnxprune.graph.files.limits import Allowance
from onnxprune.graph.files.read import load
from onnxprune.graph.shapes.evaluate import evaluate
from onnxprune.graph.shapes.probe import probe
from onnxprune.graph.shapes.work import MOST_STEPS, most_steps, steps
from onnxprune.graph.view import view
from tests.support.build import dense, model

IMPORTS = [helper.make_opsetid("", 18)]
HUGE = 10**12
ONE = np.ones(1, np.float32)

BOMBS = {
    "Expand": (ONE, np.array([HUGE])),
    "Tile": (ONE, np.array([HUGE])),
    "Range": (np.int64(0), np.int64(HUGE), np.int64(1)),
    "ConstantOfShape": (np.array([HUGE]),),
    "Pad": (ONE, np.array([0, HUGE])),
    "OneHot": (np.array([1]), np.int64(HUGE), np.float32([0, 1])),
    "HannWindow": (np.int64(HUGE),),
    "BlackmanWindow": (np.int64(HUGE),),
    "MelWeightMatrix": (np.int64(8), np.int64(HUGE), np.int64(8000), np.float32(0), np.float32(4000)),
    "Resize": (np.ones((1, 1, 2, 2), np.float32), np.zeros(0, np.float32), ONE[:0], np.array([1, 1, 10**6, 10**6])),
}


def node_of(op, count, **attributes):
    return helper.make_node(op, [f"i{i}" for i in range(count)], ["o"], **attributes)


@pytest.mark.parametrize("op", BOMBS)
def test_gigabytes_of_few_bytes_are_not_computed(op):
    inputs = BOMBS[op]
    values = {f"i{i}": np.asarray(value) for i, value in enumerate(inputs)}
    allowance = Allowance(2**30)
    assert evaluate(node_of(op, len(inputs)), values, IMPORTS, 8, allowance=allowance) is None
    assert allowance.left == 2**30


def test_products_of_columns_are_not_computed():
    values = {"i0": np.ones((40_000, 1), np.float32), "i1": np.ones((1, 40_000), np.float32)}
    assert 4 * 40_000**2 > 2**30
    assert evaluate(node_of("MatMul", 2), values, IMPORTS, 8, allowance=Allowance(2**30)) is None


def test_windows_that_reach_far_are_not_computed():
    values = {"i0": np.ones((1, 1, 4), np.float32)}
    node = node_of("MaxPool", 1, kernel_shape=[1], pads=[10**9, 10**9], strides=[10**9])
    assert evaluate(node, values, IMPORTS, 8, allowance=Allowance(2**40)) is None


def test_what_is_small_is_computed_and_taken_from_the_allowance():
    allowance = Allowance(100)
    values = {"i0": ONE, "i1": np.array([20])}
    (array,) = evaluate(node_of("Expand", 2), values, IMPORTS, 8, allowance=allowance)
    assert (array.shape, allowance.left) == ((20,), 20)
    assert evaluate(node_of("Expand", 2), values, IMPORTS, 8, allowance=allowance) is None


def zeros(*shape, dtype=np.float32):
    """Return an array that takes no memory."""
    return np.broadcast_to(np.zeros(1, dtype), shape)


PRODUCTS = {  # the operator, its attributes, its inputs, and how many steps its products take
    "MatMul": ("MatMul", {}, (zeros(30, 50), zeros(50, 70)), 30 * 50 * 70),
    "of vectors": ("MatMul", {}, (zeros(50), zeros(50)), 50),
    "a stack": ("MatMul", {}, (zeros(9, 1, 30, 50), zeros(8, 50, 70)), 72 * 30 * 50 * 70),
    "stacks in pairs": ("MatMul", {}, (zeros(9, 30, 50), zeros(9, 50, 70)), 9 * 30 * 50 * 70),
    "of whole numbers": ("MatMul", {}, (zeros(3, 5, dtype=np.int64), zeros(5, 7, dtype=np.int64)), 50 * 3 * 5 * 7),
    "MatMulInteger": ("MatMulInteger", {}, (zeros(3, 5, dtype=np.int8), zeros(5, 7, dtype=np.int8)), 50 * 3 * 5 * 7),
    "Gemm": ("Gemm", {"transA": 1, "transB": 1}, (zeros(50, 30), zeros(70, 50)), 30 * 50 * 70),
    "letters": ("Einsum", {"equation": "a, b, c ->"}, 3 * (zeros(4096),), 10 * 4096**3),
    "dots": ("Einsum", {"equation": "...ab,...bc->...ac"}, (zeros(7, 2, 3), zeros(3, 5)), 10 * 7 * 2 * 3 * 5),
    "no product": ("Add", {}, (zeros(30), zeros(30)), 0),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_products_are_counted(case):
    op, attributes, inputs, expected = PRODUCTS[case]
    values = {f"i{at}": array for at, array in enumerate(inputs)}
    counted = steps(node_of(op, len(inputs), **attributes), values)
    assert counted == expected + sum(array.size for array in inputs)


LONG = {
    "halves": ("MatMul", {}, 2 * (zeros(16384, 16384, dtype=np.float16),)),
    "whole numbers": ("MatMul", {}, 2 * (zeros(4096, 4096, dtype=np.int64),)),
    "Gemm of integers": ("Gemm", {}, 2 * (zeros(4096, 4096, dtype=np.int32),)),
    "MatMulInteger": ("MatMulInteger", {}, 2 * (zeros(4096, 4096, dtype=np.int8),)),
    "letters": ("Einsum", {"equation": "a,b,c->"}, 3 * (zeros(4096),)),
    "a wide window": ("ConvTranspose", {}, (zeros(1, 4, 128, 128), zeros(4, 4, 31, 31))),
    "a wide pool": ("MaxPool", {"kernel_shape": [64, 64]}, (zeros(1, 1, 128, 128),)),
    "points": ("GridSample", {}, (zeros(1, 1, 128, 128), zeros(1, 256, 256, 2))),
    "boxes": ("NonMaxSuppression", {}, (zeros(1, 20_000, 4), zeros(1, 1, 20_000), np.array([20_000]))),
    "indices": ("GatherND", {}, (zeros(8, 8), zeros(2**21, 2, dtype=np.int64))),
    "a pattern": ("RegexFullMatch", {"pattern": "(a|a)*c"}, (np.array([40 * "a"], object),)),
    "an image": ("ImageDecoder", {}, (zeros(10, dtype=np.uint8),)),
}


@pytest.mark.parametrize("case", LONG)
def test_hours_of_few_bytes_are_not_computed(monkeypatch, case):
    op, attributes, inputs = LONG[case]
    monkeypatch.setattr("onnx.reference.ReferenceEvaluator", None)  # nothing is started
    values = {f"i{at}": array for at, array in enumerate(inputs)}
    imports = [helper.make_opsetid("", 20)]
    node = node_of(op, len(inputs), **attributes)
    assert evaluate(node, values, imports, 9, allowance=Allowance(2**40)) is None
    assert evaluate(node, values, imports, 9, allowance=Allowance(2**40), size=0) is None


def test_all_nodes_share_the_steps():
    work = Allowance(3000)
    node, values = node_of("MatMul", 2), {"i0": zeros(10, 10), "i1": zeros(10, 10)}
    made = [evaluate(node, values, IMPORTS, 8, allowance=Allowance(10**6), work=work) for _ in range(3)]
    assert [each is None for each in made] == [False, False, True]
    assert work.left == 3000 - 2 * (10**3 + 300)


def test_what_a_file_holds_takes_its_time():
    assert most_steps(10**9) == MOST_STEPS + 64 * 10**9


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_halves_are_multiplied_as_onnx_runtime_does(dtype):
    rows = np.random.default_rng(0).standard_normal((3, 400)).astype(dtype)
    values = {"i0": rows, "i1": np.ascontiguousarray(rows.T)}
    (product,) = evaluate(node_of("MatMul", 2), values, IMPORTS, 8, allowance=Allowance(10**6))
    wide = rows.astype(np.float32)
    assert product.dtype == dtype
    np.testing.assert_array_equal(product, (wide @ wide.T).astype(dtype))


def test_halves_of_shapes_that_do_not_fit_are_not_multiplied():
    values = {"i0": np.ones((2, 3), np.float16), "i1": np.ones((2, 3), np.float16)}
    assert evaluate(node_of("MatMul", 2), values, IMPORTS, 8, allowance=Allowance(10**6), size=0) is None


def test_what_is_no_tensor_is_not_a_value():
    assert evaluate(node_of("SequenceConstruct", 1), {"i0": ONE}, IMPORTS, 8, allowance=Allowance(10**6)) is None
    assert evaluate(node_of("Nothing", 1), {"i0": ONE}, IMPORTS, 8, allowance=Allowance(10**6)) is None


def test_the_probe_and_the_criteria_leave_it_alone():
    proto = dense("big = Expand(one, n)", "s = ReduceMax<keepdims = 0>(big)", "c = Add(a, s)", "b = Relu(c)",
                  infer=False, y="float[n,5] y", one=ONE, n=np.array([10**10]))  # fmt: skip
    loaded = load(proto)
    assert probe(loaded).shape("big") == (10**10,)
    assert ConstantValues(loaded).array("big") is None
    assert ConstantValues(loaded).array("s") is None


def test_more_parts_than_anybody_makes_are_unknown():
    nodes = ("s = SplitToSequence<axis = 1>(x)", "y = ConcatFromSequence<axis = 1>(s)")
    proto = model(*nodes, x=f"float[n,{10**9}] x", infer=False)
    probed = probe(view(proto))
    assert probed.shape("y") is None
