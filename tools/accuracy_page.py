"""Write docs/accuracy.md and its plots, of what tools/accuracy.py has measured.

Called by ``python tools/accuracy.py page``. What was not measured is a dash; nothing is measured here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from accuracy import (  # noqa: E402
    AUGMENTED,
    COSTED,
    CURVED,
    DIGITS,
    MACS,
    RATIOS,
    SAMPLES,
    SUBJECTS,
    SYNTHETIC,
    WAYS,
    WIDTHS,
    Record,
    Run,
    ablated,
    by_macs,
    by_samples,
    by_width,
    costed,
    sample_count,
    studied,
)

from onnxprune.report.plot import Series, line_chart  # noqa: E402

Records = Mapping[Run, Record]
NONE = "-"


# -- figures -----------------------------------------------------------------------------------------------


def figures(record: Record, file: str | None = None) -> Mapping[str, float]:
    """Return the figures on a file of evaluation, the first where none is named."""
    found: Mapping[str, Mapping[str, float]] = record["figures"]
    return found[file or next(iter(found))]


def drop(record: Record) -> float:
    """Return the points of accuracy that are lost."""
    found = figures(record)
    return 100 * (found["accuracy_before"] - found["accuracy_after"])


@dataclass(frozen=True)
class Figure:
    """A number of a record."""

    words: str
    of: Callable[[Record], float]
    show: str  # of a format


FIGURES: Mapping[str, Figure] = {
    "drop": Figure("accuracy drop, points", drop, ".2f"),
    "agreement": Figure("top-1 agreement", lambda record: figures(record)["agreement"], ".3f"),
    "cosine": Figure("mean cosine", lambda record: figures(record)["cosine"], ".3f"),
    "seconds": Figure("seconds", lambda record: record["seconds"], ".0f"),
    "gigabytes": Figure("peak GB", lambda record: record["peak_bytes"] / 1e9, ".2f"),
}


@dataclass(frozen=True)
class Bound:
    """What a figure of a run must be."""

    run: Run
    figure: str  # a key of FIGURES
    at_most: bool
    value: float

    def is_met(self, record: Record) -> bool:
        """Whether a record holds the bound, with MACs no more than asked for."""
        found = FIGURES[self.figure].of(record)
        kept = found <= self.value if self.at_most else found >= self.value
        return kept and record["macs"] <= self.run.macs + 1e-6


def _drops(subject: str, *most: float) -> list[Bound]:
    return [Bound(Run(subject, macs), "drop", True, points) for macs, points in zip(MACS[subject], most, strict=True)]


BOUNDS: Mapping[str, Sequence[Bound]] = {  # by section
    "models": [
        *_drops("resnet_bn", 0.7, 3),
        *_drops("resnet_folded", 0.7, 3),
        *_drops("mobilenet", 2),
        *_drops("vit", 2),
        *_drops("cnn", 1),
    ],
    "photos": [
        Bound(Run("photos", 0.8), "agreement", False, 0.80),
        Bound(Run("photos", 0.7), "agreement", False, 0.68),
    ],
    "sentences": [
        Bound(Run("sentences", 0.8), "cosine", False, 0.97),
        Bound(Run("sentences", 0.7), "cosine", False, 0.94),
    ],
    "cost": [
        Bound(Run("photos", 0.7, samples=128), "seconds", True, 300),
        Bound(Run("photos", 0.7, samples=128), "gigabytes", True, 3),
        Bound(Run("sentences", 0.7), "seconds", True, 180),
    ],
}


def kept(record: Record) -> float:
    """Return one figure from 0 to 1 of any network: how much it still does.

    Accuracy after, agreement, cosine, or perplexity before over after.
    """
    found = figures(record)
    if "perplexity_after" in found:
        return found["perplexity_before"] / found["perplexity_after"]
    return found[next(name for name in ("accuracy_after", "cosine", "agreement") if name in found)]


def headline(record: Record) -> str:
    """Return the main figure in the words of its kind."""
    found = figures(record)
    if "perplexity_after" in found:
        return f"{found['perplexity_after']:,.1f}"
    return f"{100 * kept(record):.2f} %" if "accuracy_after" in found else f"{kept(record):.3f}"


def noise(record: Record, samples: int) -> float:
    """Return how far apart two networks as good may come out: two standard errors of the difference of two shares.

    For cosines and perplexities, means over many tokens, a hundredth.
    """
    if not {"accuracy_after", "agreement"} & set(figures(record)):
        return 0.01
    share = min(max(kept(record), 1 / samples), 1 - 1 / samples)
    return 2 * math.sqrt(2 * share * (1 - share) / samples)


def setbacks(values: Sequence[float], tolerances: Sequence[float]) -> list[int]:
    """Return the places of values that lie below the best one before them by more than their tolerance.

    >>> setbacks([0.5, 0.8, 0.79, 0.6], [0.05] * 4)
    [3]
    """
    best, found = -math.inf, []
    for place, (value, tolerance) in enumerate(zip(values, tolerances, strict=True)):
        if value < best - tolerance:
            found.append(place)
        best = max(best, value)
    return found


EVALUATED = {"mnist_test.npz": 2000, "photos_eval.npz": 238, "text_eval.npz": 256, "decoder_eval.npz": 128}


def is_monotone(records: Sequence[Record]) -> bool:
    """Whether what is kept does not fall from one record to the next, but for noise."""
    tolerances = [noise(record, EVALUATED[next(iter(record["figures"]))]) for record in records]
    return not setbacks([kept(record) for record in records], tolerances)


def lowest(found: Sequence[tuple[float, float]], least: float) -> float | None:
    """Return the fewest MACs down to which at least so much is kept, of pairs of both; None where it never is.

    >>> lowest([(0.9, 0.99), (0.7, 0.97), (0.5, 0.8), (0.3, 0.98)], 0.95)
    0.7
    """
    best = None
    for macs, value in sorted(found, reverse=True):
        if value < least:
            break
        best = macs
    return best


# -- pieces of the page ------------------------------------------------------------------------------------


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table.

    >>> table(["a", "b"], [[1, 2]])
    ['| a | b |', '| --- | --- |', '| 1 | 2 |']
    """
    lines = ["| " + " | ".join(headings) + " |", "|" + " --- |" * len(headings)]
    return lines + ["| " + " | ".join(map(str, cells)) + " |" for cells in rows]


