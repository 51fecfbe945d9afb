"""Statistics of activations against plain numpy, on graphs where they can be computed by hand."""

from __future__ import annotations

import weakref
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.calibration import statistics
from onnxprune.calibration.batches import calibration
from onnxprune.calibration.statistics import activations
from onnxprune.criteria import importance
from onnxprune.data.samples import load_data
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import DataError, OptionError
from onnxprune.evaluation.settings import settings as settings_of
from onnxprune.graph.files.read import load
from onnxprune.planning.choice import select_ratios
from onnxprune.planning.options import make_options
from onnxprune.planning.plan import plan
from onnxprune.runtime.replay import Replay
from onnxprune.runtime.session import open_session
from tests.dependency.rules.cases import CASES
from tests.dependency.rules.quantized_cases import INTO, OUT_OF, SCALES, integers, scales
from tests.support.build import IMAGE, ROWS, TOKENS, array, conv, dense, model

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((6, 3, 6, 6)).astype(np.float32)
VECTORS = RNG.standard_normal((6, 6)).astype(np.float32)
TEXT = RNG.standard_normal((4, 5, 16)).astype(np.float32)
ATTENDING = {"x": TOKENS, "opset": 23, "y": "float[n,s,16] y, float[n,s,16] o"}


def look(proto, *batches, **options):
    """Return the groups by name, what was seen of each, and the outputs of the model for the first batch."""
    traced = trace(load(proto))
    found = groups(traced)
    seen = activations(traced, found, batches, **options)
    outputs = open_session(proto.SerializeToString(), threads=1).run(batches[0])
    return {group.name: group for group in found}, seen, outputs


def some_feeds(loaded):
    """Return random feeds on sizes that the model can take."""
    session = open_session(loaded.proto.SerializeToString(), threads=1, optimize=False)
    return settings_of(loaded, session)[0].feeds


def agrees(seen, weight, values):
    """Assert what was seen: `weight` is ``[units, fan]``, `values` ``[units, occurrences, rows]``."""
    wide = values.astype(np.float64)
    assert seen.weight == pytest.approx(weight, rel=1e-5)
    assert seen.count == values.shape[2]
    assert seen.mean == pytest.approx(wide.mean(2), rel=1e-4, abs=1e-5)
    assert seen.square == pytest.approx((wide**2).mean(2), rel=1e-4)
    assert seen.variance == pytest.approx(wide.var(2), rel=1e-3, abs=1e-5)
    assert seen.absolute == pytest.approx(np.abs(wide).mean(2), rel=1e-4)
    assert seen.positive == pytest.approx((wide > 0).mean(2))


def by_units(values, dim):
    """Return a value as ``[units, 1, rows]``."""
    front = np.moveaxis(values, dim, 0)
    return front.reshape(len(front), 1, -1)


# -- any op ------------------------------------------------------------------------------------------------------


def test_the_channels_of_a_convolution():
    proto = conv("b = Relu(a)", y="float[n,5,6,6] y, float[n,8,6,6] b")
    _, seen, outputs = look(proto, {"x": IMAGES})
    (one,) = seen["w1"]
    weight = array("w2", (5, 8, 1, 1))[:, :, 0, 0].T
    agrees(one, weight, by_units(outputs["b"], 1))
    assert one.energy == pytest.approx(((weight.astype(float) ** 2).sum(1) * one.square[:, 0]).sum())


def test_what_each_group_of_a_convolution_sees():
    proto = model(
        "a = Conv(x, w1)", "b = Conv<group=2>(a, w2)", "y = Conv(b, w3)", w1=(8, 3, 1, 1), w2=(6, 4, 1, 1),
        w3=(5, 6, 1, 1), y="float[n,5,6,6] y, float[n,8,6,6] a"
    )  # fmt: skip
    found, seen, outputs = look(proto, {"x": IMAGES})
    (name,) = [n for n, g in found.items() if g.units == 4 and seen[n]]
    (one,) = seen[name]
    weight = array("w2", (6, 4, 1, 1))[:, :, 0, 0]
    inputs = outputs["a"].reshape(6, 2, 4, 36).transpose(2, 1, 0, 3).reshape(4, 2, -1)
    agrees(one, weight.T, inputs)
    split = weight.reshape(2, 3, 4).astype(float)  # group, output, input
    assert one.through(2, one.square) == pytest.approx(((split**2).sum(1) * one.square.T).sum(0))
    assert one.through(1, one.absolute) == pytest.approx((np.abs(split).sum(1) * one.absolute.T).sum(0))
    assert one.energy == pytest.approx(one.through(2, one.square).sum())


