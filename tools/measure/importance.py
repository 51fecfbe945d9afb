"""Measure what criteria from gradients keep, and loss curves from gradients beside measured ones.

    python tools/measure/importance.py criteria [DIR]   l2, taylor, taylor-weights, fisher, obs; with and without refit
    python tools/measure/importance.py curves [DIR]     --curves gradient and measured: seconds and what is kept
    python tools/measure/importance.py page             docs/measured/importance.md, from what was measured

DIR holds what tools/models/real_models.py makes; without it the bundled networks alone are measured. Each measurement
is one call of `onnxprune.prune` in a fresh process with one thread of PyTorch. Results are lines of JSON in
``importance.jsonl`` of the folder ``--results``; what stands there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.git import package_commit  # noqa: E402
from tools.pages.markdown import table  # noqa: E402

PAGE = ROOT / "docs" / "measured" / "importance.md"
BUNDLED = ("cnn", "mobilenet", "resnet_folded", "resnet_bn", "vit")
CRITERIA = ("l2", "taylor", "taylor-weights", "fisher", "obs")
MACS = (0.7, 0.5)
REAL = {  # network, samples to calibrate on, samples to compare on
    "efficientnet_lite1": ("efficientnet_lite1.onnx", "photos_calibration.npz", "photos_eval_centre.npz"),
    "minilm": ("minilm.onnx", "text_calibration.npz", "text_eval.npz"),
    "smollm2": ("decoder.onnx", "decoder_calibration.npz", "decoder_eval.npz"),
}
TIMED = {"densenet121": "densenet121.torchscript.onnx"}  # whose samples are made up: time alone


def runs(command: str, folder: Path | None) -> Iterator[dict[str, Any]]:
    """Yield what is to be measured."""
    names = [*BUNDLED, *(name for name, files in REAL.items() if folder and (folder / files[0]).exists())]
    for name in names:
        for macs in MACS:
            if command == "criteria":
                for criterion in CRITERIA:
                    for reconstruct in (False, True):
                        scope = {"obs": "loss"}.get(criterion, "global" if criterion != "l2" else "group")
                        yield {"network": name, "macs": macs, "criterion": criterion, "scope": scope,
                               "reconstruct": reconstruct}  # fmt: skip
            else:
                for effort in ("normal", "thorough"):
                    yield {"network": name, "macs": macs, "criterion": "obs", "curves": "measured", "effort": effort}
                yield {"network": name, "macs": macs, "criterion": "obs", "curves": "gradient"}
    for name, file in TIMED.items() if command == "curves" and folder else ():
        if (folder / file).exists():
            for curves in ("measured", "gradient"):
                yield {"network": name, "macs": 0.5, "criterion": "obs", "curves": curves, "effort": "thorough"}


def once(run: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Measure one run, in this process; seconds are of the processor, so that a busy machine changes little."""
    import torch

    import onnxprune

    torch.set_num_threads(1)
    options = {key: value for key, value in run.items() if key not in ("network", "macs")}
    name = run["network"]
    if name in BUNDLED:
        source = ROOT / "models" / f"{name}.onnx"
        data, evaluation = (ROOT / "models" / file for file in ("mnist_calibration.npz", "mnist_test.npz"))
    elif name in TIMED:
        source, data, evaluation = Path(folder or ".") / TIMED[name], None, None
    else:
        source, data, evaluation = (Path(folder or ".") / file for file in REAL[name])
    start, real = time.process_time(), time.perf_counter()
    result = onnxprune.prune(
        source, targets={"macs": run["macs"]}, data=data, eval_data=evaluation, latency=False, **options
    )
    report = result.report
    seconds = {"seconds": time.process_time() - start, "wall_seconds": time.perf_counter() - real}
    fidelity = report["fidelity"]
    kept = {} if fidelity is None else {"figures": fidelity["figures"]}
    return {**seconds, **kept, "effort": report["effort"], "gradients": report["gradients"],
            "groups": len(report["curves"]) or None}  # fmt: skip


