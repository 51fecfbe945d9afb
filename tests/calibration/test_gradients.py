"""Gradients by gates against differences of ONNX Runtime, and what criteria make of them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.calibration.batches import calibration
from onnxprune.calibration.gradients import NO_GRADIENT, _Elements, _Sums, gate_places, gradients
from onnxprune.criteria.slopes import fisher, taylor
from onnxprune.data.samples import load_data
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import ModelError
from onnxprune.graph.files.read import load
from onnxprune.runtime.replay import Replay
from onnxprune.training.network.pullback import Pullback
from onnxprune.training.operators import registry
from tests.commands.test_calibrated import cnn, transformer
from tests.support.build import ROWS, conv, dense, model

STEP = 2e-2


def excited():
    """Channels that go through a squeeze-and-excitation gate: two places consume each."""
    return conv(
        "c = GlobalAveragePool(a)", "d = Conv(c, w3)", "e = Sigmoid(d)", "f = Conv(e, w4)", "b = Mul(a, f)",
        w3=(4, 8, 1, 1), w4=(8, 4, 1, 1),
    )  # fmt: skip


def looped():
    """A layer that consumes its units inside a loop, three times over."""
    return model(
        "a = MatMul(x, w1)", "b = Relu(a)", "start = MatMul(x, w3)",
        "y = Loop (turns, yes, start) <body = step (int64 i, bool go, float[n,5] s) => (bool on, float[n,5] t) "
        "{ on = Identity(go)\n u = MatMul(b, w2)\n t = Add(s, u) }>",
        x=ROWS, y="float[n,5] y", infer=False, w1=(6, 8), w2=(8, 5), w3=(6, 5), turns=np.array(3), yes=np.array(True),
    )  # fmt: skip


def feeds(proto, count=2, seed=0):
    rng = np.random.default_rng(seed)
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim][1:]
    return {"x": rng.standard_normal((count, *(size or 5 for size in shape))).astype(np.float32)}


def scaled(proto, group, factors):
    """Return the model whose weights that consume the units of a group are multiplied."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for member in {(m.constant, m.dim): m for m in group.members if m.role == "in"}.values():
        tensor = next(t for t in changed.graph.initializer if t.name == member.constant)
        array = numpy_helper.to_array(tensor).copy()
        front = np.moveaxis(array, member.dim, 0)
        for unit, factor in enumerate(factors):
            front[member.places[unit]] *= np.float32(factor)
        tensor.CopyFrom(numpy_helper.from_array(array, member.constant))
    return changed


def output(proto, data):
    loaded = load(proto)
    return next(Replay(loaded, [data]).run(loaded.tensor_outputs))


NETWORKS = {
    "conv": lambda: conv("b = Sigmoid(a)"), "cnn": cnn, "transformer": transformer, "excited": excited,
    "dense": lambda: dense("b = Tanh(a)"),
}  # fmt: skip


@pytest.mark.parametrize("form", NETWORKS)
def test_gates_against_differences_of_onnx_runtime(form):
    proto = NETWORKS[form]()
    traced = trace(load(proto))
    pruned = [group for group in groups(traced) if group.prunable]
    data = feeds(proto)
    along = {name: np.cos(np.arange(v.size)).reshape(v.shape) for name, v in output(proto, data).items()}
    places = {group.name: gate_places(traced, group) for group in pruned}
    pullback = Pullback(traced.model, tuple({p.gate for each in places.values() for p in each}))
    (derivatives,) = pullback.run(data, lambda _: [along])

    def summed(group, factors):
        values = output(scaled(proto, group, factors), data)
        return sum(float((values[name].astype(np.float64) * v).sum()) for name, v in along.items())

    assert pruned
    for group in pruned:
        assert places[group.name], group.name
        slopes = sum(derivatives[p.gate.name].astype(np.float64)[p.at].sum(1) for p in places[group.name])
        expected = []
        for unit in (0, group.units - 1):
            one = np.eye(group.units)[unit] * STEP
            expected.append((summed(group, 1 + one) - summed(group, 1 - one)) / (2 * STEP))
        size = max(np.abs(slopes).max(), 1e-3)
        assert slopes[[0, -1]] == pytest.approx(expected, abs=0.02 * size), group.name
        whole = (summed(group, np.full(group.units, 1 + STEP)) - summed(group, np.full(group.units, 1 - STEP))) / (
            2 * STEP
        )
        assert slopes.sum() == pytest.approx(whole, abs=0.02 * size * np.sqrt(group.units)), group.name


def seen(proto, data=None, metric=None, count=24, **options):
    loaded = load(proto)
    traced = trace(loaded)
    pruned = [group for group in groups(traced) if group.prunable]
    source = calibration(loaded, load_data(data or feeds(proto, count), loaded.inputs), metric)
    return gradients(traced, pruned, source, **options)


