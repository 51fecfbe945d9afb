"""The cut of an ONNX file, made in the PyTorch module or state dict that it was exported from.

A weight of the file is found in the state dict by its name; else by what it holds, also transposed, as exporters write
the weights of linear layers. Of a layer, the vectors that lie along its outputs (bias, scale, running statistics)
follow its weight: exporters store equal vectors once, under one of their names. Tensors that share memory are one: what
stays of one holds for all. Constants that exporters add, such as scales of ones, are held by no tensor and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from onnxprune.errors import InputError, OptionError
from onnxprune.graph.tensors import Array
from onnxprune.surgery.readings import Reading
from onnxprune.training.modules.parametrised import check_plain
from onnxprune.training.modules.twins import Kept, Twins, cannot_tell, kept_of_twins, twins_of

State = Mapping[str, Any]  # tensors by name, and what else modules keep in their state

_LISTED = 5  # names that are listed of what was not found
_UNFOLDED = (
    "Export without folding, as with do_constant_folding=False and training=TrainingMode.PRESERVE, or with "
    "optimize=False where dynamo=True"
)
_VECTORS = ("weight", "bias", "running_mean", "running_var")  # of a layer, that may lie along its outputs
# Vectors along the outputs of several weights of their layer, one after the other.
_ALONG = {"in_proj_bias": ("q_proj_weight", "k_proj_weight", "v_proj_weight")}


@dataclass(frozen=True)
class WeightCut:
    """What stays of one weight of the file."""

    name: str  # of the weight in the original file
    kept: Kept
    array: Callable[[], Array | None] = lambda: None  # what it holds there, where that is known
    everywhere: bool = True  # whether no place of the file reads it whole


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
    state: State,
    cuts: Sequence[WeightCut],
    *,
    whole: Collection[str] | None = None,
    strict: bool = True,
    readings: Callable[[], Sequence[Reading]] = tuple,
) -> tuple[dict[str, Kept], list[WeightCut]]:
    """Return what stays of the axes of tensors, by their names, and the weights that were cut and are in no tensor.

    Tensors that lose nothing are absent.

    Args:
        state: by name.
        cuts: of weights of the file.
        whole: weights of the file that were not cut; None where these are not known.
        strict: whether each of them has to be found.
        readings: returns the places of the file that read weights; none where these are not known.

    Raises:
        InputError: for a weight that is not found or has another shape, and equal tensors of which the file cuts some,
            where nothing tells which.
    """
    state = _tensors(state)
    shared = _shared(state)
    found, missing = _found(state, cuts, shared, whole)
    unknown = [each.name for each in missing if not _is_uniform(each.array())]
    if unknown and strict:
        check_plain(state, (), is_complete=False)
        listed = ", ".join(map(repr, unknown[:_LISTED]))
        more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        raise InputError(
            f"weights that were cut are not in the state dict, by name or by what they hold: {listed}{more}. "
            f"{_UNFOLDED}, give the original file as source, or leave them out with strict=False"
        )
    if whole is not None:
        _check_folded(state, cuts, whole)
    kept, nowhere = _settled(state, shared, found, whole or (), readings)
    check_plain(state, kept, is_complete=True)
    return kept, missing + nowhere


def _settled(
    state: State,
    shared: Mapping[str, str],
    found: Sequence[tuple[WeightCut, Twins]],
    whole: Collection[str],
    readings: Callable[[], Sequence[Reading]],
) -> tuple[dict[str, Kept], list[WeightCut]]:
    """Return what stays of tensors, by all of their names, and the weights that are none of these."""
    plain = [each for _, each in found if each.is_one and _are_alike(each.kept)]
    first = {each.names[0]: each.kept[0] for each in plain}
    kept = {name: first[own] for name, own in shared.items() if own in first}
    kept |= _followed(state, kept)
    told, missing = dict[str, list[Kept]](), list[WeightCut]()
    read: Sequence[Reading] | None = None
    for cut, twins in found:
        unsettled = [name for name in twins.names if name not in kept and not _is_whole(state, name, whole)]
        if unsettled:
            read = readings() if read is None else read
            left_of = kept_of_twins(twins, unsettled, read)
            missing += [cut] if left_of is None else []
            for name, left in (left_of or {}).items():
                told.setdefault(name, []).extend([_turned(name, state[name], replace(cut, kept=left))] if left else [])
    for name, each in told.items():
        if each and not _are_alike(each):
            raise cannot_tell(Twins(name, (name,), tuple(each), everywhere=False, is_named=True))
        first[name] = each[0] if each else {}
    kept |= {name: first[own] for name, own in shared.items() if first.get(own)}
    followed = _followed(state, kept)
    return kept | {name: each for name, each in followed.items() if shared[name] not in told}, missing


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
    state: State, cuts: Sequence[WeightCut], shared: Mapping[str, str], whole: Collection[str] | None
) -> tuple[list[tuple[WeightCut, Twins]], list[WeightCut]]:
    """Return the tensors that each weight may be, by their first names, with what stays of it; and the weights in none.

    What stays is by the axes of the tensor for one alone, by those of the weight for several.
    """
    named = {each.name: _by_name(state, each.name) for each in cuts}
    taken = {name for name in (*named.values(), *(_by_name(state, name) for name in whole or ())) if name}
    free = {name: tensor for name, tensor in state.items() if name not in taken}
    stored = {shared[name] for name in taken}
    twins = twins_of(state, stored, {shared[name] for name in free} - stored)
    by_weight: dict[str, list[WeightCut]] = {}
    for each in cuts:
        by_weight.setdefault(each.name, []).append(each)
    found, missing = list[tuple[WeightCut, Twins]](), list[WeightCut]()
    for weight, own in by_weight.items():
        name, everywhere = named[weight], all(each.everywhere for each in own)
        if name is None:
            names = tuple(dict.fromkeys(shared[each] for each in _by_content(free, own[0])))
        else:
            others = twins.get(shared[name], ()) if whole is not None or not everywhere else ()
            names = (shared[name], *others)
        if not names:
            missing += own
            continue
        one = Twins(weight, names, (), everywhere, name is not None, name is None and _is_uniform(own[0].array()))
        kept = [_turned(names[0], state[names[0]], each) if one.is_one else each.kept for each in own]
        found.append((own[0], replace(one, kept=tuple(kept))))
    return _joined(found), missing


def _joined(found: Sequence[tuple[WeightCut, Twins]]) -> list[tuple[WeightCut, Twins]]:
    """Return them with those as one that are of one tensor: weights of the file that tensors share memory for."""
    alone: dict[str, tuple[WeightCut, Twins]] = {}
    result = list[tuple[WeightCut, Twins]]()
    for cut, twins in found:
        if not twins.is_one:
            result.append((cut, twins))
            continue
        name = twins.names[0]
        first, before = alone.get(name, (cut, replace(twins, kept=())))
        alone[name] = first, replace(before, kept=before.kept + twins.kept)
    return [*alone.values(), *result]


def _check_folded(state: State, cuts: Sequence[WeightCut], whole: Collection[str]) -> None:
    """Raise InputError where the file has no normalisation of a batch, and a weight that was cut holds other numbers.

    Exporters fold it into the layer in front, whose weight may keep its name: then nothing tells what it loses.
    """
    named = {each.name: _by_name(state, each.name) for each in cuts}
    there = {*named.values(), *(_by_name(state, name) for name in whole)}
    gone = [name for name in state if name.rpartition(".")[2] == "running_var" and name not in there]
    for each in cuts if gone else ():
        name, array = named[each.name], each.array()
        if name is not None and array is not None and not _holds_any(state[name], each.kept, array):
            raise InputError(
                f"{name}: the file has other numbers of this name, and no {gone[0]!r}: the exporter folded that "
                f"normalisation into a layer, and nothing tells which units it loses. {_UNFOLDED}"
            )


def _is_uniform(array: Array | None) -> bool:
    """Whether it holds one number alone, as what exporters add does: the scale of a layer that has none."""
    return array is not None and array.size > 0 and bool((array == array.flat[0]).all())


def _are_alike(kept: Sequence[Kept]) -> bool:
    first, *others = ({axis: tuple(indices) for axis, indices in each.items()} for each in kept)
    return all(each == first for each in others)


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


def _by_content(free: State, cut: WeightCut) -> tuple[str, ...]:
    """Return the tensors that hold a weight."""
    array = cut.array()
    if array is None:
        return ()
    return tuple(name for name, tensor in free.items() if _holds_any(tensor, cut.kept, array))


def _holds_any(tensor: torch.Tensor, kept: Kept, array: Array) -> bool:
    """Whether a tensor holds a weight in any form."""
    return any(_holds(tensor, form) for _, form in _forms(kept, array))


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
