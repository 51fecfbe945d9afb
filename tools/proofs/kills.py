"""Runs that are killed at random: what lies in their folder afterwards is the old, or the new, and nothing else.

    python tools/proofs/kills.py --count 240     kills of seeds 0, 1, ...; ends with 1 at a fault

A run of each scenario ends by itself first: it tells how long it takes and what it makes. Every kill is a run of its
own, forked or as a new process (then imports are hit, too), and a signal after a random part of that time. Then

- the output is missing, or has the bytes and the outputs of the old file or of the new one, and ONNX Runtime loads it;
- what else lies there are whole reports, weights of the models, or hidden folders of a run that SIGKILL ended, which
  nothing can clean up;
- other signals end the run with 128 and their number, one sentence, and no hidden folder, here or in TMPDIR;
- the same command, with `--force` where it needs that, then ends well and makes the bytes of one that was never
  killed; one that prunes in place may have done so, and then prunes what it has made.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: a fork must not inherit a pool of threads

import numpy as np  # noqa: E402

from tools.git import measured_commit  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LIMIT_S = 300.0
_COMMON = ("--data", "data.npz", "--no-latency", "--quiet")


@dataclass(frozen=True)
class Scenario:
    """A command, and what lies in its folder before."""

    name: str
    command: tuple[str, ...]
    output: str  # the model that it writes, or the folder
    report: str = ""
    old: str = ""  # the model that is at the place of the output before


SCENARIOS = (
    Scenario("prune", ("model.onnx", "-o", "o.onnx", *_COMMON), "o.onnx"),
    Scenario("report", ("model.onnx", "-o", "o.onnx", "--report", "r.json", *_COMMON), "o.onnx", "r.json"),
    Scenario("replace", ("model.onnx", "-o", "o.onnx", "--force", *_COMMON), "o.onnx", old="old.onnx"),
    Scenario("in place", ("model.onnx", "-o", "model.onnx", "--force", *_COMMON), "model.onnx", old="model.onnx"),
    Scenario("weights beside", ("large.onnx", "-o", "o.onnx", *_COMMON), "o.onnx"),
    Scenario(
        "weights replaced", ("large.onnx", "-o", "large.onnx", "--force", *_COMMON), "large.onnx", old="large.onnx"
    ),
    Scenario("sweep", ("sweep", "model.onnx", "--macs", "0.8,0.6,0.4", "-o", "family", *_COMMON), "family"),
)


# -- the folder --------------------------------------------------------------------------------------------------------


def lay_out(folder: Path) -> None:
    """Write models, one of them with its weights beside it, and samples."""
    import onnx

    from tests.support.build import dense

    for name, width in (("model", 48), ("old", 32), ("large", 64)):
        proto = dense("c = Relu(a)", "d = MatMul(c, q)", "b = Relu(d)", mid=width, q=(width, width))
        beside = (
            {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0} if name == "large" else {}
        )
        onnx.save(proto, folder / f"{name}.onnx", **beside)
    np.savez(folder / "data.npz", x=np.random.default_rng(0).standard_normal((64, 6)).astype("f4"))


@contextlib.contextmanager
def fresh(scenario: Scenario, template: Path) -> Iterator[Path]:
    """Yield a folder with what lies there before the command, and an empty folder for temporary files in it."""
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        shutil.copytree(template, folder, dirs_exist_ok=True)
        (folder / "tmp").mkdir()
        if scenario.old and scenario.old != scenario.output:
            shutil.copy(folder / scenario.old, folder / scenario.output)
        yield folder


# -- runs --------------------------------------------------------------------------------------------------------------


def run(
    command: Sequence[str], folder: Path, ending: tuple[signal.Signals, float] | None, *, forked: bool
) -> tuple[int, str]:
    """Run onnxprune in a folder, and send it a signal after so many seconds; return its exit code and its stderr."""
    start = _fork if forked else _spawn
    wait, pid = start(command, folder)
    if ending is not None:
        time.sleep(ending[1])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, ending[0])
    return wait(), (folder / "tmp.err").read_text(errors="replace")


def _spawn(command: Sequence[str], folder: Path) -> tuple[Callable[[], int], int]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")}
    with (folder / "tmp.err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "onnxprune", *command], cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=err
        )
    return lambda: process.wait(LIMIT_S), process.pid


def _fork(command: Sequence[str], folder: Path) -> tuple[Callable[[], int], int]:
    child = os.fork()
    if child:
        return lambda: _waited(child, LIMIT_S), child
    code = 70
    try:
        os.chdir(folder)
        tempfile.tempdir = str(folder / "tmp")
        nothing, err = os.open(os.devnull, os.O_RDWR), os.open("tmp.err", os.O_WRONLY | os.O_CREAT)
        os.dup2(nothing, 1), os.dup2(err, 2)
        sys.argv = ["onnxprune", *command]
        from onnxprune.__main__ import main

        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stderr.flush()
    finally:
        os._exit(code)


def _waited(child: int, limit_s: float) -> int:
    """Return the exit code of a child, which is killed where it takes longer than it may."""
    begun = time.monotonic()
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() - begun > limit_s:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"a run did not end within {limit_s:.0f} s")
        time.sleep(0.005)


# -- what is left ------------------------------------------------------------------------------------------------------


def made(scenario: Scenario, folder: Path) -> dict[str, str]:
    """Return digests of the models that are there: the bytes of the file, and of what it computes."""
    place = folder / scenario.output
    paths = sorted(place.glob("*.onnx")) if place.is_dir() else [place] if place.exists() else []
    return {path.name: _digest(path) for path in paths}


def _digest(path: Path) -> str:
    from onnxprune.runtime.session import open_session

    feeds = {"x": np.linspace(-1, 1, 24, dtype="f4").reshape(4, 6)}
    outputs = open_session(path, threads=1).run(feeds)["y"]
    return hashlib.sha256(path.read_bytes() + outputs.tobytes()).hexdigest()


def hidden(folder: Path) -> list[str]:
    """Return what a run leaves that nobody asked for."""
    temporary = [path.name for path in (folder / "tmp").iterdir() if path.name != ".ses"]  # of ONNX Runtime's own
    return [*temporary, *(path.name for path in folder.rglob(".onnxprune-*"))]


def strangers(scenario: Scenario, folder: Path, template: Path) -> list[str]:
    """Return what lies in a folder beside what lay there before, what the scenario writes, and what is hidden."""
    usual = {path.name for path in template.iterdir()} | {scenario.output, scenario.report, "tmp", "tmp.err"}
    stem = Path(scenario.output).stem
    there = (path.name for path in folder.iterdir() if not path.name.startswith(".onnxprune-"))
    return sorted(name for name in there if name not in usual and not name.startswith(f"{stem}."))


def faults_of(
    scenario: Scenario, folder: Path, ended: tuple[int, str], sent: signal.Signals, known: Mapping[str, set[str]]
) -> Iterator[str]:
    """Yield what is wrong after a kill.

    Args:
        scenario: what ran.
        folder: where.
        ended: exit code and stderr.
        sent: the signal.
        known: digests that a model may have, by its name.
    """
    code, err = ended
    expected = {0, -sent, 128 + sent} if sent != signal.SIGKILL else {0, -sent}
    is_before_the_start = "Traceback" in err and str(ROOT / "onnxprune") not in err  # Python itself was beginning
    if code not in expected and not is_before_the_start:
        yield f"exit code {code}: {err[-300:]}"
    if not is_before_the_start and ("Traceback" in err or len(err.splitlines()) > 1):
        yield f"stderr: {err[-300:]}"
    try:
        for name, digest in made(scenario, folder).items():
            if digest not in known[name]:
                yield f"{name} is neither the old nor the new"
        if scenario.report and (folder / scenario.report).exists():
            json.loads((folder / scenario.report).read_text())
    except Exception as error:  # whatever half a file makes of its reader
        yield f"left half: {type(error).__name__}: {error}"
    if sent != signal.SIGKILL and hidden(folder):
        yield f"left behind: {hidden(folder)}"


def again(scenario: Scenario, folder: Path, complete: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong when the command is given again after a kill."""
    is_in_place = scenario.old == scenario.output and made(scenario, folder) == complete
    forced = scenario.name == "sweep" or "--force" in scenario.command
    code, err = run([*scenario.command, *([] if forced else ["--force"])], folder, None, forked=True)
    if code or (made(scenario, folder) != complete and not is_in_place):
        yield f"the next run: exit code {code}: {err[-300:]}, {len(made(scenario, folder))} models"


