"""Operators that do the work of several: attention, rotary embeddings, and what ONNX Runtime's optimiser writes.

Most are lines whose operands depend on which of several forms the node has. The letters of an attention: queries
``b s (k g d)``, keys ``b t (k d)``, values ``b t (k v)``, with ``k`` heads of keys, ``g`` queries to each, ``d`` dims
of a head that queries and keys are compared on, and ``v`` dims of its values.

Pages: https://onnx.ai/onnx/operators/ and https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnxprune.axes import ONE, Axis, concat, fresh, product
from onnxprune.errors import CannotUnify
from onnxprune.rules.broadcast import elementwise
from onnxprune.rules.registry import family, line, rule
from onnxprune.rules.select import pad
from onnxprune.rules.site import Site
from onnxprune.rules.table import gemm, layer_normalization

MS = "com.microsoft."
CONV = "n g o i *t *k"  # letters of a convolution's multiply-accumulates
ACTIVATIONS = frozenset(  # those that look at one number at a time
    ("Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Tanh")
)
UNARY = "Affine ParametricSoftplus Scale ScaledTanh BitCast"

# fmt: off
line("MaxRoiPool",         "n c *s, r q                                 -> r c *t")
line("RoiAlign",           "n c *s, r q, r                              -> r c *t")
line("CausalConvWithState",
                           "n c l!, c 1 k, c?, n c p?                   -> n c l, n c p",  "n c l k")
line(MS + "FusedConv",     "n (g i) *s, (g o) i *k, (g o)?, n (g o) *t? -> n (g o) *t", CONV, channels=1,  g="group")
line(MS + "NhwcConv",      "n *s (g i), (g o) i *k, (g o)?              -> n *t (g o)", CONV, channels=-1, g="group")
line(MS + "NhwcFusedConv", "n *s (g i), (g o) i *k, (g o)?, n *t (g o)? -> n *t (g o)", CONV, channels=-1, g="group")
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


# -- elementwise, and halves ---------------------------------------------------------------------------------------


@rule(MS + "BiasDropout")
def bias_dropout(x: Site) -> None:
    """Data, bias and residual are broadcast; the mask is like the data."""
    axes = x.broadcast(*(x.axes(slot) for slot in range(3) if x.has(slot)))
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
    elementwise(x)


@rule(MS + "ExpandDims")
def expand_dims(x: Site) -> None:
    """*a *b -> *a 1 *b at a known place."""
    axes, at = list(x.axes(0)), x.value(1)
    if at is None:
        raise CannotUnify("its axes are computed at run time")
    axes.insert(x.dim(int(at.item()), len(axes) + 1), ONE)
    x.output(axes)


# -- products and convolutions -------------------------------------------------------------------------------------


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


@rule(MS + "MoE")
def mixture_of_experts(x: Site) -> None:
    """*b i, n e!, e f i, (e f)?, e i f, (e i)?, (e f i)?, (e f)? -> *b i: the inner width f of all experts."""
    fused = x.attr("swiglu_fusion", 0) if x.attr("activation_type", "relu") in ("swiglu", "geglu") else 0
    inner = {0: "f", 1: "(f w!)", 2: "[f + f]"}[fused]
    rows, tokens = ("b s", "(b s)") if x.rank(0) == 3 else ("n", "n")
    width = x.axes(4)[-1].size
    axes = x.match(
        f"{rows} i, {tokens} e!, e {inner} i, e {inner}?, e i f, e i?, e f i?, e f? -> {rows} i",
        sizes={"f": width, **({"w": 2} if fused == 1 else {})},
    )
    x.contract(0, x.rank(0) - 1)
    x.contract(4, 2)
    for slot in (2, 3, 6, 7):
        x.hide(slot, 1)
    for _ in range(2 + (fused > 0 or x.has(6))):
        x.macs(*(axes[name] for name in rows.split()), fresh(x.attr("k", 1)), axes["f"], axes["i"])


# -- norms -----------------------------------------------------------------------------------------------------------


@rule(MS + "SkipLayerNormalization", MS + "SkipSimplifiedLayerNormalization")
def skip_layer_normalization(x: Site) -> None:
    """*b c~, *b c, c, c?, c? -> *b c, *b 1, *b 1, *b c: the sum of input and skip, normalised, comes last."""
    axes = x.broadcast(*(x.axes(slot) for slot in range(len(x.node.inputs)) if x.has(slot)))
    x.mix(axes[-1])
    x.compensate(0.5, slot=2, epsilon=1e-12)
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


@rule(MS + "GatedRMSNorm")
def gated_rms_norm(x: Site) -> None:
    """*s (h c~), c, *s (h c) -> *s (h c)."""
    x.match("*s (h c~), c, *s (h c) -> *s (h c)")
    x.compensate(0.5, slot=1, epsilon=1e-5)


@rule("MeanVarianceNormalization")
def mean_variance_normalization(x: Site) -> None:
    """*s -> *s, normalised over `axes`."""
    axes = x.axes(0)
    for dim in x.attr("axes", [0, 2, 3]):
        x.mix(axes[x.dim(dim, len(axes))])
    x.compensate(0.5)
    x.output(axes)


# -- rotary embeddings -------------------------------------------------------------------------------------------------


def _rotated(interleaved: bool) -> str:
    """Return the dims of a head of which the first are rotated in pairs: neighbours, or one of each half."""
    return "[(r w!) + p]" if interleaved else "[r + r + p]"


def _rotated_axis(axes: Mapping[str, Axis]) -> Axis:
    """Return the axis of the dims that are rotated."""
    return product(axes["r"], axes["w"]) if "w" in axes else concat(axes["r"], axes["r"])


@rule("RotaryEmbedding")
def rotary_embedding(x: Site) -> None:
    """B s (h [r + r + p]) or b h s .., m! r, m! r, b s? -> the same; interleaved ((r w!) + p)."""
    cache = "m! r" if x.has(3) else "b s r"
    _rotate(x, f"{cache}, {cache}, _?")


@rule(MS + "RotaryEmbedding")
def rotary_embedding_with_positions(x: Site) -> None:
    """B s (h [r + r + p]) or b h s .., positions, m! r, m! r -> the same; interleaved ((r w!) + p)."""
    _rotate(x, "_, m! r, m! r")


def _rotate(x: Site, others: str) -> None:
    interleaved = bool(x.attr("interleaved", 0))
    dims = _rotated(interleaved)
    given = {"w": 2} if interleaved else {}
    heads = {"h": "num_heads"} if x.attr("num_heads", 0) else {}
    if x.rank(0) == 4:
        axes = x.match(f"b h s {dims}, {others} -> b h s {dims}", sizes={**given, **heads})
    else:
        axes = x.match(f"b s (h {dims}), {others} -> b s (h {dims})", sizes={**given, **(heads or {"p": 0})})
    if x.attr("rotary_embedding_dim", 0):
        x.write("rotary_embedding_dim", _rotated_axis(axes), scalar=True)


# -- attention ---------------------------------------------------------------------------------------------------------


def _fit(x: Site, slot: int, *letters: str) -> str:
    """Return the axes of an input that is broadcast to `letters`, right-aligned: ``1`` where its size is 1."""
    if not x.has(slot):
        return "_?"
    axes = x.axes(slot)
    named = letters[len(letters) - len(axes) :]
    return " ".join("1" if axis.size == 1 else name for axis, name in zip(axes, named, strict=True)) + "?"


def _keep_scale(x: Site, dims: Axis, given: bool) -> None:
    """A scale that the op computes from the dims of a head must stay that of the original model."""
    if not given:
        x.write("scale", 1 / math.sqrt(dims.size), scalar=True, follows=(dims,))


def _attended(x: Site, axes: Mapping[str, Axis], *, dims: Axis, values: Axis, queries: Sequence[str] = "bs") -> None:
    """Record what all attentions share: two products, and which letters are heads.

    Args:
        x: the node.
        axes: by letter; heads ``k``, queries to each ``g``, positions ``t`` of the keys.
        dims: on which queries and keys are compared.
        values: dims of the values.
        queries: letters of the rows of the queries.
    """
    heads = tuple(axes[name] for name in "kgh" if name in axes)
    rows = tuple(axes[name] for name in queries)
    for inner in (dims, values):
        x.macs(*rows, *heads, axes["t"] if "t" in axes else axes[queries[-1]], inner)
    x.coupling.heads = heads
    x.coupling.head_dims = (dims, values)


@rule("Attention")
def attention(x: Site) -> None:
    """B s (k g d), b t (k d), b t (k v), mask?, past? -> b s (k g v), present; or per head: b (k g) s d."""
    folded = x.rank(0) == 3
    total = "[p + t]" if x.has(4) else "t"
    steered = bool(x.attr("is_causal", 0) or x.has(6) or x.attr("left_window_size", -1) >= 0)
    s, t = ("s!", "t!") if steered or x.attr("right_window_size", -1) >= 0 else ("s", "t~")
    stated = "q_num_heads" in x.node.attrs
    given: dict[str, str | int] = {"k": "kv_num_heads"} if stated else {}
    if folded:
        given["g"] = _ratio(x, x.attr("q_num_heads", 0), x.attr("kv_num_heads", 0))
        query, key, value, out = f"b {s} (k g d)", f"b {t} (k d)", "b t (k v)", "b s (k g v)"
    else:
        query, key, value, out = f"b (k g) {s} d", f"b k {t} d", "b k t v", "b (k g) s v"
    mask = _fit(x, 3, "b", "(k g)", "s", total)
    past = "b k p! d?, b k p v?" if x.has(4) else "_?, _?"
    states = f"b k {total} d, b k {total} v, b (k g) s {total}"
    axes = x.match(f"{query}, {key}, {value}, {mask}, {past}, b? -> {out}, {states}", sizes=given)
    if stated:
        x.write("q_num_heads", product(axes["k"], axes["g"]), scalar=True)
    x.contract(1, x.rank(1) - 1)
    x.contract(4, 3)
    _keep_scale(x, axes["d"], "scale" in x.node.attrs)
    _attended(x, axes, dims=axes["d"], values=axes["v"])


def _ratio(x: Site, heads: int, shared: int) -> int:
    """Return how many heads of queries share one head of keys."""
    if shared < 1 or heads % shared:
        raise CannotUnify(f"{x.node.op} has {heads} heads of queries and {shared} of keys")
    return int(heads // shared)


@rule(MS + "Attention", MS + "PackedAttention")
def fused_attention(x: Site) -> None:
    """B s i, i [(h d) + (h d) + (h v)], [..]?, mask, past, bias -> b s (h v), present: the projections are inside."""
    if x.attr("do_rotary", 0):
        raise CannotUnify(f"{x.node.op} rotates its queries and keys inside")
    heads, packed = x.attr("num_heads"), x.node.op == MS + "PackedAttention"
    stated = x.attr("qkv_hidden_sizes") or [x.axes(1)[1].size // 3] * 3
    sizes = {"h": "num_heads", "d": stated[0] // heads, "v": stated[2] // heads}
    rows, past = ("n", False) if packed else ("b s", x.has(4))
    total = "T" if past else "s"
    bias = _fit(x, 5, "b", "h", "s", total)
    others = f"_, _, {bias}" if packed else f"_?, {'c! b h p! d?' if past else '_?'}, {bias}, _?"
    projection = "[(h d) + (h d) + (h v)]"
    text = f"{rows}! i, i {projection}, {projection}?, {others} -> {rows} (h v), c! b h {total} d"
    axes = x.match(text, sizes=sizes)
    if len(x.node.outputs) > 1:  # keys and values lie in one state
        x.unify(axes["d"], axes["v"])
        x.contract(4, 4)
    x.hide(1, 1)
    x.hide(2, 0)
    widths = [product(axes["h"], axes[name]) for name in "ddv"]
    x.write("qkv_hidden_sizes", *widths)
    for width in widths:
        x.macs(*(axes[name] for name in rows.split()), axes["i"], width)
    _keep_scale(x, axes["d"], bool(x.attr("scale", 0)))
    _attended(x, axes, dims=axes["d"], values=axes["v"], queries=rows.split())


@rule(MS + "MultiHeadAttention")
def multi_head_attention(x: Site) -> None:
    """B s (h d), b t (h d), b t (h v), bias?, mask?, bias?, past? -> b s (h v), present; or packed."""
    _multi_head(x, "{projection}, _?, {added}, {past}, _?, _?", projection=3, added=5, past=6)


@rule(MS + "DecoderMaskedMultiHeadAttention")
def decoder_attention(x: Site) -> None:
    """As MultiHeadAttention, with one query at a time: b 1 (h d), ..."""
    if x.attr("past_present_share_buffer", 0):
        raise CannotUnify(f"{x.node.op} reorders the dims of a head in its buffer")
    _multi_head(x, "_?, {added}, {past}, _?, _?, _?, {projection}", projection=10, added=4, past=5)


@rule(MS + "PackedMultiHeadAttention")
def packed_multi_head_attention(x: Site) -> None:
    """N (h d), n (h d), n (h v), [..]? -> n (h v), or n h 3 d -> n (h d): tokens of all sequences in a row."""
    _multi_head(x, "{projection}, _, _, {added}", projection=3, added=6, rows="n", keys="n")


def _multi_head(
    x: Site, others: str, *, projection: int, added: int, past: int | None = None, rows: str = "b s", keys: str = "b t"
) -> None:
    """Match queries, keys and values that come apart, or two or three of them in one tensor.

    Args:
        x: the node.
        others: the operands after the first three.
        projection: slot of the bias of all three projections.
        added: slot of what is added to the products of queries and keys.
        past: slot of the past keys; the past values come next.
        rows: letters of the rows of the queries.
        keys: of the keys.
    """
    inputs, values, key = _together(x, rows, keys)
    length = rows.rsplit(maxsplit=1)[-1] if key == 0 else keys.rsplit(maxsplit=1)[-1]
    has_past = past is not None and x.has(past)
    total = f"[p + {length}]" if has_past else length
    operands = others.format(
        projection=f"[(h d) + (h d) + (h {values})]?",
        added=_fit(x, added, "b", "h", "s", total),
        past=f"b h p! d?, b h p {values}?" if has_past else "_?, _?",
    )
    states = f"b h {total} d, b h {total} {values}, b h s {total}"
    axes = x.match(f"{inputs}, {operands} -> {rows} (h {values}), {states}", sizes={"h": "num_heads"})
    x.contract(key, x.rank(key) - 1)
    x.contract(projection, 0)
    if past is not None:
        x.contract(past, 3)
    _keep_scale(x, axes["d"], bool(x.attr("scale", 0)))
    _attended(x, axes, dims=axes["d"], values=axes[values], queries=rows.split())


def _together(x: Site, rows: str, keys: str) -> tuple[str, str, int]:
    """Return the first three operands, the letter of the dims of the values, and the slot that holds the keys."""
    apart = len(rows.split()) + 1  # axes of queries that hold nothing else
    if x.rank(0) > apart:
        return f"{rows}! h c! d, _?, _?", "d", 0
    if x.rank(1) > apart + 1:
        return f"{rows}! (h d), {keys}! h c! d, _?", "d", 1
    if x.rank(1) > apart:
        return f"{rows}! (h d), b h t! d, b h t d", "d", 1
    return f"{rows}! (h d), {keys}! (h d), {keys} (h v)", "v", 1


@rule(MS + "GroupQueryAttention")
def grouped_attention(x: Site) -> None:
    """B s (k g d), b t (k d), b t (k d), past, lengths, caches -> b s (k g d), present; or all three packed."""
    if x.has(12) or x.has(13) or x.attr("k_quant_type", "NONE") != "NONE":
        raise CannotUnify(f"{x.node.op} keeps its keys and values quantized")
    interleaved, rotates = bool(x.attr("rotary_interleaved", 0)), bool(x.attr("do_rotary", 0))
    dims = _rotated(interleaved) if rotates else "d"
    inputs, sizes = _grouped(x, dims, 2 * x.axes(7)[1].size if rotates else 0)
    past = f"b k p! {dims}?" if x.has(3) else "_?"
    caches = "m! r, m! r" if rotates else "_?, _?"
    bias = _fit(x, 10, "b", "(k g)", "s", "T!")
    sink = "(k g)?" if x.has(11) else "_?"
    norms = f"{dims}?, {dims}?" if x.has(14) else "_?, _?"
    others = f"{past}, {past}, _, _, {caches}, _?, {bias}, {sink}, _?, _?, {norms}, _?"
    states = f"b k u {dims}, b k u {dims}, b (k g) s u"
    pairs = {"w": 2} if rotates and interleaved else {}
    axes = x.match(f"{inputs}, {others} -> b s (k g {dims}), {states}", sizes={**sizes, **pairs})
    head = concat(_rotated_axis(axes), axes["p"]) if rotates else axes["d"]
    x.write("num_heads", product(axes["k"], axes["g"]), scalar=True)
    for slot, dim in ((int(x.has(1)), 2), (3, 3), (4, 3)):
        x.contract(slot, dim)
    if x.has(14):
        x.mix(head)
    x.lock(head, "its kernels take heads of 8, 16, 24 or more dims alone")
    _attended(x, axes, dims=head, values=head)


def _grouped(x: Site, dims: str, rotated: int) -> tuple[str, dict[str, str | int]]:
    """Return queries, keys and values, apart or in one tensor, and the sizes that their shapes do not tell."""
    shared = x.attr("kv_num_heads")
    sizes: dict[str, str | int] = {"k": "kv_num_heads", "g": _ratio(x, x.attr("num_heads"), shared)}
    if x.has(1):
        return f"b s! (k g {dims}), b t! (k {dims}), b t (k {dims})", sizes
    head_size = x.axes(0)[2].size // (x.attr("num_heads") + 2 * shared)
    sizes["p" if rotated else "d"] = head_size - rotated
    return f"b s! [(k g {dims}) + (k {dims}) + (k {dims})], _?, _?", sizes


@rule("LinearAttention", MS + "LinearAttention")
def linear_attention(x: Site) -> None:
    """B t! (k g d), b t (k d), b t (k v), b k d v?, decay?, beta? -> b t (k g v), b k d v."""
    if x.attr("state_window", 0):
        raise CannotUnify(f"{x.node.op} keeps several states")
    ratio = _ratio(x, x.attr("q_num_heads"), x.attr("kv_num_heads"))
    per_dim = x.has(4) and x.axes(4)[-1].size != x.attr("kv_num_heads")
    decay = _fit(x, 4, "b", "t", "(k d)" if per_dim else "k")
    text = f"b t! (k g d), b t (k d), b t (k v), b k d v?, {decay}, {_fit(x, 5, 'b', 't', 'k')} -> b t (k g v), b k d v"
    axes = x.match(text, sizes={"k": "kv_num_heads", "g": ratio})
    x.write("q_num_heads", product(axes["k"], axes["g"]), scalar=True)
    x.contract(1, 2)
    x.contract(3, 2)
    _keep_scale(x, axes["d"], bool(x.attr("scale", 0)))
    for heads in ((axes["k"],), (axes["k"], axes["g"])):
        x.macs(axes["b"], axes["t"], *heads, axes["d"], axes["v"])
    x.coupling.heads, x.coupling.head_dims = (axes["k"], axes["g"]), (axes["d"], axes["v"])
