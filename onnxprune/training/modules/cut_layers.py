"""Layers in the place of those of PyTorch that cannot have the sizes that a cut leaves; what they hold has their names.

`nn.MultiheadAttention` has as many units in all of its heads as it reads, so that it cannot lose heads alone. A
`nn.GroupNorm` without weights says how many groups it has, and no tensor tells how many are left. Normalisations
without weights have nothing to multiply what they give with, so that it is what the file gives; see `counts`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.jit._trace import TracerWarning
from torch.nn import functional

from onnxprune.errors import InputError
from onnxprune.training.modules.counts import InstanceNorm, epsilon, rank_of

PROJECTIONS = ("q_proj_weight", "k_proj_weight", "v_proj_weight")  # where these are not stored as one


@dataclass(frozen=True)
class Heads:
    """What is left of the heads of an attention."""

    kept: tuple[int, ...]  # numbers of heads
    units: int  # of each head, of queries as of keys
    value_units: int  # of each head, of values


def heads_left(name: str, layer: nn.MultiheadAttention, rows: Sequence[Sequence[int]]) -> Heads:
    """Return what is left of the heads of an attention.

    Args:
        name: of the layer.
        layer: as it was.
        rows: that stay of the weights of queries, keys, and values, which have `embed_dim` rows each.

    Raises:
        InputError: when the three keep different heads, or heads of one keep different numbers of units.
    """
    heads = [[row // layer.head_dim for row in each] for each in rows]
    kept, sizes = [tuple(sorted(set(each))) for each in heads], [{each.count(head) for head in each} for each in heads]
    if len(set(kept)) > 1 or sizes[0] != sizes[1] or any(len(each) != 1 for each in sizes):
        told = " and ".join(f"{len(each)} rows of heads {list(which)}" for each, which in zip(rows, kept, strict=True))
        raise InputError(
            f"{name}: queries, keys and values keep {told}, where each has {layer.embed_dim} rows of "
            f"{layer.num_heads} heads: they have to keep the same heads, with the same number of units in each; the "
            "cut is of another network"
        )
    return Heads(kept[0], min(sizes[0]), min(sizes[2]))


class CutAttention(nn.Module):
    """An `nn.MultiheadAttention` that lost heads, or units of all heads, or of what it reads; it is called alike.

    Scores are scaled as they were. Heads that are gone count as zero where weights are averaged over heads, as they do
    in the file that was cut. A mask of each head may be of those that are left, or of all that were there.
    """

    in_proj_weight: torch.Tensor | None
    in_proj_bias: torch.Tensor | None
    bias_k: torch.Tensor | None
    bias_v: torch.Tensor | None
    out_proj: nn.Linear

    def __init__(self, layer: nn.MultiheadAttention, heads: Heads) -> None:
        """Take over the parameters of a layer; smaller ones are put in their places afterwards."""
        super().__init__()
        self.num_heads, self.head_dim, self.value_dim = len(heads.kept), heads.units, heads.value_units
        self.kept_heads, self.heads_before = heads.kept, layer.num_heads
        self.scale = None if heads.units == layer.head_dim else layer.head_dim**-0.5
        self.batch_first, self.dropout, self.add_zero_attn = layer.batch_first, layer.dropout, layer.add_zero_attn
        self._qkv_same_embed_dim = False  # layers around it take no shortcut past `forward` then
        for name in ("in_proj_weight", *PROJECTIONS, "in_proj_bias", "bias_k", "bias_v"):
            self.register_parameter(name, getattr(layer, name))
        self.out_proj = layer.out_proj
        self.train(layer.training)

    def forward(  # noqa: PLR0917 - as that of PyTorch
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what `nn.MultiheadAttention` returns: the outputs, and the weights where they are needed."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")  # as nn.MultiheadAttention does
        is_one = query.dim() == 2
        axis = 1 if is_one or not self.batch_first else 0  # of the batch, in what is returned
        queries, keys, values = self._by_head(*self._projected(query, key, value, is_one))
        if is_causal and key_padding_mask is None and not need_weights:
            mask = None
        else:
            padding = key_padding_mask.unsqueeze(0) if is_one and key_padding_mask is not None else key_padding_mask
            mask, is_causal = self._mask(attn_mask, padding, queries), False
        weights, dropout = None, self.dropout if self.training else 0.0
        if need_weights:
            attended, weights = self._weighed(queries, keys, values, mask, dropout)
            weights = weights.sum(1) / self.heads_before if average_attn_weights else weights
            weights = weights.squeeze(0) if is_one else weights
        else:
            attended = functional.scaled_dot_product_attention(
                queries, keys, values, mask, dropout, is_causal, scale=self.scale
            )
        outputs: torch.Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        if is_one:
            return outputs.squeeze(0), weights
        return outputs if axis == 0 else outputs.transpose(0, 1), weights

    def _projected(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_one: bool
    ) -> list[torch.Tensor]:
        """Return queries, keys and values, [batch, length, units of all heads]."""
        sizes = [self.num_heads * size for size in (self.head_dim, self.head_dim, self.value_dim)]
        if query is key and key is value and self.in_proj_weight is not None:
            packed = functional.linear(query, self.in_proj_weight, self.in_proj_bias)
            projected = list(packed.split(sizes, -1))
        else:
            whole, bias = self.in_proj_weight, self.in_proj_bias
            weights = [getattr(self, name) for name in PROJECTIONS] if whole is None else whole.split(sizes)
            biases = (None, None, None) if bias is None else bias.split(sizes)
            inputs = (query, key, value)
            projected = [functional.linear(*each) for each in zip(inputs, weights, biases, strict=True)]
        if is_one:
            return [each.unsqueeze(0) for each in projected]
        return projected if self.batch_first else [each.transpose(0, 1) for each in projected]

    def _by_head(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> list[torch.Tensor]:
        """Return all three as [batch, heads, length, units of a head], with what is added to keys and values."""
        batch = queries.shape[0]
        if self.bias_k is not None and self.bias_v is not None:
            keys, values = (
                torch.cat([each, bias.expand(batch, -1, -1)], 1)
                for each, bias in ((keys, self.bias_k), (values, self.bias_v))
            )
        if self.add_zero_attn:
            keys, values = (functional.pad(each, (0, 0, 0, 1)) for each in (keys, values))
        sizes = (self.head_dim, self.head_dim, self.value_dim)
        return [
            each.unflatten(-1, (self.num_heads, size)).transpose(1, 2)
            for each, size in zip((queries, keys, values), sizes, strict=True)
        ]

    def _mask(
        self, mask: torch.Tensor | None, padding: torch.Tensor | None, queries: torch.Tensor
    ) -> torch.Tensor | None:
        """Return what is added to scores: a mask of all heads or of each, and one of keys, [batch, length]."""
        added = int(self.bias_k is not None) + int(self.add_zero_attn)
        both = list[torch.Tensor]()
        if mask is not None:
            mask = _additive(mask, queries)
            both.append(mask if mask.dim() == 2 else self._of_heads(mask, queries.shape[0]))
        if padding is not None:
            both.append(_additive(padding, queries)[:, None, None, :])
        widened = [functional.pad(each, (0, added)) if added else each for each in both]
        if not widened:
            return None
        total: torch.Tensor = sum(widened[1:], widened[0])
        return total

    def _of_heads(self, mask: torch.Tensor, batch: int) -> torch.Tensor:
        """Return a mask of each head as [batch, heads, queries, keys]."""
        heads = mask.shape[0] // batch
        by_head: torch.Tensor = mask.unflatten(0, (batch, heads))
        return by_head[:, list(self.kept_heads)] if heads == self.heads_before else by_head

    def _weighed(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
        dropout: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what heads attend to, and the weights of it, [batch, heads, queries, keys]."""
        scores = queries * (self.scale or self.head_dim**-0.5) @ keys.transpose(-2, -1)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = functional.dropout(weights, dropout) if dropout else weights
        return weights @ values, weights


