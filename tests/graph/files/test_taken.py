"""Bytes of nodes and constants: a file without them is smaller by that."""

from __future__ import annotations

import onnx
import pytest
from onnx import ModelProto

from onnxprune.graph import model as graph_model
from onnxprune.graph.files.read import load
from onnxprune.graph.files.taken import taken_by_constants, taken_by_nodes
from tests.support.build import ROWS, model

BODIES = "<then_branch = one () => (t) { r = Relu(x) t = Neg(r) }, else_branch = two () => (u) { u = Neg(x) }>"


def network():
    return model(
        "a = MatMul(x, w1)", "b = Relu(a)", "c = Reshape(b, shape)", "k = Constant<value = float[2] {1.0, 2.0}>()",
        "d = MatMul(c, w2)", f"e = If{BODIES}(f)", "y = Add(d, k)", x=f"{ROWS}, bool f", y="float[n,2] y, float[n,6] e",
        w1=(6, 200), w2=(200, 2), shape=[-1, 200], infer=True,
    )  # fmt: skip


def without(proto, node=None, constant=None):
    """Return the bytes of a model without a node and the types of its outputs, or without a constant and its type."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    names = {constant} if node is None else set(copy.graph.node[node].output)
    if node is not None:
        del copy.graph.node[node]
    for values in (copy.graph.initializer, copy.graph.value_info):
        for place in [at for at, each in enumerate(values) if each.name in names][::-1]:
            del values[place]
    return len(copy.SerializeToString())


def test_a_file_without_a_node_is_smaller_by_its_bytes():
    proto = network()
    loaded = load(proto)
    indices = [node.index for node in loaded.nodes]
    taken, whole = taken_by_nodes(loaded, indices), len(proto.SerializeToString())
    for place, index in enumerate(loaded.top):
        inside = sum(taken[each] for each in loaded.within(index))
        numbers = 8 if proto.graph.node[place].op_type == "Constant" else 0
        assert whole - without(proto, node=place) == pytest.approx(inside + numbers, abs=2)
    assert len([*loaded.within(next(node.index for node in loaded.nodes if node.op == "If"))]) == 4
    assert min(taken.values()) > 0


def test_a_file_without_a_constant_is_smaller_by_its_bytes_and_the_numbers_of_weights():
    proto = network()
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("w1", 1, [6, 200]))
    taken, whole = taken_by_constants(load(proto), ["w1", "shape"]), len(proto.SerializeToString())
    assert taken.keys() == {"w1", "shape"}
    assert whole - without(proto, constant="w1") == pytest.approx(taken["w1"] + 4800, abs=2)
    assert 16 < whole - without(proto, constant="shape") <= taken["shape"] + 2


def test_beside_a_file_what_is_left_free_behind_a_tensor_counts(tmp_path):
    proto = network()
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=100)
    loaded = load(tmp_path / "m.onnx")
    (name,) = (tensor.name for tensor in loaded.proto.graph.initializer if tensor.dims == [6, 200])
    free = -4800 % loaded.alignment
    inline = taken_by_constants(load(network()), [name])[name]
    assert taken_by_constants(loaded, [name])[name] - free == pytest.approx(inline, abs=120)  # where it lies


def test_how_tensors_lie_in_a_file_is_looked_up_once(monkeypatch):
    """It takes a look at every tensor; for each of them, files of many experts took seconds."""
    loaded, looked = load(network()), []
    whole = graph_model.alignment_of
    monkeypatch.setattr(graph_model, "alignment_of", lambda proto: looked.append(proto) or whole(proto))
    assert len(taken_by_constants(loaded, ["w1", "w2", "shape"])) == 3
    assert len(looked) == 1
