"""Attention in one operator of ONNX: heads, rotary embeddings, masks, caches of the past.

https://onnx.ai/onnx/operators/onnx__Attention.html

Letters of shapes: batch ``b``, heads ``h`` of queries and ``k`` of keys, positions ``s`` of queries and ``t`` of keys,
dims ``d`` of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from onnxprune.training.operators.fused import MS
from onnxprune.training.operators.registry import op

Tensor = torch.Tensor
LEAST = torch.finfo(torch.float32).min
_MOST_PAIRS = 2**18  # of queries and keys, whose scores are kept for the backward pass


# -- what all of them share ----------------------------------------------------------------------------


def apart(a: Tensor, heads: int) -> Tensor:
    """Return ``[b, s, h d]`` as ``[b, h, s, d]``."""
    return a.reshape(*a.shape[:2], heads, -1).transpose(1, 2)


def together(a: Tensor) -> Tensor:
    """Return ``[b, h, s, d]`` as ``[b, s, h d]``."""
    return a.transpose(1, 2).reshape(a.shape[0], a.shape[2], -1)


def repeated(a: Tensor, heads: int) -> Tensor:
    """Return keys or values with a head for each of those of the queries."""
    return a if a.shape[1] == heads else a.repeat_interleave(heads // a.shape[1], 1)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """Return softmax(scale Q K + bias) V, by PyTorch's own kernel.

    On the CPU that kernel takes up to five times as long in half precision as its parts do for some hundred tokens,
    most of it backward; so the parts are computed there. Their scores are rounded to half precision, as those of an
    attention that a file has in parts. For longer texts they would take much memory, and no less time.
    """
    k, v = repeated(k, q.shape[1]), repeated(v, q.shape[1])
    is_half = q.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if is_half and q.shape[-2] * k.shape[-2] <= _MOST_PAIRS:
        return _attend_in_parts(q, k, v, scale, bias)
    mask = None if bias is None else bias.expand(*q.shape[:-1], k.shape[-2])
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)


def _attend_in_parts(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """Return the same; a query that sees no key gets zeros, as of PyTorch's kernel, and not NaN, which would spread."""
    scores = torch.matmul(q * scale, k.transpose(-1, -2))
    if bias is None:
        return torch.matmul(scores.softmax(-1), v)
    unseen = torch.isneginf(bias)
    shares = (scores + bias.masked_fill(unseen, torch.finfo(bias.dtype).min)).softmax(-1)
    is_blind = unseen.all(-1, keepdim=True)
    return torch.matmul(shares.masked_fill(is_blind, 0.0) if bool(is_blind.any()) else shares, v)


def default_scale(scale: float | None, dims: int) -> float:
    """Return a scale that is stated and not 0, or the root of the dims."""
    return scale or 1 / math.sqrt(dims)


def summed(*biases: Tensor | None) -> Tensor | None:
    """Return the sum of those that are there."""
    total = None
    for each in biases:
        if each is not None:
            total = each if total is None else total + each
    return total


def filled(where: Tensor, value: float) -> Tensor:
    """Return a value where a mask says so, and zero elsewhere."""
    return torch.zeros(where.shape, device=where.device).masked_fill(where, value)


# -- ONNX ----------------------------------------------------------------------------------------------


@op("Attention", since=23)
def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, past_k: Tensor | None = None,
    past_v: Tensor | None = None, lengths: Tensor | None = None, *, outputs: int, version: int, is_causal: int = 0,
    kv_num_heads: int | None = None, q_num_heads: int | None = None, qk_matmul_output_mode: int = 0,
    scale: float | None = None, softcap: float = 0.0, softmax_precision: int | None = None,
    left_window_size: int = -1, right_window_size: int = -1,
) -> object:  # fmt: skip
    """Return the attention, and where asked for keys and values with the past, and the scores."""
    is_folded = q.dim() == 3
    if is_folded and q_num_heads and kv_num_heads:
        q, k, v = apart(q, q_num_heads), apart(k, kv_num_heads), apart(v, kv_num_heads)
    past = 0
    if past_k is not None and past_v is not None:
        past, k, v = past_k.shape[2], torch.cat((past_k, k), 2), torch.cat((past_v, v), 2)
    rows, columns = q.shape[2], k.shape[2]
    allowed = _allowed(rows, columns, past, lengths, is_causal, left_window_size, right_window_size, q.device)
    bias = _additive(mask, columns)
    if allowed is not None:
        bias = summed(bias, filled(~allowed, -math.inf))
    factor = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    if outputs < 4 and not softcap:
        result = _without_nan(attend(q, k, v, factor, bias), bias)
        scores = None
    else:
        result, scores = scored(q, k, v, factor, bias, softcap, qk_matmul_output_mode, version)
    result = together(result) if is_folded else result
    return result if outputs == 1 else (result, k, v, scores)[:outputs]


def _allowed(
    rows: int, columns: int, past: int, lengths: Tensor | None, is_causal: int, left: int, right: int, device: torch.device
) -> Tensor | None:  # fmt: skip
    """Return which keys a query sees, bool broadcast to ``[b, h, s, t]``; None for all."""
    if lengths is None and not is_causal and left < 0 and right < 0:
        return None
    keys = torch.arange(columns, device=device)
    offset: Tensor | int = past if lengths is None or past else (lengths.long() - rows)[:, None, None, None]
    places = torch.arange(rows, device=device)[:, None] + offset
    allowed = torch.ones((rows, columns), dtype=torch.bool, device=device)
    if lengths is not None:
        allowed = allowed & (keys < lengths.long()[:, None, None, None])
    if is_causal:
        allowed = allowed & (keys <= places)
    if left >= 0:
        allowed = allowed & (keys >= places - left)
    if right >= 0:
        allowed = allowed & (keys <= places + right)
    return allowed


