"""Which branches a linear map stands in for: those that are named, or those where what it mends is worth what it takes.

A map gives back some of the multiply-accumulates that went. It stays where the loss on held-out samples falls by more
for each of these than the cut cost for each that it saved: else they would have been better spent elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from onnxprune.algebra.threads import one_blas_thread
from onnxprune.calibration.batches import Calibration
from onnxprune.data.notes import NOWHERE, Notes
from onnxprune.dependency.branches import Branch, nodes_of
from onnxprune.dependency.bypass import Bypass, bypass_of
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.trace import Trace
from onnxprune.planning.depth import Chooser
from onnxprune.planning.gaps import Chain
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
        return self.without - self.loss > price * self.macs


def at_gaps(traced: Trace, found: Sequence[Branch], gone: Collection[str]) -> tuple[list[Bypass], dict[str, str]]:
    """Return a linear map for each gap that branches leave, at the first of its branches; and why others have none.

    Args:
        traced: the model with its axes.
        found: all its branches, in order.
        gone: names of those that go.
    """
    chain, bypasses, reasons = Chain(traced.model, found), list[Bypass](), dict[str, str]()
    for number in chain.starts({at for at, branch in enumerate(found) if branch.name in gone}):
        bypass = bypass_of(traced, found[number])
        if isinstance(bypass, str):
            reasons[found[number].name] = bypass
        else:
            bypasses.append(bypass)
    return bypasses, reasons


@one_blas_thread()
def weighed(
    traced: Trace,
    branches: Sequence[Branch],
    calibration: Calibration,
    *,
    gone: Collection[str],
    maps: Collection[tuple[str, str]],
    rows: int,
    seed: int = 0,
    progress: Progress = silent,
    notes: Notes = NOWHERE,
) -> tuple[list[Weighed], float]:
    """Return what each linear map mends, and what the cut without any costs: loss for each multiply-accumulate.

    Args:
        traced: the model with a linear map beside some branches, see `surgery.bypass`.
        branches: of it; the maps are among them.
        calibration: batches, and the loss of an output.
        gone: names of the branches that go.
        maps: for each, the branch that it stands in for and the value that it gives.
        rows: as of `depth.choose`.
        seed: of the rows that are drawn.
        progress: called before each step.
        notes: as of `depth.choose`.
    """
    named = {number for number, branch in enumerate(branches) if branch.name in gone}
    places = {branch.value: number for number, branch in enumerate(branches)}
    each = [(name, places[value]) for name, value in maps]
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
