"""The model of latency: shapes of nodes under plans, tables between their marks, the fit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.dependency.axes import walk
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import ModelError
from onnxprune.graph.files.read import load
from onnxprune.graph.forms.parts import side_by_side
from onnxprune.graph.shapes.probe import shapes_at
from onnxprune.latency import kernels, predict
from onnxprune.runtime.random_feeds import default_dims
from onnxprune.runtime.session import open_session
from tests.dependency.rules.cases import CASES
from tests.dependency.rules.fused_cases import FUSED
from tests.support.build import model

CHAIN = model(
    "a = Conv<pads = [1, 1, 1, 1]>(x, w1)",
    "b = Relu(a)",
    "y = Conv(b, w2)",
    x="float[n,3,h,h] x",
    w1=(16, 3, 3, 3),
    w2=(8, 16, 1, 1),
)


def sizing_of(proto, **dims):
    source = load(proto)
    return predict.Sizing(trace(source), shapes_at(source, dims))


@pytest.fixture(scope="module")
def chain():
    sizing = sizing_of(CHAIN, n=2, h=10)
    (group,) = (group for group in groups(sizing.traced) if group.prunable)
    return sizing, group


def test_nodes_have_the_shapes_of_the_run_and_of_the_plan(chain):
    sizing, group = chain
    first, second = predict.grids(sizing, {group.atom: 4})
    assert [mark for (mark,) in [first.parts, second.parts]]
    assert first.kernels[-1].key.endswith("float32[2,3,10,10] float32[16,3,3,3]c")
    assert second.kernels[-1].key.endswith("float32[2,16,10,10] float32[8,16,1,1]c")
    assert [kernel.key.split("] ")[-1] for kernel in second.kernels] == [
        f"float32[8,{count},1,1]c" for count in (4, 8, 12, 16)
    ]


def test_coordinates_are_what_is_left(chain):
    sizing, group = chain
    _, second = predict.grids(sizing, {group.atom: 4})
    assert second.at({}) == (1.0,)
    assert second.at({group.atom: 4}) == (0.25,)
    table = np.array([1.0, 2.0, 3.0, 5.0])  # at 4, 8, 12, 16
    assert predict.lookup(second, table, {group.atom: 8}) == 2.0
    assert predict.lookup(second, table, {group.atom: 14}) == 4.0
    assert predict.lookup(second, table, {group.atom: 2}) == 0.5


def test_depthwise_convolutions_follow_with_their_groups():
    proto = model(
        "a = Conv(x, w1)", "b = Conv<group = 16, pads = [1, 1, 1, 1]>(a, w2)", "y = Conv(b, w3)",
        x="float[1,3,9,9] x", w1=(16, 3, 1, 1), w2=(16, 1, 3, 3), w3=(8, 16, 1, 1),
    )  # fmt: skip
    sizing = sizing_of(proto)
    (group,) = (group for group in groups(sizing.traced) if group.prunable)
    _, depthwise, _ = predict.grids(sizing, {group.atom: 8})
    assert len(depthwise.parts) == 1
    assert [k.key.split(" ", 1)[1] for k in depthwise.kernels] == [
        f"float32[1,{n},9,9] float32[{n},1,3,3]c" for n in (8, 16)
    ]


def test_times_and_elements_are_features(chain):
    sizing, group = chain
    found = predict.grids(sizing, {group.atom: 4})
    times = {kernel.key: float(number + 1) for grid in found for number, kernel in enumerate(grid.kernels)}
    timed = predict.Timed(sizing, found, times)
    assert timed.features({}).tolist() == [1.0, 8.0, 2 * 16 * 100]
    assert timed.features({group.atom: 8}).tolist() == [1.0, 4.0, 2 * 8 * 100]
    assert timed.unknown == 0


def test_a_machine_that_only_reads_weights_is_found_out_by_a_few_candidates(chain):
    """Kernels that were timed here say nothing of it: their times fall with each cut, those of that machine hardly."""
    sizing, group = chain
    found = predict.grids(sizing, {group.atom: 4})
    times = {kernel.key: float(number + 1) for grid in found for number, kernel in enumerate(grid.kernels)}
    timed = predict.Timed(sizing, found, times, by_timer=True)
    assert timed.features({})[:3].tolist() == [1.0, 8.0, 2 * 16 * 100]
    assert timed.features({})[3] - timed.features({group.atom: 8})[3] == 4 * 8 * (3 * 9 + 8)

    def ms(sizes):
        return 1.0 + 0.001 * timed.features(sizes)[3]

    fit = predict.fitted(timed, [({group.atom: count}, ms({group.atom: count}) / ms({})) for count in (4, 8, 12)])
    for count in range(1, 17):
        assert fit.fraction({group.atom: count}) == pytest.approx(ms({group.atom: count}) / ms({}), rel=0.02)


def test_a_node_that_could_not_be_timed_follows_its_macs(chain):
    sizing, group = chain
    found = predict.grids(sizing, {group.atom: 4})
    times = {kernel.key: 2.0 for kernel in found[0].kernels}
    timed = predict.Timed(sizing, found, times)
    assert timed.unknown == 1
    whole, half = timed.features({})[1], timed.features({group.atom: 8})[1]
    assert half - 2.0 == pytest.approx((whole - 2.0) / 2)


@given(st.lists(st.floats(0.1, 1), min_size=3, max_size=6), st.floats(0, 0.5), st.floats(0.1, 1))
def test_a_fit_finds_what_made_the_latencies(shares, fixed, per_ms):
    class Linear:
        def features(self, sizes):
            share = sizes.get("share", 1.0)
            return np.array([1.0, 40 * share, 1000 * share**0.5])

    whole = fixed + per_ms
    races = [({"share": share}, (fixed + per_ms * share) / whole) for share in shares]
    found = predict.fitted(Linear(), races)
    assert (found.weights >= 0).all()
    for sizes, fraction in races:
        assert found.fraction(sizes) == pytest.approx(fraction, rel=0.02)
    assert found.fraction({}) == pytest.approx(1, rel=0.02)


def test_shares_are_aligned_to_steps():
    assert [predict.aligned(256, share, 16) for share in (1.0, 0.8, 0.6, 0.4, 0.2)] == [256, 208, 160, 96, 48]
    assert predict.aligned(8, 0.2, 16) == 8
    assert predict.aligned(100, 0.99, 16) == 96


def operands_of(kernel):
    return [None if o is None else o.shape if o.array is None else o.array.tolist() for o in kernel.stand.operands]


def attributes_of(kernel):
    (node,) = onnx.ModelProto.FromString(side_by_side([kernel.stand], kernels._random)[0]).graph.node
    return {found.name: onnx.helper.get_attribute_value(found) for found in node.attribute}


def multiplying(source):
    """Yield the kernels of each node at its full size, and with half of the units of each of its groups, and of all."""
    traced = trace(source)
    least = {group.atom: group.least for group in groups(traced) if group.prunable}
    moving = set(least)
    sizing = predict.Sizing(traced, shapes_at(source, default_dims(source.inputs, 2)))
    for index in source.top:
        coupling = traced.couplings.get(index)
        if coupling is None or not predict.can_stand_alone(coupling):
            continue
        axes = [axis for found in coupling.inputs for axis in traced.axes(found or ())]
        atoms = sorted({atom for axis in axes for atom in walk(axis) if atom in moving}, key=str)
        plans = (
            {},
            *({atom: max(least[atom], atom.size // 2) for atom in cut} for cut in (*([a] for a in atoms), atoms)),
        )
        yield [predict.kernel_at(coupling, sizing, plan, moving) for plan in plans]


def failure(kernel):
    proto, feeds = side_by_side([kernel.stand], kernels._random)
    try:
        open_session(proto, threads=1).run(feeds)
    except ModelError as why:
        return str(why)
    return ""


def test_every_node_that_multiplies_runs_at_every_size():
    seen, failed, ran = set(), [], set()
    for case in (*CASES, *FUSED):
        for whole, *less in multiplying(load(case.proto)) if not case.trace_only else ():
            keys = tuple(kernel.key for kernel in (whole, *less))
            if keys in seen:
                continue
            seen.add(keys)
            if failure(whole):
                continue
            ran.add(whole.stand.op)
            failed += [(str(case), kernel.key, why) for kernel in less if (why := failure(kernel))]
    assert not failed
    assert len(ran) > 25  # ops


def test_attributes_that_are_lists_follow():
    (case,) = (case for case in FUSED if str(case) == "com.microsoft.Attention-sizes")
    (found,) = (each for each in multiplying(load(case.proto)) if each[0].stand.op == "com.microsoft.Attention")
    whole, *_, half = found
    before, after = (attributes_of(kernel)["qkv_hidden_sizes"] for kernel in (whole, half))
    assert sum(before) == whole.stand.operands[1].shape[1]
    assert sum(after) == half.stand.operands[1].shape[1] < sum(before)


def test_lengths_and_states_are_those_of_the_model():
    proto = model(
        "a, b, c = LSTM<hidden_size = 8>(x, w, r, , lens, h, h)", "d = Squeeze(a, one)", "y = MatMul(d, w2)",
        x="float[30,2,16] x", w=(1, 32, 16), r=(1, 32, 8), w2=(8, 5), lens=np.array([30, 7], np.int32),
        h=(1, 2, 8), one=np.array([1]),
    )  # fmt: skip
    (whole, *_, half), _ = multiplying(load(proto))
    assert operands_of(whole)[4:] == [[30, 7], (1, 2, 8), (1, 2, 8)]
    assert operands_of(half)[1:] == [(1, 16, 16), (1, 16, 4), None, [30, 7], (1, 2, 4), (1, 2, 4)]
    assert attributes_of(half)["hidden_size"] == 4
    assert [not failure(kernel) for kernel in (whole, half)] == [True, True]


def test_lengths_that_are_fed_are_one_and_known_ones_have_the_size_of_the_run():
    rest = {"w": (1, 32, 16), "r": (1, 32, 8), "w2": (8, 5), "one": np.array([1]), "y": "float[s,n,5] y"}
    rest |= {"infer": False}
    tail = ("a, b, c = LSTM<hidden_size = 8>(x, w, r, , lens)", "d = Squeeze(a, one)", "y = MatMul(d, w2)")
    fed = model(*tail, x="float[s,n,16] x, int32[n] lens", **rest)
    known = model(
        "s = Shape(x)", "n = Gather(s, one)", "k = Expand(five, n)", "lens = Cast<to = 6>(k)", *tail,
        x="float[s,n,16] x", five=np.array([5]), **rest,
    )  # fmt: skip
    (whole, *_), _ = multiplying(load(fed))
    assert operands_of(whole)[4] == (2,)
    (whole, *_), _ = multiplying(load(known))
    assert operands_of(whole)[4] == [5] * whole.stand.operands[0].shape[1]
