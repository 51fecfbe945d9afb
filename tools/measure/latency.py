"""Measure what is promised about latency.

    python tools/measure/latency.py targets DIR    large networks at --target latency=0.5: measured over requested
    python tools/measure/latency.py zoo            graphs of tests/zoo at --ratio 0.3 --round-to auto: speed-up and MACs
    python tools/measure/latency.py ratios DIR     ResNet-50 at 0.3 and 0.5, multiples of 16 and of 32
    python tools/measure/latency.py cuda DIR       the first again on a GPU, in single and half precision
    python tools/measure/latency.py profile DIR    seconds of profiling, cold and cached; predicted against measured

DIR is what tools/models/export_large.py writes. Results are lines of JSON in the file `--results`; what stands there
for the same commit is not measured again. Times are medians of interleaved runs, beside the original, on an idle
machine. With `--jobs N` so many graphs are measured at a time, each on a core of its own: for what runs with one
thread. tools/pages/latency_page.py writes docs/measured/latency.md of the results.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
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

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.git import package_commit  # noqa: E402

NETWORKS = ("resnet50", "mobilenetv2", "densenet121", "vit_b_16", "bert_base")  # with a batch of one
THREADS = (1, 2)
REQUESTED = 0.5
PRECISIONS = ("fp32", "fp16")
RATIOS = (0.3, 0.5)
STEPS = (16, 32)  # counts are multiples of
PLANS = 20  # random ones, whose latency is predicted
COMPARE_S = {"targets": 20.0, "zoo": 1.5, "ratios": 20.0, "cuda": 10.0}
Record = dict[str, Any]


def compared(before: Path, after: Any, seconds: float, **options: Any) -> Record:
    """Return two models timed beside one another."""
    import onnxprune

    comparison = onnxprune.compare(before, after, budget_s=seconds, memory=False, detail=False, **options)
    return {
        "before_ms": comparison.before.median_ms,
        "after_ms": comparison.after.median_ms,
        "speedup": comparison.speedup,
        "interval": list(comparison.speedup_interval),
        "within_noise": comparison.within_noise,
        "macs": (comparison.after.macs or 0) / max(1, comparison.before.macs or 0),
    }


def targets(key: str, folder: Path | None) -> Record:
    """Prune one network to half of its latency, and measure it again."""
    import onnxprune

    name, threads = key.split(" ")
    path, start = _of(folder, name), time.perf_counter()
    options = {"criterion": "l2", "latency": False, "threads": int(threads)}
    result = onnxprune.prune(path, targets={"latency": REQUESTED}, **options)
    seconds = time.perf_counter() - start
    comparison = compared(path, result.model, COMPARE_S["targets"], threads=int(threads))
    return {**comparison, "seconds": seconds, "races": len(result.report["promise"]["attempts"])}


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
        comparison = compared(path, result.model, COMPARE_S["cuda"], provider=provider)
        return {**comparison, "seconds": seconds, "difference": _differing(result.model, provider)}


def _differing(proto: Any, provider: str) -> float:
    """Return the largest difference of any output from that of the CPU, over the largest of its numbers there."""
    import numpy as np

    from onnxprune.evaluation.place import timed_feeds
    from onnxprune.graph.files.read import load
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
    from onnxprune.graph.files.read import load

    traced = trace(load(path))
    convolutions = {index: one for index, one in traced.couplings.items() if "Conv" in one.node.op}
    return macs(replace(traced, couplings=convolutions)) / max(1, macs(traced))


def profile(key: str, folder: Path | None) -> Record:
    """Profile ResNet-50 with an empty cache, and again; then race random plans."""
    import numpy as np

    from onnxprune.dependency.groups import groups
    from onnxprune.dependency.trace import trace
    from onnxprune.evaluation.place import timed_feeds
    from onnxprune.graph.files.read import load
    from onnxprune.latency import predict
    from onnxprune.latency.kernels import Tables
    from onnxprune.planning.choice import select_ratios
    from onnxprune.planning.options import make_options
    from onnxprune.planning.plan import usual_step
    from onnxprune.planning.profile import first_units, profiled
    from onnxprune.surgery.rewrite import rewrite

    model = load(_of(folder, key))
    traced, options = trace(model), make_options(round_to="auto")
    all_groups = groups(traced)
    pruned = [group for group in all_groups if group.name in select_ratios(all_groups, options)]
    feeds = timed_feeds(model, None, batch=1, seed=0)
    usual, seconds = {group.atom: usual_step(group, options) for group in pruned}, []
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(2):
            start = time.perf_counter()
            speed = profiled(traced, pruned, feeds, usual=usual, tables=Tables("cpu", 1, Path(scratch) / "times.json"))
            seconds.append(time.perf_counter() - start)
    rng, pairs = np.random.default_rng(7), []
    for _ in range(PLANS):
        low = rng.uniform(0.2, 0.9)
        sizes = {g.atom: predict.aligned(g.units, rng.uniform(low, 1), speed.steps[g.atom]) for g in pruned}
        proto = rewrite(traced, {atom: first_units(atom, size) for atom, size in sizes.items()}).proto
        pairs.append((speed.fraction(sizes), speed.race(proto).fraction))
    steps = sorted(set(speed.steps.values()))
    return {"cold_s": seconds[0], "cached_s": seconds[1], "steps": steps, "plans": pairs, "complete": speed.complete}


def graphs() -> list[str]:
    """Return the names of the graphs of the zoo."""
    return [path.name.removesuffix(".onnx.gz") for path in (ROOT / "tests" / "zoo").glob("*.gz")]


def _of(folder: Path | None, name: str) -> Path:
    if folder is None:
        raise SystemExit("give the folder that tools/models/export_large.py has written")
    return folder / f"{name}.batch1.onnx"


Measure = Callable[[str, "Path | None"], Record]
SECTIONS: Mapping[str, tuple[Measure, Callable[[], list[str]]]] = {
    "profile": (profile, lambda: ["resnet50"]),
    "ratios": (ratios, lambda: [f"{ratio} {step}" for ratio in RATIOS for step in STEPS]),
    "targets": (targets, lambda: [f"{name} {threads}" for threads in THREADS for name in NETWORKS]),
    "cuda": (cuda, lambda: [f"{name} {precision}" for precision in PRECISIONS for name in NETWORKS]),
    "zoo": (zoo, lambda: sorted(graphs(), key=lambda name: zlib.crc32(name.encode()))),  # any part is a fair one
}


def run(section: str, folder: Path | None, results: Path, *, minutes: float, jobs: int) -> None:
    """Measure what is missing, each in a fresh process; several at a time have a core each."""
    until, commit = time.monotonic() + 60 * minutes, package_commit()
    done = {(row["section"], row["key"]) for row in read(results) if row["commit"] == commit and "failed" not in row}
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
        record = json.loads(lines[-1]) if process.returncode == 0 and lines else {"failed": process.stderr[-300:]}
        with write, results.open("a", encoding="utf-8") as file:
            print(f"{number + 1} of {len(missing)}: {section} {key}: {record}", file=sys.stderr, flush=True)
            file.write(json.dumps({"section": section, "key": key, "commit": commit, "jobs": jobs, **record}) + "\n")
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


def read(results: Path) -> Iterator[Record]:
    """Yield the records of a file of results; none where there is none."""
    if results.exists():
        yield from map(json.loads, results.read_text(encoding="utf-8").splitlines())


def main() -> None:
    """Measure one section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=[*SECTIONS, "once"])
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--results", type=Path, default=Path("latency.jsonl"))
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--jobs", type=int, default=1, help="graphs at a time, each on a core of its own")
    arguments = parser.parse_args()
    if arguments.section == "once":
        section, key, *folder = arguments.rest
        print(json.dumps({**SECTIONS[section][0](key, Path(folder[0]) if folder else None), "machine": _here(section)}))
    else:
        folder = Path(arguments.rest[0]) if arguments.rest else None
        run(arguments.section, folder, arguments.results, minutes=arguments.minutes, jobs=arguments.jobs)


if __name__ == "__main__":
    main()
