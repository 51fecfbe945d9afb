"""Operators that do the work of several, most of them written by ONNX Runtime's optimiser.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from onnxprune.training.operators.convolution import conv, conv_transpose
from onnxprune.training.operators.layout import pad
from onnxprune.training.operators.normalization import layer_normalization, rms_normalization
from onnxprune.training.operators.pooling import max_pool
from onnxprune.training.operators.registry import dim_of, ints, line, op
from onnxprune.training.operators.resampling import grid_sample
from onnxprune.training.operators.table import gemm

Tensor = torch.Tensor
MS = "com.microsoft."

# fmt: off
# activations
line(MS + "Gelu",         lambda a: F.gelu(a))
line(MS + "BiasGelu",     lambda a, b: F.gelu(a + b), weights=(1,))
line(MS + "FastGelu",     lambda a, b=None: F.gelu(a if b is None else a + b, approximate="tanh"), weights=(1,))
line(MS + "QuickGelu",    lambda a, *, alpha=1.702: F.silu(a) if alpha == 1.0 else a * torch.sigmoid(alpha * a))
line(MS + "ScaledSiLU",   lambda a, scale=None, *, alpha=1.0: F.silu(a * (alpha if scale is None else scale)))
line("SwiGLU",            lambda a, b, *, alpha=1.0: swish(a, alpha) * b)
line("Affine",            lambda a, *, alpha=1.0, beta=0.0: alpha * a + beta)
line("ParametricSoftplus", lambda a, *, alpha=1.0, beta=1.0: alpha * F.softplus(beta * a, threshold=60))
line("Scale",             lambda a, *, scale=1.0: scale * a)
line("ScaledTanh",        lambda a, *, alpha=1.0, beta=1.0: alpha * torch.tanh(beta * a))

# sums and products
line(MS + "BiasDropout",  lambda a, b, residual=None, ratio=None, training=None, *, outputs=1, seed=0: _kept(a + b if residual is None else a + b + residual, outputs))
line(MS + "BiasSoftmax",  lambda a, b, *, axis=1, is_inner_broadcast: _softmax_of_sum(a, b, axis, is_inner_broadcast))
line(MS + "GatedAdd",     lambda a, b, gate: a + b * gate)
line(MS + "GemmFastGelu", lambda a, w, b=None: F.gelu(a @ w if b is None else a @ w + b, approximate="tanh"), weights=(1, 2))
line(MS + "CDist",        lambda a, b, *, metric="sqeuclidean": _distances(a, b, metric))

# norms
line("SimplifiedLayerNormalization",      lambda a, scale, *, axis=-1, epsilon=1e-5, stash_type=1, outputs=1: _simplified(a, scale, axis, epsilon, outputs), weights=(1,))
line(MS + "SimplifiedLayerNormalization", lambda a, scale, *, axis=-1, epsilon=1e-5, stash_type=1, outputs=1: _simplified(a, scale, axis, epsilon, outputs), weights=(1,))
line(MS + "GatedRMSNorm",  lambda a, scale, gate, *, activation="silu", epsilon=1e-5: _gated_norm(a, scale, gate, activation, epsilon), weights=(1,))
line(MS + "GroupNorm",     lambda a, scale, bias, *, activation, channels_last=1, epsilon=1e-5, groups: _group_norm(a, scale, bias, activation, channels_last, epsilon, groups), weights=(1, 2))

# the operators of ONNX under another name
line(MS + "NhwcConv",      lambda a, w, b=None, **attributes: _last(conv, a, w, b, **attributes), weights=(1, 2))
line(MS + "NhwcMaxPool",   lambda a, **attributes: _last(max_pool, a, outputs=1, **attributes))
line(MS + "GridSample",    lambda a, grid, *, align_corners=0, mode="bilinear", padding_mode="zeros": grid_sample(a, grid, align_corners=align_corners, mode=mode.replace("bilinear", "linear").replace("bicubic", "cubic"), padding_mode=padding_mode))
line(MS + "Pad",           lambda a, pads, value=None, *, mode="constant": pad(a, pads.reshape(-1), value, mode=mode), host=(1,))
line(MS + "Trilu",         lambda a, k=None, *, upper=1: a.triu(0 if k is None else int(k)) if upper else a.tril(0 if k is None else int(k)), host=(1,))
line(MS + "Inverse",       lambda a: torch.linalg.inv(a))
line(MS + "ExpandDims",    lambda a, axis: a.unsqueeze(ints(axis)[0]), host=(1,), passes=(0,))
line(MS + "UnfoldTensor",  lambda a, *, dim=-1, size, step=1: a.unfold(dim, size, step))
line(MS + "ConvTransposeWithDynamicPads", lambda a, w, pads=None, b=None, **attributes: conv_transpose(a, w, b, pads=[] if pads is None else ints(pads), **attributes), weights=(1, 3), host=(2,))
# fmt: on


def swish(a: Tensor, alpha: float) -> Tensor:
    """Return a sigmoid(alpha a)."""
    return F.silu(a) if alpha == 1.0 else a * torch.sigmoid(alpha * a)


def activated(a: Tensor, name: str, parameters: Sequence[float]) -> Tensor:
    """Return what an activation that is named in an attribute makes of a tensor.

    Raises:
        ValueError: when the activation is not known.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"its activation {name!r} is not known")
    result: Tensor = _ACTIVATIONS[name](a, *parameters)
    return result


