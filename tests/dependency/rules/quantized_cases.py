"""Cases of the quantized ops: rows of the same form as in `cases`, which appends them."""

from __future__ import annotations

from zlib import crc32

import ml_dtypes
import numpy as np

from tests.support.build import ROWS, TOKENS

MS = "com.microsoft"
IMPORTS = {"imports": f'"{MS}": 1'}  # onnx infers no shape of these ops: it must be stated for the output
ON_IMAGES = {**IMPORTS, "y": "float[n,5,p,r] y"}
ON_ROWS = {**IMPORTS, "y": "float[n,5] y"}
ON_TOKENS = {**IMPORTS, "y": "float[n,s,5] y"}
N8 = "8 neurons"
INTO = "q = QuantizeLinear(a, s, z)"  # from floats
OUT_OF = "b = DequantizeLinear(p, t, u)"  # to floats
SCALES = {  # of the tensors in front of an op, and behind it; no zero point is 0
    "s": np.float32(0.05),
    "z": np.uint8(117),
    "t": np.float32(0.11),
    "u": np.uint8(131),
}
SIGNED = {**SCALES, "z": np.int8(-11), "u": np.int8(7)}
INT4 = np.dtype(ml_dtypes.int4)
BLOCKWISE = "scales it block by block"


def integers(name, *shape, kind=np.int8):
    """Return random integers of 8 bits, or the range of a smaller type."""
    low, high = (-8, 8) if np.dtype(kind).name == "int4" else (-100, 100) if np.dtype(kind).kind == "i" else (0, 255)
    return np.random.default_rng(crc32(name.encode())).integers(low, high, shape).astype(kind)


def scales(name, *shape):
    return np.random.default_rng(crc32(name.encode())).uniform(0.005, 0.02, shape).astype(np.float32)


def quantized_cases(case, on_images, on_rows):
    """Yield the rows; the arguments make one each."""
    yield from _linear(on_images, on_rows)
    yield from _blocks(case)
    yield from _convolutions(on_images)
    yield from _products(case, on_rows)
    yield from _dynamic(on_images, on_rows)
    yield from _contributed(on_images, on_rows)
    yield from _gemms(on_rows)
    yield from _packed(case)
    yield from _layers(case)


# -- QuantizeLinear, DequantizeLinear ------------------------------------------------------------------------


def _linear(on_images, on_rows):
    yield on_images("QuantizeLinear", "per-tensor", INTO, "b = DequantizeLinear(q, s, z)", **SCALES)
    yield on_images("QuantizeLinear", "no-zero", "q = QuantizeLinear(a, s)", "b = DequantizeLinear(q, s)", s=0.05)
    yield on_images(
        "QuantizeLinear", "one-scale-in-a-vector", INTO, "b = DequantizeLinear(q, s, z)", s=scales("s", 1),
        z=np.array([120], np.uint8)
    )  # fmt: skip
    yield on_images(
        "QuantizeLinear", "per-channel", INTO, "b = DequantizeLinear(q, s, z)", s=scales("s", 8) * 4,
        z=integers("z", 8, kind=np.uint8)
    )  # fmt: skip
    yield on_images(
        "QuantizeLinear", "positions", "q = QuantizeLinear<axis=-1>(a, s, z)", "b = DequantizeLinear<axis=-1>(q, s, z)",
        s=scales("s", 6) * 4, z=integers("z", 6, kind=np.uint8), locks=("its size is computed by Conv",)
    )  # fmt: skip
    yield on_rows("DequantizeLinear", "opset-10", INTO, "b = DequantizeLinear(q, s, z)", opset=10, **SCALES)
    weight = {"kq": integers("kq", 4, 8, 1, 1), "ks": scales("ks", 4), "out": 4, "cut": "8 channels, 4 channels"}
    zero = {"kz": integers("kz", 4)}
    yield on_images(
        "DequantizeLinear", "weight", "k = DequantizeLinear<axis=0>(kq, ks, kz)", "b = Conv(a, k)", **weight, **zero
    )
    yield on_images(
        "DequantizeLinear", "weight-of-one-scale", "k = DequantizeLinear(kq, ks, kz)", "b = Conv(a, k)", **weight | {
            "ks": np.float32(0.01), "kz": np.int8(5)}
    )  # fmt: skip
    yield on_images(
        "DequantizeLinear", "bias", "k = DequantizeLinear<axis=0>(kq, ks)", "c = DequantizeLinear<axis=0>(cq, cs)",
        "b = Conv(a, k, c)", cq=integers("cq", 4, kind=np.int32), cs=scales("cs", 4), **weight
    )  # fmt: skip
    yield on_images(
        "DequantizeLinear", "float-weight-through-both", "kq = QuantizeLinear<axis=0>(k0, ks, kz)",
        "k = DequantizeLinear<axis=0>(kq, ks, kz)", "b = Conv(a, k)", k0=(4, 8, 1, 1), ks=scales("ks", 4), **zero,
        out=4, cut="8 channels, 4 channels"
    )  # fmt: skip
    yield on_rows(
        "DequantizeLinear", "transposed-weight", "k = DequantizeLinear<axis=0>(kq, ks, kz)", "l = Transpose(k)",
        "b = MatMul(a, l)", kq=integers("kq", 4, 8), ks=scales("ks", 4), **zero, out=4, cut="8 neurons, 4 neurons"
    )  # fmt: skip
    yield on_images(
        "DequantizeLinear", "all", INTO, "d = DequantizeLinear(q, s, z)", "k = DequantizeLinear<axis=0>(kq, ks, kz)",
        "c = Conv(d, k)", "r = Relu(c)", "e = QuantizeLinear(r, t, u)", "b = DequantizeLinear(e, t, u)", **SCALES,
        **weight, **zero
    )  # fmt: skip


