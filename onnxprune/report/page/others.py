"""The pages of `compare`, `quantize`, `sensitivity`, `sweep` and `tune`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from onnxprune.metrics.words import headline, row
from onnxprune.report.compare import difference_line
from onnxprune.report.page.network import network
from onnxprune.report.page.parts import (
    accuracy_fact,
    again_section,
    amount,
    apart,
    counts,
    file_name,
    notes_section,
    quantized_section,
    sentence,
    speed_words,
    time_section,
    where_text,
)
from onnxprune.report.page.plots import LARGE, chart
from onnxprune.report.page.samples import figure_text, samples_section
from onnxprune.report.page.tones import UNKNOWN, WORDS, loss_at, tones_of
from onnxprune.report.page.views import Charts, Fact, Page, Proof, Section, Table
from onnxprune.report.prune import calibration_parts
from onnxprune.report.sweep import family_quality, family_rows, without_model
from onnxprune.report.tune import lesson_lines
from onnxprune.report.words import LOSSES, ms_text, plural, size_text, warning_lines

_MOST_ROWS = 400

# -- compare -----------------------------------------------------------------------------------------------


def compare_page(report: Mapping[str, Any]) -> Page:
    """Return the page of a report of `compare`."""
    first = report["comparisons"][0]
    before, after = first["before"], first["after"]
    title = " beside ".join(apart(after["path"], before["path"]))
    picture = network({**report, "groups": (), "nodes": ()})
    shown = {**report, "fidelity": _compared_fidelity(first), "accuracy": None}
    sections = [
        Section("Before and after", "facts.html", _compared_facts(report["comparisons"])),
        *([] if picture is None else [Section("The network", "network.html", picture, _LAYERS)]),
        *time_section(report),
        *_elsewhere(first),
        *samples_section(shown),
        *notes_section(
            [
                difference_line(first),
                *warning_lines((("before", before["warnings"]), ("after", after["warnings"]))),
            ]
        ),
        again_section(report, (("before", before), ("after", after))),
    ]
    missed = [text for each in report["comparisons"] for text in each["missed"]]
    gains = [speed_words(_latency(each)) for each in report["comparisons"]]
    saved = [f"{before['macs'] / after['macs']:.2f}× fewer multiplications"] if before["macs"] and after["macs"] else []
    said = sentence([*gains, *saved, *_quality_words(first)])
    verdict = f"{said} Bounds that are missed: {'; '.join(missed)}." if missed else said
    return Page(title, "compared", verdict, sections, report["onnxprune"])


_LAYERS = (
    "Layers with weights or multiplications, from the input, above, to the output. The length of a bar is what a layer "
    "costs before, its filling what it costs after."
)


def _latency(comparison: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**comparison, "before_ms": comparison["before"]["median_ms"], "after_ms": comparison["after"]["median_ms"]}


def _quality_words(comparison: Mapping[str, Any]) -> list[str]:
    before, after = comparison["before"], comparison["after"]
    if before["accuracy"] is None or after["accuracy"] is None:
        fidelity = _compared_fidelity(comparison)
        return [] if fidelity is None else [headline(fidelity["figures"])]
    return [f"accuracy {before['accuracy']:.2%} before and {after['accuracy']:.2%} after"]


def _compared_fidelity(comparison: Mapping[str, Any]) -> dict[str, Any] | None:
    fidelity = comparison["fidelity"]
    if fidelity is None or comparison["feeds"] != "data":
        return None
    return {**fidelity, "held_out": False, "samples": comparison["samples"]}


def _compared_facts(comparisons: Sequence[Mapping[str, Any]]) -> list[Fact]:
    before, after = comparisons[0]["before"], comparisons[0]["after"]
    facts = counts(before, after)
    for each in comparisons:
        for label, key, show in (
            (f"latency, {where_text(each)}", "median_ms", ms_text),
            ("latency, 95th percentile", "p95_ms", ms_text),
            ("time to open", "creation_ms", ms_text),
            ("peak memory", "peak_memory_bytes", size_text),
        ):
            old, new = each["before"][key], each["after"][key]
            if old is not None and new is not None:
                facts.append(amount(label, old, new, show))
    if before["accuracy"] is not None and after["accuracy"] is not None:
        facts.append(accuracy_fact({"before": before["accuracy"], "after": after["accuracy"]}))
    fidelity = comparisons[0]["fidelity"]
    cells = None if fidelity is None or comparisons[0]["feeds"] != "data" else row(fidelity["figures"])
    return facts if cells is None else [*facts, Fact(*cells, "")]


def _elsewhere(comparison: Mapping[str, Any]) -> list[Section]:
    """Return both models with other threads and batches, where they were timed."""
    points = comparison["sweep"]
    if not points:
        return []
    rows = list[tuple[str, ...]]()
    for point in points:
        place = str(point["threads"] or "all"), str(point["batch"])
        if point["speedup"] is None:
            rows.append((*place, "–", "–", "–", point["why_not"] or ""))
            continue
        low, high = point["speedup_interval"]
        rates = (f"{point[key]:,.4g}" for key in ("before_per_s", "after_per_s"))
        noise = "within noise" * bool(point["within_noise"])
        rows.append((*place, *rates, f"{point['speedup']:.2f} ({low:.2f} to {high:.2f})", noise))
    headings = ("threads", "batch", "samples per second before", "after", "times as fast (95 %)", "")
    return [Section("Elsewhere", "table.html", Table(headings, rows, left=(5,)))]


# -- quantize ----------------------------------------------------------------------------------------------


def quantize_page(report: Mapping[str, Any]) -> Page:
    """Return the page of a report of `quantize`."""
    before, after = report["input"], report["output"]
    facts = counts(before, after)
    facts += [
        amount(f"latency, {where_text(each)}", each["before_ms"], each["after_ms"], ms_text) for each in _timed(report)
    ]
    clauses = [f"{before['size_bytes'] / max(1, after['size_bytes']):.2f}× smaller", *map(speed_words, _timed(report))]
    accuracy, fidelity = report["accuracy"], report["fidelity"]
    if accuracy is not None:
        facts.append(accuracy_fact(accuracy))
        clauses.append(f"accuracy {accuracy['before']:.2%} before and {accuracy['after']:.2%} after")
    elif fidelity is not None:
        clauses.append(headline(fidelity["figures"]))
    picture = network({**report, "groups": (), "nodes": ()}) if report["details"] else None
    sections = [
        Section("Before and after", "facts.html", facts),
        *quantized_section(report),
        *([] if picture is None else [Section("The network", "network.html", picture, _LAYERS)]),
        *time_section(report),
        *samples_section(report),
        *notes_section(calibration_parts(report)),
        again_section(report, (("read", before), ("written", after))),
    ]
    verdict = sentence([*clauses, "measured, not proven"])
    kicker = f"{file_name(before['path'])} in eight bits"
    return Page(file_name(after["path"] or before["path"]), kicker, verdict, sections, report["onnxprune"])


def _timed(report: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    timed: Sequence[Mapping[str, Any]] = report["latency"] or ()
    return timed


# -- sensitivity -------------------------------------------------------------------------------------------


def sensitivity_page(report: Mapping[str, Any]) -> Page:
    """Return the page of a report of `sensitivity`."""
    groups = report["groups"]
    protect = [group["name"] for group in groups if group["verdict"] == "protect"]
    free = sum(group["free"] for group in groups if group["verdict"] == "free")
    verdict = sentence(
        [
            f"{plural(len(protect), 'group')} to protect",
            f"{free:,} units that are practically free"
            + f" ({report['free_macs']:.1%} of the MACs, {report['free_params']:.1%} of the parameters)" * bool(free),
            f"of {plural(len(groups), 'group')} that can lose units",
        ]
    )
    kind = report["metric"]
    lead = f"The loss of the output ({LOSSES.get(kind, kind)}) when one group alone loses units, on {_judged(report)}."
    sections = [
        *_sensitive_picture(report),
        Section("Loss curves", "charts.html", _sensitive_curves(groups), lead),
        Section("Groups", "table.html", _sensitive_table(groups), _SHARES),
        again_section(report, [("read", report["input"])]),
    ]
    title = file_name(report["input"]["path"])
    return Page(title, "sensitivity", verdict, sections, report.get("onnxprune") or _version_of(report))


_SHARES = "The loss of the output with 25, 50 and 75 % of the units removed, and how many units are practically free."


def _version_of(report: Mapping[str, Any]) -> str:
    run = (report.get("details") or {}).get("run")
    return str(run["versions"].get("onnxprune", "")) if run else ""


def _judged(report: Mapping[str, Any]) -> str:
    return f"{plural(report['judged'], 'sample')}{' that nothing was fitted to' * bool(report['held_out'])}"


def _sensitive_picture(report: Mapping[str, Any]) -> list[Section]:
    carried = (report.get("details") or {}).get("carried")
    if carried is None:
        return []
    tones, listed = _halves(report["groups"]), []
    for each in report["groups"]:
        listed += [{**each, "name": name, "nodes": carried[name]} for name in each["groups"] if name in carried]
        tones |= dict.fromkeys(each["groups"], tones.get(each["name"], UNKNOWN[0]))
    picture = network({"details": report["details"], "groups": listed}, tones)
    lead = "From the input, above, to the output. The length of a bar is what a group of layers costs."
    return [] if picture is None else [Section("The network", "network.html", picture, lead)]


def _halves(groups: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the tone of each group by its loss with half of its units removed; red are those to protect, no others."""
    known = {group["name"]: _loss_at(group, 0.5) for group in groups}
    tones = tones_of({name: loss for name, loss in known.items() if loss is not None})
    protect = {group["name"] for group in groups if group["verdict"] == "protect"}
    return {
        name: "most" if name in protect else "dear" if tone == "most" else tone
        for name, tone in {**tones, **dict.fromkeys(protect, "most")}.items()
    }


