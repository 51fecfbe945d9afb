"""Batches of samples, and which of them are held out."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.calibration import batches
from onnxprune.calibration.batches import BATCH, JUDGED, Joined, batched, calibration, held_out
from onnxprune.calibration.statistics import activations
from onnxprune.data.samples import load_data
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from tests.support.build import ROWS, dense, model


def data(count, shape=(6,)):
    array = np.arange(count * int(np.prod(shape)), dtype=np.float32).reshape(count, *shape)
    return load_data({"x": array}, load(dense("b = Relu(a)")).inputs)


def sizes(batches):
    return [len(next(iter(batch.values()))) for batch in batches]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [1]), (5, [1] * 5), (17, [2] * 8 + [1]), (40, [5] * 8), (200, [BATCH] * 12 + [8])],
)
def test_sizes_of_batches(count, expected):
    found = batched(data(count))
    assert sizes(found) == expected
    np.testing.assert_array_equal(np.concatenate([b["x"] for b in found]), data(count).take(range(count))["x"])
    assert sizes(found[1:3]) == expected[1:3]
    np.testing.assert_array_equal(found[-1]["x"], found[len(found) - 1]["x"])


def test_batches_hold_samples_of_one_shape():
    proto = model("y = Relu(x)", x="float[n,s] x")
    feeds = [{"x": np.zeros((1, length), np.float32)} for length in (3, 3, 4, 4, 4, 3) for _ in range(4)]
    batches = batched(load_data(feeds, load(proto).inputs))
    assert [batch["x"].shape for batch in batches] == [(3, s) for s in (3, 3)] + [(2, 3)] + [(3, 4)] * 4 + [
        (3, 3),
        (1, 3),
    ]


def test_a_model_that_takes_several_at_once_gets_so_many():
    proto = model("y = Relu(x)", x="float[4,6] x")
    found = load_data({"x": np.zeros((12, 6), np.float32)}, load(proto).inputs)
    assert sizes(batched(found)) == [4, 4, 4]


@pytest.mark.parametrize(("count", "expected"), [(12, 12), (11, 8), (4, 4), (3, 3), (1, 1)])
def test_what_does_not_fill_a_run_is_left_out_unless_there_is_no_other(count, expected):
    proto = model("y = Relu(x)", x="float[4,6] x")
    data = load_data({"x": np.arange(6.0 * count, dtype=np.float32).reshape(count, 6)}, load(proto).inputs)
    found = calibration(load(proto), data, "dense")
    assert found.samples == sum(found.counts) == expected
    assert sizes(found.batches) == [4] * len(found.batches)
    assert found.judged_samples == sum(found.counts[number] for number in found.judged)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_statistics_of_pieces_are_those_of_all(size):
    proto, rows = dense("b = Relu(a)"), np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    pruned = [[{"x": rows}], [{"x": rows[i : i + size]} for i in range(0, 8, size)]]
    traced = trace(load(proto))
    one, other = (activations(traced, groups(traced), batches) for batches in pruned)
    for name, seen in one.items():
        for before, after in zip(seen, other[name], strict=True):
            np.testing.assert_allclose(before.square, after.square, rtol=1e-5)
            assert before.count == after.count


@pytest.mark.parametrize(
    ("count", "held"), [(1, ()), (2, (1,)), (3, (2,)), (4, (3,)), (8, (3, 7)), (9, (3, 7)), (20, (3, 7, 11, 15, 19))]
)
def test_held_out_batches(count, held):
    assert held_out(count) == held


def test_sources_after_one_another():
    joined = Joined([{"x": np.array(n)} for n in range(3)], [{"x": np.array(n)} for n in (7, 8)])
    assert [int(each["x"]) for each in joined] == [0, 1, 2, 7, 8]
    assert [int(each["x"]) for each in joined[2:4]] == [2, 7]
    assert int(joined[-1]["x"]) == 8
    with pytest.raises(IndexError):
        joined[5]


def test_a_calibration():
    found = calibration(load(dense("b = Relu(a)")), data(40), "dense")
    assert (found.samples, found.metric.kind, found.source) == (40, "dense", "data")
    assert found.held == found.judged == (3, 7)
    single = calibration(load(dense("b = Relu(a)")), data(1), None)
    assert (single.held, single.judged) == ((), (0,))
    many = calibration(load(dense("b = Relu(a)")), data(400), None)
    assert set(many.judged) <= set(many.held)
    assert 0 < len(many.judged) <= JUDGED
    assert len(many.held) == len(many.batches) // 4


def test_large_outputs_are_judged_on_fewer_batches(monkeypatch):
    seen = calibration(load(dense("b = Relu(a)")), data(400), None)
    assert seen.output_bytes == BATCH * 5 * 4
    assert len(seen.judged) == 4
    monkeypatch.setattr(batches, "JUDGED_BYTES", 2 * seen.output_bytes)
    assert seen.judged == seen.held[:2]
    monkeypatch.setattr(batches, "JUDGED_BYTES", 1)
    assert seen.judged == seen.held[:1]


def test_other_samples_are_held_out_in_the_place_of_some():
    found = calibration(load(dense("b = Relu(a)")), data(40), "dense", evaluated=data(10))
    assert sizes(found.batches) == [5] * 8 + [1] * 10
    assert found.held == found.judged == tuple(range(8, 18))


def test_the_metric_follows_from_the_outputs():
    proto = model("y = Softmax(x)", x=ROWS)
    assert calibration(
        load(proto), load_data({"x": np.zeros((8, 6), np.float32)}, load(proto).inputs), None
    ).metric.kind


@pytest.mark.parametrize(("most", "expected"), [(2**20, 16), (4 * 64 * 5 * 9, 9), (1, 1)])
def test_batches_hold_fewer_samples_where_outputs_are_large(monkeypatch, most, expected):
    monkeypatch.setattr(batches, "OUTPUT_BYTES", most)
    loaded = load(model("y = MatMul(x, w)", x="float[n,s,6] x", w=(6, 64)))
    samples = load_data({"x": np.ones((160, 5, 6), np.float32)}, loaded.inputs)
    found = calibration(loaded, samples, None)
    assert sizes(found.batches)[0] == expected
    assert found.output_bytes == expected * 5 * 64 * 4
    assert sum(found.counts) == 160
