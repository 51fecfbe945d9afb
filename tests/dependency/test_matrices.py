"""Weights of units, as ops multiply with them: those of experts above all, which files keep in integers."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.criteria import importance
from onnxprune.dependency import cost
from onnxprune.dependency.groups import EXPERTS, groups
from onnxprune.dependency.matrices import matrices, multiplied
from onnxprune.dependency.trace import trace
from onnxprune.graph.effective import ConstantValues
from onnxprune.graph.files.read import load
from onnxprune.runtime.session import open_session
from tests.support.build import model
from tests.support.experts import mixture
from tests.support.unrolled import dense, gathered

RNG = np.random.default_rng(0)
CODES = [RNG.integers(-100, 101, (8, 6)).astype(np.int8) // shrunk for shrunk in (1, 2, 4, 8)]  # the first are largest
SCALES = [0.001, 0.01, 0.1, 1.0]  # and mean least
UP = [np.float32(scale) * codes for scale, codes in zip(SCALES, CODES, strict=True)]
DOWN = [np.ones((6, 8), np.float32)] * 4
EVEN = {"router": np.ones((8, 4), np.float32), "bias": np.zeros(4, np.float32)}


def unrolled(base, product, **more):
    """Return a mixture whose experts have their first product made by other nodes."""

    def made(node):
        found = re.match(r"u(\d) = MatMul\((\w+), up\d\)", node)
        return product(*found.groups()) if found else [node]

    weights = {**EVEN, **{f"down{e}": DOWN[e] for e in range(4)}, **more}
    return mixture(single=tuple(new for node in base for new in made(node)), **weights)


def dequantized(base):
    def product(e, rows):
        return f"w{e}f = DequantizeLinear(up{e}, us{e}, uz{e})", f"u{e} = MatMul({rows}, w{e}f)"

    more = {f"up{e}": (CODES[e].astype(np.int16) + 128 - e).astype(np.uint8) for e in range(4)}
    more |= {f"us{e}": float(SCALES[e]) for e in range(4)} | {f"uz{e}": np.uint8(128 - e) for e in range(4)}
    return unrolled(base, product, **more)


def shared(base):
    """Return a mixture whose experts have one zero point; which of them has it alone, none does."""
    proto = dequantized(base)
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear":
            node.input[2] = "uz0"
    return proto


def by_integers(base, of_columns):
    """Return a mixture whose experts multiply integers; what is behind the product has the scale."""

    def product(e, rows):
        return (
            f"q{e}, qs{e}, qz{e} = DynamicQuantizeLinear({rows})",
            f"i{e} = MatMulInteger(q{e}, up{e}, qz{e})",
            f"f{e} = Cast<to=1>(i{e})",
            f"m{e} = Mul(qs{e}, us{e})",
            f"u{e} = Mul(f{e}, m{e})",
        )

    each = {e: np.full(6, SCALES[e], np.float32) if of_columns else float(SCALES[e]) for e in range(4)}
    return unrolled(base, product, **{f"up{e}": CODES[e] for e in range(4)}, **{f"us{e}": each[e] for e in range(4)})


def in_blocks(base):
    """Return a mixture whose experts are 32 wide, of four bits each with scales in blocks of 16."""

    def product(e, rows):
        return (f"h{e}w = MatMul({rows}, widen)",
                f"u{e} = com.microsoft.MatMulNBits<K=32, N=6, bits=4, block_size=16>(h{e}w, up{e}, us{e})")  # fmt: skip

    more = {f"up{e}": (np.full((6, 2, 8), 0x88 + 0x11 * (7 - 2 * e), np.uint8)) for e in range(4)}  # 7, 5, 3, 1
    more |= {f"us{e}": np.full((6, 2), SCALES[e], np.float32) for e in range(4)}
    return unrolled(base, product, widen=np.ones((8, 32), np.float32), **more)


def of_experts(proto):
    traced = trace(load(proto))
    (group,) = (group for group in groups(traced) if group.kind == EXPERTS)
    return group, list(matrices(group, traced))


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (dequantized(gathered()), UP),
        (dequantized(dense()), UP),
        (by_integers(dense(), False), UP),
        (by_integers(dense(), True), UP),
        (
            in_blocks(gathered()),
            [np.full((6, 2, 16), (7 - 2 * e) * scale, np.float32) for e, scale in enumerate(SCALES)],
        ),
    ],
    ids=["gathered", "dense", "integers, one scale", "integers, a scale for each column", "blocks"],
)
@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_experts_count_as_what_their_integers_stand_for(proto, expected, criterion):
    group, made = of_experts(proto)
    matrix = next(matrix for role, matrix in made if role == "out" and matrix.shape == (4, expected[0].size))
    np.testing.assert_allclose(matrix, np.stack([each.ravel() for each in expected]), rtol=1e-6)
    assert all(role == "vector" for role, matrix in made if matrix.shape[1] == 1 and matrix.any())  # scales alone
    norms = importance.score(criterion, iter(made), np.random.default_rng(0))
    assert np.argsort(norms).tolist() == [0, 1, 2, 3]
    report = onnxprune.prune(proto, 0.5, criterion=criterion, only=group.name, latency=False).report
    kept = next(each["kept_units"] for each in report["groups"] if each["kind"] == "experts")
    assert kept == [2, 3]


def test_what_experts_share_counts_in_each():
    _, made = of_experts(shared(gathered()))
    numbers = [scale * (codes.astype(np.int32) - e) for e, (scale, codes) in enumerate(zip(SCALES, CODES, strict=True))]
    matrix = next(matrix for role, matrix in made if role == "out" and matrix.shape == (4, 48))
    np.testing.assert_allclose(matrix, np.stack([each.ravel() for each in numbers]), rtol=1e-5)


def test_weights_of_experts_are_at_hand_once():
    """Those of all experts together, and those of one beside them."""
    wide = {f"up{e}": np.ones((8, 20_000), np.float32) for e in range(4)}
    wide |= {f"down{e}": np.ones((20_000, 8), np.float32) for e in range(4)}
    traced = trace(load(mixture(single=gathered(), **wide)))
    (group,) = (group for group in groups(traced) if group.kind == EXPERTS)
    tracemalloc.start()
    sizes = [matrix.nbytes for _, matrix in map(tuple, matrices(group, traced))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes.count(4 * 8 * 20_000 * 4) == 2
    assert peak < 2.7 * max(sizes)  # two of them, when the second is made


@pytest.mark.parametrize(
    ("more", "factor"),
    [
        (["m = Mul(f, c)", "y = Identity(m)"], [2, 3, 4, 5, 6]),
        (["m = Mul(f, s)", "y = Mul(m, c)"], [2, 3, 4, 5, 6]),
        (["a = Mul(s, c)", "b = Mul(a, two)", "y = Mul(f, b)"], [4, 6, 8, 10, 12]),
        (["b = Mul(c, r)", "a = Mul(s, r)", "m = Mul(f, a)", "y = Mul(m, c)"], [2, 3, 4, 5, 6]),
        (["y = DequantizeLinear<axis=-1>(p, c)"], [2, 3, 4, 5, 6]),
        (["y = DequantizeLinear(p, two)"], 2),
        (["y = DequantizeLinear<axis=0>(p, of_rows)"], 1),
        (["m = Mul(t, f)", "y = Identity(m)"], 1),  # no constant
        (["m = Mul(f, r)", "y = Identity(m)"], 1),  # along the rows
        (["m = Add(f, c)", "y = Mul(m, c)"], 1),  # something else comes first
        (["m = Mul(f, c)", "y = Add(m, f)"], 1),  # and is read unscaled, too
    ],
    ids=[
        "columns",
        "behind what is measured",
        "several",
        "rows and columns",
        "dequantized, columns",
        "dequantized",
        "dequantized, rows",
        "measured",
        "rows",
        "added to",
        "read twice",
    ],
)
def test_what_a_product_of_integers_is_multiplied_by_counts_where_it_is_a_constant_of_the_weight(more, factor):
    cast = [] if "(p" in more[0] else ["f = Cast<to=1>(p)"]
    proto = model(
        "q, s, z = DynamicQuantizeLinear(x)", "p = MatMulInteger(q, k, z, kz)", "t = Mul(s, s)", *cast, *more,
        x="float[7,6] x", k=np.arange(30).reshape(6, 5).astype(np.uint8), kz=np.uint8(9),
        c=np.arange(2, 7).astype(np.float32), r=np.arange(7).astype(np.float32)[:, None], two=2.0,
        of_rows=np.arange(1, 8).astype(np.float32),
    )  # fmt: skip
    traced = trace(load(proto))
    (index,) = (node.index for node in traced.model.nodes if node.op == "MatMulInteger")
    found = multiplied(traced, (index, 1), ConstantValues(traced.model))
    np.testing.assert_array_equal(found, (np.arange(30).reshape(6, 5) - 9) * np.asarray(factor, np.float32))


def test_a_product_of_integers_without_columns_has_no_numbers():
    proto = model(
        "q, s, z = DynamicQuantizeLinear(x)", "p = MatMulInteger(q, k, z)", "f = Cast<to=1>(p)", "m = Mul(f, c)",
        "y = Concat<axis=1>(m, x)", x="float[7,6] x", k=np.zeros((6, 0), np.uint8), c=np.zeros(0, np.float32),
    )  # fmt: skip
    found = multiplied(traced := trace(load(proto)), (1, 1), ConstantValues(traced.model))
    assert found.shape == (6, 0)


def test_the_scale_of_a_convolution_of_integers_lies_along_its_channels():
    weight = RNG.integers(-9, 9, (5, 3, 2, 2)).astype(np.int8)
    scale = np.arange(1, 6).astype(np.float32).reshape(1, 5, 1, 1)
    proto = model(
        "q, s, z = DynamicQuantizeLinear(x)", "p = ConvInteger(q, k, z)", "f = Cast<to=1>(p)", "m = Mul(s, c)",
        "y = Mul(f, m)", k=weight, c=scale,
    )  # fmt: skip
    traced = trace(load(proto))
    (index,) = (node.index for node in traced.model.nodes if node.op == "ConvInteger")
    found = multiplied(traced, (index, 1), ConstantValues(traced.model))
    np.testing.assert_array_equal(found, weight * scale.reshape(5, 1, 1, 1))


# -- fused mixtures of integers --------------------------------------------------------------------------------------


def fused(bits=4, block=0, points=True, more=""):
    """Return a mixture of four experts of inner width 48 in one operator, its nodes and weights."""
    rng = np.random.default_rng(bits)

    def of(rows, width):
        blocks = -(-width // block) if block else 1
        packed = rng.integers(0, 256, (4, rows, width * bits // 8)).astype(np.uint8)
        scales = rng.uniform(1, 4, (4, rows, blocks)).astype(np.float32) / 400
        zeros = (4, rows, -(-blocks * bits // 8)) if block else (4, -(-rows * bits // 8))
        return packed, scales if block else scales[:, :, 0], rng.integers(0, 256, zeros).astype(np.uint8)

    names = ("f1", "s1", "z1", "f2", "s2", "z2")
    weights = dict(zip(names, (*of(96, 32), *of(32, 48)), strict=True))
    attributes = (
        'k=2, activation_type="swiglu", swiglu_fusion=1, normalize_routing_weights=1, '
        f"expert_weight_bits={bits}" + f", block_size={block}" * bool(block) + more
    )
    last = ", , , , , z1, z2" * points
    nodes = ("p = MatMul(x, router)", f"y = com.microsoft.QMoE<{attributes}>(x, p, f1, s1, , f2, s2{last})")
    own = {"router": (32, 4), **{name: each for name, each in weights.items() if points or name[0] != "z"}}
    return nodes, own


def in_one(nodes, own, **more):
    ports = {"x": "float[n,32] x", "y": "float[n,32] y", "imports": '"com.microsoft" : 1'}
    return model(*nodes, **ports, **{**own, **more})


@pytest.mark.parametrize(
    ("bits", "block", "tolerance"), [(4, 0, 1e-6), (8, 0, 1e-6), (4, 16, 1e-6), (4, 32, 1e-6), (8, 16, 0.03)]
)
@pytest.mark.parametrize("points", [True, False])
def test_a_mixture_with_the_decoded_weights_gives_the_same(bits, block, tolerance, points):
    """Blocks of eight bits multiply with activations of eight bits, whatever is asked for; one of 32 is cut short."""
    nodes, own = fused(bits, block, points)
    whole = in_one(nodes, own)
    traced = trace(load(whole))
    values, index = ConstantValues(traced.model), traced.model.nodes[1].index
    decoded = {f"f{n}": multiplied(traced, (index, slot), values) for n, slot in ((1, 2), (2, 5))}
    op = re.sub(r", expert_weight_bits=\d(, block_size=\d+)?", "", nodes[1]).replace("QMoE", "MoE")
    op = re.sub(r"\(.*\)", "(x, p, f1, , f2)", op)
    router = {each.name: numpy_helper.to_array(each) for each in whole.graph.initializer}["router"]
    floats = in_one((nodes[0], op), {"router": router, **decoded})
    rows = RNG.standard_normal((9, 32)).astype(np.float32)
    one, other = (open_session(each.SerializeToString()).run({"x": rows})["y"] for each in (whole, floats))
    assert np.abs(one - other).max() <= tolerance * np.abs(other).max()
    assert cost.macs(traced) == cost.macs(trace(load(floats))) == 32 * 4 + 2 * (96 * 32 + 48 * 32)


def test_experts_of_a_fused_mixture_of_integers_are_ranked_by_what_these_stand_for():
    nodes, own = fused(points=False)
    flat = {name: np.ones_like(own[name]) for name in ("s1", "s2")}
    codes = np.array([0xFF, 0x44, 0x99, 0xA6], np.uint8)  # 7, -4, 1, (-2, 2): the largest bytes are not the largest
    more = {name: np.broadcast_to(codes[:, None, None], own[name].shape).copy() for name in ("f1", "f2")}
    proto = in_one(nodes, own, **more, **flat, router=np.ones((32, 4), np.float32))
    for scaled, order in ((1, [2, 3, 1, 0]), (10, [3, 1, 0, 2])):
        for tensor in proto.graph.initializer:
            if tensor.name in flat:
                scales = flat[tensor.name] * np.array([1, 1, scaled, 1], np.float32)[:, None]
                tensor.CopyFrom(numpy_helper.from_array(scales, tensor.name))
        group, made = of_experts(proto)
        assert np.argsort(importance.score("l2", iter(made), np.random.default_rng(0))).tolist() == order
        assert group.kind == EXPERTS


def test_of_weights_that_are_laid_out_for_a_device_scales_count():
    nodes, own = fused(block=16, more=", weights_prepacked=1")
    group, made = of_experts(in_one(nodes, own))
    kernels = [matrix for role, matrix in made if role == "out"]
    assert [matrix.shape for matrix in kernels] == [(4, 32), (4, 96 * 2), (4, 32 * 3)]
    np.testing.assert_array_equal(kernels[1], own["s1"].reshape(4, -1))
    assert group.units == 4
