"""Cases of operators that do the work of several: attention, rotary embeddings, what ONNX Runtime's optimiser writes.

Those without a kernel for the CPU are traced alone.
"""

from __future__ import annotations

import numpy as np

from tests.dependency.rules.cases import C8, Case, case, on_images, on_rows
from tests.support.build import IMAGE, ROWS, TOKENS

GPU = "it has no kernel for the CPU"
MS = "com.microsoft."
IMPORT = '"com.microsoft" : 1'
OUT5 = "float[n,5,6,6] y"
SPATIAL = "its size is computed by Conv"


def images(op, variant, *nodes, y=OUT5, **rest):
    return on_images(op, variant, *nodes, **{"imports": IMPORT, "y": y, **rest})


def rows(op, variant, *nodes, y="float[n,5] y", **rest):
    return on_rows(op, variant, *nodes, **{"imports": IMPORT, "y": y, **rest})


def node(text):
    """Return a node in text form, in the domain of ONNX Runtime."""
    outputs, _, call = text.partition(" = ")
    return f"{outputs} = {MS}{call}"


# -- elementwise ---------------------------------------------------------------------------------------------------


def _elementwise():
    for op in ("Gelu", "QuickGelu", "FastGelu", "ScaledSiLU"):
        yield images(MS + op, "", node(f"b = {op}(a)"))
    for op in ("FastGelu", "BiasGelu"):
        yield rows(MS + op, "bias", node(f"b = {op}(a, k)"), k=(8,))
    yield rows(MS + "BiasDropout", "", node("b, m = BiasDropout(a, k, a)"), k=(8,), trace_only=GPU)
    yield rows(
        MS + "BiasSoftmax", "", "q = Unsqueeze(a, d)", node("r = BiasSoftmax<axis=2, is_inner_broadcast=1>(q, k)"),
        "b = Squeeze(r, d)", d=[2], k=(8, 1), trace_only=GPU
    )  # fmt: skip
    yield rows(MS + "SwiGLU", "", "g = Neg(a)", node("b = SwiGLU(a, g)"), trace_only=GPU)
    yield rows(MS + "SwiGLU", "packed", node("b = SwiGLU(a)"), out=4, cut="4 neurons", trace_only=GPU)
    yield rows("SwiGLU", "", "g = Neg(a)", "b = SwiGLU(a, g)", opset=28, trace_only="the runtime is older")
    yield rows(MS + "GatedAdd", "", "g = MatMul(x, wg)", "c = Neg(a)", node("b = GatedAdd(a, c, g)"), wg=(6, 1))
    yield images("CumSum", "positions", "b = CumSum(a, d)", d=np.array(-1))
    yield images(
        "CumSum", "at-run-time", "b = CumSum(a, d)", x="float[n,3,6,6] x, int64 d", cut="",
        locks=("CumSum adds up along it",), trace_only="a random axis is none"
    )  # fmt: skip
    for dim, cut, locks in ((-1, C8, ()), (1, "", ("CumProd multiplies along it",))):
        yield images(
            "CumProd", f"dim{dim}", "b = CumProd(a, d)", d=np.array(dim), opset=26, cut=cut, locks=locks,
            trace_only="the runtime is older"
        )  # fmt: skip
    yield images(
        "BitCast", "", "i = BitCast<to=6>(a)", "b = BitCast<to=1>(i)", opset=26, trace_only="the runtime is older"
    )
    for op in ("Affine", "ParametricSoftplus", "Scale", "ScaledTanh"):
        yield images(op, "", f"b = {op}(a)", infer=False, trace_only="the runtime has it no more")
    yield images(MS + "Trilu", "", node("b = Trilu<upper=0>(a)"))
    yield images(MS + "Inverse", "", node("b = Inverse(a)"))
    yield rows(
        MS + "ExpandDims", "", node("e = ExpandDims(a, place)"), "s = ReduceSum(e, d)", "b = Squeeze(s, d)",
        place=np.array(-1, np.int32), d=[2]
    )  # fmt: skip
    yield images(
        MS + "Pad", "", node("b = Pad(a, p)"), p=[0, 2, 0, 0, 0, 3, 0, 0], out=13,
        cut="8 channels, 2 channels, 3 channels", after={"b:1": [0, 1, 0, 0, 0, 2, 0, 0]}
    )  # fmt: skip


# -- convolutions and products ---------------------------------------------------------------------------------------


