"""What the proof of a cut is of, in words: what came in front of the cut, and what came after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxprune.report.page.views import Proof, Section, Table
from onnxprune.report.words import enumerated


def proven_words(report: Mapping[str, Any]) -> str:
    """Return what was proven, as a clause of the verdict."""
    later = _later(report)
    when = f"before {enumerated(later)} " if later else ""
    each = "each cut " if _rounds(report) else ""
    proven = "proven" if report["verification"]["passed"] else "not proven"
    return f"{when}{each}{proven} to compute what {_reference(report)} computes without the {_gone(report)} that went"


def proof_section(report: Mapping[str, Any]) -> Section:
    """Return what was held against what."""
    proof = report["verification"]
    figures = [
        ("largest difference", f"{proof['max_rel_diff']:.1e} of the output's range"),
        ("allowed", f"{proof['tolerance']:.0e}"),
        ("largest difference in numbers", f"{proof['max_abs_diff']:.1e}"),
    ]
    if proof["noise"]:
        figures.append(("round-off of the original alone", f"{proof['noise']:.1e}"))
    rows = [(_dims(run["dims"]), f"{run['max_rel_diff']:.1e}", f"{run['max_abs_diff']:.1e}") for run in proof["runs"]]
    table = Table(("dynamic sizes", "difference", "in numbers"), rows)
    said = " ".join(part for part in _sentences(report) if part)
    return Section("The proof", "proof.html", Proof(proof["passed"], said, figures, table))


def _sentences(report: Mapping[str, Any]) -> list[str]:
    """Return what was run beside what, and what no proof is of."""
    later, reference = _later(report), _reference(report)
    written = f"the cut, as it was before {enumerated(later)}" if later else "the file that was written"
    cut = (
        f"{reference[0].upper()}{reference[1:]} with the removed units set to zero where they are consumed was run "
        f"beside {written}, on the same feeds."
    )
    inexact = any(group["kept"] < group["units"] and not group["exact"] for group in report["groups"])
    return [
        "The original was run beside the turned model first." * (report["rotation"] is not None),
        _of_words(report),
        cut if _lost_units(report) or report["vocabulary"] is None else "",
        "Normalisations go over the kept units in both." * inexact,
        f"What {enumerated(later)} changed is measured, not proven." if later else "",
    ]


def _of_words(report: Mapping[str, Any]) -> str:
    if report["vocabulary"] is None:
        return ""
    return "The original, fed the tokens that are kept, was run beside the model of the smaller vocabulary."


def _later(report: Mapping[str, Any]) -> list[str]:
    """Return what changed the weights after they were proven."""
    tunings = [report["tuning"], *(each["tuning"] for each in _rounds(report))]
    tuned = any(each is not None and each["helped"] for each in tunings)
    return ["tuning"] * tuned + ["eight bits"] * (report["quantization"] is not None)


def _rounds(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [each for each in report["rounds"] or () if each["skipped"] is None]


def _reference(report: Mapping[str, Any]) -> str:
    """Return what the cut was held against."""
    if _rounds(report):
        return "its own input"
    if report["masks"] is not None:
        return "the model with learned weights"
    if report["rotation"] is not None:
        return "the turned model"
    smaller = report["vocabulary"] is not None and _lost_units(report)
    return "the model of the smaller vocabulary" if smaller else "the original"


def _gone(report: Mapping[str, Any]) -> str:
    return "tokens" if report["vocabulary"] is not None and not _lost_units(report) else "units"


def _lost_units(report: Mapping[str, Any]) -> bool:
    return any(group["kept"] < group["units"] for group in report["groups"])


def _dims(dims: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {size}" for name, size in dims.items()) or "as the file states them"