@pytest.mark.parametrize("transposed", [0, 1])
def test_the_pixels_of_a_flattened_channel(transposed):
    proto = model(
        "a = Conv(x, w1)", "b = Relu(a)", "f = Flatten(b)", f"y = Gemm<transB={transposed}>(f, w2)",
        w1=(4, 3, 1, 1), w2=(5, 144) if transposed else (144, 5), y="float[n,5] y, float[n,4,6,6] b"
    )  # fmt: skip
    _, seen, outputs = look(proto, {"x": IMAGES})
    (one,) = seen["w1"]
    weight = array("w2", (5, 144)).T if transposed else array("w2", (144, 5))
    agrees(one, weight.reshape(4, -1), outputs["b"].reshape(6, 4, 36).transpose(1, 2, 0))


def test_a_weight_in_front_of_what_it_multiplies():
    proto = model("a = MatMul(w1, x)", "b = Relu(a)", "y = MatMul(w2, b)", x="float[6,n] x",
                  w1=(8, 6), w2=(5, 8), y="float[5,n] y, float[8,n] b")  # fmt: skip
    _, seen, outputs = look(proto, {"x": VECTORS})
    agrees(seen["w1"][0], array("w2", (5, 8)).T, by_units(outputs["b"], 0))


def test_several_consumers_are_seen_one_by_one():
    proto = dense("b = Relu(a)", "c = Tanh(b)", "z = MatMul(c, w3)", w3=(8, 4),
                  y="float[n,5] y, float[n,4] z, float[n,8] b, float[n,8] c")  # fmt: skip
    _, seen, outputs = look(proto, {"x": VECTORS})
    (one, other) = seen["w1"]
    agrees(one, array("w3", (8, 4)), by_units(outputs["c"], 1))
    agrees(other, array("w2", (8, 5)), by_units(outputs["b"], 1))


def test_parts_of_what_a_weight_multiplies():
    proto = model("a = MatMul(x, w1)", "b = MatMul(x, w2)", "c = Concat<axis=1>(a, b)", "y = MatMul(c, w3)", x=ROWS,
                  w1=(6, 4), w2=(6, 8), w3=(12, 5), y="float[n,5] y, float[n,12] c")  # fmt: skip
    _, seen, outputs = look(proto, {"x": VECTORS})
    weight = array("w3", (12, 5))
    agrees(seen["w1"][0], weight[:4], by_units(outputs["c"][:, :4], 1))
    agrees(seen["w2"][0], weight[4:], by_units(outputs["c"][:, 4:], 1))
    energy = ((weight.astype(float) ** 2).sum(1) * (outputs["c"].astype(float) ** 2).mean(0)).sum()
    assert [seen[name][0].energy for name in ("w1", "w2")] == pytest.approx([energy] * 2, rel=1e-4)


def test_the_heads_of_a_fused_projection():
    proto = model(
        "p = MatMul(x, wp)", "q, k, v = Split<axis=2, num_outputs=3>(p)",
        "o = Attention<q_num_heads=4, kv_num_heads=4>(q, k, v)", "y = MatMul(o, wo)", wp=(16, 48), wo=(16, 16),
        **ATTENDING
    )  # fmt: skip
    found, seen, outputs = look(proto, {"x": TEXT})
    (name,) = [n for n, g in found.items() if g.kind == "heads"]
    (one,) = seen[name]
    agrees(one, array("wo", (16, 16)).reshape(4, -1), outputs["o"].reshape(20, 4, 4).transpose(1, 2, 0))


def test_groups_of_heads_that_share_keys():
    proto = model(
        "q = MatMul(x, wq)", "k = MatMul(x, wk)", "v = MatMul(x, wv)",
        "o = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v)", "y = MatMul(o, wo)", wq=(16, 16), wk=(16, 8),
        wv=(16, 8), wo=(16, 16), **ATTENDING
    )  # fmt: skip
    found, seen, outputs = look(proto, {"x": TEXT})
    heads = [n for n, g in found.items() if g.kind == "heads" and not g.inner]
    (one,) = seen[heads[0]]
    agrees(one, array("wo", (16, 16)).reshape(2, -1), outputs["o"].reshape(20, 2, 8).transpose(1, 2, 0))
    met = [n for n, g in found.items() if g.kind == "head dims" and not any(m.role == "in" for m in g.members)]
    assert met
    assert [seen[name] for name in met] == [()] * len(met)  # queries and keys meet each other


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_the_state_of_a_recurrent_layer(op, gates):
    proto = model(
        f"h = {op}<hidden_size=8>(x, w, r)", "l = Squeeze(h, one)", "y = MatMul(l, w2)", x="float[s,n,3] x",
        w=(1, gates * 8, 3), r=(1, gates * 8, 8), one=[1], w2=(8, 5), y="float[s,n,5] y, float[s,1,n,8] h"
    )  # fmt: skip
    steps = RNG.standard_normal((7, 2, 3)).astype(np.float32)
    found, seen, outputs = look(proto, {"x": steps})
    (name,) = [n for n, g in found.items() if g.units == 8]
    state = by_units(outputs["h"], 3)
    again, after = seen[name]
    agrees(again, array("r", (1, gates * 8, 8))[0].T, state)
    agrees(after, array("w2", (8, 5)), state)


