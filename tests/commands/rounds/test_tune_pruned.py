"""Prune and tune in one go."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import onnxprune
from onnxprune.commands.steps.job import make_learning
from onnxprune.errors import OptionError
from onnxprune.planning.options import make_options
from onnxprune.report.prune import prune_tables
from tests.support.schema import follows_the_schema
from tests.training.pairs import classifier, pictures

OTHERS = {"rounds": 1, "data": "samples.npz", "options": make_options()}


def pruned(tune, **options):
    data = {"x": pictures(96)}
    options = {"criterion": "random", "round_to": 1, "latency": False, "reconstruct": False, **options}
    return onnxprune.prune(classifier(), 0.5, data=data, tune=tune, **options)


def test_a_cut_is_proven_and_then_tuned():
    result = pruned({"steps": 20, "rate": 3e-3, "batch": 16, "threads": 1})
    report, tuning = result.report, result.report["tuning"]
    follows_the_schema(json.loads(json.dumps(report)))
    assert report["verification"]["passed"]
    assert tuning["helped"]
    assert tuning["lesson"]["losses"] == {"kl": 1.0, "features": 1.0}
    assert tuning["proof"]["max_rel_diff"] < 1e-4
    plain = pruned(None)
    assert plain.report["tuning"] is None
    assert report["fidelity"]["figures"]["kl"] < plain.report["fidelity"]["figures"]["kl"]
    assert [node.name for node in result.model.graph.node] == [node.name for node in plain.model.graph.node]
    line = next(str(part) for part in prune_tables(report) if "tuned in" in str(part))
    assert re.match(r"tuned in 20 steps in \d+ s: held-out loss .* -> .*; the proof is of the cut", line)


def test_other_samples_are_evaluated():
    result = pruned("3 steps", eval_data={"x": pictures(16, seed=1)})
    assert result.report["tuning"]["lesson"]["samples"] == 84
    assert result.report["tuning"]["lesson"]["held_out"] == 12


def test_seed_and_metric_of_prune_are_those_of_tuning():
    tuning = pruned("2 steps", seed=7, metric="embedding").report["tuning"]
    assert (tuning["options"]["seed"], tuning["options"]["metric"]) == (7, "embedding")
    assert tuning["lesson"]["metric"] == "embedding"
    tuning = pruned({"steps": 2, "seed": 3, "metric": "classification"}, seed=7, metric="embedding").report["tuning"]
    assert (tuning["options"]["seed"], tuning["lesson"]["metric"]) == (3, "classification")


@pytest.mark.parametrize("name", ["tune", "masks"])
def test_options_without_effect_are_refused(name):
    for each in ("eval_data", "preprocess", "inputs"):
        with pytest.raises(OptionError, match=f"{each} has no effect in {name}: it is an option of prune itself"):
            make_learning(**{"tune": None, "masks": None, name: {"steps": 1, each: "none.npz"}}, **OTHERS)
    with pytest.raises(OptionError, match="slim has no effect with masks: their budget says how many units go"):
        make_learning(tune=None, masks={"steps": 1, "slim": 0.1}, **OTHERS)
    with pytest.raises(OptionError, match="statistics stay as they are while masks are learned: leave them out"):
        make_learning(tune=None, masks={"steps": 1, "statistics": "batch"}, **OTHERS)


def test_what_does_not_help_is_told():
    report = dict(pruned("2 steps").report)
    report["tuning"] = {**report["tuning"], "helped": False}
    assert any("did not help" in str(part) for part in prune_tables(report))


@pytest.mark.parametrize(
    ("tune", "data", "message"),
    [
        ("20m", None, "tune needs data: give samples with --data"),
        ("much", {"x": np.zeros((2, 1, 16, 16), np.float32)}, "tune takes 20m, 90s, 1h, '500 steps' or '3 epochs'"),
        ({"steps": 0}, {"x": np.zeros((2, 1, 16, 16), np.float32)}, "steps must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be(tune, data, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        onnxprune.prune(classifier(), 0.5, data=data, tune=tune)