def good(records: Records, run: Run) -> Record | None:
    """Return the record of a run that came to a result."""
    record = records.get(run)
    return None if record is None or "error" in record else record


def cell(records: Records, run: Run, show: Callable[[Record], str]) -> str:
    """Return what is shown of a run; a dash where it was not measured or failed."""
    record = good(records, run)
    return NONE if record is None else show(record)


def bound_rows(records: Records, bounds: Sequence[Bound]) -> Iterator[list[str]]:
    """Yield network, MACs asked and measured, figure, bound, whether it is met."""
    for bound in bounds:
        figure, record = FIGURES[bound.figure], good(records, bound.run)
        title = f"{SUBJECTS[bound.run.subject].title}, {sample_count(bound.run)} samples"
        asked = f"{figure.words} {'≤' if bound.at_most else '≥'} {bound.value:g}"
        if record is None:
            yield [title, f"{bound.run.macs:.2f}", NONE, asked, NONE, NONE]
            continue
        found = f"{figure.of(record):{figure.show}}"
        met = "yes" if bound.is_met(record) else "**no**"
        yield [title, f"{bound.run.macs:.2f}", f"{record['macs']:.3f}", asked, found, met]


BOUND_HEADINGS = ("network", "MACs x, asked", "MACs x, measured", "bound", "found", "met")


def way_rows(
    records: Records, subject: str, ways: Sequence[str], show: Callable[[Record], Sequence[str]]
) -> Iterator[list[str]]:
    """Yield a row for each of the MACs of a subject and each way that was measured."""
    for macs in MACS[subject]:
        for way in ways:
            record = good(records, Run(subject, macs, way))
            if record is not None:
                yield [SUBJECTS[subject].title, way, f"{record['macs']:.3f}", *show(record)]


