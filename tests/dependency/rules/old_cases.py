"""Cases of old operator sets (7 to 9), in the forms that the old files of model zoos have."""

from __future__ import annotations

import numpy as np

from tests.support.build import model

FC = {"f1": (24, 512), "g1": (24,), "f2": (5, 24), "g2": (5,)}
MOMENTS = {"s": (8,), "t": (8,), "m": (8,), "v": np.arange(1, 9, dtype=np.float32)}
IMAGE = "float[1,3,8,8] x"
POOLED = "its size is computed by MaxPool"


def old(*nodes, opset=7, x=IMAGE, y="float[1,5] y", **weights):
    """Return a model as old exporters wrote it: all weights are listed as inputs, no shapes between nodes."""
    return model(*nodes, opset=opset, x=x, y=y, infer=False, ir=3, **weights)


def vgg(opset):
    """Convolutions, then dense layers, between which a Dropout also gives its mask."""
    return old(
        "a = Conv<pads=[1, 1, 1, 1]>(x, w0, b0)", "r = Relu(a)",
        f"p{', places' * (opset > 7)} = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(r)", "f = Reshape(p, sh)",
        "h = Gemm<transB=1>(f, f1, g1)", "i = Relu(h)", "j, mask = Dropout<ratio=0.5>(i)",
        "y = Gemm<transB=1>(j, f2, g2)", opset=opset,
        w0=(32, 3, 3, 3), b0=(32,), sh=[1, -1], **FC
    )  # fmt: skip


def normed(*nodes, opset=7, **weights):
    """A convolution, `nodes` from a to b, and a classifier behind a global pool."""
    return old(
        "a = Conv<pads=[1, 1, 1, 1]>(x, w0, b0)", *nodes, "c = Conv(b, w1, b1)", "g = GlobalAveragePool(c)",
        "d, mask = Dropout<ratio=0.4>(g)", "f = Flatten(d)", "y = Gemm<transB=1>(f, f2, g2)", opset=opset,
        **{"w0": (8, 3, 3, 3), "b0": (8,), "w1": (24, 8, 3, 3), "b1": (24,), "f2": (5, 24), "g2": (5,), **weights}
    )  # fmt: skip


def old_cases(row):
    """Yield the cases; `row` makes one of them."""
    both = "8 channels, 24 channels"
    for opset in (7, 9):
        yield row("Dropout", f"mask-opset-{opset}", vgg(opset), "32 channels, 24 neurons", locks=(POOLED,))
        five = "b, m2, v2, saved_m, saved_v = BatchNormalization<epsilon=0.001, momentum=0.9>(a, s, t, m, v)"
        yield row("BatchNormalization", f"five-outputs-opset-{opset}", normed(five, opset=opset, **MOMENTS), both)
    each = dict.fromkeys("stm", (8, 8, 8))
    apart = normed("b = BatchNormalization<spatial=0>(a, s, t, m, v)", **each, v=np.ones((8, 8, 8), np.float32))
    yield row("BatchNormalization", "each-position", apart, both, locks=("its size is computed by Conv",))
    shared = normed("b = BatchNormalization<spatial=0>(a, s, t, m, v)", **MOMENTS)
    yield row("BatchNormalization", "each-position-shared", shared, both)
    scaled = "b = ImageScaler<bias=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], scale=0.5>(a)"
    yield row("ImageScaler", "", normed(scaled), "24 channels", locks=("ImageScaler gives its positions a meaning",))
    yield row("ImageScaler", "image", _scaled_image(), "8 channels")
    yield row("Crop", "", normed("b = Crop<border=[1, 2, 3, 0]>(a)"), both)
    yield row("Crop", "sized", normed("b = Crop<border=[1, 2, 0, 0], scale=[4, 5]>(a)"), both)
    wide = normed("r = LRN<size=5>(a)", "b = Conv<group=2>(r, k)", k=(8, 4, 1, 1))
    locks = ("LRN normalises over it",)
    yield row("LRN", "groups", wide, "4 channels, 24 channels", inexact=locks)
    forms = (
        "p, q = Split<axis=1, split=[4, 4]>(a)", "k = Sum(p, q, p)", "n = Mean(k, q)", "o = Max(n, p, q)",
        "e = Slice<axes=[2, 3], starts=[1, 1], ends=[7, 7]>(o)",
        "h = Pad<pads=[0, 0, 1, 1, 0, 0, 1, 1]>(e)", "b = Clip<min=0.0, max=6.0>(h)",
    )  # fmt: skip
    yield row("Split", "attributes", normed(*forms, opset=8, w1=(24, 4, 3, 3)), "4 channels, 24 channels")


def _scaled_image():
    return old(
        "i = ImageScaler<bias=[0.1, 0.2, 0.3], scale=0.5>(x)", 'a = Conv<auto_pad="SAME_UPPER">(i, w0)',
        "n = BatchNormalization<spatial=1>(a, s, t, m, v)", "r = LeakyRelu<alpha=0.1>(n)",
        'p = MaxPool<auto_pad="SAME_UPPER", kernel_shape=[2, 2], strides=[1, 1]>(r)', "y = Conv(p, w1, b1)",
        y="float[1,5,8,8] y", w0=(8, 3, 3, 3), w1=(5, 8, 1, 1), b1=(5,), **MOMENTS
    )  # fmt: skip