# -- many --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """What a run that is not killed takes and makes."""

    seconds: Mapping[bool, float]  # by whether it was forked
    complete: Mapping[str, str]
    known: Mapping[str, set[str]]


def reference(scenario: Scenario, template: Path) -> Reference:
    """Run a scenario to its end, forked and as a new process, which must make the same."""
    seconds, complete, before = dict[bool, float](), dict[str, str](), dict[str, str]()
    for forked in (True, False):
        with fresh(scenario, template) as folder:
            before, begun = made(scenario, folder), time.monotonic()
            code, err = run(scenario.command, folder, None, forked=forked)
            seconds[forked] = time.monotonic() - begun
            after = made(scenario, folder)
            if code or hidden(folder) or (complete and after != complete):
                raise SystemExit(f"{scenario.name}: exit code {code}, {hidden(folder)}, {err}")
            complete = after
    known = {name: {digest, before.get(name, digest)} for name, digest in complete.items()}
    return Reference(seconds, complete, known)


def kill_once(seed: int, template: Path, references: Mapping[str, Reference]) -> tuple[str, str, list[str]]:
    """Return scenario and signal of a seed, and what is wrong after it."""
    rng = random.Random(seed)
    scenario = SCENARIOS[seed % len(SCENARIOS)]
    sent, forked = rng.choice(SIGNALS), rng.random() < 0.8
    whole = references[scenario.name]
    with fresh(scenario, template) as folder:
        ended = run(scenario.command, folder, (sent, rng.uniform(0.02, 1.05) * whole.seconds[forked]), forked=forked)
        faults = [*faults_of(scenario, folder, ended, sent, whole.known)]
        faults += [f"lies there: {name}" for name in strangers(scenario, folder, template)]
        faults += again(scenario, folder, whole.complete)
    ended_by_itself = " (had ended)" if ended[0] == 0 else ""
    return scenario.name, f"{sent.name}{ended_by_itself}", faults


