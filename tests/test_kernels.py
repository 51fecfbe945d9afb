"""Times of single nodes: keys, batches, the file that keeps them."""

from __future__ import annotations

import json
import time

import numpy as np
import onnx
import pytest

from onnxprune import kernels
from onnxprune.errors import ModelError
from onnxprune.kernels import Kernel, Tables
from onnxprune.model import Operand, Stand, load, side_by_side, stand
from tests.rules.build import model

FOREVER = float("inf")


def matmul(outs, name="fc"):
    """A MatMul of 4 x 8 by 8 x outs, of a model of that node."""
    source = load(model("y = MatMul(x, w)", x="float[4,8] x", w=(8, 8)))
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
    assert json.loads(path.read_text())[broken().key] is None


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
    monkeypatch.delenv(kernels.CACHE)
    assert "onnxprune" in str(kernels.cache_file("cpu", 1))


def test_operands_are_ordinary_numbers():
    small = kernels._random(np.dtype("float32"), (3, 4), 5)
    assert small.shape == (3, 4)
    assert not np.array_equal(small, kernels._random(np.dtype("float32"), (3, 4), 6))
    assert not kernels._random(np.dtype("int8"), (3,), 1).any()
    assert kernels._random(np.dtype("float16"), (2,), 1).dtype == np.float16


def test_a_failure_of_all_is_told_one_by_one(path, monkeypatch):
    def fail(*_, **__):
        raise ModelError("no")

    monkeypatch.setattr(kernels, "node_times", fail)
    tables = Tables("cpu", 1, path)
    assert tables.measure([matmul(8), matmul(4), matmul(2)], until=FOREVER)
    assert [tables.ms(matmul(outs)) for outs in (8, 4, 2)] == [None, None, None]
