"""Every operator of the second table computes what ONNX Runtime computes: all cases of the first table, and more."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from onnxprune.commands.steps.prepare import part_to_run
from onnxprune.dependency.rules import LOCKED, RULES
from onnxprune.evaluation.settings import settings
from onnxprune.graph.files.encode import serialize
from onnxprune.graph.files.read import load
from onnxprune.runtime.session import open_session
from onnxprune.training.network.agreement import check_agreement
from onnxprune.training.network.module import Network
from onnxprune.training.operators import registry
from tests.dependency.rules.test_rules import RUNNABLE
from tests.support.zoo_store import load_zoo, read, refill

HALVES = "a product of scales gives exact halves, which ONNX Runtime rounds after another multiplication"
ONE_STEP_APART = {
    "com.microsoft.QLinearMul": HALVES,
    "com.microsoft.QLinearAveragePool": HALVES,
    "com.microsoft.QLinearAveragePool-padded": HALVES,
    "com.microsoft.QLinearAveragePool-channels-last": HALVES,
}
OTHER_NAMES = {"com.microsoft.SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"}  # of old files
CASES = [case for case in RUNNABLE if str(case) not in ONE_STEP_APART]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operators_compute_what_onnx_runtime_computes(case):
    model = load(case.proto)
    session = open_session(serialize(model.proto), folder=model.folder, threads=1)
    network = Network(model)
    for feeds in (each.feeds for each in settings(model, session)[:2]):
        check_agreement(network, feeds)


def test_every_operator_with_a_rule_has_a_line():
    assert not RULES.keys() - registry.names()


def test_lines_are_of_operators_that_the_rules_know():
    assert not registry.names() - RULES.keys() - LOCKED.keys() - OTHER_NAMES


@pytest.mark.parametrize("name", ["genai_gemma2_fp32.genai", "genai_gemma_int4.genai"])
def test_caches_that_slide_and_packed_tables_of_decoders_are_computed(name):
    """Its windows are full of the past; the table of words is the last layer's weight in another shape."""
    model = part_to_run(load(refill(read(load_zoo()[name].path))), {})
    session = open_session(serialize(model.proto), folder=model.folder, threads=1)
    network = Network(model)
    for feeds in (each.feeds for each in settings(model, session)[:2]):
        check_agreement(network, feeds)
