"""Damaged files through the command line, by the thousand: no traceback, no crash, no hang, no gigabytes.

    tools/fuzz_bytes models --count 100000          inputs of seeds 0, 1, ...; goes on where it stopped
    tools/fuzz_bytes models --seconds 120           as many as fit in two minutes
    tools/fuzz_bytes models --only 1234             one input: what it is, and what every command says to it

Every input is a function of its seed. It lies in an empty folder, and its commands run there one after the other as
from a shell, up to the first that ends with another exit code than 0, in a forked child with limits (`confined`). An
exit code of 4, a traceback, a crash, a hang over 60 s and more than 2 GB beyond the file are faults; each is kept in
build/fuzz_bytes/KIND-SEED with a text of what happened. How far a run came stands in build/fuzz_bytes/KIND.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: a child must not inherit a pool of threads

from tools.git import check_same_commit  # noqa: E402
from tools.proofs import confined  # noqa: E402

CHUNK = 200  # inputs between two notes of how far the run came
LIMITS = confined.Limits(seconds=60.0, bytes=2 * 2**30)
FAULT = 4  # exit code of what nobody foresaw


@dataclass(frozen=True)
class Case:
    """Files in a folder, and what is done with them."""

    name: str  # what was done to which file: "bytes of conv-relu"
    files: Mapping[str, bytes]
    commands: tuple[tuple[str, ...], ...]  # arguments of onnxprune, each run while those before end with 0
    links: Mapping[str, str] = field(default_factory=dict)  # symbolic links and where they lead; "|" is a pipe


Maker = Callable[[int], Case]


def makers() -> dict[str, Callable[[], Maker]]:
    """Return by kind a function that loads what its cases are made of and returns the maker of cases."""

    def models() -> Maker:
        from tools.proofs.broken_models import Models

        return Models().case

    def samples() -> Maker:
        from tools.proofs.broken_samples import Samples

        return Samples().case

    return {"models": models, "samples": samples}


# -- one case ----------------------------------------------------------------------------------------------------------


def perform(make: Maker, seed: int, scratch: Path) -> dict[str, Any]:
    """Run the commands of a case in a folder of its own; return its name, and each exit code with the last words."""
    case = make(seed)
    folder = scratch / str(seed)
    _lay_out(case, folder)
    os.chdir(folder)
    try:
        ended = [*_until_one_fails(case)]
    finally:
        os.chdir(scratch)
        shutil.rmtree(folder, ignore_errors=True)
    return {"name": case.name, "codes": [code for code, _ in ended], "said": [said for _, said in ended]}


def _lay_out(case: Case, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name, target in case.links.items():
        if target == "|":
            os.mkfifo(folder / name)
        else:
            (folder / name).symlink_to(target)


def _until_one_fails(case: Case) -> Iterator[tuple[int, str]]:
    for arguments in case.commands:
        code, said = shell(arguments)
        yield code, said
        if code:
            return


def shell(arguments: tuple[str, ...]) -> tuple[int, str]:
    """Run onnxprune in this process; return its exit code and what it wrote to stderr."""
    from onnxprune.cli import main

    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["onnxprune", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return code, err.getvalue()


def fault_of(ended: confined.Ended) -> str:
    """Return what is wrong with how a case ended; empty where nothing is."""
    if ended.fault:
        return ended.fault
    codes, said = ended.value["codes"], ended.value["said"]
    if FAULT in codes:
        return said[codes.index(FAULT)]
    if any("out of memory" in text for text in said):
        return f"memory: {said[-1]}"
    return next((text for text in said if "Traceback" in text), "")


def kind_of(fault: str) -> str:
    """Return what faults of one cause have in common: the exception and the place, without names and numbers."""
    last = next((line for line in reversed(fault.strip().splitlines()) if line.strip()), "")
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "#", last)[:120]


# -- many --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Cases of one kind, and where they and their faults go."""

    kind: str
    make: Maker
    scratch: Path
    out: Path


@dataclass
class Tally:
    """How far a run came."""

    next: int = 0  # seed
    seconds: float = 0.0
    codes: dict[str, int] = field(default_factory=dict)  # exit codes of the last command of each case
    faults: dict[str, list[int]] = field(default_factory=dict)  # seeds by kind of fault
    slowest: float = 0.0  # seconds of a processor
    longest: float = 0.0  # seconds on the clock
    largest: int = 0  # bytes
    commit: str = ""  # of the package

    @property
    def faulty(self) -> int:
        """The number of inputs with a fault."""
        return sum(map(len, self.faults.values()))


