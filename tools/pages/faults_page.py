"""Write docs/measured/faults.md: which faults were tried, how often, and what became of them.

    tools/fuzz_bytes models --count 100000 && tools/fuzz_bytes samples --count 5000 && python tools/proofs/kills.py
    python tools/pages/faults_page.py

The counts are those that these commands leave in build/; a part without any is told as not run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.pages.markdown import table  # noqa: E402

BUILD = ROOT / "build"
PAGE = ROOT / "docs" / "measured" / "faults.md"
_KINDS = {
    "models": "models with wrong bytes, fields, sizes, names and places, through `inspect` and `prune`",
    "samples": "archives, folders, labels, images and functions of samples, through `prune`",
}
_CODES = {"0": "done", "1": "a check was missed", "2": "refused", "3": "nothing to prune", "4": "a fault of onnxprune"}
_KINDS_OF_FAULTS = [
    ("samples: headers that lie, hold objects or records, bombs, encryption, unknown packing", "refused before any "
     "number is read", "tests/data/test_archive.py"),
    ("samples: pipes, devices, sockets, links to nowhere, folders without end", "refused, never waited for",
     "tests/data/test_archive.py"),
    ("samples: labels of any encoding, length and size", "read, or the line is named", "tests/data/test_archive.py"),
    ("samples: images of billions of pixels, of other formats, damaged", "refused with the file",
     "tests/data/test_images.py"),
    ("samples: functions that raise anything, never end, lie about their length", "one sentence, or 10,000 samples",
     "tests/data/test_samples.py"),
    ("a latency cache with NaN, infinities, deep nesting, or a pipe, folder or device in its place", "measured again",
     "tests/latency/test_times_file.py"),
    ("stdout, stderr or stdin closed, or a pipe that nobody reads", "written all the same, exit code 0",
     "tests/cli/test_surroundings.py"),
    ("names that are not UTF-8; a terminal or locale of ASCII; no columns; `python -OO`", "works",
     "tests/cli/test_surroundings.py"),
    ("SIGINT, SIGTERM, SIGHUP at any time, also while Python imports", "128 and the number, nothing left behind",
     "tests/cli/test_interrupts.py"),
    ("no room for temporary files, no home", "a sentence that names TMPDIR; no cache", "tests/data/test_archive.py"),
    ("a Dask scheduler that is none, silent, gone, of other releases; workers gone", "a sentence within 10 s",
     "tests/runtime/test_cluster.py"),
    ("a worker process that dies; the process that started workers dies", "a sentence; the workers end, too",
     "tests/runtime/test_executors.py"),
]  # fmt: skip

_BECAME = {  # of inputs that were not survived, by kind and seed
    ("models", 59832): "a DepthToSpace of block -2 made an axis of negative size: mended, its node is locked",
    ("models", 64697): "a Scan that states 2^63 - 1 inputs took memory for them: mended",
    ("models", 36839): "left: an image of 16 x 51,949 before a deformable convolution. A run of the file takes "
    "seconds, and its averaged output tells so little that values behind it are compared, in many runs",
    ("models", 92418): "left: the same graph with another size",
    ("models", 63508): "left: a picture 483,972 high, whose values alone take 2 GB in a run of the file",
    ("models", 97085): "left: a Loop of 2^31 turns collects its outputs for the 30 s that a run with a Loop may take",
}


def page(tallies: dict[str, dict[str, Any]], kills: dict[str, Any] | None) -> str:
    """Return the page.

    Args:
        tallies: of `tools/fuzz_bytes`, by kind; those that were run.
        kills: of `tools/proofs/kills.py`, None where it was not run.
    """
    lines = [
        "# Faults, tried and survived",
        "",
        f"Made by `tools/pages/faults_page.py`; the package was that of commit {_commits(tallies, kills)}. Not "
        "survived means: a traceback or exit code 4, a crash, more than 60 s of a processor or 600 s on the clock (the "
        "machine may have more to do), or more than 2 GB beyond the file.",
        "",
        "## By the thousand",
        "",
        *table(
            ["damaged", "inputs", "exit codes", "most of a processor", "longest", "most memory", "not survived"],
            _rows(tallies),
        ),
        *_not_survived(tallies),
        "",
        "## Killed at random",
        "",
        *(_kill_lines(kills) if kills else ["Not run."]),
        "",
        "SIGKILL leaves hidden folders `.onnxprune-*` beside the output and folders `onnxprune-*` in TMPDIR, which may "
        "be removed; no other signal leaves anything.",
        "",
        "## By kind",
        "",
        *table(["fault", "what becomes of it", "tested in"], [(f, w, f"`{t}`") for f, w, t in _KINDS_OF_FAULTS]),
        "",
    ]
    return "\n".join(lines)


def _commits(tallies: dict[str, dict[str, Any]], kills: dict[str, Any] | None) -> str:
    """Return the commits that the counts are of, as these say themselves."""
    stored = [*tallies.values(), *([kills] if kills else [])]
    return ", ".join(sorted({f"`{each.get('commit') or 'unknown'}`" for each in stored})) or "(none was run)"


def _rows(tallies: dict[str, dict[str, Any]]) -> list[list[object]]:
    rows = []
    for kind, what in _KINDS.items():
        tally = tallies.get(kind)
        if tally is None:
            rows.append([f"{kind}: {what}", "not run", "", "", "", "", ""])
            continue
        codes = ", ".join(f"{count:,} {_CODES.get(code, code)}" for code, count in sorted(tally["codes"].items()))
        faulty = sum(map(len, tally["faults"].values()))
        times = (f"{tally.get(name, 0):.0f} s" for name in ("slowest", "longest"))
        cells = f"{tally['next']:,}", codes, *times, f"{tally['largest'] / 1e6:.0f} MB", faulty
        rows.append([f"{kind}: {what}", *cells])
    return rows


def _not_survived(tallies: dict[str, dict[str, Any]]) -> list[str]:
    """Return a table of the inputs that were not survived, nothing where there are none."""
    seeds = [
        (kind, seed, fault)
        for kind, tally in tallies.items()
        for fault, numbers in tally["faults"].items()
        for seed in numbers
    ]
    rows = [
        (f"`tools/fuzz_bytes {kind} --only {seed}`", fault.split(":")[0], _BECAME.get((kind, seed), "not looked at"))
        for kind, seed, fault in seeds
    ]
    return ["", *table(["not survived", "as", "what became of it"], rows)] if rows else []


def _kill_lines(kills: dict[str, Any]) -> list[str]:
    names = sorted({name for counts in kills["by"].values() for name in counts})
    rows = [[scenario, *(counts.get(name, 0) for name in names)] for scenario, counts in kills["by"].items()]
    return [
        f"{kills['kills']} kills, {kills['faults']} left something wrong (`tools/proofs/kills.py` says what counts).",
        "",
        *table(["run", *names], rows),
    ]


def main() -> None:
    """Read the counts and write the page."""
    files = {kind: BUILD / "fuzz_bytes" / f"{kind}.json" for kind in _KINDS}
    tallies = {kind: json.loads(file.read_text(encoding="utf-8")) for kind, file in files.items() if file.exists()}
    killed = BUILD / "kills.json"
    kills = json.loads(killed.read_text(encoding="utf-8")) if killed.exists() else None
    PAGE.write_text(page(tallies, kills), encoding="utf-8")


if __name__ == "__main__":
    main()