_ACTIVATIONS: Mapping[str, Any] = {
    "": lambda a: a,
    "Relu": torch.relu,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "Softsign": F.softsign,
    "Softplus": lambda a: F.softplus(a, threshold=60),
    "Gelu": F.gelu,
    "HardSwish": lambda a: a * torch.clamp(a / 6 + 0.5, 0, 1),
    "LeakyRelu": lambda a, alpha=0.01: F.leaky_relu(a, alpha),
    "Elu": lambda a, alpha=1.0: F.elu(a, alpha),
    "Selu": lambda a, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875: gamma * F.elu(a, alpha),
    "ThresholdedRelu": lambda a, alpha=1.0: torch.where(a > alpha, a, torch.zeros_like(a)),
    "HardSigmoid": lambda a, alpha=0.2, beta=0.5: torch.clamp(alpha * a + beta, 0, 1),
    "Clip": torch.clamp,
    "Affine": lambda a, alpha=1.0, beta=0.0: alpha * a + beta,
    "ScaledTanh": lambda a, alpha=1.0, beta=1.0: alpha * torch.tanh(beta * a),
}


def _kept(a: Tensor, outputs: int) -> object:
    return a if outputs == 1 else (a, torch.ones_like(a, dtype=torch.bool))


def _softmax_of_sum(a: Tensor, b: Tensor, axis: int, inner: int) -> Tensor:
    """The bias lacks the axes just before `axis`, or those at the front."""
    axis = dim_of(axis, a.dim())
    if b.dim() < a.dim() and inner:
        b = b.reshape(*b.shape[: b.dim() - (a.dim() - axis)], *[1] * (a.dim() - b.dim()), *a.shape[axis:])
    total = a + b
    return total.flatten(axis).softmax(-1).reshape(total.shape)


def _distances(a: Tensor, b: Tensor, metric: str) -> Tensor:
    if metric not in ("euclidean", "sqeuclidean"):
        raise ValueError(f"the metric {metric!r} is not known")
    squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.t()
    squares = squares.clamp_min(0)
    return squares if metric == "sqeuclidean" else squares.sqrt()


# -- products and convolutions -------------------------------------------------------------------------


def _product(
    a: Tensor, b: Tensor, *, alpha: float = 1.0, transA: int = 0, transB: int = 0, transBatchA: int = 0, transBatchB: int = 0,  # noqa: N803
) -> Tensor:  # fmt: skip
    """Return alpha A B, with the last two axes of each swapped, or the one before the last moved to the front."""
    a, b = _operand(a, transA, transBatchA), _operand(b, transB, transBatchB)
    return a @ b if alpha == 1.0 else alpha * (a @ b)


def _operand(a: Tensor, swapped: int, moved: int) -> Tensor:
    if moved and a.dim() > 2:
        return a.movedim(0, -1) if swapped else a.movedim(0, -2)
    return a.transpose(-1, -2) if swapped and a.dim() > 1 else a


for _name in ("FusedMatMul", "TransposeMatMul"):
    line(MS + _name, _product, weights=(0, 1))


@op(MS + "FusedMatMulActivation", weights=(0, 1))
def fused_matmul_activation(
    a: Tensor, b: Tensor, *, activation: str, activation_alpha: float | None = None,
    activation_beta: float | None = None, activation_gamma: float | None = None, activation_axis: int = -1,
    alpha: float = 1.0, transA: int = 0, transB: int = 0, transBatchA: int = 0, transBatchB: int = 0,  # noqa: N803
) -> Tensor:  # fmt: skip
    """Return the activation of alpha A B."""
    product = _product(
        a, b, alpha=alpha, transA=transA, transB=transB, transBatchA=transBatchA, transBatchB=transBatchB
    )
    if activation == "Softmax":
        return product.softmax(activation_axis)
    return activated(product, activation, _stated(activation_alpha, activation_beta, activation_gamma))