def test_a_loop_adds_up_its_turns():
    found = seen(looped(), metric="dense")
    assert found.why_none == {}
    (slopes,) = found.slopes.values()
    assert np.abs(slopes.gates).max() > 0


def test_the_same_seed_gives_the_same_numbers():
    one, same, other = (seen(dense("b = Tanh(a)"), metric="classification", seed=seed) for seed in (0, 0, 1))
    for name, slopes in one.slopes.items():
        assert np.array_equal(slopes.gates, same.slopes[name].gates)
        assert not np.array_equal(slopes.gates, other.slopes[name].gates)
        assert (fisher(slopes) >= 0).all()
        assert (taylor(slopes) >= 0).all()
    assert one.samples == 24
    assert one.draws == 8
    assert all(slopes.gates.shape[0] == 24 * 8 for slopes in one.slopes.values())


def test_labels_give_the_empirical_information():
    proto = dense("b = Relu(a)")
    labels = np.arange(24) % 5
    found = seen(proto, {**feeds(proto, 24), "labels": labels}, "classification")
    assert found.draws == 0
    (slopes,) = found.slopes.values()
    assert slopes.gates.shape[0] == 24
    assert seen(proto, metric="classification").draws == 8


def test_a_budget_bounds_the_samples():
    proto = dense("b = Relu(a)")
    assert seen(proto, count=300).samples == 300
    few = seen(proto, count=300, passes=1.0)
    assert 16 <= few.samples < 300
    assert few.draws == 2
    assert seen(proto, count=300, passes=1e-9).samples == 16


def test_units_behind_whole_numbers_have_no_gradient():
    proto = model(
        "a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)", "d = ArgMax<axis=-1, keepdims=1>(c)",
        "e = Cast<to=1>(d)", "f = MatMul(x, w3)", "g = Relu(f)", "h = MatMul(g, w4)", "y = Add(h, e)",
        x=ROWS, w1=(6, 8), w2=(8, 5), w3=(6, 8), w4=(8, 5),
    )  # fmt: skip
    found = seen(proto, metric="dense")
    assert found.why_none == {"w1": NO_GRADIENT}
    assert set(found.slopes) == {"w3"}


def test_squared_products_of_weights():
    """Of the weight form: with one output and one sample, gradient times weight can be told by hand."""
    proto = dense("b = Identity(a)", w1=(6, 8), b1=np.zeros(8, np.float32), w2=(8, 1))
    data = feeds(proto, 32)
    found = seen(proto, data, "dense", of_weights=True)
    (slopes,) = found.slopes.values()
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    w1, w2 = weights["w1"], weights["w2"]
    outputs = output(proto, data)["y"]
    scale = 2 / outputs.var()  # of a drawn direction of one number
    x = data["x"].astype(np.float64)
    made = np.einsum("nf,fu,u->nfu", x, w1, w2[:, 0])
    consumed = (x @ w1) * w2[:, 0]
    expected = scale * (np.square(made).sum(1) + np.square(consumed)).mean(0)
    assert slopes.weights == pytest.approx(expected, rel=0.5)
    assert np.corrcoef(slopes.weights, expected)[0, 1] > 0.9


@pytest.mark.parametrize("by_sum", [True, False])
def test_products_of_each_weight_are_added_up(by_sum):
    """Of right answers the magnitude is that of the sum, so that gradients cancel out; of drawn ones they do not."""
    traced = trace(load(dense("b = Relu(a)", w1=(6, 8), b1=(8,), w2=(8, 5))))
    (group,) = (each for each in groups(traced) if each.units == 8)
    sums = _Sums(group, (), traced.model, frozenset(("w1", "w2")), _Elements(by_sum=by_sum))
    rng = np.random.default_rng(0)
    each = [{"w1": rng.standard_normal((6, 8)), "w2": rng.standard_normal((8, 5))} for _ in range(2)]
    for derivatives in each:
        sums.add(derivatives)
    products = {name: np.stack([one[name] * traced.model.array(name) for one in each]) for name in ("w1", "w2")}
    whole = {name: np.abs(array.sum(0)) if by_sum else np.abs(array).sum(0) for name, array in products.items()}
    expected = (whole["w1"].sum(0) + whole["w2"].sum(1)) / 2
    assert sums.slopes().elements == pytest.approx(expected, rel=1e-5)


def test_an_operator_without_a_gradient_is_named(monkeypatch):
    monkeypatch.setattr(registry, "operator", lambda node: None)
    with pytest.raises(ModelError, match="gradients of this operator are not known"):
        seen(dense("b = Relu(a)"))