def points(records: Records, runs: Sequence[Run], x: Sequence[float], y: Callable[[Record], float]) -> Series | None:
    """Return a line of what was measured; None where that is nothing."""
    found = [(at, y(record)) for at, run in zip(x, runs, strict=True) if (record := good(records, run)) is not None]
    subject = runs[0].subject
    name = SUBJECTS[subject].title if subject in SUBJECTS else subject.partition("-")[0]
    return Series(name, found) if found else None


def chart(docs: Path, name: str, lines: Sequence[Series | None], x: str, y: str, **options: Any) -> list[str]:
    """Write a plot beside the page; return the line that shows it."""
    shown = [line for line in lines if line is not None]
    if not shown:
        return []
    (docs / f"{name}.svg").write_text(line_chart(shown, x, y, **options), encoding="utf-8")
    return [f"![{y}, by {x}]({name}.svg)", ""]


# -- sections ----------------------------------------------------------------------------------------------


def expected(records: Records, docs: Path) -> Iterator[str]:
    """Yield what to expect at which MACs, by kind of network."""
    subjects = (*CURVED, "photos", "sentences", "decoder")
    rows = []
    for name in subjects:
        runs = [studied(name, macs) for macs in (*RATIOS, 0.3)]
        cells = [cell(records, run, headline) for run in runs]
        if set(cells) != {NONE}:
            before = next(original(record) for run in runs if (record := good(records, run)) is not None)
            rows.append([SUBJECTS[name].title, measured_by(name), before, *cells])
    yield from table(["network", "figure", "original", *(f"MACs x {macs}" for macs in (*RATIOS, 0.3))], rows)
    yield from ("", *advice(records))


# By what is measured: how much is kept of an original that keeps `whole`, in words, at two levels.
LEVELS: Mapping[str, Sequence[tuple[str, Callable[[float], float]]]] = {
    "accuracy": [("at most 1 point", lambda whole: whole - 0.01), ("at most 3 points", lambda whole: whole - 0.03)],
    "top-1 agreement": [("agreement 0.9", lambda _: 0.9), ("agreement 0.8", lambda _: 0.8)],
    "mean cosine": [("cosine 0.97", lambda _: 0.97), ("cosine 0.94", lambda _: 0.94)],
    "perplexity": [("a tenth more perplexity", lambda _: 1 / 1.1), ("half as much again", lambda _: 1 / 1.5)],
}


def advice(records: Records) -> Iterator[str]:
    """Yield for each network how far it goes, and how many samples it takes."""
    for name in (*DIGITS, "photos", "sentences", "decoder"):
        found = default_records(records, name)
        if not found:
            continue
        kind = measured_by(name)
        whole = figures(found[0][1]).get("accuracy_before", 1.0)
        levels = [(words, lowest([(macs, kept(r)) for macs, r in found], at(whole))) for words, at in LEVELS[kind]]
        told = [f"{words} down to MACs x {macs:g}" for words, macs in levels if macs is not None]
        least = min(macs for macs, _ in found)
        reached = "; ".join(told) or f"below both levels at MACs x {max(macs for macs, _ in found):g} already"
        yield f"- **{SUBJECTS[name].title}**: {reached} (measured down to {least:g}).{enough(records, name)}"


def default_records(records: Records, subject: str) -> list[tuple[float, Record]]:
    """Return the MACs asked for and the record of each run with defaults; that of the most samples counts."""
    runs = [run for run in records if run.subject == subject and run.way == "default" and run.samples != AUGMENTED]
    found = {run.macs: good(records, run) for run in sorted(runs, key=sample_count)}
    return [(macs, record) for macs, record in sorted(found.items()) if record is not None]


def enough(records: Records, subject: str) -> str:
    """Return a sentence on the fewest samples that do as well as the most, but for noise."""
    found = [(run, good(records, run)) for run in by_samples(subject)]
    known = [(sample_count(run), record) for run, record in found if record is not None]
    if len(known) < len(SAMPLES):
        return ""
    most = known[-1][1]
    least = kept(most) - noise(most, EVALUATED[next(iter(most["figures"]))])
    fewest = next(count for count, record in known if kept(record) >= least)
    also = "" if fewest == SAMPLES[-1] else f" as well as {SAMPLES[-1]}, but for noise,"
    return f" {fewest} samples do{also} at MACs x {MACS[subject][-1]:g}."


