"""Measure what is promised about latency.

    python tools/latency.py targets DIR      large networks at --target latency=0.5: measured over requested
    python tools/latency.py zoo              graphs of tests/zoo at --ratio 0.3 --round-to auto: speed-up against MACs
    python tools/latency.py ratios DIR       ResNet-50 at 0.3 and 0.5, multiples of 16 and of 32
    python tools/latency.py cuda DIR         the first again on a GPU, in single and half precision
    python tools/latency.py profile DIR      seconds of profiling, cold and cached; predicted against measured latency
    python tools/latency.py page             docs/latency_measured.md and its plot, of what was measured

DIR is what tools/export_large.py writes. Results are lines of JSON in the file `--results`; what stands there for the
same commit is not measured again. Times are medians of interleaved runs, beside the original, on an idle machine. With
`--jobs N` so many graphs are measured at a time, each on a core of its own: for what runs with one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

NETWORKS = ("resnet50", "mobilenetv2", "densenet121", "vit_b_16", "bert_base")  # with a batch of one
THREADS = (1, 2)
REQUESTED = 0.5
PRECISIONS = ("fp32", "fp16")
RATIOS = (0.3, 0.5)
STEPS = (16, 32)  # counts are multiples of
PUBLISHED = {0.3: 1.4, 0.5: 2.0}  # speed-ups that others state for ResNet-50 at these ratios
PLANS = 20  # random ones, whose latency is predicted
COMPARE_S = {"targets": 20.0, "zoo": 1.5, "ratios": 20.0, "cuda": 10.0}
Record = dict[str, Any]


def compared(before: Path, after: Any, seconds: float, **options: Any) -> Record:
    """Return two models timed beside one another."""
    import onnxprune

    found = onnxprune.compare(before, after, budget_s=seconds, memory=False, detail=False, **options)
    return {
        "before_ms": found.before.median_ms,
        "after_ms": found.after.median_ms,
        "speedup": found.speedup,
        "interval": list(found.speedup_interval),
        "within_noise": found.within_noise,
        "macs": (found.after.macs or 0) / max(1, found.before.macs or 0),
    }


def targets(key: str, folder: Path | None) -> Record:
    """Prune one network to half of its latency, and measure it again."""
    import onnxprune

    name, threads = key.split(" ")
    path, start = _of(folder, name), time.perf_counter()
    options = {"criterion": "l2", "latency": False, "threads": int(threads)}
    result = onnxprune.prune(path, targets={"latency": REQUESTED}, **options)
    seconds = time.perf_counter() - start
    found = compared(path, result.model, COMPARE_S["targets"], threads=int(threads))
    return {**found, "seconds": seconds, "races": len(result.report["promise"]["attempts"])}


def cuda(key: str, folder: Path | None, provider: str = "cuda") -> Record:
    """Prune one network to half of its latency on a GPU, measure it again, and hold its outputs against the CPU's."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    import onnxprune

    name, precision = key.split(" ")
    path, start = _of(folder, name), time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        if precision == "fp16":
            half, path = convert_float_to_float16(onnx.load(path)), Path(scratch) / path.name
            onnx.save(half, path)
        options = {"criterion": "l2", "latency": False, "provider": provider}
        result = onnxprune.prune(path, targets={"latency": REQUESTED}, **options)
        seconds = time.perf_counter() - start
        found = compared(path, result.model, COMPARE_S["cuda"], provider=provider)
        return {**found, "seconds": seconds, "difference": _differing(result.model, provider)}


def _differing(proto: Any, provider: str) -> float:
    """Return the largest difference of any output from that of the CPU, over the largest of its numbers there."""
    import numpy as np

    from onnxprune.evaluation.place import timed_feeds
    from onnxprune.graph.read import load
    from onnxprune.runtime.session import open_session

    feeds = timed_feeds(load(proto), None, batch=1, seed=0)
    here, there = (open_session(proto.SerializeToString(), provider=one).run(feeds) for one in ("cpu", provider))
    pairs = [(here[name].astype(np.float64), there[name].astype(np.float64)) for name in here]
    return max(float(np.abs(one - other).max() / np.abs(one).max()) for one, other in pairs)


