"""Measure what pruned networks still do, without training, on data that calibration did not see.

    python tools/measure/accuracy.py models           bundled networks: accuracy at bounds, beside magnitude
    python tools/measure/accuracy.py photos DIR       EfficientNet-Lite1: agreement with the original on unseen photos
    python tools/measure/accuracy.py sentences DIR    MiniLM: cosine to the original's embeddings
    python tools/measure/accuracy.py decoder DIR      SmolLM2: perplexity
    python tools/measure/accuracy.py ablation [DIR]   each ingredient off, one at a time; and without data
    python tools/measure/accuracy.py curves [DIR]     against the number of samples and the MACs that are left
    python tools/measure/accuracy.py cost [DIR]       seconds and memory, also against samples and the width of layers

DIR holds what tools/models/real_models.py makes. Each measurement is one call of `onnxprune.prune` in a fresh process,
so that seconds and peak memory are its own. Results are lines of JSON in ``measurements.jsonl`` of the folder
``--results``; what stands there for the same state of the package is not measured again, so that a run that was ended
goes on. tools/pages/accuracy_page.py writes docs/measured/accuracy.md of them.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.git import differs, package_commit  # noqa: E402
from tools.measure.accuracy_runs import (  # noqa: E402
    AUGMENTED,
    DIGITS,
    SECTIONS,
    SUBJECTS,
    WAYS,
    WITHOUT_DATA,
    Record,
    Run,
    missing,
    read,
    sample_count,
)

# -- one measurement ---------------------------------------------------------------------------------------


def measure(run: Run, folder: Path | None) -> Record:
    """Prune once and return what came of it; call it in a fresh process, for the peak memory is that of the process.

    Args:
        run: what is measured.
        folder: of what tools/models/real_models.py makes; None where the run needs none of it.
    """
    import onnxprune
    from onnxprune.runtime.memory import peak_resident_bytes

    with tempfile.TemporaryDirectory(prefix="accuracy-") as scratch:
        path, data, evaluation = sources(run, folder, Path(scratch))
        start = time.perf_counter()
        try:
            result = onnxprune.prune(
                path,
                targets={"macs": run.macs},
                data=None if run.way in WITHOUT_DATA else data,
                eval_data=evaluation[0],
                samples=None if run.way in WITHOUT_DATA else 0 if run.samples == AUGMENTED else sample_count(run),
                latency=False,
                **WAYS[run.way],
            )
        except onnxprune.OnnxpruneError as error:
            return {"error": str(error)}
        seconds, peak = time.perf_counter() - start, peak_resident_bytes()
        figures = {evaluation[0].name: result.report["fidelity"]["figures"]}
        for more in evaluation[1:]:
            compared = onnxprune.compare(
                path, result.model, data=more, budget_s=1e-3, memory=False, threads=0, batch=16
            )
            figures[more.name] = dict(compared.fidelity.figures)
    return {"seconds": seconds, "peak_bytes": peak, "figures": figures, **summary(result.report)}


def summary(report: Mapping[str, Any]) -> Record:
    """Return what is kept of a report beside figures."""
    before, after, fits = report["input"], report["output"], report["reconstruction"]
    return {
        "macs": after["macs"] / before["macs"],
        "params": after["params"] / before["params"],
        "calibration": report["calibration"],
        "layers": {
            "refitted": sum(fit["strength"] is not None for fit in fits),
            "left": sum(fit["strength"] is None and fit["why_not"] is None for fit in fits),
            "not fitted": sum(fit["why_not"] is not None for fit in fits),
        },
    }


def sources(run: Run, folder: Path | None, scratch: Path) -> tuple[Path, Path, tuple[Path, ...]]:
    """Return the network, data of calibration and of evaluation.

    Raises:
        SystemExit: when they lie in a folder that was not given.
    """
    if run.subject not in SUBJECTS:
        kind, _, width = run.subject.partition("-")
        return synthetic(kind, int(width), scratch)
    subject = SUBJECTS[run.subject]
    home = subject.folder or folder
    if home is None:
        raise SystemExit(f"{run.subject}: give the folder that tools/models/real_models.py has written")
    enough = next(name for name, count in subject.calibration if count >= sample_count(run))
    return home / subject.file, home / enough, tuple(home / name for name in subject.evaluation)


def synthetic(kind: str, width: int, folder: Path) -> tuple[Path, Path, tuple[Path, ...]]:
    """Write a network of two layers with `width` units between them, and data whose dims are correlated.

    Args:
        kind: "ffn", on 64 tokens of 256 dims; or "conv", 3x3, on 16 channels of 16x16.
        width: units between the layers.
        folder: where files are written.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    is_conv = kind == "conv"
    shape, dims = ((16, 16, 16), 16) if is_conv else ((64, 256), 256)
    sizes = [(width, dims, 3, 3), (dims, width, 3, 3)] if is_conv else [(dims, width), (width, dims)]
    weights = [rng.standard_normal(size) * (2 / np.prod(size[1:] if is_conv else size[:1])) ** 0.5 for size in sizes]
    op, fields = ("Conv", {"pads": [1, 1, 1, 1]}) if is_conv else ("MatMul", {})
    nodes = [
        helper.make_node(op, ["x", "first"], ["hidden"], "first", **fields),
        helper.make_node("Relu", ["hidden"], ["active"], "relu"),
        helper.make_node(op, ["active", "second"], ["y"], "second", **fields),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]) for name in ("x", "y")]
    named = zip(weights, ("first", "second"), strict=True)
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for array, name in named]
    graph = helper.make_graph(nodes, kind, ports[:1], ports[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "net.onnx")
    mixing = rng.standard_normal((dims, dims)) * np.exp(-np.arange(dims) / dims * 4)
    paths = [folder / "calibration.npz", folder / "evaluation.npz"]
    for path, count in zip(paths, (64, 8), strict=True):
        values = rng.standard_normal((count, *shape))
        mixed = np.einsum("ij,nj...->ni...", mixing, values) if is_conv else values @ mixing
        np.savez(path, x=mixed.astype(np.float32))
    return folder / "net.onnx", paths[0], (paths[1],)


# -- a run of many ----------------------------------------------------------------------------------------


@functools.cache
def package_state() -> str:
    """Return the last commit that changed the package, with a plus where files differ from it."""
    return package_commit() + "+" * differs("onnxprune")


def fresh(run: Run, folder: Path | None) -> Record:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, "once", json.dumps(asdict(run)), *([str(folder)] if folder else [])]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        last = (process.stderr.strip().splitlines() or [f"ended with {process.returncode}"])[-1]
        return {"error": last}
    return dict(json.loads(process.stdout.strip().splitlines()[-1]))