@op(MS + "FusedGemm", weights=(0, 1, 2))
def fused_gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, activation: str = "", activation_alpha: float | None = None,
    activation_beta: float | None = None, activation_gamma: float | None = None, alpha: float = 1.0, beta: float = 1.0,
    transA: int = 0, transB: int = 0,  # noqa: N803
) -> Tensor:  # fmt: skip
    """Return the activation of alpha A B + beta C."""
    product = gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)
    return activated(product, activation, _stated(activation_alpha, activation_beta, activation_gamma))


def _stated(*values: float | None) -> list[float]:
    return [value for value in values if value is not None]


@op(MS + "FusedConv", weights=(1, 2))
def fused_conv(
    a: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None, *, activation: str = "",
    activation_params: Sequence[float] = (), **attributes: Any,
) -> Tensor:  # fmt: skip
    """Return the activation of a convolution, to which a tensor may be added."""
    result = conv(a, w, b, **attributes)
    return activated(result if z is None else result + z, activation, activation_params)


@op(MS + "NhwcFusedConv", weights=(1, 2))
def nhwc_fused_conv(
    a: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None, *, activation: str = "",
    activation_params: Sequence[float] = (), **attributes: Any,
) -> Tensor:  # fmt: skip
    """Return the activation of a convolution, to which a tensor may be added; channels lie last."""
    result = _last(conv, a, w, b, **attributes)
    return activated(result if z is None else result + z, activation, activation_params)


def _last(compute: Any, a: Tensor, *rest: Any, **attributes: Any) -> Tensor:
    """Return what a function of channels-first images makes of one with the channels last, in that layout."""
    result: Tensor = compute(a.movedim(-1, 1), *rest, **attributes)
    return result.movedim(1, -1)


# -- norms ---------------------------------------------------------------------------------------------


def _simplified(a: Tensor, scale: Tensor, axis: int, epsilon: float, outputs: int) -> object:
    result = rms_normalization(a, scale, axis=axis, epsilon=epsilon)
    if outputs == 1:
        return result
    axes = list(range(dim_of(axis, a.dim()), a.dim()))
    return result, torch.rsqrt(a.square().mean(axes, keepdim=True) + epsilon)


def _gated_norm(a: Tensor, scale: Tensor, gate: Tensor, activation: str, epsilon: float) -> Tensor:
    parts = a.reshape(*a.shape[:-1], -1, scale.shape[0])
    factor = torch.sigmoid(gate) if activation == "sigmoid" else F.silu(gate)
    return rms_normalization(parts, scale, epsilon=epsilon).reshape(a.shape) * factor


def _group_norm(
    a: Tensor, scale: Tensor, bias: Tensor, activation: int, channels_last: int, epsilon: float, groups: int
) -> Tensor:
    first = a.movedim(-1, 1) if channels_last else a
    result = F.group_norm(first, groups, scale, bias, epsilon)
    result = F.silu(result) if activation else result
    return result.movedim(1, -1) if channels_last else result


@op(MS + "SkipGroupNorm", weights=(1, 2, 4))
def skip_group_norm(
    a: Tensor, scale: Tensor, bias: Tensor, skip: Tensor, added: Tensor | None = None, *, outputs: int,
    activation: int, channels_last: int = 1, epsilon: float = 1e-5, groups: int,
) -> object:  # fmt: skip
    """Return the sum of input, skip and bias, normalised in groups of channels; the sum itself comes last."""
    if skip.dim() == 2:
        skip = skip[:, None, None] if channels_last else skip[:, :, None, None]
    total = a + skip
    if added is not None:
        total = total + (added if channels_last else added[:, None, None])
    result = _group_norm(total, scale, bias, activation, channels_last, epsilon, groups)
    return result if outputs == 1 else (result, total)


@op(MS + "SkipLayerNormalization", weights=(2, 3, 4))
def skip_layer_normalization(
    a: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None, added: Tensor | None = None, *, outputs: int,
    epsilon: float = 1e-12,
) -> object:  # fmt: skip
    """Return the sum of input, skip and bias, normalised, its mean and inverse deviation, and the sum itself."""
    total = a + skip if added is None else a + skip + added
    results = layer_normalization(total, scale, bias, outputs=min(outputs, 3), epsilon=epsilon)
    return (*results, total) if outputs > 3 else results  # type: ignore[misc]


@op(MS + "SkipSimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", weights=(2, 3))
def skip_simplified(
    a: Tensor, skip: Tensor, scale: Tensor, added: Tensor | None = None, *, outputs: int, epsilon: float = 1e-12
) -> object:
    """Return the sum of input, skip and bias over the root of its mean square, and the sum itself."""
    total = a + skip if added is None else a + skip + added
    results = _simplified(total, scale, -1, epsilon, min(outputs, 2))
    if outputs < 3:
        return results
    return (*results, None, total)[1 - 1 : outputs] if outputs > 3 else (*results, None)  # type: ignore[misc]


