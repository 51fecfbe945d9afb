"""Statistics of BatchNormalization: those of batches as PyTorch has them, running means, and whose they may be."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from onnx.reference import ReferenceEvaluator

from onnxprune.errors import OptionError
from onnxprune.graph.files.read import load
from onnxprune.training.network.module import Network
from tests.support.build import conv, model

WIDTH = 8
IMAGE = {"x": np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32)}
BATCHES = [{"x": (2 + scale * IMAGE["x"]).astype(np.float32)} for scale in (0.5, 1.0, 3.0)]
VARIANCE = np.random.default_rng(1).uniform(0.5, 2, WIDTH).astype(np.float32)
HALF = {"m": np.zeros(WIDTH), "v": VARIANCE}
OTHERS = "no BatchNormalization of the model has statistics of its own .those that it is fed, computes, or shares"
NORM = {"g": (WIDTH,), "o": (WIDTH,), "m": (WIDTH,), "v": VARIANCE}


def normed(attributes="", norm=NORM):
    """Return a model with one BatchNormalization between two convolutions."""
    return conv(f"b = BatchNormalization{attributes}(a, g, o, m, v)", **norm)


def network(proto, **options):
    return Network(load(proto), batch_statistics=True, **options)


def torch_norm(own, epsilon=1e-5):
    """Return the layer of PyTorch that the node stands for."""
    layer = torch.nn.BatchNorm2d(WIDTH, eps=epsilon)
    layer.load_state_dict(
        {
            "weight": own.weights["g"].detach(),
            "bias": own.weights["o"].detach(),
            "running_mean": own.statistics["m"],
            "running_var": own.statistics["v"],
            "num_batches_tracked": torch.tensor(0),
        }
    )
    return layer


@pytest.mark.parametrize("attributes", ["", "<epsilon=0.01>", "<momentum=1.0>", "<momentum=0.999>", "<momentum=0.1>"])
def test_learning_is_as_in_pytorch_whatever_momentum_the_file_states(attributes):
    own = network(normed(attributes))
    layer = torch_norm(own, epsilon=0.01 if "epsilon" in attributes else 1e-5)
    for feeds in BATCHES:
        values = own(feeds, taps=["a", "b"])
        inside = values["a"].detach().clone().requires_grad_()
        expected = layer(inside)
        torch.testing.assert_close(values["b"], expected)
        values["b"].square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(own.weights["g"].grad, layer.weight.grad)
    torch.testing.assert_close(own.statistics["m"], layer.running_mean)
    # PyTorch takes the variance of a sample, the operator's page that of all values: 144 of them here, and the one that
    # the file began with
    left = 0.9 ** len(BATCHES) * torch.as_tensor(VARIANCE)
    torch.testing.assert_close(own.statistics["v"], left + (layer.running_var - left) * 143 / 144)


def test_running_statistics_are_those_of_the_page_of_the_operator():
    own = network(normed())
    inside = own(BATCHES[0], taps=["a", "b"])["a"].detach().numpy()
    page = model(
        "y, p, q = BatchNormalization<training_mode=1>(x, g, o, m, v)", x=f"float[n,{WIDTH},6,6] x",
        y="float[] y, float[] p, float[] q", infer=False, **NORM,
    )  # fmt: skip
    _, mean, variance = ReferenceEvaluator(page).run(None, {"x": inside})
    np.testing.assert_allclose(own.statistics["m"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(own.statistics["v"], variance, rtol=1e-4, atol=1e-5)


def test_a_network_that_does_not_learn_runs_by_its_running_statistics():
    own, plain = network(normed()), Network(load(normed()))
    torch.testing.assert_close(own.eval()(IMAGE), plain(IMAGE))
    before = {name: value.clone() for name, value in own.statistics.items()}
    assert set(before) == {"m", "v"}
    own.train()(BATCHES[2])
    assert not torch.equal(own.statistics["m"], before["m"])
    moved = Network(load(normed(norm=NORM | {name: value.numpy() for name, value in own.statistics.items()})))
    torch.testing.assert_close(own.eval()(IMAGE), moved(IMAGE))
    again = {name: value.clone() for name, value in own.statistics.items()}
    own(IMAGE)
    assert all(torch.equal(own.statistics[name], value) for name, value in again.items())


def test_they_are_part_of_the_state_and_can_be_replaced_for_a_run():
    own = network(normed()).eval()
    state = {name: value.clone() for name, value in own.state_dict().items()}
    assert {"m", "v"} < set(state)
    first = own(IMAGE)
    own.train()(BATCHES[2])
    other = own.eval()(IMAGE)
    assert not torch.allclose(first["y"], other["y"])
    torch.testing.assert_close(own(IMAGE, weights=state), first, rtol=0, atol=0)
    own.load_state_dict(state)
    torch.testing.assert_close(own(IMAGE), first, rtol=0, atol=0)


@pytest.mark.parametrize("segments", [1, 3])
def test_a_batch_counts_once_though_it_is_computed_twice(segments):
    own = network(normed(), segments=segments)
    own(BATCHES[2])["y"].sum().backward()
    other = network(normed())
    with torch.no_grad():
        other(BATCHES[2])
    torch.testing.assert_close(own.statistics, other.statistics)


def test_gradients_flow_though_the_statistics_move_between_two_runs():
    own = network(normed())
    outputs = [own(feeds)["y"].sum() for feeds in BATCHES]
    torch.stack(outputs).sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in own.weights.values())


def test_bfloat16_keeps_statistics_in_single_precision():
    own, other = network(normed()), network(normed())
    with torch.autocast("cpu", torch.bfloat16):
        own(BATCHES[1])["y"].sum().backward()
    other(BATCHES[1])
    for name, value in own.statistics.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, other.statistics[name], rtol=0.01, atol=0.01)


def test_nothing_of_memory_that_was_never_written_gets_in():
    torch.use_deterministic_algorithms(True)  # new memory holds NaN then
    try:
        own = network(normed())
        assert torch.isfinite(own(BATCHES[0])["y"]).all()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.isfinite(value).all() for value in own.statistics.values())


def test_a_channel_with_one_value_alone_is_normalised_as_in_the_file():
    proto = model(
        "a = MatMul(x, w)", "y = BatchNormalization(a, g, o, m, v)", x="float[n,6] x", w=(6, WIDTH), **NORM
    )  # fmt: skip
    own, one = network(proto), {"x": np.ones((1, 6), np.float32)}
    torch.testing.assert_close(own(one), own.eval()(one))
    assert torch.equal(own.statistics["v"], torch.as_tensor(VARIANCE))
    own.train()({"x": np.eye(6, dtype=np.float32)})
    assert not torch.equal(own.statistics["v"], torch.as_tensor(VARIANCE))


def norms(second, **more):
    """Return a model with two layers that are normalised, and what its second one reads."""
    return conv(
        "c = BatchNormalization(a, g, o, m, v)", "d = Relu(c)", f"b = BatchNormalization(d, {second})", **NORM, **more
    )


def test_statistics_that_two_layers_share_by_chance_stay():
    other = {"g2": (WIDTH,), "o2": (WIDTH,), "m2": (WIDTH,)}
    own = network(norms("g2, o2, m2, v2", **other, v2=VARIANCE))
    assert set(own.statistics) == {"m", "v", "m2", "v2"}
    assert (own.running.count, own.running.others) == (2, 0)
    with pytest.raises(OptionError, match=OTHERS):
        network(norms("g2, o2, m2, v", **other))
    other |= {"g3": (WIDTH,), "o3": (WIDTH,), "m3": (WIDTH,), "v3": VARIANCE}
    proto = conv(
        "c = BatchNormalization(a, g, o, m, v)", "d = BatchNormalization(c, g2, o2, m2, v)",
        "b = BatchNormalization(d, g3, o3, m3, v3)", **NORM, **other,
    )  # fmt: skip
    own = network(proto)
    assert set(own.statistics) == {"m3", "v3"}
    assert (own.running.count, own.running.others) == (1, 2)


def test_a_layer_that_runs_twice_sees_both_runs():
    own = network(norms("g, o, m, v"))
    mean = own.statistics["m"].clone()
    seen = own(BATCHES[0], taps=["a", "d", "b"])
    for name in "ad":
        mean = 0.9 * mean + 0.1 * seen[name].detach().mean((0, 2, 3))
    torch.testing.assert_close(own.statistics["m"], mean)


@pytest.mark.parametrize("name", ["g", "o", "m", "v"])
def test_what_is_frozen_of_a_layer_is_frozen_whole(name):
    other = {"g2": (WIDTH,), "o2": (WIDTH,), "m2": (WIDTH,), "v2": VARIANCE}
    own = network(norms("g2, o2, m2, v2", **other), frozen=[name])
    assert set(own.statistics) == {"m2", "v2"}
    assert ("g" in own.weights) == (name != "g")
    with pytest.raises(OptionError, match="all statistics of BatchNormalization are frozen: leave out statistics"):
        network(normed(), frozen=[name])
    with pytest.raises(OptionError, match="'m' matches no weight that could be trained"):
        Network(load(normed()), frozen=["m"])  # where nothing learns it


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (["b, p, q = BatchNormalization<training_mode=1>(a, g, o, m, v)"], OTHERS),
        (["n = Identity(v)", "b = BatchNormalization(a, g, o, m, n)"], OTHERS),
        (["c = BatchNormalization(a, g, o, m, v)", "r = Reshape(m, form)", "b = Mul(c, r)"], OTHERS),
        (
            ["b = Relu(a)"],
            r"the model has no BatchNormalization \(most exporters fold it into the convolution in front\)",
        ),
    ],
    ids=["by itself", "computed", "read elsewhere", "none"],
)
def test_networks_without_any_say_so(nodes, message):
    proto = conv(*nodes, **NORM, form=[1, WIDTH, 1, 1])
    with pytest.raises(OptionError, match=message):
        network(proto)


def test_nodes_inside_branches_stay_and_are_counted():
    other = {"g2": (WIDTH,), "o2": (WIDTH,), "m2": (WIDTH,), "v2": VARIANCE}
    branch = "If(c) <then_branch = t () => (float[] d) {d = BatchNormalization(n, g2, o2, m2, v2)}, "
    branch += "else_branch = e () => (float[] d2) {d2 = Relu(n)}>"
    normed_first = "n = BatchNormalization(a, g, o, m, v)"
    proto = conv(normed_first, f"b = {branch}", y="float[n,5,6,6] y", infer=False, c=np.array(True), **NORM, **other)
    own = network(proto)
    assert set(own.statistics) == {"m", "v"}
    assert (own.running.count, own.running.others) == (1, 1)
    torch.testing.assert_close(own.eval()(IMAGE), Network(load(proto))(IMAGE))


def test_defaults_of_inputs_stay():
    with pytest.raises(OptionError, match=OTHERS):
        network(conv("b = BatchNormalization(a, g, o, m, v)", **NORM, listed=["m", "v"]))


def test_running_statistics_stay_in_the_range_of_a_file_of_half_precision():
    own = network(normed(norm=NORM | {name: value.astype(np.float16) for name, value in HALF.items()}))
    for _ in range(60):
        own({"x": 3e4 * IMAGE["x"]})
    assert own.statistics["v"].max() == 65504
    assert np.isfinite(own.statistics["v"].numpy().astype(np.float16)).all()


def test_what_runs_for_no_gradients_at_all_moves_nothing():
    own = network(normed())
    before = dict(own.statistics)
    with torch.inference_mode():
        own(BATCHES[2])
    assert all(value is before[name] for name, value in own.statistics.items())
    own.eval()(IMAGE)["y"].sum().backward()
