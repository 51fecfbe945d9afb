"""Write docs/measured/accuracy.md and its plots, of what tools/measure/accuracy.py has measured.

    python tools/pages/accuracy_page.py [--results build/accuracy] [--docs docs/measured]

What was not measured is a dash; nothing is measured here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.measure.accuracy_runs import latest, read  # noqa: E402
from tools.pages import accuracy_sections as sections  # noqa: E402
from tools.pages.accuracy_figures import Records  # noqa: E402

HEAD = """# Accuracy without training

What a pruned network still does when all there is are its ONNX file and a handful of unlabelled inputs: no training, no
labels, no framework. Written by `tools/pages/accuracy_page.py` of what `tools/measure/accuracy.py` measured: {machine},
ONNX Runtime {runtime}, package at commit {commits}. The digits come with the repository; the other networks and their
data are made by `tools/models/real_models.py` from packages. Calibration and evaluation share no sample.

*MACs x* are the MACs of the result over the original's. *default* is `--target macs=X --data CALIBRATION` and
nothing else. *l2* is plain magnitude at the same MACs: one ratio for all groups, nothing refitted. Seconds are those of
one whole run in a fresh process, evaluation included, and peak memory is that of the process, data and Python included.
"""

PAGE: Sequence[tuple[str, str, Callable[[Records, Path], Iterator[str]]]] = (
    (
        "What to expect",
        "Calibrated on 256 digits, 64 photos, 64 texts and 32 texts of 128 tokens, at the MACs that were asked for.",
        sections.expected,
    ),
    ("Digits", "Accuracy on 2,000 digits that no network has seen, in points.", sections.of_models),
    (
        "Photos",
        "EfficientNet-Lite1, trained on ImageNet, on 238 unseen photos. Of several views of each photo the one is "
        "taken that the original is most certain of; *plain centres* are the centres of the same photos. KL is "
        "in nats.",
        sections.of_photos,
    ),
    (
        "Sentences",
        "MiniLM, heads and FFN, 64 sequences of 128 tokens for calibration, on 256 unseen ones. The rank correlation "
        "is that of the similarities of all pairs.",
        sections.of_sentences,
    ),
    (
        "Language model",
        "SmolLM2 with 135 million parameters, 32 sequences of 128 tokens (4,096) for calibration, perplexity on 128 "
        "unseen ones.",
        sections.of_decoder,
    ),
    (
        "What each ingredient gives",
        "The main figure (accuracy on digits, top-1 agreement on photos, mean cosine on sentences) with one ingredient "
        "switched off: *importance*, units by weight magnitude and not by the error that compensation leaves; "
        "*allocation*, the same ratio for all groups; *reconstruction*, the plain cut; *BatchNorm*, running statistics "
        "as they were, where the file keeps them. EfficientNet-Lite1 is calibrated on 64 photos here.",
        sections.of_ablation,
    ),
    (
        "More data, fewer MACs",
        "Noise is two standard errors of the difference of two shares; a hundredth for cosines.",
        sections.of_curves,
    ),
    (
        "Cost",
        "Two cores. The synthetic networks have two layers with all their units between them: *ffn* on 64 x 64 tokens "
        "of 256 dims, *conv* 3x3 on 64 images of 16 channels and 16x16.",
        sections.of_cost,
    ),
)


def head(records: Records) -> str:
    """Return the beginning of the page: machine, versions and commits."""
    machines = [record["machine"] for record in records.values()]

    def distinct(values: Sequence[object]) -> str:
        return ", ".join(sorted({str(value) for value in values})) or sections.NONE

    return HEAD.format(
        machine=distinct([f"{here['cpu']}, {here['logical_cores']} cores" for here in machines]),
        runtime=distinct([here["onnxruntime"] for here in machines]),
        commits=distinct([record["commit"] for record in records.values()]),
    )


def write(records: Records, docs: Path) -> None:
    """Write the page and its plots to the folder of the documentation."""
    lines = [head(records)]
    for title, text, lines_of in PAGE:
        lines += [f"## {title}", "", text, "", *lines_of(records, docs), ""]
    (docs / "accuracy.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "accuracy", metavar="FOLDER")
    parser.add_argument(
        "--docs", type=Path, default=ROOT / "docs" / "measured", metavar="FOLDER", help="where the page goes"
    )
    arguments = parser.parse_args()
    write(latest(read(arguments.results)), arguments.docs)


if __name__ == "__main__":
    main()