def _loss_at(group: Mapping[str, Any], share: float) -> float | None:
    """Return the loss with a share of the units removed; None where none was measured.

    As on the terminal, a loss is at least that of fewer units.
    """
    known = [(level["removed"], level["loss"]) for level in group["levels"] if level["loss"] is not None]
    removed, losses = [at for at, _ in known], [*itertools.accumulate((loss for _, loss in known), max)]
    return loss_at(removed, losses, share * group["units"])


def _loss_text(group: Mapping[str, Any], share: float) -> str:
    """Return the loss with a share of the units removed in words; nothing is told of more than was measured."""
    most = max((level["removed"] for level in group["levels"] if level["loss"] is not None), default=0)
    loss = None if share * group["units"] > most else _loss_at(group, share)
    return "–" if loss is None else f"{loss:.1e}"


def _verdict_words(group: Mapping[str, Any]) -> str:
    return f"{group['free']:,} free" if group["verdict"] == "free" else group["verdict"] or ""


def _sensitive_curves(groups: Sequence[Mapping[str, Any]]) -> Charts:
    tones = _halves(groups)
    charts = [
        chart(
            group["name"],
            [("", [(level["removed"], level["loss"]) for level in group["levels"] if level["loss"] is not None])],
            x_label="removed", y_label="loss", tone=tones.get(group["name"], ""),
            note=f"{group['units']:,} {group['kind']}: {WORDS[tones[group['name']]] if group['name'] in tones else ''}",
        )
        for group in groups[:24]
    ]  # fmt: skip
    return Charts(charts)