@op(MS + "EmbedLayerNormalization", weights=(2, 3, 4, 5, 6))
def embed_layer_normalization(
    words: Tensor, segments: Tensor | None, table: Tensor, places: Tensor, segment_table: Tensor | None, scale: Tensor,
    bias: Tensor, mask: Tensor | None = None, positions: Tensor | None = None, *, outputs: int, epsilon: float = 1e-12,
    mask_index_type: int = 0,
) -> tuple[Any, ...]:  # fmt: skip
    """Return the normalised sum of three embeddings, how many words each row has, and the sum."""
    at = torch.arange(words.shape[1], device=words.device)[None] if positions is None else positions.long()
    total = F.embedding(words.long(), table) + F.embedding(at, places)
    if segments is not None and segment_table is not None:
        total = total + F.embedding(segments.long(), segment_table)
    counts = torch.zeros(words.shape[0], dtype=torch.int32) if mask is None else mask.sum(1).to(torch.int32)
    result = F.layer_norm(total, total.shape[-1:], scale, bias, epsilon)
    return (result, counts, total)[:outputs]


# -- experts -------------------------------------------------------------------------------------------


@op(MS + "MoE", weights=(2, 3, 4, 5, 6, 7))
def mixture_of_experts(
    a: Tensor, routes: Tensor, first: Tensor, first_bias: Tensor | None, second: Tensor,
    second_bias: Tensor | None = None, third: Tensor | None = None, third_bias: Tensor | None = None, *,
    activation_alpha: float = 1.0, activation_beta: float = 0.0, activation_type: str = "relu", k: int = 1,
    normalize_routing_weights: int = 0, swiglu_fusion: int = 0, swiglu_limit: float = float("inf"),
    swiglu_limit_after_activation: int = 0, use_sparse_mixer: int = 0,
) -> Tensor:  # fmt: skip
    """Return the k best experts' answers to each row, weighted by the shares of their scores.

    Raises:
        ValueError: for the sparse mixer, whose jitter cannot be compared.
    """
    if use_sparse_mixer:
        raise ValueError("it draws a jitter at random")
    rows = a.reshape(-1, a.shape[-1])
    shares, experts = routes.softmax(-1).topk(k, -1)
    if normalize_routing_weights:
        shares = shares / shares.sum(-1, keepdim=True)
    weights = torch.zeros_like(routes).scatter(1, experts, shares)
    inner = torch.einsum("ti,efi->tef", rows, first)
    inner = inner if first_bias is None else inner + first_bias
    if activation_type in ("swiglu", "geglu"):
        gate, up = _halves(inner, rows, third, third_bias, swiglu_fusion)
        limits = swiglu_limit, bool(swiglu_limit_after_activation)
        inner = _gated(gate, up, activation_type, activation_alpha, activation_beta, *limits)
    else:
        inner = _EXPERT[activation_type](inner)
        if third is not None:
            up = torch.einsum("ti,efi->tef", rows, third)
            inner = inner * (up if third_bias is None else up + third_bias)
    results = torch.einsum("tef,eif->tei", inner, second)
    results = results if second_bias is None else results + second_bias
    return torch.einsum("tei,te->ti", results, weights).reshape(a.shape)


_EXPERT: Mapping[str, Any] = {
    "relu": torch.relu,
    "relu2": lambda a: torch.relu(a).square(),
    "gelu": F.gelu,
    "silu": F.silu,
    "identity": lambda a: a,
}


def _halves(
    inner: Tensor, rows: Tensor, third: Tensor | None, third_bias: Tensor | None, fusion: int
) -> tuple[Tensor, Tensor]:
    if fusion == 1:
        return inner[..., ::2], inner[..., 1::2]
    if fusion == 2 or third is None:
        gate, up = inner.chunk(2, -1)
        return gate, up
    up = torch.einsum("ti,efi->tef", rows, third)
    return inner, up if third_bias is None else up + third_bias


def _gated(gate: Tensor, up: Tensor, kind: str, alpha: float, beta: float, limit: float, after: bool) -> Tensor:
    if kind == "geglu":
        return F.gelu(gate, approximate="tanh") * up
    factor = swish(gate, alpha).clamp(max=limit) if after else swish(gate.clamp(max=limit), alpha)
    return factor * (up.clamp(-limit, limit) + beta)


@op(MS + "SwiGLU")
def swiglu(
    gate: Tensor, up: Tensor | None = None, *, activation_alpha: float = 1.0, activation_beta: float = 0.0,
    limit: float = 0.0, round_activation: int = 0,
) -> Tensor:  # fmt: skip
    """Return the gated activation; both halves may lie in one tensor."""
    if up is None:
        gate, up = gate.chunk(2, -1)
    bound = limit if limit > 0 else float("inf")
    return _gated(gate, up, "swiglu", activation_alpha, activation_beta, bound, after=False)