def _additive(mask: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return a mask that is added: where it says True, nothing is attended to."""
    if mask.dtype != torch.bool:
        return mask.to(scores.dtype)
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, float("-inf"))


class CutGroupNorm(nn.Module):
    """An `nn.GroupNorm` without weights that may have lost groups, or units of all: what it reads tells how many.

    With fewer units in each group it gives what it would if it divided by as many as there were.
    """

    def __init__(
        self, name: str, layer: nn.GroupNorm, groups: Mapping[int, int], *, ratio: float | None = None
    ) -> None:
        """Take what a layer says of itself, and how many groups there are by how many channels may be left.

        Args:
            name: of the layer.
            layer: as it was.
            groups: that are left, by the number of channels that are.
            ratio: of the numbers in a group before the cut to those that are left; None where channels alone were cut.
        """
        super().__init__()
        self.name, self.eps, self.groups, self.ratio = name, layer.eps, dict(groups), ratio
        self.units = layer.num_channels // layer.num_groups
        self.train(layer.training)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Return the value, [batch, channels, ...], normalised by groups.

        Raises:
            InputError: when so many channels cannot be left.
        """
        (channels,) = _sizes(value, range(1, 2))
        groups = self.groups.get(channels)
        if groups is None:
            counts = " or ".join(map(str, sorted(self.groups)))
            raise InputError(
                f"{self.name}: a GroupNorm without weights reads {channels} channels, where {counts} may be left by "
                "the cut: how many groups they are in cannot be told; write the layer anew"
            )
        ratio = self.units * groups / channels if self.ratio is None else self.ratio
        return _multiplied(functional.group_norm(value, groups, eps=self.eps * ratio), ratio)


class CutLayerNorm(nn.Module):
    """An `nn.LayerNorm` or `nn.RMSNorm` without weights that may have lost units: what it reads tells how many.

    It gives what it would if it divided by as many units as there were.
    """

    def __init__(self, layer: nn.LayerNorm | nn.RMSNorm) -> None:
        """Take what a layer says of itself."""
        super().__init__()
        self.normalized_shape, self.eps = tuple(layer.normalized_shape), layer.eps  # as it was before the cut
        self.normalize = functional.layer_norm if isinstance(layer, nn.LayerNorm) else functional.rms_norm
        self.train(layer.training)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Return the value, [..., units], normalised over the last axes."""
        sizes = _sizes(value, range(-len(self.normalized_shape), 0))
        ratio = math.prod(self.normalized_shape) / math.prod(sizes)
        eps = epsilon(self.eps, value.dtype) * ratio
        return _multiplied(self.normalize(value, sizes, eps=eps), ratio)


class CutInstanceNorm(nn.Module):
    """An `nn.InstanceNorm` without weights of which positions are gone.

    It gives what it would if it divided by as many as there were.
    """

    def __init__(self, layer: InstanceNorm, ratio: float) -> None:
        """Take what a layer says of itself, and the ratio of positions before the cut to those that are left."""
        super().__init__()
        self.rank, self.eps, self.ratio = rank_of(layer) + 2, layer.eps * ratio, ratio
        self.train(layer.training)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Return the value, [batch, channels, ...] or without a batch, normalised over positions."""
        is_one = value.dim() < self.rank
        given = value.unsqueeze(0) if is_one else value
        outputs = _multiplied(functional.instance_norm(given, eps=self.eps), self.ratio)
        return outputs.squeeze(0) if is_one else outputs


def _sizes(value: torch.Tensor, axes: Sequence[int]) -> list[int]:
    """Return sizes of a value that are the same in all calls."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)
        return [int(value.shape[axis]) for axis in axes]


def _multiplied(value: torch.Tensor, ratio: float) -> torch.Tensor:
    """Return the outputs of a normalisation as if it had divided by as many numbers as there were."""
    return value if ratio == 1 else value * ratio**0.5
