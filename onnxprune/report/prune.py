"""What ``onnxprune prune`` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxprune.calibration.weight_slopes import ENOUGH, chance
from onnxprune.latency.speedup import WIDE
from onnxprune.metrics.words import headline
from onnxprune.report.depth import depth_lines
from onnxprune.report.quantize import quantization_parts, slower_lines
from onnxprune.report.rotation import rotation_lines
from onnxprune.report.rounds import rounds_table
from onnxprune.report.tied import tied_lines
from onnxprune.report.vocabulary import vocabulary_lines
from onnxprune.report.words import (
    accuracy_cells,
    all_printable,
    by_reason,
    count_cells,
    dims_text,
    enumerated,
    fidelity_row,
    ms_text,
    names_text,
    new_table,
    not_run_lines,
    pair_cells,
    place_text,
    plural,
    points_text,
    size_text,
    warning_lines,
)

if TYPE_CHECKING:
    from rich.console import RenderableType


_MISSED = 0.02  # of the original, from which a budget that gates expect to keep to counts as missed
_REAL = "real ones, with --data, keep more"
SEEN = "compared on samples that calibration saw: others may fare worse; give some with --eval-data"


def prune_tables(report: Mapping[str, Any]) -> list[RenderableType]:
    """Return what the command line prints after a run: the table, the groups left alone, the verdict."""
    report = all_printable(report)
    before, after = report["input"], report["output"]
    table = new_table("", "before", "after", "after / before")
    table.add_row("parameters", *count_cells(before["params"], after["params"]))
    table.add_row("MACs per sample", *count_cells(before["macs"], after["macs"]))
    table.add_row("file size", *pair_cells(before["size_bytes"], after["size_bytes"], size_text))
    caches = [each.get("cache_bytes", 0) for each in (before, after)]
    if caches[0] != caches[1]:
        table.add_row("cache of a token", *pair_cells(caches[0], caches[1], size_text))
    for latency in report["latency"]:
        label = f"latency, {_place(latency)}"
        table.add_row(label, *pair_cells(latency["before_ms"], latency["after_ms"], ms_text))
    accuracy = report["accuracy"]
    if accuracy is not None:
        label = f"accuracy, {accuracy['samples']} samples"
        table.add_row(label, *accuracy_cells(accuracy["before"], accuracy["after"]))
    fidelity_row(table, report["fidelity"])
    parts = [*step_parts(report), _left_alone(report["groups"]), *quantization_parts(report), *note_parts(report)]
    return [table, *parts, _verdict(report)]


def step_parts(report: Mapping[str, Any]) -> list[RenderableType]:
    """Return what is said of steps that few runs have: a published method, rounds, branches, words, turned streams."""
    return [
        *_method(report),
        *rounds_table(report),
        *vocabulary_lines(report),
        *depth_lines(report),
        *rotation_lines(report),
        *_ports(report.get("ports", ())),
    ]


def note_parts(report: Mapping[str, Any]) -> list[RenderableType]:
    """Return sentences on what costs time, targets, nodes that cannot be run, ties, masks and tuning."""
    sides = (("input", report["input"]["warnings"]), ("output", report["output"]["warnings"]))
    told = [*_promised(report), *not_run_lines(report["not_run"]), *tied_lines(report)]
    return [*warning_lines(sides), *told, *_masked(report), *_tuned(report)]


def _method(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield which published method was followed, where one was."""
    method = report.get("method")
    if method is not None:
        yield f"method {method['name']}: {method['summary']} ({method['source']})"


