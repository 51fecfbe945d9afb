"""Files after ONNX Runtime's own optimiser are pruned like the files before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxprune
from onnxprune.errors import NothingToPrune
from onnxprune.graph.files.checks import problems
from onnxprune.graph.files.read import load
from tests.support.build import TOKENS, model
from tests.support.oracle import check
from tests.support.paths import MODELS

LEVEL = onnxruntime.GraphOptimizationLevel
MS = "com.microsoft."


def optimised(source, folder, level=LEVEL.ORT_ENABLE_EXTENDED):
    """Return the path of what the optimiser makes of a model (a path or a ModelProto)."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    given = str(source) if isinstance(source, Path) else source.SerializeToString()
    onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    return folder / "optimised.onnx"


def ops(path):
    return {node.op for node in load(path).nodes}


def lost(path):
    """Return how many parameters a model loses at the default ratio."""
    report = onnxprune.prune(path, latency=False).report
    return report["input"]["params"] - report["output"]["params"]


@pytest.mark.parametrize("level", [LEVEL.ORT_ENABLE_BASIC, LEVEL.ORT_ENABLE_EXTENDED], ids=["basic", "extended"])
@pytest.mark.parametrize("name", ["vit", "mobilenet", "resnet_bn"])
def test_a_model_loses_as_much_as_its_original(name, level, tmp_path):
    path = optimised(MODELS / f"{name}.onnx", tmp_path, level)
    assert lost(path) == pytest.approx(lost(MODELS / f"{name}.onnx"), rel=0.02)


@pytest.mark.parametrize(
    ("name", "op"), [("vit", f"{MS}FusedMatMul"), ("mobilenet", f"{MS}FusedConv"), ("cnn", f"{MS}FusedGemm")]
)
def test_groups_are_those_of_the_original(name, op, tmp_path):
    path = optimised(MODELS / f"{name}.onnx", tmp_path)
    assert op in ops(path)
    before, after = (onnxprune.inspect(file) for file in (MODELS / f"{name}.onnx", path))
    assert (kinds(after), after.macs) == (kinds(before), before.macs)


def kinds(inspection):
    return sorted((group.kind, group.units, group.lanes, group.prunable) for group in inspection.groups)


def test_a_blocked_layout_is_left_alone_with_advice(tmp_path):
    path = optimised(MODELS / "resnet_bn.onnx", tmp_path, LEVEL.ORT_ENABLE_ALL)
    if f"{MS}nchwc.Conv" not in ops(path):
        pytest.skip("this machine has no blocked kernels")
    with pytest.raises(NothingToPrune, match="prune before ONNX Runtime's layout optimisation"):
        onnxprune.prune(path)


# -- what single fusions make ---------------------------------------------------------------------------------------

FFN = {"x": TOKENS, "w1": (16, 12), "c": (12,), "w2": (12, 16), "y": "float[n,s,16] y", "half": 0.5, "one": 1.0}
ERF = "d = Div(b, root)", "e = Erf(d)", "f = Add(e, one)", "g = Mul(b, f)", "h = Mul(g, half)"
TANH = (
    "p = Pow(b, three)", "q = Mul(p, k1)", "r = Add(b, q)", "t = Mul(r, k2)", "u = Tanh(t)", "v = Add(one, u)",
    "m = Mul(b, half)", "h = Mul(m, v)"
)  # fmt: skip
RMS = (
    "p = Pow(x, two)", "m = ReduceMean<axes=[-1]>(p)", "e = Add(m, eps)", "s = Sqrt(e)", "d = Div(x, s)",
    "n = Mul(d, scale)"
)  # fmt: skip
FUSIONS = {
    "gelu": (
        f"{MS}BiasGelu",
        ("a = MatMul(x, w1)", "b = Add(a, c)", *ERF, "y = MatMul(h, w2)"),
        {"root": float(np.sqrt(2))},
    ),
    "fast-gelu": (
        f"{MS}FastGelu",
        ("a = MatMul(x, w1)", "b = Add(a, c)", *TANH, "y = MatMul(h, w2)"),
        {"three": 3.0, "k1": 0.044715, "k2": 0.7978845834732056},
    ),
    "quick-gelu": (
        f"{MS}QuickGelu",
        ("a = MatMul(x, w1)", "k = Mul(a, alpha)", "s = Sigmoid(k)", "h = Mul(a, s)", "y = MatMul(h, w2)"),
        {"alpha": 1.702},
    ),
    "rms-norm": (
        "SimplifiedLayerNormalization",
        (*RMS, "a = MatMul(n, w1)", "h = Relu(a)", "y = MatMul(h, w2)"),
        {"two": 2.0, "eps": 1e-5, "scale": (16,), "opset": 13},
    ),
}


@pytest.mark.parametrize(("op", "nodes", "weights"), FUSIONS.values(), ids=list(FUSIONS))
def test_a_fusion_changes_nothing(op, nodes, weights, tmp_path):
    source = model(*nodes, **{**FFN, **weights})
    path = optimised(source, tmp_path)
    assert op in ops(path)
    before, after = check(source), check(path)
    assert [g.units for g in after.groups if g.prunable] == [g.units for g in before.groups if g.prunable] == [12]


# -- whole networks of fused operators -------------------------------------------------------------------------------


