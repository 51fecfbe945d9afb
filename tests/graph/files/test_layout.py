"""Where the bytes of tensors go in a new file: what they shared they share again, and alike ones are written once."""

from __future__ import annotations

import errno
import os

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.graph.files.layout import lay_out
from onnxprune.graph.files.read import load
from onnxprune.graph.files.write import foreseen, staged, write
from onnxprune.graph.model import alignment_of, stored_params
from onnxprune.graph.tensors import array_of
from tests.support.build import model

RNG = np.random.default_rng(0)


def outside(name, location, offset, *dims, kind=TensorProto.FLOAT):
    """Return a tensor whose contents lie in a file."""
    tensor = TensorProto(name=name, data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def inline(name, *dims, like=None):
    return numpy_helper.from_array(np.float32(RNG.standard_normal(dims)) if like is None else like, name)


@pytest.fixture
def weights(tmp_path):
    """A folder with two files of 64 kB."""
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(RNG.bytes(1 << 16))
    return tmp_path


def rewritten(tensors, folder, alignment=64):
    """Write the tensors into a new file; return the layout, checked: each tensor still holds what it held."""
    layout = lay_out(tensors, folder, alignment)
    with (folder / "new.bin").open("wb") as file:
        layout.write(file)
    for place, (offset, length) in layout.ranges.items():
        tensor = tensors[place]
        moved = outside(tensor.name, "new.bin", offset, *tensor.dims, kind=tensor.data_type)
        np.testing.assert_array_equal(array_of(moved, folder), array_of(tensor, folder))
        assert length == array_of(tensor, folder).nbytes
    assert (folder / "new.bin").stat().st_size == layout.length
    assert all(offset % alignment == 0 for offset, _ in layout.chunks)
    return layout


def test_one_range_of_several_tensors_is_written_once(weights):
    """Tied embeddings; with other shapes too, and without what no tensor lies on."""
    tensors = [
        outside("e", "a.bin", 4096, 64, 16),
        outside("h", "a.bin", 4096, 64, 16),
        outside("f", "a.bin", 4096, 1024),
    ]
    layout = rewritten(tensors, weights)
    assert set(layout.ranges.values()) == {(0, 4096)}
    assert layout.length == 4096


def test_ranges_that_overlap_do_so_again(weights):
    tensors = [
        outside("a", "a.bin", 8192, 1024),
        outside("b", "a.bin", 8192 + 1024, 1024),
        outside("c", "a.bin", 0, 512),
    ]
    layout = rewritten(tensors, weights)
    assert layout.ranges == {0: (0, 4096), 1: (1024, 4096), 2: (5120, 2048)}


def test_alike_tensors_of_two_files_are_written_once(weights):
    (weights / "b.bin").write_bytes((weights / "a.bin").read_bytes()[:8192][::-1] + (weights / "a.bin").read_bytes())
    tensors = [outside("a", "a.bin", 0, 1024), outside("b", "b.bin", 8192, 32, 32), outside("c", "b.bin", 0, 1024)]
    layout = rewritten(tensors, weights)
    assert layout.ranges[0] == layout.ranges[1] != layout.ranges[2]
    assert layout.length == 2 * 4096


def test_alike_tensors_in_memory_are_written_once(weights):
    """And those that begin alike are not: whole contents are compared."""
    array = np.float32(RNG.standard_normal((64, 64)))
    other = array.copy()
    other[-1, -1] += 1
    tensors = [inline("a", like=array), inline("b", like=array.reshape(-1)), inline("c", like=other), inline("s", 3)]
    tensors.append(outside("d", "d.bin", 0, 4096))
    (weights / "d.bin").write_bytes(array.tobytes())
    layout = rewritten(tensors, weights)
    assert layout.ranges[0] == layout.ranges[1] == layout.ranges[4] != layout.ranges[2]
    assert 3 not in layout.ranges  # it stays in the model file
    assert layout.length == 2 * array.nbytes


def test_an_empty_tensor_lies_at_the_beginning(weights):
    layout = rewritten([inline("a", 1024), outside("e", "a.bin", 4096, 0, 7)], weights)
    assert layout.ranges[1] == (0, 0)


def test_tensors_beyond_2_gb_are_laid_out_without_being_read(weights):
    with (weights / "huge.bin").open("wb") as file:
        os.truncate(file.fileno(), 7 << 30)
    big = 3 << 30
    places = [("a", 0), ("b", 0), ("c", big), ("d", big + 512)]
    tensors = [outside(name, "huge.bin", offset, big, kind=TensorProto.UINT8) for name, offset in places]
    layout = lay_out(tensors, weights, 4096)
    assert layout.ranges == {0: (0, big), 1: (0, big), 2: (big, big), 3: (big + 512, big)}
    assert layout.length == 2 * big + 512


def test_a_file_that_became_shorter_is_named(weights):
    layout = lay_out([outside("a", "a.bin", 4096, 1024)], weights)
    (weights / "a.bin").write_bytes(b"short")
    with (
        pytest.raises(ModelError, match=r"a\.bin: it ends before the end of tensor 'a'"),
        (weights / "n").open("wb") as f,
    ):
        layout.write(f)


@given(
    places=st.lists(
        st.tuples(st.sampled_from(["a.bin", "b.bin"]), st.integers(0, 300), st.integers(0, 200)), max_size=8
    ),
    copies=st.lists(st.sampled_from([300, 400]), max_size=3),
    alignment=st.sampled_from([1, 64, 4096]),
)
@settings(max_examples=60, deadline=None)
def test_any_ranges_hold_what_they_held(tmp_path_factory, places, copies, alignment):
    """And never more than without sharing."""
    folder = tmp_path_factory.mktemp("w")
    for name in ("a.bin", "b.bin"):
        (folder / name).write_bytes(bytes(range(250)) * 10)
    tensors = [outside(f"t{i}", name, 4 * at, n) for i, (name, at, n) in enumerate(places)]
    tensors += [inline(f"c{i}", like=np.arange(n, dtype=np.float32)) for i, n in enumerate(copies)]
    layout = rewritten(tensors, folder, alignment)
    assert layout.length <= sum(-(-length // alignment) * alignment for _, length in layout.ranges.values())


# -- models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offsets", "expected"), [([0, 4096, 65536], 4096), ([0, 64, 4096], 64), ([12], 4), ([], 4096)]
)
def test_the_alignment_of_the_input_is_kept(offsets, expected):
    proto = onnx.ModelProto()
    proto.graph.initializer.extend(outside(f"t{offset}", "w.bin", offset, 4) for offset in offsets)
    assert alignment_of(proto) == expected


@pytest.mark.parametrize("external", [True, False])
def test_what_is_foreseen_is_what_is_written(tmp_path, external):
    proto = model("a = MatMul(x, w1)", "y = MatMul(a, w2)", x="float[n,64] x", w1=(64, 64), w2=(64, 64))
    proto.graph.initializer[1].raw_data = proto.graph.initializer[0].raw_data
    write(proto, tmp_path / "m.onnx", tmp_path, external)
    written = load(tmp_path / "m.onnx")
    expected = foreseen(proto, tmp_path, external, name="m.onnx")
    assert written.stored_params == expected.params == 64 * 64 * (1 if external else 2)
    digest = len(".0123456789ab") if external else 0  # the longer of the names that weights may get is counted
    assert written.size_bytes() == expected.size_bytes - 2 * digest == written.needed_bytes


def test_params_of_functions_and_sparse_tensors_are_those_of_the_file():
    body = "k = Constant <value = float[2] {1, 2}> () q = Mul(p, k)"
    function = f'<domain: "my", opset_import: ["" : 18]> F (p) => (q) {{ {body} }}'
    proto = model("a = my.F(x)", "y = my.F(a)", x="float[n,2] x", y="float[n,2] y", imports='"my" : 1',
                  functions=function, infer=False)  # fmt: skip
    assert stored_params(proto) == 2
    values, indices = numpy_helper.from_array(np.ones(3, np.float32), "s"), numpy_helper.from_array(np.array([0, 3, 5]))
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [4, 4]))
    proto.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0, 3.0, 4.0]))
    proto.graph.node.append(onnx.helper.make_node("Constant", [], ["i"], value_ints=[1, 2]))
    proto.graph.node.append(onnx.helper.make_node("Constant", [], ["f"], value_float=1.0))
    assert stored_params(proto) == 2 + 3 + 4 + 1