def measure_all(runs: Sequence[Run], folder: Path | None, results: Path, seconds: float) -> None:
    """Measure what is missing, one after the other, and append it; none is begun after so many seconds."""
    from onnxprune.runtime.machine import machine

    results.mkdir(parents=True, exist_ok=True)
    begun, here = time.monotonic(), machine()
    left = missing(runs, read(results), package_state())
    for number, run in enumerate(left, 1):
        if time.monotonic() - begun > seconds:
            print(f"out of time: {len(left) - number + 1} of {len(left)} runs are left")
            return
        record = {"run": asdict(run), "commit": package_state(), "machine": here, **fresh(run, folder)}
        with (results / "measurements.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
        shown = {name: record[name] for name in ("error", "macs", "seconds", "peak_bytes", "figures") if name in record}
        print(f"{number} of {len(left)}: {run}: {shown}", flush=True)


def main() -> None:
    """Measure a section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=(*SECTIONS, "once"))
    parser.add_argument("operands", nargs="*", metavar="DIR", help="what tools/models/real_models.py makes")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "accuracy", metavar="FOLDER")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no measurement after so many")
    parser.add_argument("--subject", help="measure this one alone, such as photos, sentences or vit")
    arguments = parser.parse_args()
    if arguments.command == "once":
        run, *folders = arguments.operands
        print(json.dumps(measure(Run(**json.loads(run)), Path(folders[0]) if folders else None)))
        return
    folder = Path(arguments.operands[0]) if arguments.operands else None
    subjects = tuple(SUBJECTS) if folder else DIGITS
    runs = [run for run in SECTIONS[arguments.command](subjects) if arguments.subject in (None, run.subject)]
    measure_all(runs, folder, arguments.results, 60 * arguments.minutes)


if __name__ == "__main__":
    main()
