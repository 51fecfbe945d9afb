"""Weights set aside: the same model, whose large numbers lie in temporary files."""

from __future__ import annotations

import errno
import mmap
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.errors import ModelError
from onnxprune.graph.edit import Part, with_contents, with_weights_inside
from onnxprune.graph.files import deferred
from onnxprune.graph.files.aside import is_aside, released, with_weights_aside
from onnxprune.graph.files.deferred import deferring, kept_aside, out_of_memory
from onnxprune.graph.files.encode import serialize
from onnxprune.graph.files.message import message
from onnxprune.graph.files.read import load
from onnxprune.graph.files.write import foreseen, write
from onnxprune.graph.view import view
from onnxprune.runtime import session
from onnxprune.runtime.session import open_session
from tests.support.build import ROWS, model


@pytest.fixture
def path(tmp_path):
    """A file that holds two large weights, one of them with notes of its own, and a small one."""
    proto = model(
        "a = MatMul(x, w1)", "b = MatMul(a, w2)", "y = Add(b, b3)",
        x=ROWS.replace("6", "300"), w1=(300, 200), w2=(200, 300), b3=(300,),
    )  # fmt: skip
    proto.graph.initializer[1].doc_string = "notes stand behind the numbers"
    onnx.save(proto, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def folded(tmp_path):
    """A file whose plain form is another: the means of a weight are computed in it."""
    proto = model(
        "m = ReduceMean<keepdims = 1>(w1, axis)", "c = Sub(w1, m)", "a = MatMul(x, c)", "y = MatMul(a, w2)",
        x=ROWS.replace("6", "200"), w1=(200, 200), w2=(200, 300), axis=[0],
    )  # fmt: skip
    onnx.save(proto, tmp_path / "folded.onnx")
    return tmp_path / "folded.onnx"


def deferred_names(proto):
    return [tensor.name for tensor in proto.graph.initializer if tensor.external_data]


def test_the_model_is_the_same(path):
    loaded = load(path)
    with deferring():
        aside = with_weights_aside(loaded)
        assert deferred_names(aside.proto) == ["w1", "w2"]
        assert aside.proto.ByteSize() < 5_000
        assert is_aside(aside.proto)
        assert not is_aside(loaded.proto)
        for name in loaded.constants:
            np.testing.assert_array_equal(aside.array(name), loaded.array(name))
        told = [
            (each.is_external, each.data_files, each.size_bytes(), each.params, each.stored_params, each.sha256(),
             each.stamps, each.alignment, each.inputs, each.outputs, each.needed_bytes)
            for each in (aside, loaded)
        ]  # fmt: skip
        assert told[0] == told[1]


def test_what_both_forms_hold_is_stored_once(folded):
    loaded = load(folded)
    assert loaded.original is not None
    with deferring():
        aside = with_weights_aside(loaded)
        assert (deferred_names(aside.stored), deferred_names(aside.proto)) == (["w1", "w2"], ["w1", "w2"])
        tensors = [*aside.stored.graph.initializer, *aside.proto.graph.initializer]
        assert len({each.external_data[0].value for each in tensors if each.external_data}) == 2
        assert aside.constants.keys() == loaded.constants.keys()
        assert aside.stored_params == loaded.stored_params


@pytest.mark.parametrize("name", ["path", "folded"])
def test_written_again_it_has_the_same_bytes(name, request, tmp_path):
    loaded = load(request.getfixturevalue(name))
    places = tmp_path / "one.onnx", tmp_path / "other.onnx"
    write(loaded.stored, places[0], loaded.folder)
    with deferring():
        aside = with_weights_aside(loaded)
        assert write(aside.stored, places[1], aside.folder) is None
        assert places[0].read_bytes() == places[1].read_bytes() == serialize(aside.stored)
        assert with_weights_inside(aside.stored, aside.folder) == loaded.stored


def test_sizes_are_foreseen_without_making_numbers(path, monkeypatch):
    loaded = load(path)
    half = {"w1": {1: np.arange(200) % 2 == 0}, "w2": {0: np.arange(200) % 2 == 0}}
    expected = foreseen(with_contents(loaded, {n: Part(loaded, n, kept) for n, kept in half.items()}), loaded.folder)
    with deferring():
        aside = with_weights_aside(loaded)
        proto = with_contents(aside, {name: Part(aside, name, kept) for name, kept in half.items()})
        monkeypatch.setattr(Part, "__array__", None)
        assert foreseen(proto, aside.folder) == expected


def halved(loaded):
    """A version in memory of half of the units between both weights."""
    half = {"w1": {1: np.arange(200) % 2 == 0}, "w2": {0: np.arange(200) % 2 == 0}}
    proto = with_contents(loaded, {name: Part(loaded, name, kept) for name, kept in half.items()})
    return view(proto, folder=loaded.folder)


def test_a_version_in_memory_is_as_large_as_it_will_be(path, tmp_path):
    loaded = load(path)
    held = halved(loaded)
    with deferring():
        cut = halved(with_weights_aside(loaded))
        assert deferred_names(cut.proto) == ["w1", "w2"]
        write(cut.stored, tmp_path / "cut.onnx", cut.folder, cut.is_external)
        assert not cut.is_external
        expected = (tmp_path / "cut.onnx").stat().st_size
        assert expected > 2 * 100 * 300 * 4
        assert {cut.size_bytes(), cut.needed_bytes, held.size_bytes(), held.needed_bytes} == {expected}


def test_a_version_of_external_data_stays_external(path, tmp_path):
    onnx.save(onnx.load(path), tmp_path / "e.onnx", save_as_external_data=True, size_threshold=2000)
    loaded = load(tmp_path / "e.onnx")
    with deferring():
        cut = halved(with_fewer_rows(loaded))
        assert deferred_names(cut.proto) == ["w1", "w2"]
        assert not cut.data_files
        assert cut.is_external
        (tmp_path / "cut").mkdir()
        place = tmp_path / "cut" / "pruned.onnx"
        data = write(cut.stored, place, cut.folder, cut.is_external, cut.alignment)
        assert data is not None
        written = load(place)
        assert cut.size_bytes() == cut.needed_bytes == pytest.approx(written.size_bytes(), abs=200)  # names are longer


def with_fewer_rows(loaded):
    """A version in memory of the first inputs."""
    return view(with_contents(loaded, {"w1": Part(loaded, "w1", {0: np.arange(300) < 250})}), folder=loaded.folder)


def test_versions_of_one_content_have_one_hash(path):
    """A run that goes on tells by it whether it is the same model; the keys of what is deferred are others then."""
    loaded, found = load(path), []
    for _ in range(2):
        with deferring():
            cut = halved(with_weights_aside(loaded))
            found.append(cut.sha256())
            locations = [each.external_data[0].value for each in cut.proto.graph.initializer if each.external_data]
        found.append(locations)
    assert found[0] == found[2]
    assert found[1] != found[3]
    with deferring():
        doubled = with_contents(halved(loaded), {"b3": 2 * loaded.array("b3")})
        assert view(doubled).sha256() != found[0]


def test_sessions_share_what_lies_in_files(path):
    loaded, x = load(path), np.random.default_rng(0).standard_normal((4, 300)).astype(np.float32)
    with deferring():
        aside = with_weights_aside(loaded)
        shared = message(aside.proto, aside.folder)
        assert shared.arrays.keys() == {"w1", "w2"}
        for array in shared.arrays.values():
            while isinstance(array.base, np.ndarray):
                array = array.base  # noqa: PLW2901
            assert isinstance(array.base, mmap.mmap)
        found, expected = (open_session(each).run({"x": x})["y"] for each in (shared, path))
        np.testing.assert_array_equal(found, expected)


def test_constants_inside_of_nodes_hold_their_numbers():
    """Only initializers of the main graph are found again when a file is written."""
    proto = model("y = MatMul(x, w)", x=ROWS.replace("6", "300"), w=(300, 200))
    weight = proto.graph.initializer.pop()
    array = onnx.numpy_helper.to_array(weight)
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=weight))
    loaded = load(proto)
    with deferring():
        cut = with_contents(loaded, {"w": Part(loaded, "w", {1: np.arange(200) < 150})})
    tensor = cut.graph.node[0].attribute[0].t
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), array[:, :150])


