"""Last step of `prune` and `sweep`: verify the pruned model, compare it with the original, report, publish."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from onnxprune.commands.records.report_files import PageFile, write_map, write_page, write_report
from onnxprune.commands.steps.accept import accepted
from onnxprune.commands.steps.learn import stored
from onnxprune.commands.steps.overlay import Overlay
from onnxprune.commands.steps.prepare import PreparedModel
from onnxprune.commands.steps.recover import Recovery
from onnxprune.data.caches import suited_data
from onnxprune.data.samples import Data, shares_samples
from onnxprune.dependency import cost
from onnxprune.dependency.account import accounts
from onnxprune.dependency.apart import gone_nodes
from onnxprune.dependency.axes import Atom, Mask
from onnxprune.dependency.branches import Branch
from onnxprune.dependency.groups import Group
from onnxprune.dependency.trace import Trace
from onnxprune.evaluation import blame, verify
from onnxprune.evaluation.compare import compare_models
from onnxprune.evaluation.comparison import Comparison
from onnxprune.graph.edit import Content, with_contents
from onnxprune.graph.files.aside import released
from onnxprune.graph.files.publish import check_unchanged, staging
from onnxprune.graph.files.write import staged, write
from onnxprune.graph.forms.remainder import same_part, with_own_ports
from onnxprune.graph.forms.sparse import as_stored
from onnxprune.graph.model import Model
from onnxprune.graph.ports import cache_bytes
from onnxprune.graph.tensors import Array
from onnxprune.graph.view import view
from onnxprune.planning.choice import first_sink, reasons_for
from onnxprune.planning.options import Options
from onnxprune.planning.plan import Plan, kept_masks
from onnxprune.planning.promise import Decision
from onnxprune.progress import Progress
from onnxprune.report.depth import is_gone
from onnxprune.report.document import build_report, comparison_values, port_values
from onnxprune.surgery import mask, rewrite
from onnxprune.surgery.depth import Shortened

Complete: TypeAlias = Callable[[dict[str, Any]], object]  # adds to the report, and writes it where it has a file
# Writes a model, with external data from a folder, to a temporary place; moves it into place when the block ends well.
Publish: TypeAlias = Callable[[Any, Path], AbstractContextManager[tuple[Path, Complete]]]

Masks: TypeAlias = Mapping[Atom, Mask]
# Returns better numbers for weights of a cut model, and what reports on them once they are written.
Improve: TypeAlias = Callable[[Model, Masks], tuple[Mapping[str, Array], Callable[[Path], dict[str, Any]]]]

_LATENCY_BUDGET_S = 3.0
_ROUNDS = 5  # timed of slow models even beyond it: more would hardly narrow the interval
_NOTHING_ELSE: Mapping[str, None] = dict.fromkeys(
    ("rounds", "masks", "depth", "rotation", "tied", "vocabulary", "details", "recipe", "quantization")
)  # by other steps
_NO_BUDGET_S = 0.001  # where outputs are compared, but not latencies


@contextlib.contextmanager
def kept_in_memory(model: Model, name: str) -> Iterator[Publish]:
    """Yield what writes a result to a temporary file, for checks: it stays in memory.

    Args:
        model: the model that the result is made of; external data stays external.
        name: of the file.
    """
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
        path = Path(scratch) / name

        @contextlib.contextmanager
        def publish(proto: Any, folder: Path) -> Iterator[tuple[Path, Complete]]:
            write(proto, path, folder, model.is_external, model.alignment)
            yield path, lambda report: report["output"].update(path=None)

        yield publish


def published(
    model: Model,
    target: Path,
    report_path: Path | None = None,
    *,
    page: PageFile | None = None,
    overlay: Overlay | None = None,
    force: bool = False,
    on_written: Callable[[], object] = lambda: None,
    removed: list[Path] | None = None,
) -> Publish:
    """Return what writes a result to a file, and its report beside it.

    Args:
        model: the model that the result is made of; external data stays external.
        target: the file.
        report_path: of the report, if it is written.
        page: of the run, if it is written.
        overlay: node data to write beside it.
        force: whether files that are there may be replaced.
        on_written: called when all files are in place.
        removed: gets the old weights that went away.
    """

    @contextlib.contextmanager
    def publish(proto: Any, folder: Path) -> Iterator[tuple[Path, Complete]]:
        written = partial(staged, proto, target, folder, model.is_external, alignment=model.alignment)
        with staging(force, on_written) as files, written(files) as path:

            def complete(report: dict[str, Any]) -> None:
                report["output"]["path"] = str(target)
                write_map(report, target, files)
                if report_path is not None:
                    write_report(report, report_path, files.add(report_path))
                write_page(report, page, files)
                if overlay is not None:
                    overlay.write(model, path, files, report)

            yield path, complete
        if removed is not None:
            removed.extend(files.removed)

    return publish


def finish(
    prepared: PreparedModel,
    decision: Decision,
    rewritten: rewrite.Rewritten,
    *,
    recovery: Recovery,
    progress: Progress,
    publish: Publish,
    improve: Improve | None = None,
    original: Model | None = None,
    timed: Model | None = None,
    shortened: Shortened | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Return the pruned model, recovered and verified, and its report, when both are published.

    Where its weights are tuned, the proof is of the cut, before that. It is compared with the `original` and raced
    against `timed`, by default the model that was cut; targets are of that. What is `shortened` has lost branches.

    Raises:
        VerificationError: when it does not equal the masked model; nothing is published then.
        InputError: when a file of the input has changed since it was read; nothing is published then.
        OptionError: when what was written misses a target; nothing is published then.
    """
    model, traced, options = prepared.traced.model, prepared.traced, prepared.options
    plan, (contents, fits), others = decision.plan, recovery, (original, timed)
    is_raced = options.latency and others == (None, None)  # else targets are of another model than is compared
    masks = kept_masks(prepared.groups, plan.kept) if shortened else prepared.masks(plan)
    gone, dead = (shortened.branches, shortened.dead) if shortened else ((), frozenset[int]())

    def proof(after: Model) -> verify.Verification:
        return proven(prepared, masks, mask.in_original(model, rewritten.cuts, contents), progress, after, gone)

    proto = stored_as(model, rewritten, contents)
    improved = improve and _improved(proto, model, masks, proof, improve)
    proto = improved.proto if improved else proto
    with publish(proto, model.folder) as (path, complete), released(verify.read_back(path)) as written:
        after = same_part(written, model)
        verified = improved.verification if improved else proof(after)
        macs = _macs(traced, masks, dead)
        compare = partial(beside, prepared, after, others, progress)
        seen = accepted(decision, after, _counted(model, after, macs), compare, is_raced=is_raced)
        report = build_report(
            before=model,
            after=after,
            macs=macs,
            options=options,
            **_accounted(prepared, plan, dead | gone_nodes(traced.apart, masks)),
            cuts=rewritten.cuts,
            verification=verified,
            comparison=seen.comparison,
            calibration=prepared.calibration or prepared.why_no_calibration,
            fits=fits,
            held_out=is_held_out(prepared),
            promise=decision.report_values(seen.costs, seen.unsure),
        )
        report |= {"ports": port_values((original or model).file, after.file), **_NOTHING_ELSE}
        report["tuning"] = None if improved is None else improved.report(path)
        check_unchanged(model.stamps, model.file.path)
        complete(report)
    return proto, report


