"""The report as plain values; docs/report.md has the schema."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxprune._version import __version__
from onnxprune.graph.files.write import signature
from onnxprune.graph.ports import cache_bytes
from onnxprune.graph.punished import punished
from onnxprune.planning.curves.curve import scale_of
from onnxprune.planning.methods import METHODS
from onnxprune.report.schema import SCHEMA
from onnxprune.runtime.concessions import conceded

if TYPE_CHECKING:
    from onnxprune.calibration.batches import Calibration
    from onnxprune.dependency.account import Account
    from onnxprune.dependency.groups import Group
    from onnxprune.evaluation.comparison import Comparison
    from onnxprune.evaluation.verify import Verification
    from onnxprune.graph.model import Model
    from onnxprune.planning.curves.curve import Curve
    from onnxprune.planning.options import Options
    from onnxprune.recovery.refit import Refitted
    from onnxprune.surgery.rewrite import Cut


def build_report(
    *,
    before: Model,
    after: Model,
    macs: tuple[int, int],
    options: Options,
    groups: Sequence[tuple[Group, Sequence[int] | None, str | None]],
    accounts: Sequence[Account],
    cuts: Mapping[str, Cut],
    verification: Verification,
    comparison: Comparison | None,
    calibration: Calibration | str | None = None,
    curves: Mapping[str, Curve] | None = None,
    judged: int = 0,
    looked: Mapping[str, Any] | None = None,
    fits: Sequence[Refitted] = (),
    promise: Mapping[str, Any] | None = None,
    held_out: bool = True,
) -> dict[str, Any]:
    """Return the report of one run as plain values; see docs/report.md.

    Args:
        before: the original.
        after: the pruned model.
        macs: multiply-accumulates of one sample, before and after.
        options: of the run.
        groups: every group with its kept units (None if all) and the reason if it was left alone.
        accounts: of every node with weights.
        cuts: where the initializers of the output come from.
        verification: the result of the oracle.
        comparison: latency and accuracy, if they were measured.
        calibration: what all was made from; a text says why nothing was.
        curves: loss curves by the first of the groups that lose the same units.
        judged: samples that their losses were measured on.
        looked: what gradients a criterion looked at.
        fits: the outcome of reconstruction for each layer.
        promise: plans that were raced against the original, see `promise.Decision.report_values`.
        held_out: whether calibration saw none of the samples that were compared.
    """
    return {
        "schema": SCHEMA,
        "onnxprune": __version__,
        "input": file_values(before, macs[0]),
        "output": file_values(after, macs[1], before),
        "not_run": [each.to_dict() for each in before.not_run],
        "options": options.to_dict(),
        "method": method_values(options.method),
        "groups": [group_values(group, kept, reason) for group, kept, reason in groups],
        "nodes": [account.to_dict() for account in accounts],
        "initializers": {name: _cut(cut) for name, cut in cuts.items()},
        "verification": verification_values(verification),
        "calibration": calibration_values(calibration),
        "gradients": None if looked is None else dict(looked),
        **_curves(options, curves or {}, judged),
        "reconstruction": [_refitted(each) for each in fits],
        **comparison_values(comparison, options, held_out=held_out),
        "promise": None if promise is None else dict(promise),
    }


def method_values(name: str | None) -> dict[str, Any] | None:
    """Return what the report says of a published method; None for what measures best."""
    if name is None:
        return None
    return {"name": name, "summary": METHODS[name].summary, "source": METHODS[name].source}


def _curves(options: Options, curves: Mapping[str, Curve], judged: int) -> dict[str, Any]:
    each = {name: _curve(curve) for name, curve in curves.items()}
    return {"effort": _effort(options, curves, judged), "curves": each}


def comparison_values(comparison: Comparison | None, options: Options, *, held_out: bool) -> dict[str, Any]:
    """Return what the report says of two models that were compared; `held_out` as for `build_report`."""
    fidelity = fidelity_values(comparison)
    return {
        "accuracy": _accuracy(comparison),
        "fidelity": None if fidelity is None else {**fidelity, "held_out": held_out},
        "latency": _latency(comparison) if options.latency else [],
    }


def _cut(cut: Cut) -> dict[str, Any]:
    return {"source": cut.source, "kept": {str(dim): list(indices) for dim, indices in cut.kept.items()}}


def verification_values(verification: Verification) -> dict[str, Any]:
    """Return what the report says of a proof."""
    return {
        "passed": verification.passed,
        "max_abs_diff": verification.max_abs_diff,
        "max_rel_diff": verification.max_rel_diff,
        "tolerance": verification.tolerance,
        "noise": verification.noise,
        "runs": [dataclasses.asdict(run) for run in verification.runs],
    }


def _refitted(fitted: Refitted) -> dict[str, Any]:
    return {
        **dataclasses.asdict(fitted),
        "strength": "bias alone" if fitted.strength == math.inf else fitted.strength,
        "error_before": finite(fitted.error_before),
        "error_after": finite(fitted.error_after),
    }


def calibration_values(calibration: Calibration | str | None) -> dict[str, Any] | None:
    """Return what the report says of the samples that a model was calibrated on; a text says why there are none."""
    if calibration is None:
        return None
    if isinstance(calibration, str):
        return {"source": "none", "told": calibration, "samples": 0, "metric": None}
    return {
        "source": calibration.source,
        "told": calibration.description,
        "samples": calibration.samples,
        "metric": calibration.metric.kind,
    }


def _effort(options: Options, curves: Mapping[str, Curve], judged: int) -> dict[str, Any] | None:
    """Return what was spent on loss curves; None where no losses were measured."""
    losses = [curve for curve in curves.values() if curve.losses is not None]
    if not losses:
        return None
    measured = sum(len(curve.measured) for curve in losses)
    all_losses = sum(len(curve.removed) - 1 for curve in losses)
    scale = scale_of(curves)
    return {
        "level": options.effort,
        "losses": all_losses,
        "measured": measured,
        "judged": judged,
        "gradient": None if scale is None else dataclasses.asdict(scale),
    }


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "removed": list(curve.removed),
        "losses": None if curve.losses is None else [finite(loss) for loss in curve.losses],
        "errors": [finite(error) for error in curve.errors],
        "told": list(curve.told),
    }


def finite(number: float | None) -> float | None:
    """Return None for what JSON has no number for."""
    return number if number is not None and math.isfinite(number) else None


def file_values(model: Model, macs: int, like: Model | None = None) -> dict[str, Any]:
    """Return what the report says of a file with so many MACs per sample; `like` states dims that it leaves open."""
    return {
        "path": str(model.file.path) if model.file.path else None,
        "sha256": model.sha256(),
        "params": model.stored_params,
        "macs": macs,
        "size_bytes": model.size_bytes(),
        "cache_bytes": cache_bytes(model.inputs, () if like is None else like.inputs),
        "warnings": [*punished(model), *conceded(model)],
    }


def port_values(before: Model, after: Model) -> list[dict[str, Any]]:
    """Return what the report says of inputs and outputs that a model has in another shape, or not at all."""
    old, new = (
        {port.name: list(port.shape or ()) for ports in signature(model) for port in ports} for model in (before, after)
    )
    changed = {name: shape for name, shape in old.items() if new.get(name) != shape}
    return [{"name": name, "before": shape, "after": new.get(name)} for name, shape in changed.items()]


def group_values(group: Group, kept: Sequence[int] | None, reason: str | None) -> dict[str, Any]:
    """Return what the report says of a group: its kept units, None for all, and why it was left alone."""
    units = list(range(group.units)) if kept is None else list(kept)
    return {
        "name": group.name,
        "kind": group.kind,
        "units": group.units,
        "kept": len(units),
        "kept_units": units,
        "exact": group.exact,
        "locked": reason,
        "nodes": list(group.nodes),
    }


def _accuracy(comparison: Comparison | None) -> dict[str, Any] | None:
    if comparison is None or comparison.before.accuracy is None:
        return None
    return {
        "before": comparison.before.accuracy,
        "after": comparison.after.accuracy,
        "samples": comparison.samples,
        "agreement": comparison.difference.agreement,
    }


def fidelity_values(comparison: Comparison | None) -> dict[str, Any] | None:
    """Return the figures of fidelity on data; random feeds say little about what a model is used for."""
    if comparison is None or comparison.fidelity is None or comparison.feeds != "data":
        return None
    figures = comparison.fidelity.figures.items()
    finite = {name: value if math.isfinite(value) else None for name, value in figures}
    return {"kind": comparison.fidelity.kind, "figures": finite}


def _latency(comparison: Comparison | None) -> list[dict[str, Any]]:
    if comparison is None:
        return []
    low, high = comparison.speedup_interval
    return [
        {
            "provider": comparison.provider,
            "threads": comparison.threads,
            "batch": comparison.batch,
            "timer": comparison.timer,
            "before_ms": comparison.before.median_ms,
            "after_ms": comparison.after.median_ms,
            "speedup": comparison.speedup,
            "speedup_interval": [low, high],
            "within_noise": comparison.within_noise,
        }
    ]
