"""Targets in terms of what is left of a model."""

from __future__ import annotations

import pytest

from onnxprune.planning.left import Cost, rest_of, targets_left
from onnxprune.planning.options import make_options

COSTS = {"size": Cost(1000.0, 0.8), "latency": Cost(20.0, 0.5), "macs": Cost(1e6, 0.9)}


def test_targets_that_are_met_are_dropped_and_others_are_of_what_is_left():
    options = make_options(targets={"size": 0.4, "latency": 0.6, "macs": "450K"})
    assert targets_left(options, COSTS) == (("size", 0.5), ("macs", "450K"))
    assert rest_of(make_options(targets={"latency": 0.6}), COSTS) is None


def test_targets_of_what_is_made_of_it_afterwards_stay_as_amounts():
    """Eight bits may miss what the model in float32 meets."""
    options = make_options(targets={"size": 0.9, "latency": "11ms", "macs": 0.95})
    left = rest_of(options, COSTS, ("size", "latency"))
    assert left is not None
    size, latency = left.bounds
    assert (size.kind, latency.kind) == ("size", "latency")
    assert size.fraction(800.0) * 800 == pytest.approx(900)
    assert latency.fraction(10.0) == pytest.approx(1.1)
