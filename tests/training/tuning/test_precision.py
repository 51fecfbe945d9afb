"""The precision of steps: chosen by their time."""

import itertools
import math

import numpy as np
import pytest
import torch

from onnxprune.graph.files.read import load
from onnxprune.training.network.module import Network
from onnxprune.training.operators import attention
from onnxprune.training.operators.attention import attend
from onnxprune.training.operators.convolution import conv
from onnxprune.training.settings import make_tune_options
from onnxprune.training.tuning.precision import autocast, faster, seconds_of
from tests.support.build import model
from tests.support.kernels import kernels


@pytest.mark.parametrize(
    ("single", "half", "chosen"), [(1.0, 0.5, "bfloat16"), (1.0, 0.9, "float32"), (1.0, 4.0, "float32")]
)
def test_the_faster_precision_is_taken_where_it_is_worth_it(single, half, chosen):
    assert faster({"float32": single, "bfloat16": half}.__getitem__) == chosen


def test_the_first_time_of_each_does_not_count_and_the_least_of_the_others_does():
    told = {"float32": itertools.chain([0.1], [1.0, 2.0]), "bfloat16": itertools.chain([9.0], [3.0, 0.5])}
    asked = []

    def seconds(precision):
        asked.append(precision)
        return next(told[precision])

    assert faster(seconds) == "bfloat16"
    assert asked == ["float32", "bfloat16"] * 3


@pytest.mark.parametrize(("told", "chosen"), [((1.0, 0.2), "bfloat16"), ((1.0, 0.9), "float32")])
def test_the_first_times_count_where_the_time_for_trying_is_over(told, chosen):
    asked = []
    seconds = dict(zip(("float32", "bfloat16"), told, strict=True))
    assert faster(lambda each: (asked.append(each), seconds[each])[1], 10.0) == chosen
    assert asked == ["float32", "bfloat16"]


def test_a_precision_that_cannot_be_run_is_not_taken_nor_tried_again():
    asked = []

    def failing():
        raise RuntimeError("no kernel")

    assert seconds_of(failing) == math.inf
    seconds = {"float32": 1.0, "bfloat16": math.inf}
    assert faster(lambda each: (asked.append(each), seconds[each])[1]) == "float32"
    assert asked == ["float32", "bfloat16"]
    assert faster({"float32": math.inf, "bfloat16": math.inf}.__getitem__) == "float32"


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_are_of_the_precision(precision, dtype):
    with autocast(precision, "cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(("channels", "dtype"), [(1, torch.float32), (2, torch.float32), (4, torch.bfloat16)])
def test_convolutions_of_narrow_groups_are_in_single_precision_on_the_processor(channels, dtype):
    a, w = torch.randn(1, 4 * channels, 6, 6), torch.randn(4 * channels, channels, 3, 3)
    with autocast("bfloat16", "cpu"):
        given = conv(a.bfloat16(), w, group=4, pads=(1, 1, 1, 1))
        assert conv(a, w[:, :1].repeat(1, 4 * channels, 1, 1)).dtype == torch.bfloat16
    assert given.dtype == dtype
    wanted = torch.nn.functional.conv2d(a.bfloat16().float(), w, padding=1, groups=4)
    torch.testing.assert_close(given.float(), wanted, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_that_are_made_on_the_way_are_in_single_precision_too(dtype):
    a, w, b = torch.randn(1, 4, 6, 6, dtype=dtype), torch.randn(4, 4, dtype=dtype), torch.randn(4, dtype=dtype)
    with autocast("bfloat16", "cpu"):
        kernel, bias = (w @ w)[..., None, None].expand(4, 4, 3, 3)[:, :1], b if dtype == torch.float64 else b.bfloat16()
        given = conv(a, kernel, bias, group=4, pads=(1, 1, 1, 1))
    assert given.dtype == dtype


@pytest.mark.parametrize("nodes", [("m = MatMul(u, v)", "y = Add(m, b)"), ("y = Gemm(u, v, b)",)], ids=["sum", "gemm"])
def test_an_outer_product_with_a_bias_is_in_single_precision(nodes):
    proto = model(*nodes, x="float[n,1] u", y="float[n,4] y", opset=17, v=(1, 4), b=(4,))
    network, feeds = Network(load(proto)), {"u": np.arange(700, 1000, dtype=np.float32)[:, None]}
    with autocast("bfloat16", "cpu"):
        given = network(feeds)["y"]
    torch.testing.assert_close(given, network(feeds)["y"], rtol=1e-6, atol=1e-5)


def attended(bias, half):
    shapes = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 5, 8, generator=shapes).requires_grad_() for heads in (4, 2, 2))
    with autocast("bfloat16" if half else "float32", "cpu"):
        result = attend(q, k, v, 0.5, bias)
    return result, torch.autograd.grad(result.float().square().sum(), (q, k, v))


@pytest.mark.parametrize("bias", [None, torch.triu(torch.full((5, 5), -math.inf), 1)], ids=["all", "earlier"])
def test_attention_is_computed_in_parts_in_half_precision_on_the_processor(bias, monkeypatch):
    given, gradients = attended(bias, half=True)
    wanted, expected = attended(bias, half=False)
    assert given.dtype == torch.bfloat16
    assert "FlashAttention" not in kernels(given)
    assert "FlashAttention" in kernels(wanted)
    for one, other in zip((given, *gradients), (wanted, *expected), strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0.05, atol=0.1)
    monkeypatch.setattr(attention, "_MOST_PAIRS", 24)
    assert "FlashAttention" in kernels(attended(bias, half=True)[0])  # longer texts would take much memory


@pytest.mark.parametrize("half", [False, True])
def test_a_query_that_sees_no_key_gets_zeros_and_spreads_nothing_that_is_not_finite(half):
    bias = torch.zeros(5, 5)
    bias[3] = -math.inf
    given, gradients = attended(bias, half=half)
    assert not given[:, :, 3].any()
    assert given[:, :, 2].all()
    assert all(bool(torch.isfinite(each).all()) for each in gradients)


def test_angles_of_positions_that_are_inputs_are_in_single_precision():
    proto = model(
        "f = Cast<to=1>(ids)", "u = Unsqueeze(f, last)", "angles = MatMul(u, frequencies)", "a = MatMul(x, w)",
        "y = Add(a, angles)", x="float[n,s,6] x, int64[n,s] ids", y="float[n,s,4] y", infer=False, last=np.array([2]),
        frequencies=(1, 4), w=(6, 4),
    )  # fmt: skip
    network = Network(load(proto), frozen=["frequencies"])
    ids = np.arange(300, dtype=np.int64)[None] + 700  # more than bfloat16 can tell apart
    feeds = {"x": np.ones((1, 300, 6), np.float32), "ids": ids}
    with autocast("bfloat16", "cpu"):
        given = network(feeds, taps=["angles", "a"])
    torch.testing.assert_close(given["angles"], network(feeds, taps=["angles"])["angles"], rtol=0, atol=0)
    assert given["a"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({"steps": 3}, "float32"),
        ({"epochs": 1}, "float32"),
        ({"time": "20m"}, "auto"),
        ({"time": "20m", "precision": "float32"}, "float32"),
        ({"steps": 3, "precision": "auto"}, "auto"),
    ],
)
def test_runs_whose_length_is_a_time_choose_by_themselves(options, precision):
    assert make_tune_options(**options).precision == precision
