"""The one oracle of the tests: the masked model and the pruned model compute the same.

`check` is used for rules, groups and whole models. It cuts every prunable group (or those that are named) to a
random half and compares on two settings of the dynamic dims, or on sizes that are named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnxprune.dependency.groups import Group, groups
from onnxprune.dependency.trace import Trace, trace
from onnxprune.evaluation.difference import NOISE_FACTOR, TOLERANCES
from onnxprune.evaluation.settings import settings
from onnxprune.graph.files.checks import problems
from onnxprune.graph.files.read import load
from onnxprune.graph.model import Model
from onnxprune.graph.view import view
from onnxprune.runtime.random_feeds import random_feeds
from onnxprune.runtime.session import Session, open_session
from onnxprune.surgery.mask import masked
from onnxprune.surgery.rewrite import rewrite

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
    share: float | None = 0.5,
    inner: bool = True,
    at: Collection[Mapping[str, int]] = (),
    quick: bool = False,
    width: bool = False,
) -> Checked:
    """Cut groups of a model at random and assert that masking and pruning agree.

    Args:
        source: path or ModelProto, or its trace, where a model is checked several times.
        only: names of the groups to cut; all that are free and exact by default.
        seed: of the kept sets and of the feeds.
        share: of the units that stay; None draws one for each group.
        inner: whether inner factors (head dims) are cut too.
        at: sizes of the dynamic dims to compare on; without, those that `verify` chooses.
        quick: whether the sessions are opened without optimizations, on one thread: for many small graphs. A
            difference above the tolerance is then held against the measured round-off, as `verify` does.
        width: whether groups are cut that an op mixes over.
    """
    traced = source if isinstance(source, Trace) else trace(load(source))
    model, found = traced.model, groups(traced)
    rng = np.random.default_rng(seed)
    able = [g for g in found if g.locked is None and (width or g.exact) and (inner or not g.inner) and g.units > 1]
    chosen = [group for group in able if only is None or group.name in set(only)]
    kept = {}
    for group in chosen:
        part = rng.uniform() if share is None else share
        mask = np.zeros(group.units, bool)
        mask[rng.permutation(group.units)[: max(group.least, round(part * group.units))]] = True
        kept[group.atom] = mask
    pruned = rewrite(traced, kept).proto
    found_wrong = problems(pruned)
    assert found_wrong is None or (quick and problems(model.proto)), found_wrong  # inference of old opsets has faults
    reference, small = masked(traced, kept).SerializeToString(), pruned.SerializeToString()
    dense = open_session(reference, folder=model.folder, threads=1, optimize=not quick)
    sized = [random_feeds(model.inputs, dims, seed) for dims in at]
    cases = sized or [each.feeds for each in settings(model, dense, None, seed)]
    least = 1e-2 if quick else 1e-30  # a sigmoid that is nearly 0 has an absolute error
    worst = _worst(dense, open_session(small, folder=model.folder, threads=1, optimize=not quick), cases, least)
    limit = max(TOLERANCE, _tolerance(model) if quick else 0.0)
    if worst > limit:
        again = open_session(reference, folder=model.folder, threads=1, optimize=quick)
        if quick:
            limit = max(limit, NOISE_FACTOR * _worst(dense, again, cases, least))
        else:  # an optimization of the runtime that approximates may take hold of one of them alone
            plain = open_session(small, folder=model.folder, threads=1, optimize=False)
            worst = _worst(again, plain, cases, least)
            if worst > limit:  # products of integers that saturate in pairs
                both = (open_session(each, folder=model.folder, threads=1, exact=True) for each in (reference, small))
                worst = _worst(*both, cases, least)
    assert worst <= limit, f"masked and pruned differ by {worst:.1e} of the output's range"
    assert view(pruned).inputs == model.inputs
    return Checked(traced, found, tuple(group.name for group in chosen), pruned, worst)


def _worst(dense: Session, small: Session, cases: Iterable[Mapping[str, np.ndarray]], least: float) -> float:
    return max(_difference(dense, small, feeds, least) for feeds in cases)


def _difference(dense: Session, small: Session, feeds: Mapping[str, np.ndarray], least: float) -> float:
    """Return the largest difference between the outputs of two sessions, of the range of each output (or `least`)."""
    worst = 0.0
    expected, given = dense.run(feeds), small.run(feeds)
    assert list(expected) == list(given)
    for name, reference in expected.items():
        assert given[name].shape == reference.shape, f"{name}: {given[name].shape}, expected {reference.shape}"
        assert np.isfinite(given[name].astype(np.float64)).all(), f"{name} is not finite"
        scale = max(np.abs(reference.astype(np.float64)).max(initial=0.0), least)
        difference = np.abs(reference.astype(np.float64) - given[name].astype(np.float64)).max(initial=0.0)
        worst = max(worst, float(difference / scale))
    return worst


def _tolerance(model: Model) -> float:
    """Return the tolerance of the least precise input of a model."""
    names = {port.dtype.name for port in model.inputs if port.dtype is not None}
    return max((TOLERANCES[name] for name in names if name in TOLERANCES), default=0.0)
