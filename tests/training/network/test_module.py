"""A model as a module: names, taps, segments, states, messages, what is learned."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from onnxprune.errors import ModelError, OptionError, VerificationError
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.training.network.agreement import check_agreement, first_to_differ
from onnxprune.training.network.module import Network
from onnxprune.training.network.trainable import trainable
from onnxprune.training.operators import registry
from tests.support.build import conv, model

IMAGE = {"x": np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)}


def test_segments_give_the_same_gradients():
    proto = conv("c = Relu(a)", "d = Conv(c, k)", "b = Sigmoid(d)", out=4, k=(4, 8, 1, 1))
    networks = [Network(load(proto), segments=count) for count in (1, 3)]
    found = []
    for network in networks:
        network(IMAGE)["y"].square().sum().backward()
        found.append({name: weight.grad for name, weight in network.weights.items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_states_are_taken_over_by_name_and_names_that_differ_are_told():
    network = Network(load(conv("b = Relu(a)")))
    state = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    network.load_state_dict(state)
    assert not any(bool(value.any()) for value in network.weights.values())
    with pytest.raises(KeyError, match="weights that only one side has"):
        network.load_state_dict({"another": torch.zeros(1)})


def test_weights_can_be_replaced_for_a_run():
    network = Network(load(conv("b = Relu(a)")))
    zeros = {"w2": torch.zeros_like(network.weights["w2"])}
    assert not bool(network(IMAGE, weights=zeros)["y"].any())


def test_what_follows_from_sizes_is_in_single_precision_though_the_first_run_is_not():
    proto = model(
        "s = Shape<start=1, end=2>(x)", "n = Squeeze(s)", "r = Range(zero, n, one)", "f = Cast<to=1>(r)",
        "u = Unsqueeze(f, axis)", "angles = MatMul(u, frequencies)", "a = MatMul(x, w)", "y = Add(a, angles)",
        x="float[n,s,6] x", y="float[n,s,8] y", infer=False, w=(6, 8), frequencies=(1, 8), zero=0, one=1, axis=[1],
    )  # fmt: skip
    feeds = {"x": np.zeros((2, 300, 6), np.float32)}
    network, other = (Network(load(proto), frozen=["frequencies"]) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        network(feeds)
    torch.testing.assert_close(network(feeds), other(feeds), rtol=0, atol=0)


def test_an_operator_without_a_line_is_named_before_anything_is_run():
    proto = model("y = RandomUniformLike(x)", x="float[n,6] x", y="float[n,6] y")
    with pytest.raises(ModelError, match=r"RandomUniformLike .*gradients of this operator are not known"):
        Network(load(proto))


def test_an_attribute_without_a_meaning_is_named():
    node = load(conv("b = LeakyRelu<alpha=0.2>(a)")).nodes[-2]
    assert node.op == "LeakyRelu"
    with pytest.raises(ModelError, match=r"LeakyRelu .*attribute 'beta' of LeakyRelu has no meaning in the table"):
        registry.bound(node, {"alpha": 0.2, "beta": 1.0}, {})


def test_the_first_node_that_differs_is_named(monkeypatch):
    network = Network(load(conv("c = Relu(a)", "b = Sigmoid(c)")))
    place = next(node for node in network.model.nodes if node.op == "Relu")
    step = network.steps[place.index]
    monkeypatch.setitem(
        network.steps, place.index, type(step)(step.place, lambda a: a * 1.5, step.inputs, step.outputs)
    )
    with pytest.raises(VerificationError, match=r"the first node that differs is Relu"):
        check_agreement(network, IMAGE)
    assert first_to_differ(network, IMAGE, 1e-4) == place


def test_shapes_that_pytorch_cannot_compute_are_told_with_the_node():
    network = Network(load(conv("b = Relu(a)")))
    with pytest.raises(ModelError, match=r"Conv .*PyTorch cannot compute it for inputs of shapes \[2, 4, 6, 6\]"):
        network({"x": np.zeros((2, 4, 6, 6), np.float32)})


# -- what is learned -----------------------------------------------------------------------------------


def learned(*nodes, **constants):
    return set(trainable(load(model(*nodes, x="float[n,6] x", y="float[n,6] y", **constants))))


def test_exponents_are_not_learned():
    assert learned("a = MatMul(x, w)", "y = Pow(a, p)", w=(6, 6), p=np.float32(2.3)) == {"w"}


def test_factors_and_summands_are_learned_where_they_look_so():
    half, own = np.arange(6, dtype=np.float32) / 2, np.linspace(0.1, 0.7, 6, dtype=np.float32)
    assert learned("a = Mul(x, s)", "y = Add(a, b)", s=half, b=own) == {"b"}


def test_masks_are_not_learned():
    mask = np.array([0, 0, 0, -65504, -65504.3, 0.3], np.float32)
    assert learned("a = MatMul(x, w)", "y = Add(a, m)", w=(6, 6), m=mask) == {"w"}


def test_one_parameter_serves_all_uses():
    network = Network(load(model("a = MatMul(x, w)", "y = MatMul(a, w)", x="float[n,6] x", y="float[n,6] y", w=(6, 6))))
    assert set(network.weights) == {"w"}
    network({"x": np.ones((2, 6), np.float32)})["y"].sum().backward()
    assert network.weights["w"].grad is not None


def test_statistics_stay_also_where_a_bias_shares_them():
    nodes = ("a = Conv(x, k, z)", "y = BatchNormalization(a, s, z, z, v)")
    constants = {
        "k": (4, 3, 1, 1),
        "z": np.full(4, 0.1, np.float32),
        "s": (4,),
        "v": np.linspace(0.6, 1.4, 4).astype(np.float32),
    }
    proto = model(*nodes, x="float[n,3,6,6] x", y="float[n,4,6,6] y", **constants)
    assert set(trainable(load(proto))) == {"k", "s"}


def test_patterns_that_match_no_weight_are_told():
    with pytest.raises(OptionError, match="matches no weight that could be trained"):
        trainable(load(conv("b = Relu(a)")), ["another*"])


def test_half_precision_is_learned_in_single():
    nodes = ("h = Cast<to=10>(x)", "a = MatMul(h, w)", "y = Cast<to=1>(a)")
    proto = model(*nodes, x="float[n,6] x", y="float[n,6] y", w=np.full((6, 6), 0.1, np.float16))
    assert Network(load(proto)).weights["w"].dtype == torch.float32


def test_what_kernels_round_counts_as_round_off(monkeypatch):
    """A four-bit product whose kernel makes its input int8: a number near a half may go the other way in PyTorch."""
    rng = np.random.default_rng(0)
    weights = {
        "q": rng.integers(0, 256, (256, 2, 16)).astype(np.uint8),
        "s": rng.random((256, 2)).astype(np.float32),
    }
    rounded = "y = com.microsoft.MatMulNBits<K=64, N=256, bits=4, block_size=32, accuracy_level=4>(x, q, s)"
    found = load(
        model(rounded, x="float[n,64] x", y="float[n,256] y", imports='"com.microsoft" : 1', infer=False, **weights)
    )
    network, feeds = Network(found), {"x": rng.standard_normal((5, 64)).astype(np.float32)}
    monkeypatch.setattr("onnxprune.training.network.agreement.first_to_differ", lambda *_: None)
    monkeypatch.setattr("onnxprune.training.network.agreement.tolerance", lambda _: 0.0)
    agreement = check_agreement(network, feeds)
    assert 1e-4 < agreement.noise < 0.05
    assert agreement.difference < 10 * agreement.noise
    monkeypatch.setattr("onnxprune.training.network.agreement.in_full_precision", lambda _: None)
    assert check_agreement(network, feeds).noise < 1e-4


def test_rounding_passes_gradients_on_as_they_are():
    nodes = ("a = MatMul(x, w)", "b = Round(a)", "y = MatMul(b, v)")
    proto = model(*nodes, x="float[n,4] x", y="float[n,2] y", w=(4, 4), v=(4, 2))
    network, feeds = Network(view(proto)), {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}
    network(feeds)["y"].sum().backward()
    x, v = torch.from_numpy(feeds["x"]), network.weights["v"].detach()
    torch.testing.assert_close(network.weights["w"].grad, x.t() @ torch.ones(3, 2) @ v.t())
    ends = np.array([[np.inf, -np.inf, 2.5, -0.4]], np.float32)
    alone = Network(view(model("y = Round(x)", x="float[n,4] x", y="float[n,4] y")))
    assert alone({"x": ends})["y"].tolist() == [[np.inf, -np.inf, 2.0, 0.0]]