def _masked(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what came of learning masks, where some were learned."""
    masks = report.get("masks")
    if masks is None:
        return
    last = masks["history"][-1]
    missed = f"the budget missed by {last['over']:.3f} of the original, which the cut takes as well: more steps help"
    budget = missed if last["over"] > _MISSED else "the budget met"
    gates = f"{masks['gates']:,} gates, {last['kept']:.1%} expected to be open"
    yield f"masks learned in {plural(masks['steps'], 'step')}: {gates}, {budget}"
    if masks["without"]:
        yield f"no weight that is trained reads the units of {enumerated(masks['without'])}: they have no gates"


def _tuned(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what came of tuning, where there was some."""
    tuning = report.get("tuning")
    if tuning is None or report.get("rounds") is not None:
        return
    before, best = tuning["history"][0]["held"], tuning["best"]["held"]
    spent = f"{plural(tuning['steps'], 'step')} in {tuning['seconds']:.0f} s"
    if tuning["helped"]:
        yield f"tuned in {spent}: held-out loss {_loss(before)} -> {_loss(best)}; the proof is of the cut"
    else:
        yield f"tuning in {spent} did not help: the weights are as they were cut and refitted"


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _promised(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the targets that plans were raced for with the measured costs, where any were raced."""
    promise = report["promise"]
    if promise is None:
        return
    races = plural(len(promise["attempts"]), "plan") + " raced against the original"
    steps = sorted(set(promise["steps"].values()))
    multiples = enumerated([str(step) for step in steps])
    steps_text = f"; counts are multiples of what kernels like: {multiples}" if steps else ""
    if not promise["targets"]:
        last = promise["attempts"][-1]["measured"]["latency"]
        yield f"{races}: {last:.3f} of its latency{steps_text}"
    for target in promise["targets"]:
        if target["measured"] is not None:
            bound, fraction = target["target"], target["fraction"]
            bound += "" if bound.endswith(f"={fraction:g}") else f" ({fraction:.3f})"
            wide = f" +- {target['unsure']:.1%}" if (target.get("unsure") or 0.0) > WIDE else ""
            yield f"{bound} asked: {target['measured']:.3f}{wide} of the original, {races}{steps_text}"
    if not promise["complete"]:
        yield "there was no time to measure all that predictions rest on: give more with --profile-seconds"
    if promise["unknown"]:
        yield f"{plural(promise['unknown'], 'node')} could not be timed, and were taken to follow their MACs"


def _left_alone(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return what was pruned, and one line per reason for the groups that kept all their units."""
    cut = [group for group in groups if group["kept"] < group["units"]]
    kept = sum(group["kept"] for group in cut)
    total = sum(group["units"] for group in cut)
    kinds = ", ".join(dict.fromkeys(group["kind"] for group in cut))
    line = f"pruned {len(cut)} of {len(groups)} groups ({kinds}): {kept:,} of {total:,} units kept"
    left = [(group["locked"] or "", group["name"]) for group in groups if group["kept"] == group["units"]]
    return "\n".join([line, *["left alone, by reason:"] * bool(left), *by_reason(left)])


def _ports(ports: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield which inputs and outputs changed, a line for each change of shape; nothing where all are as they were."""
    by_change: dict[str, list[str]] = {}
    for port in ports:
        before, after = (None if shape is None else dims_text(shape) for shape in (port["before"], port["after"]))
        by_change.setdefault(f"{before} -> {after}" if after else f"{before} gone", []).append(port["name"])
    if ports:
        lines = (f"  {change}: {names_text(names)}" for change, names in by_change.items())
        yield "\n".join(["inputs and outputs that changed, caches all of them:", *lines])


def _verdict(report: Mapping[str, Any]) -> str:
    verification = report["verification"]
    proof = (
        f"verified: masked = pruned {_closeness(verification['max_rel_diff'])} "
        f"in {plural(len(verification['runs']), 'run')}"
    )
    if any(group["kept"] < group["units"] and not group["exact"] for group in report["groups"]):
        proof += ", where normalisations go over the kept units"
    if verification["max_rel_diff"] > verification["tolerance"]:
        proof += f", which is round-off: the original alone makes {verification['noise']:.1e} of it"
    saved = report["input"]["macs"] / max(1, report["output"]["macs"])
    gains = [f"{saved:.2f}x fewer MACs", *map(_speed, report["latency"]), *slower_lines(report)]
    accuracy = report["accuracy"]
    if accuracy is not None:
        gains.append(f"accuracy {points_text(accuracy['before'], accuracy['after'])}")
    fidelity = report["fidelity"]
    if fidelity is not None and (accuracy is None or fidelity["kind"] != "classification"):
        gains.append(headline(fidelity["figures"]))
    seen = "" if fidelity is None or fidelity["held_out"] else f"{SEEN}\n"
    cuts = [each for each in report.get("rounds") or () if each["skipped"] is None]
    proof += _told_of(report.get("ports", ()))
    proof += f": each of {plural(len(cuts), 'cut')} against its own input" * bool(cuts)
    return f"{_calibrated(report)}{seen}{proof}\n{report['output']['path']}: {'; '.join(gains)}"


def _calibrated(report: Mapping[str, Any]) -> str:
    """Return in words what the model was calibrated on; nothing where no samples were to be used."""
    calibration = report.get("calibration")
    if calibration is None:
        return ""
    if calibration["source"] == "none":
        return f"chosen by weights alone, no samples can be generated ({calibration['told']}): give some with --data\n"
    made = calibration["source"] == "generated"
    text = f"calibrated on {_samples(calibration)}"
    fits = report["reconstruction"]
    if fits:
        refitted = sum(fit["strength"] is not None for fit in fits)
        attempted = sum(fit["why_not"] is None for fit in fits)
        text += f": {refitted} of {plural(len(fits), 'layer')} refitted"
        text += f", {attempted - refitted} best as they were cut" * (attempted > refitted)
        text += f", {len(fits) - attempted} that cannot be" * (len(fits) > attempted)
    text += f"; {_REAL}\n" if made else "\n"
    return text + _differentiated(report["gradients"]) + _spent(report["effort"])


def calibration_parts(report: Mapping[str, Any]) -> list[str]:
    """Return sentences on the samples, gradients and losses that a cut was chosen by."""
    calibration = report["calibration"]
    if calibration is None:
        return []
    if calibration["source"] == "none":
        return [_calibrated(report).rstrip("\n")]
    first = f"calibrated on {_samples(calibration)}" + f"; {_REAL}" * (calibration["source"] == "generated")
    more = (_differentiated(report["gradients"]), _spent(report["effort"]))
    return [first, *(text.rstrip("\n") for text in more if text)]


def _samples(calibration: Mapping[str, Any]) -> str:
    return plural(calibration["samples"], "generated sample" if calibration["source"] == "generated" else "sample")


def _differentiated(gradients: Mapping[str, Any] | None) -> str:
    """Return in words what gradients were looked at, and which groups have none; nothing where none were."""
    if gradients is None:
        return ""
    answers = f"{gradients['draws']} drawn answers each" if gradients["answers"] == "drawn" else "their right answers"
    without = [(f"no gradient, scored by their weights: {why}", name) for name, why in gradients["without"].items()]
    return "\n".join([f"gradients of {plural(gradients['samples'], 'sample')}, {answers}", *by_reason(without), ""])


def _spent(effort: Mapping[str, Any] | None) -> str:
    """Return in words what was spent on loss curves; nothing where all of them were measured."""
    if effort is None or effort["measured"] == effort["losses"]:
        return ""
    if not effort["measured"]:
        one = f"{effort['level']} effort: one loss would take more than that"
        return f"{one}, so all are told by errors; --effort thorough has all\n"
    measured = f"{effort['measured']:,} of {effort['losses']:,} losses measured"
    judged = plural(effort["judged"], "sample")
    if effort["gradient"] is not None:
        scale = effort["gradient"]
        law = f"{scale['factor']:.2g} times what they tell to the power of {scale['power']:.2f}"
        off = f"within a factor of {scale['spread']:.2f} at the median"
        sums = scale.get("sums") or ENOUGH  # reports of 1.0 have none
        few = f"; {sums} sums of gradients tell them, which are off by {chance(sums):.0%} by chance"
        return f"{measured} on {judged}, the others told by gradients: {law}, {off}{few * (sums < ENOUGH)}\n"
    return f"{effort['level']} effort: {measured} on {judged}, the others told by errors; --effort thorough has all\n"


def _told_of(ports: Sequence[Mapping[str, Any]]) -> str:
    """Return in words that the caches are others; nothing where they are not."""
    gone = sum(port["after"] is None for port in ports)
    changes = [f"{len(ports) - gone} smaller"] * (gone < len(ports)) + [f"{gone} gone"] * bool(gone)
    return f"; inputs and outputs that are caches: {', '.join(changes)}" if ports else ""


def _closeness(difference: float) -> str:
    return f"to {difference:.1e} of the output's range" if difference else "exactly"


def _place(latency: Mapping[str, Any]) -> str:
    return place_text(latency["provider"], latency["threads"], latency.get("timer"))


def _speed(latency: Mapping[str, Any]) -> str:
    """Return in words how much faster or slower one run got."""
    where = _place(latency)
    speedup, interval = latency["speedup"], latency["speedup_interval"]
    slower = speedup < 1 and not latency["within_noise"]
    low, high = sorted(1 / bound for bound in interval) if slower else interval
    known = f"on {where} (95 % interval {low:.2f} to {high:.2f})"
    if latency["within_noise"]:
        return f"no measurable speed-up {known}"
    return f"{1 / speedup:.2f}x slower {known}" if slower else f"{speedup:.2f}x faster {known}"
