"""The proofs that take too long for every run of the tests, and docs/measured/soak.md, the page of the last one.

    tools/soak                              sets up .venv, runs all parts, writes the page; half an hour on two cores
    python tools/proofs/soak.py --part zoo  one part alone

The parts: all graphs of tests/zoo; 20,000 random graphs; every criterion on the bundled models; damaged models and
samples; runs that are killed; tuning by two processes. A part that passed at a commit is not run again at that
commit: after an interruption the same command goes on. Where files differ from the commit, every part is run. The
exit code is 1 when a part fails; what it printed lies in build/soak/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.proofs import logged  # noqa: E402

BUILD, PAGE = ROOT / "build" / "soak", ROOT / "docs" / "measured" / "soak.md"
GRAPHS, CHUNK = 20_000, 2_000  # random ones, and how many a part takes
FUZZED = 120  # seconds for damaged files of one kind


@dataclass(frozen=True)
class Part:
    """One command of the soak."""

    name: str
    words: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a part."""

    name: str
    passed: bool
    seconds: float
    summary: str  # the last line of what it printed that counts what passed and failed
    commit: str
    dirty: bool  # whether files that a part reads differed from the commit, before or after it


def parts(jobs: int) -> list[Part]:
    """Return all parts, in their order."""
    side_by_side = ("-n", str(jobs), "--dist", "worksteal", "-p", "no:cacheprovider")
    test = (sys.executable, "-m", "pytest", "--soak", *side_by_side)
    covered = (sys.executable, "-m", "pytest", "--cov", "--cov-report=term", *side_by_side)
    fuzz = (sys.executable, "tools/proofs/fuzz.py", "--jobs", str(jobs), "--count", str(CHUNK))
    own = "build/soak/fuzz_bytes"  # not where a long run keeps its counts
    bytes_fuzz = (sys.executable, "tools/proofs/fuzz_bytes.py", "--seconds", str(FUZZED), "--out", own)
    random_parts = [
        Part(
            f"random-{start}",
            f"random graphs of the seeds {start:,} to {start + CHUNK - 1:,}",
            (*fuzz, "--seed", str(start)),
        )
        for start in range(0, GRAPHS, CHUNK)
    ]
    return [
        Part("tests", "the tests of every commit, with the coverage of all lines: 95 % at least", covered),
        Part("zoo", "every graph of tests/zoo, pruned at 0.3 and proven", (*test, "tests/models/test_zoo.py")),
        Part(
            "bundled",
            "every criterion on every bundled model, scopes in turn, with samples; programs that need PyTorch",
            (*test, "-m", "soak", "--ignore", "tests/models/test_zoo.py", "tests"),
        ),
        *random_parts,
        *(
            Part(f"bytes-{kind}", f"damaged {kind} for {FUZZED // 60} minutes", (*bytes_fuzz, kind, "--seed", "0"))
            for kind in ("models", "samples")
        ),
        Part(
            "kills",
            "runs that are killed at random",
            (sys.executable, "tools/proofs/kills.py", "--count", "100", "--out", "build/soak/kills.json"),
        ),
        Part("processes", "tuning by two processes and by one", (sys.executable, "tools/proofs/two_processes.py")),
    ]


def perform(part: Part) -> Outcome:
    """Run a part; what it prints goes to a file."""
    commit, dirty = logged.state()
    ended = logged.run(part.command, BUILD / f"{part.name}.log")
    dirty = dirty or logged.state() != (commit, False)
    return Outcome(part.name, ended.passed, ended.seconds, ended.summary, commit, dirty)


def load_outcomes() -> dict[str, Outcome]:
    """Return what is known of earlier runs, by part."""
    file = BUILD / "outcomes.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return {row["name"]: Outcome(**row) for row in rows}


def save_outcomes(outcomes: dict[str, Outcome]) -> None:
    """Keep what is known."""
    text = json.dumps([asdict(outcome) for outcome in outcomes.values()], indent=1)
    (BUILD / "outcomes.json").write_text(text + "\n", encoding="utf-8")


def page(all_parts: Sequence[Part], outcomes: dict[str, Outcome]) -> str:
    """Return the page of the last run."""
    commits = sorted({logged.named(outcome.commit, outcome.dirty) for outcome in outcomes.values()})
    seconds = sum(outcome.seconds for outcome in outcomes.values())
    lines = [
        "# The last soak",
        "",
        "`tools/soak` proves what takes too long for every run of the tests: masked = pruned on all graphs of",
        f"`tests/zoo`, on {GRAPHS:,} random graphs, and with every criterion on the bundled models;",
        "that damaged files end in a sentence, and that killed runs leave whole files.",
        "",
        f"Commit {', '.join(commits)}; Python {platform.python_version()}, {os.cpu_count()} logical cores; "
        f"{seconds / 60:.0f} minutes.",
        "",
        "| part | result | what it printed last | seconds |",
        "| --- | --- | --- | --- |",
    ]
    for part in all_parts:
        outcome = outcomes.get(part.name)
        if outcome is None:
            lines.append(f"| {part.words} | not run | | |")
        else:
            result, last = "passed" if outcome.passed else "**failed**", outcome.summary.replace("|", "&#124;")
            lines.append(f"| {part.words} | {result} | {last} | {outcome.seconds:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the parts that have not passed at this commit; write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", help="run these alone; repeatable")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    all_parts = parts(options.jobs)
    names = [part.name for part in all_parts]
    outcomes = {name: outcome for name, outcome in load_outcomes().items() if name in names}
    unknown = set(options.part or ()) - set(names)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    for part in all_parts:
        known = outcomes.get(part.name)
        done = known is not None and known.passed and not known.dirty and logged.state() == (known.commit, False)
        if done or (options.part and part.name not in options.part):
            continue
        print(f"{part.words} ...", flush=True)
        outcomes[part.name] = perform(part)
        save_outcomes(outcomes)
        PAGE.write_text(page(all_parts, outcomes), encoding="utf-8")
        print(f"  {'passed' if outcomes[part.name].passed else 'FAILED'}: {outcomes[part.name].summary}", flush=True)
    failed = [name for name, outcome in outcomes.items() if not outcome.passed]
    print(f"{len(outcomes) - len(failed)} passed, {len(failed)} failed, {len(all_parts) - len(outcomes)} not run")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
