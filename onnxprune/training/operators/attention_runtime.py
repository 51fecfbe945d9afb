"""Attention in one operator of ONNX Runtime, which its optimiser and its model builder write.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812

from onnxprune.training.operators.attention import (
    LEAST,
    apart,
    attend,
    default_scale,
    filled,
    repeated,
    rotated,
    rotated_input,
    scored,
    summed,
    together,
)
from onnxprune.training.operators.fused import MS
from onnxprune.training.operators.registry import op

Tensor = torch.Tensor
_FILTER = -10000.0  # what is added to scores that do not count


@op(MS + "RotaryEmbedding")
def rotary_embedding_of_runtime(
    a: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, *, interleaved: int = 0, is_packed_batching: int = 0,
    num_heads: int = 0, rotary_embedding_dim: int = 0, scale: float = 1.0,
) -> Tensor:  # fmt: skip
    """Return heads rotated by the angles of their positions, each its own or counted from the first."""
    length = a.shape[-2]
    at = positions.long()
    if at.dim() == 1:
        at = at.reshape(1, 1) + torch.arange(length, device=a.device)
    return rotated_input(a, F.embedding(at, cos), F.embedding(at, sin), num_heads, interleaved)


def _padding(mask: Tensor | None, rows: int, columns: int, value: float) -> Tensor | None:
    """Return what is added to the scores of keys that are padding, broadcast to ``[b, h, s, t]``.

    Args:
        mask: lengths ``[b]``; ends and starts ``[2 b]``; 0 for padding ``[b, t]``, ``[b, s, t]`` or ``[b, 1, m, m]``.
        rows: queries.
        columns: keys.
        value: that is added.
    """
    if mask is None:
        return None
    if mask.dim() == 1:
        keys, ends = torch.arange(columns, device=mask.device), mask.long()
        return filled((keys >= ends[:, None])[:, None, None], value)
    if mask.dim() == 4:
        mask = mask[:, :, columns - rows : columns, :columns]
        return filled(mask == 0, value)
    return filled((mask == 0)[:, None, None] if mask.dim() == 2 else (mask == 0)[:, None], value)


def _between(mask: Tensor, batch: int, columns: int, value: float) -> Tensor:
    """Return what is added where a mask states ends, then starts."""
    keys = torch.arange(columns, device=mask.device)
    ends, starts = mask.long()[:batch, None], mask.long()[batch : 2 * batch, None]
    return filled(((keys >= ends) | (keys < starts))[:, None, None], value)


def _masked(mask: Tensor | None, batch: int, rows: int, columns: int, value: float) -> Tensor | None:
    if mask is not None and mask.dim() == 1 and mask.numel() == 2 * batch:
        return _between(mask, batch, columns, value)
    if mask is not None and mask.dim() == 1 and mask.numel() == 3 * batch + 2:
        mask = mask[:batch]
    return _padding(mask, rows, columns, value)


def _later(rows: int, columns: int, device: torch.device) -> Tensor:
    """Return where a key lies behind the query, bool ``[s, t]``; the last query is the last key's."""
    return torch.arange(columns, device=device) > torch.arange(rows, device=device)[:, None] + columns - rows


def _causal(rows: int, columns: int, device: torch.device) -> Tensor:
    return filled(_later(rows, columns, device), LEAST)