def _macs(traced: Trace, masks: Masks, dead: Collection[int]) -> tuple[int, int]:
    """Return the multiply-accumulates of one sample before the cut, and after it without nodes that are dead."""
    left = {*dead} - gone_nodes(traced.apart, masks)
    return cost.macs(traced), cost.macs_of_kept(traced, masks) - cost.NodeMacs(traced).total(left)


def _accounted(prepared: PreparedModel, plan: Plan, dead: Collection[int]) -> dict[str, Any]:
    """Return what the report says of the groups, in the order of the graph, of nodes with weights, and of losses."""
    groups = prepared.groups
    names = {prepared.traced.model.nodes[index].name for index in dead}
    reasons = reasons_for(groups, prepared.ratios, prepared.options, plan.kept, plan.enlarging)
    each = accounts(prepared.traced, groups, reasons)
    return {
        "groups": [_kept(group, names, plan.kept, reasons) for group in sorted(groups, key=first_sink)],
        "accounts": [account for account in each if account.node not in names],
        "curves": plan.curves,
        "judged": plan.judged,
        "looked": plan.looked,
    }


def _kept(
    group: Group, gone: set[str], kept: Mapping[str, Sequence[int]], reasons: Mapping[str, str]
) -> tuple[Group, Sequence[int] | None, str | None]:
    """Return a group with the units that it keeps, None for all, and why it was left alone."""
    if is_gone(group, gone):
        return group, (), None
    return group, kept.get(group.name), reasons.get(group.name)


def proven(  # noqa: PLR0917 - as `verify`
    prepared: PreparedModel,
    masks: Masks,
    fitted: Mapping[str, Content],
    progress: Progress,
    after: Model,
    gone: Sequence[Branch] = (),
) -> verify.Verification:
    """Return the proof of a cut; arguments as for `verify`.

    Raises:
        VerificationError: when the file does not equal the masked model.
    """
    progress("verifying: masked = pruned")
    traced, data, seed, ports = prepared.traced, prepared.calibration_data, prepared.options.seed, prepared.ports
    verification = verify.verify(traced, masks, after, data, seed, inputs=ports, fitted=fitted, gone=gone)
    if not verification.passed:
        broken = []
        if verification.is_of_groups and masks:
            broken = blame.blame(traced, masks, prepared.groups, data, seed, inputs=ports, fitted=fitted)
        raise blame.failure(verification, broken)
    return verification


