"""What ``onnxprune compare`` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxprune.report.document import fidelity_values
from onnxprune.report.words import (
    accuracy_cells,
    all_printable,
    count_text,
    fidelity_row,
    ms_text,
    names_text,
    new_table,
    pair_cells,
    place_text,
    plural,
    printable,
    size_text,
    warning_lines,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.evaluation.comparison import Comparison, Side
    from onnxprune.latency.speedup import Throughput


_OPS = 10  # types of nodes shown; the others are one row


def compare_tables(comparison: Comparison, missed: Sequence[str]) -> list[RenderableType]:
    """Return what ``onnxprune compare`` prints."""
    before, after = comparison.before, comparison.after
    table = new_table("", "before", "after", "after / before")
    rows: list[tuple[str, str, Any]] = [
        ("parameters", "params", count_text),
        ("MACs per sample", "macs", count_text),
        ("file size", "size_bytes", size_text),
        ("latency, median", "median_ms", ms_text),
        ("latency, p95", "p95_ms", ms_text),
        ("session creation", "creation_ms", ms_text),
        ("peak memory", "peak_memory_bytes", size_text),
    ]
    for label, name, show in rows:
        old, new = getattr(before, name), getattr(after, name)
        table.add_row(label, *(("-", "-", "-") if old is None or new is None else pair_cells(old, new, show)))
    _accuracy_row(table, before, after)
    fidelity_row(table, all_printable(fidelity_values(comparison)))
    warned = warning_lines((("before", before.warnings), ("after", after.warnings)))
    parts = [
        table,
        *_op_parts(comparison),
        *_sweep_parts(comparison.sweep),
        difference_line(dataclasses.asdict(comparison)),
    ]
    return [*parts, *warned, *_place_lines(comparison), _speed_line(comparison), *missed]


def _op_parts(comparison: Comparison) -> list[RenderableType]:
    """Return where the time went, by type of node, and how it adds up; nothing where it was not measured."""
    if not comparison.ops:
        return []
    old, new = (sum(getattr(op, name) for op in comparison.ops) for name in ("before_ms", "after_ms"))
    table = new_table("node type", "nodes", "before", "after", "saved", "share of gain")
    shown, rest = comparison.ops[:_OPS], comparison.ops[_OPS:]
    rows = [(op.op, _change(op.nodes_before, op.nodes_after), op.before_ms, op.after_ms) for op in shown]
    if rest:
        nodes = _change(sum(op.nodes_before for op in rest), sum(op.nodes_after for op in rest))
        rows.append((f"{len(rest)} others", nodes, sum(op.before_ms for op in rest), sum(op.after_ms for op in rest)))
    for name, nodes, before_ms, after_ms in rows:
        saved = f"{before_ms - after_ms:+.3f} ms"
        share = f"{(before_ms - after_ms) / (old - new):.1%}" if old > new else "-"
        table.add_row(printable(name), nodes, ms_text(before_ms), ms_text(after_ms), saved, share)
    runs = f"{ms_text(comparison.before.median_ms)} and {ms_text(comparison.after.median_ms)}"
    line = f"nodes add up to {ms_text(old)} and {ms_text(new)} by ONNX Runtime's profile, which takes time itself; "
    line += f"runs without it take {runs}"
    return [table, line]


def _change(before: int, after: int) -> str:
    return str(before) if before == after else f"{before} -> {after}"


def _sweep_parts(sweep: Sequence[Throughput]) -> list[RenderableType]:
    """Return a row for every count of threads and batch, and a line for each that was not run."""
    if not sweep:
        return []
    table = new_table("threads", "batch", "before", "after", "speed-up", "95 % interval", "")
    for point in sweep:
        if point.speedup is None or point.speedup_interval is None:
            table.add_row(_threads(point.threads), str(point.batch), *["-"] * 4, "not run")
            continue
        low, high = point.speedup_interval
        rates = [
            f"{rate:,.{0 if rate >= 1000 else 1}f}/s" for rate in (point.before_per_s or 0, point.after_per_s or 0)
        ]
        cells = (*rates, f"{point.speedup:.2f}x", f"{low:.2f} to {high:.2f}", "within noise" * bool(point.within_noise))
        table.add_row(_threads(point.threads), str(point.batch), *cells)
    left = [
        printable(f"not run, threads {_threads(point.threads)}, batch {point.batch}: {point.why_not}")
        for point in sweep
        if point.why_not is not None
    ]
    return [table, *left]


def _threads(number: int) -> str:
    return str(number) if number else "all"


def _place_lines(comparison: Comparison) -> list[str]:
    """Return on which cores the process may run, and the options of the provider."""
    cores = comparison.affinity
    lines = [] if cores is None else [f"may run on {plural(len(cores), 'logical core')}: {_spans(cores)}"]
    options = ", ".join(f"{name}={value}" for name, value in comparison.provider_options.items())
    return [*lines, *[printable(f"options of {comparison.provider}: {options}")] * bool(options)]


def _spans(numbers: Sequence[int]) -> str:
    """Return ascending numbers in short.

    >>> _spans([0, 1, 2, 5, 8, 9])
    '0-2, 5, 8-9'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def bounds_line(min_speedup: float | None, max_drop: float | None) -> str:
    """Return the sentence for bounds that were all met."""
    speed = [] if min_speedup is None else [f"a speed-up of at least {min_speedup:.2f}x"]
    drop = [] if max_drop is None else [f"an accuracy drop of at most {100 * max_drop:.2f} points"]
    return f"bounds met: {', '.join(speed + drop)}"


