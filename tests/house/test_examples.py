"""Every block of code in the README and in docs/ is run: here, or in the soak where it needs PyTorch."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper, save
from PIL import Image

import onnxprune
from onnxprune.cli.group import cli
from onnxprune.data.samples import load_data
from onnxprune.planning.plan_file import make_plan
from tests.support import experts, zoo_store
from tests.support.paths import ROOT

RUN = ("sh", "python")  # languages that are run
CHECKED = {  # by other tests: what a command prints, the schema, doors to other packages
    "README.md": ("text",),
    "docs/files.md": ("text",),
    "docs/report.md": ("json",),
    "docs/integrations.md": ("text", "json"),
    "docs/plans.md": ("toml",),  # files that commands read: they are written for these
    "docs/tutorial.md": ("sh", "text"),
    **{f"docs/howto/{path.name}": ("sh", "python", "yaml") for path in (ROOT / "docs" / "howto").glob("*.md")},
}


@dataclass(frozen=True)
class Block:
    """A block of code in a page."""

    page: str
    language: str
    number: int  # among those of its language in the page, from 0
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.language}:{self.number}"


def blocks_of(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    counts: dict[str, int] = {}
    for language, code in re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language.startswith("{"):  # a directive of Sphinx, and no code
            continue
        counts[language] = counts.get(language, -1) + 1
        yield Block(page, language, counts[language], code)


PAGES = ["README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))]
BLOCKS = {str(block): block for page in PAGES for block in blocks_of(page)}
SHOWN = [name for name, block in BLOCKS.items() if block.language not in CHECKED.get(block.page, ())]
COMMANDS = [name for name in SHOWN if re.search(r"^onnxprune ", BLOCKS[name].code, re.MULTILINE)]


def commands(code):
    joined = code.replace("\\\n", " ")
    return [shlex.split(line, comments=True)[1:] for line in joined.splitlines() if line.startswith("onnxprune ")]


def python_of(name):
    return compile(BLOCKS[name].code, name, "exec")


def photos_model(path):
    """A network for photos of any size: [n, 3, h, w] to 4 classes."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(16, 3, 3, 3)), "v": rng.normal(size=(4, 16, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "v"], ["d"], name="head"),
        helper.make_node("Flatten", ["d"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])]
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "photos", ports, outputs, constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def text_model(folder):
    """A folder with a small decoder that has a cache, and texts for it."""
    (folder / "llama").mkdir()
    save(
        zoo_store.refill(zoo_store.read(zoo_store.load_zoo()["hf_llama_cache.dynamo"].path)),
        folder / "llama/model.onnx",
    )
    (folder / "llama" / "tokenizer.json").write_text('{"model": {"vocab": {}}}', encoding="utf-8")
    np.savez(folder / "texts.npz", input_ids=np.random.default_rng(0).integers(3, 100, (24, 12)))
    (folder / "ids.txt").write_text("\n".join(map(str, range(100))), encoding="utf-8")
    (folder / "tokens.json").write_text(json.dumps([*range(100)]), encoding="utf-8")


def mixture_model(folder):
    """A mixture of experts, and samples for it."""
    save(experts.mixture(), folder / "mixture.onnx")
    np.savez(folder / "rows.npz", x=experts.rows())


def board(folder, monkeypatch):
    """A machine behind ssh with trtexec on it, which takes as long as the file is large; the program that asks it."""
    (folder / "board.py").write_text(BLOCKS["docs/timers.md:python:0"].code, encoding="utf-8")
    for name, script in {
        "scp": f'cp "$2" {folder}/on_board.onnx',
        "ssh": f'echo "[I] GPU Compute Time: min = 1 ms, max = 9 ms, median = $(wc -c < {folder}/on_board.onnx) ms"\n'
        "echo '&&&& PASSED TensorRT.trtexec [TensorRT v100300]'",
    }.items():
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh -e\n{script}\n", encoding="utf-8")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delitem(sys.modules, "board", raising=False)