def ratios(key: str, folder: Path | None) -> Record:
    """Prune ResNet-50 by a ratio, to multiples of a step."""
    import onnxprune

    ratio, step = key.split(" ")
    path = _of(folder, "resnet50")
    result = onnxprune.prune(path, ratio=float(ratio), round_to=int(step), criterion="l2", latency=False)
    units = [(group["units"], group["kept"]) for group in result.report["groups"] if group["kept"] < group["units"]]
    gone = 1 - sum(kept for _, kept in units) / sum(count for count, _ in units)
    return {**compared(path, result.model, COMPARE_S["ratios"]), "gone": gone}


def zoo(key: str, _: Path | None) -> Record:
    """Prune one graph of the zoo, refilled with weights, with steps that are found."""
    import onnxprune
    from tests.support import zoo_store

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        stored = zoo_store.read(ROOT / "tests" / "zoo" / f"{key}.onnx.gz")
        path.write_bytes(zoo_store.refill(stored).SerializeToString())
        options = {"criterion": "l2", "latency": False, "profile_seconds": 10.0}
        try:
            result = onnxprune.prune(path, ratio=0.3, round_to="auto", **options)
        except onnxprune.OnnxpruneError as error:
            return {"error": type(error).__name__, "message": str(error)[:300]}
        seconds, share = time.perf_counter() - start, _convolved(path)
        return {**compared(path, result.model, COMPARE_S["zoo"]), "convolved": share, "seconds": seconds}


def _convolved(path: Path) -> float:
    """Return the share of a model's MACs that its convolutions make."""
    from onnxprune.dependency.cost import macs
    from onnxprune.dependency.trace import trace
    from onnxprune.graph.read import load

    traced = trace(load(path))
    convolutions = {index: one for index, one in traced.couplings.items() if "Conv" in one.node.op}
    return macs(replace(traced, couplings=convolutions)) / max(1, macs(traced))


def profile(key: str, folder: Path | None) -> Record:
    """Profile ResNet-50 with an empty cache, and again; then race random plans."""
    import numpy as np

    from onnxprune.dependency.groups import groups
    from onnxprune.dependency.trace import trace
    from onnxprune.evaluation.place import timed_feeds
    from onnxprune.graph.read import load
    from onnxprune.latency import predict
    from onnxprune.latency.kernels import Tables
    from onnxprune.planning.choice import choose
    from onnxprune.planning.options import make_options
    from onnxprune.planning.plan import usual_step
    from onnxprune.planning.profile import first_units, profiled
    from onnxprune.surgery.rewrite import rewrite

    model = load(_of(folder, key))
    traced, options = trace(model), make_options(round_to="auto")
    found = groups(traced)
    chosen = [group for group in found if group.name in choose(found, options)]
    feeds = timed_feeds(model, None, batch=1, seed=0)
    usual, seconds = {group.atom: usual_step(group, options) for group in chosen}, []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(2):
            start = time.perf_counter()
            speed = profiled(traced, chosen, feeds, usual=usual, tables=Tables("cpu", 1, Path(scratch) / "times.json"))
            seconds.append(time.perf_counter() - start)
    rng, pairs = np.random.default_rng(7), []
    for _ in range(PLANS):
        low = rng.uniform(0.2, 0.9)
        sizes = {g.atom: predict.aligned(g.units, rng.uniform(low, 1), speed.steps[g.atom]) for g in chosen}
        proto = rewrite(traced, {atom: first_units(atom, size) for atom, size in sizes.items()}).proto
        pairs.append((speed.fraction(sizes), speed.race(proto).fraction))
    steps = sorted(set(speed.steps.values()))
    return {"cold_s": seconds[0], "cached_s": seconds[1], "steps": steps, "plans": pairs, "complete": speed.complete}


def _graphs() -> list[str]:
    return [path.name.removesuffix(".onnx.gz") for path in (ROOT / "tests" / "zoo").glob("*.gz")]


def _of(folder: Path | None, name: str) -> Path:
    if folder is None:
        raise SystemExit("give the folder that tools/export_large.py has written")
    return folder / f"{name}.batch1.onnx"


