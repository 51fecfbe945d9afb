"""Messages: large tensors lie beside a small protobuf, and the model is the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.commands.prune import prune
from onnxprune.graph.files.message import LARGE_BYTES, message
from onnxprune.graph.files.read import load
from onnxprune.graph.files.write import write
from onnxprune.graph.forms.parts import part
from onnxprune.runtime.session import open_session
from tests.support.build import model

RNG = np.random.default_rng(0)


def wide():
    """Return a model of a large and a small weight."""
    large, small = (RNG.standard_normal(shape).astype(np.float32) for shape in ((64, 256), (256, 4)))
    return model("a = MatMul(x, w)", "b = Relu(a)", "y = MatMul(b, v)", x="float[n,64] x", w=large, v=small)


def rows():
    return {"x": RNG.standard_normal((3, 64)).astype(np.float32)}


def test_a_model_in_a_message_gives_the_same_bits(tmp_path):
    proto, feeds = wide(), rows()
    before = proto.SerializeToString()
    small = message(proto, tmp_path)
    assert list(small.arrays) == ["w"]
    assert len(small.content) < LARGE_BYTES < small.arrays["w"].nbytes
    assert proto.SerializeToString() == before
    expected = open_session(before, threads=1).run(feeds)
    assert open_session(small, threads=1).run(feeds)["y"].tobytes() == expected["y"].tobytes()


def test_what_nobody_reads_stays_in_the_message(tmp_path):
    proto, feeds = wide(), rows()
    unread = RNG.standard_normal((64, 256)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(unread, "unread"))
    small = message(proto, tmp_path)
    assert list(small.arrays) == ["w"]
    expected = open_session(proto.SerializeToString(), threads=1).run(feeds)["y"]
    assert open_session(small, threads=1).run(feeds)["y"].tobytes() == expected.tobytes()
    assert prune(proto, 0.3, criterion="l2", latency=False).report["verification"]["passed"]


@pytest.mark.parametrize("has_its_own", [True, False])
def test_a_weight_of_a_body_is_not_that_of_the_graph(tmp_path, has_its_own):
    """A body that has a weight of the same name does not read the one outside."""
    outer, inner = (RNG.standard_normal((64, 64)).astype(np.float32) for _ in range(2))
    bodies = []
    for name in ("then", "else"):
        own = [onnx.numpy_helper.from_array(inner, "k")] if has_its_own else []
        nodes = [onnx.helper.make_node("MatMul", ["x", "k"], [f"{name}_y"])]
        out = onnx.helper.make_tensor_value_info(f"{name}_y", onnx.TensorProto.FLOAT, None)
        bodies.append(onnx.helper.make_graph(nodes, name, [], [out], own))
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=bodies[0], else_branch=bodies[1])
    proto = model("y = Identity(x)", x="float[n,64] x, bool c", y="float[n,64] y", infer=False, k=outer)
    proto.graph.node[0].CopyFrom(node)
    small, feeds = message(proto, tmp_path), {**rows(), "c": np.array(True)}
    assert list(small.arrays) == ([] if has_its_own else ["k"])
    expected = feeds["x"] @ (inner if has_its_own else outer)
    np.testing.assert_allclose(open_session(small, threads=1).run(feeds)["y"], expected, rtol=1e-4, atol=1e-4)


def test_values_between_nodes_are_returned_on_demand(tmp_path):
    session = open_session(message(wide(), tmp_path, ["a", "b"]), threads=1)
    found = session.run(rows())
    assert set(found) == {"a", "b"}
    assert (np.maximum(found["a"], 0) == found["b"]).all()


def test_external_data_is_read_once_and_may_go_then(tmp_path):
    proto, feeds = wide(), rows()
    expected = open_session(proto.SerializeToString(), threads=1).run(feeds)["y"]
    data = write(proto, tmp_path / "m.onnx", tmp_path, external=True)
    outside = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    small = message(outside, tmp_path)
    data.unlink()
    assert (open_session(small, threads=1).run(feeds)["y"] == expected).all()


def test_a_default_that_callers_may_replace_stays_inside(tmp_path):
    proto = wide()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [64, 256]))
    small = message(proto, tmp_path)
    assert not small.arrays
    session = open_session(small, threads=1)
    assert not session.run({**rows(), "w": np.zeros((64, 256), np.float32)})["y"].any()


def test_types_that_numpy_lacks_stay_inside(tmp_path):
    proto = wide()
    weight = proto.graph.initializer[0]
    stored = np.zeros((64, 256), np.float32)
    weight.CopyFrom(onnx.helper.make_tensor("w", onnx.TensorProto.BFLOAT16, stored.shape, stored.ravel()))
    assert not message(proto, tmp_path).arrays


def test_a_part_has_the_weights_that_are_given_for_it():
    loaded = load(wide())
    other = RNG.standard_normal((64, 256)).astype(np.float32)
    types = {"x": np.dtype(np.float32)}
    found = open_session(part(loaded, [0], types, ["a"], {"w": other}), threads=1).run(feeds := rows())["a"]
    np.testing.assert_allclose(found, feeds["x"] @ other, atol=1e-4)
