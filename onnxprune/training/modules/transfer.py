"""The cut of an ONNX file, made in the PyTorch module or state dict that it was exported from.

A weight of the file is found in the state dict by its name; else by what it holds, also transposed, as exporters write
the weights of linear layers. Of a layer, the vectors that lie along its outputs (bias, scale, running statistics)
follow its weight: exporters store equal vectors once, under one of their names. Tensors that share memory are one: what
stays of one holds for all. Constants that exporters add, such as scales of ones, are held by no tensor and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from onnxprune.errors import InputError, OptionError
from onnxprune.graph.tensors import Array

Kept = Mapping[int, Sequence[int]]  # axis -> indices that stay
State = Mapping[str, Any]  # tensors by name, and what else modules keep in their state

_LISTED = 5  # names that are listed of what was not found
_VECTORS = ("weight", "bias", "running_mean", "running_var")  # of a layer, that may lie along its outputs
# Vectors along the outputs of several weights of their layer, one after the other.
_ALONG = {"in_proj_bias": ("q_proj_weight", "k_proj_weight", "v_proj_weight")}


@dataclass(frozen=True)
class WeightCut:
    """What stays of one weight of the file."""

    name: str  # of the weight in the original file
    kept: Kept
    array: Callable[[], Array | None] = lambda: None  # what it holds there, where that is known


def state_of(network: Any) -> State:
    """Return the state dict of a module, or what is one.

    Raises:
        OptionError: for anything else.
    """
    if isinstance(network, Mapping):
        return network
    if not isinstance(network, torch.nn.Module):
        raise OptionError(f"network must be a torch.nn.Module or a state dict, got {type(network).__name__}")
    state: State = network.state_dict()
    return state


def kept_of(
    state: State, cuts: Sequence[WeightCut], *, whole: Collection[str] = (), strict: bool = True
) -> tuple[dict[str, Kept], list[WeightCut]]:
    """Return what stays of the axes of tensors, by their names, and the weights that were cut and are in no tensor.

    Tensors that lose nothing are absent.

    Args:
        state: by name.
        cuts: of weights of the file.
        whole: weights of the file that were not cut, where these are known.
        strict: whether each of them has to be found.

    Raises:
        InputError: for a weight that is not found or has another shape, and two cuts of one tensor that differ.
    """
    state = _tensors(state)
    shared = _shared(state)
    found, missing = _found(state, cuts, shared, {_by_name(state, name) for name in whole})
    unknown = [each.name for each in missing if not _is_uniform(each.array())]
    if unknown and strict:
        listed = ", ".join(map(repr, unknown[:_LISTED]))
        more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        raise InputError(
            f"weights that were cut are not in the state dict, by name or by what they hold: {listed}{more}. Export "
            "without folding, as with do_constant_folding=False and training=TrainingMode.PRESERVE, give the original "
            "file as source, or leave them out with strict=False"
        )
    alike = {name: each[0] for name, each in found.items() if all(_alike(one, each[0]) for one in each)}
    kept = {name: alike[first] for name, first in shared.items() if first in alike}
    kept |= _followed(state, kept)
    unsettled = [name for name in found if name not in kept and not _is_whole(state, name, whole)]
    if unsettled:
        raise InputError(
            f"{unsettled[0]}: places that read it in the file keep different units of it, and nothing else tells what "
            "this tensor keeps: exporters store equal tensors once, as normalisations hold them that were never trained"
        )
    return kept, missing


def cut_state(state: State, kept: Mapping[str, Kept]) -> dict[str, Any]:
    """Return a state dict without the units that are gone; tensors that lose none are the same objects.

    Those that shared memory are one object, too.

    Args:
        state: by name.
        kept: from `kept_of`.

    Raises:
        InputError: for a tensor that is smaller than expected.
    """
    shared, smaller = _shared(_tensors(state)), dict[str, Any]()
    for name, tensor in state.items():
        first = smaller.get(shared[name]) if name in kept else None
        smaller[name] = _cut(name, tensor, kept.get(name, {})) if first is None else first
    return smaller


def _cut(name: str, tensor: torch.Tensor, kept: Kept) -> torch.Tensor:
    for axis, indices in kept.items():
        if axis >= tensor.ndim or (indices and max(indices) >= tensor.shape[axis]):
            shape = list(tensor.shape)
            raise InputError(f"{name}: has shape {shape}, but {max(indices)} is kept of axis {axis}: another network?")
        tensor = tensor.index_select(axis, torch.tensor(list(indices), device=tensor.device))
    return tensor


# -- which tensor is which weight ------------------------------------------------------------------------------


def _tensors(state: State) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _shared(state: State) -> dict[str, str]:
    """Return the name of the first tensor in the memory of each: tied weights have several names."""
    first: dict[object, str] = {}
    names = dict[str, str]()
    for name, tensor in state.items():
        has_memory = tensor.numel() > 0 and tensor.device.type != "meta"
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if has_memory else name
        names[name] = first.setdefault(place, name)
    return names


def _found(
    state: State, cuts: Sequence[WeightCut], shared: Mapping[str, str], whole: Collection[str | None]
) -> tuple[dict[str, list[Kept]], list[WeightCut]]:
    """Return what stays of tensors, by their first names, for each place that reads them; and the weights in none."""
    found: dict[str, list[Kept]] = {}
    missing, named = list[WeightCut](), {each.name: _by_name(state, each.name) for each in cuts}
    for each in cuts:
        name = named[each.name]
        if name is not None:
            found.setdefault(shared[name], []).append(_turned(name, state[name], each))
    taken = {*whole, *named.values()}
    free = {name: tensor for name, tensor in state.items() if name not in taken}
    for each in cuts:
        if named[each.name] is None:
            match = _by_content(free, each, shared)
            if match is None:
                missing.append(each)
            else:
                found.setdefault(match[0], []).append(match[1])
    return found, missing


def _is_uniform(array: Array | None) -> bool:
    """Whether it holds one number alone, as what exporters add does: the scale of a layer that has none."""
    return array is not None and array.size > 0 and bool((array == array.flat[0]).all())


def _alike(one: Kept, other: Kept) -> bool:
    return {axis: tuple(each) for axis, each in one.items()} == {axis: tuple(each) for axis, each in other.items()}


def _by_name(state: State, name: str) -> str | None:
    """Return the tensor of this name; else the only one whose name ends so, or that ends the name."""
    if name in state:
        return name
    ends = [each for each in state if each.endswith(f".{name}") or name.endswith(f".{each}")]
    return ends[0] if len(ends) == 1 else None


def _turned(name: str, tensor: torch.Tensor, cut: WeightCut) -> Kept:
    """Return what stays by the axes of a tensor, which holds a weight as it is, transposed, or without axes of size 1.

    Raises:
        InputError: for a tensor of another shape.
    """
    array = cut.array()
    if array is None:
        return cut.kept
    forms = [(kept, form) for kept, form in _forms(cut.kept, array) if form.shape == tuple(tensor.shape)]
    if not forms:
        shape = list(tensor.shape)
        raise InputError(f"{name}: has shape {shape}, but {list(array.shape)} in the original file: another network?")
    return next((kept for kept, form in forms if _holds(tensor, form)), forms[0][0])


def _forms(kept: Kept, array: Array) -> Iterator[tuple[Kept, Array]]:
    """Yield in what forms a tensor may hold a weight: as it is, transposed, without axes of size 1; with what stays."""
    yield kept, array
    if array.ndim == 2:
        yield {1 - axis: indices for axis, indices in kept.items()}, array.T
    axes = [axis for axis, size in enumerate(array.shape) if size != 1]
    if len(axes) < array.ndim and set(kept) <= set(axes):
        yield {axes.index(axis): indices for axis, indices in kept.items()}, array.squeeze()


def _by_content(free: State, cut: WeightCut, shared: Mapping[str, str]) -> tuple[str, Kept] | None:
    """Return the only tensor that holds a weight, with what stays of it; None where none or several do."""
    array = cut.array()
    if array is None:
        return None
    forms = list(_forms(cut.kept, array))
    same = [(shared[name], kept) for kept, form in forms for name, tensor in free.items() if _holds(tensor, form)]
    return same[0] if len({name for name, _ in same}) == 1 else None


def _holds(tensor: torch.Tensor, array: Array) -> bool:
    if tuple(tensor.shape) != array.shape:
        return False
    plain = tensor.detach().cpu()
    own: Array = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()  # NumPy has no bfloat16
    return bool(np.array_equal(own.astype(array.dtype), array))


# -- vectors that follow ---------------------------------------------------------------------------------------


def _followed(state: State, kept: Mapping[str, Kept]) -> dict[str, Kept]:
    """Return what stays of the vectors along the outputs of layers that were cut, where nothing else says it."""
    result: dict[str, Kept] = {}
    for start in dict.fromkeys(_start(name) for name in kept):
        names = [name for name in _vectors(state, start) if name not in kept]
        outputs = _outputs(state, start, kept)
        if outputs is not None:
            size, indices = outputs
            result |= {name: {0: indices} for name in names if len(state[name]) == size}
    return result | _along_several(state, kept)


def _along_several(state: State, kept: Mapping[str, Kept]) -> dict[str, Kept]:
    """Return what stays of the vectors along several weights, where nothing else says it."""
    result: dict[str, Kept] = {}
    for name in state:
        layer, _, own = name.rpartition(".")
        weights = [f"{layer}.{each}" if layer else each for each in _ALONG.get(own, ())]
        if name in kept or not weights or not all(each in state for each in weights):
            continue
        indices, start = list[int](), 0
        for each in weights:
            size = state[each].shape[0]
            indices += [start + index for index in kept.get(each, {}).get(0, range(size))]
            start += size
        if len(indices) < start == len(state[name]):
            result[name] = {0: indices}
    return result


def _is_whole(state: State, name: str, whole: Collection[str]) -> bool:
    """Whether another vector of the layer of this one is in the file, and was not cut."""
    return state[name].ndim == 1 and any(each in whole and each != name for each in _vectors(state, _start(name)))


def _start(name: str) -> str:
    """Return what the name of a weight has in common with those of its vectors: "a." of "a.bias", "a.in_proj_"."""
    end = next((each for each in _VECTORS if name.endswith(each)), name.rpartition(".")[2])
    return name.removesuffix(end)


def _vectors(state: State, start: str) -> Iterator[str]:
    for each in _VECTORS:
        name = f"{start}{each}"
        if name in state and state[name].ndim == 1:
            yield name


def _outputs(state: State, start: str, kept: Mapping[str, Kept]) -> tuple[int, Sequence[int]] | None:
    """Return how many outputs a layer had, and which of them stay: by a vector of it, else by its weight."""
    for name in (*_vectors(state, start), f"{start}weight"):
        if 0 in kept.get(name, {}):
            return state[name].shape[0], kept[name][0]
    return None
