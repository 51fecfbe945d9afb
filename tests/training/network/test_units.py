"""Units of groups in a network: norms, and gates that are masks."""

import numpy as np
import pytest
import torch

from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.encode import serialize
from onnxprune.graph.files.read import load
from onnxprune.runtime.session import open_session
from onnxprune.surgery.mask import masked
from onnxprune.training.network.module import Network
from onnxprune.training.network.units import gated, units_of
from tests.support.paths import ROOT

MODELS = sorted((ROOT / "models").glob("*.onnx"))


@pytest.mark.parametrize("path", MODELS, ids=[path.stem for path in MODELS])
def test_a_shut_gate_is_a_removed_unit(path):
    traced = trace(load(path))
    network = Network(traced.model)
    rng = np.random.default_rng(0)
    prunable = [group for group in groups(traced) if group.prunable and group.units > 2]
    units = [each for each in units_of(network, prunable) if each.consumers]
    assert len(units) > 2
    kept = {each.name: rng.random(each.count) > 0.4 for each in units}
    port = traced.model.inputs[0]
    feeds = {port.name: rng.standard_normal((2, *port.shape[1:])).astype(np.float32)}
    proto = masked(traced, {group.atom: kept[group.name] for group in prunable if group.name in kept})
    expected = open_session(serialize(proto)).run(feeds)
    gates = {name: torch.from_numpy(mask).float() for name, mask in kept.items()}
    outputs = network(feeds, weights=gated(units, gates, network.weights))
    for name, array in expected.items():
        assert np.abs(outputs[name].detach().numpy() - array).max() <= 1e-5 * np.abs(array).max()


def test_norms_are_those_of_the_weights_of_each_unit():
    traced = trace(load(ROOT / "models" / "resnet_folded.onnx"))
    network = Network(traced.model)
    for group in groups(traced):
        for each in units_of(network, [group]):
            makers = {
                (m.constant, m.dim): m for m in group.members if m.role == "out" and m.constant in network.weights
            }
            expected = sum(
                np.square(member.matrix(traced.model.array(name))).sum(1) for (name, _), member in makers.items()
            )
            np.testing.assert_allclose(each.importance(network.weights).detach() ** 2, expected, rtol=1e-4)


def test_scales_of_batch_norm_stand_for_their_channels():
    traced = trace(load(ROOT / "models" / "resnet_bn.onnx"))
    network = Network(traced.model)
    with_scales = [each for each in units_of(network, groups(traced)) if each.scales]
    assert len(with_scales) > 3
    single = next(each for each in with_scales if len(each.scales) == 1)
    scale = network.weights[single.scales[0].constant]
    np.testing.assert_allclose(single.importance(network.weights).detach(), scale.detach().abs(), rtol=1e-4)
