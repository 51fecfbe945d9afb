"""Folders of models, by file form: what of them can be cut, what stays and why, and whether programs run them.

    ZOO_GENAI=PYTHON ZOO_OPTIMUM=PYTHON python tools/measure/folders.py [NAME ...] [--rows ROWS.jsonl] [--page PAGE.md]

The environments are those of tools/models/zoo/decoder_models.py. Each folder is exported with random weights, pruned at
a ratio of 0.3 on texts of random tokens, and loaded by the program that it is meant for; with a NAME that ends in
/depth or /depth-io half of the depth goes instead, with caches or without. The tokens that it generates, or the scores
of classes, are held against those of the written files in ONNX Runtime, each token computed from the whole text without
a cache. What is in ROWS.jsonl is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxprune.commands.folder import prune_folder  # noqa: E402
from onnxprune.data.samples import load_data, pieces  # noqa: E402
from onnxprune.graph.files.read import load  # noqa: E402
from onnxprune.graph.shapes.probe import settled  # noqa: E402
from onnxprune.runtime.session import Session, open_session  # noqa: E402
from tools.git import differs, package_commit  # noqa: E402
from tools.integrations.generate import signal  # noqa: E402
from tools.pages.markdown import table  # noqa: E402

EXPORT = ROOT / "tools" / "models" / "zoo" / "decoder_export.py"
GENERATE = ROOT / "tools" / "integrations" / "generate.py"
NAMES = (
    *(f"genai_{name}_{kind}" for name in ("llama", "qwen2", "phi3", "gemma2", "mistral") for kind in ("fp32", "int4")),
    "genai_qwen3_fp32", "optimum_llama", "optimum_qwen3", "optimum_gemma3", "optimum_gpt2", "optimum_opt",
    "optimum_bigcode", "optimum_falcon", "optimum_bart_merged", "optimum_t5_merged", "optimum_vit", "optimum_resnet",
    "optimum_trocr_merged", "optimum_llama/depth", "optimum_llama/depth-io",
    "optimum_bart_merged/depth", "optimum_t5_merged/depth", "optimum_trocr_merged/depth", "optimum_vit/depth",
    "optimum_bart_merged/depth-io", "optimum_t5_merged/depth-io", "optimum_trocr_merged/depth-io",
    "optimum_bart_alone/depth-io",
)  # fmt: skip
# What is asked for, by the end of a name.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "": {"ratio": 0.3},
    "depth": {"depth": 0.5},
    "depth-io": {"depth": 0.5, "change_io": True},
}
PROMPT, COUNT, WORDS, END = [5, 9, 20, 31, 7], 12, 96, 2


def measured(name: str) -> dict[str, Any]:
    """Return what became of one folder."""
    form, _, way = name.partition("/")
    tool = name.partition("_")[0]
    python = os.environ[f"ZOO_{tool.upper()}"]
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "model", Path(scratch) / "small"
        ran([python, str(EXPORT), form, f"{source}/"])
        is_pair = (source / "encoder_model.onnx").exists()
        texts = {"input_ids": np.random.default_rng(0).integers(3, WORDS, (64, 24))}
        given = signal(source)
        data = None if is_pair or given else texts
        result = prune_folder(source, target, data=data, latency=False, **WAYS[way])
        tokens = generated(tool, target)
        reports = [each.report for each in result.files if each.report is not None]
        return {
            "name": name,
            "files": len(result.files),
            "kinds": _kinds(reports) | _branches(reports),
            "params": sum(each["output"]["params"] for each in reports) / sum(e["input"]["params"] for e in reports),
            "whole": _whole(reports),
            "tokens": len(tokens),
            "as_expected": _alike(tokens, _expected(target, result.files[0].name)),
            "commit": package_commit() + "+" * differs("onnxprune"),
        }


def _alike(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and np.allclose(one, other, atol=1e-4)


def _expected(folder: Path, name: str) -> list[float]:
    """Return what a folder is to give: by its files in ONNX Runtime alone."""
    if (folder / "encoder_model.onnx").exists():
        return written(folder)
    given = signal(folder)
    return open_session(folder / name).run(given)["logits"][0].tolist() if given else continued(folder / name)


def written(folder: Path) -> list[int]:
    """Return the tokens that a decoder writes of what its encoder is given, each without a cache."""
    first, (second, empty) = open_session(folder / "encoder_model.onnx"), _decoder(folder)
    prompt = {"input_ids": np.array([PROMPT]), "attention_mask": np.ones((1, len(PROMPT)), np.int64)}
    given = signal(folder) or prompt
    (states,) = first.run(given).values()
    beside = {**empty, "encoder_hidden_states": states, "encoder_attention_mask": prompt["attention_mask"]}
    settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    ids, ends = [settings["decoder_start_token_id"]], {END, settings["eos_token_id"]}
    taken = {port.name for port in second.ort.get_inputs()}
    most = COUNT - ("forced_eos_token_id" in settings)  # programs end a text with that where it is as long as it may be
    while len(ids) <= most:
        feeds = {"input_ids": np.array([ids]), **{name: array for name, array in beside.items() if name in taken}}
        token = int(second.run(feeds)["logits"][0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return ids


def _decoder(folder: Path) -> tuple[Session, dict[str, Any]]:
    """Return a decoder that takes whole texts, and what it takes beside them: of a merged one that is no past."""
    path = folder / "decoder_model.onnx"
    if path.exists():
        return open_session(path), {}
    session = open_session(folder / "decoder_model_merged.onnx")
    feeds: dict[str, Any] = {"use_cache_branch": np.array([False])}
    for port in (port for port in session.ort.get_inputs() if port.name.startswith("past_key_values")):
        _, heads, _, dims = port.shape
        feeds[port.name] = np.zeros((1, heads, 0, dims), np.float32)
    return session, feeds


def generated(tool: str, folder: Path) -> list[int]:
    """Return the tokens that the program of a folder generates behind the prompt."""
    ids = ",".join(map(str, PROMPT))
    said = ran([os.environ[f"ZOO_{tool.upper()}"], str(GENERATE), tool, str(folder), ids, str(COUNT)])
    return [token for token in json.loads(said.splitlines()[-1]) if token != END]  # one program gives it, one not


def ran(command: Sequence[str]) -> str:
    """Return what a command prints; raise RuntimeError with its last line where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return done.stdout