def original(record: Record) -> str:
    """Return the main figure of the original."""
    found = figures(record)
    if "perplexity_before" in found:
        return f"{found['perplexity_before']:.1f}"
    return f"{100 * found['accuracy_before']:.2f} %" if "accuracy_before" in found else "1.000"


def measured_by(subject: str) -> str:
    """Return what the main figure of a subject is."""
    other = {"photos": "top-1 agreement", "sentences": "mean cosine", "decoder": "perplexity"}
    return other.get(subject, "accuracy")


def of_models(records: Records, docs: Path) -> Iterator[str]:
    """Yield the bundled networks."""
    yield from table(BOUND_HEADINGS, list(bound_rows(records, BOUNDS["models"])))
    yield ""

    def show(record: Record) -> list[str]:
        found = figures(record)
        return [f"{100 * found['accuracy_after']:.2f}", f"{drop(record):.2f}", f"{found['kl']:.3f}", took(record)]

    ways = ("default", "l2", "l2, BatchNorm re-estimated")
    rows = [row for name in DIGITS for row in way_rows(records, name, ways, show)]
    yield from table(["network", "by", "MACs x", "accuracy, %", "drop, points", "KL", "seconds"], rows)


def took(record: Record) -> str:
    """Return the seconds of a run."""
    return f"{record['seconds']:.0f}"


def of_photos(records: Records, docs: Path) -> Iterator[str]:
    """Yield EfficientNet-Lite1."""
    yield from table(BOUND_HEADINGS, list(bound_rows(records, BOUNDS["photos"])))
    yield ""
    rows = []
    for macs in MACS["photos"]:
        runs = {
            "default": Run("photos", macs),
            "default, 3 views of each photo": Run("photos", macs, samples=AUGMENTED),
            "l2": Run("photos", macs, "l2"),
        }
        for words, run in runs.items():
            record = good(records, run)
            if record is not None:
                rows.append([words, f"{record['macs']:.3f}", *photo_cells(record), took(record)])
    columns = ["by", "MACs x", "agreement", "KL", "agreement, plain centres", "KL, plain centres", "labelled, of 20"]
    yield from table([*columns, "seconds"], rows)
    yield from ("", views(records))


def views(records: Records) -> str:
    """Return a sentence on whether several views of each photo are better than one."""
    told, gains = [], []
    for macs in MACS["photos"]:
        one, more = (good(records, Run("photos", macs, samples=samples)) for samples in (None, AUGMENTED))
        if one is not None and more is not None:
            told.append(f"KL {figures(more)['kl']:.3f} against {figures(one)['kl']:.3f} at MACs x {macs:g}")
            gains.append(figures(one)["kl"] - figures(more)["kl"])
    if not told:
        return ""
    verdict = "better" if min(gains) > 0 else "worse" if max(gains) < 0 else "now better, now worse"
    return f"Three views of each photo are {verdict} than one: {'; '.join(told)}."


def photo_cells(record: Record) -> list[str]:
    """Return agreement and KL on both files of unseen photos, and how many of the labelled are right."""
    cells = []
    for name in SUBJECTS["photos"].evaluation[:2]:
        found = figures(record, name)
        cells += [f"{found['agreement']:.3f}", f"{found['kl']:.3f}"]
    labelled = figures(record, SUBJECTS["photos"].evaluation[2])
    before, after = (round(20 * labelled[f"accuracy_{when}"]) for when in ("before", "after"))
    return [*cells, f"{after} (original {before})"]


def of_sentences(records: Records, docs: Path) -> Iterator[str]:
    """Yield MiniLM."""
    yield from table(BOUND_HEADINGS, list(bound_rows(records, BOUNDS["sentences"])))
    yield ""

    def show(record: Record) -> list[str]:
        found = figures(record)
        return [f"{found['cosine']:.3f}", f"{found['rank_correlation']:.3f}", took(record)]

    rows = list(way_rows(records, "sentences", ("default", "l2"), show))
    yield from table(["network", "by", "MACs x", "mean cosine", "rank correlation", "seconds"], rows)


