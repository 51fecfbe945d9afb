"""Twins: tensors of equal numbers, which a file stores once, under one of their names. Which of them does a cut mean?

A tensor that the file has by its own name has no twins. Of the others, a vector follows its layer, where another vector
of that was cut or stays whole (`transfer`); else it keeps what the places of the file keep that are called after it: an
Identity of its name, a node in the scope of its module (`surgery.readings`). Where all places keep the same, so do all
twins. What none of these tells is an error that names them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from onnxprune.errors import InputError
from onnxprune.surgery.readings import Reading

Kept: TypeAlias = Mapping[int, Sequence[int]]  # axis -> indices that stay

APART = (-math.inf, 0)  # how near paths are of which none ends the other


@dataclass(frozen=True)
class Twins:
    """The tensors that may hold one weight of the file, and what stays of it for the places that were cut."""

    weight: str  # its name in the file
    names: tuple[str, ...]  # of the tensors
    kept: tuple[Kept, ...]
    everywhere: bool  # whether no place reads it whole
    is_named: bool  # whether the first of them has its name; else they hold what it does
    is_uniform: bool = False  # whether that is one number alone: it may as well be a constant of the exporter

    @property
    def is_one(self) -> bool:
        """Whether it is sure which tensor it is."""
        return len(self.names) == 1 and (self.is_named or not self.is_uniform)


def twins_of(
    state: Mapping[str, torch.Tensor], stored: Collection[str], free: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """Return the tensors that a file may store under the name of another one, by that name.

    Args:
        state: tensors by name.
        stored: those that the file has by their names.
        free: those that it does not have.
    """
    found: dict[str, list[str]] = {}
    for name in free:
        holders = [each for each in stored if _are_equal(state[each], state[name])]
        own = [each for each in holders if _own(each) == _own(name)]  # a scale is rather stored as one than as a bias
        for each in own or holders:
            found.setdefault(each, []).append(name)
    return {name: tuple(others) for name, others in found.items()}


def _are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        one.shape == other.shape and one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    )


def _own(name: str) -> str:
    return name.rpartition(".")[2]


def kept_of_twins(twins: Twins, unsettled: Sequence[str], readings: Sequence[Reading]) -> dict[str, Kept] | None:
    """Return what stays of those twins that nothing else tells of, by the axes of the weight; empty for a whole one.

    None says that no tensor holds the weight: it is a constant that the exporter added.

    Args:
        twins: all of them.
        unsettled: those that nothing else tells of.
        readings: the places of the file that read its weights; none where these are not known.

    Raises:
        InputError: where they cannot be told apart.
    """
    own = [each for each in readings if each.weight == twins.weight]
    forms = _forms(twins.kept)
    if not own or _forms(each.kept for each in own if each.kept) != forms:  # or places of another cut
        if len(forms) == 1 and (twins.everywhere if twins.is_named else len(twins.names) == 1):
            return dict.fromkeys(unsettled, twins.kept[0])
        raise cannot_tell(twins)
    means = [(each.kept, _meant(each, twins)) for each in own]
    of_nobody = [kept for kept, names in means if kept and not names]
    if of_nobody and twins.is_uniform and not any(names for kept, names in means if kept):
        return None
    result = {name: [kept for kept, names in means if name in names] for name in unsettled}
    if of_nobody or any(len(_forms(kept)) > 1 for kept in result.values()):
        raise cannot_tell(twins)
    return {name: kept[0] if kept else {} for name, kept in result.items()}


def _forms(kept: Iterator[Kept] | Sequence[Kept]) -> set[tuple[tuple[int, tuple[int, ...]], ...]]:
    return {tuple(sorted((axis, tuple(indices)) for axis, indices in each.items())) for each in kept}


def _meant(reading: Reading, twins: Twins) -> Collection[str]:
    """Return the tensors that a place is called after as nearly as after any.

    Where it is called after none, it may mean all that the file has by a name; of others, it means none.
    """
    near = {name: max(_nearness(name, each) for each in reading.called) for name in twins.names}
    nearest = max(near.values())
    if nearest[0] == APART:
        return twins.names if twins.is_named else ()
    return [name for name in twins.names if near[name] == nearest]


def _nearness(name: str, called: str) -> tuple[tuple[float, int], int]:
    """Return how near what a place is called is to a tensor, its module, or one around it, which is the less near.

    Attention reads the weight of the layer of its outputs itself, so that the place is called after the attention.
    """
    parts = name.split(".")
    paths = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return max((nearness((path,), called), -levels) for levels, path in enumerate(paths))


def nearness(paths: Iterable[str], called: str) -> tuple[float, int]:
    """Return how near what a place is called is to any of these paths, as numbers of which larger ones are nearer.

    Wrappers stand in front of the one or the other, of all names the same: so little in front of the shorter path comes
    before much of it, and a long path before the shorter ones of the modules around it.
    """
    ends = [each for each in paths if each and called and _ends_alike(each, called)]
    return max(((-abs(len(each) - len(called)), len(each)) for each in ends), default=APART)


def _ends_alike(one: str, other: str) -> bool:
    """Whether one path is the other, or its end: wrappers stand in front of names."""
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")


def cannot_tell(twins: Twins) -> InputError:
    """Return the error that names tensors which cannot be told apart."""
    if len(twins.names) == 1:
        return InputError(
            f"{twins.names[0]}: places that read it in the file keep different units of it, and nothing else tells "
            "what this tensor keeps: exporters store equal tensors once, as normalisations hold them that were never "
            "trained"
        )
    listed = " and ".join(twins.names)
    return InputError(
        f"{listed}: hold the same numbers, which the file has once, as {twins.weight!r}, and cuts for some of its "
        "readers: which tensor is meant cannot be told. Give the original file as source, with the names that the "
        "exporter gave its nodes, or let the tensors differ before the export"
    )