@pytest.mark.parametrize("name", ["FLOAT8E5M2", "FLOAT8E4M3FN", "BFLOAT16", "FLOAT16", "INT8"])
def test_only_types_that_sessions_take_are_set_aside(name):
    """Arrays of other types cannot be handed over: such weights stay in the message."""
    kind = onnx.TensorProto.DataType.Value(name)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    proto = model(
        "w = Cast<to = 1>(q)",
        "y = MatMul(x, w)",
        x=ROWS.replace("6", "300"),
        y="float[n,300] y",
        q=(300, 300),
        infer=False,
    )
    q = np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32).astype(dtype)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(q, "q"))
    proto.opset_import[0].version, proto.ir_version = 19, 9
    x = np.random.default_rng(1).standard_normal((4, 300)).astype(np.float32)
    loaded = load(proto)
    with deferring():
        aside = with_weights_aside(loaded)
        assert deferred_names(aside.proto) == (["q"] if name in {"FLOAT16", "INT8"} else [])
        cut = shortened(aside)
        outputs = [open_session(message(each, Path())).run({"x": x[:, :250]})["y"] for each in (cut, shortened(loaded))]
        np.testing.assert_array_equal(*outputs)


def shortened(loaded):
    """A version whose weight lacks the last inputs."""
    kept = {"q": Part(loaded, "q", {0: np.arange(300) < 250})}
    proto = with_contents(loaded, kept)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 250
    return proto


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files, which is a link to another one."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "link"))
    return tmp_path / "real"