def _blocks(case):
    """Scales per block of the contracted axis: whole blocks go."""
    rest = {"x": ROWS, "opset": 21, "w1": (6, 16), "y": "float[n,5] y"}
    nodes = ("a = MatMul(x, w1)", "k = DequantizeLinear<axis=0, block_size=4>(kq, ks, kz)", "y = MatMul(a, k)")
    for name, kind in (("int8", np.int8), ("int4", INT4)):
        yield case(
            "DequantizeLinear", f"blocks-of-{name}", *nodes, kq=integers("kq", 16, 5, kind=kind),
            ks=scales("ks", 4, 5), kz=integers("kz", 4, 5, kind=kind), cut="4 neurons",
            locks=(f"DequantizeLinear {BLOCKWISE}",), **rest
        )  # fmt: skip
    yield case(
        "DequantizeLinear", "incomplete-block", "a = MatMul(x, w1)",
        "k = DequantizeLinear<axis=0, block_size=5>(kq, ks)", "y = MatMul(a, k)", kq=integers("kq", 16, 5),
        ks=scales("ks", 4, 5), cut="", locks=("its last block of 5 is incomplete",), **rest
    )  # fmt: skip
    yield case(
        "QuantizeLinear", "blocks-through-both", "a = MatMul(x, w1)",
        "kq = QuantizeLinear<axis=0, block_size=4>(w2, ks, kz)", *nodes[1:], w2=(16, 5), ks=scales("ks", 4, 5) * 3,
        kz=integers("kz", 4, 5), cut="4 neurons",
        locks=(f"QuantizeLinear {BLOCKWISE}",), **rest
    )  # fmt: skip


# -- standard ops on integers --------------------------------------------------------------------------------


