"""Parts of pages that several kinds of reports have: both models in a table, how to make a run again, notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from onnxprune.data.toml_file import toml_lines
from onnxprune.report.page.views import Again, Bar, Fact, Note, Section, Table
from onnxprune.report.quantize import quantization_parts, slower_lines
from onnxprune.report.table import NameTable
from onnxprune.report.words import accuracy_cells, count_text, ms_text, place_text, plural, size_text

_OPS = 12  # types of nodes that have bars
_ALIKE = 1.1  # the width of an interval of speed, upper end over lower, at which times are said to be equal


def file_name(path: str | None) -> str:
    """Return the last part of a path; the model may be in memory."""
    return PurePath(path).name if path else "a model in memory"


def apart(one: str | None, other: str | None) -> tuple[str, str]:
    """Return the names of two files, with as many folders as tell them apart.

    >>> apart("a/m.onnx", "b/m.onnx"), apart("a/m.onnx", "a/n.onnx"), apart("m.onnx", "m.onnx")
    (('a/m.onnx', 'b/m.onnx'), ('m.onnx', 'n.onnx'), ('m.onnx', 'm.onnx'))
    """
    if not one or not other or PurePath(one) == PurePath(other):
        return file_name(one), file_name(other)
    parts = PurePath(one).parts, PurePath(other).parts
    count = next(at for at in range(1, max(map(len, parts)) + 1) if parts[0][-at:] != parts[1][-at:])
    return str(PurePath(*parts[0][-count:])), str(PurePath(*parts[1][-count:]))


def amount(label: str, before: float, after: float, show: Any) -> Fact:
    """Return the row of an amount that is to become smaller."""
    share = after / before if before else None
    return Fact(label, show(before), show(after), change(share), share)


def change(share: float | None) -> str:
    """Return in words how much less or more there is.

    >>> change(0.5), change(1.25), change(1.0), change(0.04)
    ('−50 %', '+25 %', 'the same', '−96 %')
    """
    if share is None:
        return ""
    percent = 100 * (share - 1)
    if abs(percent) < 0.05:
        return "the same"
    digits = 0 if abs(percent) >= 10 or round(percent, 1) == round(percent) else 1
    return f"{'−' if percent < 0 else '+'}{abs(percent):.{digits}f} %"


def time_section(report: Mapping[str, Any]) -> list[Section]:
    """Return where the time went by type of node, where it was measured."""
    ops = (report.get("details") or {}).get("ops")
    if not ops:
        return []
    most = max(max(op["ms"]) for op in ops) or 1.0
    bars = [
        Bar(op["op"], _count(*op["nodes"]), *(100 * ms / most for ms in op["ms"]), *map(ms_text, op["ms"]))
        for op in ops[:_OPS]
    ]
    rest = ops[_OPS:]
    if rest:
        old, new = (sum(op["ms"][side] for op in rest) for side in (0, 1))
        nodes = _count(*(sum(op["nodes"][side] for op in rest) for side in (0, 1)))
        label = f"{len(rest)} other type{'s' * (len(rest) != 1)}"
        bars.append(Bar(label, nodes, 100 * old / most, 100 * new / most, ms_text(old), ms_text(new)))
    total = [sum(op["ms"][side] for op in ops) for side in (0, 1)]
    cpu = report["details"]["run"]["cpu"]
    lead = (
        f"By type of kernel, from ONNX Runtime's profile on the CPU ({cpu}): {ms_text(total[0])} before, "
        f"{ms_text(total[1])} after. Profiling takes time itself, so that these sums are not the latency above."
    )
    return [Section("Where the time went", "bars.html", bars, lead)]


def _count(before: int, after: int) -> str:
    return plural(before, "node") if before == after else f"{before} → {plural(after, 'node')}"


def again_section(report: Mapping[str, Any], files: Iterable[tuple[str, Mapping[str, Any] | None]]) -> Section:
    """Return how to make a run again.

    Args:
        report: of the run.
        files: what was read and written, and what the report says of it.
    """
    run = (report.get("details") or {}).get("run")
    options = report.get("options") or {}
    figures = [("seed", str(options["seed"]))] if "seed" in options else []
    if run is not None:
        figures += [(name, version) for name, version in run["versions"].items()]
        figures += [("processor", run["cpu"]), ("logical cores", str(run["cores"]))]
    else:
        figures.append(("onnxprune", str(report.get("onnxprune"))))
    rows = [
        (
            role,
            file_name(each.get("path")),
            size_text(each["size_bytes"]) if each.get("size_bytes") else "",
            each["sha256"],
        )
        for role, each in files
        if each is not None and each.get("sha256")
    ]
    table = Table(("file", "name", "size", "SHA-256"), rows, left=(0, 1, 3))
    listed = [(name, option_text(value)) for name, value in options.items() if value not in (None, [], {}, "")]
    recipe = report.get("recipe")
    step = "\n".join(["[[step]]", *toml_lines(recipe)]) if recipe else ""
    return Section("Make it again", "again.html", Again(run["command"] if run else "", step, figures, table, listed))


def option_text(value: Any) -> str:
    """Return the value of an option in words.

    >>> option_text([["stage3*", 0.5]]), option_text(True), option_text(0.3)
    ('stage3* 0.5', 'yes', '0.3')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={option_text(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        inner = [" ".join(map(str, each)) if isinstance(each, (list, tuple)) else str(each) for each in value]
        return ", ".join(inner)
    return str(value)


def notes(parts: Iterable[Any]) -> list[Note]:
    """Return what a command prints, as notes."""
    return [_note(part) for part in parts if part]


def _note(part: Any) -> Note:
    if isinstance(part, NameTable):
        return Note(table=Table(tuple(part.headings), part.rows, tuple(part.left)))
    return Note(text=str(part))


def notes_section(parts: Iterable[Any]) -> list[Section]:
    """Return what is to be known beside all else, where there is something."""
    listed = notes(parts)
    return [Section("Also to know", "notes.html", listed)] if listed else []


def quantized_section(report: Mapping[str, Any]) -> list[Section]:
    """Return all files of a model in eight bits side by side, and what eight bits cost or save here."""
    told = report.get("quantization")
    if told is None:
        return []
    has = {True: "has", False: "has no"}.get(told["vnni"])  # None: of another machine, as where a timer told
    vnni = f"The processor {has} VNNI, which multiplies eight bits fast." if has else ""
    return [Section("Eight bits", "notes.html", notes([*quantization_parts(report), *slower_lines(report)]), vnni)]


def counts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Fact]:
    """Return the rows of what files hold and cost."""
    rows = []
    for label, key, show in (
        ("parameters", "params", count_text),
        ("MACs per sample", "macs", count_text),
        ("file size", "size_bytes", size_text),
    ):
        if before.get(key) is not None and after.get(key) is not None:
            rows.append(amount(label, before[key], after[key], show))
    caches = before.get("cache_bytes") or 0, after.get("cache_bytes") or 0
    return [*rows, amount("cache of a token", *caches, size_text)] if any(caches) else rows


def accuracy_fact(accuracy: Mapping[str, Any]) -> Fact:
    """Return the row of accuracy, its minus as in the other rows."""
    before, after, points = accuracy_cells(accuracy["before"], accuracy["after"])
    return Fact("accuracy", before, after, points.replace("-", "−"))


def where_text(latency: Mapping[str, Any], batch: bool = True) -> str:
    """Return where latencies were measured; what a timer of the user told has its own threads and batch."""
    timer = latency.get("timer")
    place = place_text(latency["provider"], latency["threads"], timer)
    return f"{place}, batch {latency['batch']}" if batch and timer is None else place


def speed_words(latency: Mapping[str, Any]) -> str:
    """Return in words how much faster or slower a model got, with the interval of the ratio."""
    speedup, (low, high) = latency["speedup"], latency["speedup_interval"]
    where = f"on {where_text(latency, batch=False)}"
    if latency["within_noise"]:
        words = "as fast as before" if high <= _ALIKE * low else "no measurable difference in speed"
        return f"{words} {where} (95 % interval {low:.2f} to {high:.2f})"
    if speedup < 1:
        return f"{1 / speedup:.2f}× slower {where} (95 % interval {1 / high:.2f} to {1 / low:.2f})"
    return f"{speedup:.2f}× faster {where} (95 % interval {low:.2f} to {high:.2f})"


def sentence(parts: Sequence[str]) -> str:
    """Return clauses as one sentence.

    >>> sentence(["a is smaller", "b is faster", ""])
    'A is smaller, b is faster.'
    """
    text = ", ".join(part for part in parts if part)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
