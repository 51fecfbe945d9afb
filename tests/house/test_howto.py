"""How-to pages: what each shows runs, in its order, on small models of the kind that it is about."""

from __future__ import annotations

import re
import shlex

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image

from onnxprune.cli.group import cli
from tests.house.test_examples import commands, text_model
from tests.support import zoo_store
from tests.support.paths import ROOT

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "howto").glob("*.md"))}
LANGUAGES = {"sh", "python"}


def from_zoo(name, path):
    onnx.save(zoo_store.refill(zoo_store.read(zoo_store.load_zoo()[name].path)), path)


def detector(folder):
    """A YOLO of random weights, and photos."""
    from_zoo("own_yolo8.torchscript", folder / "yolo11n.onnx")
    (folder / "photos").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (80, 96, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")


def encoder(folder):
    """A text encoder of random weights, and sentences."""
    from_zoo("hf_mpnet.torchscript", folder / "minilm.onnx")
    ids = np.random.default_rng(0).integers(3, 60, (24, 12))
    np.savez(folder / "sentences.npz", input_ids=ids, attention_mask=np.ones_like(ids))


STAND_INS = {"detector": detector, "encoder": encoder, "decoder": text_model}  # others take the bundled models
NOT_RUN = {"cuda", "pipeline"}  # a GPU; PyTorch, which the soak runs: test_examples.py
RUN = [
    pytest.param(name, marks=pytest.mark.soak if name in {"cluster", "phone"} else ())
    for name in PAGES
    if name not in NOT_RUN
]


def blocks(name):
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```", PAGES[name], re.DOTALL | re.MULTILINE):
        if language in LANGUAGES:
            yield language, code


@pytest.mark.parametrize("name", RUN)
def test_a_page_can_be_followed(name, in_small_clone, steady, monkeypatch):
    STAND_INS.get(name, lambda _: None)(in_small_clone)
    assert list(blocks(name))
    for language, code in blocks(name):
        if language == "python":
            exec(compile(code, f"docs/howto/{name}.md", "exec"), {})
            continue
        for arguments in commands(code):
            result = CliRunner().invoke(cli, arguments)
            assert result.exit_code == 0, (arguments, result.output)


def test_what_is_not_run_says_no_more_than_it_needs():
    """Pages that are not run here hold no blocks that are meant to be run, but for the program that the soak runs."""
    assert [language for name in sorted(NOT_RUN) for language, _ in blocks(name)] == ["python"]


def test_commands_that_are_not_run_have_options_that_exist():
    whole = [page.replace("\\\n", " ") for page in PAGES.values()]
    plain = [line for page in whole for line in page.splitlines() if line.startswith("onnxprune ")]
    assert len(plain) > 10
    for line in plain:
        arguments = shlex.split(line, comments=True)[1:]
        command = cli.commands[arguments[0] if arguments[0] in cli.commands else "prune"]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {each for each in arguments if each.startswith("-")} <= known, line


def test_the_job_of_the_ci_page_runs_the_commands_above_it():
    """The same but for the report: these are run."""
    (job,) = re.findall(r"^```yaml\n(.*?)^```", PAGES["ci"], re.DOTALL | re.MULTILINE)
    steps = [text.split() for text in re.findall(r"- run: >-\n((?: {10}.*\n)+)", job)]
    shown = [arguments for _, code in blocks("ci") for arguments in commands(code)]
    assert [step[-2] for step in steps] == ["--report"] * 2
    assert [step[1:-2] for step in steps] == shown