def _convolutions():
    conv = '<activation="Relu", pads=[1, 1, 1, 1]>'
    yield images(
        MS + "FusedConv", "", node(f"b = FusedConv{conv}(a, k, c)"), k=(4, 8, 3, 3), c=(4,), out=4,
        cut="8 channels, 4 channels"
    )  # fmt: skip
    yield images(
        MS + "FusedConv", "residual", node(f"b = FusedConv{conv}(a, k, c, a)"), k=(8, 8, 3, 3), c=(8,),
    )  # fmt: skip
    yield images(
        MS + "FusedConv", "depthwise",
        node('b = FusedConv<activation="Clip", activation_params=[0.0, 6.0], group=8>(a, k, c)'), k=(8, 1, 3, 3),
        c=(8,), after={"b.group": 4}, y="float[n,5,4,4] y"
    )  # fmt: skip
    turned = "t = Transpose<perm=[0, 2, 3, 1]>(a)", "b = Transpose<perm=[0, 3, 1, 2]>(u)"
    for op, z in (("NhwcConv", ""), ("NhwcFusedConv", ", t")):
        yield images(
            MS + op, "", turned[0], node(f"u = {op}<group=2>(t, k, c{z})"), turned[1], k=(8, 4, 1, 1), c=(8,),
            cut="2 channels, 4 channels inside" + ", 4 channels inside" * (not z), after={"u.group": 1},
            trace_only=GPU
        )  # fmt: skip
    yield images(
        MS + "NhwcMaxPool", "", turned[0], node("u = NhwcMaxPool<kernel_shape=[2, 2]>(t)"), turned[1], trace_only=GPU,
        y="float[n,5,5,5] y"
    )  # fmt: skip
    grid = "float[n,3,6,6] x, float[n,4,5,2] g"
    yield images(MS + "GridSample", "", node("b = GridSample(a, g)"), x=grid, y="float[n,5,4,5] y")
    for groups in (1, 2):
        yield case(
            "DeformConv", f"{groups}-offset-groups", "a = Conv(x, w1)",
            f"b = DeformConv<offset_group={groups}>(a, k, g, c, m)", "y = Conv(b, w2)", opset=19, imports=IMPORT,
            x=f"float[n,3,6,6] x, float[n,{groups * 8},5,5] g, float[n,{groups * 4},5,5] m", w1=(8, 3, 1, 1),
            k=(4, 8, 2, 2), c=(4,), w2=(5, 4, 1, 1), y="float[n,5,5,5] y", after={},
            cut=["8 channels, 4 channels", "4 channels, 4 channels"][groups - 1],
        )  # fmt: skip
    yield case(
        "DeformConv", "offsets-by-conv", "a = Conv(x, w1)", "g = Conv(a, wg)",
        "b = DeformConv<offset_group=4, group=2>(a, k, g)", "y = Conv(b, w2)", opset=19, w1=(8, 3, 1, 1),
        wg=(32, 8, 2, 2), k=(4, 4, 2, 2), w2=(5, 4, 1, 1), y="float[n,5,5,5] y",
        cut="2 channels, 2 channels", locks=("DeformConv gives its positions a meaning",)
    )  # fmt: skip
    boxes = np.array([[0, 0, 4, 4], [1, 1, 5, 3]], np.float32)
    yield case(
        "RoiAlign", "", "a = Conv(x, w1)", "b = RoiAlign<output_height=3, output_width=2>(a, r, i)", "y = Conv(b, w2)",
        x=IMAGE, w1=(8, 3, 1, 1), w2=(5, 8, 1, 1), r=boxes, i=[0, 0], cut=C8
    )  # fmt: skip
    yield case(
        "MaxRoiPool", "", "a = Conv(x, w1)", "b = MaxRoiPool<pooled_shape=[3, 2]>(a, r)", "y = Conv(b, w2)", x=IMAGE,
        w1=(8, 3, 1, 1), w2=(5, 8, 1, 1), r=np.pad(boxes, ((0, 0), (1, 0))), y="float[2,5,3,2] y", cut=C8
    )  # fmt: skip
    yield case(
        "Col2Im", "", "t = MatMul(x, w1)", "a = Transpose<perm=[0, 2, 1]>(t)", "b = Col2Im(a, image, block)",
        "y = Conv(b, w2)", x="float[n,9,6] x", w1=(6, 32), image=[4, 4], block=[2, 2], w2=(5, 8, 1, 1),
        y="float[n,5,4,4] y", cut=C8, locks=("Col2Im gives its positions a meaning",)
    )  # fmt: skip
    sequence = {"x": "float[n,3,9] x", "w1": (8, 3, 1), "b1": (8,), "w2": (5, 8, 1), "y": "float[n,5,9] y"}
    causal = "b, s = CausalConvWithState(a, k, c)"
    for op, text, rest in (
        ("CausalConvWithState", causal, {"opset": 27, "trace_only": "the runtime is older"}),
        (MS + "CausalConvWithState", node(causal.replace("(a", '<activation="silu", dilation=2>(a')), {}),
    ):
        yield images(op, "", text, k=(8, 1, 4), c=(8,), **sequence, **rest)
    yield images(
        "MeanVarianceNormalization", "channels", "b = MeanVarianceNormalization<axes=[1]>(a)", opset=12, cut="",
        inexact=("MeanVarianceNormalization normalises over it",)
    )  # fmt: skip
    yield images("MeanVarianceNormalization", "positions", "b = MeanVarianceNormalization(a)", opset=12)