@op(MS + "Attention", weights=(1, 2))
def fused_attention(
    a: Tensor, w: Tensor, b: Tensor | None = None, mask: Tensor | None = None, past: Tensor | None = None,
    bias: Tensor | None = None, length: Tensor | None = None, *, outputs: int, num_heads: int, do_rotary: int = 0,
    mask_filter_value: float = _FILTER, past_present_share_buffer: int = 0, qkv_hidden_sizes: Sequence[int] = (),
    rotary_embedding_dim: int = 0, scale: float = 0.0, unidirectional: int = 0,
) -> object:  # fmt: skip
    """Return the attention of projections that are made inside, and keys and values in one state.

    Raises:
        ValueError: when it rotates inside, or shares its buffer.
    """
    if do_rotary or past_present_share_buffer:
        raise ValueError("it rotates queries and keys inside, or shares the buffer of its state: neither is known")
    projected = a @ w if b is None else a @ w + b
    sizes = list(qkv_hidden_sizes) or [w.shape[1] // 3] * 3
    q, k, v = (apart(part, num_heads) for part in projected.split(sizes, -1))
    if past is not None:
        k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
    rows, columns = q.shape[2], k.shape[2]
    hidden = _masked(mask, a.shape[0], rows, columns, mask_filter_value)
    steered = _causal(rows, columns, a.device) if unidirectional else None
    result = together(attend(q, k, v, default_scale(scale, q.shape[3]), _least(summed(hidden, steered, bias))))
    return result if outputs == 1 else (result, torch.stack((k, v)))


def _least(bias: Tensor | None) -> Tensor | None:
    """Sums of several masks stay finite."""
    return None if bias is None else bias.clamp_min(LEAST)


@op(MS + "PackedAttention", weights=(1, 2))
def packed_attention(
    a: Tensor, w: Tensor, b: Tensor, offsets: Tensor, ends: Tensor, bias: Tensor | None = None, *, num_heads: int,
    qkv_hidden_sizes: Sequence[int] = (), scale: float = 0.0,
) -> Tensor:  # fmt: skip
    """Return the attention of sequences of different lengths, whose tokens lie behind each other."""
    sizes = list(qkv_hidden_sizes) or [w.shape[1] // 3] * 3
    q, k, v = (a @ w + b).split(sizes, -1)
    return _packed(q, k, v, offsets, ends, bias, num_heads, scale)


@op(MS + "PackedMultiHeadAttention", weights=(3,))
def packed_multi_head_attention(
    q: Tensor, k: Tensor | None, v: Tensor | None, b: Tensor | None, offsets: Tensor, ends: Tensor,
    bias: Tensor | None = None, *, num_heads: int, mask_filter_value: float = _FILTER, scale: float = 0.0,
) -> Tensor:  # fmt: skip
    """Return the attention of sequences of different lengths, whose tokens lie behind each other."""
    if k is None or v is None:
        q, k, v = (part.flatten(1) for part in q.unbind(2))
    if b is not None:
        q, k, v = (
            part + own for part, own in zip((q, k, v), b.split([each.shape[-1] for each in (q, k, v)]), strict=True)
        )
    return _packed(q, k, v, offsets, ends, bias, num_heads, scale)


def _packed(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, ends: Tensor, bias: Tensor | None, heads: int, scale: float
) -> Tensor:
    batch, length = offsets.shape
    lengths = ends.long()[1:] - ends.long()[:-1]
    places = offsets.reshape(-1).long()[: q.shape[0]]
    first, second, third = (
        apart(
            each.new_zeros(batch * length, each.shape[1]).index_copy(0, places, each).reshape(batch, length, -1), heads
        )
        for each in (q, k, v)
    )
    hidden = _padding(lengths, length, length, LEAST)
    result = together(attend(first, second, third, default_scale(scale, first.shape[3]), _least(summed(hidden, bias))))
    return result.reshape(batch * length, -1).index_select(0, places)


@op(MS + "MultiHeadAttention", weights=(3,))
def multi_head_attention(
    q: Tensor, k: Tensor | None = None, v: Tensor | None = None, b: Tensor | None = None, mask: Tensor | None = None,
    bias: Tensor | None = None, past_k: Tensor | None = None, past_v: Tensor | None = None,
    past_length: Tensor | None = None, indirection: Tensor | None = None, *, outputs: int, num_heads: int,
    mask_filter_value: float = _FILTER, scale: float = 0.0, unidirectional: int = 0,
) -> object:  # fmt: skip
    """Return the attention of queries, keys and values that come apart or together, and keys and values.

    Raises:
        ValueError: when its state is a buffer that is shared.
    """
    if past_length is not None or indirection is not None:
        raise ValueError("the buffer of its state is shared, which is not known")
    q, k, v = _unpacked(q, k, v, b, num_heads)
    if past_k is not None and past_v is not None:
        k, v = torch.cat((past_k, k), 2), torch.cat((past_v, v), 2)
    rows, columns = q.shape[2], k.shape[2]
    hidden = _masked(mask, q.shape[0], rows, columns, mask_filter_value)
    steered = _causal(rows, columns, q.device) if unidirectional else None
    total, factor = _least(summed(hidden, steered, bias)), default_scale(scale, q.shape[3])
    result = together(attend(q, k, v, factor, total))
    if outputs < 4:
        return result if outputs == 1 else (result, k, v)[:outputs]
    return result, k, v, scored(q, k, v, factor, total, 0.0, 3, 0)[1]


def _unpacked(
    q: Tensor, k: Tensor | None, v: Tensor | None, b: Tensor | None, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values per head, with the bias of their projections."""
    if k is None:
        q, k, v = (part.flatten(2) for part in q.unbind(3))
    elif v is None:
        k, v = (part.flatten(2) for part in k.unbind(3))
    parts = [q, k, v]
    if b is not None:
        widths = [each.shape[-1] if each.dim() == 3 else each.shape[1] * each.shape[3] for each in parts]
        parts = [
            each + own if each.dim() == 3 else each + own.reshape(heads, 1, -1)
            for each, own in zip(parts, b.split(widths), strict=True)
        ]
    first, second, third = (each if each.dim() == 4 else apart(each, heads) for each in parts)
    return first, second, third


@op(MS + "DecoderMaskedMultiHeadAttention", weights=(10,))
def decoder_attention(
    q: Tensor, k: Tensor | None = None, v: Tensor | None = None, mask: Tensor | None = None,
    bias: Tensor | None = None, past_k: Tensor | None = None, past_v: Tensor | None = None,
    past_length: Tensor | None = None, beams: Tensor | None = None, indirection: Tensor | None = None,
    b: Tensor | None = None, *, outputs: int, num_heads: int, mask_filter_value: float = _FILTER, output_qk: int = 0,
    past_present_share_buffer: int = 0, scale: float = 0.0,
) -> object:  # fmt: skip
    """As MultiHeadAttention, with one query at a time."""
    if k is None and q.dim() == 3:
        q, k, v = q.chunk(3, -1)
    shared = past_length if past_present_share_buffer else None
    return multi_head_attention(
        q, k, v, b, mask, bias, past_k, past_v, shared, indirection, outputs=outputs, num_heads=num_heads,
        mask_filter_value=mask_filter_value, scale=scale,
    )  # fmt: skip


@op(MS + "GroupQueryAttention", weights=(14, 15), host=(6,))
def grouped_attention(
    q: Tensor, k: Tensor | None, v: Tensor | None, past_k: Tensor | None, past_v: Tensor | None, lengths: Tensor,
    total: Tensor, cos: Tensor | None = None, sin: Tensor | None = None, positions: Tensor | None = None,
    bias: Tensor | None = None, sink: Tensor | None = None, k_scale: Tensor | None = None,
    v_scale: Tensor | None = None, q_norm: Tensor | None = None, k_norm: Tensor | None = None,
    valid: Tensor | None = None, *, outputs: int, num_heads: int, kv_num_heads: int, causal: int = 1,
    do_rotary: int = 0, local_window_size: int = -1, rotary_interleaved: int = 0, scale: float = 0.0,
    smooth_softmax: int = 0, softcap: float = 0.0, qk_output: int = 0, qk_norm_epsilon: float = 1e-6,
    q_norm_epsilon: float | None = None, k_norm_epsilon: float | None = None, k_quant_type: str = "NONE",
    v_quant_type: str = "NONE", kv_cache_bit_width: int = 8, sliding_window_cache: int = 0,
) -> object:  # fmt: skip
    """Return the attention of queries that share heads of keys, and keys and values with the past.

    Raises:
        ValueError: for a quantized cache, and for chunks that are padded.
    """
    if k_scale is not None or valid is not None or qk_output:
        raise ValueError("its cache is quantized, its queries are padded or its scores an output: not known")
    q, k, v = _grouped(q, k, v, num_heads, kv_num_heads)
    if q_norm is not None and k_norm is not None:
        q = F.rms_norm(q, q.shape[-1:], q_norm, q_norm_epsilon or qk_norm_epsilon)
        k = F.rms_norm(k, k.shape[-1:], k_norm, k_norm_epsilon or qk_norm_epsilon)
    rows = q.shape[2]
    before = _before(past_k, lengths, rows)
    at = before[:, None] + torch.arange(rows, device=q.device)
    if do_rotary and cos is not None and sin is not None:
        places = at if positions is None else positions.long()
        cos, sin = F.embedding(places, cos), F.embedding(places, sin)
        q, k = rotated(q, cos, sin, rotary_interleaved), rotated(k, cos, sin, rotary_interleaved)
    slides, there = past_k is not None and bool(sliding_window_cache), before
    if past_k is not None and past_v is not None:
        width = past_k.shape[2]
        there = before.clamp_max(width) if slides else before
        size = width + rows if slides else max(int(total), width)
        k, v = _behind(past_k, k, there, size), _behind(past_v, v, there, size)
    keys = torch.arange(k.shape[2], device=q.device) + (before - there)[:, None, None]
    hidden = keys > (at if causal else before[:, None] + rows - 1)[:, :, None]
    if local_window_size > 0:
        hidden = hidden | (keys < at[:, :, None] - local_window_size + slides)
    added = None if bias is None else F.pad(bias, (0, k.shape[2] - bias.shape[3]))
    total_bias = _least(summed(filled(hidden[:, None], LEAST), added))
    result = _sunk(q, k, v, default_scale(scale, q.shape[3]), total_bias, softcap, sink, smooth_softmax)
    if slides and past_k is not None:
        most = min(past_k.shape[2], local_window_size - 1 + rows if local_window_size > 0 else past_k.shape[2])
        k, v = (_last(each, there + rows, most, past_k.shape[2]) for each in (k, v))
    return together(result) if outputs == 1 else (together(result), k, v)[:outputs]


def _grouped(q: Tensor, k: Tensor | None, v: Tensor | None, heads: int, shared: int) -> tuple[Tensor, Tensor, Tensor]:
    if k is None or v is None:
        width = q.shape[2] // (heads + 2 * shared)
        q, k, v = q.split([heads * width, shared * width, shared * width], -1)
    return apart(q, heads), apart(k, shared), apart(v, shared)


def _before(past: Tensor | None, lengths: Tensor, rows: int) -> Tensor:
    """Return how many keys lie in front of the first query, int64 ``[b]``; none in a prompt."""
    count = lengths.reshape(-1).long() + 1 - rows
    return torch.zeros_like(count) if past is None or past.shape[2] == 0 else count.clamp_min(0)


def _last(values: Tensor, count: Tensor, most: int, size: int) -> Tensor:
    """Return the last of so many keys, `most` at most, in a cache of a size, ``[b, k, size, d]``; then what there is."""
    first = (count - most).clamp_min(0)[:, None]
    source = (first + torch.arange(size, device=values.device)).clamp_max(values.shape[2] - 1)
    return values.gather(2, source[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3]))


def _behind(past: Tensor, new: Tensor, before: Tensor, size: int) -> Tensor:
    """Return the past with what is new behind the part of it that counts, ``[b, k, size, d]``."""
    whole = F.pad(torch.cat((past, new), 2), (0, 0, 0, max(0, size - past.shape[2] - new.shape[2])))
    places, first = torch.arange(size, device=past.device), before[:, None]
    source = torch.where(places < first, places, past.shape[2] + places - first).clamp_max(whole.shape[2] - 1)
    beyond = places >= first + new.shape[2]
    taken = whole.gather(2, source[:, None, :, None].expand(-1, whole.shape[1], -1, whole.shape[3]))
    kept = F.pad(past, (0, 0, 0, max(0, size - past.shape[2])))[:, :, :size]
    return torch.where(beyond[:, None, :, None], kept, taken)


def _sunk(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None, softcap: float, sink: Tensor | None, smooth: int
) -> Tensor:
    """Return the attention; a sink takes a share of each query's attention and gives nothing."""
    if sink is None and smooth <= 0 and not softcap:
        return attend(q, k, v, scale, bias)
    scores = scale * (q @ repeated(k, q.shape[1]).transpose(-1, -2))
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    scores = scores if bias is None else scores + bias
    if sink is not None or smooth > 0:
        height = torch.zeros(1, device=q.device) if sink is None else sink
        extra = height.reshape(1, -1, 1, 1).expand(*scores.shape[:2][:1], scores.shape[1], scores.shape[2], 1)
        shares = torch.cat((scores, extra), -1).softmax(-1)[..., :-1]
    else:
        shares = scores.softmax(-1)
    return shares @ repeated(v, q.shape[1])
