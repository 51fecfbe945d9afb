"""Sparse training: the penalty of Network Slimming, and of group lasso where there is no scale."""

import pytest
import torch

from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import OptionError
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.training.network.module import Network
from onnxprune.training.network.units import units_of
from onnxprune.training.sparse.slim import penalty_of, slimming_penalty
from onnxprune.training.tuning.tuner import tuned
from tests.support.build import model
from tests.support.paths import ROOT
from tests.training.pairs import classifier, lesson


@pytest.mark.parametrize("name", ["resnet_bn", "vit"])
def test_the_penalty_alone_makes_units_small(name):
    traced = trace(load(ROOT / "models" / f"{name}.onnx"))
    network = Network(traced.model)
    units = units_of(network, [group for group in groups(traced) if group.prunable])
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    first = slimming_penalty(units, network.weights, 0.1)
    for _ in range(5):
        optimiser.zero_grad()
        slimming_penalty(units, network.weights, 0.1).backward()
        optimiser.step()
    assert slimming_penalty(units, network.weights, 0.1) < first
    assert slimming_penalty(units, network.weights, 0.2).item() == pytest.approx(
        2 * slimming_penalty(units, network.weights, 0.1).item(), rel=1e-5
    )


def test_a_run_makes_units_small_and_still_does_what_the_teacher_does():
    task, options = lesson(small=classifier(), slim=0.01, loss={"kl": 1}, steps=40, rate=0.03)
    assert task.penalty is not None
    before = task.penalty(task.network.weights).item()
    outcome = tuned(task, options)
    assert outcome.helped
    assert outcome.history[0].held == pytest.approx(before, rel=1e-3)  # a copy of the teacher has no other loss
    assert task.penalty(task.network.weights).item() < 0.96 * before
    assert outcome.best.held < outcome.history[0].held


def test_a_model_without_units_cannot_be_slimmed():
    proto = model("y = Gemm(x, w, b)", x="float[n,4] x", y="float[n,3] y", w=(4, 3), b=(3,))
    with pytest.raises(OptionError, match="slim has no effect: no group of units that can be removed has weights"):
        penalty_of(Network(view(proto)), 0.1)