def test_only_the_last_state_of_a_recurrent_layer():
    proto = model("p, yh = RNN<hidden_size=8>(x, w, r)", "l = Squeeze(yh, z)", "y = MatMul(l, w2)", x="float[s,n,3] x",
                  w=(1, 8, 3), r=(1, 8, 8), z=[0], w2=(8, 5), y="float[n,5] y, float[1,n,8] yh")  # fmt: skip
    proto.graph.node[0].output[0] = ""
    found, seen, outputs = look(proto, {"x": RNG.standard_normal((7, 2, 3)).astype(np.float32)})
    (name,) = [n for n, g in found.items() if g.units == 8]
    agrees(seen[name][0], array("r", (1, 8, 8))[0].T, by_units(outputs["yh"], 2))


def test_dequantized_weights():
    stored, scale = integers("k", 5, 8, 1, 1), scales("ks", 5)
    proto = conv("b = Relu(a)", "k = DequantizeLinear<axis=0>(w2, ks)", w2=stored, ks=scale, y="float[n,5,6,6] y")
    proto.graph.node[-1].input[1] = "k"
    _, seen, _ = look(proto, {"x": IMAGES})
    assert seen["w1"][0].weight == pytest.approx(stored[:, :, 0, 0].T * scale)


def test_quantized_activations_count_as_what_they_stand_for():
    kernel = {"k": integers("k", 4, 8, 1, 1), "ks": np.float32(0.01), "kz": np.int8(0)}
    proto = conv(INTO, "c = DequantizeLinear(q, s, z)", "p = QLinearConv(q, s, z, k, ks, kz, t, u)", OUT_OF, out=4,
                 y="float[n,5,6,6] y, float[n,8,6,6] c", **kernel, **SCALES)  # fmt: skip
    _, seen, outputs = look(proto, {"x": IMAGES})
    agrees(seen["w1"][0], kernel["k"][:, :, 0, 0].T * 0.01, by_units(outputs["c"], 1))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats_are_widened(dtype):
    kind = {"float16": "float16", "float64": "double"}[dtype]
    proto = dense("b = Relu(a)", x=f"{kind}[n,6] x", y=f"{kind}[n,5] y, {kind}[n,8] b", dtype=dtype,
                  b1=np.full(8, 300, dtype))  # fmt: skip
    _, seen, outputs = look(proto, {"x": VECTORS.astype(dtype)})
    agrees(seen["w1"][0], array("w2", (8, 5), dtype), by_units(outputs["b"], 1))  # 300² is no half


def test_the_inside_of_a_branch_is_left_out():
    proto = dense(
        "b = If(c) <then_branch = yes () => (float[n,8] t) { t = MatMul(a, w3) }, "
        "else_branch = no () => (float[n,8] f) { f = Relu(a) }>",
        x=f"{ROWS}, bool c", w3=(8, 8)
    )  # fmt: skip
    _, seen, _ = look(proto, {"x": VECTORS, "c": np.array(True)})
    assert [one.weight.shape for found in seen.values() for one in found] == [(6, 8), (8, 5)]  # not (8, 8)


FUSED = "each-position-shared"  # ONNX Runtime takes it as a part of the convolution alone, and here values are read
RUNNABLE = [case for case in CASES if not case.trace_only and case.variant != FUSED]


@pytest.mark.soak
@pytest.mark.parametrize("case", RUNNABLE, ids=str)
def test_every_op_that_a_weight_follows(case):
    """All that is seen fits together, and no group gives a consumer more than all of its inputs do."""
    traced = trace(load(case.proto))
    free = [group for group in groups(traced) if group.locked is None]
    seen = activations(traced, free, [some_feeds(traced.model)])
    for group in free:
        for one in seen[group.name]:
            assert len(one.weight) == len(one.mean) == group.units
            assert one.weight.shape[1] % one.mean.shape[1] == 0
            assert np.isfinite(one.square).all()
            assert one.through(2, one.square).sum() <= one.energy * (1 + 1e-6)


# -- batches -----------------------------------------------------------------------------------------------------


