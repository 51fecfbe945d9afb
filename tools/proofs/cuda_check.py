"""One check of everything that touches a GPU, in at most eight minutes: prune, proof, latency target, outputs, int8.

    python tools/proofs/cuda_check.py DIR [--provider cuda] [--seconds 480] [--out build/cuda]
    python tools/proofs/cuda_check.py page [--out build/cuda]

DIR holds resnet50*.onnx, vit_b_16*.onnx and minilm*.onnx (tools/models/export_torchvision.py and real_models.py make
them); what is missing is left out, and without DIR the bundled networks are taken. Each is checked in single and in
half precision: pruned by `--ratio 0.3`, proven, timed beside the original on the provider; pruned to 0.7 of the latency
as measured there; and what the pruned file gives on the provider is held against what it gives on the CPU. In single
precision it is also pruned and quantized. Where the provider cannot run eight bits, or ONNX Runtime itself ends on the
original, the row says so. Where the provider is not there, the CPU takes its place, so that the script is known to
work, and the rows say so. Each row is made by a process of its own, which is ended when the time is over. Rows are
lines of JSON in ``cuda.jsonl``; what was measured on the same provider and commit is not measured again, unless it
failed. `page` writes docs/measured/cuda.md.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxprune.runtime.session import PROVIDERS  # noqa: E402
from tools.git import differs, package_commit  # noqa: E402
from tools.pages.markdown import table  # noqa: E402

PAGE = ROOT / "docs" / "measured" / "cuda.md"
PATTERNS = ("resnet50*.onnx", "vit_b_16*.onnx", "minilm*.onnx")
BUNDLED = ("resnet_bn.onnx", "vit.onnx")
RATIO, TARGET = 0.3, 0.7
WHAT: Mapping[str, Mapping[str, Any]] = {
    "ratio": {"ratio": RATIO},
    "latency": {"targets": {"latency": TARGET}},
    "int8": {"ratio": RATIO, "quantize": "int8-static"},
}
LEAST = 20.0  # seconds that must be left for a row to begin
ALLOWED = {"float32": 2e-2, "float16": 5e-2}  # of the output's range, between both places: TF32 has ten bits


def models(folder: Path | None) -> list[Path]:
    """Return the models to check."""
    if folder is None:
        return [ROOT / "models" / name for name in BUNDLED]
    return [path for pattern in PATTERNS for path in sorted(folder.glob(pattern))[:1]]


def halved(path: Path, out: Path) -> Path:
    """Write a model with weights and values in half precision, and inputs and outputs as they were; return its path."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    target = out / f"{path.stem}.float16.onnx"
    if not target.exists():
        onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), target)
    return target


def place(wanted: str) -> str:
    """Return the provider to check on: the one that is wanted, or the CPU where it is not there."""
    from onnxprune.errors import OptionError
    from onnxprune.runtime.session import check_provider

    try:
        check_provider(wanted)
    except OptionError as error:
        print(f"{error}; the CPU takes its place", file=sys.stderr)
        return "cpu"
    return wanted


def apart(path: Path, provider: str) -> float:
    """Return how far outputs on a provider lie from those on the CPU: at most, over the range of the output."""
    from onnxprune.commands.steps.prepare import part_to_run
    from onnxprune.graph.files.read import load
    from onnxprune.runtime.random_feeds import random_feeds
    from onnxprune.runtime.session import open_session

    model = part_to_run(load(path), {})
    feeds = random_feeds(model.inputs, model.fits[0].dims, 0)
    here, there = (open_session(path, provider=name).run(feeds) for name in ("cpu", provider))
    pairs = [(here[name].astype(np.float64), there[name].astype(np.float64)) for name in here]
    return max(float(np.abs(one - other).max() / max(1e-12, np.ptp(one))) for one, other in pairs)


