"""Tensors that a layer computes from others each time it is used, as norms of weights and parametrisations do.

The file was cut in what comes out of that. Where what goes in is cut, the rest is normalised anew: a weight of fewer
inputs has another norm, and the module would no longer compute what the file does. So such layers are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from onnxprune.errors import InputError

_NEW = "parametrizations"  # torch.nn.utils.parametrize: layer.parametrizations.weight.original
_OLD = ("_orig", "_v")  # torch.nn.utils.spectral_norm, torch.nn.utils.prune; torch.nn.utils.weight_norm


def check_plain(state: Collection[str], cut: Collection[str], *, is_complete: bool) -> None:
    """Raise InputError where a tensor that was cut, or may have been, is computed from others.

    Args:
        state: names of all tensors.
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


def _computed(state: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the layer, the tensor that it computes, and one that this is computed from, by their names."""
    for name in state:
        layer, found, rest = f".{name}".partition(f".{_NEW}.")
        if found:
            yield layer.removeprefix("."), rest.partition(".")[0], name
            continue
        for ending in _OLD:
            plain = name.removesuffix(ending)
            partner = plain not in state if ending == "_orig" else f"{plain}_g" in state
            if plain != name and partner:
                yield plain.rpartition(".")[0], plain.rpartition(".")[2], name