Measure = Callable[[str, "Path | None"], Record]
SECTIONS: Mapping[str, tuple[Measure, Callable[[], list[str]]]] = {
    "profile": (profile, lambda: ["resnet50"]),
    "ratios": (ratios, lambda: [f"{ratio} {step}" for ratio in RATIOS for step in STEPS]),
    "targets": (targets, lambda: [f"{name} {threads}" for threads in THREADS for name in NETWORKS]),
    "cuda": (cuda, lambda: [f"{name} {precision}" for precision in PRECISIONS for name in NETWORKS]),
    "zoo": (zoo, lambda: sorted(_graphs(), key=lambda name: zlib.crc32(name.encode()))),  # any part is a fair one
}


def run(section: str, folder: Path | None, results: Path, *, minutes: float, jobs: int) -> None:
    """Measure what is missing, each in a fresh process; several at a time have a core each."""
    until, commit = time.monotonic() + 60 * minutes, _commit()
    done = {(row["section"], row["key"]) for row in _rows(results) if row["commit"] == commit and "failed" not in row}
    missing = [key for key in SECTIONS[section][1]() if (section, key) not in done]
    cores: queue.SimpleQueue[int] = queue.SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[:jobs]:
        cores.put(core)
    write = threading.Lock()

    def measure(number: int, key: str) -> bool:
        if time.monotonic() > until:
            return False
        core = cores.get()
        pinned = ["taskset", "-c", str(core)] if jobs > 1 else []
        command = [*pinned, sys.executable, __file__, "once", section, key, *([str(folder)] if folder else [])]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        cores.put(core)
        lines = process.stdout.strip().splitlines()
        found = json.loads(lines[-1]) if process.returncode == 0 and lines else {"failed": process.stderr[-300:]}
        with write, results.open("a", encoding="utf-8") as file:
            print(f"{number + 1} of {len(missing)}: {section} {key}: {found}", file=sys.stderr, flush=True)
            file.write(json.dumps({"section": section, "key": key, "commit": commit, "jobs": jobs, **found}) + "\n")
        return True

    with ThreadPoolExecutor(jobs) as pool:
        measured = sum(pool.map(measure, range(len(missing)), missing))
    if measured < len(missing):
        print(f"out of time: {len(missing) - measured} are left", file=sys.stderr)


def _here(section: str) -> str:
    """Return what was measured on."""
    from onnxprune.runtime.machine import machine

    here, gpu = machine(), ""
    if section == "cuda":
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        gpu = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() + ", "
    return f"{gpu}{here['cpu']}, {here['logical_cores']} cores, ONNX Runtime {here['onnxruntime']}"


def _commit() -> str:
    command = ["git", "log", "-1", "--format=%h", "--", "onnxprune"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _rows(results: Path) -> Iterator[Record]:
    if results.exists():
        yield from map(json.loads, results.read_text(encoding="utf-8").splitlines())


# -- the page --------------------------------------------------------------------------------------------------


def page(results: Path, docs: Path) -> None:
    """Write the page and its plot, of the last record of each measurement."""
    last = {(row["section"], row["key"]): row for row in _rows(results)}
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
        f"By `tools/latency.py` on {machines}, at {commits}. Networks have random weights; medians of interleaved "
        "runs, beside the original.",
        "",
        *(f"- failed: {each}" for each in failed),
        *_targets_table(by_section["targets"]),
        *_cuda_table(by_section["cuda"]),
        *_ratios_table(by_section["ratios"]),
        *_profile_lines(by_section["profile"]),
        *_zoo_lines(by_section["zoo"], docs),
    ]
    (docs / "latency_measured.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


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
    from onnxprune.report.plot import Series, line_chart

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
    order = "" if len(rows) == len(_graphs()) else ", in an order that is as good as random"
    yield f"- graphs: {len(rows)} of {len(_graphs())}{order}"
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
    """Measure one section, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=[*SECTIONS, "once", "page"])
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--results", type=Path, default=Path("latency.jsonl"))
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--jobs", type=int, default=1, help="graphs at a time, each on a core of its own")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    given = parser.parse_args()
    if given.section == "once":
        section, key, *folder = given.rest
        print(json.dumps({**SECTIONS[section][0](key, Path(folder[0]) if folder else None), "machine": _here(section)}))
    elif given.section == "page":
        page(given.results, given.docs)
    else:
        folder = Path(given.rest[0]) if given.rest else None
        run(given.section, folder, given.results, minutes=given.minutes, jobs=given.jobs)


if __name__ == "__main__":
    main()
