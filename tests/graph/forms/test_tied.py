"""Weights that a file holds twice: which are found, and that the model computes the same when they are stored once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxprune.graph.files.read import load
from onnxprune.graph.forms.tied import Twin, stored_once, twins
from onnxprune.runtime.session import open_session
from tests.support.build import model

TABLE = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
LANGUAGE = ("e = Gather(table, ids)", "h = Relu(e)", "y = MatMul(h, head)")


def language(**weights):
    """A token table, and an output layer."""
    return model(*LANGUAGE, x="int64[n,s] ids", **{"table": TABLE, "head": TABLE.T.copy(), **weights})


def outputs(loaded, feeds):
    return open_session(loaded.proto.SerializeToString()).run(feeds)


def test_a_transposed_copy_is_found_and_stored_once():
    loaded = load(language())
    pairs = twins(loaded)
    assert pairs == [Twin("head", "table", True, TABLE.nbytes)]
    once = stored_once(loaded, pairs)
    assert [tensor.name for tensor in once.proto.graph.initializer] == ["table"]
    assert [node.op for node in once.nodes] == ["Transpose", "Gather", "Relu", "MatMul"]
    assert once.stored is loaded.stored
    assert once.size_bytes() == loaded.size_bytes()
    feeds = {"ids": np.array([[3, 299, 0]])}
    np.testing.assert_array_equal(outputs(once, feeds)["y"], outputs(loaded, feeds)["y"])


def test_an_equal_weight_is_read_as_the_first_by_all_its_readers_also_in_bodies():
    square = np.random.default_rng(1).standard_normal((160, 160)).astype(np.float32)
    branches = "then_branch = t () => (r) { r = MatMul(a, w2) }, else_branch = e () => (q) { q = Neg(a) }"
    proto = model(
        "a = MatMul(x, w1)", f"b = If <{branches}> (s)", "c = MatMul(b, w2)", "y = MatMul(c, w3)",
        x="float[n,160] x, bool s", y="float[n,160] y", infer=False, w1=square, w2=square, w3=square.T.copy(),
    )  # fmt: skip
    loaded = load(proto)
    pairs = twins(loaded)
    assert [(pair.name, pair.of, pair.is_transposed) for pair in pairs] == [("w2", "w1", False), ("w3", "w1", True)]
    once = stored_once(loaded, pairs)
    assert [tensor.name for tensor in once.proto.graph.initializer] == ["w1"]
    for flag in (True, False):
        feeds = {"x": np.ones((2, 160), np.float32), "s": np.array(flag)}
        np.testing.assert_array_equal(outputs(once, feeds)["y"], outputs(loaded, feeds)["y"])


@pytest.mark.parametrize(
    "head",
    [
        TABLE.T + np.float32(1e-3),  # other numbers
        np.where(np.arange(300) == 7, 0, TABLE.T).astype(np.float32),  # the same on the diagonal, but for one column
        TABLE.T.astype(np.float16).astype(np.float32),
    ],
)
def test_what_differs_is_no_twin(head):
    assert twins(load(language(head=head))) == []


def test_zeros_of_another_sign_are_other_bits():
    table, head = TABLE.copy(), TABLE.T.copy()
    table[200, 5], head[5, 200] = 0.0, -0.0
    assert twins(load(language(table=table, head=head))) == []


def test_small_weights_defaults_of_inputs_and_outputs_are_left_alone():
    small = TABLE[:16]
    assert twins(load(language(table=small, head=small.T.copy()))) == []
    assert twins(load(model(*LANGUAGE, x="int64[n,s] ids", listed=["head"], table=TABLE, head=TABLE.T.copy()))) == []
    proto = language()
    proto.graph.output.append(helper.make_tensor_value_info("head", 1, [64, 300]))
    assert twins(load(proto)) == []


def test_tensors_that_are_the_same_bytes_of_a_file_are_no_twins(tmp_path):
    moved = ("e = Gather(table, ids)", "m = Transpose <perm = [1, 0]> (head)", "y = MatMul(e, m)")
    proto = model(*moved, x="int64[n,s] ids", table=TABLE, head=TABLE)
    assert [pair.name for pair in twins(load(proto))] == ["head"]
    (tmp_path / "w.bin").write_bytes(TABLE.tobytes())
    for tensor in proto.graph.initializer:
        onnx.external_data_helper.set_external_data(tensor, "w.bin", offset=0, length=TABLE.nbytes)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    assert twins(load(tmp_path / "m.onnx")) == []