def _additive(mask: Tensor | None, columns: int) -> Tensor | None:
    """Return a mask as numbers that are added to the scores; one that is shorter hides what is behind its end."""
    if mask is None:
        return None
    bias = filled(~mask, -math.inf) if mask.dtype == torch.bool else mask
    missing = columns - bias.shape[-1]
    return F.pad(bias, (0, missing), value=-math.inf) if missing > 0 and bias.shape[-1] > 1 else bias


def _without_nan(result: Tensor, bias: Tensor | None) -> Tensor:
    """Return zeros for queries that see no key."""
    if bias is None:
        return result
    blind = (bias == -math.inf).all(-1, keepdim=True)
    return torch.where(blind, torch.zeros_like(result), result)


def scored(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None, softcap: float, mode: int, version: int
) -> tuple[Tensor, Tensor]:
    """Return the attention and its scores at the stage that `mode` names."""
    products = scale * (q @ repeated(k, q.shape[1]).transpose(-1, -2))
    capped = softcap * torch.tanh(products / softcap) if softcap else products
    masked = capped if bias is None else capped + bias
    shares = torch.nan_to_num(masked.softmax(-1)) if bias is not None else masked.softmax(-1)
    stages = (products, capped, masked, shares)
    return shares @ repeated(v, q.shape[1]), stages[mode]


# -- rotary embeddings ---------------------------------------------------------------------------------


def rotated(a: Tensor, cos: Tensor, sin: Tensor, interleaved: int) -> Tensor:
    """Return heads whose first dims are rotated in pairs; Su et al. 2021, RoFormer.

    Args:
        a: ``[b, h, s, d]``.
        cos: ``[b or 1, s, r]``, of half of the dims that are rotated.
        sin: alike.
        interleaved: whether pairs are neighbours; otherwise one of each half.
    """
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    width = 2 * cos.shape[-1]
    turned, rest = a[..., :width], a[..., width:]
    one, two = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = cos * one - sin * two, sin * one + cos * two
    turned = torch.stack((real, imaginary), -1).flatten(-2) if interleaved else torch.cat((real, imaginary), -1)
    return torch.cat((turned, rest), -1) if rest.shape[-1] else turned


def rotated_input(a: Tensor, cos: Tensor, sin: Tensor, heads: int, interleaved: int) -> Tensor:
    """Return ``[b, h, s, d]`` or ``[b, s, h d]`` rotated by angles ``[b, s, r]``."""
    if a.dim() == 4:
        return rotated(a, cos, sin, interleaved)
    return together(rotated(apart(a, heads or a.shape[2] // (2 * cos.shape[-1])), cos, sin, interleaved))


@op("RotaryEmbedding", since=23)
def rotary_embedding(
    a: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None, *, interleaved: int = 0, num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:  # fmt: skip
    """Return heads rotated by the angles of their positions."""
    if positions is not None:
        cos, sin = F.embedding(positions.long(), cos), F.embedding(positions.long(), sin)
    return rotated_input(a, cos, sin, num_heads, interleaved)


# -- linear --------------------------------------------------------------------------------------------


@op("LinearAttention", MS + "LinearAttention")
def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None, decay: Tensor | None = None,
    beta: Tensor | None = None, *, outputs: int, q_num_heads: int, kv_num_heads: int, chunk_size: int = 64,
    scale: float = 0.0, state_window: int = 0, update_rule: str = "gated_delta",
) -> object:  # fmt: skip
    """Return what a state of keys and values answers, step by step, and the last state.

    Yang et al. 2024, Gated Delta Networks, equation 10; the state is ``[b, k, d, v]``.

    Raises:
        ValueError: when it keeps several states.
    """
    if state_window:
        raise ValueError("it keeps several states, which is not known")
    shared = kv_num_heads
    queries, keys, values = (apart(each, heads) for each, heads in ((q, q_num_heads), (k, shared), (v, shared)))
    factor = default_scale(scale, queries.shape[3])
    held = keys.new_zeros(*keys.shape[:2], keys.shape[3], values.shape[3]) if state is None else state
    gates = None if decay is None else _per_head(decay, shared).exp()
    rates = None if beta is None else _per_head(beta, shared)
    answers = list[Any]()
    for turn in range(keys.shape[2]):
        if "gated" in update_rule and gates is not None:
            held = gates[:, :, turn, :, None] * held
        key, value = keys[:, :, turn], values[:, :, turn]
        if "delta" in update_rule and rates is not None:
            value = rates[:, :, turn] * (value - torch.einsum("bkdv,bkd->bkv", held, key))
        held = held + key.unsqueeze(-1) * value.unsqueeze(-2)
        answers.append(torch.einsum("bhdv,bhd->bhv", repeated(held, q_num_heads), queries[:, :, turn]))
    result = together(factor * torch.stack(answers, 2))
    return result if outputs == 1 else (result, held)


def _per_head(a: Tensor, heads: int) -> Tensor:
    """Return ``[b, t, k d]`` or ``[b, t, k]`` or ``[b, t, 1]`` as ``[b, k, t, d or 1]``."""
    return a[:, None] if a.shape[2] == 1 else apart(a, heads)