def continued(path: Path) -> list[int]:
    """Return the tokens that follow, each from the whole text before it, without a cache."""
    model, ids = settled(load(path)), list(PROMPT)
    session = open_session(path)
    for _ in range(COUNT):
        (piece,) = pieces(load_data({"input_ids": np.array([ids])}, model.inputs), 1)
        token = int(session.run(piece.feeds)["logits"][0, -1].argmax())
        if token == END:
            break
        ids.append(token)
    return ids[len(PROMPT) :]


def _kinds(reports: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return how many units of each kind are left of how many."""
    before, after = Counter[str](), Counter[str]()
    for group in (group for report in reports for group in report["groups"] if group["kept"] < group["units"]):
        before[group["kind"]] += group["units"]
        after[group["kind"]] += group["kept"]
    return {kind: f"{after[kind]} of {before[kind]}" for kind in before}


def _branches(reports: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return how many branches are left of how many; nothing where none was to go."""
    each = [branch for report in reports for branch in (report["depth"] or {"branches": []})["branches"]]
    return {"branches": f"{sum(not branch['removed'] for branch in each)} of {len(each)}"} if each else {}


def _whole(reports: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many groups stay whole, by reason without names and places."""
    reasons = Counter[str]()
    for group in (group for report in reports for group in report["groups"] if group["locked"]):
        reasons[group["locked"].split(" (at ")[0].split(" '")[0]] += 1
    return dict(reasons.most_common())


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page."""
    commits = ", ".join(dict.fromkeys(f"`{each['commit']}`" for each in rows))
    cells = [
        (
            f"`{each['name']}`",
            each["files"],
            "; ".join(f"{kind} {text}" for kind, text in each["kinds"].items()),
            f"{each['params']:.2f}",
            {True: "yes", False: "**no**", None: "generates"}[each["as_expected"]],
            "; ".join(f"{reason} ({count})" for reason, count in each["whole"].items()),
        )
        for each in rows
    ]
    lines = [
        "# Folders, measured",
        "",
        f"By tools/measure/folders.py, on commit {commits}: small networks with random weights, exported by the model "
        "builder of ONNX Runtime GenAI and by Optimum, pruned at a ratio of 0.3, or by half of the depth where the "
        "name says so (`/depth`, and `/depth-io` with `--change-io`). The program that the folder is meant for loads "
        "what was written and generates, or tells the scores of classes; *as expected* says whether these are those "
        "of the written files in ONNX Runtime, each token computed from the whole text without a cache. Written files "
        "are proven equal to the masked models in each run.",
        "",
        *table(["form", "files", "kept", "params x", "as expected", "whole, by reason (groups)"], cells),
        "",
    ]
    return "\n".join(lines)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    parser.add_argument("--rows", type=Path, default=ROOT / "build" / "folders.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "measured" / "folders.md")
    arguments = parser.parse_args()
    arguments.rows.parent.mkdir(parents=True, exist_ok=True)
    known = {each["name"] for each in _read(arguments.rows)}
    for name in (name for name in arguments.names if name not in known):
        try:
            row = measured(name)
        except Exception as error:  # the others are measured all the same
            print(f"FAILED {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
            continue
        with arguments.rows.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    arguments.page.write_text(page([*_read(arguments.rows)]), encoding="utf-8")


if __name__ == "__main__":
    main()