def _convolutions(on_images):
    more = {"out": 4, "cut": "8 channels, 4 channels", "k": integers("k", 4, 8, 1, 1)}
    per_channel = {"ks": scales("ks", 4), "kz": np.full(4, 0, np.int8)}
    whole = {"ks": np.float32(0.01), "kz": np.int8(9)}
    conv = "p = QLinearConv(q, s, z, k, ks, kz, t, u)"
    yield on_images("QLinearConv", "per-tensor", INTO, conv, OUT_OF, **whole, **SCALES, **more)
    yield on_images("QLinearConv", "signed", INTO, conv, OUT_OF, **whole, **SIGNED, **more)
    yield on_images("QLinearConv", "per-channel", INTO, conv, OUT_OF, **per_channel, **SCALES, **more)
    yield on_images(
        "QLinearConv", "unsigned-weight", INTO, conv, OUT_OF, **SCALES, **more | {
            "k": integers("k", 4, 8, 1, 1, kind=np.uint8), "ks": np.float32(0.01), "kz": np.uint8(121)}
    )  # fmt: skip
    yield on_images(
        "QLinearConv", "bias-padding", INTO, "p = QLinearConv<pads=[1, 1, 1, 1]>(q, s, z, k, ks, kz, t, u, c)", OUT_OF,
        c=integers("c", 4, kind=np.int32), **per_channel, **SCALES, **more | {"k": integers("k", 4, 8, 3, 3)}
    )  # fmt: skip
    yield on_images(
        "QLinearConv", "depthwise", INTO, "p = QLinearConv<group=8>(q, s, z, k, ks, kz, t, u)", OUT_OF,
        k=integers("k", 8, 1, 3, 3), ks=scales("ks", 8), kz=np.zeros(8, np.int8), after={"p.group": 4}, **SCALES
    )  # fmt: skip
    yield on_images(
        "QLinearConv", "two", INTO, "m = QLinearConv(q, s, z, k, ks, kz, t, u)",
        "p = QLinearConv(m, t, u, l, ls, lz, t, u)", OUT_OF, l=integers("l", 6, 4, 1, 1), ls=scales("ls", 6),
        lz=np.zeros(6, np.int8), **per_channel, **SCALES, **more | {"out": 6,
            "cut": "8 channels, 4 channels, 6 channels"}
    )  # fmt: skip
    integer = "p = ConvInteger(q, k, z, kz)"
    real = "b = Cast<to=1>(p)"
    unsigned = more | {"k": integers("k", 4, 8, 1, 1, kind=np.uint8)}
    yield on_images("ConvInteger", "zeros", INTO, integer, real, kz=np.uint8(99), **SCALES, **unsigned)
    yield on_images(
        "ConvInteger", "no-zeros", "q = QuantizeLinear(a, s)", "p = ConvInteger(q, k)", real, s=0.05, **unsigned
    )


def _products(case, on_rows):
    k = {"k": integers("k", 8, 4), "out": 4, "cut": "8 neurons, 4 neurons"}
    product = "p = QLinearMatMul(q, s, z, k, ks, kz, t, u)"
    for name, scale, zero in (
        ("per-tensor", np.float32(0.01), np.int8(9)),
        ("per-column", scales("ks", 4), np.full(4, 3, np.int8)),
    ):
        yield on_rows("QLinearMatMul", name, INTO, product, OUT_OF, ks=scale, kz=zero, **SCALES, **k)
        yield on_rows(
            "MatMulInteger", name, INTO, "p = MatMulInteger(q, k, z, kz)", "b = Cast<to=1>(p)", kz=zero, **SCALES, **k
        )
    yield on_rows(
        "MatMulInteger", "no-zeros", "q = QuantizeLinear(a, s)", "p = MatMulInteger(q, k)", "b = Cast<to=1>(p)",
        s=0.05, **k
    )  # fmt: skip
    both = ("a = MatMul(x, w1)", "c = MatMul(x, w3)", INTO, "d = Transpose<perm=[0, 2, 1]>(c)")
    rest = {"x": TOKENS, "w1": (16, 8), "w3": (16, 8), "cut": "8 neurons"}
    yield case(
        "QLinearMatMul", "of-activations", *both, "r = QuantizeLinear(d, s, z)",
        "p = QLinearMatMul(q, s, z, r, s, z, t, u)", "y = DequantizeLinear(p, t, u)", **rest,
        **{**SCALES, "s": np.float32(0.1), "t": np.float32(0.4)}
    )  # fmt: skip
    yield case(
        "MatMulInteger", "of-activations", *both, "r = QuantizeLinear(d, s, z)", "p = MatMulInteger(q, r, z, z)",
        "y = Cast<to=1>(p)", **rest, **SCALES
    )  # fmt: skip
    yield case(
        "MatMulInteger", "of-activations-without-zeros", *both[:2], "q = QuantizeLinear(a, s)", both[3],
        "r = QuantizeLinear(d, s)", "p = MatMulInteger(q, r)", "y = Cast<to=1>(p)", s=0.05, **rest
    )  # fmt: skip
    yield case(
        "MatMulInteger", "of-activations-with-a-zero-per-column", *both[:2], INTO, both[3],
        "r = QuantizeLinear(d, s, z)", "p = MatMulInteger(q, r, z, zz)", "y = Cast<to=1>(p)",
        zz=integers("zz", 7, kind=np.uint8), trace_only="ONNX Runtime takes one for activations",
        **rest | {"x": "float[n,7,16] x"}, **SCALES
    )  # fmt: skip
    yield case(
        "QLinearMatMul", "scales-per-matrix", "a = MatMul(x, w1)", INTO, "p = QLinearMatMul(q, s, z, k, ks, kz, t, u)",
        "y = DequantizeLinear(p, t, u)", x=TOKENS, w1=(16, 8), k=integers("k", 8, 4), ks=scales("ks", 1, 4),
        kz=np.zeros((1, 4), np.int8), cut=N8, trace_only="ONNX Runtime takes scales of one axis alone", **SCALES
    )  # fmt: skip


