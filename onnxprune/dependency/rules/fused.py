"""Operators that do the work of several, most of them written by ONNX Runtime's optimiser.

Most are lines whose operands depend on which of several forms the node has. Those that attend are in `attention`.

Pages: https://onnx.ai/onnx/operators/ and https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import math

from onnxprune.dependency.axes import ONE, fresh, product
from onnxprune.dependency.rules.broadcast import elementwise, total
from onnxprune.dependency.rules.registry import family, line, rule
from onnxprune.dependency.rules.select import pad
from onnxprune.dependency.rules.site import Site
from onnxprune.dependency.rules.table import gemm, layer_normalization
from onnxprune.errors import CannotUnify

MS = "com.microsoft."
BACK = "n g o i *s *k"
CONV = "n g o i *t *k"  # letters of a convolution's multiply-accumulates
ACTIVATIONS = frozenset(  # those that look at one number at a time
    ("Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Tanh")
)
UNARY = "Affine ParametricSoftplus Scale ScaledTanh BitCast"
# fmt: off
line("MaxRoiPool",         "n c *s, r q                                 -> r c *t")
line("RoiAlign",           "n c *s, r q, r                              -> r c *t")
line(MS + "CropAndResize", "n c *s, r q, r, _                           -> r c *t")
line(MS + "ConvTransposeWithDynamicPads",
                           "n (g i) *s, (g i) o *k, _?, (g o)?          -> n (g o) *t", BACK, channels=1, g="group")
line("CausalConvWithState",
                           "n c l!, c 1 k, c?, n c p?                   -> n c l, n c p",  "n c l k")
line(MS + "FusedConv",     "n (g i) *s, (g o) i *k, (g o)?, n (g o) *t? -> n (g o) *t", CONV, channels=1,
     adds=(3,), g="group")
line(MS + "NhwcConv",      "n *s (g i), (g o) i *k, (g o)?              -> n *t (g o)", CONV, channels=-1, g="group")
line(MS + "NhwcFusedConv", "n *s (g i), (g o) i *k, (g o)?, n *t (g o)? -> n *t (g o)", CONV, channels=-1,
     adds=(3,), g="group")
line(MS + "NhwcMaxPool",   "n *s c                                      -> n *t c")
line(MS + "GridSample",    "n c *s, n *t r                              -> n c *t")
line(MS + "Trilu",         "*b m! n!, _?                                -> *b m n")
line(MS + "Inverse",       "*b m! n!                                    -> *b m n")
# fmt: on
family("elementwise", "*s -> *s", UNARY, elementwise)
family("elementwise", "*s -> *s", [MS + op for op in ("Gelu", "QuickGelu")], elementwise)
family(
    "elementwise", "*s, *s, ... -> *s, broadcast",
    [MS + op for op in ("BiasGelu", "FastGelu", "ScaledSiLU")] + ["SwiGLU"], elementwise
)  # fmt: skip
rule(MS + "Pad")(pad)
rule("SimplifiedLayerNormalization")(layer_normalization)


@rule(MS + "BiasDropout")
def bias_dropout(x: Site) -> None:
    """Data, bias and residual are broadcast; the mask is like the data."""
    axes = x.broadcast(*(x.axes(slot) for slot in range(3) if x.has(slot)))
    x.add(*range(3))
    x.output(axes)
    x.output(axes, 1)


@rule(MS + "BiasSoftmax")
def bias_softmax(x: Site) -> None:
    """*s, *s -> *s, mixed over the axes from `axis` on."""
    axes = x.broadcast(x.axes(0), x.axes(1))
    for axis in axes[x.dim(x.attr("axis", 1), len(axes)) :]:
        x.mix(axis)
    x.output(axes)


@rule(MS + "SwiGLU")
def swiglu(x: Site) -> None:
    """*s, *s -> *s, or both halves in one: *s [p + p] -> *s p."""
    if x.has(1):
        elementwise(x)
    else:
        x.match("*s [p + p], _? -> *s p", sizes={"p": x.axes(0)[-1].size // 2})


@rule(MS + "GatedAdd")
def gated_add(x: Site) -> None:
    """*s, *s, *s -> *s, the gate with size 1 in the last place."""
    if x.has(3):
        raise CannotUnify(f"{x.node.op} projects its gate inside")
    total(x)


@rule(MS + "ExpandDims")
def expand_dims(x: Site) -> None:
    """*a *b -> *a 1 *b at a known place."""
    axes, at = list(x.axes(0)), x.value(1)
    if at is None:
        raise CannotUnify("its axes are computed at run time")
    axes.insert(x.dim(int(at.item()), len(axes) + 1), ONE)
    x.output(axes)


@rule(MS + "FusedMatMul", MS + "FusedMatMulActivation", MS + "TransposeMatMul")
def fused_matmul(x: Site) -> None:
    """*b m k, *b k n -> *b m n; transA swaps the last two, transBatchA moves the one before the last to the front."""
    _check_activation(x)
    ranks = x.rank(0), x.rank(1)
    left, right = (_matrix(x, slot, letters) for slot, letters in ((0, "m k"), (1, "k n")))
    kept = " ".join(["*b"] * (max(ranks) > 1) + ["m"] * (ranks[0] > 1) + ["n"] * (ranks[1] > 1))
    x.match(f"{left}, {right} -> {kept}", macs=f"{kept} k")


def _matrix(x: Site, slot: int, letters: str) -> str:
    """Return the axes of an operand; `letters` are its last two when nothing is transposed."""
    rows, columns = letters.split()
    if x.rank(slot) == 1:
        return "k"
    if x.attr(f"trans{'AB'[slot]}", 0):
        rows, columns = columns, rows
    return f"{rows} *b {columns}" if x.attr(f"transBatch{'AB'[slot]}", 0) else f"*b {rows} {columns}"


def _check_activation(x: Site) -> None:
    activation = x.attr("activation", "") or "Relu"
    if activation not in ACTIVATIONS:
        raise CannotUnify(f"{x.node.op} has the activation {activation!r}, which may mix over its axes")


@rule(MS + "FusedGemm")
def fused_gemm(x: Site) -> None:
    """M k, k n -> m n, as Gemm."""
    _check_activation(x)
    gemm(x)


@rule(MS + "GemmFastGelu")
def gemm_fast_gelu(x: Site) -> None:
    """*b m k, k n, n? -> *b m n."""
    x.match("*b m k, k n, n? -> *b m n", macs="*b m k n")


@rule("DeformConv")
def deform_conv(x: Site) -> None:
    """N (g i) *s, (g o) i *k, n (e j!) *t, (g o)?, n (e q!) *t? -> n (g o) *t; ``(g i)`` is ``(e c)`` too."""
    mask = ", n (e q!) *t?" if x.has(4) else ", _?"
    text = f"n (g i) *s, (g o) i *k, n (e j!) *t, (g o)?{mask} -> n (g o) *t"
    axes = x.match(text, macs="n g o i *t *k", sizes={"g": "group", "e": "offset_group"})
    channels = product(axes["g"], axes["i"])
    x.unify(channels, product(axes["e"], fresh(channels.size // axes["e"].size, "c")))
    x.coupling.channels = 1


@rule(MS + "CausalConvWithState")
def causal_conv(x: Site) -> None:
    """As CausalConvWithState: one dim of positions, channels first."""
    for name, value in x.node.attrs.items():
        if value != {"ndim": 1, "state_channels_last": -1}.get(name, 0) and name not in ("activation", "dilation"):
            raise CannotUnify(f"{x.node.op} has {name} = {value}")
    x.match("n c l!, c 1 k, c?, n c p? -> n c l, n c p", macs="n c l k")


@rule("Col2Im")
def col2im(x: Site) -> None:
    """N (c k!) l, _, _ -> n c *t: the blocks of an image are put in their places."""
    block = x.value(2)
    if block is None:
        raise CannotUnify("the shape of its blocks is computed at run time")
    x.match("n (c k!) l, _, _ -> n c *t", sizes={"k": math.prod(block.ravel().tolist())})


@rule(MS + "CDist")
def cdist(x: Site) -> None:
    """M k, n k -> m n: distances between rows; a removed unit is zero in both."""
    if x.attr("metric", "sqeuclidean") not in ("euclidean", "sqeuclidean"):
        raise CannotUnify(f"{x.node.op} has the metric {x.attr('metric')!r}")
    x.match("m k, n k -> m n", macs="m n k")
    x.contract(0, 1)


@rule(MS + "SkipLayerNormalization", MS + "SkipSimplifiedLayerNormalization")
def skip_layer_normalization(x: Site) -> None:
    """*b c~, *b c, c, c?, c? -> *b c, *b 1, *b 1, *b c: the sum of input and skip, normalised, comes last."""
    axes = x.broadcast(*(x.axes(slot) for slot in range(len(x.node.inputs)) if x.has(slot)))
    x.mix(axes[-1])
    x.compensate(0.5, slot=2, epsilon=1e-12)
    x.add(0, 1)
    for index in (0, 3):
        x.output(axes, index)
    for index in (1, 2):
        x.output((*axes[:-1], ONE), index)


@rule(MS + "EmbedLayerNormalization")
def embed_layer_normalization(x: Site) -> None:
    """B s, b s?, v c~, p c, q c?, c, c, b s?, e s? -> b s c, b?, b s c?: the sum of three embeddings, normalised."""
    x.match("b s, b s?, v c~, p c, q c?, c, c, b s?, e s? -> b s c, b?, b s c?")
    x.compensate(0.5, slot=5, epsilon=1e-12)


@rule(MS + "GroupNorm")
def group_norm(x: Site) -> None:
    """N *s~ (g c~), (g c), (g c) -> n *s (g c); with channels_last = 0, n (g c~) *s~."""
    image = "n *s~ (g c~)" if x.attr("channels_last", 1) else "n (g c~) *s~"
    x.match(f"{image}, (g c), (g c) -> {image.replace('~', '')}", sizes={"g": "groups"})
    x.compensate(0.5, slot=1, epsilon=1e-5)


@rule(MS + "SkipGroupNorm")
def skip_group_norm(x: Site) -> None:
    """N *s~ (g c~), (g c), (g c), n *s (g c), (g c)? -> n *s (g c), n *s (g c), or with the channels first."""
    image = "n *s~ (g c~)" if x.attr("channels_last", 1) else "n (g c~) *s~"
    plain = image.replace("~", "")
    x.match(f"{image}, (g c), (g c), {plain}, (g c)? -> {plain}, {plain}", sizes={"g": "groups"})
    x.compensate(0.5, slot=1, epsilon=1e-5)
    x.add(0, 3)


@rule(MS + "GatedRMSNorm")
def gated_rms_norm(x: Site) -> None:
    """*s (h c~), c, *s (h c) -> *s (h c): each group divided by the root of its mean square."""
    axes = x.match("*s (h c), c, *s (h c) -> *s (h c)")
    x.average(0, x.rank(0) - 1, "normalises over", axes["c"])  # without a centre, units at zero add nothing
    x.compensate(0.5, slot=1, epsilon=1e-5)


@rule("MeanVarianceNormalization")
def mean_variance_normalization(x: Site) -> None:
    """*s -> *s, normalised over `axes`."""
    axes = x.axes(0)
    for dim in x.attr("axes", [0, 2, 3]):
        x.mix(axes[x.dim(dim, len(axes))])
    x.compensate(0.5)
    x.output(axes)
