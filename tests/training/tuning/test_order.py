"""The order of samples, and which are held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxprune.data.batching import BatchSize
from onnxprune.data.columns import Column
from onnxprune.data.samples import Data
from onnxprune.training.tuning.order import deciding, held_out, order_of


def data(count, batch=None):
    return Data({"x": np.arange(count, dtype=np.float32)[:, None]}, None, count, BatchSize(batch))


def taken(order, steps):
    return [rows.tolist() for step in range(steps) for rows in order.at(step)]


def test_an_epoch_takes_each_sample_once():
    order = order_of(data(10), 4, 1, seed=0)
    assert (order.runs_of_epoch, order.steps_of_epoch) == (3, 3)
    first, second = taken(order, 6)[:3], taken(order, 6)[3:]
    assert sorted(row for rows in first for row in rows) == list(range(10))
    assert sorted(row for rows in second for row in rows) == list(range(10))
    assert first != second


def test_the_order_follows_from_seed_and_step():
    one, other = order_of(data(10), 4, 1, seed=1), order_of(data(10), 4, 1, seed=1)
    assert [rows.tolist() for rows in one.at(5)] == taken(other, 6)[5:]
    assert taken(one, 3) != taken(order_of(data(10), 4, 1, seed=2), 3)


def test_a_step_has_several_runs():
    assert [len(rows) for rows in order_of(data(16), 8, 2, seed=0).at(0)] == [4, 4]
    assert [len(rows) for rows in order_of(data(16, batch=1), 4, 1, seed=0).at(0)] == [1, 1, 1, 1]
    assert [len(rows) for rows in order_of(data(3), 8, 1, seed=0).at(0)] == [3]


def test_samples_of_one_shape_go_together():
    shapes = [(3,), (5,), (3,), (5,), (5,)]
    column = Column(shapes, np.dtype(np.float32), lambda row: np.zeros(shapes[row], np.float32))
    order = order_of(replace(data(5), columns={"x": column}), 2, 1, seed=0)
    assert order.runs_of_epoch == 3
    for rows in taken(order, 3):
        assert len({shapes[row] for row in rows}) == 1
    assert sorted(row for rows in taken(order, 3) for row in rows) == list(range(5))


@pytest.mark.parametrize(("count", "batch", "held"), [(64, None, 8), (9, None, 1), (2, None, 1), (12, 4, 4)])
def test_some_samples_are_held_out(count, batch, held):
    train, others = held_out(data(count, batch))
    assert others.count == held
    assert train.count == count - held
    assert not set(train.rows.tolist()) & set(others.rows.tolist())


def test_held_out_samples_stand_in_blocks_and_are_not_many():
    _, others = held_out(data(64))
    assert others.rows.tolist() == [14, 15, 30, 31, 46, 47, 62, 63]
    assert held_out(data(100_000))[1].count == 512


def test_a_single_sample_is_both():
    train, others = held_out(data(1))
    assert train.count == others.count == 1


@pytest.mark.parametrize(("places", "count"), [(1, 512), (128, 128), (10_000, 64)])
def test_fewer_samples_decide_where_each_has_many_places(places, count):
    _, others = held_out(data(100_000))
    looked_at, unseen = deciding(others, places)
    assert looked_at.count == count
    assert set(looked_at.rows) <= set(others.rows)
    assert all(len(set(looked_at.rows) & set(block)) == count // 4 for block in np.split(others.rows, 4))
    left = [] if unseen is None else unseen.rows
    assert sorted([*looked_at.rows, *left]) == sorted(others.rows)


def test_those_that_decide_are_whole_runs():
    _, others = held_out(data(4096, batch=8))
    looked_at, unseen = deciding(others, 1000)
    rows = looked_at.rows.reshape(-1, 8)
    assert unseen.count == others.count - looked_at.count
    assert len(rows) == 8
    np.testing.assert_array_equal(rows, rows[:, :1] + np.arange(8))
    assert not (rows[:, 0] % 8).any()
