"""Pieces of what is printed: tables, counts, units, names, control characters escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onnxprune.dependency.account import frees
from onnxprune.metrics.words import row
from onnxprune.report.table import NameTable, shortened

_LISTED = 4  # names shown of a longer list
_NAME_CELLS = 100  # of a name in a list: names may be of any length
_TIMER_CELLS = 40  # of the command that is a timer
_PLACE = r" \(at .*\)"  # the node that a reason names


def enumerated(words: Sequence[str]) -> str:
    """Return words as a list in a sentence.

    >>> enumerated(["1", "8", "16"])
    '1, 8 and 16'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def by_reason(reasons: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line per reason with the names it holds for; reasons that differ in the node alone are one."""
    merged: dict[str, dict[str, str]] = {}
    for reason, name in reasons:
        merged.setdefault(re.sub(_PLACE, "", reason), {})[name] = reason
    return [
        f"  {_with_places(list(dict.fromkeys(by_name.values())))}: {names_text(by_name)}{_freeing(short)}"
        for short, by_name in merged.items()
    ]


def dims_text(shape: Sequence[int | str | None]) -> str:
    """Return a shape in brackets, a dim without a size or a name as a question mark.

    >>> dims_text(["batch", 4, None])
    '[batch, 4, ?]'
    """
    return f"[{', '.join('?' if dim is None else str(dim) for dim in shape)}]"


def _with_places(alike: Sequence[str]) -> str:
    """Return one reason for several that differ in their place: with the first, and how many more there are.

    >>> _with_places(["Softmax normalises over it (at a)", "Softmax normalises over it (at b)"])
    'Softmax normalises over it (at a and 1 more)'
    """
    more = f" and {len(alike) - 1} more)" if len(alike) > 1 else ")"
    return re.sub(_PLACE, lambda place: place[0][:-1] + more, alike[0])


def _freeing(reason: str) -> str:
    """Return what would free a locked group, in brackets, where anything would."""
    what = frees(reason)
    if what.startswith(("nothing", "other")):
        return ""
    perhaps, what = ("perhaps ", what[8:]) if what.startswith("perhaps ") else ("", what)
    return f" [{what}]" if what.startswith("prune") else f" [{perhaps}free with {what}]"


def not_run_lines(not_run: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each reason why ONNX Runtime cannot run nodes, with the values between them and the rest.

    Args:
        not_run: values of `graph.model.LeftOut`.
    """
    by_why: dict[str, list[Mapping[str, Any]]] = {}
    for each in not_run:
        by_why.setdefault(each["why"], []).append(each)
    return [
        f"not run, as {why}: {names_text(_op_text(node) for node in nodes)}. It stays as it is, and the rest is proven"
        f"{_ends(nodes)}"
        for why, nodes in by_why.items()
    ]


def _op_text(node: Mapping[str, Any]) -> str:
    return f"{node['op']} {node['node']!r}"


def _ends(nodes: Sequence[Mapping[str, Any]]) -> str:
    """Return in words where what is run ends and begins again: values that nodes read and make."""
    reads = {name: None for node in nodes for name in node["reads"]}
    makes = {name: None for node in nodes for name in node["makes"]}
    outer = [name for name in reads if name not in makes]
    inner = [name for name in makes if name not in reads]
    sides = [f"{side} {names_text(names)}" for side, names in (("to", outer), ("from", inner)) if names]
    return f", {' and '.join(sides)}" if sides else ""


def warning_lines(sides: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """Return a line for each thing that the runtime punishes; one line where it holds for both models."""
    by_sentence: dict[str, list[str]] = {}
    for side, sentences in sides:
        for sentence in sentences:
            by_sentence.setdefault(sentence, []).append(side)
    return [printable(f"slower than it need be ({' and '.join(which)}): {text}") for text, which in by_sentence.items()]


def fidelity_row(table: Any, fidelity: Mapping[str, Any] | None) -> None:
    """Add the row of the fidelity to a table, where it has one."""
    cells = None if fidelity is None else row(fidelity["figures"])
    if cells is not None:
        table.add_row(*cells, "-")


LOSSES = {  # what the loss of a kind of outputs is, see `metrics.metric.Metric.loss`
    "classification": "KL divergence of the classes",
    "language model": "KL divergence of the words",
    "embedding": "1 - cosine",
    "dense": "squared error over variance",
    "boxes": "distance of the boxes",
}


def new_table(*headings: str, left: Sequence[int] = (0,)) -> NameTable:
    """Return an empty table; the columns in `left` hold names and words, the others numbers."""
    return NameTable(headings, left)


def printable(text: str) -> str:
    r"""Return a text whose control characters are escaped: names come from the file, and may hold anything.

    >>> printable("a\n\x1b[31m")
    'a\\n\\x1b[31m'
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def all_printable(value: Any) -> Any:
    """Return plain values whose strings are printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {key: all_printable(item) for key, item in value.items()}
    return [all_printable(item) for item in value] if isinstance(value, (list, tuple)) else value


def count_cells(before: int, after: int) -> tuple[str, str, str]:
    """Return the cells of two counts: before, after, their ratio."""
    return pair_cells(before, after, count_text)


def pair_cells(before: float, after: float, show: Any) -> tuple[str, str, str]:
    """Return the cells of two numbers: before, after, their ratio."""
    return show(before), show(after), f"{after / before:.3f}" if before else "-"


def plural(number: int, what: str) -> str:
    """Return a count with its noun: "1 plan", "2 plans", "3 branches"."""
    return f"{number} {what}{('es' if what.endswith('ch') else 's') * (number != 1)}"


def count_text(value: float) -> str:
    """Return a count in the unit people use: thousands, millions, billions."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / limit if unit != 'k' else value / 1e3:.2f} {unit}"
    return f"{value:,.0f}"


def size_text(value: float) -> str:
    """Return bytes in the unit people use."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.2f} {unit}"
    return f"{value:.0f} B"


def ms_text(value: float) -> str:
    """Return milliseconds with their unit."""
    return f"{value:.3f} ms"


def accuracy_cells(before: float, after: float) -> tuple[str, str, str]:
    """Return the cells of two accuracies: before, after, points between them."""
    return f"{before:.2%}", f"{after:.2%}", points_text(before, after)


def points_text(before: float, after: float) -> str:
    """Return the difference of two shares in percentage points."""
    return f"{100 * (after - before):+.2f} points"


def place_text(provider: str, threads: int, timer: str | None = None) -> str:
    """Return where something ran: the provider, and on the CPU the threads; or what timer of the user told.

    >>> place_text("cpu", 2), place_text("cpu", 1, "./time_on_board {}")
    ('cpu, 2 threads', 'timer ./time_on_board {}')
    """
    if timer is not None:
        return f"timer {shortened([timer], _TIMER_CELLS)[0]}"
    if provider != "cpu":
        return provider
    return "cpu" if threads == 0 else f"cpu, {threads} thread{'s' * (threads > 1)}"


def names_text(names: Iterable[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(shortened(listed[:_LISTED], _NAME_CELLS)) + more
