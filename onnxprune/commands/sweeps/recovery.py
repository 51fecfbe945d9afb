"""The step of a sweep that runs in parallel: the layers of each member are refitted by a worker, here or elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from onnxprune.calibration.batches import Calibration
from onnxprune.commands.steps.prepare import PreparedModel
from onnxprune.commands.steps.recover import Recovery, recover
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.publish import Reads
from onnxprune.planning.options import Options
from onnxprune.planning.plan import Plan
from onnxprune.progress import Progress, silent
from onnxprune.runtime.executors import Sent, Workers, sent


def recover_all(
    prepared: PreparedModel, plans: Sequence[tuple[Options, Plan]], workers: Workers, progress: Progress
) -> Iterator[tuple[float, Recovery]]:
    """Return, for each plan and its options, the seconds that recovery took and its result.

    In this process each is made when it is needed. Workers make all of them before this returns: nothing may run beside
    the models that are timed later.
    """
    recoveries = workers.map(_recover_one, _job(prepared, workers, progress), plans)
    if not workers.parallel:
        return recoveries
    progress("refitting layers", 1, len(plans))
    done = []
    for each in recoveries:
        done.append(each)
        progress("refitting layers", min(len(done) + 1, len(plans)), len(plans))
    return iter(done)


@dataclass(frozen=True, eq=False)
class _Job:
    """What the recoveries of all members share."""

    model: Sent | PreparedModel  # in a worker it is opened there
    calibration: Calibration | None
    progress: Progress = silent

    @cached_property
    def prepared(self) -> PreparedModel:
        """The model with its groups and calibration: all that recovery reads."""
        if isinstance(self.model, PreparedModel):
            return self.model
        traced = trace(self.model.open())
        return PreparedModel(
            traced=traced,
            groups=groups(traced),
            ratios={},
            options=Options(),
            calibration=self.calibration,
            why_no_calibration=None,
            calibration_data=None,
            evaluation_data=None,
            tuning_data=None,
            ports=traced.model.inputs,
            reads=Reads(),
        )


def _job(prepared: PreparedModel, workers: Workers, progress: Progress) -> _Job:
    if not workers.parallel:
        return _Job(prepared, None, progress)
    calibration = prepared.calibration
    if calibration is not None:  # a function of the user cannot be sent, and recovery reads no metric
        metric = calibration.metric
        plain = metric if metric.function is None else replace(metric, function=None)
        calibration = replace(calibration, batches=list(calibration.batches), metric=plain)
    return _Job(sent(prepared.traced.model, workers), calibration)


def _recover_one(job: _Job, task: tuple[Options, Plan]) -> tuple[float, Recovery]:
    start = time.perf_counter()
    options, plan = task
    prepared = replace(job.prepared, options=options)
    recovery = recover(prepared, plan, prepared.rewritten(plan), job.progress)
    return time.perf_counter() - start, recovery
