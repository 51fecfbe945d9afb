"""The figures of the documentation, measured.

    python tools/measure/bench.py models             oracle, parameters and MACs of models/ at 0.3 and 0.5
    python tools/measure/bench.py accuracy           accuracy of models/ by criterion and ratio, no training
    python tools/measure/bench.py torchvision DIR    every *.onnx of DIR at 0.3: oracle, cost, locked share, seconds
    python tools/measure/bench.py page DIR > docs/measured/results.md    all of it
    python tools/measure/bench.py own DIR            what pruning itself takes: own_speed.py beside it has more options

DIR is what tools/models/export_torchvision.py writes; for `own`, tools/models/export_large.py. Prints Markdown tables.
Latency is measured by latency.py beside it, accuracy with samples by accuracy.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

MODELS = ("resnet_bn", "resnet_folded", "cnn", "vit", "mobilenet")


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
    from onnxprune.criteria.importance import CRITERIA

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
            report = onnxprune.prune(path, ratio=0.3, criterion="l2", latency=False).report
            seconds = time.perf_counter() - start
            share = f"{100 * locked.locked_params / locked.model.params:.1f}"
            worst = f"{report['verification']['max_rel_diff']:.1e}"
            before = f"{report['input']['params'] / 1e6:.1f} M"
            yield (path.stem, before, *costs(report), share, worst, f"{seconds:.1f}")

    headings = ("export", "parameters", "parameters x", "MACs x", "locked %", "worst relative difference", "seconds")
    table(headings, rows())


def own(folder: Path) -> None:
    """Time every step of pruning large networks beside onnx.load and onnx.save; resumed from DIR/own_speed.jsonl."""
    from tools.measure import own_speed
    from tools.pages import own_speed_page

    own_speed.measure(folder, folder / "own_speed.jsonl", None, None)
    print("\n".join(own_speed_page.page(folder, own_speed.read(folder / "own_speed.jsonl"))))


PAGE = (
    (
        "The surgery is right",
        "Bundled models, default options. The oracle compares the pruned model with the masked one on two settings of "
        "the dynamic dims; differences are relative to the largest output.",
        lambda folder: models(),
    ),
    (
        "torchvision classifiers",
        "Random weights, both exporters of PyTorch, `--ratio 0.3 --criterion l2`. *locked* is the share of the "
        "parameters that no prunable group can shrink; seconds are load to verification.",
        torchvision,
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
    """Print docs/measured/results.md."""
    from onnxprune.runtime.machine import machine

    here = machine()
    print("# Measured\n")
    print(f"Written by `tools/measure/bench.py page` on {here['cpu']}, ONNX Runtime {here['onnxruntime']}.")
    for title, text, write in PAGE:
        print(f"\n## {title}\n\n{text}\n", flush=True)
        write(folder)


COMMANDS = {
    "models": models,
    "accuracy": accuracy,
    "torchvision": torchvision,
    "own": own,
    "page": page,
}


def main() -> None:
    """Run one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("path", type=Path, nargs="?")
    arguments = parser.parse_args()
    takes_folder = arguments.command not in ("models", "accuracy")
    if takes_folder != (arguments.path is not None):
        parser.error(f"{arguments.command} takes {'a folder' if takes_folder else 'no folder'}")
    COMMANDS[arguments.command](*([arguments.path] if takes_folder else []))


if __name__ == "__main__":
    main()
