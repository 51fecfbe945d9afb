"""Tensors of a file, wherever they stand: sound, inside, and read from the files that were checked."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.commands.prune import prune
from onnxprune.errors import ModelError
from onnxprune.graph.files.read import load
from onnxprune.graph.tensors import opened
from onnxprune.runtime.session import open_session
from tests.support.build import dense


def on_disk(folder, name="model.onnx", location="model.onnx_data", at="model.onnx_data"):
    """Write a model to `folder` whose weights are said to lie at `location`, and lie at `at`."""
    proto = dense("b = Relu(a)", mid=16)
    content = b""
    for tensor in proto.graph.initializer:
        raw, tensor.raw_data = tensor.raw_data, b""
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", len(content)), ("length", len(raw))):
            tensor.external_data.add(key=key, value=str(value))
        content += raw
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(proto.SerializeToString())
    (folder / at).parent.mkdir(parents=True, exist_ok=True)
    (folder / at).write_bytes(content)
    return folder / name


def hub(root):
    """Lay out a model as the cache of the Hugging Face Hub does: both files are links into one folder."""
    on_disk(root / "blobs", name="0f3a", at="77cd")
    folder = root / "snapshots" / "5e1b" / "onnx"
    folder.mkdir(parents=True)
    (folder / "model.onnx").symlink_to("../../../blobs/0f3a")
    (folder / "model.onnx_data").symlink_to("../../../blobs/77cd")
    return folder / "model.onnx"


def same(path):
    """Assert that a model loads, holds what it should, and prunes; return what was loaded."""
    model = load(path)
    expected = {tensor.name: tensor for tensor in dense("b = Relu(a)", mid=16).graph.initializer}
    for name, tensor in expected.items():
        assert np.array_equal(model.array(name), numpy_helper.to_array(tensor))
    open_session(path)
    assert prune(path, 0.5, criterion="l2", latency=False).report["verification"]["passed"]
    return model


def refusal(path):
    with pytest.raises(ModelError) as caught:
        load(path)
    return str(caught.value)


# -- where external data lies ------------------------------------------------------------------------------


def test_the_cache_of_the_hub(tmp_path):
    model = same(hub(tmp_path))
    assert model.data_files == {tmp_path / "blobs" / "77cd"}
    assert model.folder == tmp_path / "blobs"


def test_a_hub_that_is_reached_through_a_link_of_a_folder(tmp_path):
    hub(tmp_path / "cache")
    (tmp_path / "latest").symlink_to("cache/snapshots/5e1b")
    same(tmp_path / "latest" / "onnx" / "model.onnx")


def test_links_to_links(tmp_path):
    path = hub(tmp_path)
    path.rename(path.with_name("first"))
    path.symlink_to("first")
    (path.parent / "model.onnx_data").rename(path.parent / "second")
    (path.parent / "model.onnx_data").symlink_to(path.parent / "second")
    same(path)


def test_the_model_alone_is_a_link(tmp_path):
    path = hub(tmp_path)
    data = path.parent / "model.onnx_data"
    content = data.read_bytes()
    data.unlink()
    data.write_bytes(content)
    model = same(path)
    assert model.data_files == {data}


def test_data_in_both_folders(tmp_path):
    path = hub(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    first = proto.graph.initializer[0]
    first.external_data[0].value = "own_data"
    (tmp_path / "blobs" / "0f3a").write_bytes(proto.SerializeToString())
    (path.parent / "own_data").write_bytes((tmp_path / "blobs" / "77cd").read_bytes())
    assert same(path).folder == tmp_path


def test_links_inside_the_folder(tmp_path):
    path = on_disk(tmp_path, at="sub/weights")
    (tmp_path / "model.onnx_data").symlink_to("sub/weights")
    assert same(path).folder == tmp_path / "sub"


def test_the_data_alone_is_a_link_that_leaves(tmp_path):
    path = hub(tmp_path)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert "lies outside the model's folder (model.onnx_data); it is not read" in refusal(path)
    with pytest.raises(ModelError, match="escapes"):
        open_session(path)


@pytest.mark.parametrize("target", ["../../../elsewhere/w", "/etc/hostname", "../../../snapshots/w"])
def test_a_link_that_leaves_both_folders(tmp_path, target):
    path = hub(tmp_path)
    for folder in ("elsewhere", "snapshots"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "w").write_bytes(bytes(4000))
    (path.parent / "model.onnx_data").unlink()
    (path.parent / "model.onnx_data").symlink_to(target)
    assert "lies outside the model's folder" in refusal(path)


def test_what_is_no_ordinary_file(tmp_path):
    path = on_disk(tmp_path)
    data = tmp_path / "model.onnx_data"
    data.unlink()
    os.mkfifo(data)
    assert "cannot be read: model.onnx_data: no ordinary file" in refusal(path)
    data.unlink()
    data.symlink_to("model.onnx_data")
    assert "cannot be read: model.onnx_data" in refusal(path)
    data.unlink()
    data.mkdir()
    assert "no ordinary file" in refusal(path)


def test_a_link_that_comes_after_the_check_is_not_followed(tmp_path):
    model = load(on_disk(tmp_path))
    (tmp_path / "model.onnx_data").rename(tmp_path / "moved")
    (tmp_path / "model.onnx_data").symlink_to("moved")
    with pytest.raises(OSError, match=r"model\.onnx_data"):
        model.array("w1")
    with pytest.raises(OSError, match="no ordinary file"):
        opened(Path("/dev/null"))


@pytest.mark.parametrize("location", ["", "a\0b"])
def test_no_name_of_a_file(tmp_path, location):
    path = on_disk(tmp_path, location=location)
    assert f"names no file: the location is {location!r}" in refusal(path)


# -- tensors in other places -------------------------------------------------------------------------------


def outside(name="c"):
    tensor = TensorProto(dims=[16], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL, name=name)
    tensor.external_data.add(key="location", value="secret.bin")
    return tensor


def constant(tensor):
    return helper.make_node("Constant", [], ["c"], value=tensor, name="k")


def function(nodes):
    imports = [helper.make_opsetid("", 18)]
    return helper.make_function("my", "F", ["t"], ["u"], [*nodes, helper.make_node("Add", ["t", "c"], ["u"])], imports)


def with_function(nodes):
    proto = dense("b = my.F(a)", infer=False, imports='"my": 1', mid=16)
    proto.functions.append(function(nodes))
    return proto


def in_attribute_of_function(tensor):
    return with_function([constant(tensor)])


def in_branch_of_function(tensor):
    branch = helper.make_graph([], "g", [], [helper.make_tensor_value_info("c", 1, [16])], [tensor])
    yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    return with_function(
        [yes, helper.make_node("If", ["yes"], ["c"], then_branch=branch, else_branch=branch, name="k")]
    )


def in_default_of_function(tensor):
    proto = with_function([constant(numpy_helper.from_array(np.ones(16, np.float32)))])
    proto.functions[0].attribute_proto.append(helper.make_attribute("value", tensor))
    return proto


def in_sparse(tensor):
    proto = dense("b = Add(a, c)", infer=False, mid=16)
    indices = numpy_helper.from_array(np.arange(16))
    proto.graph.sparse_initializer.add(values=tensor, indices=indices, dims=[16])
    return proto


def in_training(tensor):
    proto = dense("b = Relu(a)", mid=16)
    proto.training_info.add().algorithm.node.append(constant(tensor))
    return proto


PLACES = {
    in_attribute_of_function: "attribute 'value' of Constant 'k' of function 'F'",
    in_branch_of_function: "initializer 'c' in attribute 'else_branch' of If 'k' of function 'F'",
    in_default_of_function: "attribute 'value' of function 'F'",
    in_sparse: "sparse initializer 'c'",
    in_training: "attribute 'value' of Constant 'k' of the training information",
}


@pytest.mark.parametrize(("place", "owner"), PLACES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_no_tensor_in_another_place_is_read_from_a_file(tmp_path, monkeypatch, place, owner):
    """Neither beside the model, nor in the current folder, where onnx's checker would look."""
    monkeypatch.chdir(tmp_path)
    Path("secret.bin").write_bytes(bytes(64))
    Path("model").mkdir()
    Path("model/secret.bin").symlink_to("../secret.bin")
    Path("model/model.onnx").write_bytes(place(outside()).SerializeToString())
    assert refusal("model/model.onnx").startswith(f"model/model.onnx: {owner} is kept in external data, which is")


