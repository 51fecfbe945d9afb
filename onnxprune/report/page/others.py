"""The pages of `compare`, `sensitivity`, `sweep` and `tune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from onnxprune.metrics.words import headline, row
from onnxprune.report.page.network import network
from onnxprune.report.page.parts import (
    again_section,
    amount,
    counts,
    file_name,
    notes_section,
    sentence,
    speed_words,
    time_section,
    where_text,
)
from onnxprune.report.page.plots import LARGE, chart
from onnxprune.report.page.samples import figure_text, samples_section
from onnxprune.report.page.tones import UNKNOWN, WORDS, tones_of
from onnxprune.report.page.views import Charts, Fact, Page, Proof, Section, Table
from onnxprune.report.sweep import family_quality, family_rows, without_model
from onnxprune.report.words import LOSSES, accuracy_cells, ms_text, plural, size_text, warning_lines

_MOST_ROWS = 400

# -- compare -----------------------------------------------------------------------------------------------


def compare_page(report: Mapping[str, Any]) -> Page:
    """Return the page of a report of `compare`."""
    first = report["comparisons"][0]
    before, after = first["before"], first["after"]
    title = f"{file_name(after['path'])} beside {file_name(before['path'])}"
    picture = network({**report, "groups": (), "nodes": ()})
    shown = {**report, "fidelity": _compared_fidelity(first), "accuracy": None}
    sections = [
        Section("Before and after", "facts.html", _compared_facts(report["comparisons"])),
        *([] if picture is None else [Section("The network", "network.html", picture, _LAYERS)]),
        *time_section(report),
        *_elsewhere(first),
        *samples_section(shown),
        *notes_section(warning_lines((("before", before["warnings"]), ("after", after["warnings"])))),
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
        facts.append(Fact("accuracy", *accuracy_cells(before["accuracy"], after["accuracy"])))
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
        Section("Groups", "table.html", _sensitive_table(groups)),
        again_section(report, [("read", report["input"])]),
    ]
    title = file_name(report["input"]["path"])
    return Page(title, "sensitivity", verdict, sections, report.get("onnxprune") or _version_of(report))


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
    """Return the tone of each group by its loss with half of its units removed."""
    losses = {}
    for group in groups:
        known = [(abs(level["removed"] - group["units"] / 2), level["loss"]) for level in group["levels"][1:]]
        known = [(off, loss) for off, loss in known if loss is not None]
        if known:
            losses[group["name"]] = min(known)[1]
    return tones_of(losses)


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
            f"{group['free']:,}", group["verdict"] or "",
        )
        for group in groups
    ]  # fmt: skip
    headings = ("group", "kind", "units", "of the MACs", "of the parameters", "free units", "verdict")
    return Table(headings, rows[:_MOST_ROWS], left=(0, 1, 6), shown=40, left_out=max(0, len(rows) - _MOST_ROWS))


# -- sweep -------------------------------------------------------------------------------------------------


def sweep_page(summary: Mapping[str, Any]) -> Page:
    """Return the page of the summary of a family."""
    members = summary["members"]
    label, before, of = family_quality(summary)
    headings, *rows = family_rows(summary)
    whole = max(1, summary["input"]["macs"])
    timed = all(member["latency"] for member in members)
    points = [] if before is None else [(1.0, before)]
    for member in members:
        value = of(member)
        share = 1 / member["latency"]["speedup"] if timed else member["macs"] / whole
        points += [] if value is None else [(share, value)]
    x_label = f"{'latency' if timed else 'MACs'} over the original's"
    drawn = chart("", [("", sorted(points))], x_label=x_label, y_label=label, frame=LARGE, from_zero=False)
    sections = [
        Section("What it costs, what is left", "charts.html", Charts([drawn])),
        Section("Members", "table.html", Table(headings, rows, left=(0, 8), shown=60)),
        *notes_section(without_model(summary)),
        again_section(summary, [("read", summary["input"]), *((str(each["value"]), each) for each in members)]),
    ]
    verdict = sentence([f"{plural(len(members), 'model')} of one calibration", _range(members, whole)])
    return Page(
        file_name(summary["input"]["path"]), "pruned to several targets", verdict, sections, summary["onnxprune"]
    )


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
        *notes_section(_lesson(report)),
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
        facts.append(Fact("accuracy", *accuracy_cells(accuracy["before"], accuracy["after"])))
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


def _lesson(report: Mapping[str, Any]) -> list[str]:
    lesson = report["lesson"]
    losses = ", ".join(f"{weight:g} × {name}" for name, weight in lesson["losses"].items())
    said = [f"learned {losses} from {plural(lesson['samples'], 'sample')}; {lesson['held_out']} others decided"]
    return [*said, *([report["stopped"]] if report["stopped"] else [])]


# -- folders -----------------------------------------------------------------------------------------------


def folder_title(report: Mapping[str, Any]) -> str:
    """Return the name of a folder that was pruned."""
    return PurePath(report["output"]).name
