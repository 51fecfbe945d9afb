"""What a cut of normalised units must compute: sums over the kept units, divided by the original count."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.runtime.session import open_session
from onnxprune.surgery.rewrite import rewrite
from tests.support.build import array, conv, dense, model

MS = "com.microsoft."
CONTRIBUTED = {"imports": '"com.microsoft": 1', "y": "float[n,5] y"}
EPSILON = 0.5  # large enough to be seen
E = f"<epsilon={EPSILON}>"
IMAGE = np.random.default_rng(1).standard_normal((2, 3, 6, 6)).astype(np.float32)
ROW = np.random.default_rng(2).standard_normal((4, 6)).astype(np.float32)
LINE, OFFSET = array("s", (8,)), array("c", (8,))
GROUPED = {"s": np.ones(2, np.float32), "c": np.zeros(2, np.float32), "split": [0, 2, -1], "gain": (8, 1, 1)}


def normed(h, axes, count, epsilon=EPSILON, centre=True):
    """Return `h` over its deviation, whose squares are added up over what is there and divided by `count`."""
    h = h - h.mean(axes, keepdims=True) * centre
    return h / np.sqrt((h**2).sum(axes, keepdims=True) / count + epsilon)


def cut(proto, kept, feeds, units=8):
    """Return the output of the model of which the group of so many units is cut."""
    traced = trace(load(proto))
    group = next(g for g in groups(traced) if g.locked is None and g.units == units)
    pruned = rewrite(traced, {group.atom: kept}).proto
    return next(iter(open_session(pruned.SerializeToString()).run(feeds).values()))


def on_rows(h, kept, centre=True, times=1, epsilon=EPSILON, shift=None):
    b = normed(times * h, 1, 8, epsilon, centre) * LINE[kept]
    return b if shift is None else b + shift[kept]


KEPT = np.array([1, 0, 1, 1, 0, 1, 0, 1], bool)
NORMS = {
    "RMSNormalization": (dense(f"b = RMSNormalization{E}(a, s)", s=(8,), opset=23), partial(on_rows, centre=False)),
    "SimplifiedLayerNormalization": (
        dense(f"b = SimplifiedLayerNormalization{E}(a, s)", s=(8,), y="float[n,5] y"), partial(on_rows, centre=False)
    ),
    "LayerNormalization": (
        dense(f"b = LayerNormalization{E}(a, s, c)", s=(8,), c=(8,)), partial(on_rows, shift=OFFSET)
    ),
    "LayerNormalization-default": (dense("b = LayerNormalization(a, s)", s=(8,)), partial(on_rows, epsilon=1e-5)),
    "SkipLayerNormalization": (
        dense(f"b = {MS}SkipLayerNormalization{E}(a, a, s, c)", s=(8,), c=(8,), **CONTRIBUTED),
        partial(on_rows, times=2, shift=OFFSET),
    ),
    "SkipSimplifiedLayerNormalization": (
        dense(f"b = {MS}SkipSimplifiedLayerNormalization{E}(a, a, s)", s=(8,), **CONTRIBUTED),
        partial(on_rows, times=2, centre=False),
    ),
    "ReduceMean": (
        dense("m = ReduceMean(a, one)", "b = Sub(a, m)", one=[1]), lambda h, _: h - h.sum(1, keepdims=True) / 8
    ),
    "ReduceMean-of-squares": (
        dense("q = Mul(a, a)", "m = ReduceMean(q, one)", "b = Mul(a, m)", one=[1]),
        lambda h, _: h * (h**2).sum(1, keepdims=True) / 8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
def test_rows_are_divided_by_the_original_count(name):
    proto, formula = NORMS[name]
    w1, b1, w2 = array("w1", (6, 8)), array("b1", (8,)), array("w2", (8, 5))
    expected = formula((ROW @ w1 + b1)[:, KEPT], KEPT) @ w2[KEPT]
    assert cut(proto, KEPT, {"x": ROW}) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def _grouped(h, scale):
    parts = h.reshape(len(h), 2, -1, 6, 6)
    return normed(parts, (2, 3, 4), 4 * 36).reshape(h.shape) * scale


SHAPED = "float[n,5,6,6] y"
LANES = np.array([1, 0, 0, 1], bool)  # of each of two groups
BOTH = np.tile(LANES, 2)
FLAT = conv("f = Reshape(a, flat)", "m = ReduceMean(f, one)", "t = Unsqueeze(m, two)", "b = Mul(a, t)", flat=[0, -1],
            one=[1], two=[2, 3])  # fmt: skip
IMAGES = {
    "GroupNormalization": (
        conv("b = GroupNormalization<num_groups=2, epsilon=0.5>(a, s, c)", s=(8,), c=np.zeros(8, np.float32), opset=21,
             y=SHAPED),
        LANES, lambda h: _grouped(h, LINE[BOTH][:, None, None]),
    ),
    "InstanceNormalization": (
        conv("r = Reshape(a, split)", f"i = InstanceNormalization{E}(r, s, c)", "h = Shape(a)", "t = Reshape(i, h)",
             "b = Mul(t, gain)", **GROUPED),
        LANES, lambda h: _grouped(h, array("gain", (8, 1, 1))[BOTH]),
    ),
    "MeanVarianceNormalization": (
        conv("b = MeanVarianceNormalization<axes=[1]>(a)", opset=13), KEPT, lambda h: normed(h, 1, 8, 0)
    ),
    "ReduceMean-flattened": (FLAT, KEPT, lambda h: h * h.sum((1, 2, 3), keepdims=True) / (8 * 36)),
    "ReduceMean-of-two-dims": (
        conv("m = ReduceMean(a, d)", "b = Mul(a, m)", d=[1, 2]), KEPT,
        lambda h: h * h.sum((1, 2), keepdims=True) / (8 * 6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_divided_by_the_original_count(name):
    proto, kept, formula = IMAGES[name]
    every = BOTH if len(kept) == 4 else kept
    w1, b1, w2 = array("w1", (8, 3, 1, 1)), array("b1", (8,)), array("w2", (5, 8, 1, 1))
    h = np.einsum("nchw,oc->nohw", IMAGE, w1[every, :, 0, 0]) + b1[every][:, None, None]
    expected = np.einsum("nchw,oc->nohw", formula(h), w2[:, every, 0, 0])
    assert cut(proto, kept, {"x": IMAGE}, len(kept)) == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("epsilon", [EPSILON, None])
def test_embeddings_are_divided_by_the_original_count(epsilon):
    given = "" if epsilon is None else E
    tables = {"v": (20, 8), "q": (5, 8), "t": (2, 8), "s": (8,), "c": (8,)}
    proto = model(
        f"b, i = {MS}EmbedLayerNormalization{given}(x, u, v, q, t, s, c)", "y = MatMul(b, w2)",
        x="int32[n,5] x, int32[n,5] u", y="float[n,5,3] y", imports=CONTRIBUTED["imports"], w2=(8, 3), **tables
    )  # fmt: skip
    x, u = np.arange(10, dtype=np.int32).reshape(2, 5), np.array([[0, 0, 1, 1, 1]] * 2, np.int32)
    v, q, t = (array(name, tables[name])[:, KEPT] for name in "vqt")
    normal = normed(v[x] + q + t[u], 2, 8, epsilon or 0)
    expected = (normal * LINE[KEPT] + OFFSET[KEPT]) @ array("w2", (8, 3))[KEPT]
    assert cut(proto, KEPT, {"x": x, "u": u}) == pytest.approx(expected, rel=1e-3, abs=1e-4)
