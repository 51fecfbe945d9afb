"""Pages as files: beside a model, with its details, never in the place of another file."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.cli.values import parse_reports
from onnxprune.errors import InputError, OptionError
from onnxprune.report.page.render import COMMANDS
from tests.support.cli import invoke
from tests.support.paths import MODELS
from tests.support.schema import follows_the_schema
from tests.support.words import texts, words

DATA = str(MODELS / "mnist_calibration.npz")
MODEL = str(MODELS / "resnet_bn.onnx")
CUT = ("--ratio", "0.3", "--criterion", "l1", "--no-reconstruct", "--no-batch-norm", "--quiet")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Time for a moment alone."""
    monkeypatch.setattr("onnxprune.commands.steps.finish._LATENCY_BUDGET_S", 0.05)
    monkeypatch.setattr("onnxprune.evaluation.layers._PROFILE_S", 0.05)


def text(path):
    return path.read_text(encoding="utf-8")


def test_a_cut_writes_its_page_beside_its_report(tmp_path):
    page, report = tmp_path / "small.html", tmp_path / "small.json"
    out = tmp_path / "small.onnx"
    invoke("prune", MODEL, "-o", str(out), *CUT, "--data", DATA, "--report", str(page), "--report", str(report))
    plain = json.loads(text(report))
    follows_the_schema(plain)
    details = plain["details"]
    assert sum(layer["macs"][1] for layer in details["layers"]) == plain["output"]["macs"]
    assert len(details["examples"]["samples"]) == 6
    assert details["ops"]
    assert plain["output"]["sha256"] in text(page)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.html", "small.json", "small.onnx"]


def test_without_a_page_a_report_has_no_details(tmp_path):
    out, report = tmp_path / "small.onnx", tmp_path / "small.json"
    invoke("prune", MODEL, "-o", str(out), *CUT, "--no-latency", "--report", str(report))
    assert json.loads(text(report))["details"] is None


def test_without_latency_and_data_layers_are_not_timed_and_nothing_is_shown(tmp_path):
    out, page, report = (tmp_path / f"small.{suffix}" for suffix in ("onnx", "html", "json"))
    invoke("prune", MODEL, "-o", str(out), *CUT, "--no-latency", "--report", str(report), "--report", str(page))
    details = json.loads(text(report))["details"]
    assert (details["ops"], details["examples"], details["layers"][0]["ms"]) == (None, None, None)


def test_other_words_are_not_fed(tmp_path):
    """Samples of a model whose vocabulary was cut hold ids that the result does not know."""
    model, data, ids, page, report = (tmp_path / name for name in ("m.onnx", "t.npz", "ids.txt", "s.html", "s.json"))
    onnx.save(words(), model)
    np.savez(data, ids=texts(below=10))
    ids.write_text("\n".join(map(str, range(10))), encoding="utf-8")
    files = ("-o", str(tmp_path / "s.onnx"), "--report", str(page), "--report", str(report))
    invoke("prune", str(model), *files, "--vocabulary", str(ids), "--data", str(data), "--ratio", "0", "--quiet")
    details = json.loads(text(report))["details"]
    assert (details["ops"], details["examples"]) == (None, None)
    assert "vocabulary" in text(page)


def test_ids_are_words_where_a_tokenizer_lies_beside_the_model(tmp_path):
    model, data, page, report = (tmp_path / name for name in ("m.onnx", "t.npz", "s.html", "s.json"))
    onnx.save(words(), model)
    np.savez(data, ids=texts(count=2, length=3))
    (tmp_path / "vocab.txt").write_text("".join(f"word{number}\n" for number in range(20)), encoding="utf-8")
    files = ("--report", str(page), "--report", str(report))
    invoke("compare", str(model), str(model), "--data", str(data), "--seconds", "0.05", "--quiet", *files)
    (first, _) = json.loads(text(report))["details"]["examples"]["samples"]
    said = " ".join(f"word{each}" for each in texts(count=2, length=3)[0])
    assert [each["text"] for each in first["inputs"]] == [said]
    assert said in text(page)


