"""Sparse training: the penalty of Network Slimming, and of group lasso where there is no scale."""

import pytest
import torch

from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.read import load
from onnxprune.training.network import Network
from onnxprune.training.slim import slimming_penalty
from onnxprune.training.units import units_of
from tests.support.paths import ROOT


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
