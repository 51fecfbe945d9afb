"""Run `onnxprune.prune_file` and tell for each of its steps the seconds, those of the processor, and the memory.

    python tools/measure/size_steps.py MODEL -o OUT [--data FILE] [--option NAME=JSON ...] [--rows ROWS.jsonl]

Memory is what the process holds at most during a step, as the system counts it (resident), and what of it belongs to no
file (anonymous): pages of a weight that is mapped count as resident, and the system takes them back when it needs
memory. Options are fields of `onnxprune.planning.options.Options`: ``ratio=0.2``, ``targets={"params": 0.8}``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxprune.commands.prune import prune_file  # noqa: E402
from onnxprune.errors import OnnxpruneError  # noqa: E402
from onnxprune.planning.options import make_options  # noqa: E402
from onnxprune.runtime.room import VARIABLE  # noqa: E402
from tools.git import measured_commit  # noqa: E402

INTERVAL_S = 0.01
FIRST = "start"


@dataclass
class Step:
    """A step of a run, while it runs and afterwards."""

    name: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    resident_bytes: int = 0  # at most
    anonymous_bytes: int = 0  # at most


class Recorder:
    """Steps of a run, each with what it took; called as the progress of the run."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self._now = self._enter(FIRST)
        self._marks = time.perf_counter(), time.process_time()

    def __call__(self, text: str, step: int = 0, steps: int = 0, /) -> None:
        """Begin a step, or go on with it."""
        self.end()
        if text != self._now.name:
            self._now = self._enter(text)

    def end(self) -> None:
        """Add what has passed to the step that runs."""
        now = time.perf_counter(), time.process_time()
        self._now.seconds += now[0] - self._marks[0]
        self._now.cpu_seconds += now[1] - self._marks[1]
        self._marks = now

    def look(self) -> None:
        """Note how much memory the process holds now."""
        resident, anonymous = memory_bytes()
        self._now.resident_bytes = max(self._now.resident_bytes, resident)
        self._now.anonymous_bytes = max(self._now.anonymous_bytes, anonymous)

    def _enter(self, name: str) -> Step:
        if self.steps and name not in self.steps:
            print(f"{name} ...", file=sys.stderr, flush=True)
        return self.steps.setdefault(name, Step(name))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at the memory all the time within the block."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(INTERVAL_S):
                self.look()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            self.end()


def memory_bytes() -> tuple[int, int]:
    """Return what this process holds now: in all, and what of it lies in no file."""
    text = Path("/proc/self/status").read_text()
    found = (re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE) for key in ("VmRSS", "RssAnon"))
    resident, anonymous = (int(match[1]) * 1024 if match else 0 for match in found)
    return resident, anonymous


def measured(source: Path, target: Path, options: Mapping[str, Any], data: Path | None) -> dict[str, Any]:
    """Prune a file; return the steps, and what the result holds or the sentence of the error."""
    recorder, outcome = Recorder(), {}
    with recorder.watching():
        try:
            result = prune_file(source, target, make_options(**options), data, force=True, progress=recorder)
            report = result.report
            outcome = {
                "params": [report[side]["params"] for side in ("input", "output")],
                "verification": report["verification"],
            }
        except OnnxpruneError as error:
            outcome = {"error": f"{type(error).__name__}: {error}"}
    steps = [asdict(step) for step in recorder.steps.values()]
    told = {"commit": measured_commit(), "limit": os.environ.get(VARIABLE), "options": dict(options)}
    return {"model": source.name, **told, "steps": steps, **outcome}


def printed(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that a person reads."""
    for step in row["steps"]:
        memory = f"{step['resident_bytes'] / 2**30:6.2f} {step['anonymous_bytes'] / 2**30:6.2f} GiB"
        yield f"{step['seconds']:8.1f} s {step['cpu_seconds']:8.1f} s {memory}  {step['name']}"
    peak = [max(step[key] for step in row["steps"]) / 2**30 for key in ("resident_bytes", "anonymous_bytes")]
    seconds = [sum(step[key] for step in row["steps"]) for key in ("seconds", "cpu_seconds")]
    yield f"{seconds[0]:8.1f} s {seconds[1]:8.1f} s {peak[0]:6.2f} {peak[1]:6.2f} GiB  all"
    yield row.get("error") or f"{row['params'][0]:,} -> {row['params'][1]:,} parameters, {row['verification']}"


def main() -> int:
    """Measure what the command line names."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--rows", type=Path, help="a file that the result is added to as a line of JSON")
    arguments = parser.parse_args()
    options = {name: json.loads(value) for name, _, value in (each.partition("=") for each in arguments.option)}
    row = measured(arguments.model, arguments.out, options, arguments.data)
    print("\n".join(printed(row)))
    if arguments.rows is not None:
        with arguments.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return 1 if "error" in row else 0


if __name__ == "__main__":
    sys.exit(main())
