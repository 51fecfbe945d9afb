"""The figures of the documentation, measured.

    python tools/bench.py models                      oracle, parameters and MACs of models/ at 0.3 and 0.5
    python tools/bench.py accuracy                    accuracy of models/ by criterion and ratio, no training
    python tools/bench.py torchvision DIR             every *.onnx of DIR at 0.3: oracle, cost, locked share, seconds
    python tools/bench.py speed FILE                  latency at 0.3 and 0.5, rounded to 16, against the original
    python tools/bench.py surgery FILE                seconds and peak memory of trace + score + rewrite
    python tools/bench.py peer FILE                   the same step by Torch-Pruning (torch and torchvision needed)
    python tools/bench.py own DIR                     what pruning itself takes: tools/own_speed.py has more options
    python tools/bench.py page DIR > docs/results.md  all but `own`; DIR is what tools/export_torchvision.py writes

Prints Markdown tables. Times are medians of interleaved runs on one thread; machines are noisy, ratios less so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("resnet_bn", "resnet_folded", "cnn", "vit", "mobilenet")
REPEATS = 5
STEPS = ("load", "trace", "score", "rewrite", "write")


def table(headings: Sequence[str], rows: Iterator[Sequence[object]]) -> None:
    """Print a Markdown table row by row, as the rows are made."""
    print("| " + " | ".join(headings) + " |")
    print("|" + " --- |" * len(headings))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def models() -> None:
    """Prune the bundled models and show that the surgery is right."""
    import onnxprune

    def rows() -> Iterator[Sequence[object]]:
        for name in MODELS:
            for ratio in (0.3, 0.5):
                report = onnxprune.prune(ROOT / "models" / f"{name}.onnx", ratio=ratio, latency=False).report
                yield (name, ratio, *costs(report), f"{report['verification']['max_rel_diff']:.1e}")

    table(("model", "ratio", "parameters x", "MACs x", "worst relative difference"), rows())


def costs(report: dict) -> tuple[str, str]:
    """Return parameters and MACs of the output over those of the input."""
    before, after = report["input"], report["output"]
    return f"{after['params'] / before['params']:.3f}", f"{after['macs'] / before['macs']:.3f}"


def accuracy() -> None:
    """Prune the bundled models by every criterion, without training or calibration."""
    import onnxprune
    from onnxprune.importance import CRITERIA

    data = ROOT / "models" / "mnist_test.npz"
    ratios = (0.1, 0.2, 0.3, 0.5)

    def cell(name: str, criterion: str, ratio: float) -> str:
        try:
            result = onnxprune.prune(
                ROOT / "models" / f"{name}.onnx", ratio=ratio, criterion=criterion, eval_data=data, latency=False
            )
        except onnxprune.OnnxpruneError:
            return "-"
        return f"{100 * result.report['accuracy']['after']:.1f} ({costs(result.report)[1]})"

    def rows() -> Iterator[Sequence[object]]:
        for name in MODELS:
            for criterion in (name for name, criterion in CRITERIA.items() if not criterion.data):
                cells = [cell(name, criterion, ratio) for ratio in ratios]
                if set(cells) != {"-"}:
                    yield (name, criterion, *cells)

    table(("model", "criterion", *(f"ratio {ratio}: % (MACs x)" for ratio in ratios)), rows())


def torchvision(folder: Path) -> None:
    """Prune every file of a folder at 0.3."""
    import onnxprune

    def rows() -> Iterator[Sequence[object]]:
        for path in sorted(folder.glob("*.onnx")):
            locked = onnxprune.inspect(path)
            start = time.perf_counter()
            report = onnxprune.prune(path, ratio=0.3, latency=False).report
            seconds = time.perf_counter() - start
            share = f"{100 * locked.locked_params / locked.model.params:.1f}"
            worst = f"{report['verification']['max_rel_diff']:.1e}"
            before = f"{report['input']['params'] / 1e6:.1f} M"
            yield (path.stem, before, *costs(report), share, worst, f"{seconds:.1f}")

    headings = ("export", "parameters", "parameters x", "MACs x", "locked %", "worst relative difference", "seconds")
    table(headings, rows())


def speed(path: Path) -> None:
    """Time a model against its pruned versions, one thread."""
    import onnxprune

    def rows() -> Iterator[Sequence[object]]:
        for ratio in (0.3, 0.5):
            result = onnxprune.prune(path, ratio=ratio, round_to=16, latency=False)
            found = onnxprune.compare(path, result.model, threads=1, budget_s=30, memory=False)
            low, high = found.speedup_interval
            fewer = result.report["input"]["macs"] / result.report["output"]["macs"]
            times = f"{found.before.median_ms:.1f}", f"{found.after.median_ms:.1f}"
            yield (ratio, f"{fewer:.2f}", *times, f"{found.speedup:.2f} ({low:.2f} to {high:.2f})", found.runs)

    table(("ratio", "fewer MACs", "before ms", "after ms", "speed-up (95 %)", "runs"), rows())


def surgery(path: Path) -> None:
    """Time trace + score + rewrite in fresh processes, and show their peak memory."""
    runs = [json.loads(_fresh("surgery-once", path)) for _ in range(REPEATS)]
    size = path.stat().st_size
    cells = [f"{statistics.median(run[step] for run in runs):.2f}" for step in STEPS]
    middle = statistics.median(run["trace"] + run["score"] + run["rewrite"] for run in runs)
    peak = statistics.median(run["peak_bytes"] for run in runs)
    headings = (*(f"{step} s" for step in STEPS), "trace + score + rewrite s", "peak memory", "over the file")
    table(headings, iter([(*cells, f"{middle:.2f}", f"{peak / 1e6:.0f} MB", f"{peak / size:.2f}x")]))


def surgery_once(path: Path) -> None:
    """Prune without verification and print seconds per step and the peak memory of this process as JSON."""
    import tempfile

    from onnxprune import pipeline
    from onnxprune.groups import groups
    from onnxprune.model import load, write
    from onnxprune.rewrite import rewrite
    from onnxprune.runtime import peak_resident_bytes
    from onnxprune.trace import trace

    marks = [time.perf_counter()]
    model = load(path)
    marks.append(time.perf_counter())
    traced = trace(model)
    found = groups(traced)
    marks.append(time.perf_counter())
    options = pipeline.make_options(ratio=0.3)
    kept = pipeline.plan(traced, found, pipeline.choose(found, options), options).kept
    marks.append(time.perf_counter())
    rewritten = rewrite(traced, pipeline.kept_masks(found, kept))
    marks.append(time.perf_counter())
    with tempfile.TemporaryDirectory() as folder:
        write(rewritten.proto, Path(folder) / "out.onnx", model.folder)
    marks.append(time.perf_counter())
    seconds = [later - earlier for earlier, later in itertools.pairwise(marks)]
    peak = peak_resident_bytes()
    print(json.dumps({**dict(zip(STEPS, seconds, strict=True)), "peak_bytes": peak}))


def peer(path: Path) -> None:
    """Time Torch-Pruning on torchvision's ResNet-50 beside our own step, interleaved, in fresh processes."""
    ours, theirs = [], []
    for _ in range(REPEATS):
        run = json.loads(_fresh("surgery-once", path))
        ours.append(run["trace"] + run["score"] + run["rewrite"])
        theirs.append(json.loads(_fresh("peer-once", path))["seconds"])
    rows = [("onnxprune", ours), ("Torch-Pruning", theirs)]
    cells = ((name, f"{statistics.median(s):.2f}", f"{min(s):.2f}", f"{max(s):.2f}") for name, s in rows)
    table(("tool", "median s", "min", "max"), cells)