def _accuracy_row(table: Any, before: Side, after: Side) -> None:
    if before.accuracy is not None and after.accuracy is not None:
        table.add_row("accuracy", *accuracy_cells(before.accuracy, after.accuracy))


def difference_line(comparison: Mapping[str, Any]) -> str:
    """Return in words how far the outputs lie apart.

    Args:
        comparison: as plain values.
    """
    difference = comparison["difference"]
    drawn = f"{comparison['samples']} {'random samples' if comparison['feeds'] == 'random' else 'samples of the data'}"
    parts = [f"outputs on {drawn}"]
    if difference["max_abs_diff"] == 0:
        parts.append("equal")
    elif difference["max_rel_diff"] is not None and difference["snr_db"] is not None:
        apart = f"differ by up to {difference['max_rel_diff']:.1e} of their range"
        parts.append(f"{apart}, SNR {difference['snr_db']:.1f} dB")
    if difference["agreement"] is not None:
        parts.append(f"same top-1 for {difference['agreement']:.1%}")
    if difference["incomparable"]:
        parts.append(f"of other shapes: {printable(names_text(difference['incomparable']))}")
    gone = difference.get("gone", ())  # an older report has none
    if gone:
        parts.append(f"{plural(len(gone), 'cache port')} gone in the second: {printable(names_text(gone))}")
    return ": ".join([parts[0], ", ".join(parts[1:]) or "cannot be compared"])


def _speed_line(comparison: Comparison) -> str:
    low, high = comparison.speedup_interval
    where = place_text(comparison.provider, comparison.threads, comparison.timer)
    where += "" if comparison.timer else f", batch {comparison.batch}"
    where = printable(f"{where}, {plural(comparison.runs, 'run')} each")
    noise = "; within noise, no difference is shown" if comparison.within_noise else ""
    if comparison.p95_speedup is not None and comparison.p95_speedup_interval is not None:
        least, most = comparison.p95_speedup_interval
        where += f"; of the 95th percentiles {comparison.p95_speedup:.2f}x ({least:.2f} to {most:.2f})"
    return f"speed-up {comparison.speedup:.2f}x (95 % interval {low:.2f} to {high:.2f}) on {where}{noise}"