def of_decoder(records: Records, docs: Path) -> Iterator[str]:
    """Yield SmolLM2."""

    def show(record: Record) -> list[str]:
        found = figures(record)
        before, after = found["perplexity_before"], found["perplexity_after"]
        return [f"{after:,.1f} (original {before:.1f})", f"{found['kl']:.3f}", took(record)]

    rows = list(way_rows(records, "decoder", ("default", "no data", "l2", "wanda"), show))
    yield from table(["network", "by", "MACs x", "perplexity", "KL", "seconds"], rows)


def of_ablation(records: Records, docs: Path) -> Iterator[str]:
    """Yield each ingredient off."""
    runs = {name: {run.way: run for run in ablated(name)} for name in (*DIGITS, "photos", "sentences")}
    asked = [f"{SUBJECTS[name].title}, MACs x {ways['default'].macs:g}" for name, ways in runs.items()]
    listed = [way for way in WAYS if any(way in ways for ways in runs.values())]
    rows = [
        [way_words(way), *(cell(records, ways[way], headline) if way in ways else "" for ways in runs.values())]
        for way in listed
    ]
    yield from table(["", *asked], rows)


def way_words(way: str) -> str:
    """Return what a way is called in the ablation."""
    words = {"l2": "all off: plain magnitude", "l2, BatchNorm re-estimated": "all off but BatchNorm re-estimated"}
    return words.get(way, "no data: generated samples" if way == "no data" else way)


def of_curves(records: Records, docs: Path) -> Iterator[str]:
    """Yield figures by samples and by MACs."""
    subjects = (*CURVED, "photos", "sentences")
    label = "kept: accuracy, agreement, cosine"
    yield from ("### More data", "")
    lines = [points(records, by_samples(name), SAMPLES, kept) for name in subjects]
    yield from chart(docs, "accuracy_samples", lines, "samples of calibration", label, log_x=True)
    rows = [[f"{SUBJECTS[name].title}, {MACS[name][-1]:g}", *curve(records, by_samples(name))] for name in subjects]
    yield from table(["network, MACs x", *(f"{count} samples" for count in SAMPLES), "monotone within noise"], rows)
    yield from ("", "### Fewer MACs", "")
    lines = [points(records, by_macs(name), [run.macs for run in by_macs(name)], kept) for name in subjects]
    yield from chart(docs, "accuracy_macs", lines, "MACs that are left", label)
    rows = [
        [f"{SUBJECTS[name].title}, {SUBJECTS[name].studied}", *blanks(name), *curve(records, by_macs(name)[::-1])]
        for name in subjects
    ]
    headings = ["network, samples", *(f"MACs x {macs}" for macs in (0.3, *RATIOS[::-1])), "monotone within noise"]
    yield from table(headings, rows)


def blanks(subject: str) -> list[str]:
    """Return empty cells for the MACs that are asked of other subjects."""
    return [""] * (len(RATIOS) + 1 - len(by_macs(subject)))


def curve(records: Records, runs: Sequence[Run]) -> list[str]:
    """Return the main figures of runs that should rise, and whether they do."""
    found = [record for run in runs if (record := good(records, run)) is not None]
    verdict = NONE if len(found) < len(runs) else "yes" if is_monotone(found) else "**no**"
    return [*(cell(records, run, headline) for run in runs), verdict]


def of_cost(records: Records, docs: Path) -> Iterator[str]:
    """Yield seconds and memory."""
    yield from table(BOUND_HEADINGS, list(bound_rows(records, BOUNDS["cost"])))
    yield ""
    real = ("photos", "sentences")
    seconds, memory = FIGURES["seconds"].of, FIGURES["gigabytes"].of
    for name, y, of in (("seconds", "seconds", seconds), ("memory", "peak memory, GB", memory)):
        lines = [points(records, costed(subject), COSTED, of) for subject in real]
        yield from chart(docs, f"accuracy_{name}", lines, "samples of calibration", y)
        lines = [points(records, by_width(kind), WIDTHS, of) for kind in SYNTHETIC]
        yield from chart(docs, f"accuracy_width_{name}", lines, "units between two layers", y)

    def show(record: Record) -> str:
        return f"{record['seconds']:.0f} s, {record['peak_bytes'] / 1e9:.2f} GB"

    rows = [[SUBJECTS[name].title, *(cell(records, run, show) for run in costed(name))] for name in real]
    yield from table(["network", *(f"{count} samples" for count in COSTED)], rows)
    yield ""
    rows = [[kind, *(cell(records, run, show) for run in by_width(kind))] for kind in SYNTHETIC]
    yield from table(["two layers", *(f"{width} units" for width in WIDTHS)], rows)