def peer_once(path: Path) -> None:
    """Prune torchvision's ResNet-50 by 30 % with Torch-Pruning and print the seconds as JSON."""
    import torch
    import torch_pruning
    from export_torchvision import load_constructors

    torch.set_num_threads(1)
    network = load_constructors().resnet50(weights=None).eval()
    example = torch.randn(1, 3, 224, 224)
    start = time.perf_counter()
    pruner = torch_pruning.pruner.MagnitudePruner(
        network,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.3,
        ignored_layers=[network.fc],
    )
    pruner.step()
    print(json.dumps({"seconds": time.perf_counter() - start}))


def own(folder: Path) -> None:
    """Time every step of pruning large networks beside onnx.load and onnx.save; resumed from DIR/own_speed.jsonl."""
    import own_speed

    own_speed.measure(folder, folder / "own_speed.jsonl", None, None)
    print("\n".join(own_speed.page(folder, own_speed.read(folder / "own_speed.jsonl"))))


PAGE = (
    (
        "The surgery is right",
        "Bundled models, default options. The oracle compares the pruned model with the masked one on two settings of "
        "the dynamic dims; differences are relative to the largest output.",
        lambda folder: models(),
    ),
    (
        "torchvision classifiers",
        "Random weights, both exporters of PyTorch, `--ratio 0.3`. *locked* is the share of the parameters that no "
        "prunable group can shrink; seconds are load to verification.",
        torchvision,
    ),
    (
        "ResNet-50, time and memory of the surgery",
        f"Median of {REPEATS} fresh processes, one at a time; the peak includes Python and its packages.",
        lambda folder: surgery(folder / "resnet50.dynamo.onnx"),
    ),
    (
        "ResNet-50, beside Torch-Pruning",
        f"Trace, score and rewrite against building the dependency graph and one step of Torch-Pruning's magnitude "
        f"pruner, both at 0.3, one thread; {REPEATS} fresh processes each, in turn.",
        lambda folder: peer(folder / "resnet50.dynamo.onnx"),
    ),
    (
        "ResNet-50, latency",
        "`--round-to 16`, ONNX Runtime on CPU, one thread, batch 1, runs interleaved.",
        lambda folder: speed(folder / "resnet50.dynamo.onnx"),
    ),
    (
        "Accuracy without training or calibration",
        "Accuracy in % on the 2,000 held-out digits, in brackets the MACs that are left. This is magnitude alone: the "
        "baseline that calibration has to beat: [accuracy.md](accuracy.md) has what it gives. Unpruned: 99.1 for the "
        "ResNets and the CNN, 98.95 for the others.",
        lambda folder: accuracy(),
    ),
)


def page(folder: Path) -> None:
    """Print docs/results.md."""
    from onnxprune.runtime import machine

    here = machine()
    print("# Measured\n")
    print(f"Written by `tools/bench.py page` on {here['cpu']}, ONNX Runtime {here['onnxruntime']}.")
    for title, text, write in PAGE:
        print(f"\n## {title}\n\n{text}\n", flush=True)
        write(folder)


def _fresh(command: str, path: Path) -> str:
    process = subprocess.run([sys.executable, __file__, command, str(path)], check=True, capture_output=True, text=True)
    return process.stdout.strip().splitlines()[-1]


COMMANDS = {
    "models": models,
    "accuracy": accuracy,
    "torchvision": torchvision,
    "speed": speed,
    "surgery": surgery,
    "surgery-once": surgery_once,
    "peer": peer,
    "peer-once": peer_once,
    "own": own,
    "page": page,
}


def main() -> None:
    """Run one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("path", type=Path, nargs="?")
    arguments = parser.parse_args()
    given = [arguments.path] if arguments.path else []
    COMMANDS[arguments.command](*given)


if __name__ == "__main__":
    main()
