"""Attention in one operator: heads, rotary embeddings, masks, caches of the past.

The letters: queries ``b s (k g d)``, keys ``b t (k d)``, values ``b t (k v)``, with ``k`` heads of keys, ``g`` queries
to each, ``d`` dims of a head that queries and keys are compared on, and ``v`` dims of its values; ``p`` positions of
the past. Of dims that are rotated, ``r`` are pairs, and ``e`` dims stay as they are.

Pages: https://onnx.ai/onnx/operators/ and https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnxprune.dependency.axes import Axis, concat, product
from onnxprune.dependency.rules.fused import MS
from onnxprune.dependency.rules.registry import rule
from onnxprune.dependency.rules.site import Site
from onnxprune.errors import CannotUnify


def _rotated(interleaved: bool) -> str:
    """Return the dims of a head of which the first are rotated in pairs: neighbours, or one of each half."""
    return "[(r w!) + e]" if interleaved else "[r + r + e]"


def _rotated_axis(axes: Mapping[str, Axis]) -> Axis:
    """Return the axis of the dims that are rotated."""
    return product(axes["r"], axes["w"]) if "w" in axes else concat(axes["r"], axes["r"])


@rule("RotaryEmbedding")
def rotary_embedding(x: Site) -> None:
    """B s (h [r + r + e]) or b h s .., m! r, m! r, b s? -> the same; interleaved ((r w!) + e)."""
    cache = "m! r" if x.has(3) else "b s r"
    _rotate(x, f"{cache}, {cache}, _?")


@rule(MS + "RotaryEmbedding")
def rotary_embedding_with_positions(x: Site) -> None:
    """B s (h [r + r + e]) or b h s .., positions, m! r, m! r -> the same; interleaved ((r w!) + e)."""
    _rotate(x, "_, m! r, m! r")


def _rotate(x: Site, others: str) -> None:
    interleaved = bool(x.attr("interleaved", 0))
    dims = _rotated(interleaved)
    pairs = {"w": 2} if interleaved else {}
    heads = {"h": "num_heads"} if x.attr("num_heads", 0) else {}
    if x.rank(0) == 4:
        axes = x.match(f"b h s {dims}, {others} -> b h s {dims}", sizes={**pairs, **heads})
    else:
        axes = x.match(f"b s (h {dims}), {others} -> b s (h {dims})", sizes={**pairs, **(heads or {"e": 0})})
    if x.attr("rotary_embedding_dim", 0):
        x.write("rotary_embedding_dim", _rotated_axis(axes), scalar=True)


def _fit(x: Site, slot: int, *letters: str) -> str:
    """Return the axes of an input that is broadcast to `letters`, right-aligned: ``1`` where its size is 1."""
    if not x.has(slot):
        return "_?"
    axes = x.axes(slot)
    named = letters[len(letters) - len(axes) :]
    return " ".join("1" if axis.size == 1 else name for axis, name in zip(axes, named, strict=True)) + "?"


def _keep_scale(x: Site, dims: Axis, is_stated: bool) -> None:
    """A scale that the op computes from the dims of a head must stay that of the original model."""
    if not is_stated:
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
    sizes: dict[str, str | int] = {"k": "kv_num_heads"} if stated else {}
    if folded:
        sizes["g"] = _ratio(x, x.attr("q_num_heads", 0), x.attr("kv_num_heads", 0))
        query, key, value, out = f"b {s} (k g d)", f"b {t} (k d)", "b t (k v)", "b s (k g v)"
    else:
        query, key, value, out = f"b (k g) {s} d", f"b k {t} d", "b k t v", "b (k g) s v"
    mask = _fit(x, 3, "b", "(k g)", "s", total)
    past = "b k p! d?, b k p v?" if x.has(4) else "_?, _?"
    states = f"b k {total} d, b k {total} v, b (k g) s {total}"
    axes = x.match(f"{query}, {key}, {value}, {mask}, {past}, b? -> {out}, {states}", sizes=sizes)
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
    head = concat(_rotated_axis(axes), axes["e"]) if rotates else axes["d"]
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
    sizes["e" if rotated else "d"] = head_size - rotated
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
