"""The report of ``onnxprune tune`` as plain values, and what the command prints; docs/tuning.md has the fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxprune._version import __version__
from onnxprune.metrics.words import headline, row
from onnxprune.report.document import fidelity_values
from onnxprune.report.words import all_printable, enumerated, new_table, plural, points_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.evaluation.comparison import Comparison
    from onnxprune.graph.model import Model
    from onnxprune.training.settings import TuneOptions


def tune_report(
    *,
    before: Model,
    after: Model,
    teacher: Model | None,
    options: TuneOptions,
    lesson: Mapping[str, Any],
    outcome: Mapping[str, Any],
    gap: float,
    sides: Sequence[Comparison],
    held_out: bool,
) -> dict[str, Any]:
    """Return the report of one run as plain values.

    Args:
        before: the model that was tuned.
        after: what was written.
        teacher: the model that it learned from.
        options: of the run.
        lesson: what was learned from what.
        outcome: of tuning, see `training.tuning.tuner.Tuned`.
        gap: how far the file lies from the network, relative to its outputs.
        sides: the model before and after, compared with the teacher; without one, with the model before.
        held_out: whether the samples that were compared played no part.
    """
    fidelity = [fidelity_values(side) for side in sides]
    return {
        "onnxprune": __version__,
        "input": _file(before),
        "output": _file(after),
        "teacher": None if teacher is None else _file(teacher),
        "options": options.to_dict(),
        "lesson": dict(lesson),
        **outcome,
        "proof": {"passed": True, "max_rel_diff": gap},
        "fidelity": {
            "samples": sides[0].samples,
            "held_out": held_out,
            "kind": None if fidelity[0] is None else fidelity[0]["kind"],
            **{
                name: None if each is None else each["figures"]
                for name, each in zip(("before", "after"), fidelity, strict=True)
            },
        },
        "accuracy": _accuracy(sides),
    }


def _file(model: Model) -> dict[str, Any]:
    path = None if model.file.path is None else str(model.file.path)
    return {"path": path, "sha256": model.sha256(), "params": model.stored_params, "size_bytes": model.size_bytes()}


def _accuracy(sides: Sequence[Comparison]) -> dict[str, Any] | None:
    """Return the shares of right answers: of the teacher, or the model before, and of both versions."""
    if sides[0].before.accuracy is None:
        return None
    reference, before, after = sides[0].before.accuracy, sides[0].after.accuracy, sides[1].after.accuracy
    return {"teacher": reference, "before": before, "after": after}


# -- what is printed ---------------------------------------------------------------------------------------


def tune_tables(report: Mapping[str, Any]) -> list[RenderableType]:
    """Return what the command line prints after a run: the measurements, the figures, the verdict."""
    report = all_printable(report)
    return [_history(report), *_figures(report), *_sentences(report)]


def _history(report: Mapping[str, Any]) -> Any:
    """Return a table of what was measured on the way."""
    table = new_table("step", "seconds", "loss", "held out", "rate", "samples/s", "", left=(6,))
    for each in report["history"]:
        table.add_row(
            f"{each['step']:,}",
            f"{each['seconds']:.0f}",
            _number(each["loss"]),
            _number(each["held"]),
            _number(each["rate"] or None),
            _number(each["samples_per_s"], 3),
            headline(each["figures"]) + (", the best" if each == report["best"] else ""),
        )
    return table


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _figures(report: Mapping[str, Any]) -> Iterator[Any]:
    """Yield a table of both versions beside the teacher."""
    fidelity, accuracy = report["fidelity"], report["accuracy"]
    table = new_table("", "teacher" if report["teacher"] else "-", "before", "after")
    if accuracy is not None:
        shares = accuracy["teacher"] if report["teacher"] else None, accuracy["before"], accuracy["after"]
        table.add_row("accuracy", *("-" if share is None else f"{share:.2%}" for share in shares))
    if report["teacher"] and fidelity["after"]:
        before, after = fidelity["before"], fidelity["after"]
        cells = row(before), row(after)
        if cells[0] is not None and cells[1] is not None:
            table.add_row(cells[0][0], cells[0][1], cells[0][2], cells[1][2])
        for name, words in (("agreement", "top-1 agreement"), ("kl", "KL divergence")):
            if after.get(name) is not None and before.get(name) is not None:
                table.add_row(words, "-", f"{before[name]:.3f}", f"{after[name]:.3f}")
    if accuracy is not None or report["teacher"]:
        yield table


def lesson_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was learned from what, and what to think of the figures."""
    lesson, options = report["lesson"], report["options"]
    losses = enumerated([name if weight == 1 else f"{weight:g} x {name}" for name, weight in lesson["losses"].items()])
    views = f", seen anew each time by {enumerated(lesson['augment'])}" if lesson["augment"] else ""
    yield (
        f"learned {losses} from {plural(lesson['samples'], 'sample')}{views}; {plural(lesson['held_out'], 'other')} "
        f"decided; rate {report['rate']:.2g}{'' if options['rate'] else ' by a range test'}{_precision(report)}"
    )
    statistics = lesson.get("statistics")
    if statistics is not None:
        kept = f"; {plural(statistics['kept'], 'other')} kept theirs" if statistics["kept"] else ""
        yield (
            f"{plural(statistics['of_batches'], 'BatchNormalization')} learned by the statistics of "
            f"{plural(statistics['samples'], 'sample')} at once{kept}"
        )
    if options["time"] is not None:
        yield "the length of the run was a time: another run takes other steps; --steps gives the same bytes each time"
    elif options["precision"] == "auto":
        yield "the precision was chosen by time: another machine may take the other one; --precision says which"
    if report["stopped"]:
        yield report["stopped"]
    if not report["fidelity"]["held_out"]:
        yield "compared on samples that decided or were learned from: others may fare worse; give some with --eval-data"


def _sentences(report: Mapping[str, Any]) -> Iterator[str]:
    yield from lesson_lines(report)
    yield f"verified: the file = the network {_closeness(report['proof']['max_rel_diff'])}"
    yield f"{report['output']['path']}: {_verdict(report)}"


def _closeness(difference: float) -> str:
    return f"to {difference:.1e} of the output's range" if difference else "exactly"


def _verdict(report: Mapping[str, Any]) -> str:
    first, best = report["history"][0], report["best"]
    if not report["helped"]:
        return f"tuning did not help: held-out loss {_number(first['held'])} is the least; the weights are as they were"
    gains = [f"held-out loss {_number(first['held'])} -> {_number(best['held'])} at step {best['step']:,}"]
    accuracy, fidelity = report["accuracy"], report["fidelity"]
    if accuracy is not None:
        gains.append(f"accuracy {points_text(accuracy['before'], accuracy['after'])}")
    if report["teacher"] and fidelity["after"]:
        gains.append(f"{headline(fidelity['before'])} -> {headline(fidelity['after'])}")
    return "; ".join(gains)


def _precision(report: Mapping[str, Any]) -> str:
    """Return the precision of the steps in words, where it is not the usual one."""
    if report["precision"] in {None, "float32"}:  # reports of earlier releases name none
        return ""
    return f", in {report['precision']}{', which is faster here' * (report['options']['precision'] == 'auto')}"