HEAD = """# Accuracy without training

What a pruned network still does when all there is are its ONNX file and a handful of unlabelled inputs: no training, no
labels, no framework. Written by `tools/accuracy.py page` of what the same script measured: {machine}, ONNX Runtime
{runtime}, package at commit {commits}. The digits come with the repository; the other networks and their data are made
by `tools/real_models.py` from packages. Calibration and evaluation share no sample.

*MACs x* are the MACs of the result over the original's. *default* is `--target macs=X --data CALIBRATION` and
nothing else. *l2* is plain magnitude at the same MACs: one ratio for all groups, nothing refitted. Seconds are those of
one whole run in a fresh process, evaluation included, and peak memory is that of the process, data and Python included.
"""

PAGE: Sequence[tuple[str, str, Callable[[Records, Path], Iterator[str]]]] = (
    (
        "What to expect",
        "Calibrated on 256 digits, 64 photos, 64 texts and 32 texts of 128 tokens, at the MACs that were asked for.",
        expected,
    ),
    ("Digits", "Accuracy on 2,000 digits that no network has seen, in points.", of_models),
    (
        "Photos",
        "EfficientNet-Lite1, trained on ImageNet, on 238 unseen photos. Of several views of each photo the one is "
        "taken that the original is most certain of; *plain centres* are the centres of the same photos. KL is "
        "in nats.",
        of_photos,
    ),
    (
        "Sentences",
        "MiniLM, heads and FFN, 64 sequences of 128 tokens for calibration, on 256 unseen ones. The rank correlation "
        "is that of the similarities of all pairs.",
        of_sentences,
    ),
    (
        "Language model",
        "SmolLM2 with 135 million parameters, 32 sequences of 128 tokens (4,096) for calibration, perplexity on 128 "
        "unseen ones.",
        of_decoder,
    ),
    (
        "What each ingredient gives",
        "The main figure (accuracy on digits, top-1 agreement on photos, mean cosine on sentences) with one ingredient "
        "switched off: *importance*, units by weight magnitude and not by the error that compensation leaves; "
        "*allocation*, the same ratio for all groups; *reconstruction*, the plain cut; *BatchNorm*, running statistics "
        "as they were, where the file keeps them. EfficientNet-Lite1 is calibrated on 64 photos here.",
        of_ablation,
    ),
    (
        "More data, fewer MACs",
        "Noise is two standard errors of the difference of two shares; a hundredth for cosines.",
        of_curves,
    ),
    (
        "Cost",
        "Two cores. The synthetic networks have two layers with all their units between them: *ffn* on 64 x 64 tokens "
        "of 256 dims, *conv* 3x3 on 64 images of 16 channels and 16x16.",
        of_cost,
    ),
)


def head(records: Records) -> str:
    """Return the beginning of the page: machine, versions and commits."""
    machines = [record["machine"] for record in records.values()]

    def told(values: Sequence[object]) -> str:
        return ", ".join(sorted({str(value) for value in values})) or NONE

    return HEAD.format(
        machine=told([f"{here['cpu']}, {here['logical_cores']} cores" for here in machines]),
        runtime=told([here["onnxruntime"] for here in machines]),
        commits=told([record["commit"] for record in records.values()]),
    )


def write(records: Records, docs: Path) -> None:
    """Write the page and its plots to the folder of the documentation."""
    lines = [head(records)]
    for title, text, section in PAGE:
        lines += [f"## {title}", "", text, "", *section(records, docs), ""]
    (docs / "accuracy.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
