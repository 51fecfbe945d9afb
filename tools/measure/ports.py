"""Folders of decoders whose caches are cut: what of them changes, and whether they still generate.

    ZOO_GENAI=PYTHON python tools/measure/ports.py [NAME ...] [--page PAGE.md]

The environment is that of tools/models/zoo/decoder_models.py. Each folder is exported with random weights, pruned with
`change_io` in each of several ways on texts of random tokens, and loaded by ONNX Runtime GenAI. The tokens that it
generates are held against those of the written file in ONNX Runtime, as tools/measure/folders.py does.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxprune.commands.folder import prune_folder  # noqa: E402
from tools.git import differs, package_commit  # noqa: E402
from tools.measure.folders import EXPORT, WORDS, continued, generated, ran  # noqa: E402
from tools.pages.markdown import table  # noqa: E402

NAMES = ("genai_llama_fp32", "genai_llama_int4", "genai_qwen2_fp32", "genai_phi3_fp32")
WAYS: Mapping[str, Mapping[str, Any]] = {
    "heads, in both layers": {"shape": {"*heads.1": 1}},
    "heads, in the first layer alone": {"ratio": 0.5, "only": ("*layers.0*heads.1",)},
    "the first attention gone": {"without": ("*layers.0*o_proj*",)},
    "the second gone, the rest by half": {"without": ("*layers.1*o_proj*",), "ratio": 0.5},
}


def measured(name: str) -> Iterator[tuple[str, ...]]:
    """Yield what became of one folder, a row for each way."""
    texts = {"input_ids": np.random.default_rng(0).integers(3, WORDS, (64, 24))}
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "model"
        ran([os.environ["ZOO_GENAI"], str(EXPORT), name, f"{source}/"])
        for number, (way, options) in enumerate(WAYS.items()):
            target = Path(scratch) / f"small{number}"
            result = prune_folder(source, target, data=texts, latency=False, change_io=True, **options)
            (file,) = result.files
            assert file.report is not None
            tokens = generated("genai", target)
            as_expected = "yes" if tokens == continued(target / file.name) else "**no**"
            yield f"`{name}`", way, _changed(file.report), "; ".join(map(_first, result.settings)), as_expected


def _changed(report: Mapping[str, Any]) -> str:
    """Return how many heads the keys of each layer keep."""
    names = [port["name"] for port in report["ports"]]
    keys = {port["name"]: port["after"] for port in report["ports"] if port["name"].startswith("past")}
    heads = (
        f"{name.split('.')[1]}: {'gone' if dims is None else dims[1]}"
        for name, dims in keys.items()
        if name.endswith(".key")
    )
    return f"{len(names)} ports; {', '.join(heads)}"


def _first(sentence: str) -> str:
    """Return what a sentence says of a setting, without the name of the file and who is touched."""
    return sentence.split(": ", 1)[1].split(". ", maxsplit=1)[0]


def page(rows: Sequence[Sequence[str]]) -> str:
    """Return the page."""
    commit = package_commit() + "+" * differs("onnxprune")
    lines = [
        "# Ports, measured",
        "",
        f"By tools/measure/ports.py, on commit `{commit}`: small networks of two layers with two heads of keys and "
        "values and random weights, exported by the model builder of ONNX Runtime GenAI, their caches cut as "
        "[ports.md](../ports.md) says. GenAI 0.18 loads what was written and generates; *as expected* says whether its "
        "tokens are those of the written file in ONNX Runtime, each computed from the whole text without a cache. The "
        "written file is proven equal to the masked model in each run.",
        "",
        *table(["form", "cut", "heads of keys that are left, by layer", "settings", "as expected"], rows),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "measured" / "ports.md")
    arguments = parser.parse_args()
    rows = [row for name in arguments.names for row in measured(name)]
    arguments.page.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
