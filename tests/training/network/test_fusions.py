"""Patterns that run as one step: the same numbers and gradients, and only where nothing else reads what is inside."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from onnxprune.graph.files.read import load
from onnxprune.training.network import specialise
from onnxprune.training.network.agreement import check_agreement
from onnxprune.training.network.module import Network
from tests.support.build import model
from tests.support.kernels import kernels

ROWS = "float[n,6] x"
HEADS = "float[2,3,5,4] q, float[2,3,4,7] k, float[2,3,7,4] v"


def erf_gelu(divide):
    inner = "d = Div(a, r)" if divide else "d = Mul(a, r)"
    return (inner, "e = Erf(d)", "f = Add(e, one)", "g = Mul(a, f)", "y = Mul(g, half)")


HALVES = {"one": np.float32(1), "half": np.float32(0.5)}
SWISH = {"zero": np.float32(0), "three": np.float32(3), "six": np.float32(6), "sixth": np.float32(1 / 6)}
CASES = {
    "gelu": (("a = MatMul(x, w)", *erf_gelu(True)), {"r": np.float32(2**0.5), **HALVES}),
    "gelu-by-factor": (("a = MatMul(x, w)", *erf_gelu(False)), {"r": np.float32(0.5**0.5), **HALVES}),
    "gelu-tanh": (
        ("a = MatMul(x, w)", "p = Pow(a, three)", "c = Mul(p, k)", "s = Add(a, c)", "t = Mul(s, r)", "u = Tanh(t)",
         "f = Add(u, one)", "g = Mul(half, a)", "y = Mul(g, f)"),
        {"three": np.float32(3), "k": np.float32(0.044715), "r": np.float32((2 / np.pi) ** 0.5), **HALVES},
    ),
    "silu": (("a = MatMul(x, w)", "s = Sigmoid(a)", "y = Mul(s, a)"), {}),
    "mish": (("a = MatMul(x, w)", "p = Softplus(a)", "t = Tanh(p)", "y = Mul(a, t)"), {}),
    "hard-swish": (("a = MatMul(x, w)", "s = HardSigmoid<alpha=0.16666667>(a)", "y = Mul(a, s)"), {}),
    **{
        f"hard-swish-{name}": (("a = MatMul(x, w)", "p = Add(a, three)", "c = Clip(p, zero, six)", *last), SWISH)
        for name, last in {
            "divided-last": ("m = Mul(a, c)", "y = Div(m, six)"),
            "divided-first": ("m = Div(c, six)", "y = Mul(a, m)"),
            "multiplied-last": ("m = Mul(a, c)", "y = Mul(m, sixth)"),
            "multiplied-first": ("m = Mul(c, sixth)", "y = Mul(a, m)"),
        }.items()
    },
    "clip": (("a = MatMul(x, w)", "y = Clip(a, low, high)"), {"low": np.float32(-0.5), "high": np.float32(0.5)}),
    "square": (("a = MatMul(x, w)", "y = Pow(a, two)"), {"two": np.float32(2)}),
    "linear": (("a = MatMul(x, w)", "y = Add(b, a)"), {"b": (6,)}),
    "layer-norm": (
        ("a = MatMul(x, w)", "m = ReduceMean<axes=[-1]>(a)", "d = Sub(a, m)", "p = Pow(d, two)",
         "v = ReduceMean<axes=[-1]>(p)", "e = Add(v, eps)", "r = Sqrt(e)", "n = Div(d, r)", "g = Mul(n, scale)",
         "y = Add(g, b)"),
        {"two": np.float32(2), "eps": np.float32(1e-5), "scale": (6,), "b": (6,)},
    ),
}  # fmt: skip
ATTENTIONS = {
    "plain": ("s = MatMul(q, k)", "p = Softmax(s)"),
    "divided": ("z = MatMul(q, k)", "s = Div(z, two)", "p = Softmax(s)"),
    "both-scaled": ("a = Mul(q, two)", "c = Mul(k, half)", "s = MatMul(a, c)", "p = Softmax(s)"),
    "masked": ("z = MatMul(q, k)", "h = Mul(z, half)", "s = Add(h, mask)", "p = Softmax(s)"),
}


def small(nodes, x=ROWS, **constants):
    return load(model(*nodes, x=x, opset=17, y="float[n,6] y" if x == ROWS else "float[2,3,5,4] y", **constants))


def plain(monkeypatch):
    monkeypatch.setattr(specialise, "fused", lambda steps, *_: list(steps))


def passed(network, feeds, taps=()):
    results = network(feeds, taps)
    sum(value.square().sum() for value in results.values()).backward()
    gradients = {name: weight.grad.clone() for name, weight in network.weights.items() if weight.grad is not None}
    return results, gradients, next(iter(network._programs.values()))


@pytest.mark.parametrize("name", CASES)
def test_a_pattern_runs_as_one_step_with_the_same_numbers_and_gradients(name, monkeypatch):
    nodes, constants = CASES[name]
    network = Network(small(nodes, w=(6, 6), **constants))
    feeds = {"x": np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)}
    check_agreement(network, feeds)
    _, gradients, program = passed(network, feeds)
    assert len(program.steps) == (1 if name == "linear" else 2)
    plain(monkeypatch)
    slow = Network(network.model)
    _, expected, all_steps = passed(slow, feeds)
    assert len(all_steps.steps) == len(nodes)
    assert gradients
    for weight, gradient in expected.items():
        torch.testing.assert_close(gradients[weight], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_runs_as_one_step(name):
    constants = {"two": np.float32(2), "half": np.float32(0.5), "mask": np.triu(np.full((5, 7), -1e4, np.float32), 3)}
    nodes = (*ATTENTIONS[name], "y = MatMul(p, v)")
    network = Network(
        small(nodes, x=HEADS, **{key: value for key, value in constants.items() if key in " ".join(nodes)})
    )
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 3, 5, 4), "k": (2, 3, 4, 7), "v": (2, 3, 7, 4)}
    feeds = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    check_agreement(network, feeds)
    assert [step.node for step in next(iter(network._programs.values())).steps] == [None]


def test_what_is_asked_for_inside_a_pattern_is_computed():
    nodes, _ = CASES["silu"]
    network = Network(small(nodes, w=(6, 6)))
    feeds = {"x": np.ones((2, 6), np.float32)}
    results = network(feeds, taps=["s", "y"])
    assert set(results) == {"s", "y"}


def test_what_something_else_reads_stays():
    nodes = ("a = MatMul(x, w)", "s = Sigmoid(a)", "g = Mul(s, a)", "y = Add(g, s)")
    network = Network(small(nodes, w=(6, 6)))
    _, _, program = passed(network, {"x": np.ones((2, 6), np.float32)})
    assert len(program.steps) == 4


@pytest.mark.parametrize("op", ["y = Clip(a, low, high)", "y = HardSigmoid(a)"])
def test_bounds_that_are_known_use_the_kernel_whose_derivative_is_fast(op):
    bounds = {"low": np.float32(0), "high": np.float32(6)} if "low" in op else {}
    network = Network(small(("a = MatMul(x, w)", op), w=(6, 6), **bounds))
    assert "HardtanhBackward0" in kernels(network({"x": np.ones((2, 6), np.float32)})["y"])


def test_an_older_clip_has_its_bounds_as_attributes():
    proto = model("a = MatMul(x, w)", "y = Clip<min=-0.5, max=0.5>(a)", x=ROWS, opset=10, y="float[n,6] y", w=(6, 6))
    network = Network(load(proto))
    feeds = {"x": np.linspace(-2, 2, 24, dtype=np.float32).reshape(4, 6)}
    check_agreement(network, feeds)
    assert "HardtanhBackward0" in kernels(network(feeds)["y"])


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_whole_numbers_that_are_clipped_stay_whole(kind):
    """2 ** 24 + 1 is no float, and integers are divided towards zero."""
    number = {"int32": 6, "int64": 7}[kind]
    proto = model(
        "c = Clip(k, low, high)", "h = Div(c, two)", f"i = Cast<to={number}>(x)", "y = Add(h, i)",
        x=f"{kind}[n] k, float[n] x", y=f"{kind}[n] y", opset=17, low=np.array(0, kind),
        high=np.array(2**24 + 3, kind), two=np.array(2, kind),
    )  # fmt: skip
    feeds = {"k": np.array([-3, 1, 7, 2**24 + 1, 2**30], kind), "x": np.zeros(5, np.float32)}
    (given,) = Network(load(proto), learns=False)(feeds).values()
    assert given.dtype == getattr(torch, kind)
    assert given.tolist() == [0, 0, 3, 2**23, 2**23 + 1]


def test_bounds_of_quantized_numbers_pass_the_gradient_on():
    """They are integers in the file and floats here, and most of them stand at a bound."""
    nodes = ("a = MatMul(x, w)", "q = QuantizeLinear(a, scale, zero)", "c = Clip(q, low, high)",
             "y = DequantizeLinear(c, scale, zero)")  # fmt: skip
    ends = {"low": np.int8(-1), "high": np.int8(1), "zero": np.int8(0), "scale": np.float32(1)}
    network = Network(small(nodes, w=np.eye(6, dtype=np.float32), **ends))
    network({"x": np.full((2, 6), 1.2, np.float32)})["y"].sum().backward()  # rounded to 1, which is a bound
    assert float(network.weights["w"].grad.abs().min()) > 0


def test_a_lower_bound_above_the_upper_one():
    nodes = ("a = MatMul(x, w)", "y = Clip(a, low, high)")
    network = Network(small(nodes, w=(6, 6), low=np.float32(0.5), high=np.float32(-0.5)))
    given = network({"x": np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)})["y"]
    assert (given == -0.5).all()


@pytest.mark.parametrize(
    ("exponent", "axes"), [(np.float32(2.0015), "n,6"), (np.full((1, 1, 1), 2, np.float32), "1,n,6")]
)
def test_a_power_that_is_no_square_of_the_same_shape_stays(exponent, axes):
    nodes = ("a = MatMul(x, w)", "b = Abs(a)", "y = Pow(b, two)")
    network = Network(load(model(*nodes, x=ROWS, y=f"float[{axes}] y", opset=17, w=(6, 6), two=exponent)))
    feeds = {"x": 100 * np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)}
    check_agreement(network, feeds)
    given = network(feeds)["y"]
    assert given.dim() == axes.count(",") + 1
    assert "PowBackward1" in kernels(given)


def test_a_clip_of_one_bound_and_of_whole_numbers_stays_what_it_is():
    nodes = ("a = MatMul(x, w)", "b = Clip(a, low)", "k = Cast<to=6>(b)", "c = Clip(k, two, four)", "d = Cast<to=1>(c)",
             "y = Add(b, d)")  # fmt: skip
    numbers = {"low": np.float32(0.25), "two": np.int32(2), "four": np.int32(4)}
    network = Network(small(nodes, w=(6, 6), **numbers))
    check_agreement(network, {"x": np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32) * 4})


def test_numbers_that_are_others_are_no_pattern():
    nodes, constants = CASES["gelu"]
    network = Network(small(nodes, w=(6, 6), **{**constants, "half": np.float32(0.6)}))
    feeds = {"x": np.ones((2, 6), np.float32)}
    check_agreement(network, feeds)
    assert len(next(iter(network._programs.values())).steps) == len(nodes)