def measure(command: str, folder: Path | None, results: Path, subject: str | None) -> None:
    """Measure what is missing, one after the other, and append it."""
    known = {json.dumps(record["run"], sort_keys=True) for record in read(results)}
    for run in runs(command, folder):
        if json.dumps(run, sort_keys=True) in known or (subject and run["network"] != subject):
            continue
        arguments = [sys.executable, __file__, "once", json.dumps(run), *([str(folder)] if folder else [])]
        process = subprocess.run(arguments, capture_output=True, text=True, check=False)
        lines = process.stdout.strip().splitlines()
        outcome = json.loads(lines[-1]) if not process.returncode else {"error": process.stderr.strip()[-300:]}
        record = {"run": run, "commit": package_commit(), **outcome}
        results.mkdir(parents=True, exist_ok=True)
        with (results / "importance.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(run, {key: record.get(key) for key in ("seconds", "figures", "error") if key in record}, flush=True)


def read(results: Path) -> list[dict[str, Any]]:
    """Return what was measured."""
    path = results / "importance.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def page(results: Path) -> str:
    """Return the page."""
    records = [record for record in read(results) if "error" not in record]
    commits = ", ".join(dict.fromkeys(f"`{record['commit']}`" for record in records))
    cells: dict[tuple[Any, ...], dict[bool, str]] = {}
    for record in records:
        run = record["run"]
        if "reconstruct" in run:
            key = f"`{run['network']}`", run["macs"], f"`{run['criterion']}`"
            cells.setdefault(key, {})[run["reconstruct"]] = _kept(record)
    criteria = [(*key, each.get(False, ""), each.get(True, "")) for key, each in cells.items()]
    curves = [_curves(record) for record in records if "curves" in record["run"]]
    return "\n".join(
        [
            "# Importance, measured",
            "",
            f"By tools/measure/importance.py, on commit {commits}. Samples of calibration and evaluation are disjoint; "
            "nothing is trained; seconds are those of the processor. Words: [importance.md](../importance.md).",
            "",
            "## Criteria",
            "",
            "`l2` ranks the units of each group, the criteria from gradients those of all groups, `obs` shares out by "
            "loss curves: their defaults. *Cut alone* is without refits. 2,000 images of digits tell differences from "
            "about 0.003 of accuracy on.",
            "",
            *table(["network", "MACs", "criterion", "cut alone", "refitted"], criteria),
            "",
            "## Loss curves",
            "",
            "The same plans and refits from loss curves that are measured, with the usual and with all levels, and "
            "from curves that gradients tell. DenseNet-121 has random weights: its seconds alone mean something.",
            "",
            *table(["network", "MACs", "groups", "curves", "losses measured", "seconds", "kept"], curves),
            "",
        ]
    )


def _curves(record: Mapping[str, Any]) -> tuple[Any, ...]:
    run, effort = record["run"], record["effort"]
    how = run["curves"] + (f", {run['effort']}" if "effort" in run else "")
    losses = f"{effort['measured']} of {effort['losses']}"
    name = f"`{run['network']}`"
    return name, run["macs"], record["groups"], how, losses, f"{record['seconds']:.0f}", _kept(record)


def _kept(record: dict[str, Any]) -> str:
    figures = record.get("figures") or {}
    names = ("accuracy_after", "agreement", "cosine", "perplexity_after", "kl")
    known = [f"{name.removesuffix('_after')} {figures[name]:.4g}" for name in names if figures.get(name) is not None]
    return ", ".join(known[:2])


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("criteria", "curves", "page", "once"))
    parser.add_argument("operands", nargs="*", metavar="DIR")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "importance", metavar="FOLDER")
    parser.add_argument("--subject", help="measure this network alone")
    arguments = parser.parse_args()
    operands = arguments.operands
    if arguments.command == "once":
        print(json.dumps(once(json.loads(operands[0]), Path(operands[1]) if len(operands) > 1 else None)))
    elif arguments.command == "page":
        PAGE.write_text(page(arguments.results), encoding="utf-8")
    else:
        folder = Path(operands[0]) if operands else None
        measure(arguments.command, folder, arguments.results, arguments.subject)


if __name__ == "__main__":
    main()
