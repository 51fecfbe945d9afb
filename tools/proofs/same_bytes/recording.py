"""Runs performed with the package of a checkout, and kept in a file."""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contents import digest, kept_text, packed
from inputs import Inputs
from masks import neutral, words_of
from runs import Run, Step, all_runs

LONGEST_S = 300  # of one step


@dataclass(frozen=True)
class Checkout:
    """The project at some commit."""

    path: Path
    commit: str
    source: str  # digest of the files of the package

    @staticmethod
    def at(path: Path) -> Checkout:
        """Return what lies in a folder."""
        path = path.resolve()
        if not (path / "onnxprune" / "__init__.py").is_file():
            raise SystemExit(f"{path}: no checkout of the project")
        command = ["git", "--no-optional-locks", "-C", str(path), "rev-parse", "HEAD"]
        revision = subprocess.run(command, capture_output=True, text=True, check=False)
        files = sorted((path / "onnxprune").rglob("*.py"))
        listed = [f"{file.relative_to(path)} {digest(file.read_bytes())}" for file in files]
        return Checkout(path, revision.stdout.strip() or "unknown", digest("\n".join(listed).encode()))


class Recorder:
    """Performs runs with the package of a checkout."""

    def __init__(self, checkout: Checkout, scratch: Path) -> None:
        self._checkout, self._scratch = checkout, scratch
        self.inputs = Inputs(checkout.path, scratch / "inputs")
        (scratch / "inputs").mkdir()

    def environment(self, folder: Path) -> dict[str, str]:
        """Return the environment of a run: nothing of the user's, one thread, a cache of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ONNXPRUNE"))}
        return kept | {
            "PYTHONPATH": str(self._checkout.path),
            "PYTHONHASHSEED": "0",
            "PYTHONPYCACHEPREFIX": str(self._scratch / "pycache"),  # the checkout stays as it is
            "ONNXPRUNE_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TMPDIR": str(folder / "tmp"),
            "COLUMNS": "100",
            "TERM": "dumb",
            "LC_ALL": "C.UTF-8",
        }

    def check(self) -> None:
        """Exit where another package than that of the checkout would be run."""
        code = "import onnxprune; print(onnxprune.__file__)"
        imported = subprocess.run(
            [sys.executable, "-c", code], cwd=self._scratch, env=self.environment(self._scratch), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        if not Path(imported.stdout.strip()).is_relative_to(self._checkout.path):
            raise SystemExit(
                f"{self._checkout.path}: its package cannot be imported: {imported.stdout}{imported.stderr}"
            )

    def perform(self, run: Run) -> dict[str, Any]:
        """Perform a run; return what is compared of it, and what is not: how long it took and what was unexpected."""
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="run-", dir=self._scratch) as name:
            around = Path(name).resolve()
            folder = around / "here"
            for each in (folder, around / "tmp"):
                each.mkdir()
            read: dict[str, str] = {}
            for wanted in run.inputs:
                read |= self.inputs.copy(wanted, folder)
            parts = {f"input {path}": {"sha256": checksum} for path, checksum in read.items()}
            folders = {
                str(folder): "(folder)", str(around): "(around)", str(self._checkout.path): "(checkout)",
                str(Path(sys.prefix)): "(python)",
            }  # fmt: skip
            surprises = []
            for number, step in enumerate(run.steps, 1):
                done = self._perform(step, folder)
                if done.returncode != step.exit_code:
                    last = (done.stderr.strip().splitlines() or [""])[-1]
                    surprises.append(f"step {number}: exit code {done.returncode}, not {step.exit_code}: {last}")
                parts[f"step {number}, exit code"] = kept_text(str(done.returncode))
                for stream, text in (("stdout", done.stdout), ("stderr", done.stderr)):
                    plain = re.sub(re.escape(str(around / "tmp")) + r"/[\w./-]+", "(scratch)", text)
                    parts[f"step {number}, {stream}"] = kept_text(neutral(plain, step.command, folders))
            is_drawn_from_times = any(step.command == "compare" for step in run.steps)
            parts |= self._files(folder, read, folders, is_drawn_from_times)
        return {"parts": parts, "seconds": round(time.perf_counter() - start, 1), "surprises": surprises}

    def _perform(self, step: Step, folder: Path) -> subprocess.CompletedProcess[str]:
        program = [str(Path(__file__).resolve().parent)] if step.command == "call" else ["-m", "onnxprune"]
        return subprocess.run(
            [sys.executable, *program, *step.arguments], cwd=folder, env=self.environment(folder.parent),
            capture_output=True, text=True, timeout=LONGEST_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def _files(
        self, folder: Path, read: Mapping[str, str], folders: Mapping[str, str], is_drawn_from_times: bool
    ) -> dict[str, Any]:
        """Return the files that a run has written, and those of its inputs that it has changed."""
        parts: dict[str, Any] = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name, content = path.relative_to(folder).as_posix(), path.read_bytes()
            if digest(content) == read.get(name) or "__pycache__" in name:
                continue
            title = re.sub(r"curves-\w{16}", "curves", f"file {name}")
            while title in parts:
                title += " and another"
            if path.suffix == ".onnx":
                parts[title] = {"sha256": digest(content), "shown": packed(outline(content))}
            elif path.suffix in (".json", ".html", ".svg"):
                text = content.decode()
                is_timed = is_drawn_from_times and path.suffix != ".json"
                parts[title] = kept_text(words_of(text) if is_timed else neutral(text, "", folders))
            else:
                parts[title] = {"sha256": digest(content)}
        return parts


def outline(content: bytes) -> str:
    """Return what a model holds, as JSON with digests in the place of weights: to tell where two differ."""
    import onnx

    proto = onnx.ModelProto.FromString(content)

    def short(message: Any) -> str:
        return digest(message.SerializeToString(deterministic=True))[:16]

    graph = proto.graph
    shown = {
        "ir_version": proto.ir_version,
        "producer": f"{proto.producer_name} {proto.producer_version}",
        "opsets": [f"{each.domain} {each.version}" for each in proto.opset_import],
        "metadata": {each.key: each.value for each in proto.metadata_props},
        "functions": [f"{each.domain} {each.name} {short(each)}" for each in proto.functions],
        "inputs": {each.name: short(each) for each in graph.input},
        "outputs": {each.name: short(each) for each in graph.output},
        "nodes": [
            {
                "name": node.name, "op": f"{node.domain} {node.op_type}".strip(), "inputs": list(node.input),
                "outputs": list(node.output), "attributes": {each.name: short(each) for each in node.attribute},
                "whole": short(node),
            }
            for node in graph.node
        ],
        "initializers": {each.name: f"{list(each.dims)} {short(each)}" for each in graph.initializer},
        "sparse": [short(each) for each in graph.sparse_initializer],
        "value_info": {each.name: short(each) for each in graph.value_info},
    }  # fmt: skip
    return json.dumps(shown, indent=1)


def record(checkout: Checkout, out: Path, workers: int, again: bool, glob: str) -> int:
    """Perform the runs that are not recorded yet, and record them; return an exit code."""
    kept: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))["runs"] if out.exists() else {}
    here = {"commit": checkout.commit, "source": checkout.source}
    known = {run.name: {**here, "key": run.key} for run in all_runs()}
    runs = [run for run in all_runs() if fnmatch.fnmatch(run.name, glob)]
    waiting = [run for run in runs if again or not known[run.name].items() <= kept.get(run.name, {}).items()]
    print(f"{len(waiting)} of {len(runs)} runs to record, of commit {checkout.commit}", flush=True)
    start, surprised = time.perf_counter(), False
    with tempfile.TemporaryDirectory(prefix="same-bytes-") as name:
        recorder = Recorder(checkout, Path(name))
        recorder.check()
        for each in sorted({each for run in waiting for each in run.inputs}):
            recorder.inputs.make(each)
        processors: queue.SimpleQueue[int] = queue.SimpleQueue()
        for _, processor in zip(range(workers), itertools.cycle(available()), strict=False):
            processors.put(processor)
        with ThreadPoolExecutor(workers, initializer=lambda: stay_on(processors.get())) as pool:
            futures = {pool.submit(recorder.perform, run): run for run in waiting}
            for number, future in enumerate(as_completed(futures), 1):
                run, outcome = futures[future], future.result()
                surprises = outcome.pop("surprises")
                surprised |= bool(surprises)
                kept[run.name] = {**known[run.name], **outcome}
                write(out, kept)
                print(f"{number:3} {outcome['seconds']:6.1f} s  {run.name}", *surprises, sep="\n    ", flush=True)
    write(out, {name: outcome for name, outcome in kept.items() if name in known})
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    return int(surprised)


def write(out: Path, runs: Mapping[str, Any]) -> None:
    """Write what is recorded, at once."""
    temporary = out.with_name(f"{out.name}.new")
    temporary.write_text(json.dumps({"runs": {name: runs[name] for name in sorted(runs)}}, indent=1), encoding="utf-8")
    temporary.replace(out)


def available() -> list[int]:
    """Return the processors that this process may use; those of a system that does not tell are none."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def stay_on(processor: int) -> None:
    """Let this thread, and the processes that it starts, run on one processor: runs do not slow down one another."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {processor})
