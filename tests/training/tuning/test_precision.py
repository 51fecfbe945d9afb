"""The precision of steps: chosen by their time."""

import itertools
import math

import pytest
import torch

from onnxprune.training.settings import make_tune_options
from onnxprune.training.tuning.precision import autocast, faster, seconds_of


@pytest.mark.parametrize(
    ("single", "half", "chosen"), [(1.0, 0.5, "bfloat16"), (1.0, 0.9, "float32"), (1.0, 4.0, "float32")]
)
def test_the_faster_precision_is_taken_where_it_is_worth_it(single, half, chosen):
    assert faster({"float32": single, "bfloat16": half}.__getitem__) == chosen


def test_the_first_time_of_each_does_not_count_and_the_least_of_the_others_does():
    told = {"float32": itertools.chain([0.1], [1.0, 2.0]), "bfloat16": itertools.chain([9.0], [3.0, 0.5])}
    asked = []

    def seconds(precision):
        asked.append(precision)
        return next(told[precision])

    assert faster(seconds) == "bfloat16"
    assert asked == ["float32", "bfloat16"] * 3


@pytest.mark.parametrize(("told", "chosen"), [((1.0, 0.2), "bfloat16"), ((1.0, 0.9), "float32")])
def test_the_first_times_count_where_the_time_for_trying_is_over(told, chosen):
    asked = []
    seconds = dict(zip(("float32", "bfloat16"), told, strict=True))
    assert faster(lambda each: (asked.append(each), seconds[each])[1], 10.0) == chosen
    assert asked == ["float32", "bfloat16"]


def test_a_precision_that_cannot_be_run_is_not_taken_nor_tried_again():
    asked = []

    def failing():
        raise RuntimeError("no kernel")

    assert seconds_of(failing) == math.inf
    seconds = {"float32": 1.0, "bfloat16": math.inf}
    assert faster(lambda each: (asked.append(each), seconds[each])[1]) == "float32"
    assert asked == ["float32", "bfloat16"]
    assert faster({"float32": math.inf, "bfloat16": math.inf}.__getitem__) == "float32"


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_are_of_the_precision(precision, dtype):
    with autocast(precision, "cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({"steps": 3}, "float32"),
        ({"epochs": 1}, "float32"),
        ({"time": "20m"}, "auto"),
        ({"time": "20m", "precision": "float32"}, "float32"),
        ({"steps": 3, "precision": "auto"}, "auto"),
    ],
)
def test_runs_whose_length_is_a_time_choose_by_themselves(options, precision):
    assert make_tune_options(**options).precision == precision