def run_many(kind: str, out: Path, *, count: int, seconds: float, first: int | None) -> Tally:
    """Run cases until `count` of them are done in all, or the time is over."""
    out.mkdir(parents=True, exist_ok=True)
    note = out / f"{kind}.json"
    tally = Tally(**json.loads(note.read_text(encoding="utf-8"))) if first is None and note.exists() else Tally()
    tally.commit = check_same_commit(note, tally.commit)
    tally.next = tally.next if first is None else first
    last, begun = (first or 0) + count, time.monotonic()
    make = makers()[kind]()
    warm_up()
    with tempfile.TemporaryDirectory(prefix="onnxprune-fuzz-", dir=_memory_folder()) as name:
        while tally.next < last and time.monotonic() - begun < seconds:
            _chunk(Run(kind, make, Path(name), out), tally, min(CHUNK, last - tally.next))
            note.write_text(json.dumps(tally.__dict__, indent=1) + "\n", encoding="utf-8")
            _say(tally)
    return tally


def _chunk(run: Run, tally: Tally, count: int) -> None:
    begun = time.monotonic()
    seeds = range(tally.next, tally.next + count)
    actions = [partial(perform, run.make, seed, run.scratch) for seed in seeds]
    for seed, ended in zip(seeds, confined.each(actions, LIMITS), strict=True):
        fault = fault_of(ended)
        code = str(ended.value["codes"][-1]) if ended.value else "none"
        tally.codes[code] = tally.codes.get(code, 0) + 1
        tally.slowest, tally.largest = max(tally.slowest, ended.seconds), max(tally.largest, ended.peak)
        tally.longest = max(tally.longest, ended.clock)
        if fault:
            tally.faults.setdefault(kind_of(fault), []).append(seed)
            keep(run, seed, fault)
            print(f"{run.kind} {seed}: {kind_of(fault)}", flush=True)
        tally.next = seed + 1
    tally.seconds += time.monotonic() - begun


def keep(run: Run, seed: int, fault: str) -> None:
    """Write the files of a case, and what happened."""
    folder = run.out / f"{run.kind}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    case = run.make(seed)
    _lay_out(case, folder)
    commands = "\n".join("onnxprune " + " ".join(command) for command in case.commands)
    (folder / "fault.txt").write_text(f"{case.name}\n{commands}\n\n{fault}\n", encoding="utf-8", errors="replace")


def warm_up() -> None:
    """Import what commands import, so that children need not; no session of ONNX Runtime, which has threads."""
    import numpy as np
    import onnx
    import rich.console
    import rich.table  # noqa: F401
    from onnx.reference import ReferenceEvaluator

    import onnxprune.cli.start
    import onnxprune.commands.inspect
    import onnxprune.commands.prune
    import onnxprune.report.inspect
    import onnxprune.report.prune  # noqa: F401

    graph = onnx.parser.parse_graph("warm (float[1] x) => (float[1] y) { y = Relu(x) }")
    ReferenceEvaluator(onnx.helper.make_model(graph)).run(None, {"x": np.ones(1, np.float32)})


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _say(tally: Tally) -> None:
    rate = tally.next / max(tally.seconds, 1e-9)
    print(f"{tally.next} inputs, {tally.faulty} failed, {rate:.0f}/s, exit codes {tally.codes}", flush=True)


def explain(kind: str, seed: int) -> int:
    """Print what a case is and what every command says to it."""
    make = makers()[kind]()
    case = make(seed)
    print(case.name, {name: len(content) for name, content in case.files.items()}, dict(case.links))
    with tempfile.TemporaryDirectory(prefix="onnxprune-fuzz-") as name:
        (ended,) = confined.each([partial(perform, make, seed, Path(name))], LIMITS)
    for code, said in zip(ended.value["codes"], ended.value["said"], strict=True) if ended.value else ():
        print(f"exit code {code}: {said.strip()}")
    print(f"{ended.seconds:.1f} s, {ended.peak / 1e6:.0f} MB", fault_of(ended) or "no fault")
    return int(bool(fault_of(ended)))


def main() -> int:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(makers()))
    parser.add_argument("--count", type=int, default=10**9, help="how many inputs in all")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--seed", type=int, help="begin here, and forget earlier runs")
    parser.add_argument("--only", type=int, metavar="SEED", help="one input, explained")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fuzz_bytes", help="where faults go")
    arguments = parser.parse_args()
    if arguments.only is not None:
        return explain(arguments.kind, arguments.only)
    tally = run_many(
        arguments.kind, arguments.out.resolve(), count=arguments.count, seconds=arguments.seconds, first=arguments.seed
    )
    for name, seeds in sorted(tally.faults.items(), key=lambda item: -len(item[1])):
        print(f"  {len(seeds)} times {name}: {', '.join(map(str, seeds[:5]))}")
    print(
        f"{tally.next} inputs passed through, {tally.faulty} failed; slowest {tally.slowest:.0f} s, "
        f"largest {tally.largest / 1e6:.0f} MB"
    )
    return int(tally.faulty > 0)


if __name__ == "__main__":
    sys.exit(main())
