"""Pages of runs that are more than one cut of widths: branches, turned streams, tuning, rounds, folders."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser

import numpy as np
import onnx
import pytest

from tests.commands.ways.test_shorten import network, samples
from tests.support.cli import invoke
from tests.support.schema import follows_the_schema
from tests.support.streams import network as stream_network

QUIET = ("--no-latency", "--quiet")


class Words(HTMLParser):
    """Collects the words of a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_data(self, data):
        self.found.append(data)


def words(path):
    reader = Words()
    reader.feed(path.read_text(encoding="utf-8"))
    return " ".join(" ".join(reader.found).split())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a model and samples."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **samples())
    return tmp_path


def report(path):
    plain = json.loads(path.read_text(encoding="utf-8"))
    follows_the_schema(plain)
    return plain


def cut(*options, data="d.npz"):
    files = ("-o", "s.onnx", "--report", "s.html", "--report", "s.json")
    invoke("prune", "m.onnx", *files, "--data", data, *QUIET, *options)


def test_branches_that_went_are_told(folder):
    cut("--depth", "0.34")
    gone = [each for each in report(folder / "s.json")["details"]["layers"] if each["params"][1] == 0]
    assert [each["shapes"] for each in gone] == [[[12, 12], None]] * 2
    assert "removed 1 of 3 branches" in words(folder / "s.html")
    assert "12×12, gone" in words(folder / "s.html")


def test_turned_streams_are_told(folder):
    onnx.save(stream_network(), folder / "m.onnx")
    np.savez(folder / "t.npz", x=np.random.default_rng(0).standard_normal((24, 5, 16)).astype(np.float32))
    cut("--method", "slicegpt", "--ratio", "0.25", data="t.npz")
    assert "method slicegpt" in words(folder / "s.html")
    assert "turned by 1 rotation" in words(folder / "s.html")


def test_rounds_are_told(folder):
    cut("--rounds", "2", "--ratio", "0.3", "--criterion", "l1", "--no-reconstruct")
    plain = report(folder / "s.json")
    assert sum(each["macs"][0] for each in plain["details"]["layers"]) == plain["input"]["macs"]
    assert "round" in words(folder / "s.html")


def test_tuning_has_a_page(folder):
    cut("--ratio", "0.3")
    files = ("-o", "t.onnx", "--teacher", "m.onnx", "--cut", "s.json", "--report", "t.html", "--report", "t.json")
    invoke("tune", "s.onnx", *files, "--data", "d.npz", "--steps", "4", "--quiet")
    told = words(folder / "t.html")
    assert "On the way" in told
    assert "learned from" in told
    assert report_of_tune(folder)["run"]["command"].startswith("onnxprune")


def report_of_tune(folder):
    plain = json.loads((folder / "t.json").read_text(encoding="utf-8"))
    assert plain["details"]["layers"] == []
    return plain["details"]


def test_a_folder_has_a_page_with_a_part_for_each_model(folder):
    (folder / "in").mkdir()
    for name in ("a", "b"):
        shutil.copyfile(folder / "m.onnx", folder / "in" / f"{name}.onnx")
    (folder / "data").mkdir()
    for name in ("a", "b"):
        shutil.copyfile(folder / "d.npz", folder / "data" / f"{name}.npz")
    invoke("prune", "in", "-o", "out", "--report", "f.html", "--data", "data", "--ratio", "0.3", *QUIET)
    assert "a folder, pruned" in words(folder / "f.html")
    assert words(folder / "f.html").count("The proof") >= 1


def test_a_page_would_not_lie_in_the_folder_that_is_written(folder):
    (folder / "in").mkdir()
    shutil.copyfile(folder / "m.onnx", folder / "in" / "a.onnx")
    done = invoke("prune", "in", "-o", "out", "--report", "out/f.html", *QUIET, code=2)
    assert "out/f.html: the page would lie in the output; give it a place beside that" in done.stderr