def _dynamic(on_images, on_rows):
    """The range of a tensor includes zero, so that removed units, which are zero, do not change it."""
    quantize = "q, s, z = DynamicQuantizeLinear(a)"
    yield on_images(
        "DynamicQuantizeLinear", "conv", quantize, "p = ConvInteger(q, k, z, kz)", "f = Cast<to=1>(p)",
        "v = Mul(s, ks)", "b = Mul(f, v)", k=integers("k", 4, 8, 1, 1, kind=np.uint8), kz=np.uint8(99),
        ks=np.float32(0.01), out=4, cut="8 channels, 4 channels"
    )  # fmt: skip
    yield on_rows(
        "DynamicQuantizeLinear", "matmul", "r = Relu(a)", "q, s, z = DynamicQuantizeLinear(r)",
        "p = MatMulInteger(q, k, z, kz)", "f = Cast<to=1>(p)", "v = Mul(s, ks)", "b = Mul(f, v)",
        k=integers("k", 8, 4), kz=integers("kz", 4), ks=scales("ks", 4), out=4, cut="8 neurons, 4 neurons"
    )  # fmt: skip
    yield on_rows(
        "DynamicQuantizeLinear", "beside-a-float-path", quantize, "p = MatMulInteger(q, k, z)", "f = Cast<to=1>(p)",
        "g = Mul(f, s)", "b = Add(a, g)", k=integers("k", 8, 8)
    )  # fmt: skip
    yield on_rows(
        f"{MS}.DynamicQuantizeMatMul", "", f"b = {MS}.DynamicQuantizeMatMul(a, k, ks, kz, c)", k=integers("k", 8, 4),
        ks=scales("ks", 4), kz=integers("kz", 4), c=(4,), out=4, cut="8 neurons, 4 neurons", **ON_ROWS
    )  # fmt: skip


# -- com.microsoft -------------------------------------------------------------------------------------------


