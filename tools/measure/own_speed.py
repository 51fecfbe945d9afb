"""Seconds and peak memory of pruning itself, beside the least that any tool needs and beside other pruners.

    python tools/measure/own_speed.py DIR [--rows ROWS.jsonl] [--only MODEL] [--peers PYTHON]

DIR is what tools/models/export_large.py writes. Each figure comes from a fresh process; rounds are interleaved. Rows
are kept in ROWS.jsonl, and what is in there is not measured again: an interrupted run goes on. PYTHON is an interpreter
that has torch, torchvision, torch_pruning and onnxsim; without it there are no peers. tools/pages/own_speed_page.py
writes docs/measured/own_speed.md of the rows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

TITLES = {
    "resnet50": "ResNet-50",
    "vit_b_16": "ViT-B/16",
    "bert_base": "BERT-base",
    "decoder_1b": "decoder, 1.1e9, fp16",
}
STEPS = ("load", "trace", "score", "allocate", "rewrite", "save")
ROUNDS = {"resnet50": 5, "vit_b_16": 5, "bert_base": 5, "decoder_1b": 3}
TIMEOUT_S = 420
RATIO = 0.3


# -- what a fresh process does -----------------------------------------------------------------------------


def floor(path: Path, folder: Path) -> dict[str, float]:
    """Read and write the model as onnx does."""
    import onnx

    marks = [time.perf_counter()]
    model = onnx.load(path)
    marks.append(time.perf_counter())
    data = f"{path.name}.data"
    onnx.save(model, folder / path.name, save_as_external_data=(path.parent / data).exists(), location=data)
    marks.append(time.perf_counter())
    return {"load": marks[1] - marks[0], "save": marks[2] - marks[1]}


def own(path: Path, folder: Path) -> dict[str, float]:
    """Prune by weights alone and write the model, step by step."""
    return _steps(path, folder)[0]


def verify(path: Path, folder: Path) -> dict[str, float]:
    """Do the same and verify what was written; only the last step is told."""
    from onnxprune.evaluation import verify

    _, traced, masks = _steps(path, folder)
    start = time.perf_counter()
    verdict = verify.verify(traced, masks, verify.read_back(folder / path.name))
    assert verdict.passed, verdict.problem
    return {"verify": time.perf_counter() - start}


def _steps(path: Path, folder: Path) -> tuple[dict[str, float], Any, Any]:
    """Return seconds by step, the trace and the kept units."""
    from onnxprune.dependency.groups import groups
    from onnxprune.dependency.trace import trace
    from onnxprune.graph.files.read import load
    from onnxprune.graph.files.write import write
    from onnxprune.planning.choice import select_ratios
    from onnxprune.planning.options import make_options
    from onnxprune.planning.plan import gather, kept_masks, plan
    from onnxprune.surgery.rewrite import rewrite

    options = make_options(ratio=RATIO, criterion="l2", reconstruct=False)
    marks = [time.perf_counter()]
    model = load(path)
    marks.append(time.perf_counter())
    traced = trace(model)
    all_groups = groups(traced)
    marks.append(time.perf_counter())
    ratios = select_ratios(all_groups, options)
    evidence = gather(traced, all_groups, ratios, options)
    marks.append(time.perf_counter())
    masks = kept_masks(all_groups, plan(traced, all_groups, ratios, options, evidence=evidence).kept)
    marks.append(time.perf_counter())
    rewritten = rewrite(traced, masks)
    marks.append(time.perf_counter())
    write(rewritten.proto, folder / path.name, model.folder)
    marks.append(time.perf_counter())
    seconds = (after - before for before, after in itertools.pairwise(marks))
    return dict(zip(STEPS, seconds, strict=True)), traced, masks


def onnxsim(path: Path, folder: Path) -> dict[str, float]:
    """Prune by onnxsim: its structured pruning removes channels and neurons of chains that it knows."""
    import onnx
    import onnxsim

    start = time.perf_counter()
    before = onnx.load(path)
    after = onnxsim.apply_structured_pruning_cpp(before, sparsity=RATIO)
    data = f"{path.name}.data"
    onnx.save(after, folder / path.name, save_as_external_data=(path.parent / data).exists(), location=data)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": sum(file.stat().st_size for file in folder.iterdir())}


def torch_pruning(path: Path, folder: Path) -> dict[str, float]:
    """Prune the network of torchvision by Torch-Pruning and save its weights: dependency graph, one step, save."""
    import torch
    import torch_pruning

    from tools.models.export_torchvision import load_constructors

    network = getattr(load_constructors(), path.stem)(weights=None).eval()
    attention = [m for m in network.modules() if isinstance(m, torch.nn.MultiheadAttention)]
    last = network.fc if path.stem == "resnet50" else network.heads
    start = time.perf_counter()
    pruner = torch_pruning.pruner.MagnitudePruner(
        network,
        torch.randn(1, 3, 224, 224),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=[last],
        num_heads={m: m.num_heads for m in attention},
    )
    pruner.step()
    torch.save(network, folder / "pruned.pt")
    return {"seconds": time.perf_counter() - start, "bytes": (folder / "pruned.pt").stat().st_size}


KINDS: dict[str, Callable[[Path, Path], dict[str, float]]] = {
    "floor": floor, "own": own, "verify": verify, "onnxsim": onnxsim, "torch_pruning": torch_pruning
}  # fmt: skip


def once(kind: str, path: Path, folder: Path) -> None:
    """Print what one kind of run takes, as JSON."""
    took = KINDS[kind](path, folder)
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(json.dumps({**took, "peak_bytes": 1024 * peak}))


# -- the rounds --------------------------------------------------------------------------------------------


def wanted(name: str, has_peers: bool) -> Iterator[tuple[str, int]]:
    """Yield the runs of one model, interleaved: kind and round."""
    for number in range(ROUNDS[name]):
        yield "floor", number
        yield "own", number
    yield "verify", 0
    for number in range(3 if has_peers and name != "decoder_1b" else has_peers):
        yield "onnxsim", number
        if name in ("resnet50", "vit_b_16"):
            yield "torch_pruning", number


def measured(kind: str, path: Path, python: str) -> dict[str, Any]:
    """Return what a fresh process says, or the last line of its complaint."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # made here, so that it goes when a run is stopped
        command = [python, __file__, "--once", kind, str(path), folder]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {TIMEOUT_S} s"}
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        return {"failed": last.replace("|", "/")[:160]}
    record: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return record


def measure(folder: Path, rows: Path, only: str | None, peers: str | None) -> None:
    """Make the rows that are not there yet."""
    done = {(row["model"], row["kind"], row["round"]) for row in read(rows)}
    for name in (only,) if only else TITLES:
        for kind, number in wanted(name, peers is not None):
            if (name, kind, number) in done:
                continue
            is_peer = kind in ("onnxsim", "torch_pruning")
            record = measured(kind, folder / f"{name}.onnx", peers if is_peer and peers else sys.executable)
            row = {"model": name, "kind": kind, "round": number, **record}
            print(json.dumps(row), file=sys.stderr, flush=True)
            with rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def read(rows: Path) -> list[dict[str, Any]]:
    """Return the rows of a file; none where there is none."""
    return [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()] if rows.exists() else []


def main() -> None:
    """Measure what is missing."""
    assert __doc__ is not None
    if sys.argv[1:2] == ["--once"]:
        once(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--rows", type=Path, default=Path("own_speed.jsonl"))
    parser.add_argument("--only", choices=TITLES)
    parser.add_argument("--peers", metavar="PYTHON")
    arguments = parser.parse_args()
    measure(arguments.folder, arguments.rows, arguments.only, arguments.peers)


if __name__ == "__main__":
    main()