def _products():
    yield rows(
        MS + "FusedGemm", "", node('b = FusedGemm<activation="Relu", transB=1>(a, k, c)'), k=(7, 8), c=(7,), out=7,
        cut="8 neurons, 7 neurons"
    )  # fmt: skip
    for op in ("FusedMatMul", "TransposeMatMul", "FusedMatMulActivation"):
        rest = {"trace_only": GPU} if op == "FusedMatMulActivation" else {}
        yield rows(
            MS + op, "trans-b", node(f"b = {op}<transB=1, alpha=0.5>(a, k)"), k=(7, 8), out=7,
            cut="8 neurons, 7 neurons", **rest
        )  # fmt: skip
    yield rows(MS + "FusedMatMul", "plain", node("b = FusedMatMul(a, k)"), k=(8, 7), out=7, cut="8 neurons, 7 neurons")
    yield rows(
        MS + "FusedMatMul", "trans-a", "t = Transpose(a)", node("b = FusedMatMul<transA=1>(t, k)"), k=(8, 7), out=7,
        cut="8 neurons, 7 neurons"
    )  # fmt: skip
    yield rows(
        MS + "FusedMatMul", "vector", node("m = FusedMatMul(a, k)"), "b = Unsqueeze(m, d)", k=(8,), d=[1], out=1
    )  # fmt: skip
    yield case(
        MS + "FusedMatMul", "trans-batch", "a = MatMul(x, w1)", "r = Reshape(a, t)",
        node("m = FusedMatMul<transBatchA=1, transBatchB=1, transB=1>(r, r)"), "f = Reshape(m, u)", "y = MatMul(f, w2)",
        x="float[5,6] x", w1=(6, 8), t=[5, 4, 2], u=[4, 25], w2=(25, 3), imports=IMPORT, y="float[4,3] y",
        cut="2 head dims"
    )  # fmt: skip
    yield rows(
        MS + "GemmFastGelu", "", node("b = GemmFastGelu(a, k, c)"), k=(8, 7), c=(7,), out=7,
        cut="8 neurons, 7 neurons", trace_only=GPU
    )  # fmt: skip
    yield rows(
        MS + "CDist", "", node('b = CDist<metric="euclidean">(a, k)'), k=(7, 8), out=7, cut="8 neurons, 7 neurons"
    )  # fmt: skip
    yield rows(
        MS + "CDist", "metric", node('b = CDist<metric="cosine">(a, k)'), k=(7, 8), out=7, trace_only=GPU, cut="",
        locks=("com.microsoft.CDist has the metric 'cosine'",)
    )  # fmt: skip
    yield from _experts()