def _sensitive_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (
            group["name"], group["kind"], f"{group['units']:,}", f"{group['macs']:.1%}", f"{group['params']:.1%}",
            *(_loss_text(group, share) for share in (0.25, 0.5, 0.75)),
            _verdict_words(group),
        )
        for group in groups
    ]  # fmt: skip
    headings = ("group", "kind", "units", "of the MACs", "of the parameters", "25 %", "50 %", "75 %", "verdict")
    return Table(headings, rows[:_MOST_ROWS], left=(0, 1, 8), shown=40, left_out=max(0, len(rows) - _MOST_ROWS))


# -- sweep -------------------------------------------------------------------------------------------------


def sweep_page(summary: Mapping[str, Any]) -> Page:
    """Return the page of the summary of a family."""
    members = summary["members"]
    headings, *rows = family_rows(summary)
    whole = max(1, summary["input"]["macs"])
    sections = [
        *_family_chart(summary, whole),
        Section("Members", "table.html", Table(headings, rows, left=(0, 8), shown=60)),
        *notes_section(without_model(summary)),
        again_section(summary, [("read", summary["input"]), *((str(each["value"]), each) for each in members)]),
    ]
    verdict = sentence([f"{plural(len(members), 'model')} of one calibration", _range(members, whole)])
    return Page(
        file_name(summary["input"]["path"]), "pruned to several targets", verdict, sections, summary["onnxprune"]
    )


