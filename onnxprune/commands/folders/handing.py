"""Ports by which the files of one network hand caches to one another, and whether all of them lose the same ones.

The file for the first token gives keys and values that the file for those behind it takes. What belongs together is
told by the names that exporters agree on, see `graph.meanings.part_of_cache`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from onnxprune.graph.meanings import part_of_cache
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Port, Role

_KEPT = (Role.PAST, Role.BESIDE)


def handed_on(models: Sequence[Model]) -> tuple[str, ...]:
    """Return the names of the inputs and outputs that some file of a network gives and some file takes.

    Args:
        models: the files of one network.
    """
    taken = [port for model in models for port in model.inputs if port.role in _KEPT]
    given = [port for model in models for port in model.outputs]
    both = _parts(taken) & _parts(given)
    return tuple(dict.fromkeys(port.name for port in (*taken, *given) if part_of_cache(port.name) in both))


def parts(model: Model, ports: Iterable[str]) -> frozenset[str]:
    """Return what of caches are ports of a model that is handed on, the same in all files of its network."""
    names = model.handed_on.intersection(ports)
    return frozenset(part for name in names if (part := part_of_cache(name)) is not None)


def ports_of(model: Model, lost: Collection[str]) -> frozenset[str]:
    """Return the inputs and outputs of a model that are certain parts of caches."""
    names = (port.name for port in (*model.inputs, *model.outputs) if port.name in model.handed_on)
    return frozenset(name for name in names if part_of_cache(name) in lost)


def _parts(ports: Iterable[Port]) -> set[str]:
    return {part for port in ports if (part := part_of_cache(port.name)) is not None}
