"""`prune`: a model in, a smaller and verified one out."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from onnxprune.commands.files import sample_files, write_report
from onnxprune.commands.steps import Finish, Publish, Result, decide, finish, measured, prepare, repaired
from onnxprune.graph.model import Model
from onnxprune.graph.publish import Reads, check_files, resolved, staging
from onnxprune.graph.read import Source, load
from onnxprune.graph.write import data_file, staged, write
from onnxprune.planning.options import Options, make_options
from onnxprune.planning.plan import gather
from onnxprune.progress import Progress, silent
from onnxprune.surgery import rewrite


def prune(source: Source, ratio: float | None = None, *, data: Any = None, **options: Any) -> Result:
    """Return `source` without the least important `ratio` of its units, verified.

    Args:
        source: a path, an onnx.ModelProto, the program of ``torch.onnx.export(dynamo=True)``, or an
            onnx_graphsurgeon.Graph. It is not changed.
        ratio: the share of the units of each group to remove, in [0, 1); 0.3 unless `targets` are given.
        data: samples, which the models are then compared on: the path of an .npz with one array per input (first axis
            samples), of a folder, ``module:function``, arrays, or an iterable of feeds; see `data.load_data`. With
            ``labels``, accuracy is reported.
        **options: the fields of `Options`: targets (a dict such as {"latency": 0.6, "size": "20MB"}), criterion, scope,
            round_to, min_units, ignore, only, width, ratios (a dict glob -> ratio), provider, threads, batch,
            profile_seconds, latency, seed, inputs (a dict name -> shape), eval_data, preprocess, samples, metric.

    Raises:
        InputError: for a model, data or option that cannot be used.
        NothingToPrune: when no group can lose a unit; says why.
        VerificationError: when the pruned model does not equal the masked one.
    """
    chosen = make_options(ratio=ratio, **options)
    model = load(source)
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
        path = Path(scratch) / "pruned.onnx"

        @contextlib.contextmanager
        def publish(proto: Any, folder: Path) -> Iterator[tuple[Path, Finish]]:
            write(proto, path, folder, model.is_external)
            yield path, lambda report: report["output"].update(path=None)

        return _prune(model, chosen, data, silent, publish)


def prune_file(
    source: Path,
    target: Path,
    options: Options,
    data: Any = None,
    *,
    report_path: Path | None = None,
    force: bool,
    progress: Progress,
    on_written: Callable[[], object] = lambda: None,
) -> Result:
    """Prune the file `source` to the file `target`; nothing is written unless the result is verified.

    `on_written` is called when all files are in place: what fails later fails with them written.

    Raises:
        InputError, NothingToPrune, VerificationError: as `prune`; InputError also when `target` or `report_path`
            exists without `force`, is another file of this run, or lies in a folder that cannot be written.
    """
    options = options.checked()
    weights, samples = data_file(resolved(target)), sample_files(data, options)
    check_files(target, weights, report_path, Reads(source, data=samples), force)
    progress(f"reading {source}")
    model = load(source)
    check_files(target, weights, report_path, Reads(source, tuple(model.data_files), samples), force)

    @contextlib.contextmanager
    def publish(proto: Any, folder: Path) -> Iterator[tuple[Path, Finish]]:
        with staging(force, on_written) as files, staged(proto, target, folder, model.is_external, files) as path:

            def finish(report: dict[str, Any]) -> None:
                report["output"]["path"] = str(target)
                if report_path is not None:
                    write_report(report, report_path, files.add(report_path))

            yield path, finish

    return _prune(model, options, data, progress, publish)


def _prune(model: Model, options: Options, given: Any, progress: Progress, publish: Publish) -> Result:
    ready = prepare(model, options, given, progress)
    progress(f"scoring {len(ready.chosen)} of {len(ready.found)} groups by {ready.options.criterion}")
    evidence = gather(
        ready.traced, ready.found, ready.chosen, ready.options, calibration=ready.calibrated, progress=progress
    )
    decided = decide(ready, evidence, measured(ready, progress), progress)
    rewritten = rewrite.rewrite(ready.traced, ready.masks(decided.plan))
    repairs = repaired(ready, decided.plan, rewritten, progress)
    return finish(ready, decided, rewritten, repairs=repairs, progress=progress, publish=publish)
