"""The measurement of published methods: how much each is to remove, and the page."""

from __future__ import annotations

import pytest

import onnxprune
from onnxprune.planning.methods import METHODS
from tests.support.paths import MODELS
from tools.measure.methods import BOTH, DEPTH, SUBJECTS, WAYS, WIDTH, options, page, rows, shape_of, share_of

VIT = MODELS / "vit.onnx"


def row(way, loss, fraction=0.8, **more):
    figures = {"perplexity_before": 20.0, "perplexity_after": loss, "kl": 0.1}
    cost = {"params": 0.79, "macs": 0.8, "speedup": 1.25, "cpu_seconds": 61.2, "peak_bytes": 3 * 2**30}
    key = {"subject": "smollm2", "way": way, "fraction": fraction, "commit": "abc"}
    return ("smollm2", way, fraction), {**key, "branches": None, "figures": figures, **cost, **more}


def test_a_share_of_depth_removes_as_many_parameters_as_are_to_go():
    """Five blocks of a fifth of the parameters each: one is a little less than 0.2 of all, two are more."""
    assert share_of(VIT, 0.81) == pytest.approx(0.2, abs=1e-3)
    assert share_of(VIT, 0.8) == pytest.approx(0.4, abs=1e-3)


def test_a_shape_leaves_as_many_parameters_as_are_to_be_left():
    kept = shape_of(VIT, 0.8)
    report = onnxprune.prune(str(VIT), shape=kept, criterion="l2", latency=False).report
    assert 0.75 < report["output"]["params"] / report["input"]["params"] <= 0.8
    assert {group["name"]: group["kept"] for group in report["groups"] if group["name"] in kept} == kept


@pytest.mark.parametrize("way", WAYS)
def test_every_way_has_options_that_can_be_asked_for(way):
    given = options(SUBJECTS["vit"], way, 0.8, MODELS, "20m")
    assert ("method" in given) == (way in METHODS)
    assert ("depth" in given) == (way in (DEPTH, BOTH, "shortgpt", "laco"))
    assert given.pop("masks", None) == ("20m" if way == "sheared" else None)
    onnxprune.planning.options.make_options(**given)


def test_the_page_tells_rows_refusals_and_what_papers_say():
    key = {"subject": "smollm2", "way": "laco", "fraction": 0.8, "commit": "abc", "why_not": "no block can go"}
    measured = dict([row(WIDTH, 25.0), row("flap", 30.0), row("llm-pruner", 40.0)])
    text = page({**measured, ("smollm2", "laco", 0.8): key})
    cells = "| `decoder.onnx` | 0.8 | flap | 0.790 | 0.800 | 1.25 | perplexity 30 (of 20), kl 0.1 | 61 | 3.0 GiB |"
    assert cells in text
    assert "`decoder.onnx`, 0.8, laco: no block can go" in text
    assert "| flap | llm-pruner | An et al. 2023: perplexity of LLaMA without training" in text
    assert "| 0.8 | confirmed: perplexity 30 and 40 |" in text
    turned = page(dict([row("flap", 50.0), row("llm-pruner", 40.0)]))
    assert "contradicted: perplexity 50 and 40" in turned


def test_rows_that_are_there_are_not_measured_again(tmp_path):
    assert rows(tmp_path / "none.jsonl") == {}