def _contributed(on_images, on_rows):
    def row(op, variant, *nodes, on=on_images, **rest):
        return on(f"{MS}.{op}", variant, INTO, *nodes, OUT_OF, **{**SCALES, **ON_IMAGES, **rest})

    for op in ("QuantizeLinear", "DequantizeLinear"):
        yield on_images(
            f"{MS}.{op}", "", f"q = {MS}.QuantizeLinear(a, s, z)", f"b = {MS}.DequantizeLinear(q, s, z)",
            **SCALES, **ON_IMAGES
        )  # fmt: skip
    yield row("QLinearSigmoid", "", f"p = {MS}.QLinearSigmoid(q, s, z, t, u)", t=np.float32(1 / 256), u=np.uint8(0))
    yield row("QLinearLeakyRelu", "", f"p = {MS}.QLinearLeakyRelu<alpha=0.1>(q, s, z, t, u)")
    for op in ("QLinearAdd", "QLinearMul"):
        yield row(op, "", f"p = {MS}.{op}(q, s, z, k, s, z, t, u)", k=integers("k", 8, 1, 1, kind=np.uint8))
        yield row(op, "itself", f"p = {MS}.{op}(q, s, z, q, s, z, t, u)")
    yield row(
        "QLinearWhere", "", f"p = {MS}.QLinearWhere(m, q, s, z, k, s, z, t, u)", m=np.eye(6, dtype=bool),
        k=integers("k", 8, 1, 1, kind=np.uint8)
    )  # fmt: skip
    yield row("QLinearSoftmax", "positions", f"p = {MS}.QLinearSoftmax<axis=3, opset=13>(q, s, z, t, u)", **SOFT)
    yield row(
        "QLinearSoftmax", "channels", f"p = {MS}.QLinearSoftmax<axis=1, opset=12>(q, s, z, t, u)", **SOFT, cut="",
        inexact=("com.microsoft.QLinearSoftmax normalises over it",)
    )  # fmt: skip
    yield row(
        "QLinearSoftmax", "channels-of-opset-11", f"p = {MS}.QLinearSoftmax<axis=1, opset=11>(q, s, z, t, u)", **SOFT,
        opset=11, cut="", inexact=("com.microsoft.QLinearSoftmax normalises over it",)
    )  # fmt: skip
    yield row(
        "QLinearAveragePool", "", f"p = {MS}.QLinearAveragePool<kernel_shape=[2, 2], strides=[2, 2]>(q, s, z, t, u)"
    )
    yield row(
        "QLinearAveragePool", "padded",
        f"p = {MS}.QLinearAveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(q, s, z, t, u)"
    )  # fmt: skip
    last, first = "Transpose<perm=[0, 2, 3, 1]>", "Transpose<perm=[0, 3, 1, 2]>"
    yield row(
        "QLinearAveragePool", "channels-last", f"l = {last}(q)",
        f"m = {MS}.QLinearAveragePool<channels_last=1, kernel_shape=[2, 2]>(l, s, z, t, u)", f"p = {first}(m)"
    )  # fmt: skip
    yield row("QLinearGlobalAveragePool", "", f"p = {MS}.QLinearGlobalAveragePool(q, s, z, t, u)")
    yield row(
        "QLinearGlobalAveragePool", "channels-last", f"l = {last}(q)",
        f"m = {MS}.QLinearGlobalAveragePool<channels_last=1>(l, s, z, t, u)", f"p = {first}(m)"
    )  # fmt: skip
    yield row(
        "NhwcMaxPool", "quantized", f"l = {last}(q)", f"m = {MS}.NhwcMaxPool<kernel_shape=[2, 2], strides=[2, 2]>(l)",
        f"p = {first}(m)"
    )  # fmt: skip
    yield row(
        "QLinearConcat", "", "c = Conv(x, v1)", "r = QuantizeLinear(c, s, z)",
        f"p = {MS}.QLinearConcat<axis=1>(t, u, q, s, z, r, s, z)", v1=(4, 3, 1, 1), out=12,
        cut="8 channels, 4 channels"
    )  # fmt: skip


SOFT = {"t": np.float32(1 / 256), "u": np.uint8(0)}


def _gemms(on_rows):
    k = {"out": 4, "cut": "8 neurons, 4 neurons", **ON_ROWS}
    gemm = f"p = {MS}.QGemm<transB=1>(q, s, z, k, ks, kz, c, t, u)"
    bias = {"c": integers("c", 4, kind=np.int32)}
    yield on_rows(
        f"{MS}.QGemm", "", INTO, gemm, OUT_OF, k=integers("k", 4, 8), ks=np.float32(0.01), kz=np.int8(4), **bias,
        **SCALES, **k
    )  # fmt: skip
    yield on_rows(
        f"{MS}.QGemm", "per-column", INTO, gemm.replace("<transB=1>", ""), OUT_OF, k=integers("k", 8, 4),
        ks=scales("ks", 4), kz=np.zeros(4, np.int8), **bias, **SCALES, **k
    )  # fmt: skip
    yield on_rows(
        f"{MS}.QGemm", "to-floats", INTO, f"b = {MS}.QGemm<transB=1>(q, s, z, k, ks, kz)", k=integers("k", 4, 8),
        ks=np.float32(0.01), kz=np.int8(4), **SCALES, **k
    )  # fmt: skip
    yield on_rows(
        f"{MS}.MatMulIntegerToFloat", "", INTO, f"b = {MS}.MatMulIntegerToFloat(q, k, s, ks, z, kz, c)",
        k=integers("k", 8, 4), ks=scales("ks", 4), kz=integers("kz", 4), c=(4,), **SCALES, **k
    )  # fmt: skip
    yield on_rows(
        f"{MS}.MatMulIntegerToFloat", "one-scale", INTO, f"b = {MS}.MatMulIntegerToFloat(q, k, s, ks, z)",
        k=integers("k", 8, 4), ks=np.float32(0.01), **SCALES, **k
    )  # fmt: skip