@dataclass(frozen=True)
class _Improved:
    """A cut that was proven, and then tuned."""

    proto: Any
    verification: verify.Verification  # of the cut
    report: Callable[[Path], dict[str, Any]]  # holds the written file against what was tuned


def _improved(
    proto: Any, model: Model, masks: Masks, proof: Callable[[Model], verify.Verification], improve: Improve
) -> _Improved:
    """Prove a cut where nobody reads it yet, then tune its weights."""
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        path = Path(folder) / "cut.onnx"
        write(proto, path, model.folder, model.is_external, model.alignment)
        after = same_part(verify.read_back(path), model)
        verification = proof(after)
        contents, report = improve(after, masks)
    return _Improved(stored(view(proto, folder=model.folder), contents), verification, report)


def stored_as(model: Model, rewritten: rewrite.Rewritten, contents: Mapping[str, Array]) -> Any:
    """Return what the file shall hold: the cut model with the contents that were fitted."""
    cut = rewritten.proto if rewritten.whole is None else rewritten.whole
    proto = with_contents(view(cut, folder=model.folder), contents) if contents else cut
    if model.whole is not None:
        proto = with_own_ports(proto, model.whole)
    return as_stored(proto, model)


def _counted(before: Model, after: Model, macs: tuple[int, int]) -> dict[str, float]:
    """Return what is counted of what was written, over the original's, by kind of target."""
    return {
        "size": after.size_bytes() / before.size_bytes(),
        "params": after.stored_params / max(1, before.stored_params),
        "macs": macs[1] / max(1, macs[0]),
        cost.CACHE: cache_bytes(after.inputs, before.inputs) / max(1, cache_bytes(before.inputs)),
    }


def compared(original: Model, after: Model, prepared: PreparedModel, progress: Progress) -> dict[str, Any]:
    """Return what the report says of accuracy, fidelity and latency of a model and the original."""
    comparison = compare_pair(original, after, prepared.options, prepared.evaluation_data, progress)
    return comparison_values(comparison, prepared.options, held_out=is_held_out(prepared))


def is_held_out(prepared: PreparedModel) -> bool:
    """Return whether calibration and tuning saw no sample that is evaluated; parts of one source are disjoint."""
    seen_data, evaluation_data = prepared.tuning_data or prepared.calibration_data, prepared.evaluation_data
    if seen_data is None or evaluation_data is None:
        return True
    if evaluation_data is seen_data:
        return False
    return prepared.options.eval_data is None or not shares_samples(seen_data, evaluation_data)


def beside(
    prepared: PreparedModel, after: Model, others: tuple[Model | None, Model | None], progress: Progress, times: int = 1
) -> Comparison | None:
    """Return what was written compared with the model that was cut; `others` are compared, and timed, in its place."""
    (original, timed), model, options = others, prepared.traced.model, prepared.options
    data = prepared.evaluation_data
    return compare_pair(original or model, after, options, data, progress, times=times, timed=timed)


def compare_pair(
    before: Model,
    after: Model,
    options: Options,
    data: Data | None,
    progress: Progress,
    *,
    times: int = 1,
    timed: Model | None = None,
) -> Comparison | None:
    """Time both models and, with samples, compare their outputs; None where the options want neither."""
    if not options.latency and data is None:
        return None
    where = options.provider if options.timer is None else f"timer {options.timer.name}"
    progress(f"measuring latency on {where}" if options.latency else "comparing outputs")
    return compare_models(
        before,
        after,
        data=None if data is None else suited_data(data, before.inputs),
        provider=options.provider,
        threads=options.threads,
        batch=options.batch,
        budget_s=times * _LATENCY_BUDGET_S if options.latency else _NO_BUDGET_S,
        rounds=_ROUNDS,
        seed=options.seed,
        memory=False,
        detail=False,
        shapes=dict(options.inputs),
        metric=None if data is None else options.metric,
        timed=timed,
        timer=options.timer if options.latency else None,
        share=times,
    )


@contextlib.contextmanager
def with_report(
    publish: Publish, change: Callable[[dict[str, Any]], object], proto: Any, folder: Path
) -> Iterator[tuple[Path, Complete]]:
    """Publish a model whose report `change` changes in place before it is completed."""
    with publish(proto, folder) as (path, complete):

        def changed(report: dict[str, Any]) -> None:
            change(report)
            complete(report)

        yield path, changed