def main() -> int:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0, help="of the first kill")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "kills.json", help="where the counts go, as JSON")
    arguments = parser.parse_args()
    tally: dict[str, dict[str, int]] = {}
    faulty, commit = 0, measured_commit()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        template = Path(name)
        lay_out(template)
        from tools.proofs.fuzz_bytes import warm_up

        warm_up()
        references = {scenario.name: _in_child(reference, scenario, template) for scenario in SCENARIOS}
        for seed in range(arguments.seed, arguments.seed + arguments.count):
            scenario, sent, faults = _in_child(kill_once, seed, template, references)
            counts = tally.setdefault(scenario, {})
            counts[sent] = counts.get(sent, 0) + 1
            for fault in faults:
                print(f"seed {seed}, {scenario}, {sent}: {fault}", flush=True)
            faulty += bool(faults)
    print(f"{arguments.count} kills, {faulty} left something wrong", json.dumps(tally))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    counts = {"kills": arguments.count, "faults": faulty, "by": tally, "commit": commit}
    arguments.out.write_text(json.dumps(counts, indent=1) + "\n")
    return int(bool(faulty))


def _in_child(function: Callable[..., object], *arguments: object) -> object:
    """Return what a function returns in a forked child, so that this process never has the threads of ONNX Runtime."""
    import pickle

    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            with os.fdopen(writing, "wb") as out:
                out.write(pickle.dumps(function(*arguments)))
        except BaseException:  # an exception must not go on in a copy of this process
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        content = answer.read()
    os.waitpid(child, 0)
    if not content:
        raise SystemExit(f"{function.__name__} failed")
    return pickle.loads(content)


if __name__ == "__main__":
    sys.exit(main())
