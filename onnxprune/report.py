"""The report: a plain dict for machines (docs/report.md has the schema), tables for people."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxprune._version import __version__
from onnxprune.account import frees
from onnxprune.fidelity import headline, main_figure, row
from onnxprune.punished import punished

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.account import Account
    from onnxprune.calibrate import Calibration
    from onnxprune.curves import Curve
    from onnxprune.groups import Group
    from onnxprune.measure import Comparison, Side
    from onnxprune.model import Model
    from onnxprune.options import Options
    from onnxprune.pipeline import Inspection
    from onnxprune.refit import Refitted
    from onnxprune.rewrite import Cut
    from onnxprune.sensitive import Sensitive, Sensitivity
    from onnxprune.speed import Throughput
    from onnxprune.verify import Verification

_OPS = 10  # types of nodes shown; the others are one row
_TOLERATED = 1.02  # of a target of latency
_LISTED = 4  # names shown of a longer list
_SEEN = "compared on samples that calibration saw: others may fare worse; give some with --eval-data"
_PLACE = r" \(at .*\)"  # what a reason says of the node that gives it


# -- for machines ----------------------------------------------------------------------------------------


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
    fits: Sequence[Refitted] = (),
    promise: Mapping[str, Any] | None = None,
    held_out: bool = True,
) -> dict[str, Any]:
    """Return the report of one run as plain values; see docs/report.md.

    Args:
        before: the original.
        after: the pruned model.
        macs: multiply-accumulates of one sample, before and after.
        options: what was asked.
        groups: every group with its kept units (None if all) and the reason if it was left alone.
        accounts: of every node with weights.
        cuts: where the initializers of the output come from.
        verification: what the oracle found.
        comparison: latency and accuracy, None if they were not measured.
        calibration: what statistics, curves and fits were made from; a text says why there are no samples.
        curves: loss curves by the first of the groups that lose the same units.
        fits: what became of each layer in reconstruction.
        promise: plans that were raced against the original, see `promise.as_promise`.
        held_out: whether calibration saw none of the samples that were compared.
    """
    fidelity = _fidelity(comparison)
    return {
        "onnxprune": __version__,
        "input": _file(before, macs[0]),
        "output": _file(after, macs[1]),
        "options": options.to_dict(),
        "groups": [_group(group, kept, reason) for group, kept, reason in groups],
        "nodes": [account.to_dict() for account in accounts],
        "initializers": {
            name: {"source": cut.source, "kept": {str(dim): list(indices) for dim, indices in cut.kept.items()}}
            for name, cut in cuts.items()
        },
        "verification": {
            "passed": verification.passed,
            "max_abs_diff": verification.max_abs_diff,
            "max_rel_diff": verification.max_rel_diff,
            "tolerance": verification.tolerance,
            "noise": verification.noise,
            "runs": [dataclasses.asdict(run) for run in verification.runs],
        },
        "calibration": _calibration(calibration),
        "curves": {name: _curve(curve) for name, curve in (curves or {}).items()},
        "reconstruction": [_refitted(each) for each in fits],
        "accuracy": _accuracy(comparison),
        "fidelity": None if fidelity is None else {**fidelity, "held_out": held_out},
        "latency": _latency(comparison) if options.latency else [],
        "promise": None if promise is None else dict(promise),
    }


def _refitted(fitted: Refitted) -> dict[str, Any]:
    return {
        **dataclasses.asdict(fitted),
        "strength": "bias alone" if fitted.strength == math.inf else fitted.strength,
        "error_before": _finite(fitted.error_before),
        "error_after": _finite(fitted.error_after),
    }


def _calibration(found: Calibration | str | None) -> dict[str, Any] | None:
    if found is None:
        return None
    if isinstance(found, str):
        return {"source": "none", "told": found, "samples": 0, "metric": None}
    return {"source": found.source, "told": found.told, "samples": found.samples, "metric": found.metric.kind}


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "removed": list(curve.removed),
        "losses": None if curve.losses is None else [_finite(loss) for loss in curve.losses],
        "errors": [_finite(error) for error in curve.errors],
    }


def _finite(number: float | None) -> float | None:
    """Return None for what JSON has no number for."""
    return number if number is not None and math.isfinite(number) else None


def _file(model: Model, macs: int) -> dict[str, Any]:
    return {
        "path": str(model.path) if model.path else None,
        "sha256": model.sha256(),
        "params": model.params,
        "macs": macs,
        "size_bytes": model.size_bytes(),
        "warnings": list(punished(model)),
    }


def _group(group: Group, kept: Sequence[int] | None, reason: str | None) -> dict[str, Any]:
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


def _fidelity(comparison: Comparison | None) -> dict[str, Any] | None:
    """Return what was compared on data; what random feeds give says little of what a model is for."""
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
            "before_ms": comparison.before.median_ms,
            "after_ms": comparison.after.median_ms,
            "speedup": comparison.speedup,
            "speedup_interval": [low, high],
            "within_noise": comparison.within_noise,
        }
    ]


# -- for people ------------------------------------------------------------------------------------------


def prune_tables(report: Mapping[str, Any]) -> list[RenderableType]:
    """Return what the command line prints after a run: the table, what was left alone, the verdict."""
    report = _printable(report)
    before, after = report["input"], report["output"]
    table = _table("", "before", "after", "after / before")
    table.add_row("parameters", *_counts(before["params"], after["params"]))
    table.add_row("MACs per sample", *_counts(before["macs"], after["macs"]))
    table.add_row("file size", *_pair(before["size_bytes"], after["size_bytes"], _bytes))
    for latency in report["latency"]:
        label = f"latency, {_where(latency['provider'], latency['threads'])}"
        table.add_row(label, *_pair(latency["before_ms"], latency["after_ms"], _ms))
    accuracy = report["accuracy"]
    if accuracy is not None:
        label = f"accuracy, {accuracy['samples']} samples"
        table.add_row(label, *_accuracies(accuracy["before"], accuracy["after"]))
    _fidelity_row(table, report["fidelity"])
    warned = _warnings((("input", before["warnings"]), ("output", after["warnings"])))
    return [table, _left_alone(report["groups"]), *warned, *_promised(report), _verdict(report)]


def _promised(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what plans were raced for, and what came of it, where any were."""
    promise = report["promise"]
    if promise is None:
        return
    races = _counted(len(promise["attempts"]), "plan") + " raced against the original"
    steps = sorted(set(promise["steps"].values()))
    found = f"; counts are multiples of what kernels like: {_joined([str(step) for step in steps])}" if steps else ""
    if not promise["targets"]:
        last = promise["attempts"][-1]["measured"]["latency"]
        yield f"{races}: {last:.3f} of its latency{found}"
    for target in promise["targets"]:
        if target["measured"] is not None:
            asked = "" if target["target"].endswith(f"={target['fraction']:g}") else f" ({target['fraction']:.3f})"
            yield f"{target['target']}{asked} asked: {target['measured']:.3f} of the original, {races}{found}"
    yield from _above(report)
    if not promise["complete"]:
        yield "there was no time to measure all that predictions rest on: give more with --profile-seconds"
    if promise["unknown"]:
        yield f"{_counted(promise['unknown'], 'node')} could not be timed, and were taken to follow their MACs"


