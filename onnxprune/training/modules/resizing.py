"""Modules of PyTorch whose tensors became smaller: what standard layers say of their own sizes follows.

Layers that cannot have the new sizes give way to ones of `cut_layers` that can, and normalisations divide by as many
units as the file does: see `counts`.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from onnxprune.errors import InputError
from onnxprune.training.modules.counts import INSTANCE_NORMS, count_as_before, units_of
from onnxprune.training.modules.cut_layers import (
    PROJECTIONS,
    CutAttention,
    CutGroupNorm,
    CutInstanceNorm,
    CutLayerNorm,
    heads_left,
)
from onnxprune.training.modules.transfer import WeightCut
from onnxprune.training.modules.twins import Kept

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_BARE = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)  # say their sizes also where they have no tensors that do
_FORWARDS = {each.forward for each in (*_BARE, *INSTANCE_NORMS)}
_FIXED = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)  # compute their sizes from others that stay

_CALLED = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")  # where a module runs
_OF_STATE = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)  # get the module as it is called
_FLAGS = (  # of these hooks
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_is_full_backward_hook",
)


def resized(
    module: nn.Module,
    state: Mapping[str, Any],
    kept: Mapping[str, Kept],
    elsewhere: Sequence[WeightCut] = (),
    ratios: Mapping[str, float] = MappingProxyType({}),
) -> nn.Module:
    """Return a copy of a module that has the tensors of a state dict, and layers of their sizes.

    Args:
        module: stays as it is.
        state: by the names of `module.state_dict()`, some tensors smaller.
        kept: what stayed of the axes of these.
        elsewhere: weights of the file that were cut and are in no tensor, such as scales of layers that have none.
        ratios: of what normalisations divide by in the file to what is left of it, by the name of the layer, where that
            is known; else their units tell.

    Raises:
        InputError: for a layer whose class cannot have such sizes, and one without tensors that may have lost units;
            for a module that cannot be copied, or does not load what it gives as its state.
    """
    try:
        network = copy.deepcopy(module)
    except Exception as error:  # whatever the code of a user raises, or PyTorch for tensors that were computed
        raise InputError(f"the module cannot be copied: {_line(error)}; cut its state dict instead") from None
    before = network.state_dict()
    changed = {name for name, value in state.items() if _is_resized(value, before[name])}
    shapes = {name: value.shape for name, value in before.items() if isinstance(value, torch.Tensor)}
    network = _with_cut_layers(network, _Cuts(shapes, changed, kept, elsewhere, ratios))
    put: dict[int, tuple[Any, Any]] = {}  # by the identity of a tensor that goes: it, and what stands in its place
    counted = {}  # normalisations by name, each with the ratio
    for layer_name, layer in network.named_modules():
        units = units_of(layer)
        own = [name for name in changed if name.rpartition(".")[0] == layer_name]
        _check_sizes(layer, layer_name, changed, elsewhere)
        groups = _groups(layer, layer_name, before, kept) if own else 1
        for name in own:
            _put(layer, name.rpartition(".")[2], state[name], put)
        if own:
            _restate(layer, groups)
        counted[layer_name] = layer, ratios.get(layer_name, units / units_of(layer))
    try:
        network.load_state_dict(dict(state))
    except Exception as error:  # as where hooks give names to its state that they do not take back
        raise InputError(
            f"the module does not load its own state, with the tensors that are cut: {_line(error)}; cut the state "
            "dict instead, and write the module anew"
        ) from None
    done = set[int]()
    for layer, ratio in counted.values():
        count_as_before(layer, ratio, done)
    return network


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check_sizes(layer: nn.Module, name: str, changed: Collection[str], elsewhere: Sequence[WeightCut]) -> None:
    """Raise InputError for a layer that cannot have other sizes, or may need others that no tensor tells."""
    if isinstance(layer, _FIXED) and _has_any(name, changed):
        raise InputError(
            f"{name}: a {type(layer).__name__} cannot lose units of its own, as it computes its sizes from "
            "others; cut the state dict instead, and write the layer anew"
        )
    if elsewhere and isinstance(layer, _BARE) and _is_bare(layer):  # with a `forward` of its own
        raise _untold(name, layer, min(elsewhere, key=lambda each: each.name))


def _has_any(layer_name: str, names: Collection[str]) -> bool:
    """Whether any of these is a tensor of a layer, or of what is inside of it."""
    return any(not layer_name or name.startswith(f"{layer_name}.") for name in names)


def _is_bare(layer: nn.Module) -> bool:
    return next(layer.parameters(), None) is None


# -- layers in the place of others -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cuts:
    """What was cut of a network."""

    shapes: Mapping[str, Sequence[int]]  # of its tensors, before
    changed: Collection[str]  # tensors that became smaller
    kept: Mapping[str, Kept]  # what stays of their axes
    elsewhere: Sequence[WeightCut]  # of the file, in no tensor
    ratios: Mapping[str, float]  # by normalisation, of what it divides by in the file to what is left


def _with_cut_layers(network: nn.Module, cut: _Cuts) -> nn.Module:
    """Return a network with layers of `cut_layers` for those that cannot have the sizes that are left."""
    others: dict[int, nn.Module] = {}  # by the identity of the layer whose place they take
    for name, layer in network.named_modules():
        other = _other(name, layer, cut)
        if other is not None:
            _take_place(name, layer, other)
            others[id(layer)] = other
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if id(child) in others:
                parent._modules[name] = others[id(child)]
        if isinstance(parent, nn.TransformerEncoder) and others:
            parent.use_nested_tensor = False  # which its shortcut alone can read
    return others.get(id(network), network)


def _other(name: str, layer: nn.Module, cut: _Cuts) -> nn.Module | None:
    """Return the layer that a layer gives way to; None where it stays."""
    if type(layer).forward is nn.MultiheadAttention.forward and _has_any(name, cut.changed):
        assert isinstance(layer, nn.MultiheadAttention)
        return CutAttention(layer, heads_left(name, layer, _rows(name, layer, cut.kept)))
    if not (cut.changed or cut.elsewhere) or type(layer).forward not in _FORWARDS or not _is_bare(layer):
        return None
    if isinstance(layer, nn.GroupNorm):
        return CutGroupNorm(name, layer, _groups_by_channels(name, layer, cut), ratio=cut.ratios.get(name))
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        return CutLayerNorm(layer)
    return (
        CutInstanceNorm(layer, cut.ratios[name]) if isinstance(layer, INSTANCE_NORMS) and name in cut.ratios else None
    )


def _take_place(name: str, layer: nn.Module, other: nn.Module) -> None:
    """Let a layer call the hooks of the one whose place it takes.

    Raises:
        InputError: for a layer with other tensors of its own, as parametrisations and norms of weights give it.
    """
    more = sorted({*layer.state_dict()} ^ {*other.state_dict()})
    if more:
        raise InputError(
            f"{name}: a {type(layer).__name__} with {more[0]!r} cannot give way to a layer that has its weights alone: "
            "remove parametrisations first, and register them on the result"
        )
    for each in (*_CALLED, *_FLAGS, *_OF_STATE):
        setattr(other, each, getattr(layer, each))
    hooks: Mapping[int, Any] = layer._load_state_dict_pre_hooks
    for hook in hooks.values():  # one that takes the module holds it: it shall get the other one
        if hook.with_module:
            other.register_load_state_dict_pre_hook(hook.hook)
        else:
            other._register_load_state_dict_pre_hook(hook.hook)


def _rows(name: str, layer: nn.MultiheadAttention, kept: Mapping[str, Kept]) -> list[Sequence[int]]:
    """Return which rows stay of the weights of queries, keys and values."""
    start, size = f"{name}." if name else "", layer.embed_dim
    if layer.in_proj_weight is None:
        return [kept.get(f"{start}{each}", {}).get(0, range(size)) for each in PROJECTIONS]
    rows = kept.get(f"{start}in_proj_weight", {}).get(0, range(3 * size))
    return [[row - part * size for row in rows if row // size == part] for part in range(3)]


def _groups_by_channels(name: str, layer: nn.GroupNorm, cut: _Cuts) -> dict[int, int]:
    """Return how many groups of a normalisation without weights are left, by how many channels are.

    Exporters give such a layer a scale of ones: with an entry for each group, or from operator set 21 on for each
    channel. The weights that make its channels, and those that read them, tell the rest: a cut of as many channels,
    that leaves the same number in each group of which anything is left, may be of this layer. What leaves other numbers
    cannot be.

    Args:
        name: of the layer.
        layer: as it was.
        cut: of the network.

    Raises:
        InputError: where two cuts leave as many channels in different numbers of groups; and where a weight has an
            unknown shape, so that it may be a scale.
    """
    groups, inside = layer.num_groups, layer.num_channels // layer.num_groups
    arrays = [(each, each.array()) for each in cut.elsewhere]
    cuts = [(cut.shapes[name], each) for name, each in cut.kept.items()]
    unknown = next((each for each, array in arrays if array is None), None)
    if unknown is not None:
        raise _untold(name, layer, unknown)
    told = {(layer.num_channels, groups)}
    known = [(array.shape, each.kept) for each, array in arrays if array is not None]
    told |= {(len(kept[0]) * inside, len(kept[0])) for shape, kept in known if shape == (groups,)}
    for shape, kept in (*known, *cuts):
        for axis, indices in kept.items():
            if shape[axis] == layer.num_channels and (left := _groups_left(indices, inside)):
                told.add((len(indices), left))
    counts: dict[int, int] = {}
    for channels, left in sorted(told):
        if counts.setdefault(channels, left) != left:
            raise InputError(
                f"{name}: a GroupNorm without weights has {counts[channels]} or {left} groups where {channels} of its "
                f"{layer.num_channels} channels are left: no tensor says which; cut the state dict instead, and write "
                "the layer anew"
            )
    return counts


def _groups_left(indices: Sequence[int], inside: int) -> int | None:
    """Return of how many groups channels are left, by their indices; None where of some more than of others."""
    sizes = Counter(index // inside for index in indices)
    return len(sizes) if len(set(sizes.values())) == 1 else None


def _untold(name: str, layer: nn.Module, cut: WeightCut) -> InputError:
    return InputError(
        f"{name}: a {type(layer).__name__} without weights may lose units, as {cut.name!r} did: no "
        "tensor says how many; cut the state dict instead, and write the layer anew"
    )


# -- sizes of layers -------------------------------------------------------------------------------------------


def _is_resized(value: Any, before: Any) -> bool:
    """Whether a tensor has another shape; what else a module keeps in its state has none."""
    return isinstance(value, torch.Tensor) and value.shape != before.shape


def _put(layer: nn.Module, name: str, tensor: torch.Tensor, put: dict[int, tuple[Any, Any]]) -> None:
    """Let a layer have a tensor; layers that shared the one in its place share it, too.

    Raises:
        InputError: for a layer without a tensor of this name.
    """
    old = getattr(layer, name, None)
    if old is None:
        raise InputError(
            f"a {type(layer).__name__} has {name!r} in its state and no such tensor, as hooks give it other names: cut "
            "the state dict instead"
        )
    is_learned = isinstance(old, nn.Parameter)
    if id(old) not in put:
        new = tensor.clone()
        put[id(old)] = old, nn.Parameter(new, requires_grad=old.requires_grad) if is_learned else new
    _, new = put[id(old)]
    if is_learned:
        setattr(layer, name, new)
    else:
        layer.register_buffer(name, new, persistent=name not in layer._non_persistent_buffers_set)


def _groups(layer: nn.Module, name: str, before: Mapping[str, torch.Tensor], kept: Mapping[str, Kept]) -> int:
    """Return the groups of a layer of which anything is left: whole groups go, or units inside of all groups."""
    old = int(getattr(layer, "num_groups" if isinstance(layer, nn.GroupNorm) else "groups", 1))
    key = f"{name}.weight" if name else "weight"
    if not isinstance(layer, (*_CONVOLUTIONS, *_TRANSPOSED, nn.GroupNorm)) or 0 not in kept.get(key, {}):
        return old
    share = before[key].shape[0] // old
    return len({index // share for index in kept[key][0]})


def _restate(layer: nn.Module, groups: int) -> None:
    """Let a layer say its new sizes."""
    for kinds, sizes in _SIZES:
        if isinstance(layer, kinds):
            for name, value in sizes(layer, groups).items():
                setattr(layer, name, value)


def _sizes_of_convolution(layer: Any, groups: int) -> dict[str, Any]:
    outputs, inside = layer.weight.shape[:2]
    return {"out_channels": outputs, "in_channels": inside * groups, "groups": groups}


def _sizes_of_transposed(layer: Any, groups: int) -> dict[str, Any]:
    inputs, inside = layer.weight.shape[:2]
    return {"in_channels": inputs, "out_channels": inside * groups, "groups": groups}


def _sizes_of_batch_norm(layer: Any, _: int) -> dict[str, Any]:
    known = layer.weight if layer.weight is not None else layer.running_mean
    return {"num_features": len(known)}


def _sizes_of_group_norm(layer: Any, groups: int) -> dict[str, Any]:
    return {"num_channels": len(layer.weight), "num_groups": groups}


_SIZES: tuple[tuple[Any, Callable[[Any, int], dict[str, Any]]], ...] = (
    (nn.Linear, lambda layer, _: {"out_features": layer.weight.shape[0], "in_features": layer.weight.shape[1]}),
    (_CONVOLUTIONS, _sizes_of_convolution),
    (_TRANSPOSED, _sizes_of_transposed),
    (_BATCH_NORMS, _sizes_of_batch_norm),
    (nn.GroupNorm, _sizes_of_group_norm),
    ((nn.LayerNorm, nn.RMSNorm), lambda layer, _: {"normalized_shape": tuple(layer.weight.shape)}),
    (nn.Embedding, lambda layer, _: {"num_embeddings": len(layer.weight), "embedding_dim": layer.weight.shape[1]}),
    (nn.PReLU, lambda layer, _: {"num_parameters": len(layer.weight)}),
)
