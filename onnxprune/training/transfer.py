"""The cut of an ONNX file, made in the PyTorch module or state dict that it was exported from.

A weight of the file is found in the state dict by its name; else by what it holds, also transposed, as exporters write
the weights of linear layers. Of a layer, the vectors that lie along its outputs (bias, scale, running statistics)
follow its weight: exporters store equal vectors once, under one of their names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from onnxprune.errors import InputError
from onnxprune.graph.tensors import Array

Kept = Mapping[int, Sequence[int]]  # axis -> indices that stay
State = Mapping[str, torch.Tensor]

_LISTED = 5  # names that are listed of what was not found
_VECTORS = ("weight", "bias", "running_mean", "running_var")  # of a layer, that may lie along its outputs


@dataclass(frozen=True)
class WeightCut:
    """What stays of one weight of the file."""

    name: str  # of the weight in the original file
    kept: Kept
    array: Callable[[], Array | None] = lambda: None  # what it holds there, where that is known


def kept_of(
    state: State, cuts: Sequence[WeightCut], *, whole: Collection[str] = (), strict: bool = True
) -> dict[str, Kept]:
    """Return what stays of the axes of tensors, by their names; those that lose nothing are absent.

    Args:
        state: by name.
        cuts: of weights of the file.
        whole: weights of the file that were not cut, where these are known.
        strict: whether each of them has to be found.

    Raises:
        InputError: for a weight that is not found, and two cuts of one tensor that differ.
    """
    found, missing = _found(state, cuts)
    if missing and strict:
        listed = ", ".join(map(repr, missing[:_LISTED]))
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise InputError(
            f"weights that were cut are not in the state dict, by name or by what they hold: {listed}{more}. Export "
            "without folding, as with do_constant_folding=False and training=TrainingMode.PRESERVE, give the original "
            "file as source, or leave them out with strict=False"
        )
    kept = {name: each[0] for name, each in found.items() if all(_alike(one, each[0]) for one in each)}
    kept |= _followed(state, kept)
    unsettled = [name for name in found if name not in kept and not _is_whole(state, name, whole)]
    if unsettled:
        raise InputError(
            f"{unsettled[0]}: places that read it in the file keep different units of it, and nothing else tells what "
            "this tensor keeps: exporters store equal tensors once, as normalisations hold them that were never trained"
        )
    return kept


def cut_state(state: State, kept: Mapping[str, Kept]) -> dict[str, torch.Tensor]:
    """Return a state dict without the units that are gone; tensors that lose none are the same objects.

    Args:
        state: by name.
        kept: from `kept_of`.

    Raises:
        InputError: for a tensor that is smaller than expected.
    """
    return {name: _cut(name, tensor, kept.get(name, {})) for name, tensor in state.items()}


def _cut(name: str, tensor: torch.Tensor, kept: Kept) -> torch.Tensor:
    for axis, indices in kept.items():
        if axis >= tensor.ndim or (indices and max(indices) >= tensor.shape[axis]):
            shape = list(tensor.shape)
            raise InputError(f"{name}: has shape {shape}, but {max(indices)} is kept of axis {axis}: another network?")
        tensor = tensor.index_select(axis, torch.tensor(list(indices), device=tensor.device))
    return tensor


# -- which tensor is which weight ------------------------------------------------------------------------------


def _found(state: State, cuts: Sequence[WeightCut]) -> tuple[dict[str, list[Kept]], list[str]]:
    """Return what stays of tensors, by their names, for each place that reads them; and the weights that are none."""
    found: dict[str, list[Kept]] = {}
    missing, named = list[str](), {each.name: _by_name(state, each.name) for each in cuts}
    for each in cuts:
        name = named[each.name]
        if name is not None:
            found.setdefault(name, []).append(_turned(state[name], each))
    for each in cuts:
        if named[each.name] is None:
            match = _by_content(state, each, set(named.values()))
            if match is None:
                missing.append(each.name)
            else:
                found.setdefault(match[0], []).append(match[1])
    return found, missing


def _alike(one: Kept, other: Kept) -> bool:
    return {axis: tuple(each) for axis, each in one.items()} == {axis: tuple(each) for axis, each in other.items()}


def _by_name(state: State, name: str) -> str | None:
    """Return the tensor of this name; else the only one whose name ends so, or that ends the name."""
    if name in state:
        return name
    ends = [each for each in state if each.endswith(f".{name}") or name.endswith(f".{each}")]
    return ends[0] if len(ends) == 1 else None


def _turned(tensor: torch.Tensor, cut: WeightCut) -> Kept:
    """Return what stays by the axes of a tensor, which holds a weight as it is, or transposed."""
    if tensor.ndim != 2:
        return cut.kept
    array = cut.array()
    if array is None or array.ndim != 2 or _holds(tensor, array):
        return cut.kept
    is_turned = _holds(tensor, array.T) or tuple(tensor.shape) == array.shape[::-1] != array.shape
    return _transposed(cut.kept) if is_turned else cut.kept


def _transposed(kept: Kept) -> Kept:
    return {1 - axis: indices for axis, indices in kept.items()}


def _by_content(state: State, cut: WeightCut, taken: Collection[str | None]) -> tuple[str, Kept] | None:
    """Return the only tensor that holds a weight, with what stays of it; None where none or several do."""
    array = cut.array()
    if array is None:
        return None
    free = {name: tensor for name, tensor in state.items() if name not in taken}
    same = [(name, cut.kept) for name, tensor in free.items() if _holds(tensor, array)]
    if array.ndim == 2:
        same += [(name, _transposed(cut.kept)) for name, tensor in free.items() if _holds(tensor, array.T)]
    return same[0] if len({name for name, _ in same}) == 1 else None


def _holds(tensor: torch.Tensor, array: Array) -> bool:
    if tuple(tensor.shape) != array.shape:
        return False
    own: Array = tensor.detach().cpu().numpy()
    return bool(np.array_equal(own.astype(array.dtype), array))


# -- vectors that follow ---------------------------------------------------------------------------------------


def _followed(state: State, kept: Mapping[str, Kept]) -> dict[str, Kept]:
    """Return what stays of the vectors along the outputs of layers that were cut, where nothing else says it."""
    result: dict[str, Kept] = {}
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in kept):
        names = [name for name in _vectors(state, layer) if name not in kept]
        outputs = _outputs(state, layer, kept)
        if outputs is not None:
            size, indices = outputs
            result |= {name: {0: indices} for name in names if len(state[name]) == size}
    return result


def _is_whole(state: State, name: str, whole: Collection[str]) -> bool:
    """Whether another vector of the layer of this one is in the file, and was not cut."""
    layer = name.rpartition(".")[0]
    return state[name].ndim == 1 and any(each in whole and each != name for each in _vectors(state, layer))


def _vectors(state: State, layer: str) -> Iterator[str]:
    for each in _VECTORS:
        name = f"{layer}.{each}" if layer else each
        if name in state and state[name].ndim == 1:
            yield name


def _outputs(state: State, layer: str, kept: Mapping[str, Kept]) -> tuple[int, Sequence[int]] | None:
    """Return how many outputs a layer had, and which of them stay: by a vector of it, else by its weight."""
    weight = f"{layer}.weight" if layer else "weight"
    for name in (*_vectors(state, layer), weight):
        if 0 in kept.get(name, {}):
            return state[name].shape[0], kept[name][0]
    return None
