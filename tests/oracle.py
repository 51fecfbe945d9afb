"""The one oracle of the tests: the masked model and the pruned model compute the same.

`check` is used for rules, groups and whole models. It cuts every prunable group (or those that are named) to a
random half and compares on two settings of the dynamic dims, or on sizes that are named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.groups import Group, groups
from onnxprune.model import load, problems, view
from onnxprune.rewrite import masked, rewrite
from onnxprune.runtime import open_session, random_feeds
from onnxprune.trace import Trace, trace
from onnxprune.verify import settings

TOLERANCE = 1e-4  # of the output's range: float32 round-off is 1e-6 and less, a wrong slice gives 1e-2 and more


@dataclass(frozen=True)
class Checked:
    """What the oracle saw, for further assertions."""

    traced: Trace
    groups: tuple[Group, ...]
    cut: tuple[str, ...]  # names of the groups that lost units
    pruned: onnx.ModelProto
    max_rel_diff: float

    def group(self, name: str) -> Group:
        return next(group for group in self.groups if group.name == name)

    def shape(self, initializer: str) -> list[int]:
        return next(list(t.dims) for t in self.pruned.graph.initializer if t.name == initializer)


def check(
    source: object,
    *,
    only: Iterable[str] | None = None,
    seed: int = 0,
    share: float = 0.5,
    inner: bool = True,
    at: Collection[Mapping[str, int]] = (),
) -> Checked:
    """Cut groups of a model at random and assert that masking and pruning agree.

    Args:
        source: path or ModelProto.
        only: names of the groups to cut; all that are free and exact by default.
        seed: of the kept sets and of the feeds.
        share: of the units that stay.
        inner: whether inner factors (head dims) are cut too.
        at: sizes of the dynamic dims to compare on; without, those that `verify` chooses.
    """
    model = load(source)
    traced = trace(model)
    found = groups(traced)
    rng = np.random.default_rng(seed)
    able = [g for g in found if g.locked is None and g.exact and (inner or not g.inner) and g.units > 1]
    chosen = [group for group in able if only is None or group.name in set(only)]
    kept = {}
    for group in chosen:
        mask = np.zeros(group.units, bool)
        mask[rng.permutation(group.units)[: max(1, round(share * group.units))]] = True
        kept[group.atom] = mask
    pruned = rewrite(traced, kept).proto
    assert problems(pruned) is None
    dense = masked(traced, kept)
    worst = _distance(model, dense, pruned, seed, at)
    if worst > TOLERANCE:  # an optimization of the runtime that approximates may take hold of one of them alone
        worst = _distance(model, dense, pruned, seed, at, optimize=False)
    assert worst <= TOLERANCE, f"masked and pruned differ by {worst:.1e} of the output's range"
    assert view(pruned).inputs == model.inputs
    return Checked(traced, found, tuple(group.name for group in chosen), pruned, worst)


def _distance(model, masked_proto, pruned, seed, at, *, optimize=True) -> float:
    """Return the largest difference over the largest magnitude of an output."""
    worst = 0.0
    dense = open_session(masked_proto.SerializeToString(), folder=model.folder, optimize=optimize)
    small = open_session(pruned.SerializeToString(), folder=model.folder, optimize=optimize)
    sized = [(dims, random_feeds(model.inputs, dims, seed)) for dims in at]
    for _, feeds in sized or settings(model, dense, None, seed):
        expected, given = dense.run(feeds), small.run(feeds)
        assert list(expected) == list(given)
        for name, reference in expected.items():
            assert given[name].shape == reference.shape, name
            assert np.isfinite(given[name].astype(np.float64)).all(), name
            scale = max(np.abs(reference.astype(np.float64)).max(initial=0.0), 1e-30)
            difference = np.abs(reference.astype(np.float64) - given[name].astype(np.float64)).max(initial=0.0)
            worst = max(worst, float(difference / scale))
    return worst
