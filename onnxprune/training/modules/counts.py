"""Counts of units that normalisations divide by: in the file those before the cut, so that layers do the same.

A layer divides by the units that it reads. With d of them before the cut and d' after, what it gives is that of the
file when its weight is multiplied by the root of d/d', and its epsilon by d/d': the file is written so
(`dependency.rules.coupling.Compensation`). So layers stay what they are, with other numbers; those without weights give
way to ones of `cut_layers`. Which layer a node of the file comes of is told by the scope of the node.

Of the file, a mean goes over what is left, and over zeros in the place of the rest; a LayerNorm subtracts the mean of
what is left. Layers that know nothing of a cut do just that where what is gone is zero, or that mean: so the oracle in
PyTorch (`same_outputs`) puts these in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn

from onnxprune.errors import InputError
from onnxprune.surgery.readings import Correction
from onnxprune.training.modules.twins import APART, Kept, nearness

InstanceNorm: TypeAlias = nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_CENTRED: Any = (nn.LayerNorm, nn.GroupNorm, *INSTANCE_NORMS)
_NORMS: Any = (*_CENTRED, nn.RMSNorm)
_IN_PARTS = "ReduceMean"  # where a layer is written as several nodes; of a centred one the file has another mean

Filler: TypeAlias = Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]


def by_layer(module: nn.Module, places: Iterable[Correction]) -> tuple[dict[str, Correction], list[str]]:
    """Return the nodes that layers of a module compute, by the name of the layer, and the names of all others.

    A layer computes as such a node does when it is told the ratio of units; the means of code of one's own do not.
    """
    first: dict[int, str] = {}
    paths = {name: first.setdefault(id(layer), name) for name, layer in module.named_modules(remove_duplicate=False)}
    layers = dict(module.named_modules())
    found, others = dict[str, Correction](), list[str]()
    for place in places:
        names = {paths[name] for name in _nearest(paths, place.called)}
        name = names.pop() if len(names) == 1 else ""
        layer = layers.get(name)
        is_known = isinstance(layer, _NORMS) and not (isinstance(layer, _CENTRED) and place.op == _IN_PARTS)
        if not is_known or found.setdefault(name, place).ratio != place.ratio:
            others.append(place.node)
    return found, others


def _nearest(paths: Iterable[str], called: Iterable[str]) -> list[str]:
    """Return the modules that a place is called after as nearly as after any."""
    near = {name: max((nearness((name,), each) for each in called), default=APART) for name in paths}
    nearest = max(near.values())
    return [name for name, each in near.items() if each == nearest > APART]


def units_of(layer: nn.Module) -> int:
    """Return how many units a layer says that it divides by; those of InstanceNorm are positions, which it says not."""
    if isinstance(layer, nn.GroupNorm):
        return layer.num_channels // layer.num_groups
    return math.prod(layer.normalized_shape) if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) else 1


def count_as_before(layer: nn.Module, ratio: float, done: set[int]) -> None:
    """Let a normalisation give what it would if it divided by as many units as there were.

    Args:
        layer: has as many units as are left.
        ratio: of the units before the cut to those that are left.
        done: identities of weights that were multiplied already, as layers may share them.
    """
    if ratio == 1 or not isinstance(layer, _NORMS) or not isinstance(layer.weight, nn.Parameter):
        return
    layer.eps = epsilon(layer.eps, layer.weight.dtype) * ratio
    if id(layer.weight) not in done:
        done.add(id(layer.weight))
        with torch.no_grad():
            layer.weight.mul_(ratio**0.5)


def epsilon(stated: float | None, dtype: torch.dtype) -> float:
    """Return what a layer adds under the root; a RMSNorm that does not say it takes what its type tells apart."""
    return torch.finfo(dtype).eps if stated is None else stated


def rank_of(layer: Any) -> int:
    """Return over how many axes a layer goes, the last ones."""
    if isinstance(layer, nn.LayerNorm):
        return len(layer.normalized_shape)
    return next(number for number, kind in enumerate(INSTANCE_NORMS, 1) if isinstance(layer, kind))


# -- what the oracle puts in the place of units that are gone --------------------------------------------------


def fillers(module: nn.Module, places: Mapping[str, Correction], kept: Mapping[str, Kept]) -> dict[str, Filler]:
    """Return what to put in front of the layers of a module, by their names.

    Args:
        module: as it was.
        places: the nodes of the file that its layers are.
        kept: what stays of the axes of its tensors.

    Raises:
        InputError: for a layer where nothing tells which units are gone.
    """
    made = {}
    for name, place in places.items():
        made[name] = _filler(module.get_submodule(name), place, kept.get(f"{name}.weight", {}))
    untold = next((name for name, each in made.items() if each is None), None)
    if untold is not None:
        raise InputError(
            f"example: {untold} lost units in each group, and nothing in the file tells which: leave example out"
        )
    return {name: each for name, each in made.items() if each is not None}


def _filler(layer: nn.Module, place: Correction, weight: Kept) -> Filler | None:
    """Return a hook that puts what counts for nothing in the place of units that are gone; None where nothing tells.

    Args:
        layer: as it was.
        place: the node of the file that it is.
        weight: what stayed of the axes of its weight; empty where that lost nothing, and where it has none.
    """
    kept: Kept | None = place.kept
    if isinstance(layer, nn.GroupNorm):  # of which exporters write the groups as an axis
        kept = {1: weight[0]} if weight else place.kept if place.op == "GroupNormalization" else None
    elif weight and isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        kept = {axis - len(layer.normalized_shape): indices for axis, indices in weight.items()}
    return None if kept is None else partial(_fill, kept)


def _fill(kept: Kept, layer: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Return what a layer is given, with zeros in the place of what is gone, or the mean of what stays."""
    value, *rest = given
    stays = torch.ones_like(value, dtype=torch.bool)
    for axis, indices in kept.items():
        gone = sorted({*range(value.shape[axis])} - {*indices})
        stays.index_fill_(axis, torch.tensor(gone, dtype=torch.long, device=value.device), False)
    zeroed = torch.where(stays, value, torch.zeros_like(value))
    if not isinstance(layer, _CENTRED):
        return zeroed, *rest
    shape = (value.shape[0], layer.num_groups, -1) if isinstance(layer, nn.GroupNorm) else value.shape
    axes = (-1,) if isinstance(layer, nn.GroupNorm) else tuple(range(-rank_of(layer), 0))
    counts = stays.to(value.dtype).reshape(shape).sum(axes, keepdim=True)
    means = zeroed.reshape(shape).sum(axes, keepdim=True) / counts.clamp(min=1)  # of groups that are gone as a whole
    return torch.where(stays, value, means.expand(zeroed.reshape(shape).shape).reshape(value.shape)), *rest