def test_each_reader_maps_a_file_anew_also_behind_a_link(temporary):
    array = np.random.default_rng(0).standard_normal((300, 200))
    with deferring():
        numbers = deferred.numbers_at(deferred.deferred(kept_aside(array)))
        assert [each.stat().st_size for each in temporary.glob("*/*")] == [array.nbytes]
        one, other = np.asarray(numbers), np.asarray(numbers)
        np.testing.assert_array_equal(one, array)
        assert one.base.base is not other.base.base
    assert list(temporary.iterdir()) == []


def test_what_finds_no_room_stays_in_memory(path, temporary, monkeypatch):
    loaded, room = load(path), [250_000]  # for one of both weights
    original = Path.write_bytes

    def write_bytes(self, data):
        room[0] -= data.nbytes
        original(self, data[: room[0]] if room[0] < 0 else data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with deferring():
        aside = with_weights_aside(loaded)
        assert deferred_names(aside.proto) == ["w1"]
        assert [each.stat().st_size for each in temporary.glob("*/*")] == [240_000]
        assert with_weights_inside(aside.stored, aside.folder) == loaded.stored
        for name in loaded.constants:
            np.testing.assert_array_equal(aside.array(name), loaded.array(name))


def test_files_of_what_is_released_go_and_those_of_others_stay(path, temporary):
    with deferring():
        kept, other = with_weights_aside(load(path)), with_weights_aside(load(path))
        held = kept.array("w1").copy()
        with released(other):
            assert len(list(temporary.glob("*/*"))) == 4
            mapped = other.array("w1")
        assert len(list(temporary.glob("*/*"))) == 2
        np.testing.assert_array_equal(kept.array("w1"), held)
        np.testing.assert_array_equal(mapped, held)  # who has it mapped may read on
        with pytest.raises(ModelError, match="what makes them is gone: read the model from the file"):
            other.array("w1")


def test_where_there_is_no_folder_there_is_no_room(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert deferred.has_room(1)
    assert not deferred.has_room(2**80)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert not deferred.has_room(1)


def test_what_leaves_the_memory_can_be_read_again():
    array = np.random.default_rng(0).standard_normal((300, 200))
    with deferring():
        aside = kept_aside(array)
        np.testing.assert_array_equal(aside, array)
        out_of_memory([aside, array])
        np.testing.assert_array_equal(aside, array)


def test_what_is_no_file_stays(tmp_path):
    """Numbers that were changed in memory alone would be lost."""
    array = np.arange(4096.0)
    array.tofile(tmp_path / "numbers")
    changed = np.memmap(tmp_path / "numbers", np.float64, "c")
    changed[:] = 7
    out_of_memory([array, changed, array[::2]])
    assert (changed == 7).all()
    assert array.sum() == 4095 * 2048


def test_a_session_gives_back_what_it_has_packed(path, monkeypatch):
    given = []
    monkeypatch.setattr(session, "out_of_memory", given.extend)
    with deferring():
        aside = with_weights_aside(load(path))
        shared = message(aside.proto, aside.folder)
        open_session(shared)
        assert [id(array) for array in given] == [id(array) for array in shared.arrays.values()]