def free(checked):
    able = (group for group in checked.groups if group.locked is None and group.exact)
    return ", ".join(f"{group.units} {group.kind}{' inside' * group.inner}" for group in able)


def run_on(text):
    """Return the nodes of a text with ONNX Runtime's domain in front of its own operators, which a ``!`` marks."""
    return [line.strip().replace("!", MS) for line in text.strip().splitlines()]


def test_an_encoder_of_text():
    proto = model(
        *run_on("""
            e, i = !EmbedLayerNormalization(x, segments, words, places, kinds, g, c, mask)
            o = !Attention<num_heads=4>(e, w, wb, i)
            p = MatMul(o, wo)
            s = !SkipLayerNormalization(p, e, g, c, bo)
            a = MatMul(s, w1)
            h = !BiasGelu(a, b1)
            f = MatMul(h, w2)
            y = !SkipLayerNormalization(f, s, g, c, bo)
        """),
        x="int32[n,s] x, int32[n,s] segments, int32[n,s] mask", y="float[n,s,16] y", imports='"com.microsoft" : 1',
        words=(20, 16), places=(99, 16), kinds=(2, 16), g=(16,), c=(16,), w=(16, 48), wb=(48,), wo=(16, 16), bo=(16,),
        w1=(16, 24), b1=(24,), w2=(24, 16)
    )  # fmt: skip
    checked = check(proto, at=[{"n": 2, "s": 5}, {"n": 1, "s": 7}])
    assert free(checked) == "4 heads, 4 head dims inside, 4 head dims inside, 24 neurons"


def test_a_decoder_with_grouped_heads():
    angles = np.arange(160, dtype=np.float32).reshape(20, 8)
    lengths = {"last": np.array([4, 4], np.int32), "total": np.array(5, np.int32)}
    proto = model(
        *run_on("""
            e = Gather(words, x)
            n = SimplifiedLayerNormalization(e, g)
            q = MatMul(n, wq)
            k = MatMul(n, wk)
            v = MatMul(n, wv)
            o = !GroupQueryAttention<num_heads=4, kv_num_heads=2, do_rotary=1>(q, k, v, , , last, total, cos, sin)
            p = MatMul(o, wo)
            m, , , r = !SkipSimplifiedLayerNormalization(e, p, g)
            a = MatMul(m, w1)
            b = MatMul(m, w3)
            t = !QuickGelu<alpha=1.0>(a)
            h = Mul(t, b)
            f = MatMul(h, w2)
            z = !SkipSimplifiedLayerNormalization(r, f, g)
            y = MatMul(z, head)
        """),
        x="int64[2,5] x", y="float[2,5,20] y", imports='"com.microsoft" : 1', infer=False, words=(20, 32), g=(32,),
        wq=(32, 64), wk=(32, 32), wv=(32, 32), wo=(64, 32), w1=(32, 24), w3=(32, 24), w2=(24, 32), head=(32, 20),
        cos=np.cos(angles), sin=np.sin(angles), **lengths
    )  # fmt: skip
    assert free(check(proto)) == "2 heads, 2 heads inside, 24 neurons"


def test_a_residual_network():
    proto = model(
        *run_on("""
            a = !FusedConv<activation="Relu", pads=[1, 1, 1, 1]>(x, w0, b0)
            c = !FusedConv<activation="Relu", pads=[1, 1, 1, 1]>(a, w1, b1)
            d = !FusedConv<activation="Relu">(c, w2, b2, a)
            p = GlobalAveragePool(d)
            f = Flatten(p)
            g = !FusedGemm<activation="Relu", transB=1>(f, w3, b3)
            y = !FusedMatMul<transB=1>(g, w4)
        """),
        y="float[n,5] y", imports='"com.microsoft" : 1', w0=(8, 3, 3, 3), b0=(8,), w1=(12, 8, 3, 3), b1=(12,),
        w2=(8, 12, 1, 1), b2=(8,), w3=(9, 8), b3=(9,), w4=(5, 9)
    )  # fmt: skip
    assert free(check(proto)) == "8 channels, 12 channels, 9 neurons"


# -- operators of the runtime in the default domain -------------------------------------------------------------------


def test_operators_of_the_runtime_in_the_default_domain_are_no_problem():
    proto = model("y = SimplifiedLayerNormalization(x, g)", x=TOKENS, y="float[n,s,16] y", g=(16,), infer=False)
    assert problems(proto) is None
    assert [entry.domain for entry in load(proto).proto.opset_import] == [""]
    assert proto.graph.node[0].domain == ""


def test_nor_are_they_in_branches():
    proto = model(
        "y = If(c) <then_branch = t () => (float[n,s,16] p) { p = SimplifiedLayerNormalization(x, g) }, "
        "else_branch = e () => (float[n,s,16] q) { q = Neg(x) }>",
        x=f"{TOKENS}, bool c", y="float[n,s,16] y", g=(16,), infer=False
    )  # fmt: skip
    assert problems(proto) is None
    load(proto)


def test_unknown_operators_of_the_default_domain_are_no_fault_of_the_file():
    """They may be plug-ins of a runtime: tracing locks what they touch, and the rest is pruned."""
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[4] x) => (float[4] y) {y = Sparkle(x)}'
    )
    assert problems(proto) is None
