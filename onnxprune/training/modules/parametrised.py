"""Tensors that a layer computes from others each time it is used, as norms of weights and parametrisations do.

The file was cut in what comes out of that. Where what goes in is cut, the rest is normalised anew: a weight of fewer
inputs has another norm, and the module would no longer compute what the file does. So such layers are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch

from onnxprune.errors import InputError

_NEW = "parametrizations"  # torch.nn.utils.parametrize: layer.parametrizations.weight.original
# What stands beside weight_orig: of torch.nn.utils.spectral_norm, and of torch.nn.utils.prune.
_BESIDE = ("_u", "_mask")


def check_plain(state: Mapping[str, torch.Tensor], cut: Collection[str], *, is_complete: bool) -> None:
    """Raise InputError where a tensor that was cut, or may have been, is computed from others.

    Args:
        state: all tensors, by name.
        cut: names of those that lose units.
        is_complete: whether all weights of the file that were cut are among these; those that are not may be what comes
            out of a parametrisation.
    """
    for layer, tensor, source in _computed(state):
        if source in cut or not is_complete:
            raise InputError(
                f"{layer or 'the module'}: its {tensor} is computed, from {source}, and the file was cut in what comes "
                "out of that: make it a plain tensor before the export (remove_parametrizations of "
                "torch.nn.utils.parametrize, remove_weight_norm, remove_spectral_norm, prune.remove), and register "
                "what computed it on the result"
            )


def _computed(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str, str]]:
    """Yield the layer, the tensor that it computes, and one that this is computed from, by their names."""
    for name in state:
        layer, found, rest = f".{name}".partition(f".{_NEW}.")
        if found:
            yield layer.removeprefix("."), rest.partition(".")[0], name
            continue
        plain = _normed(state, name)
        if plain is not None and plain not in state:
            yield plain.rpartition(".")[0], plain.rpartition(".")[2], name


def _normed(state: Mapping[str, torch.Tensor], name: str) -> str | None:
    """Return the tensor that is computed from this one, by a hook of PyTorch; None for any other.

    Names alone do not tell: `mix_v` and `mix_g` may be two tensors of one layer.
    """
    plain = name.removesuffix("_orig")
    if plain != name:
        return plain if any(f"{plain}{each}" in state for each in _BESIDE) else None
    plain = name.removesuffix("_v")  # torch.nn.utils.weight_norm: a length in weight_g for each row, or one for all
    lengths = state.get(f"{plain}_g")
    return plain if plain != name and lengths is not None and lengths.shape != state[name].shape else None
