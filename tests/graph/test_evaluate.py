"""What is computed of constants: within a limit that is compared before anything is allocated."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from onnxprune.graph.effective import ConstantValues
from onnxprune.graph.evaluate import evaluate, output_bytes
from onnxprune.graph.limits import Allowance
from onnxprune.graph.probe import probe
from onnxprune.graph.read import load
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
    assert output_bytes(node_of("MatMul", 2), values, IMPORTS, 8) == 4 * 40_000**2
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
