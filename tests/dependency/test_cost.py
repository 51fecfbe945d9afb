"""Multiply-accumulates against numbers computed by hand, and against the pruned model."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.dependency import cost
from onnxprune.dependency.axes import Atom
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.surgery.rewrite import new_sizes, rewrite
from tests.support.build import IMAGE, ROWS, TOKENS, conv, dense, model

MODELS = ["cnn", "mobilenet", "resnet_bn", "resnet_folded", "vit"]
MHA = (
    "q0 = MatMul(x, wq)", "k0 = MatMul(x, wk)", "v0 = MatMul(x, wv)",
    "q1 = Reshape(q0, split)", "k1 = Reshape(k0, split)", "v1 = Reshape(v0, split)",
    "q = Transpose<perm = [0,2,1,3]>(q1)", "k = Transpose<perm = [0,2,3,1]>(k1)", "v = Transpose<perm = [0,2,1,3]>(v1)",
    "s = MatMul(q, k)", "p = Softmax(s)", "o = MatMul(p, v)", "t = Transpose<perm = [0,2,1,3]>(o)",
    "r = Reshape(t, join)", "y = MatMul(r, wo)",
)  # fmt: skip
WEIGHTS = {"split": [0, -1, 4, 4], "join": [0, -1, 16], "wq": (16, 16), "wk": (16, 16), "wv": (16, 16), "wo": (16, 5)}


def macs(proto):
    return cost.macs(trace(view(proto)))


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (model("y = Conv(x, w)", w=(8, 3, 3, 3)), 8 * 3 * 9 * 4 * 4),
        (model("y = Conv<strides = [2,2]>(x, w)", w=(8, 3, 2, 2)), 8 * 3 * 4 * 3 * 3),
        (model("y = Conv<group = 3>(x, w)", w=(6, 1, 3, 3)), 6 * 9 * 4 * 4),
        (model("y = ConvTranspose<strides = [2,2]>(x, w)", w=(3, 8, 2, 2)), 3 * 8 * 4 * 6 * 6),
        (model("y = Gemm(x, w)", x=ROWS, w=(6, 5)), 30),
        (model("y = MatMul(x, w)", x="float[6] x", w=(6, 5)), 30),
        (model("y = Relu(x)", x=IMAGE), 0),
        (model('y = Einsum<equation = "ni,io->no">(x, w)', x=ROWS, w=(6, 5)), 30),
        (model("y = MatMul(x, w)", x="float[n,7,6] x", w=(6, 5)), 7 * 30),
    ],
    ids=["conv", "strides", "depthwise", "transposed", "gemm", "vector", "relu", "einsum", "tokens"],
)  # fmt: skip
def test_macs_of_one_sample(proto, expected):
    assert macs(proto) == expected


def test_macs_of_attention():
    proto = model(*MHA, x="float[n,10,16] x", **WEIGHTS)
    assert macs(proto) == 10 * (3 * 16 * 16 + 16 * 5) + 2 * 10 * 10 * 16


def test_a_static_batch_counts_as_it_is():
    assert macs(model("y = MatMul(x, w)", x="float[2,6] x", w=(6, 5))) == 60


def test_a_length_counts_with_the_size_of_the_probe():
    found = trace(view(model("y = MatMul(x, w)", x=TOKENS, w=(16, 5))))
    assert cost.macs(found) == found.probe.shape("x")[1] * 80


def test_the_batch_alone_becomes_one():
    found = trace(view(model("y = MatMul(x, w)", x=TOKENS, w=(16, 5))))
    assert [(atom.name, size) for atom, size in cost.per_sample(found).items()] == [("n", 1)]


def test_scalar_and_unknown_inputs_have_no_batch():
    proto = model("a = Mul(x, f)", "y = MatMul(a, w)", x=ROWS + ", float f", w=(6, 5))
    assert macs(proto) == 30


def test_macs_by_atom_are_those_that_its_units_take_part_in():
    found = trace(view(conv("b = Relu(a)")))
    (group, *_) = groups(found)
    by_atom = cost.macs_by_atom(found)
    assert by_atom[group.atom] == cost.macs(found) == 36 * (3 * 8 + 8 * 5)


def test_macs_by_atom_of_a_part_of_a_concat():
    proto = model(
        "a = MatMul(x, w1)", "b = MatMul(x, w2)", "c = Concat<axis = 1>(a, b)", "y = MatMul(c, w3)",
        x=ROWS, w1=(6, 4), w2=(6, 7), w3=(11, 5),
    )  # fmt: skip
    found = trace(view(proto))
    by_units = {group.units: cost.macs_by_atom(found)[group.atom] for group in groups(found) if group.locked is None}
    assert by_units == {4: 4 * 6 + 4 * 5, 7: 7 * 6 + 7 * 5}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_the_cost_of_a_plan_is_the_cost_of_its_model(name, share):
    found = trace(load(f"models/{name}.onnx"))
    kept = {
        group.atom: np.arange(group.units) < max(1, round(share * group.units))
        for group in groups(found)
        if group.locked is None and group.exact
    }
    pruned = trace(view(rewrite(found, kept).proto))
    assert cost.macs(found, new_sizes(kept)) == cost.macs(pruned)
    assert cost.macs(pruned) < cost.macs(found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cnn", 6047488), ("mobilenet", 6489696), ("resnet_bn", 17544960), ("resnet_folded", 17544960), ("vit", 21263520)],
)
def test_macs_of_the_bundled_models(name, expected):
    assert cost.macs(trace(load(f"models/{name}.onnx"))) == expected


def test_shares_of_a_group():
    found = trace(view(dense("b = Relu(a)")))
    (group,) = [group for group in groups(found) if group.locked is None]
    assert cost.shares(found, [group]) == {group.name: pytest.approx(1 + 1)}


# -- many plans of one model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_counter_counts_what_the_rewritten_model_does(name, seed):
    traced = trace(load(f"models/{name}.onnx"))
    found = [group for group in groups(traced) if group.prunable and group.exact and not group.inner]
    rng = np.random.default_rng(seed)
    masks = {}
    for group in found[: None if seed else 2]:
        masks[group.atom] = np.zeros(group.units, bool)
        masks[group.atom][rng.permutation(group.units)[: rng.integers(1, group.units + 1)]] = True
    counter = cost.Counter(traced)
    after = view(rewrite(traced, masks).proto)
    sizes = new_sizes(masks)
    assert counter.fraction("macs", sizes) == pytest.approx(cost.macs(trace(after)) / cost.macs(traced), rel=1e-9)
    assert counter.fraction("params", sizes) == pytest.approx(after.params / traced.model.params, rel=1e-9)
    assert counter.fraction("macs", {}) == counter.fraction("params", {}) == counter.fraction("size", {}) == 1
    saved = sum(constant.count * constant.dtype.itemsize for constant in traced.model.constants.values())
    saved -= sum(constant.count * constant.dtype.itemsize for constant in after.constants.values())
    assert counter.count("size", sizes) == pytest.approx(traced.model.size_bytes() - saved, rel=0.01)


def test_terms_are_worked_out_where_sizes_change():
    one, two, asked = Atom(4, "a"), Atom(6, "b"), []

    def value(name, atom):
        return lambda sizes: asked.append(name) or float(sizes.get(atom, atom.size))

    terms = cost.Terms([cost.Term(frozenset([atom]), value(name, atom)) for name, atom in (("a", one), ("b", two))])
    asked.clear()
    assert terms.total({one: 3}) == 9
    assert terms.total({one: 3, two: 1}) == 4
    assert terms.total({two: 1}) == 5
    assert terms.total({}) == 10
    assert asked == ["a", "b", "a", "b"]


def test_a_footprint_is_weights_and_what_is_alive_together():
    proto = model("a = MatMul(x, w1)", "b = Relu(a)", "y = MatMul(b, w2)", x="float[2,6] x", w1=(6, 8), w2=(8, 5))
    traced = trace(load(proto))
    footprint = cost.Footprint(traced, {})
    (group,) = (group for group in groups(traced) if group.prunable)
    held = 4 * (6 * 8 + 8 * 5 + 2 * (8 + 8))  # both weights, and what the Relu reads and writes
    left = 4 * (6 * 4 + 4 * 5 + 2 * (4 + 5))  # now the last node holds most
    assert footprint.fraction({}) == 1
    assert footprint.fraction({group.atom: 4}) == pytest.approx(left / held)


def test_a_counter_knows_shared_weights_once():
    proto = model("a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)", "d = Relu(c)", "e = MatMul(d, w2)",
        "y = MatMul(e, w3)", x=ROWS, w1=(6, 8), w2=(8, 8), w3=(8, 5))  # fmt: skip
    traced = trace(load(proto))
    counter = cost.Counter(traced)
    assert counter.fraction("params", {}) == counter.fraction("macs", {}) == 1


def test_a_copy_of_a_shared_weight_is_counted():
    """One use loses units, the other makes an output: the file holds both."""
    proto = model("a = MatMul(x, w1)", "b = Relu(a)", "y = MatMul(b, w2)", "z = MatMul(x, w1)",
                  x="float[n,6] x", y="float[n,5] y, float[n,8] z", w1=(6, 8), w2=(8, 5))  # fmt: skip
    traced = trace(load(proto))
    (group,) = (group for group in groups(traced) if group.prunable)
    masks = {group.atom: np.arange(8) < 4}
    after = view(rewrite(traced, masks).proto)
    assert after.params == 6 * 8 + 6 * 4 + 4 * 5
    assert cost.Counter(traced).count("params", new_sizes(masks)) == after.params
