"""Output shapes of the operators of com.microsoft that attend or keep a state, for which onnx has no inference."""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.graph.shapes.call import Call, Outputs, Rule


def fused_attention(call: Call) -> Outputs:
    """Input ``[b, s, i]`` and weights of all three projections; the present state has the past in front."""
    *front, _ = call.shape(0)
    stated = call.node.attrs.get("qkv_hidden_sizes")
    sizes = stated or [call.shape(1)[1] // 3] * 3
    heads = call.number("num_heads")
    past = call.shape(4)[3] if call.has(4) else 0
    state = (2, front[0], heads, past + front[-1], sizes[0] // heads)
    return [call.typed((*front, sizes[2])), call.typed(state)]


def attention(call: Call, past: int = 6) -> Outputs:
    """Query ``[b, s, (h d)]`` or packed, keys and values likewise or per head; `past` is the slot of the past keys."""
    query, heads = call.shape(0), call.number("num_heads")
    if len(query) == 5:  # b s h 3 d
        batch, length, _, _, dims = query
        values, total = dims, length
    else:
        batch, length, dims = query[0], query[1], query[2] // heads
        packed = len(call.shape(1)) == 5  # b t h 2 d
        per_head = len(call.shape(1)) == 4  # b h t d
        total = call.shape(1)[2 if per_head else 1]
        values = dims if packed else call.shape(2)[3] if per_head else call.shape(2)[2] // heads
    total += call.shape(past)[2] if call.has(past) else 0
    states = [call.typed((batch, heads, total, size)) for size in (dims, values)]
    return [call.typed((batch, length, heads * values)), *states, call.typed((batch, heads, length, total))]


def packed_tokens(call: Call) -> Outputs:
    """Queries ``[n, (h d)]`` or ``[n, h, 3, d]``; the output is as wide as the values."""
    query = call.shape(0)
    return [call.typed((query[0], query[1] * query[3] if len(query) == 4 else call.shape(2)[1]))]


def packed_attention(call: Call) -> Outputs:
    """As `fused_attention`, of tokens ``[n, i]``."""
    stated = call.node.attrs.get("qkv_hidden_sizes")
    return [call.typed((call.shape(0)[0], stated[2] if stated else call.shape(1)[1] // 3))]


def grouped_attention(call: Call) -> Outputs:
    """Query ``[b, s, (k g d)]`` or all three packed; the states hold the past, or have a buffer of their own."""
    batch, length, width = call.shape(0)
    heads, shared = call.number("num_heads"), call.number("kv_num_heads")
    dims = width // (heads if call.has(1) else heads + 2 * shared)
    out = call.typed((batch, length, heads * dims))
    try:
        total = max(call.scalar(6), call.shape(3)[2] if call.has(3) else 0)
    except KeyError:
        return [out, None, None]
    state = call.typed((batch, shared, total, dims))
    return [out, state, state]


def linear_attention(call: Call) -> Outputs:
    """Query ``[b, t, (h d)]``, values ``[b, t, (k v)]``; the state is ``[b, k, d, v]``."""
    batch, length, width = call.shape(0)
    heads, shared = call.number("q_num_heads"), call.number("kv_num_heads")
    dims, values = width // heads, call.shape(2)[2] // shared
    out = batch, length, max(heads, shared) * values
    return [call.typed(out), call.typed((batch, shared, dims, values))]


def causal_conv(call: Call) -> Outputs:
    """The state holds the positions before the first that the kernel reaches."""
    batch, channels, _ = call.shape(0)
    return [call.type(0), call.typed((batch, channels, (call.shape(1)[-1] - 1) * call.number("dilation", 1)))]


def position_bias(call: Call) -> Outputs:
    """Table ``[r, h]`` and two lengths become ``[1, h, q, k]``."""
    return [call.typed((1, call.shape(0)[1], call.scalar(1), call.scalar(2)))]


def gated_position_bias(call: Call) -> Outputs:
    """Queries ``[b, s, (h d)]`` scale the bias ``[1, h, s, s]``."""
    return [call.typed((call.shape(0)[0], *call.shape(2)[1:]))]


SHAPES: Mapping[str, Rule] = {
    "Attention": fused_attention,
    "CausalConvWithState": causal_conv,
    "DecoderMaskedMultiHeadAttention": lambda call: attention(call, past=5),
    "GatedRelativePositionBias": gated_position_bias,
    "GroupQueryAttention": grouped_attention,
    "LinearAttention": linear_attention,
    "MultiHeadAttention": attention,
    "PackedAttention": packed_attention,
    "PackedMultiHeadAttention": packed_tokens,
    "RelativePositionBias": position_bias,
}