@pytest.mark.parametrize(
    ("hostile", "why"),
    [
        ("[" * 100_000, "at most 64 levels"),
        ('{"model": {"vocab": {"a": 0}, "merges": 5}}', "merges of two parts each"),
        ("[" + "0," * 60_000 + "0]", "at most 50,000 parts"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_takes_the_text_alone(hostile, why, tmp_path, monkeypatch):
    monkeypatch.setattr("onnxprune.commands.beside.text_files._MOST_PARTS", 50_000 if "50,000" in why else 200_000)
    model, data, out, report = (tmp_path / name for name in ("m.onnx", "t.npz", "s.onnx", "s.json"))
    onnx.save(words(), model)
    np.savez(data, ids=texts(count=4, length=3))
    (tmp_path / "tokenizer.json").write_text(hostile, encoding="utf-8")
    files = ("-o", str(out), "--report", str(tmp_path / "s.html"), "--report", str(report))
    invoke("prune", str(model), *files, *CUT, "--no-latency", "--data", str(data))
    plain = json.loads(text(report))
    follows_the_schema(plain)
    assert [each["text"] for each in plain["details"]["examples"]["samples"][0]["inputs"]] == [None]
    told = f"{tmp_path / 'tokenizer.json'} does not hold {why}"
    assert plain["details"]["examples"]["why_no_text"] == told
    assert f"Ids are not shown as text: {told}." in html.unescape(text(tmp_path / "s.html"))
    assert out.exists()


def test_a_comparison_writes_a_page(tmp_path):
    page = tmp_path / "c.html"
    invoke("compare", MODEL, MODEL, "--data", DATA, "--seconds", "0.05", "--quiet", "--report", str(page))
    assert "The network" in text(page)
    assert "On samples" in text(page)


def test_eight_bits_have_a_page(tmp_path):
    page, report = tmp_path / "q.html", tmp_path / "q.json"
    files = ("-o", str(tmp_path / "q.onnx"), "--report", str(page), "--report", str(report))
    vit = str(MODELS / "vit.onnx")
    invoke("quantize", vit, *files, "--form", "int8-dynamic", "--data", DATA, "--samples", "8", "--no-latency")
    layers = json.loads(text(report))["details"]["layers"]
    assert [layer["macs"][0] for layer in layers] == [layer["macs"][1] for layer in layers]
    for told in ("int8 alone", "VNNI", "The network", "On samples", "measured, not proven", "vit.onnx in eight bits"):
        assert told in text(page)
    assert "proven to compute" not in text(page)
    refused = invoke("quantize", vit, "-o", str(tmp_path / "r.html"), "--report", str(tmp_path / "r.html"), code=2)
    assert "r.html is the output; give the page another name" in refused.stderr


def test_a_sensitivity_writes_a_page(tmp_path):
    page, report = tmp_path / "s.html", tmp_path / "s.json"
    files = ("--report", str(page), "--report", str(report))
    invoke("sensitivity", MODEL, "--data", DATA, "--samples", "16", "--levels", "2", "--effort", "quick", *files)
    carried = json.loads(text(report))["details"]["carried"]
    assert {name for group in json.loads(text(report))["groups"] for name in group["groups"]} <= set(carried)
    assert "Loss curves" in text(page)


def test_a_sweep_writes_a_page_beside_its_folder(tmp_path):
    page = tmp_path / "f.html"
    options = ("--criterion", "l1", "--no-reconstruct", "--no-batch-norm", "--no-latency", "--quiet")
    invoke("sweep", MODEL, "-o", str(tmp_path / "f"), "--macs", "0.9,0.7", *options, "--report", str(page))
    assert "2 models of one calibration, with " in text(page)


# -- a page of a report that is there ----------------------------------------------------------------------


def test_a_report_becomes_a_page(tmp_path):
    out, report, page = (tmp_path / f"small.{suffix}" for suffix in ("onnx", "json", "html"))
    invoke("prune", MODEL, "-o", str(out), *CUT, "--no-latency", "--report", str(report))
    done = invoke("report", str(report), "-o", str(page))
    assert done.stderr == f"onnxprune: {page}: {page.stat().st_size / 1000:.0f} kB\n"
    assert "The proof" in text(page)
    refused = invoke("report", str(report), "-o", str(page), code=2)
    assert f"{page} exists" in refused.stderr
    invoke("report", str(report), "-o", str(page), "--force")


CANNOT = "it is no report that this version can show: it lacks what its page would tell of; write it again with --rep"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no json", "it is no JSON; write a report with --report FILE.json"),
        ("[1]", f"it is no report of {COMMANDS}: write one with --report FILE.json"),
        ("{}", f"it is no report of {COMMANDS}: write one with --report"),
        ('{"verification": {}}', CANNOT),
        ('{"members": []}', CANNOT),
        ('{"files": {}, "settings": []}', "it is the report of a folder without a model: there is nothing to show"),
        ("[" * 100_000, "it is no JSON"),
    ],
)
def test_what_is_no_report_is_told_in_a_sentence(tmp_path, content, words):
    source, page = tmp_path / "r.json", tmp_path / "p.html"
    source.write_text(content, encoding="utf-8")
    done = invoke("report", str(source), "-o", str(page), code=2)
    assert done.stderr.startswith(f"onnxprune: {source}: {words}")
    assert not page.exists()


LATER = ("depth", "rotation", "tied", "masks", "rounds", "tuning", "vocabulary", "method", "quantization", "recipe")
LATER += ("ports", "not_run", "promise", "effort", "gradients", "details")


def test_a_report_that_lacks_fields_is_read_as_if_they_were_null(tmp_path):
    """As docs/report.md has it of readers: reports of other minor versions lack fields."""
    out, report, page = (tmp_path / f"small.{suffix}" for suffix in ("onnx", "json", "html"))
    invoke("prune", MODEL, "-o", str(out), *CUT, "--no-latency", "--report", str(report))
    plain = json.loads(text(report))
    older = {key: value for key, value in plain.items() if key not in LATER}
    older["input"] = {key: value for key, value in older["input"].items() if key not in ("warnings", "cache_bytes")}
    older["curves"] = {older["groups"][0]["name"]: {"removed": [0, 1], "losses": [0.0, float("nan")], "errors": []}}
    report.write_text(json.dumps(older), encoding="utf-8")
    invoke("report", str(report), "-o", str(page))
    assert "The proof" in text(page)
    assert "nan" not in text(page).lower()


def test_the_recipe_is_on_the_page_and_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report, page = tmp_path / "small.json", tmp_path / "small.html"
    invoke("prune", MODEL, "-o", "small.onnx", *CUT, "--no-latency", "--report", str(report))
    invoke("report", str(report), "-o", str(page))
    told = html.unescape(re.search(r"onnxprune run</summary>\s*<pre[^>]*><code>(.*?)</code>", text(page), re.DOTALL)[1])
    first = (tmp_path / "small.onnx").read_bytes()
    for path in (tmp_path / "small.onnx", report):
        path.unlink()
    (tmp_path / "recipe.toml").write_text(told, encoding="utf-8")
    invoke("run", "recipe.toml")
    assert (tmp_path / "small.onnx").read_bytes() == first


# -- files that must not be replaced -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("small.onnx.html", "small.onnx.html is the output; give the page another name"),
        ("there.html", "there.html exists; give another name"),
        ("data.html", "data.html is the data"),
    ],
)
def test_a_page_takes_no_place_of_another_file(tmp_path, monkeypatch, place, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.html").write_text("mine", encoding="utf-8")
    np.savez(tmp_path / "data.npz", **np.load(DATA))
    (tmp_path / "data.npz").rename(tmp_path / "data.html")
    arguments = ("prune", MODEL, "-o", "small.onnx.html", *CUT, "--report", place)
    data = ("--data", "data.html") if place == "data.html" else ()
    done = invoke(*arguments, *data, code=2)
    assert words in done.stderr
    assert text(tmp_path / "there.html") == "mine"


def test_a_report_and_a_page_are_told_apart_by_their_suffix(tmp_path):
    report, page = parse_reports([tmp_path / "a.json", tmp_path / "b.HTML"])
    assert report == tmp_path / "a.json"
    assert page is not None
    assert page.path == tmp_path / "b.HTML"
    assert page.command.startswith("onnxprune")
    assert parse_reports([]) == (None, None)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a.html", "b.html"), "--report takes one page, got a.html and b.html"),
        (("a.json", "b"), "--report takes one file for JSON, got a.json and b"),
    ],
)
def test_two_files_of_a_kind_are_refused(names, words, tmp_path):
    with pytest.raises(OptionError, match=f"^{words}$"):
        parse_reports([Path(name) for name in names])
    assert issubclass(OptionError, InputError)
