"""Step of `prune` in front of all others: weights that the file holds twice are told, and stored once where asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from onnxprune.commands.steps.finish import Publish, with_report
from onnxprune.commands.steps.job import Job
from onnxprune.graph.forms.tied import stored_once, twins
from onnxprune.graph.model import Model
from onnxprune.progress import Progress
from onnxprune.report.tied import tied_values


def with_ties(job: Job, publish: Publish, progress: Progress) -> tuple[Job, Publish]:
    """Return a job whose model stores twins once, if it is to, and what publishes the result and tells of them."""
    pairs = twins(job.model)
    values = tied_values(pairs, is_wanted=job.options.tie)
    if pairs and job.options.tie:
        progress("storing weights once that are held twice")
        job = replace(job, model=stored_once(job.model, pairs))

    def tell(report: dict[str, Any]) -> None:
        report["tied"] = values

    return job, partial(with_report, publish, tell)


def tied_as(model: Model, report: Mapping[str, Any] | None) -> Model:
    """Return the model that a cut began with, as its report tells of twins: with each pair stored once, or as it is."""
    is_tied = report is not None and bool((report.get("tied") or {}).get("stored_once"))
    return stored_once(model, twins(model)) if is_tied else model