def test_no_block_of_a_page_is_left_out():
    """A new block needs a test: commands are run below, programs have one each."""
    known = {*COMMANDS, *PROGRAMS, *WITH_TORCH, "README.md:sh:0", "docs/data.md:sh:0"}
    rest = [b for name, b in BLOCKS.items() if name not in known and b.language not in CHECKED.get(b.page, ())]
    assert [str(block) for block in rest if block.language or block.code.startswith("onnxprune")] == []
    assert known <= set(BLOCKS)


def test_the_first_commands_of_the_readme_are_scripts():
    for line in BLOCKS["README.md:sh:0"].code.splitlines():
        assert (ROOT / line.split()[0]).is_file()


LONG = (
    "docs/compare.md",
    "docs/importance.md",
    "docs/latency.md",
    "docs/sweep.md",
    "docs/tuning.md",
)  # what they show takes its time
CASES = [
    pytest.param(name, marks=pytest.mark.soak if name.startswith(LONG) else ())
    for name in COMMANDS
    if not name.startswith(("README", "docs/tutorial.md", "docs/howto/"))
]


@pytest.mark.parametrize("name", CASES)
def test_every_command_of_the_docs_works(name, in_small_clone, steady, monkeypatch):
    folder = in_small_clone
    (folder / "docs").mkdir()
    for file, source in {"model.onnx": "vit.onnx", "samples.npz": "mnist_test.npz", "d.npz": "mnist_test.npz"}.items():
        (folder / file).symlink_to(folder / "models" / source)
    text_model(folder)
    mixture_model(folder)
    for block in blocks_of(BLOCKS[name].page):
        title = re.match(r"# ([\w.]+\.toml)\n", block.code)
        if title:
            (folder / title[1]).write_text(block.code, encoding="utf-8")
    board(folder, monkeypatch)
    small = ["model.onnx", "--criterion", "l2", "--no-latency", "-o", "small.onnx"]
    assert CliRunner().invoke(cli, small).exit_code == 0
    for arguments in commands(BLOCKS[name].code):
        result = CliRunner().invoke(cli, [*arguments, "--force"] if "-o" in arguments else arguments)
        met = "the model meets latency=8ms, size=20MB already"  # 2 ms by `steady`: there is nothing to do
        assert result.exit_code == 0 or met in result.output, (arguments, result.output)


def test_every_way_to_prepare_images_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos_model("model.onnx")
    (tmp_path / "photos").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    lines = BLOCKS["docs/data.md:sh:0"].code.splitlines()
    ways = [shlex.split(line if "size=" in line else f"{line},size=24") for line in lines]
    assert len(ways) >= 4
    for way in ways:
        command = ["model.onnx", "--criterion", "wanda", "--data", "photos", *way, "-o", "o.onnx", "--force"]
        result = CliRunner().invoke(cli, [*command, "--no-latency"])
        assert result.exit_code == 0, (way, result.output)


# -- programs --------------------------------------------------------------------------------------------------


def arrays_are_saved(_):
    names = {"ids": np.ones((3, 4), np.int64), "mask": np.ones((3, 4), np.int64), "classes": np.arange(3)}
    exec(python_of("docs/data.md:python:0"), {"numpy": np, **names})
    assert set(np.load("data.npz")) == {"input_ids", "attention_mask", "labels"}


def samples_are_yielded(folder):
    (folder / "texts.txt").write_text("a b\nc d\n")

    def tokenizer(text, return_tensors):
        assert return_tensors == "np"
        return {"input_ids": np.array([[ord(word) for word in text.split()]])}

    names = {"tokenizer": tokenizer}
    exec(python_of("docs/data.md:python:1"), names)
    model = onnxprune.graph.files.read.load(ids_model())
    data = load_data(names["samples"], model.inputs)
    assert data.count == 2


