"""Times of single nodes: keys, batches, the file that keeps them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from onnxprune.errors import ModelError
from onnxprune.graph.files.read import load
from onnxprune.graph.forms.parts import Operand, Stand, side_by_side, stand
from onnxprune.latency import kernels
from onnxprune.latency.kernels import Kernel, Tables
from onnxprune.latency.times_file import read_times
from onnxprune.runtime.timing import NodeTime
from tests.support.build import model

FOREVER = float("inf")


def matmul(outs, opset=18):
    """A MatMul of 4 x 8 by 8 x outs, of a model of that node."""
    source = load(model("y = MatMul(x, w)", x="float[4,8] x", opset=opset, w=(8, 8)))
    node = source.nodes[0]
    return Kernel(stand(source, node, [Operand("float32", (4, 8), False), Operand("float32", (8, outs), True)], {}))


def broken():
    """A MatMul whose operands do not fit."""
    one = matmul(8).stand
    return Kernel(Stand(one.op, one.node, (one.operands[0], Operand("float32", (7, 8), True)), 1, one.opsets))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "times.json"


def test_kernels_of_one_shape_have_one_key_and_no_names():
    assert matmul(8).key == matmul(8).key
    assert matmul(8).key != matmul(7).key
    assert matmul(8).key.startswith("MatMul:")
    assert matmul(8, opset=21).key != matmul(8).key
    assert matmul(8).key.endswith(" float32[4,8] float32[8,8]c")


def test_attributes_are_part_of_the_key_and_follow_sizes():
    source = load(model("y = Conv<group = 4>(x, w)", x="float[1,8,6,6] x", w=(8, 2, 3, 3)))
    operands = [Operand("float32", (1, 4, 6, 6), False), Operand("float32", (4, 2, 3, 3), True)]
    four, two = (Kernel(stand(source, source.nodes[0], operands, {"group": group})) for group in (4, 2))
    assert four.key != two.key
    proto, feeds = side_by_side([two.stand], kernels._random)
    (found,) = onnx.ModelProto.FromString(proto).graph.node
    assert {attribute.name: attribute.i for attribute in found.attribute} == {"group": 2}
    assert [array.shape for array in feeds.values()] == [(1, 4, 6, 6)]


def test_numbers_that_decide_what_a_node_does_are_part_of_it():
    source = load(model("y = Gather(x, i)", x="float[4,8] x", i=np.array([3, 0])))
    held = [Operand("int64", (2,), True, np.array(content).tobytes()) for content in ([3, 0], [2, 1])]
    data = Operand("float32", (4, 8), False)
    one, other = (Kernel(stand(source, source.nodes[0], [data, operand], {})) for operand in held)
    assert one.key != other.key
    proto, _ = side_by_side([one.stand, other.stand], kernels._random)
    found = [onnx.numpy_helper.to_array(t).tolist() for t in onnx.ModelProto.FromString(proto).graph.initializer]
    assert found == [[3, 0], [2, 1]]


def test_known_numbers_that_are_fed_are_fed():
    source = load(model("y = Gather(x, i)", x="float[4,8] x, int64[2] i"))
    held = [Operand("int64", (2,), False, np.array(content).tobytes()) for content in ([3, 0], [2, 1], [3, 0])]
    data = Operand("float32", (4, 8), False)
    asked = [stand(source, source.nodes[0], [data, operand], {}) for operand in (*held, Operand("int64", (2,), False))]
    _, feeds = side_by_side(asked, kernels._random)
    assert sorted(array.tolist() for array in feeds.values() if array.ndim == 1) == [[1, 1], [2, 1], [3, 0]]


def test_a_node_that_is_taken_apart_is_timed_as_a_whole(path, monkeypatch):
    ran = []

    def fake(proto, feeds, **_):
        count = len(onnx.ModelProto.FromString(proto).graph.node)
        ran.append(count)
        parts = [NodeTime("inlined_0", "Mul", 1.0, ()), NodeTime("inlined_1", "Add", 2.0, ())]
        return parts if count == 1 else [NodeTime("k0", "MatMul", 5.0, ()), *parts]

    monkeypatch.setattr(kernels, "node_times", fake)
    tables = Tables("cpu", 1, path)
    assert tables.measure([matmul(8), matmul(4)], until=FOREVER)
    assert [tables.ms(matmul(outs)) for outs in (8, 4)] == [5.0, 3.0]
    assert ran == [2, 1]


def test_a_node_of_which_nothing_runs_is_not_measured(path, monkeypatch):
    monkeypatch.setattr(kernels, "node_times", lambda *_, **__: [])
    tables = Tables("cpu", 1, path)
    assert tables.measure([matmul(8)], until=FOREVER)
    assert tables.ms(matmul(8)) is None
    assert not path.exists()


def test_what_others_write_meanwhile_is_kept(path):
    one, other = Tables("cpu", 1, path), Tables("cpu", 1, path)
    one.keep({"a": 1.0})
    other.keep({"b": 2.0})
    one.keep({"c": 3.0})
    assert json.loads(path.read_text()) == {"a": 1.0, "b": 2.0, "c": 3.0}


def test_what_was_measured_is_written_after_each_batch(path, monkeypatch):
    monkeypatch.setattr(kernels, "MOST", 1)
    tables = Tables("cpu", 1, path)
    held = []
    tables.measure([matmul(8), matmul(4)], until=FOREVER, progress=lambda *_: held.append(len(read_times(path))))
    assert held == [0, 1]


def test_a_failure_to_write_leaves_nothing_behind(path, monkeypatch):
    tables = Tables("cpu", 1, path)

    def fail(*_):
        raise OSError

    monkeypatch.setattr(Path, "replace", fail)
    tables.keep({"a": 1.0})
    assert [found.suffix for found in path.parent.iterdir()] == [".lock"]


def test_gpus_are_told_by_name(monkeypatch):
    listed = SimpleNamespace(stdout="0, Fast, 580.1\n1, Slow, 580.1\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(kernels.subprocess, "run", lambda *_, **__: listed)
    assert kernels._devices.__wrapped__() == "0, Fast, 580.1\n1, Slow, 580.1 1"

    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(kernels.subprocess, "run", missing)
    assert kernels._devices.__wrapped__() == " 1"


def test_what_was_measured_is_kept(path):
    tables = Tables("cpu", 1, path)
    asked = [matmul(outs) for outs in (8, 4, 8)]
    assert tables.measure(asked, until=FOREVER)
    assert tables.measured == 2
    assert all(tables.ms(kernel) >= 0 for kernel in asked)
    again = Tables("cpu", 1, path)
    assert again.ms(asked[1]) == tables.ms(asked[1])
    assert again.measure(asked, until=FOREVER)
    assert again.measured == 0


def test_a_node_that_does_not_run_spoils_no_other(path):
    tables = Tables("cpu", 1, path)
    asked = [matmul(3), broken(), matmul(5)]
    assert tables.measure(asked, until=FOREVER)
    assert [tables.ms(kernel) is None for kernel in asked] == [False, True, False]
    assert broken() in tables
    assert broken() not in Tables("cpu", 1, path)  # a failure may have been one of that run


def test_no_time_is_left(path):
    tables = Tables("cpu", 1, path)
    assert not tables.measure([matmul(8)], until=time.monotonic() - 1)
    assert tables.ms(matmul(8)) is None
    assert matmul(8) not in tables
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"a": "fast"}', "{"])
def test_a_damaged_file_is_measured_anew(path, text):
    path.parent.mkdir()
    path.write_text(text)
    tables = Tables("cpu", 1, path)
    assert tables.measure([matmul(8)], until=FOREVER)
    assert Tables("cpu", 1, path).ms(matmul(8)) is not None


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path):
    (tmp_path / "file").write_text("")
    tables = Tables("cpu", 1, tmp_path / "file" / "times.json")
    assert tables.measure([matmul(8)], until=FOREVER)
    assert tables.ms(matmul(8)) is not None


def test_other_providers_run_each_node_by_itself(path, monkeypatch):
    opened = []

    class Fake:
        def timed(self, feeds):
            return lambda: opened.append(sorted(feeds))

    monkeypatch.setattr(kernels, "open_session", lambda proto, **options: Fake())
    monkeypatch.setattr(kernels, "time_interleaved", lambda runs, **_: [np.array([1.0, 3.0, 2.0]) for run in runs])
    tables = Tables("cuda", 0, path)
    assert tables.measure([matmul(8), matmul(4)], until=FOREVER)
    assert tables.ms(matmul(4)) == 2.0


def test_batches_fit_into_memory(monkeypatch):
    monkeypatch.setattr(kernels, "MOST", 2)
    asked = [matmul(outs) for outs in range(1, 6)]
    assert [len(batch) for batch in kernels._batches(asked)] == [2, 2, 1]
    monkeypatch.setattr(kernels, "BATCH_BYTES", 4 * (4 * 8 + 8 * 2))
    assert [len(batch) for batch in kernels._batches(asked)] == [1, 1, 1, 1, 1]


def test_the_file_is_named_after_the_machine(monkeypatch, tmp_path):
    monkeypatch.setenv(kernels.CACHE, str(tmp_path))
    one, two = kernels.cache_file("cpu", 1), kernels.cache_file("cpu", 2)
    assert one != two
    assert one.parent == two.parent == tmp_path / "latency"
    monkeypatch.setattr(kernels, "machine", lambda: {"cpu": "other", "logical_cores": 1, "onnxruntime": "1"})
    assert kernels.cache_file("cpu", 1) != one
    monkeypatch.undo()
    monkeypatch.setattr(kernels, "affinity", lambda: (0, 1, 2, 3, 4, 5, 6))
    assert kernels.cache_file("cpu", 1).name != one.name
    monkeypatch.delenv(kernels.CACHE, raising=False)
    assert "onnxprune" in str(kernels.cache_file("cpu", 1))
    monkeypatch.setattr(kernels.platformdirs, "user_cache_dir", lambda *_, **__: "~/.cache/onnxprune")
    assert kernels.cache_file("cpu", 1).is_relative_to(os.devnull)  # nobody's home


def test_operands_are_ordinary_numbers():
    small = kernels._random(np.dtype("float32"), (3, 4), 5)
    assert small.shape == (3, 4)
    assert not np.array_equal(small, kernels._random(np.dtype("float32"), (3, 4), 6))
    assert not kernels._random(np.dtype("int8"), (3,), 1).any()
    assert kernels._random(np.dtype("int64"), (3,), 1).tolist() == [1, 1, 1]
    assert kernels._random(np.dtype("bool"), (1,), 1).all()
    assert kernels._random(np.dtype("float16"), (2,), 1).dtype == np.float16


def test_a_failure_of_all_is_told_one_by_one(path, monkeypatch):
    def fail(*_, **__):
        raise ModelError("no")

    monkeypatch.setattr(kernels, "node_times", fail)
    tables = Tables("cpu", 1, path)
    assert tables.measure([matmul(8), matmul(4), matmul(2)], until=FOREVER)
    assert [tables.ms(matmul(outs)) for outs in (8, 4, 2)] == [None, None, None]