@cache
def network():
    proto = model("a = Conv(x, w1)", "b = Relu(a)", "c = Conv(b, w2)", "d = Sigmoid(c)", "e = Conv(d, w3)",
                  "f = Add(e, b)", "y = Conv(f, w4)", x=IMAGE, w1=(4, 3, 3, 3), w2=(6, 4, 1, 1), w3=(4, 6, 1, 1),
                  w4=(2, 4, 1, 1))  # fmt: skip
    traced = trace(load(proto))
    return traced, groups(traced)


def same(one, other):
    assert one.keys() == other.keys()
    for name, found in one.items():
        assert len(found) == len(other[name])
        for a, b in zip(found, other[name], strict=True):
            assert (a.count, a.weight.tolist()) == (b.count, b.weight.tolist())
            for field in ("mean", "square", "absolute", "positive", "energy"):
                assert getattr(a, field) == pytest.approx(getattr(b, field), rel=1e-5, abs=1e-6)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.sets(st.integers(1, 5)), st.sampled_from([1, 3000, 1 << 20]))
def test_any_split_into_batches_gives_the_same(cuts, tapped_bytes):
    traced, found = network()
    ends = [0, *sorted(cuts), 6]
    batches = [{"x": IMAGES[a:b]} for a, b in pairwise(ends)]
    same(activations(traced, found, batches, tapped_bytes=tapped_bytes), activations(traced, found, [{"x": IMAGES}]))


def test_one_batch_is_held_at_a_time(monkeypatch):
    run, held = Replay.run, []

    def watched(self, names, *rest):
        for values in run(self, names, *rest):
            assert not [ref for ref in held if ref() is not None]
            held[:] = [weakref.ref(values[name]) for name in values if name != "x"]
            yield values

    traced, found = network()
    monkeypatch.setattr(Replay, "run", watched)
    monkeypatch.setattr("onnxprune.runtime.replay.BESIDE_BATCHES", 1)  # a thread lets go of a batch when it gets to it
    activations(traced, found, [{"x": IMAGES[n : n + 1]} for n in range(6)])
    assert len(held) == 3


def test_what_takes_too_much_is_looked_at_in_passes(monkeypatch):
    told, asked, run = [], [], Replay.run
    monkeypatch.setattr(statistics.Replay, "advance", lambda self, name: None)
    monkeypatch.setattr(Replay, "run", lambda self, names, *rest: asked.append(set(names)) or run(self, names, *rest))
    traced, found = network()
    activations(traced, found, [{"x": IMAGES}], tapped_bytes=1, progress=lambda *step: told.append(step))
    assert asked == [{"x"}, {"b"}, {"d"}, {"f"}]
    assert told[-1] == ("looking at activations", 4, 4)


def test_a_sequence_that_is_alive_between_passes():
    proto = next(case.proto for case in CASES if str(case) == "ConcatFromSequence")
    traced = trace(load(proto))
    feeds, found = some_feeds(traced.model), groups(traced)
    same(activations(traced, found, [feeds], tapped_bytes=1), activations(traced, found, [feeds]))


def test_infinite_values_are_refused():
    proto = dense("b = Relu(a)", w1=np.full((6, 8), 3e38, np.float32))
    with pytest.raises(DataError, match=r"'b', which a weight multiplies, holds NaN or infinite values"):
        look(proto, {"x": 10 * np.abs(VECTORS)})


def test_samples_are_needed():
    with pytest.raises(DataError, match="at least one batch"):
        activations(*network(), [])


# -- in a plan ---------------------------------------------------------------------------------------------------

DATA = [name for name, criterion in importance.CRITERIA.items() if criterion.data]


def dead_unit():
    """A network whose unit 2 has the largest weights and never fires."""
    w1, b1 = RNG.standard_normal((6, 8)).astype(np.float32), np.full(8, 0.5, np.float32)
    w1[:, 2] *= 10
    b1[2] = -1e4
    return dense("b = Relu(a)", w1=w1, b1=b1)


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize("name", DATA)
def test_a_unit_that_never_fires_goes_first(name, scope):
    traced = trace(load(dead_unit()))
    found = groups(traced)
    options = make_options(ratio=0.125, criterion=name, scope=scope, round_to=1)
    chosen = select_ratios(found, options)
    seen = calibration(traced.model, load_data({"x": VECTORS}, traced.model.inputs), None)
    assert plan(traced, found, chosen, options, calibration=seen).kept == {"w1": (0, 1, 3, 4, 5, 6, 7)}
    plain = make_options(ratio=0.125, round_to=1)
    assert 2 in plan(traced, found, chosen, plain).kept["w1"]


@pytest.mark.parametrize("name", DATA)
def test_criteria_from_data_need_data(name):
    traced = trace(load(dead_unit()))
    found = groups(traced)
    options = make_options(criterion=name)
    with pytest.raises(OptionError, match=f"criterion '{name}' needs data: give samples with --data"):
        plan(traced, found, select_ratios(found, options), options)