def _experts():
    for variant, activation, fusion, more in (
        ("relu", "relu", 0, {}),
        ("gelu-bias", "gelu", 0, {"b1": (3, 10), "b2": (3, 8)}),
        ("swiglu-interleaved", "swiglu", 1, {}),
        ("swiglu-halves", "swiglu", 2, {}),
    ):
        attributes = f'<k=2, activation_type="{activation}", normalize_routing_weights=1, swiglu_fusion={fusion}>'
        inputs = f"h, p, f1, {'b1' * ('b1' in more)}, f2" + ", b2" * ("b2" in more)
        for rank in (2, 3):
            flat = "h" if rank == 2 else "hf"
            yield case(
                MS + "MoE", f"{variant}-{rank}d", "h = MatMul(x, w1)",
                *(["hf = Reshape(h, flat)"] if rank == 3 else []),
                f"p = MatMul({flat}, router)", node(f"b = MoE{attributes}({inputs})"), "y = MatMul(b, w2)",
                x=ROWS if rank == 2 else "float[2,3,6] x", imports=IMPORT, w1=(6, 8), router=(8, 3), flat=[6, 8],
                f1=(3, 20 if fusion else 10, 8), f2=(3, 8, 10), w2=(8, 5),
                y="float[n,5] y" if rank == 2 else "float[2,3,5] y", cut="8 neurons, 3 experts, 10 neurons",
                locks=(f"{MS}MoE gives its positions a meaning",) if fusion == 1 else (),
                trace_only=GPU if fusion == 2 else "", **more
            )  # fmt: skip
    for bits, scales in ((4, ""), (4, ", block_size=16"), (8, "")):
        attributes = f'<k=2, activation_type="silu", normalize_routing_weights=1, expert_weight_bits={bits}{scales}>'
        of_blocks = (2,) if scales else ()
        packed = np.random.default_rng(bits).integers(0, 256, (6, 32, 32 * bits // 8)).astype(np.uint8)
        yield case(
            MS + "QMoE", f"{bits}-bits{'-blocks' * bool(scales)}", "h = MatMul(x, w1)", "p = MatMul(h, router)",
            node(f"b = QMoE{attributes}(h, p, f1, s1, , f2, s2)"), "y = MatMul(b, w2)", x=ROWS, y="float[n,5] y",
            imports=IMPORT, w1=(6, 32), router=(32, 6), f1=packed, f2=packed[:, ::-1], w2=(32, 5),
            s1=np.full((6, 32, *of_blocks), 0.02, np.float32), s2=np.full((6, 32, *of_blocks), 0.01, np.float32),
            cut="6 experts", locks=("QMoE reads packed weights, whose layout depends on the device",)
        )  # fmt: skip


# -- norms -------------------------------------------------------------------------------------------------------------


def _norms():
    tokens = {"x": TOKENS, "imports": IMPORT, "y": "float[n,s,5] y"}
    weights = {"w1": (16, 8), "w2": (8, 5), "k": (8, 12), "l": (12, 8), "g": (8,), "e": (8,)}
    ffn = ("h = MatMul(b, k)", "r = Relu(h)", "z = MatMul(r, l)")
    for op, vectors in (("SkipLayerNormalization", "g, e, c"), ("SkipSimplifiedLayerNormalization", "g, c")):
        why = (f"{MS}{op} normalises over it",)
        yield case(
            MS + op, "", "a = MatMul(x, w1)", node(f"b = {op}(a, a, {vectors})"), *ffn, "y = MatMul(z, w2)",
            c=(8,), cut="12 neurons, 8 neurons", inexact=why, **weights, **tokens
        )  # fmt: skip
        yield case(
            MS + op, "sum", "a = MatMul(x, w1)", node(f"b, , , t = {op}(a, a, {vectors.removesuffix(', c')})"), *ffn,
            "u = Add(z, t)", "y = MatMul(u, w2)", cut="12 neurons", inexact=why, **weights, **tokens
        )  # fmt: skip
    yield case(
        "SimplifiedLayerNormalization", "", "a = MatMul(x, w1)", "b = SimplifiedLayerNormalization<axis=-1>(a, g)",
        *ffn, "y = MatMul(z, w2)", infer=False, cut="8 neurons, 12 neurons, 8 neurons",
        **weights, **tokens
    )  # fmt: skip
    yield case(
        "LayerNormalization", "before-its-opset", "a = MatMul(x, w1)", "b = LayerNormalization<axis=-1>(a, g, e)",
        *ffn, "y = MatMul(z, w2)", infer=False, opset=13, cut="12 neurons, 8 neurons",
        inexact=("LayerNormalization normalises over it",), **weights, **tokens
    )  # fmt: skip
    lines = {"x": "float[n,3,9] x", "w1": (8, 3, 1), "w2": (5, 8, 1), "y": "float[n,5,9] y", "g": (9,)}
    for op in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):
        yield images(MS + op, "positions", node(f"b = {op}(a, a, g)"), locks=(SPATIAL,), **lines)
    text = "b = SimplifiedLayerNormalization(a, g)"
    yield images("SimplifiedLayerNormalization", "positions", text, locks=(SPATIAL,), infer=False, **lines)
    ids = {"x": "int32[2,5] x, int32[2,5] u", "imports": IMPORT, "y": "float[2,5,5] y"}
    ids |= {"v": (20, 8), "q": (9, 8), "t": (2, 8), "g": (8,), "e": (8,), "k": (8, 12), "l": (12, 8), "w2": (8, 5)}
    yield case(
        MS + "EmbedLayerNormalization", "", node("b, i = EmbedLayerNormalization(x, u, v, q, t, g, e)"), *ffn,
        "y = MatMul(z, w2)", cut="12 neurons, 8 neurons",
        inexact=(f"{MS}EmbedLayerNormalization normalises over it",), **ids
    )  # fmt: skip
    for op, more, inputs in (("GroupNorm", {}, "s, c"), ("SkipGroupNorm", {"d": (8,)}, "s, c, t, d")):
        for last in (0, 1):
            front = "t = Transpose<perm=[0, 2, 3, 1]>(a)" if last else "t = Identity(a)"
            back = "b = Transpose<perm=[0, 3, 1, 2]>(u)" if last else "b = Identity(u)"
            yield images(
                MS + op, ["first", "last"][last], front,
                node(f"u = {op}<groups=4, activation=0, channels_last={last}>(t, {inputs})"), back,
                s=(8,), c=(8,), cut="4 channels", inexact=(f"{MS}{op} normalises over it",),
                after={"u.groups": 2}, trace_only=GPU, **more
            )  # fmt: skip
    yield rows(
        MS + "GatedRMSNorm", "", "s = Sigmoid(a)", node("b = GatedRMSNorm(a, g, s)"), g=(2,),
        cut="4 neurons, 2 neurons inside"
    )  # fmt: skip


# -- attention ---------------------------------------------------------------------------------------------------------

QKV = ("q = MatMul(x, wq)", "k = MatMul(x, wk)", "v = MatMul(x, wv)")
LAST = "y = MatMul(o, wo)"
SAME = {"wq": (16, 16), "wk": (16, 16), "wv": (16, 16), "wo": (16, 16)}
SHARED = {"wq": (16, 16), "wk": (16, 8), "wv": (16, 8), "wo": (16, 16)}
SEQ = {"x": TOKENS, "y": "float[n,s,16] y", "imports": IMPORT}
MHA = "4 heads, 4 head dims inside, 4 head dims inside"
GQA = "2 heads, 2 heads inside, 4 head dims inside, 4 head dims inside"
HALF = 0.5  # 1 / sqrt(4), the scale of the original


def attends(op, variant, text, *before, cut=MHA, weights=SAME, **rest):
    nodes = (*QKV, *before, text if not op.startswith(MS) else node(text), LAST)
    return case(op, variant, *nodes, cut=cut, **{**SEQ, **weights, **rest})


def _heads(name, count, size):
    """Split the last axis of a value into heads and move them to the front."""
    return (f"{name}1 = Reshape({name}, {name}_to)", f"{name}4 = Transpose<perm=[0, 2, 1, 3]>({name}1)"), {
        f"{name}_to": [0, 0, count, size]
    }


def _standard_attention():
    o = "o = Attention<q_num_heads=4, kv_num_heads={}{}>(q, k, v{})"
    new = {"opset": 23}
    yield attends(
        "Attention", "3d", o.format(4, "", ""), after={"o.q_num_heads": 2, "o.kv_num_heads": 2, "o.scale": HALF}, **new
    )
    yield attends(
        "Attention", "scale", o.format(4, ", scale=0.25", ""), after={"o.q_num_heads": 2, "o.scale": 0.25}, **new
    )  # fmt: skip
    yield attends(
        "Attention", "gqa", o.format(2, "", ""), cut=GQA, weights=SHARED,
        after={"o.q_num_heads": 1, "o.kv_num_heads": 1}, **new
    )  # fmt: skip
    yield attends(
        "Attention",
        "mqa",
        o.format(1, "", ""),
        cut="4 heads, 4 head dims inside, 4 head dims inside",
        weights={**SHARED, "wk": (16, 4), "wv": (16, 4)},
        **new,
    )
    yield attends("Attention", "causal", o.format(4, ", is_causal=1", ""), **new)
    fixed = {"x": "float[n,5,16] x", "y": "float[n,5,16] y", **new}
    yield attends("Attention", "mask-of-positions", o.format(4, "", ", m"), m=(5, 5), **fixed)
    yield attends("Attention", "mask-per-head", o.format(4, "", ", m"), m=(1, 4, 5, 5), **fixed)
    past = {
        "x": "float[n,5,16] x, float[n,4,3,4] pk, float[n,4,3,4] pv",
        "y": "float[n,5,16] y, float[] nk, float[] nv",
    }
    yield attends(
        "Attention", "past", "o, nk, nv = Attention<q_num_heads=4, kv_num_heads=4>(q, k, v, , pk, pv)", cut="",
        **{**fixed, **past}
    )  # fmt: skip
    own = {"pk": (2, 4, 3, 4), "pv": (2, 4, 3, 4), **fixed, "x": "float[2,5,16] x", "y": "float[2,5,16] y"}
    yield attends(
        "Attention",
        "past-of-weights",
        o.format(4, "", ", , pk, pv").replace("o =", "o, nk, nv ="),
        locks=("Attention gives its positions a meaning",),
        **own,
    )
    split = [_heads(name, heads, 4) for name, heads in (("q", 4), ("k", 2), ("v", 2))]
    nodes = [text for texts, _ in split for text in texts]
    more = {name: value for _, given in split for name, value in given.items()}
    yield attends(
        "Attention", "4d", "o = Reshape(o3, o_to)", *nodes, "o4 = Attention(q4, k4, v4)",
        "o3 = Transpose<perm=[0, 2, 1, 3]>(o4)", o_to=[0, 0, 16], cut=GQA, weights=SHARED,
        after={"o4.scale": HALF}, **more, **new
    )  # fmt: skip


def _rotary():
    angles = np.arange(40, dtype=np.float32).reshape(10, 4)[:, :2]
    caches = {"cos": np.cos(angles), "sin": np.sin(angles)}
    partial = {name: cache[:, :1] for name, cache in caches.items()}
    x5 = {"x": "float[2,5,16] x", "y": "float[2,5,16] y", "ids": np.tile(np.arange(5), (2, 1))}
    turned = "o = Attention<q_num_heads=4, kv_num_heads=4>(qr, kr, v)"
    for variant, attributes, tables, cut, after in (
        ("halves", "num_heads=4", caches, "4 heads, 2 head dims inside, 4 head dims inside", {}),
        ("interleaved", "num_heads=4, interleaved=1", caches, "4 heads, 2 head dims inside, 4 head dims inside", {}),
        ("partial", "num_heads=4, rotary_embedding_dim=2", partial,
         "4 heads, 2 head dims inside, 4 head dims inside", {"qr.rotary_embedding_dim": 2}),
    ):  # fmt: skip
        locks = ("RotaryEmbedding gives its positions a meaning",) * ("inter" in variant)
        nodes = [f"{c}r = RotaryEmbedding<{attributes}>({c}, cos, sin, ids)" for c in "qk"]
        yield attends(
            "RotaryEmbedding", variant, turned, *nodes, cut=cut, opset=23, locks=locks,
            after={"qr.num_heads": 2, "o.scale": HALF, **after}, **tables, **x5
        )  # fmt: skip
        nodes = [node(f"{c}r = RotaryEmbedding<{attributes}>({c}, ids, cos, sin)") for c in "qk"]
        yield case(
            MS + "RotaryEmbedding", variant, *QKV, *nodes, node("o = MultiHeadAttention<num_heads=4>(qr, kr, v)"),
            LAST, cut=cut, after={"qr.num_heads": 2, "o.scale": HALF, **after},
            locks=tuple(MS + lock for lock in locks), **{**SEQ, **SAME, **tables, **x5}
        )  # fmt: skip
    small = {name: cache[:5][None].repeat(2, 0) for name, cache in caches.items()}
    split = [_heads(name, 4, 4) for name in "qkv"]
    nodes = [text for texts, _ in split for text in texts]
    more = {name: value for _, given in split for name, value in given.items()}
    yield attends(
        "RotaryEmbedding", "4d-without-positions", "o = Reshape(o3, o_to)", *nodes,
        *(f"{c}r = RotaryEmbedding({c}4, cos, sin)" for c in "qk"), "o4 = Attention(qr, kr, v4)",
        "o3 = Transpose<perm=[0, 2, 1, 3]>(o4)", o_to=[0, 0, 16], opset=23,
        cut="4 heads, 2 head dims inside, 4 head dims inside", **small, **more,
        **{name: value for name, value in x5.items() if name != "ids"}
    )  # fmt: skip
    nodes = [node(f"{c}r = RotaryEmbedding({c}, ids, cos, sin)") for c in "qk"]
    yield case(
        MS + "RotaryEmbedding", "heads-from-cache", *QKV, *nodes,
        node("o = MultiHeadAttention<num_heads=4>(qr, kr, v)"),
        LAST, cut="4 heads, 2 head dims inside, 4 head dims inside", **{**SEQ, **SAME, **caches, **x5}
    )  # fmt: skip


def _runtime_attention():
    fused = {"w": (16, 48), "c": (48,), "wo": (16, 16), **SEQ}
    o = "o = Attention<num_heads=4{}>(x, w, {}{})"
    yield case(
        MS + "Attention", "", node(o.format("", "c", "")), LAST, cut=MHA,
        after={"o.num_heads": 2, "o.scale": HALF, "o.qkv_hidden_sizes": [4, 4, 4]}, **fused
    )  # fmt: skip
    yield case(
        MS + "Attention", "causal", node(o.format(", unidirectional=1, scale=0.3", "c", "")), LAST, cut=MHA, **fused
    )
    yield case(
        MS + "Attention", "sizes", node(o.format(", qkv_hidden_sizes=[16, 16, 24]", "c", "")), LAST,
        cut="4 heads, 4 head dims inside, 6 head dims inside",
        after={"o.qkv_hidden_sizes": [4, 4, 6]}, **{**fused, "w": (16, 56), "c": (56,), "wo": (24, 16)}
    )  # fmt: skip
    masked = {**fused, "x": "float[2,5,16] x", "y": "float[2,5,16] y", "l": np.array([5, 3], np.int32)}
    yield case(
        MS + "Attention", "after-norm", "h = MatMul(x, wh)", "r = Relu(h)",
        node("o = Attention<num_heads=4>(r, w, c, l)"),
        LAST, cut=f"12 neurons, {MHA}", **{**masked, "wh": (16, 12), "w": (12, 48)}
    )  # fmt: skip
    yield case(
        MS + "Attention", "bias-per-head", node("o = Attention<num_heads=4>(x, w, c, , , e)"), LAST, cut=MHA,
        **{**masked, "e": (1, 4, 5, 5)}
    )  # fmt: skip
    state = "float[2,2,4,3,4] z"
    yield case(
        MS + "Attention", "past", node("o, p = Attention<num_heads=4, unidirectional=1>(x, w, c, , z)"), LAST, cut="",
        **{**masked, "x": f"float[2,5,16] x, {state}", "y": "float[2,5,16] y, float[2,2,4,8,4] p"}
    )  # fmt: skip
    yield case(
        MS + "Attention", "past-of-weights", node("o = Attention<num_heads=4, unidirectional=1>(x, w, c, , z)"), LAST,
        cut=MHA, **{**masked, "z": (2, 2, 4, 3, 4)}, trace_only="it wants both states"
    )  # fmt: skip
    m = "o = MultiHeadAttention<num_heads=4>({})"
    yield attends(MS + "MultiHeadAttention", "", m.format("q, k, v"), after={"o.num_heads": 2, "o.scale": HALF})
    yield attends(MS + "MultiHeadAttention", "bias", m.format("q, k, v, c"), c=(48,))
    five = {"x": "float[2,5,16] x", "y": "float[2,5,16] y"}
    yield attends(MS + "MultiHeadAttention", "bias-per-head", m.format("q, k, v, , , e"), e=(1, 4, 5, 5), **five)
    yield attends(
        MS + "MultiHeadAttention", "mask", m.format("q, k, v, , l"), l=np.array([5, 3], np.int32), **five
    )  # fmt: skip
    for variant, count, nodes, text in (
        ("packed-qkv", 3, (), "r"),
        ("packed-kv", 2, ("q = MatMul(x, wq)",), "q, r"),
    ):
        yield case(
            MS + "MultiHeadAttention", variant, *nodes, "a = MatMul(x, w)", "r = Reshape(a, t)", node(m.format(text)),
            LAST, t=[0, 0, 4, count, 4], w=(16, 16 * count), wq=(16, 16), wo=(16, 16),
            cut="4 heads, 4 head dims inside", after={"r:1": [0, 0, 2, count, 2]},
            locks=(f"{MS}MultiHeadAttention gives its positions a meaning",), trace_only=GPU, **SEQ
        )  # fmt: skip
    split = [_heads(name, 4, 4) for name in "kv"]
    yield attends(
        MS + "MultiHeadAttention", "keys-per-head", m.format("q, k4, v4"), *(t for texts, _ in split for t in texts),
        cut="4 heads, 4 head dims inside",
        **{name: value for _, given in split for name, value in given.items()}
    )  # fmt: skip
    states = "float[2,4,3,4] pk, float[2,4,3,4] pv"
    yield attends(
        MS + "MultiHeadAttention", "past", m.format("q, k, v, , , , pk, pv").replace("o =", "o, nk, nv ="), cut="",
        x=f"float[2,5,16] x, {states}", y="float[2,5,16] y, float[2,4,8,4] nk, float[2,4,8,4] nv"
    )  # fmt: skip
    one = {"x": "float[2,1,16] x", "y": "float[2,1,16] y"}
    split = [_heads(name, 4, 4) for name in "kv"]
    yield attends(
        MS + "DecoderMaskedMultiHeadAttention", "", "o = DecoderMaskedMultiHeadAttention<num_heads=4>(q, k4, v4)",
        *(t for texts, _ in split for t in texts), cut="4 heads, 4 head dims inside",
        **{name: value for _, given in split for name, value in given.items()}, **one
    )  # fmt: skip
    token = {"x": "float[8,16] x", "y": "float[8,16] y", "imports": IMPORT, "wo": (16, 16), "trace_only": GPU}
    places = {"place": np.arange(8, dtype=np.int32).reshape(2, 4), "lengths": np.array([0, 4, 8], np.int32)}
    yield case(
        MS + "PackedAttention", "", node("o = PackedAttention<num_heads=4>(x, w, c, place, lengths)"), LAST, cut=MHA,
        w=(16, 48), c=(48,), **token, **places
    )  # fmt: skip
    yield case(
        MS + "PackedMultiHeadAttention", "", *QKV,
        node("o = PackedMultiHeadAttention<num_heads=4>(q, k, v, , place, lengths)"), LAST, cut=MHA,
        **{**SAME, **token, **places}
    )  # fmt: skip
    yield case(
        MS + "PackedMultiHeadAttention", "packed", "a = MatMul(x, w)", "r = Reshape(a, t)",
        node("o = PackedMultiHeadAttention<num_heads=4>(r, , , , place, lengths)"), LAST,
        cut="4 heads, 4 head dims inside", w=(16, 48), t=[0, 4, 3, 4],
        locks=(f"{MS}PackedMultiHeadAttention gives its positions a meaning",), **token, **places
    )  # fmt: skip


def _grouped_attention():
    lengths = {"l": np.array([4, 4], np.int32), "n5": np.array(5, np.int32)}
    five = {"x": "float[2,5,16] x", "y": "float[2,5,16] y", **lengths}
    wide = {"wq": (16, 64), "wk": (16, 32), "wv": (16, 32), "wo": (64, 16)}
    g = "o = GroupQueryAttention<num_heads=4, kv_num_heads=2{}>({}, , , l, n5{})"
    rest = {"cut": "2 heads, 2 heads inside", "locks": ("its kernels take heads of 8, 16, 24 or more dims alone",)}
    yield attends(
        MS + "GroupQueryAttention", "", g.format("", "q, k, v", ""), weights=wide,
        after={"o.num_heads": 1, "o.kv_num_heads": 1, "o.scale": None}, **rest, **five
    )  # fmt: skip
    angles = np.arange(80, dtype=np.float32).reshape(10, 8)
    caches = {"cos": np.cos(angles), "sin": np.sin(angles)}
    meaning = (f"{MS}GroupQueryAttention gives its positions a meaning",)
    for variant, attributes in (("rotary", ", do_rotary=1"), ("interleaved", ", do_rotary=1, rotary_interleaved=1")):
        pairs = meaning * (variant == "interleaved")
        yield attends(
            MS + "GroupQueryAttention", variant, g.format(attributes, "q, k, v", ", cos, sin"),
            weights=wide, **caches, **{**rest, "locks": rest["locks"] + pairs}, **five
        )  # fmt: skip
    yield case(
        MS + "GroupQueryAttention", "packed", "a = MatMul(x, w)",
        node(g.format(", do_rotary=1", "a, , ", ", cos, sin")),
        LAST, w=(16, 128), wo=(64, 16), imports=IMPORT, **caches, **rest, **five
    )  # fmt: skip

    n4 = {"l": np.array([3, 3], np.int32), "n4": np.array(4, np.int32)}
    for variant, attributes, more in (
        ("past", "", ""), ("past-rotary", ", do_rotary=1", ", cos, sin"),
        ("past-interleaved", ", do_rotary=1, rotary_interleaved=1", ", cos, sin"),
    ):  # fmt: skip
        for d in (16, 32) if more else (16,):  # dims of a head, of which 16 are rotated
            wide = {"wq": (16, 4 * d), "wk": (16, 2 * d), "wv": (16, 2 * d), "wo": (4 * d, 16)}
            yield attends(
                MS + "GroupQueryAttention", f"{variant}-{d}",
                f"o, nk, nv = GroupQueryAttention<num_heads=4, kv_num_heads=2{attributes}>"
                f"(q, k, v, pk, pv, l, n4{more})",
                x=f"float[2,1,16] x, float[2,2,3,{d}] pk, float[2,2,3,{d}] pv",
                y=f"float[2,1,16] y, float[2,2,4,{d}] nk, float[2,2,4,{d}] nv",
                cut="2 heads", locks=rest["locks"] + meaning * ("interleaved" in variant), weights=wide,
                after={"o.num_heads": 2}, **(caches if more else {}), **n4
            )  # fmt: skip


def _grouped_with_more():
    lengths = {"l": np.array([4, 4], np.int32), "n5": np.array(5, np.int32)}
    five = {"x": "float[2,5,16] x", "y": "float[2,5,16] y", **lengths}
    wide = {"wq": (16, 64), "wk": (16, 32), "wv": (16, 32), "wo": (64, 16)}
    lock = "its kernels take heads of 8, 16, 24 or more dims alone"
    for variant, inputs, more in (
        ("sink", ", , , , , e", {"e": (4,)}),
        ("bias", ", , , , e", {"e": (1, 4, 5, 5)}),
        ("norms", ", , , , , , , , e, f", {"e": (16,), "f": (16,)}),
    ):
        yield attends(
            MS + "GroupQueryAttention", variant,
            f"o = GroupQueryAttention<num_heads=4, kv_num_heads=2>(q, k, v, , , l, n5{inputs})",
            cut="2 heads, 2 heads inside", weights=wide, locks=(lock,), after={"o.num_heads": 1},
            trace_only=GPU if variant == "norms" else "", **more, **five
        )  # fmt: skip


def _linear_attention():
    nodes = ("d = MatMul(x, wd)", "e = MatMul(x, we)", "s = Sigmoid(e)", "g = Neg(s)")
    for op, opset in (("LinearAttention", 27), (MS + "LinearAttention", 18)):
        rest = {"opset": opset, **({"trace_only": "the runtime is older"} if opset == 27 else {})}
        state = {"x": "float[2,5,16] x", "y": "float[2,5,16] y"}
        call = 'o, z = LinearAttention<q_num_heads=4, kv_num_heads=2, update_rule="{}">({})'
        yield attends(op, "linear", call.format("linear", "q, k, v"), cut=GQA, weights=SHARED, **state, **rest)
        yield attends(
            op, "gated-delta", call.format("gated_delta", "q, k, v, , g, s"), *nodes[1:], cut=GQA, weights=SHARED,
            we=(16, 2), **state, **rest
        )  # fmt: skip


# -- refusals ----------------------------------------------------------------------------------------------------


def _refusals():
    def refused(op, variant, text, why, **rest):
        """The op between two products of rows: whatever it says, all of it is locked."""
        cut, y = rest.pop("cut", ""), rest.pop("y", "float[n,5] y")
        nodes = ("a = MatMul(x, w1)", node(text) if op.startswith(MS) else text, "y = MatMul(b, w2)")
        return case(
            op,
            variant,
            *nodes,
            cut=cut,
            locks=(f"{op.split()[0]} {why}" if why[0] != "=" else why[1:],),
            **{
                "x": ROWS,
                "y": y,
                "imports": IMPORT,
                "trace_only": "refused",
                "w1": (6, 8),
                "w2": (8, 5),
                "stated": "float[n,8] b",
                **rest,
            },
        )

    yield refused(MS + "GatedAdd", "projected", "b = GatedAdd(a, a, a, k)", "projects its gate inside", k=(8, 1))
    yield refused(
        MS + "ExpandDims", "at-run-time", "b = ExpandDims(a, d)", "=its axes are computed at run time",
        x="float[n,6] x, int32 d"
    )  # fmt: skip
    yield refused(
        MS + "FusedGemm", "softmax", 'b = FusedGemm<activation="Softmax">(a, k)',
        "has the activation 'Softmax', which may mix over its axes", k=(8, 8)
    )  # fmt: skip
    tokens = {"x": TOKENS, "w1": (16, 16), "w2": (16, 16), "y": "float[n,s,16] y", "stated": "float[n,s,16] b"}
    yield refused(
        "Col2Im", "at-run-time", "b = Col2Im(a, image, block)", "=the shape of its blocks is computed at run time",
        **{**tokens, "x": "float[n,s,16] x, int64[2] image, int64[2] block"}
    )  # fmt: skip
    yield refused(
        MS + "CausalConvWithState", "channels-last", "b, z = CausalConvWithState<channels_last=1>(a, k)",
        "has channels_last = 1", k=(16, 1, 3), **tokens
    )  # fmt: skip
    yield refused(
        "Attention", "heads", "b = Attention<q_num_heads=4, kv_num_heads=3>(a, a, a)",
        "has 4 heads of queries and 3 of keys", opset=23, **tokens
    )  # fmt: skip
    yield refused(
        MS + "Attention", "rotary", "b = Attention<num_heads=4, do_rotary=1>(a, k, c)",
        "rotates its queries and keys inside", k=(16, 48), c=(48,), **tokens
    )  # fmt: skip
    yield refused(
        MS + "DecoderMaskedMultiHeadAttention", "shared-buffer",
        "b = DecoderMaskedMultiHeadAttention<num_heads=4, past_present_share_buffer=1>(a, a, a)",
        "reorders the dims of a head in its buffer", **tokens
    )  # fmt: skip
    yield refused(
        MS + "GroupQueryAttention", "quantized",
        'b = GroupQueryAttention<num_heads=4, kv_num_heads=4, k_quant_type="PER_TENSOR">(a, a, a, , , l, m)',
        "keeps its keys and values quantized", l=np.array([4], np.int32), m=np.array(5, np.int32), **tokens
    )  # fmt: skip
    yield refused(
        MS + "LinearAttention", "window",
        "b, z = LinearAttention<q_num_heads=4, kv_num_heads=4, state_window=2>(a, a, a)", "keeps several states",
        **tokens
    )  # fmt: skip


FUSED: tuple[Case, ...] = (
    *_elementwise(),
    *_convolutions(),
    *_products(),
    *_norms(),
    *_standard_attention(),
    *_rotary(),
    *_runtime_attention(),
    *_grouped_attention(),
    *_grouped_with_more(),
    *_linear_attention(),
    *_refusals(),
)