def _family_chart(summary: Mapping[str, Any], whole: float) -> list[Section]:
    """Return what is left over what it costs; nothing without data, where nothing is known of what is left."""
    members = summary["members"]
    if members[0]["accuracy"] is None and members[0]["fidelity"] is None:
        return []
    label, before, of = family_quality(summary)
    timed = all(member["latency"] for member in members)
    points = [] if before is None else [(1.0, before)]
    for member in members:
        value = of(member)
        share = 1 / member["latency"]["speedup"] if timed else member["macs"] / whole
        points += [] if value is None else [(share, value)]
    x_label = f"{'latency' if timed else 'MACs'} over the original's"
    most = 100.0 if label.startswith("accuracy") else 1.0 if before == 1.0 else None
    drawn = chart(
        "", [("", sorted(points))], x_label=x_label, y_label=label, frame=LARGE, from_zero=False, y_most=most
    )  # fmt: skip
    return [Section("What it costs, what is left", "charts.html", Charts([drawn]))]


def _range(members: Sequence[Mapping[str, Any]], whole: float) -> str:
    shares = sorted(member["macs"] / whole for member in members)
    return f"with {shares[0]:.0%} to {shares[-1]:.0%} of the multiplications of the original"


# -- tune --------------------------------------------------------------------------------------------------


def tune_page(report: Mapping[str, Any]) -> Page:
    """Return the page of a report of `tune`."""
    first, best = report["history"][0], report["best"]
    if report["helped"]:
        said = f"held-out loss {_number(first['held'])} before and {_number(best['held'])} at step {best['step']:,}"
    else:
        said = "tuning did not help, and the weights are as they were"
    fidelity = report["fidelity"]
    sides = [headline(fidelity[side]) for side in ("before", "after") if fidelity[side]]
    verdict = sentence([said, " before, ".join(sides) + " after" if len(set(sides)) == 2 else ""])
    proof = report["proof"]
    figures = [("largest difference", f"{proof['max_rel_diff']:.1e} of the output's range")]
    held = "The file that was written was run beside the network that learned, on the same samples."
    sections = [
        Section("Before and after", "facts.html", _tuned_facts(report)),
        Section("On the way", "charts.html", _history(report)),
        Section("The proof", "proof.html", Proof(proof["passed"], held, figures, Table((), ()))),
        *notes_section(lesson_lines(report)),
        again_section(
            report, (("tuned", report["input"]), ("teacher", report["teacher"]), ("written", report["output"]))
        ),
    ]
    name = file_name(report["output"]["path"] or report["input"]["path"])
    return Page(name, f"tuned from {file_name(report['input']['path'])}", verdict, sections, report["onnxprune"])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _tuned_facts(report: Mapping[str, Any]) -> list[Fact]:
    facts = [*counts(report["input"], report["output"])]
    accuracy, fidelity = report["accuracy"], report["fidelity"]
    if accuracy is not None:
        facts.append(accuracy_fact(accuracy))
    before, after = fidelity["before"] or {}, fidelity["after"] or {}
    facts += [
        Fact(
            f"{name.replace('_', ' ')}, beside the teacher",
            figure_text(name, before[name]),
            figure_text(name, value),
            "",
        )
        for name, value in after.items()
        if name in before and not name.endswith(("_before", "accuracy_after")) and report["teacher"]
    ]
    return facts


def _history(report: Mapping[str, Any]) -> Charts:
    series = [
        (name, [(each["step"], each[key]) for each in report["history"] if each[key] is not None])
        for name, key in (("held out", "held"), ("learned from", "loss"))
    ]
    drawn = chart("", series, x_label="step", y_label="loss", frame=LARGE, mark=report["best"]["step"])
    return Charts([drawn], legend=[(name, number) for number, (name, points) in enumerate(series) if points])


# -- folders -----------------------------------------------------------------------------------------------


def folder_title(report: Mapping[str, Any]) -> str:
    """Return the name of a folder that was pruned."""
    return PurePath(report["output"]).name