@pytest.mark.parametrize("name", ["m.onnx", "a" * 100 + ".onnx"])
def test_the_name_of_the_weights_is_foreseen(tmp_path, name):
    proto = model("a = MatMul(x, w1)", "y = MatMul(a, w2)", x="float[n,64] x", w1=(64, 64), w2=(64, 64))
    expected = foreseen(proto, tmp_path, external=True, name=name)
    (tmp_path / f"{name}.data").write_text("taken")
    with staged(proto, tmp_path / name, tmp_path, external=True):
        pass
    assert load(tmp_path / name).size_bytes() == pytest.approx(expected.size_bytes, abs=8)  # lengths of lengths


@pytest.mark.parametrize("is_outside", [False, True], ids=["small", "empty"])
def test_no_file_is_written_for_no_weights(tmp_path, is_outside):
    """A model that wants its weights in a file beside it, and has none that go there."""
    proto = model("y = Add(x, w)", x="float[n,3] x", w=(3,), v=(0, 4))
    if is_outside:
        empty = next(t for t in proto.graph.initializer if t.name == "v")
        empty.ClearField("raw_data")
        empty.data_location = TensorProto.EXTERNAL
        empty.external_data.add(key="location", value="gone.bin")
    assert write(proto, tmp_path / "m.onnx", tmp_path, external=True) is None
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    written = load(tmp_path / "m.onnx")
    assert not written.is_external
    assert written.array("v").shape == (0, 4)
    assert written.size_bytes() == foreseen(proto, tmp_path, external=True).size_bytes


def test_elements_are_aligned_to_their_own_size(weights):
    """A chunk of bytes at an odd place, in front of floats, tells nothing of how floats are to be aligned."""
    tensors = [
        outside("b", "a.bin", 41, 3, kind=TensorProto.INT8),
        outside("f", "a.bin", 64, 10),
        outside("d", "a.bin", 256, 10, kind=TensorProto.DOUBLE),
    ]
    layout = rewritten(tensors, weights, alignment=1)
    assert [layout.ranges[at][0] for at in range(3)] == [0, 4, 48]


def test_weights_are_not_read_by_a_link_that_was_put_there_since(weights):
    proto = onnx.ModelProto()
    proto.graph.initializer.append(outside("f", "a.bin", 0, 10))
    (weights / "secret").write_bytes(RNG.bytes(1 << 16))
    (weights / "a.bin").unlink()
    (weights / "a.bin").symlink_to(weights / "secret")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        write(proto, weights / "o.onnx", weights, external=True)
