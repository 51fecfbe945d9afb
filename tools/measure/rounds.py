"""Measure rounds, sparse training and learned masks on the bundled BatchNorm ResNet; writes docs/measured/rounds.md.

    python tools/measure/rounds.py rounds    a tenth of the MACs in 1, 2, 4 and 8 rounds, with the same steps in all
    python tools/measure/rounds.py shares    four rounds, by the share of the tuning that is for the last
    python tools/measure/rounds.py slim      70 % of the channels by one threshold, after sparse training and without
    python tools/measure/rounds.py masks     learned masks beside a cut that is tuned, with the same steps
    python tools/measure/rounds.py page      the page, from all of these

Samples of calibration and tuning are models/mnist_calibration.npz, those of the figures models/mnist_test.npz. Each run
is a line of ``rounds.jsonl`` in ``--results``; one that is there is not done again. Seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.git import differs, package_commit  # noqa: E402

MODEL, DATA, EVALUATION = (
    str(ROOT / "models" / name) for name in ("resnet_bn.onnx", "mnist_calibration.npz", "mnist_test.npz")
)
STEPS, THREADS = 600, 1
SEEDS = (0, 1, 2)
MACS, COUNTS, SHARES = 0.1, (1, 2, 4, 8), (0.25, 0.5, 0.75)
LAMBDAS, SLIM_STEPS, GONE = (0.0, 0.01), 150, 0.7
MASKED_MACS = 0.2
Run = Callable[[], Mapping[str, Any]]


def rounds(seed: int) -> Iterator[tuple[str, Run]]:
    """Yield runs with several numbers of rounds."""
    for count in COUNTS:
        yield f"{count}", partial(_pruned, MACS, rounds=count, tune=_tune(STEPS, seed))
    yield "not tuned, 1", partial(_pruned, MACS, seed=seed)


def shares(seed: int) -> Iterator[tuple[str, Run]]:
    """Yield runs that give the last round several shares of the tuning."""
    for share in SHARES:
        yield f"{share:g}", partial(_shared, share, seed)


def slim(seed: int) -> Iterator[tuple[str, Run]]:
    """Yield cuts of networks that were trained with several strengths of the penalty."""
    for strength in LAMBDAS:
        for refit in (False, True):
            name = f"{strength:g}, {'refitted' if refit else 'as it was cut'}"
            yield name, partial(_slimmed, strength, refit, seed)


def masks(seed: int) -> Iterator[tuple[str, Run]]:
    """Yield a cut that is tuned, and cuts by masks that were learned with as many steps in all."""
    yield "tuned", partial(_pruned, MASKED_MACS, tune=_tune(STEPS, seed))
    yield "learned", partial(_pruned, MASKED_MACS, masks=_tune(STEPS, seed))
    halves = {"masks": _tune(STEPS // 2, seed), "tune": _tune(STEPS // 2, seed)}
    yield "learned, then tuned", partial(_pruned, MASKED_MACS, **halves)


SECTIONS: Mapping[str, Callable[[int], Iterator[tuple[str, Run]]]] = {
    "rounds": rounds,
    "shares": shares,
    "slim": slim,
    "masks": masks,
}
TITLES = {
    "rounds": (
        "Rounds",
        f"A tenth of the MACs, {STEPS} steps of tuning in all rounds together; loss curves anew in each.",
        "rounds",
    ),
    "shares": ("How the steps are shared", f"Four rounds of the same; {STEPS} steps.", "for the last round"),
    "slim": (
        "Sparse training",
        f"The network is trained for {SLIM_STEPS} steps with --slim LAMBDA, itself as its teacher; then {GONE:.0%} of "
        "all channels go by one threshold on the scales of BatchNormalization (--criterion bn --scope global).",
        "lambda",
    ),
    "masks": ("Learned masks", f"{MASKED_MACS:g} of the MACs, {STEPS} steps in all.", "way"),
}
PAGE = ROOT / "docs" / "measured" / "rounds.md"


def page(lines: list[dict[str, Any]]) -> str:
    """Return the page: a table for each section that was measured, the mean over its seeds."""
    commits = ", ".join(dict.fromkeys(f"`{each['commit']}`" for each in lines))
    parts = [
        "# Rounds, sparse training and learned masks, measured",
        "",
        f"The BatchNorm ResNet of [models/](../../models/README.md), on commit {commits}, by tools/measure/rounds.py: "
        "calibrated and tuned on `mnist_calibration.npz`, evaluated on `mnist_test.npz`. Each row is the mean over so "
        "many seeds; seconds are those of one processor. What the words mean: [tuning.md](../tuning.md).",
    ]
    for section, (title, text, heading) in TITLES.items():
        own = [each for each in lines if each["section"] == section]
        if own:
            parts += ["", f"## {title}", "", text, "", *_table(own, heading)]
    return "\n".join([*parts, ""])


def _table(lines: list[dict[str, Any]], heading: str) -> Iterator[str]:
    yield f"| {heading} | seeds | MACs | parameters | accuracy before | after | agreement | KL | seconds |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name in dict.fromkeys(each["run"] for each in lines):
        own = [each for each in lines if each["run"] == name]
        mean = {key: sum(each[key] for each in own) / len(own) for key, value in own[0].items() if type(value) is float}
        yield (
            f"| {name} | {len(own)} | {mean['macs']:.3f} | {mean['params']:.3f} | {mean['before']:.2%} | "
            f"{mean['accuracy']:.2%} | {mean['agreement']:.2%} | {mean['kl']:.3f} | {mean['cpu_seconds']:.0f} |"
        )


def _tune(steps: int, seed: int) -> dict[str, Any]:
    return {"steps": steps, "threads": THREADS, "seed": seed}


def _pruned(macs: float, **options: Any) -> Mapping[str, Any]:
    import onnxprune

    return onnxprune.prune(
        MODEL, targets={"macs": macs}, data=DATA, eval_data=EVALUATION, latency=False, **options
    ).report


def _shared(share: float, seed: int) -> Mapping[str, Any]:
    from onnxprune.planning.rounds import tuning_of_round

    with mock.patch("onnxprune.commands.rounds.in_rounds.tuning_of_round", partial(tuning_of_round, last=share)):
        return _pruned(MACS, rounds=4, tune=_tune(STEPS, seed))


_TRAINED: dict[tuple[float, int], Any] = {}


def _slimmed(strength: float, refit: bool, seed: int) -> Mapping[str, Any]:
    """Train the network with a penalty, or with none, and cut it by the scales of its BatchNormalization."""
    import onnxprune

    key = strength, seed
    if key not in _TRAINED:
        options = {"slim": strength or None, "rate": 3e-3, **_tune(SLIM_STEPS, seed)}
        _TRAINED[key] = onnxprune.tune(MODEL, MODEL, data=DATA, eval_data=EVALUATION, **options)
    trained = _TRAINED[key]
    result = onnxprune.prune(
        trained.model, GONE, data=DATA, eval_data=EVALUATION, criterion="bn", scope="global", round_to=1,
        min_units=1, latency=False, reconstruct=refit, batch_norm=refit, seed=seed,
    ).report  # fmt: skip
    return {**result, "trained": trained.report["accuracy"]["after"]}


def done(path: Path) -> set[tuple[str, str, int]]:
    """Return the runs that have a line."""
    return {(each["section"], each["run"], each["seed"]) for each in records(path)}


def records(path: Path) -> list[dict[str, Any]]:
    """Return all lines."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def record(section: str, name: str, seed: int, report: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return what is kept of a run."""
    return {
        "section": section,
        "run": name,
        "seed": seed,
        "accuracy": report["accuracy"]["after"],
        "before": report.get("trained", report["accuracy"]["before"]),
        "agreement": report["fidelity"]["figures"]["agreement"],
        "kl": report["fidelity"]["figures"]["kl"],
        "macs": report["output"]["macs"] / report["input"]["macs"],
        "params": report["output"]["params"] / report["input"]["params"],
        "cpu_seconds": round(seconds, 1),
        "commit": package_commit() + "+" * differs("onnxprune"),
    }


def main() -> None:
    """Measure a section, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=(*SECTIONS, "page"))
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "rounds", metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    lines = arguments.results / "rounds.jsonl"
    if arguments.section == "page":
        PAGE.write_text(page(records(lines)), encoding="utf-8")
        return
    for seed in SEEDS[: arguments.seeds]:
        for name, run in SECTIONS[arguments.section](seed):
            if (arguments.section, name, seed) in done(lines):
                continue
            start = time.process_time()
            report = run()
            each = record(arguments.section, name, seed, report, time.process_time() - start)
            with lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(each) + "\n")
            print(json.dumps(each), flush=True)


if __name__ == "__main__":
    main()
