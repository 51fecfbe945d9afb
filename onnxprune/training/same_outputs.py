"""The oracle in PyTorch: a module that was cut gives what the whole one gives with the units that are gone at zero.

Tensors tell that they fit, not that code around them does: a `view` with a number of heads of its own runs on other
heads without a word. So the whole module is run on an example with zeros where tensors were cut, and the smaller one as
it is. The two agree where a unit that is zero counts for nothing; normalisations over units that went count it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from onnxprune.errors import InputError
from onnxprune.training.transfer import Kept

_TOLERANCE, _OF_HALF = 1e-3, 5e-2  # of the largest number of an output, by which rounding may let it differ
_ADVICE = (
    "code of its own counts heads, groups or channels as they were: let it read their number from a tensor, or write "
    "it anew and load the state dict that is cut"
)


def check_same(module: nn.Module, smaller: nn.Module, kept: Mapping[str, Kept], example: Any) -> None:
    """Raise InputError where a module that was cut does not give the outputs of the masked one.

    Args:
        module: as it was.
        smaller: as it is now.
        kept: what stayed of the axes of its tensors.
        example: what is put in: a tensor, a tuple of arguments, or a dict of named ones.
    """
    before = [*_tensors(_run(_masked(module, kept), example, "the network", "give what it is called with"))]
    after = [*_tensors(_run(copy.deepcopy(smaller), example, "the smaller network", _ADVICE))]
    if [each.shape for each in before] != [each.shape for each in after]:
        had, have = ([list(each.shape) for each in side] for side in (before, after))
        raise InputError(f"example: outputs had the shapes {had} and have {have}; {_ADVICE}")
    for number, (one, other) in enumerate(zip(before, after, strict=True), 1):
        error = _error(one, other)
        if not error <= (_TOLERANCE if one.dtype in {torch.float32, torch.float64} else _OF_HALF):
            raise InputError(
                f"example: output {number} differs by {error:.2g} of its largest number from that of the original in "
                f"which the units are zero that are gone; {_ADVICE}"
            )


def _error(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference over the largest number; 0 of what is no float."""
    if not (one.is_floating_point() and one.numel()):
        return 0.0
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-12))


def _masked(module: nn.Module, kept: Mapping[str, Kept]) -> nn.Module:
    """Return a copy of a module with zeros where tensors were cut."""
    network = copy.deepcopy(module)
    state = network.state_dict()
    with torch.no_grad():
        for name, axes in kept.items():
            for axis, indices in axes.items():
                gone = torch.ones(state[name].shape[axis], dtype=torch.bool, device=state[name].device)
                gone[list(indices)] = False
                state[name].index_fill_(axis, gone.nonzero().flatten(), 0)
    return network


def _run(network: nn.Module, example: Any, which: str, advice: str) -> Any:
    """Return what a network, whose mode is changed, gives for an example."""
    network.eval()
    with torch.no_grad():
        try:
            if isinstance(example, Mapping):
                return network(**example)
            return network(*(example if isinstance(example, (tuple, list)) else (example,)))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise InputError(f"example: {which} does not run on it: {error}; {advice}") from None


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of what a network gives, in their order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
