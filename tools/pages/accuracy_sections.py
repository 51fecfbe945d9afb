"""Sections of docs/measured/accuracy.md, of records of tools/measure/accuracy.py; what was not measured is a dash."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.report.plot import Series, line_chart
from tools.measure.accuracy_runs import (
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
from tools.pages.accuracy_figures import (
    BOUNDS,
    EVALUATED,
    FIGURES,
    Bound,
    Records,
    drop,
    figures,
    headline,
    is_monotone,
    kept,
    lowest,
    noise,
)
from tools.pages.markdown import table

NONE = "-"

# -- pieces of the page ------------------------------------------------------------------------------------


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
        demand = f"{figure.words} {'≤' if bound.at_most else '≥'} {bound.value:g}"
        if record is None:
            yield [title, f"{bound.run.macs:.2f}", NONE, demand, NONE, NONE]
            continue
        value = f"{figure.of(record):{figure.show}}"
        met = "yes" if bound.is_met(record) else "**no**"
        yield [title, f"{bound.run.macs:.2f}", f"{record['macs']:.3f}", demand, value, met]


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
    pairs = [(at, y(record)) for at, run in zip(x, runs, strict=True) if (record := good(records, run)) is not None]
    subject = runs[0].subject
    name = SUBJECTS[subject].title if subject in SUBJECTS else subject.partition("-")[0]
    return Series(name, pairs) if pairs else None


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
        runs = default_records(records, name)
        if not runs:
            continue
        kind = measured_by(name)
        whole = figures(runs[0][1]).get("accuracy_before", 1.0)
        levels = [(words, lowest([(macs, kept(r)) for macs, r in runs], at(whole))) for words, at in LEVELS[kind]]
        reaches = [f"{words} down to MACs x {macs:g}" for words, macs in levels if macs is not None]
        least = min(macs for macs, _ in runs)
        reached = "; ".join(reaches) or f"below both levels at MACs x {max(macs for macs, _ in runs):g} already"
        yield f"- **{SUBJECTS[name].title}**: {reached} (measured down to {least:g}).{enough(records, name)}"


def default_records(records: Records, subject: str) -> list[tuple[float, Record]]:
    """Return the MACs asked for and the record of each run with defaults; that of the most samples counts."""
    runs = [run for run in records if run.subject == subject and run.way == "default" and run.samples != AUGMENTED]
    by_macs_left = {run.macs: good(records, run) for run in sorted(runs, key=sample_count)}
    return [(macs, record) for macs, record in sorted(by_macs_left.items()) if record is not None]


def enough(records: Records, subject: str) -> str:
    """Return a sentence on the fewest samples that do as well as the most, but for noise."""
    tried = [(run, good(records, run)) for run in by_samples(subject)]
    known = [(sample_count(run), record) for run, record in tried if record is not None]
    if len(known) < len(SAMPLES):
        return ""
    most = known[-1][1]
    least = kept(most) - noise(most, EVALUATED[next(iter(most["figures"]))])
    fewest = next(count for count, record in known if kept(record) >= least)
    also = "" if fewest == SAMPLES[-1] else f" as well as {SAMPLES[-1]}, but for noise,"
    return f" {fewest} samples do{also} at MACs x {MACS[subject][-1]:g}."


def original(record: Record) -> str:
    """Return the main figure of the original."""
    values = figures(record)
    if "perplexity_before" in values:
        return f"{values['perplexity_before']:.1f}"
    return f"{100 * values['accuracy_before']:.2f} %" if "accuracy_before" in values else "1.000"


def measured_by(subject: str) -> str:
    """Return what the main figure of a subject is."""
    other = {"photos": "top-1 agreement", "sentences": "mean cosine", "decoder": "perplexity"}
    return other.get(subject, "accuracy")


def of_models(records: Records, docs: Path) -> Iterator[str]:
    """Yield the bundled networks."""
    yield from table(BOUND_HEADINGS, list(bound_rows(records, BOUNDS["models"])))
    yield ""

    def show(record: Record) -> list[str]:
        values = figures(record)
        return [f"{100 * values['accuracy_after']:.2f}", f"{drop(record):.2f}", f"{values['kl']:.3f}", took(record)]

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
    comparisons, gains = [], []
    for macs in MACS["photos"]:
        one, more = (good(records, Run("photos", macs, samples=samples)) for samples in (None, AUGMENTED))
        if one is not None and more is not None:
            comparisons.append(f"KL {figures(more)['kl']:.3f} against {figures(one)['kl']:.3f} at MACs x {macs:g}")
            gains.append(figures(one)["kl"] - figures(more)["kl"])
    if not comparisons:
        return ""
    verdict = "better" if min(gains) > 0 else "worse" if max(gains) < 0 else "now better, now worse"
    return f"Three views of each photo are {verdict} than one: {'; '.join(comparisons)}."


def photo_cells(record: Record) -> list[str]:
    """Return agreement and KL on both files of unseen photos, and how many of the labelled are right."""
    cells = []
    for name in SUBJECTS["photos"].evaluation[:2]:
        values = figures(record, name)
        cells += [f"{values['agreement']:.3f}", f"{values['kl']:.3f}"]
    labelled = figures(record, SUBJECTS["photos"].evaluation[2])
    before, after = (round(20 * labelled[f"accuracy_{when}"]) for when in ("before", "after"))
    return [*cells, f"{after} (original {before})"]


def of_sentences(records: Records, docs: Path) -> Iterator[str]:
    """Yield MiniLM."""
    yield from table(BOUND_HEADINGS, list(bound_rows(records, BOUNDS["sentences"])))
    yield ""

    def show(record: Record) -> list[str]:
        values = figures(record)
        return [f"{values['cosine']:.3f}", f"{values['rank_correlation']:.3f}", took(record)]

    rows = list(way_rows(records, "sentences", ("default", "l2"), show))
    yield from table(["network", "by", "MACs x", "mean cosine", "rank correlation", "seconds"], rows)


def of_decoder(records: Records, docs: Path) -> Iterator[str]:
    """Yield SmolLM2."""

    def show(record: Record) -> list[str]:
        values = figures(record)
        before, after = values["perplexity_before"], values["perplexity_after"]
        return [f"{after:,.1f} (original {before:.1f})", f"{values['kl']:.3f}", took(record)]

    rows = list(way_rows(records, "decoder", ("default", "no data", "l2", "wanda"), show))
    yield from table(["network", "by", "MACs x", "perplexity", "KL", "seconds"], rows)


def of_ablation(records: Records, docs: Path) -> Iterator[str]:
    """Yield each ingredient off."""
    runs = {name: {run.way: run for run in ablated(name)} for name in (*DIGITS, "photos", "sentences")}
    headings = [f"{SUBJECTS[name].title}, MACs x {ways['default'].macs:g}" for name, ways in runs.items()]
    listed = [way for way in WAYS if any(way in ways for ways in runs.values())]
    rows = [
        [way_words(way), *(cell(records, ways[way], headline) if way in ways else "" for ways in runs.values())]
        for way in listed
    ]
    yield from table(["", *headings], rows)


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
    measured = [record for run in runs if (record := good(records, run)) is not None]
    verdict = NONE if len(measured) < len(runs) else "yes" if is_monotone(measured) else "**no**"
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
