"""Cases of transforms of signals: the axes that they mix are locked, channels and batches pass."""

from __future__ import annotations

import numpy as np

MS = "com.microsoft."
MORE = {"imports": '"com.microsoft" : 1', "y": "float[n,5,h,w] y"}
GPU = "has kernels for GPUs alone"
MIXES = " mixes all positions of a signal"
C8 = "8 channels"


def signal_cases(case, on_images):
    """Yield the cases; the arguments make rows of the table."""
    yield from _transforms(on_images)
    yield from _of_the_runtime(case, on_images)
    yield on_images("Det", "", "d = Det(a)", "b = Unsqueeze(d, sides)", sides=[2, 3])
    yield case(
        "STFT", "", "a = Conv(x, w1)", "r = Reshape(a, flat)", "s = STFT(r, step, window)", "g = ReduceSum(s, rest)",
        "q = Reshape(g, apart)", "y = Conv(q, w2)", x="float[2,3,16] x", y="float[2,5,1] y", opset=17,
        w1=(8, 3, 1), w2=(5, 8, 1), flat=[16, 16, 1], step=np.array(4), window=np.hanning(6)[1:-1].astype(np.float32),
        rest=[1, 2, 3], apart=[2, 8, 1], cut=C8
    )  # fmt: skip


def _transforms(on_images):
    pairs = {"last": [4], "sum": [4]}
    there, back = "u = Unsqueeze(a, last)", "b = ReduceSum<keepdims=0>(f, sum)"
    for opset, attribute, slot, more in (
        (17, "<axis=2>", "", {}), (20, "", ", , dim", {"dim": np.array(3)}), (20, "", "", {})
    ):  # fmt: skip
        name = f"opset-{opset}{'-axis' * bool(more)}"
        yield on_images("DFT", name, there, f"f = DFT{attribute}(u{slot})", back, opset=opset, **pairs, **more)
    yield on_images(
        "DFT", "onesided-and-back", there, "g = DFT<axis=3, onesided=1>(u)", "f = DFT<axis=3, inverse=1>(g)", back,
        opset=17, **pairs
    )  # fmt: skip
    yield on_images(
        "DFT", "channels", there, "f = DFT<axis=1>(u)", back, opset=17, cut="", **pairs,
        locks=(f"DFT{MIXES}", "its size is computed by DFT")
    )  # fmt: skip
    yield on_images(
        "DFT", "fourier-unit", there, "g = DFT<axis=3>(u)", "t = Transpose<perm=[0, 1, 4, 2, 3]>(g)",
        "r = Reshape(t, paired)", "k = Conv(r, k1)", "s = Reshape(k, apart)", "i = Transpose<perm=[0, 1, 3, 4, 2]>(s)",
        "f = DFT<axis=3, inverse=1>(i)", back, opset=17, paired=[0, 16, 6, 6], apart=[0, 8, 2, 6, 6],
        k1=(16, 16, 1, 1), cut="8 channels, 8 channels", locks=(f"DFT{MIXES}", "its size is computed by DFT"), **pairs
    )  # fmt: skip
    yield on_images(
        "DFT", "axis-at-run-time", there, "f = DFT(u, , d)", back, opset=20, x="float[n,3,6,6] x, int64 d", cut="",
        locks=("which axis is transformed is computed at run time",), trace_only="a random axis is none", **pairs
    )  # fmt: skip


def _of_the_runtime(case, on_images):
    yield on_images(MS + "Rfft", "", f"f = {MS}Rfft<signal_ndim=1>(a)", "b = ReduceSum<keepdims=0>(f, q)", q=[4],
                    trace_only=GPU, **MORE)  # fmt: skip
    yield on_images(MS + "Irfft", "", f"f = {MS}Rfft<signal_ndim=1>(a)", f"b = {MS}Irfft<signal_ndim=1>(f)",
                    trace_only=GPU, **MORE)  # fmt: skip
    for op in ("ComplexMul", "ComplexMulConj"):
        yield on_images(
            MS + op, "", "u = Unsqueeze(a, q)", "p = Concat<axis=4>(u, u)", f"f = {MS}{op}(p, k)",
            "b = ReduceSum<keepdims=0>(f, q)", q=[4], k=(8, 1, 1, 2), trace_only=GPU, **MORE
        )  # fmt: skip
    yield on_images(
        MS + "UnfoldTensor", "", f"f = {MS}UnfoldTensor<dim=2, size=3, step=2>(a)", "b = ReduceSum<keepdims=0>(f, q)",
        q=[4], **MORE
    )  # fmt: skip
    yield case(
        MS + "CropAndResize", "", "a = Conv(x, w1)", f"b = {MS}CropAndResize(a, r, i, size)", "y = Conv(b, w2)",
        x="float[1,3,6,6] x, float[1,4] r", y="float[1,5,3,4] y", imports=MORE["imports"], w1=(8, 3, 1, 1),
        w2=(5, 8, 1, 1), i=np.zeros(1, np.int32), size=np.array([3, 4], np.int32), cut=C8, trace_only="boxes by value"
    )  # fmt: skip
    yield on_images(
        MS + "ConvTransposeWithDynamicPads", "", f"b = {MS}ConvTransposeWithDynamicPads<strides=[2, 2]>(a, k, p, c)",
        k=(8, 4, 3, 3), p=[1, 1, 0, 0], c=(4,), out=4, cut="8 channels, 4 channels", **MORE
    )  # fmt: skip