FAULTS = [
    ({"data_type": 99}, "has no known element type (99)"),
    ({"dims": [-16]}, "states the shape [-16], which no tensor can have"),
    ({"dims": [2**62, 0]}, "states the shape [4611686018427387904, 0], which no tensor can have"),
    ({"dims": [17]}, "of shape [17] holds 64 bytes, expected 68"),
    ({"data_type": TensorProto.STRING}, "holds text as raw bytes"),
    ({"segment": TensorProto.Segment(begin=0, end=4)}, "is one segment of a tensor"),
]


@pytest.mark.parametrize(("fields", "text"), FAULTS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("place", PLACES)
def test_tensors_are_sound_in_every_place(place, fields, text):
    whole = numpy_helper.from_array(np.ones(16, np.float32), "c")
    tensor = TensorProto(**{"name": "c", "dims": whole.dims, "data_type": 1, "raw_data": whole.raw_data, **fields})
    with pytest.raises(ModelError, match=re.escape(text)):
        load(place(tensor))


def test_typed_numbers_are_counted_in_every_place():
    tensor = TensorProto(name="c", dims=[16], data_type=1, float_data=[1.0] * 15)
    with pytest.raises(ModelError, match=r"of shape \[16\] does not hold 16 numbers"):
        load(in_sparse(tensor))
