"""Details of a cut that its page shows beside its report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxprune.commands.beside.tokenizer import folder_of
from onnxprune.commands.beside.tokenizer_text import reader_of
from onnxprune.commands.records.report_files import PageFile
from onnxprune.commands.steps.finish import Complete, Publish
from onnxprune.commands.steps.job import Job
from onnxprune.commands.steps.prepare import part_to_run, sized_by
from onnxprune.data.caches import load_suited
from onnxprune.data.samples import Data
from onnxprune.dependency.trace import Trace, trace
from onnxprune.evaluation.details import Look, details
from onnxprune.graph.files.read import load
from onnxprune.graph.forms.remainder import same_part
from onnxprune.graph.model import Model
from onnxprune.graph.shapes.probe import settled
from onnxprune.planning.options import Options
from onnxprune.progress import Progress


def with_details(publish: Publish, job: Job, page: PageFile | None, progress: Progress) -> Publish:
    """Return what publishes a result whose report has the details that a page shows; as it is without a page."""
    if page is None:
        return publish

    @contextlib.contextmanager
    def detailed(proto: Any, folder: Path) -> Iterator[tuple[Path, Complete]]:
        with publish(proto, folder) as (path, complete):

            def completed(report: dict[str, Any]) -> None:
                other_ids = report.get("vocabulary") is not None  # samples hold ids that the result does not know
                report["details"] = _of_cut(job, path, page, other_ids, progress)
                complete(report)

            yield path, completed

    return detailed


def _of_cut(job: Job, path: Path, page: PageFile, other_ids: bool, progress: Progress) -> dict[str, Any]:
    options, source = job.options, job.options.eval_data or job.data
    model = part_to_run(job.model, dict(options.inputs))
    data = None if source is None else load_suited(source, model.inputs, preprocess=options.preprocess)
    return details_beside(model, load(path), options, data, page, progress, other_ids=other_ids)


def details_beside(  # noqa: PLR0917 - as they follow from one another
    before: Model,
    after: Model,
    options: Options,
    data: Data | None,
    page: PageFile,
    progress: Progress,
    *,
    other_ids: bool = False,
) -> dict[str, Any]:
    """Return the details of a result beside what it was made of.

    Args:
        before: the original, the part of it that runs.
        after: the result.
        options: of the run.
        data: samples, as the original takes them.
        page: that shows the details.
        progress: is told what is done.
        other_ids: whether the result does not know the ids that samples hold.
    """
    look = Look(
        command=page.command,
        data=None if other_ids else data,
        metric=options.metric,
        provider=options.provider,
        threads=options.threads,
        batch=options.batch,
        seed=options.seed,
        shapes=dict(options.inputs),
        times=options.latency and not other_ids,
        reader=reader_of(folder_of(before.path)),
    )
    return details(traced_pair(before, after, data), look, progress)


def traced_pair(before: Model, after: Model, data: Data | None) -> tuple[Trace, Trace]:
    """Return two models with their axes, in the sizes of the samples.

    Args:
        before: the original, the part of it that runs.
        after: the other model.
        data: samples.
    """
    first = settled(sized_by(before, data))
    second = replace(same_part(after, before), sizes=first.sizes)
    return trace(first), trace(settled(second))
