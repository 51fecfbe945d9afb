"""The page of errors: what runs say is on it, and every kind of expression that a message is made by is spelled out."""

from __future__ import annotations

import ast
import re

import numpy as np
import pytest
from click.testing import CliRunner

from onnxprune.cli.group import cli
from tests.support.paths import ROOT
from tools.pages.error_kinds import KINDS
from tools.pages.errors_page import TARGET, Message, Module, all_messages, by_kind, named

MODEL = str(ROOT / "models" / "resnet_bn.onnx")


def value(text):
    return ast.parse(text, mode="eval").body


def messages_of(tmp_path, monkeypatch, source):
    monkeypatch.setattr("tools.pages.errors_page.PACKAGE", tmp_path)
    (tmp_path / "module.py").write_text(source)
    return {each.text for each in Module(tmp_path / "module.py").messages(frozenset({"DataError"}))}


def pattern(row):
    """Return the regular expression of the messages that a row of the page stands for."""
    return ".*".join(map(re.escape, re.split(r"<[^<>]*>", as_in_python(row))))


def as_in_python(text):
    """Return a message with the names of options as in Python: the command line writes them with hyphens."""
    return re.sub(r"--[a-z-]+", lambda option: option.group()[2:].replace("-", "_"), text)


def rows():
    return re.findall(r"^\| `([^`]*)` \|", TARGET.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(
    "arguments",
    [
        ["gone.onnx", "-o", "o.onnx"],
        [MODEL, "--ratio", "2", "-o", "o.onnx"],
        [MODEL, "--ratio", "0.3", "--target", "macs=0.5", "-o", "o.onnx"],
        [MODEL, "--only", "no_such_layer", "-o", "o.onnx"],
        [MODEL, "--target", "macs=0.00001", "--criterion", "l2", "-o", "o.onnx"],
        [MODEL, "--data", "gone.npz", "-o", "o.onnx"],
        [MODEL, "--data", "odd.npz", "-o", "o.onnx"],
        [MODEL, "-o", "no/such/folder.onnx"],
        [MODEL, "-o", "there.onnx"],
        [MODEL, "--ignore", "*", "-o", "o.onnx"],
        ["compare", MODEL, MODEL, "--max-drop", "0.1"],
    ],
    ids=lambda arguments: " ".join(arguments).replace(str(ROOT), "")[:40],
)
def test_what_a_run_says_is_on_the_page(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("odd.npz", nothing=np.zeros(3))
    (tmp_path / "there.onnx").touch()
    result = CliRunner().invoke(cli, [*arguments, "--quiet"])
    said = as_in_python(" ".join(result.stderr.removeprefix("onnxprune: ").split()))
    assert result.exit_code in {1, 2, 3}
    fitting = [
        row for row in rows() if re.fullmatch(pattern(row), said) and re.search(r"\w{4}", re.sub("<.*?>", "", row))
    ]
    assert fitting, said


def test_messages_are_spelled_out(tmp_path, monkeypatch):
    source = """
WORD = "a word"
def why(): return f"it is {WORD}"
def first(name): raise DataError(f"{name!r}: " + why())
def second(path, wide):
    message = "too wide" if wide else "too deep"
    raise DataError(f"{path.parent}: {message}, {len(path)}")
def third(error): raise DataError(str(error))
def fourth(lines):
    text = f"{lines} and more"
    text = f"{text}, and more"
    raise DataError(". ".join([why(), text]))
"""
    expected = {
        "<name>: it is a word",
        "<parent>: too wide, <number of path>",
        "<parent>: too deep, <number of path>",
        "<error>",
        "it is a word. <lines> and more",
        "it is a word. <text>, and more",
    }
    assert messages_of(tmp_path, monkeypatch, source) == expected


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("', '.join(map(str, self._missing))", "missing"),
        ("type(value).__name__", "type"),
        ("sizes[name]", "sizes"),
        ("(f'{x}' for x in groups)", "groups"),
        ("found or 'none'", "found"),
        ("step + 1", "step"),
        ("here()", "here"),
        ("port.shape()", "port"),
        ("{}", "..."),
    ],
)
def test_what_is_put_in_has_a_name(expression, name):
    assert named(value(expression)) == name


def test_a_message_of_no_kind_ends_the_script():
    stray = Message("the moon is full", "InputError", "moon/phases")
    with pytest.raises(SystemExit, match=r"moon/phases: 'the moon is full' is of no kind: add the module to one"):
        by_kind([stray])


def test_every_kind_has_messages_and_says_what_to_do():
    sorted_in = by_kind(all_messages())
    assert sum(map(len, sorted_in.values())) > 400
    assert all(sorted_in[kind] and len(kind.hint) > 60 for kind in KINDS)
    assert len({kind.hint for kind in KINDS}) == len(KINDS)
