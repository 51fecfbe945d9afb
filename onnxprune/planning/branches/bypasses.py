"""Which branches a linear map stands in for: those that are named, or those where what it mends is worth what it takes.

A map gives back some of the multiply-accumulates that went. It stays where the loss on held-out samples falls by more
for each of these than the cut cost for each that it saved: else they would have been better spent elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnxprune.algebra.threads import one_blas_thread
from onnxprune.calibration.batches import Calibration
from onnxprune.data.notes import NOWHERE, Notes
from onnxprune.dependency.branches import Branch, nodes_of
from onnxprune.dependency.bypass import Bypass, bypass_of
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.trace import Trace
from onnxprune.errors import OptionError
from onnxprune.planning.branches.depth import Chooser
from onnxprune.planning.branches.gaps import Chain
from onnxprune.progress import Progress, silent


@dataclass(frozen=True)
class Weighed:
    """A linear map, and what the output loses with it and without."""

    branch: str  # that it stands in for
    loss: float  # of the output with all maps
    without: float  # the same without this one
    macs: int  # of one sample, that it takes

    def is_worth(self, price: float) -> bool:
        """Whether it mends more than so much loss for each multiply-accumulate that it takes."""
        return self.without - self.loss > max(0.0, price) * self.macs


def at_gaps(traced: Trace, found: Sequence[Branch], gone: Collection[str]) -> tuple[list[Bypass], dict[str, str]]:
    """Return a linear map for each gap that branches leave, and why there is none in others, by their first branches.

    It stands at the first of its branches that can have one, and one does for branches that are added together.

    Args:
        traced: the model with its axes.
        found: all its branches, in order.
        gone: names of those that go.
    """
    chain, bypasses, reasons = Chain(traced.model, found), dict[int, Bypass](), dict[str, str]()
    for gap in chain.gaps({at for at, branch in enumerate(found) if branch.name in gone}):
        each = [bypass_of(traced, found[number]) for number in gap]
        own = next(((at, bypass) for at, bypass in zip(gap, each, strict=True) if isinstance(bypass, Bypass)), None)
        if own is not None:
            bypasses.setdefault(chain.sum_of(own[0]), own[1])
        elif isinstance(each[0], str):
            reasons[found[gap[0]].name] = each[0]
    return list(bypasses.values()), reasons


def at_branches(traced: Trace, found: Sequence[Branch], names: Collection[str]) -> tuple[list[Bypass], dict[str, str]]:
    """Return a linear map for each of some branches, and why others have none of their own.

    Where several are added together and read one value, one map does for all of them.

    Args:
        traced: the model with its axes.
        found: all its branches, in order.
        names: of those that maps are to stand in for.

    Raises:
        OptionError: when none can stand in for one of them.
    """
    chain, bypasses, reasons = Chain(traced.model, found), dict[tuple[int, str], Bypass](), dict[str, str]()
    for number, branch in enumerate(found):
        if branch.name not in names:
            continue
        bypass = bypass_of(traced, branch)
        if isinstance(bypass, str):
            raise OptionError(
                f"linearize: no linear map can stand in for branch {branch.name!r}: {bypass}; leave it out, or take "
                "the branch out with --without"
            )
        first = bypasses.setdefault((chain.sum_of(number), bypass.source), bypass)
        if first is not bypass:
            reasons[branch.name] = f"the map of {first.branch.name} reads the same and is added to the same"
    return list(bypasses.values()), reasons


@one_blas_thread()
def weighed(
    traced: Trace,
    branches: Sequence[Branch],
    calibration: Calibration,
    *,
    gone: Collection[str],
    maps: Mapping[str, str],
    rows: int,
    seed: int = 0,
    progress: Progress = silent,
    notes: Notes = NOWHERE,
) -> tuple[list[Weighed], float]:
    """Return what each linear map mends, and what the cut without any costs: loss for each multiply-accumulate.

    Args:
        traced: the model with a linear map beside some branches, see `surgery.bypass`.
        branches: of it, in order; the maps are among them.
        calibration: batches, and the loss of an output.
        gone: names of the branches that go.
        maps: names of the maps among the branches, and of the branch that each stands in for.
        rows: as of `depth.choose`.
        seed: of the rows that are drawn.
        progress: called before each step.
        notes: as of `depth.choose`.
    """
    named = {number for number, branch in enumerate(branches) if branch.name in gone}
    places = {branch.name: number for number, branch in enumerate(branches)}
    each = [(name, places[own]) for own, name in maps.items()]
    chooser = Chooser(traced, branches, named, calibration, rows, True, seed, progress, notes)
    sets = [*(frozenset([at]) for _, at in each), frozenset(at for _, at in each)]
    losses, base = chooser.beside_gone("weighing linear maps", sets)
    macs = NodeMacs(traced)
    saved = macs.total(nodes_of(branches[number] for number in named))
    found = [
        Weighed(name, base, loss, macs.total(branches[at].nodes))
        for (name, at), loss in zip(each, losses, strict=False)
    ]
    return found, losses[-1] / max(1, saved)