def _packed(case):
    """Weights of a few bits in blocks, as matmul_nbits_quantizer writes them."""
    size, rows, width = 16, 5, 64
    attributes = f"<K={width}, N={rows}, bits=4, block_size={size}>"
    blocks = width // size
    stored = integers("k", rows, blocks, size // 2, kind=np.uint8)
    base = {"x": ROWS, "w1": (6, width), "k": stored, "ks": scales("ks", rows * blocks) * 5, "cut": "4 neurons",
            "locks": (f"{MS}.MatMulNBits gives its positions a meaning",), **ON_ROWS}  # fmt: skip
    op = f"{MS}.MatMulNBits"
    nodes = ("a = MatMul(x, w1)", "r = Relu(a)")

    def row(variant, inputs, **rest):
        return case(op, variant, *nodes, f"y = {op}{attributes}(r, {inputs})", **{**base, **rest})

    yield row("", "k, ks", after={"y.K": 32, "y.N": 5})
    yield row("scales-by-row", "k, ks", ks=scales("ks", rows, blocks) * 5)
    yield row("float-zeros", "k, ks, kz", kz=scales("kz", rows * blocks) * 400)
    yield row(
        "packed-zeros", "k, ks, kz", kz=integers("kz", rows * blocks // 2, kind=np.uint8), cut="2 neurons",
        after={"y.K": 32}
    )  # fmt: skip
    yield row("packed-zeros-by-row", "k, ks, kz", kz=integers("kz", rows, blocks // 2, kind=np.uint8), cut="2 neurons")
    yield case(
        op, "packed-zeros-of-odd-blocks", *nodes, f"y = {op}{attributes.replace('64', '48')}(r, k, ks, kz)", **base | {
            "w1": (6, 48), "k": integers("k", rows, 3, size // 2, kind=np.uint8), "ks": scales("ks", rows * 3) * 5,
            "kz": integers("kz", rows * 2, kind=np.uint8), "cut": "",
            "locks": (*base["locks"], "several of its zero points share a byte")}
    )  # fmt: skip
    eight = attributes.replace("bits=4", "bits=8")
    yield case(
        op, "eight-bits", *nodes, f"y = {op}{eight}(r, k, ks, kz)", **base | {
            "k": integers("k", rows, blocks, size, kind=np.uint8),
            "kz": integers("kz", rows * blocks, kind=np.uint8)}
    )  # fmt: skip
    yield case(
        op, "incomplete-block", "a = MatMul(x, w1)", f"y = {op}{attributes.replace('64', '60')}(a, k, ks)", **base | {
            "w1": (6, 60), "cut": "", "locks": base["locks"]}
    )  # fmt: skip
    yield case(
        op, "first-of-two", f"a = {op}<K=16, N=8, bits=4, block_size=16>(x, k, ks, kz, , c)", "r = Relu(a)",
        "y = MatMul(r, w2)", x="float[n,16] x", k=integers("k", 8, 1, 8, kind=np.uint8), ks=scales("ks", 8),
        kz=integers("kz", 8, kind=np.uint8), c=(8,), w2=(8, 5), cut=N8, after={"a.N": 4}, **ON_ROWS
    )  # fmt: skip
    yield case(
        op, "prepacked", *nodes, f"y = {op}{attributes[:-1]}, weight_prepacked=1>(r, k, ks)", **base | {
            "cut": "", "locks": ("its weight is packed for one kind of hardware",)}, trace_only="for GPUs"
    )  # fmt: skip
    yield case(
        op, "ordered", *nodes, f"y = {op}{attributes}(r, k, ks, , g)", **base | {
            "cut": "", "locks": (*base["locks"], "an index says to which block each position belongs")},
        g=(np.arange(width) // size).astype(np.int32), trace_only="ONNX Runtime wants the order unpacked"
    )  # fmt: skip
    gathered = f"{MS}.GatherBlockQuantized"
    table = {"x": "int64[n,s] x", "w2": (64, 5), "cut": "4 neurons", **ON_TOKENS}
    yield case(
        gathered, "packed", f"a = {gathered}<block_size=16, bits=4, quantize_axis=1>(k, x, ks)", "y = MatMul(a, w2)",
        k=integers("k", 20, 32, kind=np.uint8), ks=scales("ks", 20, 4), locks=(f"{gathered} {BLOCKWISE}",), **table
    )  # fmt: skip
    yield case(
        gathered, "packed-zeros", f"a = {gathered}<block_size=16, bits=4, quantize_axis=1>(k, x, ks, kz)",
        "y = MatMul(a, w2)", k=integers("k", 20, 32, kind=np.uint8), ks=scales("ks", 20, 4),
        kz=integers("kz", 20, 2, kind=np.uint8), **table | {"cut": "2 neurons"},
        locks=(f"{gathered} {BLOCKWISE}", "several of its zero points share a byte")
    )  # fmt: skip
    yield case(
        gathered, "int4", f"a = {gathered}<block_size=16, quantize_axis=1>(k, x, ks, kz)", "y = MatMul(a, w2)",
        k=integers("k", 20, 64, kind=INT4), ks=scales("ks", 20, 4), kz=integers("kz", 20, 4, kind=INT4), opset=21,
        locks=(f"{gathered} {BLOCKWISE}",), **table
    )  # fmt: skip


def _layers(case):
    heads = {"x": TOKENS, "c": (48,), "ks": scales("ks", 48), "kz": np.zeros(48, np.int8), "w2": (16, 5), **ON_TOKENS}
    op = f"{MS}.QAttention"
    yield case(
        op, "", INTO.replace("(a", "(x"), f"a = {op}<num_heads=4>(q, k, c, s, ks, , z, kz)", "y = MatMul(a, w2)",
        k=integers("k", 16, 48), cut="4 heads", locks=(f"{op} gives its positions a meaning",),
        after={"a.num_heads": 2}, **heads, **SCALES
    )  # fmt: skip
    op = f"{MS}.DynamicQuantizeLSTM"
    yield case(
        op, "", "a0 = MatMul(x, w1)", "a = Relu(a0)", f"h = {op}<hidden_size=8>(a, w, r, b, , , , , ws, wz, rs, rz)",
        "l = Squeeze(h, one)", "y = MatMul(l, w2)", x="float[s,n,3] x", w1=(3, 6), w=integers("w", 1, 6, 32),
        r=integers("r", 1, 8, 32), b=(1, 64), ws=scales("ws", 1, 32), wz=np.zeros((1, 32), np.int8), rs=scales("rs", 1),
        rz=np.zeros(1, np.int8), one=[1], w2=(8, 5), cut="6 neurons",
        inexact=(f"{op} quantizes by the range over it",), **ON_TOKENS
    )  # fmt: skip
    for variant, shape in (("both-directions", (2,)), ("both-directions-by-row", (2, 32))):
        yield case(
            op, variant, "a0 = MatMul(x, w1)", "a = Relu(a0)",
            f'h = {op}<hidden_size=8, direction="bidirectional">(a, w, r, b, , , , , ws, wz, rs, rz)',
            "t = Transpose<perm=[0, 2, 1, 3]>(h)", "l = Reshape(t, to)", "y = MatMul(l, w2)", x="float[s,n,3] x",
            w1=(3, 6), w=integers("w", 2, 6, 32), r=integers("r", 2, 8, 32), b=(2, 64), ws=scales("ws", *shape),
            wz=np.zeros(shape, np.int8), rs=scales("rs", *shape), rz=np.zeros(shape, np.int8), to=[0, 0, 16],
            w2=(16, 5), cut="6 neurons", locks=(f"{op} gives its positions a meaning",),
            inexact=(f"{op} quantizes by the range over it",), **ON_TOKENS
        )  # fmt: skip
