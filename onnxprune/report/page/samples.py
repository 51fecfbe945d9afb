"""Accuracy on samples, and a handful of them with the answers of both models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from onnxprune.metrics.words import row
from onnxprune.report.page.views import Answer, Box, Sample, Samples, Section
from onnxprune.report.words import count_text

_SIDES = ("before", "after")
_PICTURE = re.compile(
    r"data:image/png;base64,[A-Za-z0-9+/=]+"
)  # all that a page shows; reports may come from elsewhere
_NAMES = {
    "agreement": "same first answer",
    "kl": "KL divergence, nats",
    "rank_correlation": "rank correlation of similarities",
    "mean_iou": "mean IoU of matched boxes",
    "snr_db": "SNR",
}
_IN_TABLE = {"cosine": "mean cosine", "matched": "boxes matched", "snr_db": "SNR, worst output"}
_SHARES = ("agreement", "accuracy_before", "accuracy_after", "matched")


def samples_section(report: Mapping[str, Any]) -> list[Section]:
    """Return what is known of accuracy on samples, and some of them; nothing without samples."""
    fidelity, shown = report.get("fidelity"), (report.get("details") or {}).get("examples")
    if fidelity is None and shown is None:
        return []
    figures = [] if fidelity is None else _figures(fidelity["figures"])
    accuracy = report.get("accuracy")
    count = (accuracy or fidelity or {}).get("samples")
    on = "" if count is None else f"On {count_text(count)} samples"
    held = fidelity is not None and fidelity.get("held_out")
    said = f"{on or 'On samples'}{' that calibration did not see' * bool(held)}." if fidelity is not None else ""
    listed = [] if shown is None else [_sample(each, _finds_boxes(shown, each)) for each in shown["samples"]]
    if listed:
        said += f" Below, {len(listed)} of the samples, evenly spaced, with what both models make of them."
        why = (shown or {}).get("why_no_text")
        said += "" if why is None else f" Ids are not shown as text: {why}."
    return [Section("On samples", "samples.html", Samples(figures, listed), said.strip())]


def _figures(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return figures in words, but for those that the table of both models has."""
    cells = row(figures)
    told = () if cells is None else (cells[0], *(name for name, words in _IN_TABLE.items() if words == cells[0]))
    return [
        (figure_name(name), figure_text(name, value))
        for name, value in figures.items()
        if name not in told and not name.startswith(("accuracy_", "perplexity_")) and not name.endswith("_before")
    ]


def figure_name(name: str) -> str:
    """Return what a figure is, in words; some are told for each output.

    >>> figure_name("snr_db of mask"), figure_name("cosine")
    ('SNR of mask', 'cosine')
    """
    what, of, output = name.partition(" of ")
    return f"{_NAMES.get(what, what)}{of}{output}"


def figure_text(name: str, value: Any) -> str:
    """Return a figure in words.

    >>> figure_text("agreement", 0.987), figure_text("kl", 0.0213), figure_text("snr_db of mask", None)
    ('98.7 %', '0.0213', 'equal')
    """
    if value is None:
        return "equal" if name.startswith("snr_db") else "–"
    if name.startswith("snr_db"):
        return f"{value:.1f} dB"
    return f"{100 * value:.1f} %" if name in _SHARES else f"{value:.3g}"


def _finds_boxes(shown: Mapping[str, Any], sample: Mapping[str, Any]) -> bool:
    """Whether the answers to a sample are boxes: of one without any answer, where other samples have boxes."""
    if any(answer["best"] or answer["image"] for answer in sample["answers"]):
        return False
    return any(answer["boxes"] for each in shown["samples"] for answer in each["answers"])


def _sample(plain: Mapping[str, Any], finds_boxes: bool) -> Sample:
    pictures = [each for each in plain["inputs"] if _picture(each)]
    texts = [each for each in plain["inputs"] if each.get("text") is not None]
    shown = next(iter([*pictures, *texts, *plain["inputs"]]), None)
    image = None if shown is None else _picture(shown)
    text = shown["text"] if texts and not image and shown is not None else None
    values = "" if shown is None or image or text is not None else f"{shown['name']}: {' '.join(shown['values'])}"
    label, closeness = plain["label"], plain["closeness"]
    known = [f"label {label}"] if label is not None else []
    if closeness is not None and closeness["value"] is not None:
        known.append(f"{closeness['name']} {closeness['value']:.3g}")
    sides = [
        _answer(name, side, shown, label) for name, side in zip(_SIDES, plain["answers"], strict=True)
    ]  # fmt: skip
    first = [side["best"][0]["name"] for side in plain["answers"] if side["best"]]
    named = label is not None or any(name.startswith(("class", "token")) for name in first)
    found = [sorted(box[4] for box in side["boxes"] if box[4] is not None) for side in plain["answers"]]
    differ = (named and len(set(first)) > 1) or found[0] != found[1]
    note = ", ".join(known)
    return Sample(f"sample {plain['sample']:,}", image, text, values, note, sides, finds_boxes, differ)


def _answer(name: str, side: Mapping[str, Any], shown: Mapping[str, Any] | None, label: int | None) -> Answer:
    best = [(_named(each), _score(each["score"])) for each in side["best"]]
    right = None if label is None or not best else best[0][0] == f"class {label}"
    return Answer(name, best, _boxes(side["boxes"], shown), _picture(side), right)


def _named(plain: Mapping[str, Any]) -> str:
    r"""Return the name of an answer, or the text that it stands for in quotes, which show blanks at its ends.

    >>> _named({"name": "token 260", "text": " the"}), _named({"name": "class 3"})
    ('“\xa0the”', 'class 3')
    """
    text = plain.get("text")
    return plain["name"] if text is None else f"“{text.replace(' ', chr(0xA0))}”"


def _picture(plain: Mapping[str, Any]) -> str | None:
    """Return the picture of an input or output where it is one within the page: no address is ever loaded."""
    image = plain["image"]
    return image if isinstance(image, str) and _PICTURE.fullmatch(image) else None


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _boxes(boxes: Sequence[Sequence[float]], shown: Mapping[str, Any] | None) -> list[Box]:
    """Return boxes in hundredths of the picture: their numbers are pixels of the input, or shares of its sides."""
    shape = [] if shown is None else shown["shape"]
    height, width = (shape[-3], shape[-2]) if len(shape) > 3 and shape[-1] in (1, 3) else shape[-2:] or (1, 1)
    most = max((abs(value) for box in boxes for value in box[:4]), default=0)
    across, down = (1.0, 1.0) if most <= 2 else (float(width), float(height))
    found = []
    for x1, y1, x2, y2, kind, score in boxes:
        left, top, right, low = (
            min(100.0, max(0.0, 100 * value / side))
            for value, side in ((x1, across), (y1, down), (x2, across), (y2, down))
        )
        found.append(Box(left, top, right - left, low - top, f"class {kind:g}, {_score(score)}"))
    return found