def _above(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning where the model that is written was timed above the latency that was asked for."""
    asked = [target["fraction"] for target in report["promise"]["targets"] if target["target"].startswith("latency=")]
    for latency in report["latency"] if asked else ():
        least = 1 / latency["speedup_interval"][1]
        if least > _TOLERATED * asked[0]:
            found = f"{1 / latency['speedup']:.3f} of the original's, asked for {asked[0]:.3f}"
            yield f"warning: the last timing is above the target: {found}; was the machine busy?"


def _joined(words: Sequence[str]) -> str:
    """Return words as a list in a sentence.

    >>> _joined(["1", "8", "16"])
    '1, 8 and 16'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _left_alone(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return what was pruned, and one line per reason for the groups that kept all their units."""
    cut = [group for group in groups if group["kept"] < group["units"]]
    kept = sum(group["kept"] for group in cut)
    total = sum(group["units"] for group in cut)
    kinds = ", ".join(dict.fromkeys(group["kind"] for group in cut))
    line = f"pruned {len(cut)} of {len(groups)} groups ({kinds}): {kept:,} of {total:,} units kept"
    left = [(group["locked"] or "", group["name"]) for group in groups if group["kept"] == group["units"]]
    return "\n".join([line, *["left alone, by reason:"] * bool(left), *_by_reason(left)])


def _by_reason(reasons: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line per reason with the names it holds for; reasons that differ in the node alone are one."""
    merged: dict[str, dict[str, str]] = {}
    for reason, name in reasons:
        merged.setdefault(re.sub(_PLACE, "", reason), {})[name] = reason
    return [
        f"  {_with_places(list(dict.fromkeys(found.values())))}: {_names(found)}{_freeing(short)}"
        for short, found in merged.items()
    ]


def _with_places(alike: Sequence[str]) -> str:
    """Return one reason for several that differ in their place: with the first, and how many more there are.

    >>> _with_places(["Softmax normalises over it (at a)", "Softmax normalises over it (at b)"])
    'Softmax normalises over it (at a and 1 more)'
    """
    more = f" and {len(alike) - 1} more)" if len(alike) > 1 else ")"
    return re.sub(_PLACE, lambda place: place[0][:-1] + more, alike[0])


def _freeing(reason: str) -> str:
    """Return what would free it, in brackets, where anything would."""
    what = frees(reason)
    if what.startswith(("nothing", "other")):
        return ""
    perhaps, what = ("perhaps ", what[8:]) if what.startswith("perhaps ") else ("", what)
    return f" [{what}]" if what.startswith("prune") else f" [{perhaps}free with {what}]"


def _verdict(report: Mapping[str, Any]) -> str:
    verification = report["verification"]
    proof = (
        f"verified: masked = pruned {_closeness(verification['max_rel_diff'])} "
        f"in {_counted(len(verification['runs']), 'run')}"
    )
    if any(group["kept"] < group["units"] and not group["exact"] for group in report["groups"]):
        proof += ", where normalisations go over the kept units"
    if verification["max_rel_diff"] > verification["tolerance"]:
        proof += f", which is round-off: the original alone makes {verification['noise']:.1e} of it"
    saved = report["input"]["macs"] / max(1, report["output"]["macs"])
    gains = [f"{saved:.2f}x fewer MACs", *map(_speed, report["latency"])]
    accuracy = report["accuracy"]
    if accuracy is not None:
        gains.append(f"accuracy {_points(accuracy['before'], accuracy['after'])}")
    fidelity = report["fidelity"]
    if fidelity is not None and (accuracy is None or fidelity["kind"] != "classification"):
        gains.append(headline(fidelity["figures"]))
    seen = "" if fidelity is None or fidelity["held_out"] else f"{_SEEN}\n"
    return f"{_calibrated(report)}{seen}{proof}\n{report['output']['path']}: {'; '.join(gains)}"


def _calibrated(report: Mapping[str, Any]) -> str:
    """Return in words what units and weights were chosen by, where samples were looked at."""
    calibration = report.get("calibration")
    if calibration is None:
        return ""
    if calibration["source"] == "none":
        return f"chosen by weights alone, no samples can be generated ({calibration['told']}): give some with --data\n"
    made = calibration["source"] == "generated"
    what = "generated sample" if made else "sample"
    found = f"calibrated on {_counted(calibration['samples'], what)}"
    fits = report["reconstruction"]
    if fits:
        refitted = sum(fit["strength"] is not None for fit in fits)
        tried = sum(fit["why_not"] is None for fit in fits)
        found += f": {refitted} of {_counted(len(fits), 'layer')} refitted"
        found += f", {tried - refitted} best as they were cut" * (tried > refitted)
        found += f", {len(fits) - tried} that cannot be" * (len(fits) > tried)
    return found + ("; real ones, with --data, keep more\n" if made else "\n")


def _closeness(difference: float) -> str:
    return f"to {difference:.1e} of the output's range" if difference else "exactly"


def _speed(latency: Mapping[str, Any]) -> str:
    """Return in words how much faster or slower one run got."""
    where = _where(latency["provider"], latency["threads"])
    speedup, interval = latency["speedup"], latency["speedup_interval"]
    slower = speedup < 1 and not latency["within_noise"]
    low, high = sorted(1 / bound for bound in interval) if slower else interval
    known = f"on {where} (95 % interval {low:.2f} to {high:.2f})"
    if latency["within_noise"]:
        return f"no measurable speed-up {known}"
    return f"{1 / speedup:.2f}x slower {known}" if slower else f"{speedup:.2f}x faster {known}"


def compare_tables(comparison: Comparison, missed: Sequence[str]) -> list[RenderableType]:
    """Return what ``onnxprune compare`` prints."""
    before, after = comparison.before, comparison.after
    table = _table("", "before", "after", "after / before")
    rows: list[tuple[str, str, Any]] = [
        ("parameters", "params", _count),
        ("MACs per sample", "macs", _count),
        ("file size", "size_bytes", _bytes),
        ("latency, median", "median_ms", _ms),
        ("latency, p95", "p95_ms", _ms),
        ("session creation", "creation_ms", _ms),
        ("peak memory", "peak_memory_bytes", _bytes),
    ]
    for label, name, show in rows:
        old, new = getattr(before, name), getattr(after, name)
        table.add_row(label, *(("-", "-", "-") if old is None or new is None else _pair(old, new, show)))
    _accuracy_row(table, before, after)
    _fidelity_row(table, _printable(_fidelity(comparison)))
    warned = _warnings((("before", before.warnings), ("after", after.warnings)))
    parts = [table, *_op_parts(comparison), *_sweep_parts(comparison.sweep), _difference_line(comparison)]
    return [*parts, *warned, *_place_lines(comparison), _speed_line(comparison), *missed]


def _warnings(sides: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """Return a line for each thing that the runtime punishes; what holds for both models is told once."""
    found: dict[str, list[str]] = {}
    for side, sentences in sides:
        for sentence in sentences:
            found.setdefault(sentence, []).append(side)
    return [printable(f"slower than it need be ({' and '.join(which)}): {told}") for told, which in found.items()]


def _op_parts(comparison: Comparison) -> list[RenderableType]:
    """Return where the time went, by type of node, and how it adds up; nothing where it was not measured."""
    if not comparison.ops:
        return []
    old, new = (sum(getattr(op, name) for op in comparison.ops) for name in ("before_ms", "after_ms"))
    table = _table("node type", "nodes", "before", "after", "saved", "share of gain")
    shown, rest = comparison.ops[:_OPS], comparison.ops[_OPS:]
    rows = [(op.op, _change(op.nodes_before, op.nodes_after), op.before_ms, op.after_ms) for op in shown]
    if rest:
        nodes = _change(sum(op.nodes_before for op in rest), sum(op.nodes_after for op in rest))
        rows.append((f"{len(rest)} others", nodes, sum(op.before_ms for op in rest), sum(op.after_ms for op in rest)))
    for name, nodes, before_ms, after_ms in rows:
        saved = f"{before_ms - after_ms:+.3f} ms"
        share = f"{(before_ms - after_ms) / (old - new):.1%}" if old > new else "-"
        table.add_row(printable(name), nodes, _ms(before_ms), _ms(after_ms), saved, share)
    runs = f"{_ms(comparison.before.median_ms)} and {_ms(comparison.after.median_ms)}"
    line = f"nodes add up to {_ms(old)} and {_ms(new)} by ONNX Runtime's profile, which takes time itself; "
    line += f"runs without it take {runs}"
    return [table, line]


def _change(before: int, after: int) -> str:
    return str(before) if before == after else f"{before} -> {after}"


def _sweep_parts(sweep: Sequence[Throughput]) -> list[RenderableType]:
    """Return a row for every count of threads and batch, and a line for each that was not run."""
    if not sweep:
        return []
    table = _table("threads", "batch", "before", "after", "speed-up", "95 % interval", "")
    for point in sweep:
        if point.speedup is None or point.speedup_interval is None:
            table.add_row(_threads(point.threads), str(point.batch), *["-"] * 4, "not run")
            continue
        low, high = point.speedup_interval
        rates = [
            f"{rate:,.{0 if rate >= 1000 else 1}f}/s" for rate in (point.before_per_s or 0, point.after_per_s or 0)
        ]
        cells = (*rates, f"{point.speedup:.2f}x", f"{low:.2f} to {high:.2f}", "within noise" * bool(point.within_noise))
        table.add_row(_threads(point.threads), str(point.batch), *cells)
    left = [
        printable(f"not run, threads {_threads(point.threads)}, batch {point.batch}: {point.why_not}")
        for point in sweep
        if point.why_not is not None
    ]
    return [table, *left]


def _threads(number: int) -> str:
    return str(number) if number else "all"


def _place_lines(comparison: Comparison) -> list[str]:
    """Return on which cores the process may run, and the options of the provider."""
    cores = comparison.affinity
    lines = [] if cores is None else [f"may run on {_counted(len(cores), 'logical core')}: {_spans(cores)}"]
    options = ", ".join(f"{name}={value}" for name, value in comparison.provider_options.items())
    return [*lines, *[printable(f"options of {comparison.provider}: {options}")] * bool(options)]


def _spans(numbers: Sequence[int]) -> str:
    """Return ascending numbers in short.

    >>> _spans([0, 1, 2, 5, 8, 9])
    '0-2, 5, 8-9'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def bounds_line(min_speedup: float | None, max_drop: float | None) -> str:
    """Return the sentence for bounds that were all met."""
    speed = [] if min_speedup is None else [f"a speed-up of at least {min_speedup:.2f}x"]
    drop = [] if max_drop is None else [f"an accuracy drop of at most {100 * max_drop:.2f} points"]
    return f"bounds met: {', '.join(speed + drop)}"


def _accuracy_row(table: Any, before: Side, after: Side) -> None:
    if before.accuracy is not None and after.accuracy is not None:
        table.add_row("accuracy", *_accuracies(before.accuracy, after.accuracy))


def _fidelity_row(table: Any, fidelity: Mapping[str, Any] | None) -> None:
    found = None if fidelity is None else row(fidelity["figures"])
    if found is not None:
        table.add_row(*found, "-")


def _difference_line(comparison: Comparison) -> str:
    difference = comparison.difference
    drawn = f"{comparison.samples} {'random samples' if comparison.feeds == 'random' else 'samples of the data'}"
    parts = [f"outputs on {drawn}"]
    if difference.max_abs_diff == 0:
        parts.append("equal")
    elif difference.max_rel_diff is not None and difference.snr_db is not None:
        parts.append(f"differ by up to {difference.max_rel_diff:.1e} of their range, SNR {difference.snr_db:.1f} dB")
    if difference.agreement is not None:
        parts.append(f"same top-1 for {difference.agreement:.1%}")
    if difference.incomparable:
        parts.append(f"of other shapes: {printable(_names(difference.incomparable))}")
    return ": ".join([parts[0], ", ".join(parts[1:]) or "cannot be compared"])


def _speed_line(comparison: Comparison) -> str:
    low, high = comparison.speedup_interval
    where = f"{_where(comparison.provider, comparison.threads)}, batch {comparison.batch}, {comparison.runs} runs each"
    noise = "; within noise, no difference is shown" if comparison.within_noise else ""
    if comparison.p95_speedup is not None and comparison.p95_speedup_interval is not None:
        least, most = comparison.p95_speedup_interval
        where += f"; of the 95th percentiles {comparison.p95_speedup:.2f}x ({least:.2f} to {most:.2f})"
    return f"speed-up {comparison.speedup:.2f}x (95 % interval {low:.2f} to {high:.2f}) on {where}{noise}"


def inspect_tables(inspection: Inspection) -> list[RenderableType]:
    """Return what ``onnxprune inspect`` prints: groups, then locks by reason."""
    model = inspection.model
    share = inspection.locked_params / max(1, model.params)
    head = (
        f"{model.path or 'model'}: {len(model.nodes)} nodes, {model.params:,} parameters, "
        f"{_count(inspection.macs)} MACs per sample, {share:.1%} of the parameters out of reach"
    )
    table = _table("group", "kind", "units", "parameters", "MACs", "couples", left=(0, 1, 5))
    able = [group for group in inspection.groups if group.prunable]
    for group in able:
        macs = f"{inspection.group_macs[group.name] / max(1, inspection.macs):.1%}"
        params = f"{group.params / max(1, model.params):.1%}"
        table.add_row(*_printable((group.name, group.kind, f"{group.units:,}", params, macs, _names(group.nodes))))
    locks = inspection.locks.items()
    reasons = [(why, f"{group.name} ({group.units} {group.kind})") for why, held in locks for group in held]
    without = [(a.locked[0].reason, a.node) for a in inspection.accounts if not a.pruned and a.locked[0].group is None]
    reasons += without
    end = "every group can be pruned" if able else "no group: the model has no weights that meet in an axis"
    lines = ["not pruned, by reason:", *_by_reason(_printable(reasons))] if reasons else [end]
    cut = sum(bool(account.pruned) for account in inspection.accounts)
    if inspection.accounts:
        lines.append(f"{cut} of {_counted(len(inspection.accounts), 'node')} with weights can lose units")
    return [_printable(head), *[table] * bool(able), "\n".join(lines)]


def family_tables(summary: Mapping[str, Any]) -> list[RenderableType]:
    """Return what ``onnxprune sweep`` prints: a row per member."""
    headings, *rows = family_rows(summary)
    table = _table(*headings[:-1])  # names of files are long, and tell what the first column tells
    for cells in rows:
        table.add_row(*_printable(cells[:-1]))
    slower = [member["path"] for member in summary["members"] if _is_slower(member["latency"])]
    return [table, *[f"slower than the original: {printable(_names(slower))}"] * bool(slower)]


def _is_slower(latency: Mapping[str, Any] | None) -> bool:
    return latency is not None and latency["speedup"] < 1 and not latency["within_noise"]


def family_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the headings of the table of a family, and a row for the original and for each member."""
    before, members = summary["input"], summary["members"]
    timed = members[0]["latency"]
    label, old, of = family_quality(summary)
    where = f"{_where(timed['provider'], timed['threads'])}, ms" if timed else "ms"
    quality = "-" if old is None else f"{old:.4g}"
    rows: list[tuple[str, ...]] = [
        (summary["kind"], "MACs", "params", where, "ratio", "95 % interval", label.split(",")[0], "seconds", "file"),
        (
            "original",
            _count(before["macs"]),
            _count(before["params"]),
            "",
            "1.000" if timed else "-",
            "",
            quality,
            "",
            "",
        ),
    ]
    for member in members:
        latency, value = member["latency"], of(member)
        low, high = (
            ("-", "-") if latency is None else (f"{1 / bound:.3f}" for bound in latency["speedup_interval"][::-1])
        )
        rows.append(
            (
                f"{member['value']:g}" if isinstance(member["value"], float) else str(member["value"]),
                f"{member['macs'] / max(1, before['macs']):.3f}x",
                f"{member['params'] / max(1, before['params']):.3f}x",
                "-" if latency is None else f"{latency['before_ms']:.3g} → {latency['after_ms']:.3g}",
                "-" if latency is None else f"{1 / latency['speedup']:.3f}" + " (noise)" * latency["within_noise"],
                "-" if latency is None else f"{low} to {high}",
                "-" if value is None else f"{value:.4g}",
                "-" if member["seconds"] is None else f"{member['seconds']:.1f}",
                member["path"],
            )
        )
    return rows


def family_quality(summary: Mapping[str, Any]) -> tuple[str, float | None, Callable[[Mapping[str, Any]], float | None]]:
    """Return what tells how much members still do: in words, of the original, and as a function of a member."""
    first = summary["members"][0]
    if first["accuracy"] is not None:
        samples = first["accuracy"]["samples"]
        return (
            f"accuracy in %, {samples} samples",
            100 * first["accuracy"]["before"],
            lambda m: 100 * m["accuracy"]["after"],
        )
    if first["fidelity"] is None:
        whole = max(1, summary["input"]["macs"])
        return "MACs, % (no data: nothing is known of quality)", 100.0, lambda m: 100 * m["macs"] / whole
    figures = first["fidelity"]["figures"]
    name, label, exact = main_figure(figures)
    return label, exact, lambda m: m["fidelity"]["figures"][name]


LOSSES = {  # what the loss of a kind of outputs is, see `fidelity.Metric.loss`
    "classification": "KL divergence of the classes",
    "language model": "KL divergence of the words",
    "embedding": "1 - cosine",
    "dense": "squared error over variance",
    "boxes": "distance of the boxes",
}


def sensitivity_tables(found: Sensitivity) -> list[RenderableType]:
    """Return what ``onnxprune sensitivity`` prints: the groups in the order of the graph, then what follows."""
    table = _table("group", "kind", "units", "MACs", "25%", "50%", "75%", "verdict", left=(0, 1))
    for group in found.groups:
        losses = [_loss(group.loss_at(share)) for share in (0.25, 0.5, 0.75)]
        words = verdict_words(group)
        table.add_row(*_printable((group.name, group.kind, f"{group.units:,}", f"{group.macs:.1%}", *losses, words)))
    return [_printable(_sensitivity_head(found)), table, "\n".join(_printable(_advice(found)))]


def _sensitivity_head(found: Sensitivity) -> str:
    """Return what the numbers of the table are."""
    on = f"{_counted(found.judged, 'sample')}{' that nothing was fitted to' * found.held_out}"
    fitted = "layers refitted" if found.reconstruct else "layers not refitted"
    return (
        f"{found.path or 'model'}: loss of the output ({LOSSES[found.metric]}) when one group loses 25, 50, 75 % "
        f"of its units; on {on}, {fitted}"
    )


def verdict_words(group: Sensitive) -> str:
    """Return the verdict on a group in one or two words."""
    return f"{group.free:,} free" if group.verdict == "free" else group.verdict or ""


def _advice(found: Sensitivity) -> list[str]:
    """Return what the verdicts mean for pruning."""
    lines = []
    if found.protect:
        names = _names(group.name for group in found.protect)
        lines.append(f"protect (high loss per MAC saved; spare them with --ignore): {names}")
    if found.free:
        units = sum(group.free for group in found.free)
        saved = f"{found.free_macs:.1%} of the MACs and {found.free_params:.1%} of the parameters"
        lines.append(
            f"free: {units:,} units of {_counted(len(found.free), 'group')}, {saved} if all go; each group then costs "
            "at most a twentieth of what a typical one costs that loses half"
        )
    if not found.held_out:
        lines.append("measured on what the layers were fitted to: give more samples, or others with --eval-data")
    return lines or ["no group stands out"]


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


# -- pieces ------------------------------------------------------------------------------------------------


def _table(*headings: str, left: Sequence[int] = (0,)) -> Any:
    """Return an empty table that is readable without colour and in a log file."""
    from rich import box  # noqa: PLC0415 - only when something is printed
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for i, heading in enumerate(headings):
        free = i in left and heading != "kind"  # names may be broken where space is short; words and numbers are not
        table.add_column(heading, justify="left" if i in left else "right", overflow="fold", no_wrap=not free)
    return table


def printable(text: str) -> str:
    r"""Return a text whose control characters are escaped: names come from the file, and may hold anything.

    >>> printable("a\n\x1b[31m")
    'a\\n\\x1b[31m'
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _printable(value: Any) -> Any:
    """Return plain values whose strings are printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {key: _printable(item) for key, item in value.items()}
    return [_printable(item) for item in value] if isinstance(value, (list, tuple)) else value


def _counts(before: int, after: int) -> tuple[str, str, str]:
    return _pair(before, after, _count)


def _pair(before: float, after: float, show: Any) -> tuple[str, str, str]:
    return show(before), show(after), f"{after / before:.3f}" if before else "-"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _count(value: float) -> str:
    """Return a count in the unit people use: thousands, millions, billions."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / limit if unit != 'k' else value / 1e3:.2f} {unit}"
    return f"{value:,.0f}"


def _bytes(value: float) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.2f} {unit}"
    return f"{value:.0f} B"


def _ms(value: float) -> str:
    return f"{value:.3f} ms"


def _accuracies(before: float, after: float) -> tuple[str, str, str]:
    return f"{before:.2%}", f"{after:.2%}", _points(before, after)


def _points(before: float, after: float) -> str:
    return f"{100 * (after - before):+.2f} points"


def _where(provider: str, threads: int) -> str:
    if provider != "cpu":
        return provider
    return "cpu" if threads == 0 else f"cpu, {threads} thread{'s' * (threads > 1)}"


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more
