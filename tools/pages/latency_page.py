"""Write docs/measured/latency.md and its plot, of what tools/measure/latency.py has measured.

python tools/pages/latency_page.py [--results latency.jsonl] [--docs docs/measured]
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxprune.report.plot import Series, line_chart  # noqa: E402
from tools.measure.latency import REQUESTED, SECTIONS, Record, graphs, read  # noqa: E402

PUBLISHED = {0.3: 1.4, 0.5: 2.0}  # speed-ups that others state for ResNet-50 at these ratios


def page(results: Path, docs: Path) -> None:
    """Write the page and its plot, of the last record of each measurement."""
    last = {(row["section"], row["key"]): row for row in read(results)}
    failed = [f"{section} {key}: {row['failed']}" for (section, key), row in last.items() if "failed" in row]
    by_section = {
        name: {key: last[name, key] for key in keys() if "failed" not in last.get((name, key), {"failed": ""})}
        for name, (_, keys) in SECTIONS.items()
    }
    used = [row for rows in by_section.values() for row in rows.values()]
    machines, commits = ("; ".join(sorted({row[key] for row in used})) for key in ("machine", "commit"))
    lines = [
        "# Latency, measured",
        "",
        f"By `tools/measure/latency.py` on {machines}, at {commits}. Networks have random weights; medians of "
        "interleaved runs, beside the original.",
        "",
        *(f"- failed: {each}" for each in failed),
        *_targets_table(by_section["targets"]),
        *_cuda_table(by_section["cuda"]),
        *_ratios_table(by_section["ratios"]),
        *_profile_lines(by_section["profile"]),
        *_zoo_lines(by_section["zoo"], docs),
    ]
    (docs / "latency.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _targets_table(rows: Mapping[str, Record]) -> Iterator[str]:
    yield f"## `--target latency={REQUESTED}`\n\nMeasured again after pruning, by `compare`; with the 95 % interval.\n"
    yield "| network | threads | before ms | after ms | latency x (95 %) | measured / requested | MACs x | seconds |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for key, row in rows.items():
        name, threads = key.split(" ")
        share, (low, high) = 1 / row["speedup"], row["interval"]
        ratio = f"{share:.3f} ({1 / high:.3f} to {1 / low:.3f})"
        times = f"{row['before_ms']:.1f} | {row['after_ms']:.1f}"
        over = f"{share / REQUESTED:.3f}"
        yield f"| {name} | {threads} | {times} | {ratio} | {over} | {row['macs']:.3f} | {row['seconds']:.0f} |"
    yield ""


def _cuda_table(rows: Mapping[str, Record]) -> Iterator[str]:
    if not rows:
        return
    yield f"## `--target latency={REQUESTED} --provider cuda`\n\nWith outputs held against those of the CPU.\n"
    yield "| network | precision | before ms | after ms | measured / requested | MACs x | largest difference |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for key, row in rows.items():
        name, precision = key.split(" ")
        times = f"{row['before_ms']:.2f} | {row['after_ms']:.2f} | {1 / row['speedup'] / REQUESTED:.3f}"
        yield f"| {name} | {precision} | {times} | {row['macs']:.3f} | {row['difference']:.1e} |"
    yield ""


def _ratios_table(rows: Mapping[str, Record]) -> Iterator[str]:
    yield "## ResNet-50 by ratio\n\nOne thread; counts are rounded down. Beside it the speed-up that others state.\n"
    yield "| `--ratio` | `--round-to` | units gone | MACs x | speed-up (95 %) | stated elsewhere |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for key, row in rows.items():
        (ratio, step), (low, high) = key.split(" "), row["interval"]
        speed = f"{row['speedup']:.2f} ({low:.2f} to {high:.2f})"
        yield f"| {ratio} | {step} | {row['gone']:.3f} | {row['macs']:.3f} | {speed} | {PUBLISHED[float(ratio)]:.1f} |"
    yield ""


def _profile_lines(rows: Mapping[str, Record]) -> Iterator[str]:
    for key, row in rows.items():
        errors = sorted(abs(predicted / measured - 1) for predicted, measured in row["plans"])
        yield f"## Profiling {key}\n"
        seconds = f"{row['cold_s']:.1f} s with an empty cache, {row['cached_s']:.1f} s the second time"
        yield f"{seconds}; steps found: {row['steps']}."
        yield (
            f"Predicted against measured latency of {len(errors)} random plans: median error "
            f"{100 * statistics.median(errors):.1f} %, largest {100 * errors[-1]:.1f} %.\n"
        )


def _zoo_lines(rows: Mapping[str, Record], docs: Path) -> Iterator[str]:
    pruned = {key: row for key, row in rows.items() if "error" not in row}
    kept = [row for row in rows.values() if "error" in row]
    slower = [key for key, row in pruned.items() if row["speedup"] < 1 and not row["within_noise"]]
    large = [row for row in pruned.values() if row["convolved"] > 0.5 and row["before_ms"] > 10]
    products = [row["speedup"] * row["macs"] for row in large]
    yield "## The zoo\n"
    jobs = max((row["jobs"] for row in rows.values()), default=1)
    beside = f", {jobs} graphs at a time on a core each" if jobs > 1 else ""
    yield f"Graphs of `tests/zoo` at `--ratio 0.3 --round-to auto`, one thread{beside}."
    yield "Convolutional: more than half of the MACs are those of convolutions.\n"
    order = "" if len(rows) == len(graphs()) else ", in an order that is as good as random"
    yield f"- graphs: {len(rows)} of {len(graphs())}{order}"
    yield f"- pruned: {len(pruned)}; nothing written, with the reason: {len(kept)}"
    noise = sum(row["within_noise"] for row in pruned.values())
    listed = "".join(f" ({key})" for key in slower)
    yield f"- slower than the original beyond noise: {len(slower)}{listed}; within noise: {noise}"
    convolutional = [row for row in pruned.values() if row["convolved"] > 0.5]
    others = [row for row in pruned.values() if row["convolved"] <= 0.5]
    for name, some in (("all", list(pruned.values())), ("convolutional", convolutional)):
        speeds = sorted(row["speedup"] for row in some)
        if speeds:
            at = [int(share * (len(speeds) - 1)) for share in (0.1, 0.25, 0.5, 0.75, 0.9)]
            quartiles = ", ".join(f"{speeds[place]:.2f}" for place in at)
            yield f"- speed-ups, {name}: 10, 25, 50, 75, 90 % at {quartiles}"
    if products:
        mean = math.exp(statistics.fmean(map(math.log, products)))
        yield f"- geometric mean of speed-up x MACs, convolutional over 10 ms: {mean:.3f} ({len(products)} graphs)"
    if pruned:
        series = [
            Series(name, sorted((row["macs"], row["speedup"]) for row in some), joined=False)
            for name, some in (("convolutional", convolutional), ("others", others))
        ]
        chart = line_chart(series, "MACs over the original's", "speed-up", title="Graphs of the zoo")
        (docs / "latency_zoo.svg").write_text(chart, encoding="utf-8")
        yield "\n![speed-up against MACs](latency_zoo.svg)"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("latency.jsonl"))
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "measured")
    arguments = parser.parse_args()
    page(arguments.results, arguments.docs)


if __name__ == "__main__":
    main()