def pruned(path: Path, target: Path, provider: str, **options: Any) -> dict[str, Any]:
    """Prune a model, write it, and return what the report says, with seconds and how far both places are apart."""
    import onnxprune

    start = time.perf_counter()
    result = onnxprune.prune(path, effort="quick", provider=provider, profile_seconds=20, **options)
    result.save(target, force=True)
    report = result.report
    (latency,) = report["latency"]
    return {
        "macs": report["output"]["macs"] / report["input"]["macs"],
        "proof": report["verification"]["max_rel_diff"],
        "before_ms": latency["before_ms"],
        "after_ms": latency["after_ms"],
        "speedup": latency["speedup"],
        "apart": apart(target, provider),
        "seconds": round(time.perf_counter() - start, 1),
    }


def rows(found: Sequence[Path], out: Path, provider: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield what is checked, in the order in which it matters, as long as there is time."""
    end, commit = time.monotonic() + seconds, package_commit() + "+" * differs("onnxprune")
    told = {named(row) for row in known(out) if "failed" not in row}
    for what, kind, path in order(found):
        if (path.stem, kind, what, provider, commit) in told:
            continue
        left = end - time.monotonic()
        made = None if left < LEAST else in_time(path, kind, what, provider, out, left)
        if made is None:
            print(f"{path.stem} {kind} {what}: left out, there is no time for it", file=sys.stderr)
            continue
        yield {"model": path.stem, "kind": kind, "what": what, "provider": provider, **made, "commit": commit}


def order(found: Sequence[Path]) -> list[tuple[str, str, Path]]:
    """Return what is checked, in which precision, of which model: each of them once before anything is asked twice."""
    kinds = {what: ("float32",) if what == "int8" else tuple(ALLOWED) for what in WHAT}
    return [(what, kind, path) for what in WHAT for kind in kinds[what] for path in found]


def in_time(path: Path, kind: str, what: str, provider: str, out: Path, seconds: float) -> dict[str, Any] | None:  # noqa: PLR0917
    """Return what a process of its own measures; None where it does not end in time."""
    command = [sys.executable, __file__, "row", "--out", out, "--provider", provider, "--of", path, kind, what]
    try:
        result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return None
    if result.returncode < 0 and not opens(path if kind == "float32" else halved(path, out), provider):
        return {"why_not": f"ONNX Runtime {onnxruntime.__version__} opens not even the original, {why(result)}"}
    if result.returncode:
        return {"failed": why(result)}
    return dict(json.loads(result.stdout.splitlines()[-1]))


def opens(path: Path, provider: str) -> bool:
    """Whether ONNX Runtime alone, in a process of its own, opens a model; some files end the process."""
    command = "import onnxruntime, sys; onnxruntime.InferenceSession(sys.argv[1], providers=[sys.argv[2]])"
    name, _ = PROVIDERS[provider]
    return not subprocess.run([sys.executable, "-c", command, path, name], capture_output=True, check=False).returncode


def why(result: subprocess.CompletedProcess[str]) -> str:
    """Return why a process failed: its last line, or the signal that ended it, as a system without memory does."""
    if result.returncode < 0:
        return f"ended by {signal.Signals(-result.returncode).name}"
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {result.returncode}"


def row(path: Path, kind: str, what: str, provider: str, out: Path) -> dict[str, Any]:
    """Return one row, measured here; where eight bits cannot be had, why."""
    from onnxprune.errors import InputError

    source = path if kind == "float32" else halved(path, out)
    try:
        return pruned(source, out / f"{path.stem}.{kind}.{what}.onnx", provider, **WHAT[what])
    except InputError as error:
        if what != "int8":
            raise
        return {"why_not": str(error)}


def known(out: Path) -> list[dict[str, Any]]:
    """Return the rows that are there, of each check the last."""
    path = out / "cuda.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return list({named(row): row for row in map(json.loads, lines)}.values())


def named(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells a row from others."""
    return tuple(row.get(name) for name in ("model", "kind", "what", "provider", "commit"))


def failures(row: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a row."""
    if "failed" in row:
        return [row["failed"]]
    wrong: list[str] = []
    if "why_not" in row:
        return wrong
    if row["apart"] > ALLOWED[row["kind"]]:
        wrong.append(f"outputs differ from those of the CPU by {row['apart']:.2g} of their range")
    if row["what"] == "latency" and 1 / row["speedup"] > 1.05 * TARGET:
        wrong.append(f"asked for {TARGET} of the latency, measured {1 / row['speedup']:.3f}")
    return wrong


def page(measured: Sequence[Mapping[str, Any]], note: str = "") -> str:
    """Return the page; a note says what else is to be known of the rows."""
    commits = ", ".join(dict.fromkeys(f"`{row['commit']}`" for row in measured))
    where = " and ".join(dict.fromkeys(row["provider"] for row in measured))
    asked = {"ratio": f"{RATIO} of the units", "latency": f"{TARGET} of the latency", "int8": f"{RATIO}, eight bits"}
    done = [row for row in measured if "macs" in row]
    cells = [
        [
            f"`{row['model']}`",
            row["kind"],
            asked[row["what"]],
            f"{row['macs']:.3f}",
            f"{row['proof']:.1e}",
            f"{row['before_ms']:.2f} -> {row['after_ms']:.2f}",
            f"{row['speedup']:.2f}",
            "-" if row["provider"] == "cpu" else f"{row['apart']:.1e}",  # the CPU is not held against itself
            f"{row['seconds']:.0f}",
        ]
        for row in done
    ]
    absent = (
        "" if "cuda" in where else " No GPU was there: the CPU took its place, so that the script is known to work."
    ) + f" {note}".rstrip()
    heads = ["model", "precision", "asked", "MACs", "proof", "ms", "speed-up", "from the CPU's outputs", "seconds"]
    said = (
        f"By tools/proofs/cuda_check.py, on commit {commits}, on {where}.{absent} Proof and the distance from the "
        "CPU's outputs are shares of the output's range; seconds are those of the whole row."
        f"{' A dash: the CPU has nothing to be held against.' * ('cpu' in where)}"
    )
    told = {(row["what"], row["kind"], row["model"]): row.get("why_not") or row.get("failed") for row in measured}
    names = [Path(name) for name in dict.fromkeys(f"{row['model']}.onnx" for row in measured)]
    checks = [(what, kind, path.stem) for what, kind, path in order(names)]
    rest = [
        f"`{name}`, {kind}, {asked[what]}: {told.get((what, kind, name), 'not measured, there was no time for it')}\n"
        for what, kind, name in checks
        if told.get((what, kind, name), "") is not None
    ]
    head = "# On a GPU" if "cuda" in where else "# The check for GPUs, with the CPU in the GPU's place"
    return "\n".join([head, "", said, "", *table(heads, cells), "", *rest])


def main() -> int:
    """Check, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", metavar="DIR|page")
    parser.add_argument("--of", nargs=3, metavar=("FILE", "KIND", "WHAT"), help=argparse.SUPPRESS)  # of one row
    parser.add_argument("--note", default="", help="a sentence for the page, such as what else was running")
    parser.add_argument("--provider", default="cuda")
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "cuda", metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.folder == "page":
        PAGE.write_text(page(known(arguments.out), arguments.note), encoding="utf-8")
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.folder == "row":
        print(json.dumps(row(Path(arguments.of[0]), *arguments.of[1:], arguments.provider, arguments.out)))
        return 0
    found = models(None if arguments.folder is None else Path(arguments.folder))
    failed = 0
    for each in rows(found, arguments.out, place(arguments.provider), arguments.seconds):
        with (arguments.out / "cuda.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(each) + "\n")
        wrong = failures(each)
        failed += bool(wrong)
        print(json.dumps(each), *(f"\n  WRONG: {text}" for text in wrong), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
