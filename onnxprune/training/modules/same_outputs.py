"""The oracle in PyTorch: a module that was cut gives what the whole one gives with the units that are gone at zero.

Tensors tell that they fit, not that code around them does: a `view` with a number of heads of its own runs on other
heads without a word. So the whole module is run on an example with zeros where tensors were cut, and the smaller one as
it is. The two agree where a unit that is zero counts for nothing. A normalisation is given what counts for nothing to
it (`counts.fillers`): it knows of no cut, and divides by all units, as the smaller one must. How far they are apart is
held against how far the zeros take the whole module from what it was: an example on which they change nothing, such as
a text of one word for an attention, proves nothing and is refused. All run in double precision where the module does.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from onnxprune.errors import InputError
from onnxprune.training.modules.counts import Filler
from onnxprune.training.modules.twins import Kept

# By the type that was computed in: the share of what the zeros change by which the two may differ, and the share of the
# largest number of an output that rounding may take.
_SHARES = {torch.float64: (1e-5, 1e-12), torch.float32: (1e-2, 1e-5)}
_OF_HALF = (0.2, 1e-2)
_TELLS = 10.0  # times what rounding may take: what the zeros change at least
_ADVICE = (
    "code of its own counts heads, groups or channels as they were: let it read their number from a tensor, or write "
    "it anew and load the state dict that is cut"
)


def check_same(
    module: nn.Module,
    smaller: nn.Module,
    kept: Mapping[str, Kept],
    example: Any,
    fillers: Mapping[str, Filler] = MappingProxyType({}),
) -> None:
    """Raise InputError where a module that was cut does not give the outputs of the masked one.

    Args:
        module: as it was.
        smaller: as it is now.
        kept: what stayed of the axes of its tensors.
        example: what is put in: a tensor, a tuple of arguments, or a dict of named ones.
        fillers: put what counts for nothing in the place of units that are gone, by the name of a layer of the module.
    """
    wanted = "give what it is called with"
    runs = _Runs(module, example)
    whole = runs.outputs(copy.deepcopy(module), "the network", wanted)
    before = runs.outputs(_masked(module, kept, fillers), "the network", wanted)
    after = runs.outputs(copy.deepcopy(smaller), "the smaller network", _ADVICE)
    if [each.shape for each in before] != [each.shape for each in after]:
        had, have = ([list(each.shape) for each in side] for side in (before, after))
        raise InputError(f"example: outputs had the shapes {had} and have {have}; {_ADVICE}")
    effects = [_distance(one, other) for one, other in zip(before, whole, strict=True)]
    if not any(effect > _TELLS * _rounding(one) for one, effect in zip(before, effects, strict=True)):
        raise InputError(
            f"example: it proves nothing: none of {len(before)} outputs of floating-point numbers tells the network "
            "from the one in which the units are zero that are gone; give another one, of several positions and of "
            "numbers as large as usual"
        )
    for number, (one, other) in enumerate(zip(before, after, strict=True), 1):
        error, effect = _distance(one, other), effects[number - 1]
        if not error <= max(_shares(one)[0] * effect, _rounding(one)):
            raise InputError(
                f"example: output {number} differs by {error:.2g} from that of the original in which the units are "
                f"zero that are gone, which itself differs by {effect:.2g} from the original; {_ADVICE}"
            )


class _Runs:
    """Runs of modules on an example, all alike: with numbers of their own and in one precision."""

    def __init__(self, module: nn.Module, example: Any) -> None:
        self._example = example
        self._type: torch.dtype | None = torch.float64
        try:
            self._run(copy.deepcopy(module))
        except Exception:  # code that asks for a type of its own; what else is wrong will be told
            self._type = None

    def outputs(self, network: nn.Module, which: str, advice: str) -> list[torch.Tensor]:
        """Return the outputs of floating-point numbers that a network, whose mode and type are changed, gives.

        Raises:
            InputError: when it does not run.
        """
        try:
            value = self._run(network)
        except Exception as error:  # whatever the code of a user raises
            raise InputError(f"example: {which} does not run on it: {error}; {advice}") from None
        return [each for each in _tensors(value) if each.is_floating_point() or each.is_complex()]

    def _run(self, network: nn.Module) -> Any:
        example = _each(self._example, torch.Tensor.clone)
        kind = self._type
        if kind is not None:
            network = network.to(kind)
            example = _each(example, lambda each: each.to(kind) if each.is_floating_point() else each)
        network.eval()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            if isinstance(example, Mapping):
                return network(**example)
            return network(*(example if isinstance(example, (tuple, list)) else (example,)))


def _each(value: Any, of: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return the same with other tensors; anything else is copied."""
    if isinstance(value, torch.Tensor):
        return of(value)
    if isinstance(value, Mapping):
        return {name: _each(each, of) for name, each in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_each(each, of) for each in value)
    return copy.deepcopy(value)


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference; infinite where one is not finite and the other is not the same."""
    gap = (one - other).abs()
    gap = torch.where(one == other, torch.zeros_like(gap), torch.nan_to_num(gap, nan=torch.inf, posinf=torch.inf))
    return float(gap.max()) if gap.numel() else 0.0


def _shares(output: torch.Tensor) -> tuple[float, float]:
    return _SHARES.get(output.abs().dtype, _OF_HALF)


def _rounding(output: torch.Tensor) -> float:
    """Return the difference that rounding may make."""
    sizes = torch.nan_to_num(output.abs(), nan=0.0, posinf=0.0)
    return _shares(output)[1] * (float(sizes.max()) if sizes.numel() else 0.0)


def _masked(module: nn.Module, kept: Mapping[str, Kept], fillers: Mapping[str, Filler]) -> nn.Module:
    """Return a copy of a module with zeros where tensors were cut."""
    network = copy.deepcopy(module)
    for name, fill in fillers.items():
        network.get_submodule(name).register_forward_pre_hook(fill)
    state = network.state_dict()
    with torch.no_grad():
        for name, axes in kept.items():
            for axis, indices in axes.items():
                gone = torch.ones(state[name].shape[axis], dtype=torch.bool, device=state[name].device)
                gone[list(indices)] = False
                state[name].index_fill_(axis, gone.nonzero().flatten(), 0)
    return network


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of what a network gives, in their order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            yield from _tensors(getattr(value, each.name))
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