def ids_model():
    port = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "t"])
    output = helper.make_tensor_value_info("y", TensorProto.INT64, ["n", "t"])
    graph = helper.make_graph([helper.make_node("Identity", ["input_ids"], ["y"])], "ids", [port], [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def a_metric_is_a_function(folder):
    (folder / "mine.py").write_text(BLOCKS["docs/report.md:python:0"].code)
    command = ["compare", "models/vit.onnx", "models/vit.onnx", "--data", "models/mnist_test.npz"]
    result = CliRunner().invoke(cli, [*command, "--metric", "mine:top5", "--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)["comparisons"][0]["fidelity"]["figures"]
    assert 0.9 < figures["top5"] == figures["top5_before"] <= 1


def groups_are_measured(_):
    exec(python_of("docs/sensitivity.md:python:0"), {})


def a_family_is_made(folder):
    exec(python_of("docs/sweep.md:python:0"), {})
    assert (folder / "family").is_dir()


def a_network_is_run(folder):
    values: dict[str, object] = {}
    exec(python_of("docs/network.md:python:0"), values)
    assert set(values["outputs"]) == {"logits"}


def masked_and_pruned_agree(_):
    exec(python_of("docs/theory.md:python:0"), {})


def a_plan_is_edited(folder):
    values: dict[str, object] = {}
    exec(python_of("docs/plans.md:python:0"), values)
    kept = {group["kept"] for group in values["result"].report["groups"] if group["kept"] < group["units"]}
    assert kept == {64}
    assert (folder / "small.onnx").is_file()


def a_module_is_cut(_):
    values: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        exec(python_of("docs/plans.md:python:1"), values)
    smaller, state = values["smaller"].state_dict(), values["state"]
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "0.weight": (8, 8), "0.bias": (8,), "2.weight": (4, 8), "2.bias": (4,)
    }  # fmt: skip
    assert all((smaller[name] == tensor).all() for name, tensor in state.items())


def a_board_is_asked(folder):
    values: dict[str, object] = {}
    exec(python_of("docs/timers.md:python:0"), values)
    assert values["ms"](folder / "models/vit.onnx") == (folder / "models/vit.onnx").stat().st_size


PROGRAMS = {
    "docs/timers.md:python:0": a_board_is_asked,
    "docs/theory.md:python:0": masked_and_pruned_agree,
    "docs/network.md:python:0": a_network_is_run,
    "docs/data.md:python:0": arrays_are_saved,
    "docs/data.md:python:1": samples_are_yielded,
    "docs/report.md:python:0": a_metric_is_a_function,
    "docs/plans.md:python:0": a_plan_is_edited,
    "docs/plans.md:python:1": a_module_is_cut,
    "docs/sensitivity.md:python:0": groups_are_measured,
    "docs/sweep.md:python:0": a_family_is_made,
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak if name.startswith(LONG) else ()) for name in PROGRAMS]
)
def test_every_program_of_the_docs_works(name, in_small_clone, steady, capsys, monkeypatch):
    board(in_small_clone, monkeypatch)
    PROGRAMS[name](in_small_clone)


def test_the_plan_of_the_page_is_one():
    (plan,) = (block for block in blocks_of("docs/plans.md") if block.code.startswith("# A plan"))
    read = make_plan(tomllib.loads(plan.code), plan.page)
    assert read.groups[0].kept == (0, 1, 2, 64, 80, 81)
    assert read.branches[0].name == "node_linear_15"


# -- programs that need PyTorch ------------------------------------------------------------------------------------

EXPORT = """
import json, onnxprune, torch
layers = torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)
model = torch.nn.Sequential(*layers).eval()
torch.onnx.export(model, (torch.randn(2, 8),), "model.onnx", dynamo=True)
result = onnxprune.prune("model.onnx", ratio=0.5, criterion="l2", round_to=1)
result.save("small.onnx")
json.dump(result.report, open("small.json", "w"))
"""
CHECK = """
assert {tuple(w.shape) for w in state.values()} == {(8, 8), (8,), (4, 8), (4,)}, state
"""
WITH_TORCH = {
    "docs/howto/pipeline.md:python:0": ("", ""),
    "docs/report.md:python:1": (EXPORT, CHECK),
}  # what runs around each


@pytest.mark.soak
@pytest.mark.parametrize("name", WITH_TORCH)
def test_every_program_with_torch_works(name, in_clone):
    before, after = WITH_TORCH[name]
    (in_clone / "program.py").write_text(before + BLOCKS[name].code + after)
    ended = subprocess.run([sys.executable, "program.py"], check=False, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    assert (in_clone / "small.onnx").is_file()
